"""Scorers: the only code that may open an item's gold answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from docendo.errors import DocendoError, TaskFailure
from docendo.records import Gold, Item, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Record):
    """The outcome of scoring one answer.

    Attributes:
        correct: Whether the answer counts as right.
        value: The scorer's own number in [0, 1]; partial credit shows here and never in `correct`.
        parsed: The answer that was read out of the text, or None if there was none.
        failure: Why scoring itself failed (the answer then counts as wrong and is counted apart).
    """

    correct: bool
    value: float
    parsed: str | None = None
    failure: str | None = None


class Scorer(ABC):
    """Decides whether an answer is right. Subclass it and read the gold with `self.open(item)`."""

    name: str = "scorer"

    @abstractmethod
    def score(self, item: Item, text: str) -> Score:
        """Scores the text of an answer; never raises on malformed text."""

    @abstractmethod
    def leaks(self, item: Item, text: str) -> bool:
        """Whether `text`, meant for a student, gives the gold answer away."""

    @final
    def open(self, item: Item) -> Any:
        """Returns the gold value. Called by scorers alone."""
        return _unseal(item.gold)


@contextmanager
def blaming(scorer: Scorer, item: Item) -> Iterator[None]:
    """Makes the crash of a scorer a failure of its task; what the machine does to it stays what it is.

    Raises:
        TaskFailure: naming scorer, item and the error.
    """
    try:
        yield
    except (DocendoError, OSError, MemoryError):
        raise
    except Exception as error:  # a scorer may crash in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskFailure(
            f"the scorer {scorer.name!r} failed on an answer to item {item.id} ({reason}); mend the scorer."
        ) from error


def scored(scorer: Scorer, item: Item, text: str) -> Score:
    """Scores an answer.

    Raises:
        TaskFailure: if the scorer crashes, or returns what is no score.
    """
    with blaming(scorer, item):
        score: object = scorer.score(item, text)
        if not isinstance(score, Score):
            raise TypeError(f"it returned a {type(score).__name__}, not a Score")
        value = float(score.value)
        if not math.isfinite(value):
            raise ValueError(f"its value is {value}")
        # Half right, "no" and NaN would all count as right.
        if score.correct not in (True, False):
            raise TypeError(f"its verdict is {score.correct!r}, not True or False")
        # NumPy's truth values are no bools, and would count as neither right nor wrong.
        return score.replace(correct=bool(score.correct), value=value)


def _unseal(gold: Gold) -> Any:
    return gold._Gold__sealed  # type: ignore[attr-defined]
