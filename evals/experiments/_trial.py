"""What one seed of an experiment gives: each method's values and costs, and further facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from docendo.checks import is_number, short
from docendo.errors import DataError
from docendo.evals.harness._results import EvalResult
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(Record):
    """What one method got with one seed.

    Attributes:
        values: For each item id its value, by which methods are paired; None where no answer came.
        spent: What it cost in all, by unit, for example `{"generated tokens": 2400}`.

    Raises:
        DataError: if there is no item, an item's id is no text (a stored trial would be read back with
            others), or a value or a cost is not a finite number.

    Example:
        >>> Scores(values={"a": True, "b": False}, spent={"calls": 2}).mean
        0.5
    """

    values: Mapping[str, float | None]
    spent: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if not self.values:
            raise DataError("a method has no items", expected="a value for each item")
        for item, value in self.values.items():
            if not isinstance(item, str):
                raise DataError(f"the id of an item is {item!r}", expected="text, such as str(number)")
            if value is not None and not isinstance(value, bool) and not is_number(value):
                raise DataError(
                    f"the value of item {item} is {value!r}",
                    expected="a finite number, or None where no answer came",
                )
        for unit, value in self.spent.items():
            if not is_number(value) or value < 0:
                raise DataError(f"{unit} spent are {value!r}", expected="a number, at least 0")
        numbers = {item: None if value is None else float(value) for item, value in self.values.items()}
        object.__setattr__(self, "values", numbers)

    @classmethod
    def of(cls, result: EvalResult, *, spent: Mapping[str, float] | None = None) -> Self:
        """The right answers of an evaluation; of several samples of an item, their share.

        Args:
            result: The evaluation.
            spent: What it cost; None for the tokens that it counted itself.
        """
        if spent is None:
            usage = result.usage
            spent = {"prompt tokens": usage.prompt_tokens, "generated tokens": usage.generated_tokens}
        values: dict[str, float | None] = {}
        for record in result.records:
            samples = record.samples
            values[record.item] = (
                sum(sample.correct is True for sample in samples) / len(samples) if samples else None
            )
        return cls(values=values, spent=spent)

    @property
    def mean(self) -> float:
        """Mean over the items with an answer; NaN if there is none."""
        known = [value for value in self.values.values() if value is not None]
        return math.fsum(known) / len(known) if known else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Record):
    """What one seed of an experiment gives.

    Attributes:
        arms: For each method its scores, on the same items.
        facts: Further figures by name, such as a correlation; NaN where there is none.

    Raises:
        DataError: if an arm is no `Scores`, or a fact is neither a finite number nor NaN.
    """

    arms: Mapping[str, Scores]
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks both, so that what was measured for long can be stored."""
        for name, arm in self.arms.items():
            if not isinstance(arm, Scores):
                raise DataError(f"the arm {name!r} is {short(arm)}", expected="Scores")
        for name, fact in self.facts.items():
            if not is_number(fact) and not (isinstance(fact, float) and math.isnan(fact)):
                raise DataError(f"the fact {name!r} is {short(fact)}", expected="a finite number, or NaN")

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON, which has no NaN: null stands for it."""
        facts = {name: None if math.isnan(value) else float(value) for name, value in self.facts.items()}
        return {"arms": {name: scores.to_json() for name, scores in self.arms.items()}, "facts": facts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a trial stored by `to_json`."""
        facts = {name: math.nan if fact is None else fact for name, fact in value["facts"].items()}
        return cls(arms={name: Scores(**scores) for name, scores in value["arms"].items()}, facts=facts)
