"""Out-of-distribution gaps: how much accuracy is lost on items that differ by construction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from docendo.errors import DataError
from docendo.evals.metrics._basics import flags, same_length, share
from docendo.evals.metrics._measures import Measure
from docendo.evals.statistics import wilson
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class OodGap(Record):
    """What one split loses.

    Attributes:
        name: Name of the split.
        accuracy: Its share of right answers, with Wilson's interval.
        gap: Accuracy in distribution less that of the split: above 0 is a loss.
        interval: Newcombe's interval of the gap.
    """

    name: str
    accuracy: Measure
    gap: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OodReport(Record):
    """Accuracy in distribution and what each split loses of it.

    Attributes:
        accuracy: Share of right answers in distribution, with Wilson's interval.
        gaps: One for each split, in the order given.
        level: Confidence level of all intervals, each taken alone: of many splits some will seem to
            differ by chance.
    """

    accuracy: Measure
    gaps: tuple[OodGap, ...]
    level: float


def ood_gap(
    results_in: Sequence[bool],
    results_out: Sequence[bool] | Mapping[str, Sequence[bool]],
    *,
    level: float = 0.95,
) -> OodReport:
    """Compares right answers in distribution with those on items out of it.

    The items differ, so nothing is paired: the interval is the hybrid of two Wilson intervals (Newcombe
    1998, Statistics in Medicine 17, method 10). It treats the answers as independent.

    Args:
        results_in: Whether each answer in distribution is right.
        results_out: The same of one split, which is then named "out", or of several by name.
        level: Confidence level of the intervals.

    Raises:
        DataError: if a group is empty or holds anything but right and wrong.

    Example:
        >>> report = ood_gap([True] * 56 + [False] * 14, {"longer": [True] * 48 + [False] * 32})
        >>> gap = report.gaps[0]
        >>> print(f"{gap.name}: {gap.gap:.4f} ({gap.interval[0]:.4f} to {gap.interval[1]:.4f})")
        longer: 0.2000 (0.0524 to 0.3339)
    """
    inside = flags("results_in", results_in)
    same_length(results_in=inside)
    splits = results_out if isinstance(results_out, Mapping) else {"out": results_out}
    if not splits:
        raise DataError("there is no split", expected="at least one, by name")
    gaps = []
    for name, results in splits.items():
        outside = flags(name, results)
        same_length(**{name: outside})
        gaps.append(
            OodGap(
                name=name,
                accuracy=share(sum(outside), len(outside), level),
                gap=sum(inside) / len(inside) - sum(outside) / len(outside),
                interval=newcombe(sum(inside), len(inside), sum(outside), len(outside), level),
            )
        )
    return OodReport(accuracy=share(sum(inside), len(inside), level), gaps=tuple(gaps), level=level)


def newcombe(first: int, n_first: int, second: int, n_second: int, level: float) -> tuple[float, float]:
    """Newcombe's hybrid score interval of the difference of two independent shares, first less second."""
    (low_1, high_1), (low_2, high_2) = wilson(first, n_first, level), wilson(second, n_second, level)
    share_1, share_2 = first / n_first, second / n_second
    difference = share_1 - share_2
    return (
        difference - math.hypot(share_1 - low_1, high_2 - share_2),
        difference + math.hypot(high_1 - share_1, share_2 - low_2),
    )
