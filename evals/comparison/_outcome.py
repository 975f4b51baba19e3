"""What came of a comparison of several methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from docendo.records import Record

ArmVerdict = Literal["better", "worse", "no effect shown", "budgets differ"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore(Record):
    """How one method fared.

    Attributes:
        name: Its name.
        mean: Mean of the metric over seeds and items.
        seeds: Its mean with each seed.
        spent: What it spent with each seed, in the budget's unit.
        items: Number of items with an answer, over all seeds.
        failed: Number of items without one.
        before: What of `spent` was spent before the run was interrupted, with each seed; empty if none was.
    """

    name: str
    mean: float
    seeds: tuple[float, ...]
    spent: tuple[float, ...]
    items: int
    failed: int = 0
    before: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPair(Record):
    """How one method differs from another, on the same items with the same seeds.

    Attributes:
        name: The method.
        against: What it is compared with.
        difference: Mean of the method's metric minus that of the other; NaN, as the interval, if there are
            too few pairs to say it, and then no p-value is below 1.
        interval: Interval of the difference, for this pair alone.
        p_value: Two-sided test of no difference.
        adjusted: The same, adjusted for the number of methods by Holm's procedure.
        n: Number of compared pairs of answers.
        verdict: "better" or "worse" if the adjusted test shows it and, for "better", the control does not
            explain it; "budgets differ" if the two spent unlike amounts; else "no effect shown".
        reason: The verdict's grounds in one sentence.
    """

    name: str
    against: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    adjusted: float
    n: int
    verdict: ArmVerdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Record):
    """The outcome of a comparison; `print` shows it as a table.

    Attributes:
        metric: What was measured.
        direction: Whether "more" or "less" of it is better.
        unit: What budgets are counted in.
        arms: The methods in their order.
        pairs: Each method against the baseline, in their order, the control among them.
        baseline: Name of the baseline.
        control: Name of the control, or None.
        seeds: The seeds.
        level: Confidence level.
    """

    metric: str
    direction: str
    unit: str
    arms: tuple[ArmScore, ...]
    pairs: tuple[ArmPair, ...]
    baseline: str
    control: str | None = None
    seeds: tuple[int, ...] = ()
    level: float = 0.95

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds an outcome stored by `to_json`."""
        arms = (
            ArmScore(
                **{
                    **arm,
                    "mean": _number(arm["mean"]),
                    "seeds": tuple(map(_number, arm["seeds"])),
                    "spent": tuple(arm["spent"]),
                    "before": tuple(arm.get("before", ())),
                }
            )
            for arm in value["arms"]
        )
        pairs = (
            ArmPair(
                **{
                    **pair,
                    "difference": _number(pair["difference"]),
                    "interval": tuple(map(_number, pair["interval"])),
                }
            )
            for pair in value["pairs"]
        )
        lists = {"arms": tuple(arms), "pairs": tuple(pairs), "seeds": tuple(value["seeds"])}
        return cls(**{**value, **lists})

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON, which has no NaN: null stands for it."""
        found: dict[str, Any] = _without_nan(Record.to_json(self))
        return found

    def __str__(self) -> str:
        lines = _table(
            [
                (f"{arm.name}{self._part(arm.name)}", self._show(arm.mean), self._notes(arm))
                for arm in self.arms
            ]
        )
        lines += ["", *_table([self._row(pair) for pair in self.pairs])]
        lines += [f"{pair.name}: {pair.reason}" for pair in self.pairs]
        return "\n".join(lines)

    @property
    def _share(self) -> bool:
        return self.metric == "correct"

    def _part(self, name: str) -> str:
        return " (baseline)" if name == self.baseline else " (control)" if name == self.control else ""

    def _show(self, value: float, *, sign: bool = False) -> str:
        if math.isnan(value):
            return "none"
        if self._share:
            return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f} %"
        return f"{value:+.4g}" if sign else f"{value:.4g}"

    def _notes(self, arm: ArmScore) -> str:
        seeds = " ".join(self._show(value).removesuffix(" %") for value in arm.seeds)
        notes = [f"by seed {seeds}"] if len(arm.seeds) > 1 else []
        notes.append(f"{sum(arm.spent) / len(arm.spent):,.0f} {self.unit} a seed")
        if arm.before:
            notes.append(f"{sum(arm.before):,.0f} of all before an interruption")
        notes += [f"{arm.failed} failed"] if arm.failed else []
        return ", ".join(notes)

    def _row(self, pair: ArmPair) -> tuple[str, str, str]:
        low, high = (self._show(bound, sign=True) for bound in pair.interval)
        several = len(self.pairs) > 1
        p_value = f"p {shown_p(pair.p_value)}" + (f", adjusted {shown_p(pair.adjusted)}" if several else "")
        return (
            f"{pair.name} - {pair.against}",
            self._show(pair.difference, sign=True),
            f"{100 * self.level:g} % interval {low} to {high}, {p_value}: {pair.verdict}",
        )


def shown_p(p_value: float) -> str:
    """A p-value in three places.

    Example:
        >>> shown_p(0.0312), shown_p(1e-9)
        ('0.031', '< 0.001')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    wide, middle = (max(len(row[i]) for row in rows) for i in (0, 1))
    return [f"{name:<{wide}}  {value:>{middle}}  {note}".rstrip() for name, value, note in rows]
