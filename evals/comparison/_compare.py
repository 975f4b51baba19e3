"""Paired comparison of two evaluations, with a verdict that may be that nothing is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from docendo.checks import check_kind
from docendo.errors import DataError
from docendo.evals.comparison._outcome import shown_p
from docendo.evals.harness._results import EvalResult
from docendo.evals.statistics import detectable_difference, mcnemar, tango, wilson
from docendo.records import Record

Verdict = Literal["better", "worse", "no effect shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison(Record):
    """How the same items fared before and after.

    Attributes:
        before: Accuracy before, on the paired items.
        after: Accuracy after, on the paired items.
        difference: `after - before`.
        interval: Tango's score interval of the difference.
        p_value: Exact two-sided McNemar test.
        verdict: "better" or "worse" if the interval excludes zero and the test agrees, else
            "no effect shown".
        reason: The verdict's grounds in one sentence.
        n: Number of paired items.
        up: Items that went from wrong to right.
        down: Items that went from right to wrong.
        detectable: Smallest difference that this many pairs show with 80 % power.
        before_name: Name of the first evaluation.
        after_name: Name of the second evaluation.
        before_interval: Wilson's interval of `before`.
        after_interval: Wilson's interval of `after`.
        only_before: Items of the first evaluation that the second does not have; left out.
        only_after: Items of the second evaluation that the first does not have; left out.
        failed: Common items without an answer in one of the two; left out.
        level: Confidence level of all intervals and of the test.
        before_model: Fingerprint of the base model that was asked before, or empty if unknown.
        after_model: The same of after.
        before_adapter: SHA-256 of the adapter that answered before; None is the base model alone, or unknown
            where that is.
        after_adapter: The same of after.
    """

    before: float
    after: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    verdict: Verdict
    reason: str
    n: int
    up: int
    down: int
    detectable: float
    before_name: str = "before"
    after_name: str = "after"
    before_interval: tuple[float, float] = (0.0, 1.0)
    after_interval: tuple[float, float] = (0.0, 1.0)
    only_before: int = 0
    only_after: int = 0
    failed: int = 0
    level: float = 0.95
    before_model: str = ""
    after_model: str = ""
    before_adapter: str | None = None
    after_adapter: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a comparison stored by `to_json`, also an older one, whose interval was bootstrapped."""
        intervals = ("interval", "before_interval", "after_interval")
        kept = {key: each for key, each in value.items() if key not in ("resamples", "seed")}
        return cls(**{**kept, **{key: tuple(value[key]) for key in intervals if key in value}})

    def __str__(self) -> str:
        label = f"{100 * self.level:g} % interval"
        left_out = [
            f"{count} {why}"
            for count, why in (
                (self.only_before, f"only in {self.before_name}"),
                (self.only_after, f"only in {self.after_name}"),
                (self.failed, "without an answer"),
            )
            if count
        ]
        rows = [
            (self.before_name, f"{100 * self.before:.1f} %", f"{label} {_range(self.before_interval)}"),
            (self.after_name, f"{100 * self.after:.1f} %", f"{label} {_range(self.after_interval)}"),
            ("difference", f"{100 * self.difference:+.1f}", f"{label} {_range(self.interval, sign=True)}"),
            ("McNemar p", shown_p(self.p_value), f"{self.up} up, {self.down} down, of {self.n} pairs"),
        ]
        wide, middle = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [f"{name:<{wide}}  {value:>{middle}}  {note}".rstrip() for name, value, note in rows]
        lines.append(f"{'verdict':<{wide}}  {self.verdict}")
        lines.append(self.reason)
        if left_out:
            lines.append(f"Left out: {', '.join(left_out)}.")
        return "\n".join(lines)


def compare(before: EvalResult, after: EvalResult, *, level: float = 0.95) -> PairedComparison:
    """Compares two evaluations of the same items.

    Items are paired by id. An item that only one evaluation has, or that failed in one of them, is
    left out and counted. "better" and "worse" need both Tango's score interval to exclude zero and McNemar's
    exact test to agree at the same level: on few flips the interval alone claims a difference somewhat too
    often (`docs/statistics.md`). Of several samples of an item the first counts.

    Args:
        before: The first evaluation.
        after: The second evaluation.
        level: Confidence level of intervals and test.

    Returns:
        The comparison; `print` shows it as a small table. It names the weights that were measured, so that
        `AdapterRegistry.promote` takes it as evidence for these alone.

    Raises:
        DataError: if no item is in both, an item occurs twice, or two different scorers were used.
        ConfigError: if one of the two is no evaluation, or the level is out of range.

    Example:
        >>> def result(name, rights):
        ...     records = tuple(
        ...         EvalRecord(item=str(i), question="", correct=right) for i, right in enumerate(rights)
        ...     )
        ...     return EvalResult(name=name, task="demo", scorer="exact", records=records)
        >>> from docendo.evals import EvalRecord
        >>> print(compare(result("before", [False] * 40), result("after", [True] * 20 + [False] * 20)))
        before        0.0 %  95 % interval 0.0 to 8.8
        after        50.0 %  95 % interval 35.2 to 64.8
        difference    +50.0  95 % interval +35.2 to +64.8
        McNemar p   < 0.001  20 up, 0 down, of 40 pairs
        verdict     better
        The interval, +35.2 to +64.8 points, excludes zero and McNemar's test agrees (p < 0.001).
    """
    for name, given in (("before", before), ("after", after)):
        check_kind(name, given, EvalResult, "an EvalResult, as evaluate returns")
    if before.scorer != after.scorer:
        raise DataError(
            f"{before.name!r} was scored by {before.scorer!r} and {after.name!r} by {after.scorer!r}",
            expected="one scorer",
            remedy="evaluate again with the same scorer",
        )
    first, second = _by_item(before), _by_item(after)
    common = [item for item in first if item in second]
    if not common:
        raise DataError(
            f"{before.name!r} ({before.task}) and {after.name!r} ({after.task}) have no item in common",
            expected="evaluations of the same items",
            remedy="use the same task, settings and seed for both",
        )
    pairs = [
        (a, b) for a, b in ((first[item], second[item]) for item in common) if a is not None and b is not None
    ]
    if not pairs:
        raise DataError(
            f"none of the {len(common)} common items was answered in both", remedy="evaluate again"
        )
    n = len(pairs)
    up, down = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    rights = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    interval = tango(up, down, n, level)
    p_value = mcnemar(up, down)
    detectable = detectable_difference(n, (up + down) / n, level=level)
    verdict, reason = _judge(interval, p_value, n=n, flips=up + down, detectable=detectable, level=level)
    return PairedComparison(
        before=rights[0] / n,
        after=rights[1] / n,
        difference=(up - down) / n,
        interval=interval,
        p_value=p_value,
        verdict=verdict,
        reason=reason,
        n=n,
        up=up,
        down=down,
        detectable=detectable,
        before_name=before.name or "before",
        after_name=after.name or "after",
        before_interval=wilson(rights[0], n, level),
        after_interval=wilson(rights[1], n, level),
        only_before=len(first) - len(common),
        only_after=len(second) - len(common),
        failed=len(common) - n,
        level=level,
        before_model=before.model,
        after_model=after.model,
        before_adapter=before.adapter,
        after_adapter=after.adapter,
    )


def _by_item(result: EvalResult) -> dict[str, bool | None]:
    twice = [item for item, count in Counter(record.item for record in result.records).items() if count > 1]
    if twice:
        raise DataError(f"{result.name!r} has item {twice[0]} more than once", expected="each item once")
    return {record.item: record.correct for record in result.records}


def _judge(
    interval: tuple[float, float], p_value: float, *, n: int, flips: int, detectable: float, level: float
) -> tuple[Verdict, str]:
    low, high = interval
    span = f"{_range(interval, sign=True)} points"
    excludes, agrees = low > 0 or high < 0, p_value < 1 - level
    p_text = shown_p(p_value)
    p_text = f"p {p_text}" if p_text.startswith("<") else f"p = {p_text}"
    if excludes and agrees:
        reason = f"The interval, {span}, excludes zero and McNemar's test agrees ({p_text})."
        return ("better" if low > 0 else "worse"), reason
    if excludes:
        return "no effect shown", (
            f"The interval, {span}, excludes zero, but {flips} flips are too few for "
            f"McNemar's test ({p_text})."
        )
    return "no effect shown", (
        f"The interval, {span}, includes zero; {n} pairs show differences of "
        f"{100 * detectable:.1f} points or more with 80 % power."
    )


def _range(interval: tuple[float, float], *, sign: bool = False) -> str:
    low, high = (100 * bound + 0.0 for bound in interval)
    return f"{low:+.1f} to {high:+.1f}" if sign else f"{low:.1f} to {high:.1f}"
