"""Routers that decide from the question alone: what they share, and two that learn nothing from answers."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from docendo.checks import entries, is_number
from docendo.errors import ConfigError, DataError
from docendo.hashing import derive_seed, digest
from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingExample(Record):
    """A question that both models have answered: what routers learn from.

    Attributes:
        question: The question, as agents see it.
        small: Value of the small model's answer, 0 to 1.
        large: Value of the large model's answer, 0 to 1.

    Raises:
        DataError: if the question is no text or a value out of range.

    Example:
        >>> RoutingExample(question="7 * 8", small=0, large=1).needed
        True
    """

    question: str
    small: float
    large: float

    def __post_init__(self) -> None:
        """Checks text and values."""
        if not isinstance(self.question, str):
            raise DataError(f"a question is {self.question!r}", expected="text")
        for name in ("small", "large"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (is_number(value) and 0 <= value <= 1):
                raise DataError(f"the value {name} of {self.question[:40]!r} is {value!r}", expected="0 to 1")
            object.__setattr__(self, name, float(value))

    @property
    def needed(self) -> bool:
        """Whether the large model's answer is the better one."""
        return self.large > self.small


class Router(Protocol):
    """Says before anything is generated how likely the large model is needed.

    Attributes:
        flops: Estimated floating-point operations of one score, beyond those that engines count themselves.
    """

    flops: float

    def score(self, question: str) -> float:
        """Probability that the large model is needed, 0 to 1."""

    def describe(self) -> dict[str, Any]:
        """The router as JSON, for a run's configuration: a resumed run must have the same one."""


class FittedRouter(ABC):
    """A router that learns from outcomes. Subclasses have `_learn`, `_scores` and `_facts`."""

    def __init__(self) -> None:
        self.flops = 0.0
        self._learnt = ""

    def fit(self, examples: Iterable[RoutingExample]) -> Self:
        """Forgets everything and learns from outcomes of other questions than those to be routed.

        Raises:
            DataError: if there is no example, or the large model is needed in none or in all of them.
        """
        rows = entries("examples", examples, RoutingExample, "RoutingExample records")
        if not rows:
            raise DataError("there are no examples", expected="questions that both models have answered")
        self._learn(rows)
        self._learnt = digest([row.to_json() for row in rows])
        return self

    def score(self, question: str) -> float:
        """Probability that the large model is needed, 0 to 1.

        Raises:
            ConfigError: if the router has learnt nothing yet.
        """
        return self.scores([question])[0]

    def scores(self, questions: Sequence[str]) -> list[float]:
        """The scores of several questions."""
        if not self._learnt:
            raise ConfigError(f"the {type(self).__name__} has learnt nothing", remedy="call fit first")
        found = self._scores(entries("questions", questions, str, "texts"))
        return [min(1.0, max(0.0, float(score))) for score in found]

    def describe(self) -> dict[str, Any]:
        """The router as JSON: its class, settings and what it has learnt from."""
        return {"class": type(self).__name__, **self._facts(), "learnt": self._learnt[:16]}

    @abstractmethod
    def _learn(self, rows: Sequence[RoutingExample]) -> None: ...

    @abstractmethod
    def _scores(self, questions: Sequence[str]) -> Iterable[float]: ...

    @abstractmethod
    def _facts(self) -> dict[str, Any]: ...


def needed(rows: Sequence[RoutingExample]) -> list[bool]:
    """Whether each question needed the large model.

    Raises:
        DataError: if none does, or all do: then there is nothing to tell apart.
    """
    found = [row.needed for row in rows]
    if len(set(found)) < 2:
        raise DataError(
            f"the large model is better on {'all' if found[0] else 'none'} of {len(rows)} examples",
            expected="some of both kinds",
            remedy="use more examples, or only one of the models",
        )
    return found


class RandomRouter:
    """The control: a number drawn for each question, which says nothing.

    Example:
        >>> router = RandomRouter(seed=1)
        >>> router.score("a") == router.score("a") != router.score("b")
        True
    """

    flops = 0.0

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, question: str) -> float:
        """A uniform number made of seed and question."""
        return derive_seed("random router", self.seed, question) / 2**63

    def scores(self, questions: Sequence[str]) -> list[float]:
        """The scores of several questions."""
        return [self.score(question) for question in questions]

    def describe(self) -> dict[str, Any]:
        """The router as JSON."""
        return {"class": type(self).__name__, "seed": self.seed}


class LengthRouter(FittedRouter):
    """The heuristic to beat: longer questions go to the large model.

    The score is the share of the examples' questions that are shorter, plus half of those as long. It looks
    at no answer.

    Example:
        >>> rows = [RoutingExample(question=text, small=1, large=1) for text in ("a", "bb", "ccc", "dddd")]
        >>> LengthRouter().fit(rows).scores(["bb", "eeeee"])
        [0.375, 1.0]
    """

    def _learn(self, rows: Sequence[RoutingExample]) -> None:
        self._lengths = sorted(len(row.question) for row in rows)

    def _scores(self, questions: Sequence[str]) -> Iterable[float]:
        lengths = self._lengths
        for question in questions:
            shorter = bisect.bisect_left(lengths, len(question))
            yield (shorter + bisect.bisect_right(lengths, len(question))) / (2 * len(lengths))

    def _facts(self) -> dict[str, Any]:
        return {}
