"""Scorers: the only code that may open an item's gold answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

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


def _unseal(gold: Gold) -> Any:
    return gold._Gold__sealed  # type: ignore[attr-defined]
