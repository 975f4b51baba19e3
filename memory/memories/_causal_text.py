"""Causal statements: their forms in words, and how much there is to say for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

from docendo.errors import DataError
from docendo.records import Record

Relation = Literal["necessary", "contributes", "no effect"]
Strength = Literal["may", "should"]
Level = Literal["model", "statistics"]

_FORMS: Mapping[tuple[Relation, Strength], str] = {
    ("necessary", "may"): "may be necessary to",
    ("necessary", "should"): "should be necessary to",
    ("contributes", "may"): "may contribute to",
    ("contributes", "should"): "should contribute to",
    ("no effect", "may"): "may not contribute to",
    ("no effect", "should"): "does not contribute to",
}
_STATEMENT = re.compile(
    rf"^\W*(?:\d+[.):]\s*)?(?P<cause>\S.*?)\s+(?P<form>{'|'.join(_FORMS.values())})\s+(?P<effect>\S.*?)\s*[.;,]*\s*$",
    re.IGNORECASE,
)
# Upper bounds of a score in [0, 100] and what it is called: a model reads words better than numbers.
_BANDS = (
    (0.0, "went wrong and lost what it had"),
    (20.0, "got almost nowhere"),
    (50.0, "did a small part of the task"),
    (90.0, "did a good part of the task"),
    (100.0, "nearly did the task"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalStatement(Record):
    """What is believed about a cause and an effect.

    Attributes:
        cause: A condition or an action.
        relation: What the cause is to the effect.
        effect: An action that succeeds, or an outcome.
        strength: "should" once the evidence has been consistent often enough, else "may".
        support: Pieces of evidence for it.
        contradict: Pieces of evidence against it.
        level: Whether a model wrote it or it was counted.

    Example:
        >>> one = CausalStatement(cause="having a light", relation="necessary", effect="enter the cellar")
        >>> one.text
        'having a light may be necessary to enter the cellar'
        >>> CausalStatement.parse("2. Having a hat does not contribute to enter the cellar.").relation
        'no effect'
    """

    cause: str
    relation: Relation
    effect: str
    strength: Strength = "may"
    support: int = 1
    contradict: int = 0
    level: Level = "model"

    def __post_init__(self) -> None:
        """Checks the names, which come from stored text as well."""
        for name, value, known in (
            ("relation", self.relation, get_args(Relation)),
            ("strength", self.strength, get_args(Strength)),
            ("level", self.level, get_args(Level)),
        ):
            if value not in known:
                raise DataError(f"the statement's {name} is {value!r}", expected=f"one of {', '.join(known)}")
        if not self.cause.strip() or not self.effect.strip():
            raise DataError("the statement lacks a cause or an effect", expected="text for both")

    @property
    def text(self) -> str:
        """The statement in words."""
        return f"{self.cause} {_FORMS[self.relation, self.strength]} {self.effect}"

    @property
    def pair(self) -> tuple[str, str]:
        """Cause and effect as they are compared: without case and with single spaces."""
        return plain(self.cause), plain(self.effect)

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """Reads one line that a model wrote; None if it has none of the forms."""
        match = _STATEMENT.match(line)
        if match is None:
            return None
        form = match["form"].lower()
        relation, strength = next(key for key, words in _FORMS.items() if words == form)
        return cls(cause=match["cause"], relation=relation, effect=match["effect"], strength=strength)

    @classmethod
    def read(cls, text: str) -> list[Self]:
        """Reads all statements of a text, one a line; other lines are passed over."""
        return [found for line in text.splitlines() if (found := cls.parse(line)) is not None]


def plain(text: str) -> str:
    """Text as it is compared.

    Example:
        >>> plain(" Having  a Light ")
        'having a light'
    """
    return " ".join(text.lower().split())


def opposite(relation: Relation) -> tuple[Relation, ...]:
    """What contradicts a relation.

    Example:
        >>> opposite("necessary")
        ('no effect',)
    """
    return ("necessary", "contributes") if relation == "no effect" else ("no effect",)


def reward_in_words(score: float) -> str:
    """What a score between 0 and 100 is called.

    Example:
        >>> reward_in_words(100), reward_in_words(35)
        ('did the whole task', 'did a small part of the task')
    """
    return next((words for bound, words in _BANDS if score < bound), "did the whole task")


@dataclass(slots=True)
class Belief:
    """Evidence for and against one statement, in the order in which it came."""

    support: int = 0
    contradict: int = 0
    streak: int = 0  # pieces of support since the last contradiction
    sure: bool = True  # whether the support is of a kind that can make it strong

    def add(self, supports: bool) -> None:
        """Counts one piece of evidence; a contradiction ends the streak, and with it the strength."""
        if supports:
            self.support += 1
            self.streak += 1
        else:
            self.contradict += 1
            self.streak = 0

    @property
    def held(self) -> bool:
        """Whether there is more for it than against it."""
        return self.support > self.contradict

    def strength(self, enough: int) -> Strength:
        """May or should."""
        return "should" if self.sure and self.streak >= enough else "may"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStep(Record):
    """One action of a trial.

    Attributes:
        action: What was tried.
        success: Whether it had its effect.
        conditions: What held when it was tried; what is not named did not hold.
        observation: What was seen then.
    """

    action: str
    success: bool
    conditions: tuple[str, ...] = ()
    observation: str = ""


@dataclass(slots=True)
class _Counts:
    """Successes and failures of an action with and without a condition."""

    won_with: int = 0
    lost_with: int = 0
    won_without: int = 0
    lost_without: int = 0


def count(trials: Iterable[Sequence[TrialStep]]) -> dict[tuple[str, Relation, str], Belief]:
    """What successes and failures say about conditions, trial by trial.

    A condition seems necessary to an action that failed without and succeeded with it: from then on each
    further success with it and failure without it supports that, and a success without it contradicts. That
    it is of no effect is supported by each failure with it, and each success without it once it has been
    there, and contradicted by a success with it. Failures alone never make that sure.

    Example:
        >>> tried = [TrialStep(action="dig", success=False), TrialStep(action="dig", success=True,
        ...          conditions=("having a spade",))]
        >>> found = count([tried])
        >>> found["having a spade", "necessary", "dig"].support
        1
    """
    trials = [list(trial) for trial in trials]
    conditions = sorted({plain(one) for trial in trials for step in trial for one in step.conditions})
    counts: dict[tuple[str, str], _Counts] = {}
    beliefs: dict[tuple[str, Relation, str], Belief] = {}
    for step in (step for trial in trials for step in trial):
        action, holding = plain(step.action), {plain(one) for one in step.conditions}
        for cause in conditions:
            tally = counts.setdefault((cause, action), _Counts())
            for relation, verdict in _evidence(tally, cause in holding, step.success):
                belief = beliefs.setdefault((cause, relation, action), Belief())
                belief.add(verdict)
                belief.sure = relation == "necessary" or tally.won_without > 0
    return beliefs


def _evidence(tally: _Counts, present: bool, success: bool) -> list[tuple[Relation, bool]]:
    """Counts one attempt, and says what it is evidence for (True) or against (False)."""
    found: list[tuple[Relation, bool]] = []
    if success and present:
        tally.won_with += 1
        found.append(("no effect", False))
        if tally.lost_without:
            found.append(("necessary", True))
    elif success:
        tally.won_without += 1
        found.append(("necessary", False))
        if tally.lost_with or tally.won_with:
            found.append(("no effect", True))
    elif present:
        tally.lost_with += 1
        found.append(("no effect", True))
    else:
        tally.lost_without += 1
        if tally.won_with:
            found.append(("necessary", True))
    return found


def mentioned(memories: Iterable[Sequence[CausalStatement]]) -> dict[tuple[str, Relation, str], Belief]:
    """What a model's memories say, one after the other: each mention supports, its opposite contradicts."""
    beliefs: dict[tuple[str, Relation, str], Belief] = {}
    for memory in memories:
        said = {(*one.pair, one.relation) for one in memory}
        for cause, effect, relation in sorted(said):
            beliefs.setdefault((cause, relation, effect), Belief()).add(True)
        for (cause, relation, effect), belief in beliefs.items():
            if any((cause, effect, other) in said for other in opposite(relation)):
                belief.add(False)
    return beliefs
