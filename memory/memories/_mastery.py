"""What learners have mastered, traced from their answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from docendo.errors import ConfigError
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._fold import Fold
from docendo.memory.board._posts import Post
from docendo.memory.memories._tracing import Tracing
from docendo.memory.storage import _text
from docendo.records import Author, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Mastery(Record):
    """How well a learner knows a concept.

    Attributes:
        concept: The concept.
        value: Probability that it is mastered.
        right: Number of right answers.
        wrong: Number of wrong ones.
        evidence: Ids of the posts of these answers, the oldest first.
    """

    concept: str
    value: float
    right: int = 0
    wrong: int = 0
    evidence: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The finding in words."""
        return f"{self.concept}: {self.right} right, {self.wrong} wrong, mastery {self.value:.2f}"


@dataclass(slots=True)
class _Learners:
    known: dict[tuple[str, str], Mastery] = field(default_factory=dict)
    #: For each learner the answers that count, each with what was believed of all concepts after it.
    courses: dict[str, list[tuple[str, dict[str, float]]]] = field(default_factory=dict)


class MasteryTracker:
    """Bayesian knowledge tracing over a blackboard: an answer is a post, mastery is computed from the posts.

    Args:
        board: The blackboard.
        channel: The channel of the answers.
        tracing: The parameters of all concepts, or of each.
        prerequisites: For each concept those that come before it.
        blame: How far a wrong answer counts against the prerequisites too, between 0 and 1: the mastery of
            each moves by this share of what a wrong answer of its own would do. 0 is plain tracing.

    Example:
        >>> from docendo.memory import Blackboard
        >>> board = Blackboard.open(":memory:")
        >>> tracker = MasteryTracker(board)
        >>> tutor = Author(agent="tutor", role="tutor")
        >>> for number, right in enumerate([True, True, False]):
        ...     found = tracker.answered("ann", "sums", right, author=tutor, key=f"{number}")
        >>> print(found.text)
        sums: 2 right, 1 wrong, mastery 0.63
        >>> [one.concept for one in tracker.weak("ann", ["sums", "products"])]
        ['products']
        >>> board.close()
    """

    def __init__(
        self,
        board: Blackboard,
        *,
        channel: str = "main",
        tracing: Tracing | Mapping[str, Tracing] | None = None,
        prerequisites: Mapping[str, Iterable[str]] | None = None,
        blame: float = 0.0,
    ) -> None:
        if not 0 <= blame <= 1:
            raise ConfigError(f"blame is {blame!r}", expected="between 0 and 1")
        self.board = board
        self.channel = _text.name(channel, "the channel")
        self.blame = blame
        self._tracing = tracing or Tracing()
        self._before = {concept: tuple(needs) for concept, needs in (prerequisites or {}).items()}
        self._fold = Fold(board, channel=channel, kinds=("event",), start=_Learners, step=self._step)

    def answered(
        self,
        learner: str,
        concept: str,
        right: bool,
        *,
        author: Author,
        key: str,
        run: str = "",
        item: str = "",
        parents: tuple[str, ...] = (),
    ) -> Mastery:
        """Posts an answer and returns what is believed of the concept now. The same key counts once."""
        self.book(learner, concept, right, author=author, key=key, run=run, item=item, parents=parents)
        return self.of(learner, concept)

    def book(
        self,
        learner: str,
        concept: str,
        right: bool,
        *,
        author: Author,
        key: str,
        run: str = "",
        item: str = "",
        parents: tuple[str, ...] = (),
    ) -> Post:
        """Posts an answer and computes nothing. The same key counts once."""
        return self.board.post(
            "event",
            {"learner": learner, "concept": concept, "right": bool(right)},
            author=author,
            key=f"{self.channel}/answer/{key}",
            run=run,
            item=item,
            parents=parents,
            channel=self.channel,
        )

    def tracing(self, concept: str) -> Tracing:
        """The parameters of a concept."""
        if isinstance(self._tracing, Tracing):
            return self._tracing
        return self._tracing.get(concept, Tracing())

    def of(self, learner: str, concept: str) -> Mastery:
        """What is believed of a concept; the prior if there was no answer."""
        return self._held(self._fold(), learner, concept)

    def mastery(self, learner: str, *, answers: Collection[str] | None = None) -> dict[str, float]:
        """The mastery of each concept that was answered or blamed: what `PathPlanner` plans with.

        Args:
            learner: The learner.
            answers: Ids of the posts of its first answers, to see what was believed after them: work that is
                done again after a crash must not see what came of it the first time. None for all answers.
        """
        course = self._fold().courses.get(learner, [])
        found = (values for post, values in reversed(course) if answers is None or post in answers)
        return dict(sorted(next(found, {}).items()))

    def predict(self, learner: str, concept: str) -> float:
        """Probability that the learner's next answer is right."""
        return self.tracing(concept).predict(self.of(learner, concept).value)

    def weak(self, learner: str, concepts: Iterable[str], *, threshold: float = 0.6) -> list[Mastery]:
        """The concepts with less mastery than the threshold, the weakest first, with the evidence."""
        found = [self.of(learner, concept) for concept in dict.fromkeys(concepts)]
        return sorted(
            (one for one in found if one.value < threshold), key=lambda one: (one.value, one.concept)
        )

    def _held(self, state: _Learners, learner: str, concept: str) -> Mastery:
        held = state.known.get((learner, concept))
        return held or Mastery(concept=concept, value=self.tracing(concept).prior)

    def _step(self, state: _Learners, post: Post) -> None:
        if "learner" not in post.body:
            return
        learner, concept = str(post.body["learner"]), str(post.body["concept"])
        right = bool(post.body["right"])
        held = self._held(state, learner, concept)
        changed = [
            held.replace(
                value=self.tracing(concept).update(held.value, right),
                right=held.right + right,
                wrong=held.wrong + (not right),
                evidence=(*held.evidence, post.id),
            )
        ]
        for need in self._before.get(concept, ()) if self.blame and not right else ():
            other = self._held(state, learner, need)
            own = self.tracing(need).posterior(other.value, False)
            value = (1 - self.blame) * other.value + self.blame * own
            changed.append(other.replace(value=value, evidence=(*other.evidence, post.id)))
        state.known.update({(learner, one.concept): one for one in changed})
        course = state.courses.setdefault(learner, [])
        before = course[-1][1] if course else {}
        course.append((post.id, before | {one.concept: one.value for one in changed}))
