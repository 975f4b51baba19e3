"""Paired differences side by side around zero: a forest plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from docendo.evals.comparison._outcome import shown_p
from docendo.evals.reports._axes import Axis, spanning
from docendo.evals.reports._parts import Difference

_TONES = {"better": "good", "worse": "bad"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """One difference, with its places in per cent of the width."""

    row: Difference
    tone: str
    low: str
    middle: str
    high: str
    difference: str
    interval: str
    p_value: str
    means: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Differences of one metric.

    Attributes:
        rows: The differences.
        metric: What is compared.
        unit: What the differences are counted in.
        zero: Place of zero, in per cent of the width.
        ticks: Places and texts.
        sides: What lies to the left and to the right of zero.
        level: Confidence level of the intervals, in per cent.
    """

    rows: tuple[ForestRow, ...]
    metric: str
    unit: str
    zero: str
    ticks: tuple[tuple[str, str], ...]
    sides: tuple[str, str]
    level: str


def forests(differences: Iterable[Difference]) -> list[Forest]:
    """One plot for each metric, in the order of the rows."""
    order: dict[tuple[str, str], int] = {}
    rows = list(differences)
    for row in rows:
        order.setdefault((row.metric, row.direction), len(order))

    def place(row: Difference) -> int:
        return order[row.metric, row.direction]

    return [_forest(list(group)) for _, group in groupby(sorted(rows, key=place), key=place)]


def _forest(rows: Sequence[Difference]) -> Forest:
    metric, share = rows[0].metric, rows[0].metric == "correct"
    bounds = [bound for row in rows for bound in (0.0, row.difference, *row.interval)]
    axis = spanning(bounds, percent=share)
    worse, better = "worse", "better"
    return Forest(
        rows=tuple(_row(row, axis, share) for row in rows),
        metric=metric,
        unit="percentage points" if share else metric,
        zero=_place(axis, 0.0),
        ticks=tuple((_place(axis, value), minus(text)) for value, text in axis.ticks),
        sides=(worse, better) if rows[0].direction == "more" else (better, worse),
        level=f"{100 * rows[0].level:g}",
    )


def _row(row: Difference, axis: Axis, share: bool) -> ForestRow:
    low, high = row.interval
    p_value = f"p {shown_p(row.p_value)}"
    if row.adjusted is not None:
        p_value += f", adjusted {shown_p(row.adjusted)}"
    means = ""
    if row.before is not None and row.after is not None:
        before, after = (f"{100 * mean:.1f}" if share else f"{mean:.4g}" for mean in (row.before, row.after))
        means = f"{before} → {after}{' %' if share else ''}"
    return ForestRow(
        row=row,
        tone=_TONES.get(row.verdict, "flat"),
        low=_place(axis, low),
        middle=_place(axis, row.difference),
        high=_place(axis, high),
        difference=signed(row.difference, share=share),
        interval=f"{signed(low, share=share)} to {signed(high, share=share)}",
        p_value=p_value,
        means=means,
    )


def signed(value: float, *, share: bool = True) -> str:
    """A difference with its sign: of shares in points, else as it is.

    Example:
        >>> signed(0.125), signed(-0.0001), signed(-0.5, share=False)
        ('+12.5', '0.0', '−0.5')
    """
    text = f"{100 * value:+.1f}" if share else f"{value:+.3g}"
    return minus(text) if float(text) else text[1:]


def minus(text: str) -> str:
    """A text with real minus signs, which are as wide as the plus."""
    return text.replace("-", "−")


def _place(axis: Axis, value: float) -> str:
    return f"{100 * axis.share(value):.2f}"
