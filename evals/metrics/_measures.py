"""Metrics of runs: a number with an interval over items, or with the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, np.dtype[np.float64]]

# Resampled counts held in memory at once, in cells (8 bytes each).
_CELLS = 4_000_000
# Share of resamples in which a metric may be undefined (a denominator of 0) and still get an interval:
# they are left out, which moves a bound by at most this share.
_UNDEFINED = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Record):
    """A metric that may not be defined on the run at hand.

    Attributes:
        value: The metric, or None where it is not defined; never NaN or infinite.
        interval: Percentile bootstrap interval over items, or None where there is none.
        reason: Why there is no value, or no interval; else empty.
        level: Confidence level of the interval.

    Example:
        >>> print(Measure(value=0.5, interval=(0.4, 0.6)))
        0.500 (0.400 to 0.600)
        >>> print(Measure(value=None, reason="the baseline makes no error"))
        none: the baseline makes no error
    """

    value: float | None
    interval: tuple[float, float] | None = None
    reason: str = ""
    level: float = 0.95

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a measure stored by `to_json`."""
        interval = value.get("interval")
        return cls(**{**value, "interval": tuple(interval) if interval is not None else None})

    def __str__(self) -> str:
        if self.value is None:
            return f"none: {self.reason}"
        span = f" ({_number(self.interval[0])} to {_number(self.interval[1])})" if self.interval else ""
        return f"{_number(self.value)}{span}"


def _number(value: float) -> str:
    return f"{value + 0.0:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def resampled_means(columns: Numbers, *, resamples: int, seed: int) -> Numbers:
    """Returns the column means of bootstrap resamples of the rows, (resamples, columns).

    Whole rows are drawn, so what stands in one row stays paired.
    """
    import numpy as np

    n = len(columns)
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS // n)
    shares = np.full(n, 1 / n)
    return np.concatenate(
        [
            generator.multinomial(n, shares, size=min(chunk, resamples - start)) @ columns / n
            for start in range(0, resamples, chunk)
        ]
    )


def measured(value: float, draws: Numbers | None, *, level: float, reason: str) -> Measure:
    """Makes a measure of a value and its resampled values, NaN where undefined.

    Args:
        value: The metric.
        draws: The metric in each resample; None if there is only one item to resample.
        level: Confidence level.
        reason: Why the metric is undefined, where it is.
    """
    import numpy as np

    if not np.isfinite(value):
        return Measure(value=None, reason=reason, level=level)
    if draws is None:
        return Measure(value=float(value), reason="one item has no interval", level=level)
    kept = draws[np.isfinite(draws)]
    missing = 1 - len(kept) / len(draws)
    if missing > _UNDEFINED:
        why = f"in {100 * missing:.0f} % of the resamples {reason}"
        return Measure(value=float(value), reason=why, level=level)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Measure(value=float(value), interval=(float(low), float(high)), level=level)
