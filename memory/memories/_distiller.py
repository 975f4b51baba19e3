"""How strategies come about: the student fails, the teacher explains, the student tries again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from docendo.errors import ConfigError, LeakError
from docendo.memory.board._posts import Post
from docendo.memory.memories._budget import Budget
from docendo.memory.memories._strategies import StrategyLibrary
from docendo.records import Author, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario(Record):
    """A situation to learn a strategy for.

    Attributes:
        id: Its name; a scenario is worked on once per library.
        text: What the student sees.
        kind: When a strategy from it applies, if that is more general than `text`.
        gold: Answers that a strategy must not give away.
    """

    id: str
    text: str
    kind: str = ""
    gold: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Record):
    """What the teacher is shown when it writes a strategy.

    Attributes:
        scenario: The situation.
        student: The student's reply.
        teacher: The teacher's own reply.
        rejected: Strategies that were not good enough, each with the reply that they led to.
    """

    scenario: Scenario
    student: str
    teacher: str
    rejected: tuple[tuple[str, str], ...] = ()


#: The student's reply to a scenario's text, given strategies.
StudentReply: TypeAlias = "Callable[[str, tuple[str, ...]], str]"
#: The teacher's reply to a scenario's text.
TeacherReply: TypeAlias = "Callable[[str], str]"
#: Writes a strategy.
StrategyWriter: TypeAlias = "Callable[[Case], str]"
#: How good a reply is, as a number; a higher one is better.
Judge: TypeAlias = "Callable[[Scenario, str], float]"


class StrategyDistiller:
    """Fills a library with what a student needs and does not have.

    For each scenario the student tries with what the library holds so far. If the teacher does better, it
    writes a strategy; the student tries with it; it is revised until the student is as good as the
    teacher or the tries are used up. Then the best version is kept, if it helped at all.

    A scenario that was finished is not worked on again, so `fit` goes on where it stopped.

    Args:
        library: Where the strategies go.
        student: The student's reply, given strategies.
        teacher: The teacher's reply.
        writer: Writes a strategy for a case.
        judge: Scores a reply.
        author: Who the strategies are by: the teacher.
        tries: Most versions of a strategy.
        tolerance: How much worse than the teacher's a reply may be and still be as good.
        shown: How many strategies the student is given.

    Example:
        >>> from docendo.memory import Blackboard
        >>> board = Blackboard.open(":memory:")
        >>> library = StrategyLibrary(board)
        >>> distiller = StrategyDistiller(
        ...     library,
        ...     student=lambda text, strategies: "down" if any("light" in s for s in strategies) else "up",
        ...     teacher=lambda text: "down",
        ...     writer=lambda case: "Take a light first." if case.rejected else "Think.",
        ...     judge=lambda scenario, reply: float(reply == "down"),
        ...     author=Author(agent="teacher", role="teacher"),
        ... )
        >>> [post.body["text"] for post in distiller.fit([Scenario(id="1", text="a dark cellar")])]
        ['Take a light first.']
        >>> board.close()
    """

    def __init__(
        self,
        library: StrategyLibrary,
        *,
        student: StudentReply,
        teacher: TeacherReply,
        writer: StrategyWriter,
        judge: Judge,
        author: Author,
        tries: int = 3,
        tolerance: float = 0.0,
        shown: int = 1,
    ) -> None:
        if tries < 1 or shown < 1 or tolerance < 0:
            raise ConfigError(
                f"tries is {tries}, shown {shown} and tolerance {tolerance}",
                expected="at least 1, 1 and 0",
            )
        self.library, self.student, self.teacher = library, student, teacher
        self.writer, self.judge, self.author = writer, judge, author
        self.tries, self.tolerance, self.shown = tries, tolerance, shown

    def fit(self, scenarios: Iterable[Scenario]) -> list[Post]:
        """Works through the scenarios in their order and returns the strategies that were added."""
        added = (self._learn(scenario) for scenario in scenarios)
        return [post for post in added if post is not None]

    def _learn(self, scenario: Scenario) -> Post | None:
        if self._finished(scenario):
            return None
        known = self.library.read(scenario.text, Budget(entries=self.shown))
        reply = self.student(scenario.text, tuple(entry.text for entry in known))
        model = self.teacher(scenario.text)
        before, target = self.judge(scenario, reply), self.judge(scenario, model)
        best: tuple[float, str] | None = None
        rejected: list[tuple[str, str]] = []
        with_it = before
        while with_it < target - self.tolerance and len(rejected) < self.tries:
            text = self.writer(
                Case(scenario=scenario, student=reply, teacher=model, rejected=tuple(rejected))
            )
            answer = self.student(scenario.text, (text,))
            with_it = self.judge(scenario, answer)
            rejected.append((text, answer))
            if with_it > (best[0] if best else before):
                best = with_it, text
        with self.library.board.database.transaction():
            post = None if best is None else self._add(scenario, best, before, target, len(rejected))
            self._finish(scenario, before, target, best, len(rejected), post)
        return post

    def _add(
        self, scenario: Scenario, best: tuple[float, str], before: float, target: float, tries: int
    ) -> Post | None:
        try:
            return self.library.add(
                scenario.kind or scenario.text,
                best[1],
                author=self.author,
                key=f"distilled/{scenario.id}",
                gold=scenario.gold,
                tries=tries,
                before=before,
                after=best[0],
                teacher=target,
            )
        except LeakError:
            # What gives the answer away may well score high; it must not get in, and the rest goes on.
            return None

    def _key(self, scenario: Scenario) -> str:
        return f"{self.library.channel}/distilled/{scenario.id}"

    def _finished(self, scenario: Scenario) -> bool:
        events = self.library.board.posts(channel=self.library.channel, kind="event", item=scenario.id)
        return any(post.key == self._key(scenario) for post in events)

    def _finish(
        self,
        scenario: Scenario,
        before: float,
        target: float,
        best: tuple[float, str] | None,
        tries: int,
        post: Post | None,
    ) -> None:
        self.library.board.post(
            "event",
            {
                "scenario": scenario.text,
                "before": before,
                "teacher": target,
                "after": best[0] if best else before,
                "tries": tries,
                "leak": best is not None and post is None,
            },
            author=self.author,
            key=self._key(scenario),
            item=scenario.id,
            parents=(post.id,) if post else (),
            channel=self.library.channel,
        )
