"""What one seed of an experiment gives: each method's values and costs, and further facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from docendo.checks import check_kind, is_number, short
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
        DataError: if there is no item, an item's id or a unit is no text (a stored trial would be read back
            with others), or a value or a cost is not a finite number.

    Example:
        >>> Scores(values={"a": True, "b": False}, spent={"calls": 2}).mean
        0.5
    """

    values: Mapping[str, float | None]
    spent: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the numbers; those of arrays become Python's own, which can be stored."""
        _require_named("values", self.values, "the id of an item")
        _require_named("spent", self.spent, "a unit of cost")
        if not self.values:
            raise DataError("a method has no items", expected="a value for each item")
        for item, value in self.values.items():
            if value is not None and not isinstance(value, bool) and not is_number(value):
                raise DataError(
                    f"the value of item {item} is {short(value)}",
                    expected="a finite number, or None where no answer came",
                )
        for unit, value in self.spent.items():
            if not is_number(value) or value < 0:
                raise DataError(f"{unit} spent are {short(value)}", expected="a number, at least 0")
        numbers = {item: None if value is None else float(value) for item, value in self.values.items()}
        object.__setattr__(self, "values", numbers)
        object.__setattr__(self, "spent", {unit: float(value) for unit, value in self.spent.items()})

    @classmethod
    def of(cls, result: EvalResult, *, spent: Mapping[str, float] | None = None) -> Self:
        """The right answers of an evaluation; of several samples of an item, their share.

        Args:
            result: The evaluation.
            spent: What it cost; None for the tokens that it counted itself.

        Raises:
            ConfigError: if the result is no `EvalResult`.
            DataError: if it has no items, or a cost is no number.
        """
        check_kind("result", result, EvalResult, "an EvalResult, as evaluate returns")
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
        DataError: if a name is no text, an arm is no `Scores`, or a fact is neither a finite number nor NaN.
    """

    arms: Mapping[str, Scores]
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks both, so that what was measured for long can be stored."""
        _require_named("arms", self.arms, "the name of an arm")
        _require_named("facts", self.facts, "the name of a fact")
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
        """Rebuilds a trial stored by `to_json`.

        Raises:
            DataError: if it is no stored trial.
        """
        try:
            facts = {name: math.nan if fact is None else fact for name, fact in value["facts"].items()}
            arms = {name: Scores(**scores) for name, scores in value["arms"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"the trial is {short(value)}", expected="what Trial.to_json returns") from error
        return cls(arms=arms, facts=facts)


def _require_named(name: str, values: object, keys: str) -> None:
    """Refuses what is no mapping from names: JSON would make other keys texts, and read those back."""
    if not isinstance(values, Mapping):
        raise DataError(f"{name} is {short(values)}", expected="a mapping")
    for key in values:
        if not isinstance(key, str):
            raise DataError(f"{keys} is {short(key)}", expected="text, such as str(number)")
