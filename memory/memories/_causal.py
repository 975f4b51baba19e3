"""A memory of causes and effects, rewritten after every trial (after CLIN, Majumder and others 2023)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from docendo.errors import ConfigError, DataError
from docendo.hashing import digest
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._channels import PostKind
from docendo.memory.board._fold import Fold
from docendo.memory.board._posts import Post
from docendo.memory.memories._budget import Budget, Entry
from docendo.memory.memories._causal_text import (
    Belief,
    CausalStatement,
    Level,
    Relation,
    TrialStep,
    count,
    mentioned,
    opposite,
    plain,
    reward_in_words,
)
from docendo.memory.memories._memory import BoardMemory
from docendo.records import JSON, Author, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Record):
    """One finished trial.

    Attributes:
        post: Id of its post.
        environment: Where.
        task: What for.
        reward: Score between 0 and 100; less than 0 if all was lost.
        steps: What was tried.
        statements: The memory that a model wrote after it.
    """

    post: str
    environment: str
    task: str
    reward: float
    steps: tuple[TrialStep, ...]
    statements: tuple[CausalStatement, ...] = ()


@dataclass(slots=True)
class _Kept:
    trials: dict[str, Trial] = field(default_factory=dict)
    #: Rule posts by the statement that they carry.
    rules: dict[tuple[str, str, str, Level], list[Post]] = field(default_factory=lambda: defaultdict(list))
    written: dict[str, list[CausalStatement]] = field(default_factory=lambda: defaultdict(list))


class CausalMemory(BoardMemory):
    """Causal statements of an agent that is not trained: what was necessary to what.

    After each trial `update` posts the trial and the statements that follow. Those of level "statistics"
    are counted over trials; those of level "model" are read from what a model wrote, where each
    further mention supports a statement and its opposite contradicts it. "may" becomes "should" after
    `enough` pieces of support in a row and "may" again at a contradiction; a statement with as much
    against as for it is not read.

    What is believed is computed from the posts: quarantine a trial and its evidence is gone.

    Args:
        board: The blackboard.
        channel: The channel of trials and statements.
        environment: Where the agent is now; evidence from elsewhere counts as meta memory only.
        task: What it does now.
        window: How many of the last memories a model is shown, and how many own trials it takes until
            meta memory is no longer read.
        enough: Pieces of support in a row that make "should" of "may".
        levels: Which statements are read.

    Example:
        >>> from docendo.memory import Blackboard
        >>> board = Blackboard.open(":memory:")
        >>> me = Author(agent="digger", role="student")
        >>> memory = CausalMemory(board, environment="garden")
        >>> fail = TrialStep(action="dig", success=False)
        >>> works = TrialStep(action="dig", success=True, conditions=("having a spade",))
        >>> for number, trial in enumerate([[fail], [fail, works], [works]]):
        ...     found = memory.update(trial, reward=50.0, author=me, key=f"run/{number}")
        >>> [entry.text for entry in memory.read("how to dig", Budget(entries=3))]
        ['having a spade should be necessary to dig']
        >>> board.close()
    """

    default_kind: PostKind = "rule"

    def __init__(
        self,
        board: Blackboard,
        *,
        channel: str = "main",
        environment: str = "",
        task: str = "",
        window: int = 3,
        enough: int = 2,
        levels: Sequence[Level] = ("statistics", "model"),
    ) -> None:
        super().__init__(board, channel=channel)
        if window < 1 or enough < 1:
            raise ConfigError(f"window is {window} and enough is {enough}", expected="at least 1 each")
        self.environment, self.task = environment, task
        self.window, self.enough, self.levels = window, enough, tuple(levels)
        self._fold = Fold(board, channel=channel, kinds=("event", self.kind), start=_Kept, step=_keep)

    def update(
        self,
        steps: Sequence[TrialStep],
        *,
        reward: float,
        author: Author,
        key: str,
        statements: str | Sequence[CausalStatement] = (),
        parents: Sequence[str] = (),
    ) -> list[CausalStatement]:
        """Posts a trial and what follows from it, and returns what is believed now.

        Args:
            steps: What was tried.
            reward: Score between 0 and 100.
            author: Who tried.
            key: Idempotency key of the trial; the same key is the same trial.
            statements: The new memory that a model wrote after the trial, as text or parsed.
            parents: Ids of the posts that the trial came from.
        """
        written = CausalStatement.read(statements) if isinstance(statements, str) else list(statements)
        with self.board.database.transaction():
            event = self.board.post(
                "event",
                {
                    "trial": [step.to_json() for step in steps],
                    "environment": self.environment,
                    "task": self.task,
                    "reward": float(reward),
                },
                author=author,
                key=f"{self.channel}/trial/{key}",
                parents=parents,
                channel=self.channel,
            )
            for one in written:
                self._carry(one.replace(level="model"), event, author=author, key=key)
        with self.board.database.transaction():
            carried = self._fold().rules
            for one in self._counted(self._here()):
                if not carried.get((*one.pair, one.relation, one.level)):
                    self._carry(one, event, author=author, key=key)
        return self.statements()

    def statements(self) -> list[CausalStatement]:
        """What is believed here, the surest first."""
        return [statement for statement, _ in self._believed(self._here())]

    def trials(self) -> list[Trial]:
        """All trials that count, of any environment and task, the oldest first."""
        kept = self._fold()
        return [
            trial.replace(statements=tuple(kept.written.get(post, ()))) for post, trial in kept.trials.items()
        ]

    def meta(self) -> list[CausalStatement]:
        """What the memories after the best trials of other environments and tasks have in common.

        Support is the number of environments and tasks that hold a statement, contradiction the number of
        those that hold the opposite.
        """
        return [statement for statement, _ in self._elsewhere()]

    def context(self, steps: Sequence[TrialStep], *, reward: float, budget: Budget) -> str:
        """What a model is shown that has to write the new memory: meta memory, last memories, the trial.

        If it is too long, meta memory goes first, then the oldest memories, then all but the
        first sentence of each observation, and at last the first steps.
        """
        meta = [one.text for one in self.meta()] if len(self._here()) < self.window else []
        recent = [
            f"After a trial that {reward_in_words(trial.reward)}:\n"
            + "\n".join(one.text for one in trial.statements)
            for trial in self._here()[-self.window :]
            if trial.statements
        ]
        last = f"The last trial {reward_in_words(reward)}:"
        full, short = [_line(step) for step in steps], [_line(step, short=True) for step in steps]
        shapes = [
            (meta, recent, full),
            *(((), recent[drop:], full) for drop in range(len(recent) + 1)),
            *(((), (), short[drop:]) for drop in range(len(short) + 1)),
        ]
        for general, memories, trial in shapes:
            texts = [*(("Learnt elsewhere:", *general) if general else ()), *memories, last, *trial]
            if budget.holds(texts):
                return "\n".join(texts)
        raise ConfigError("the budget holds not even the last trial's reward", expected="a larger budget")

    def text(self, post: Post) -> str:
        """The statement in words, as it was when it was posted; `read` gives it with its present strength."""
        return _statement(post.body).text

    def _checked(self, body: Mapping[str, JSON]) -> Mapping[str, JSON]:
        if "text" in body and "cause" not in body:
            found = CausalStatement.parse(str(body["text"]))
            if found is None:
                raise DataError(
                    f"{str(body['text'])[:80]!r} is no causal statement",
                    expected="'... may be necessary to ...' or another of the six forms",
                )
            body = {**body, **found.to_json()}
        statement = _statement(body)
        place = {"environment": self.environment, "task": self.task}
        return {**place, **body, **statement.to_json(), "text": statement.text}

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterable[Entry]:
        here = self._here()
        known = self._believed(here)
        found = [(one, post, "own") for one, post in known]
        if len(here) < self.window:
            pairs = {(one.pair, one.relation) for one, _ in known}
            found += [
                (one, post, "meta")
                for one, post in self._elsewhere()
                if (one.pair, one.relation) not in pairs
            ]
        wanted = set(plain(query).split())
        entries = [
            _entry(one, post, wanted, own=origin == "own")
            for one, post, origin in found
            if (run is None or post.run == run) and (item is None or post.item == item)
        ]
        return sorted(entries, key=lambda entry: (-entry.score, entry.post.seq))

    def _carry(self, statement: CausalStatement, event: Post, *, author: Author, key: str) -> None:
        self.write(
            statement.to_json(),
            author=author,
            key=f"{key}/{statement.level}/{digest(*statement.pair, statement.relation)[:16]}",
            parents=(event.id,),
        )

    def _here(self) -> list[Trial]:
        return [one for one in self.trials() if (one.environment, one.task) == (self.environment, self.task)]

    def _counted(self, trials: Sequence[Trial]) -> list[CausalStatement]:
        beliefs = count(trial.steps for trial in trials)
        held = self._held(beliefs, "statistics")
        necessary = {one.pair for one in held if one.relation == "necessary"}
        return [one for one in held if one.relation == "necessary" or one.pair not in necessary]

    def _held(
        self, beliefs: Mapping[tuple[str, Relation, str], Belief], level: Level
    ) -> list[CausalStatement]:
        return [
            CausalStatement(
                cause=cause,
                relation=relation,
                effect=effect,
                strength=belief.strength(self.enough),
                support=belief.support,
                contradict=belief.contradict,
                level=level,
            )
            for (cause, relation, effect), belief in beliefs.items()
            if belief.held
        ]

    def _believed(self, trials: Sequence[Trial]) -> list[tuple[CausalStatement, Post]]:
        """What these trials support, each with the post that carries it; counted before written."""
        both: dict[Level, list[CausalStatement]] = {
            "statistics": self._counted(trials),
            "model": self._held(mentioned(trial.statements for trial in trials), "model"),
        }
        carried = self._fold().rules
        found: dict[tuple[tuple[str, str], Relation], tuple[CausalStatement, Post]] = {}
        for level, statements in both.items():
            for one in statements if level in self.levels else ():
                posts = carried.get((*one.pair, one.relation, one.level))
                if posts:
                    found.setdefault((one.pair, one.relation), (one, posts[-1]))
        return sorted(found.values(), key=lambda pair: (*_sureness(pair[0]), pair[1].seq))

    def _elsewhere(self) -> list[tuple[CausalStatement, Post]]:
        places: dict[tuple[str, str], list[Trial]] = defaultdict(list)
        for trial in self.trials():
            places[trial.environment, trial.task].append(trial)
        places.pop((self.environment, self.task), None)
        votes: dict[tuple[tuple[str, str], Relation], list[tuple[CausalStatement, Post]]] = defaultdict(list)
        for trials in places.values():
            best = max(range(len(trials)), key=lambda index: (trials[index].reward, index))
            for one, post in self._believed(trials[: best + 1]):
                votes[one.pair, one.relation].append((one, post))
        found = []
        for (pair, relation), held in votes.items():
            against = sum(len(votes.get((pair, other), ())) for other in opposite(relation))
            if len(held) > against:
                sure = len(held) >= self.enough and not against
                one = held[-1][0].replace(
                    support=len(held), contradict=against, strength="should" if sure else "may"
                )
                found.append((one, held[-1][1]))
        return sorted(found, key=lambda pair: (*_sureness(pair[0]), pair[1].seq))


def _keep(kept: _Kept, post: Post) -> None:
    body: Mapping[str, Any] = post.body
    if post.kind == "event" and "trial" in body:
        steps = tuple(TrialStep(**{**one, "conditions": tuple(one["conditions"])}) for one in body["trial"])
        kept.trials[post.id] = Trial(
            post=post.id,
            environment=body["environment"],
            task=body["task"],
            reward=body["reward"],
            steps=steps,
        )
    elif post.kind != "event":
        one = _statement(body)
        kept.rules[(*one.pair, one.relation, one.level)].append(post)
        if one.level == "model":
            for parent in post.parents:
                if parent in kept.trials:
                    kept.written[parent].append(one)


def _statement(body: Mapping[str, Any]) -> CausalStatement:
    names = ("cause", "relation", "effect", "strength", "support", "contradict", "level")
    missing = [name for name in names[:3] if not isinstance(body.get(name), str)]
    if missing:
        raise DataError(f"the statement lacks {', '.join(missing)}", expected="cause, relation and effect")
    return CausalStatement(**{name: body[name] for name in names if name in body})


def _sureness(one: CausalStatement) -> tuple[bool, int]:
    return one.strength != "should", one.contradict - one.support


def _entry(one: CausalStatement, post: Post, wanted: set[str], *, own: bool) -> Entry:
    cause, effect = (set(text.split()) for text in one.pair)
    parts = {
        "own": float(own),
        # An effect that is asked for outweighs all the rest.
        "query": 6 * len(effect & wanted) / len(effect) + len(cause & wanted) / len(cause),
        "strength": float(one.strength == "should"),
        "relation": float(one.relation != "no effect") / 2,
        "support": (one.support - one.contradict) / (one.support + one.contradict + 1),
    }
    return Entry(post=post, text=one.text, score=sum(parts.values()), parts=parts)


def _line(step: TrialStep, *, short: bool = False) -> str:
    seen = step.observation.strip()
    if short:
        seen = seen.partition(". ")[0]
    outcome = "worked" if step.success else "failed"
    return f"{step.action}: {outcome}{f'. {seen}' if seen else ''}"
