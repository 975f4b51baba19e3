"""Axes of charts: round ticks, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        ticks: Values and their texts.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the lower and 1 at the upper end.

        Example:
            >>> spanning([0, 8]).share(4), log_spanning([1, 100]).share(10)
            (0.5, 0.5)
        """
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / ((high - low) or 1.0)


def spanning(values: Iterable[float], *, percent: bool = False) -> Axis:
    """An axis from a round value below to a round value above, with three to six ticks.

    Args:
        values: What it must hold.
        percent: Whether they are shares, shown in per cent.
    """
    scale = 100 if percent else 1
    known = [value * scale for value in values]
    steps = ticks(min(known), max(known))
    return Axis(
        low=steps[0] / scale,
        high=steps[-1] / scale,
        ticks=tuple((step / scale, _plain(step)) for step in steps),
    )


def log_spanning(values: Iterable[float]) -> Axis:
    """A logarithmic axis between 1, 2 or 5 times a power of ten, with at most five ticks."""
    known = list(values)
    low, high = (math.floor(math.log10(bound)) for bound in (min(known), max(known)))
    steps = [factor * 10.0**power for power in range(low, high + 2) for factor in (1, 2, 5)]
    first = max(n for n, step in enumerate(steps) if step <= min(known) * (1 + 1e-9))
    last = min(n for n, step in enumerate(steps) if step >= max(known) * (1 - 1e-9))
    inside = steps[first : max(last, first + 1) + 1]
    every = -(-len(inside) // 5)
    shown = tuple((step, short(step)) for step in inside[::every])
    return Axis(low=inside[0], high=inside[-1], ticks=shown, log=True)


def doublings(most: int) -> Axis:
    """A logarithmic axis from 1 to `most`, with at most six powers of two written.

    Example:
        >>> [text for _, text in doublings(20).ticks]
        ['1', '2', '4', '8', '16']
    """
    powers = [2**n for n in range(most.bit_length())]
    every = -(-len(powers) // 6)
    shown = tuple((float(power), str(power)) for power in powers[::every])
    return Axis(low=1, high=max(most, 2), log=True, ticks=shown)


def named(labels: Sequence[str], *, most: int = 5, longest: int = 9) -> Axis:
    """An axis of names, at 0, 1, 2 and so on, of which `most` are written."""
    every = max(1, -(-len(labels) // most))
    shown = tuple((float(n), clipped(labels[n], longest)) for n in range(0, len(labels), every))
    return Axis(low=-0.15, high=max(len(labels) - 1, 1) + 0.15, ticks=shown)


def ticks(low: float, high: float) -> list[float]:
    """Returns three to six round values that cover the range.

    Example:
        >>> ticks(0, 0.9)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = (high - low) or 1.0
    size = 10.0 ** math.floor(math.log10(span / 4))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if span / (size * factor) <= 5)
    # Rounding takes away what floats add to a round number.
    digits = 2 - math.floor(math.log10(step))
    start, end = math.floor(round(low / step, 9)), math.ceil(round(high / step, 9))
    found = [round(step * n, digits) + 0.0 for n in range(start, end + 1)]
    return found if len(found) > 1 else [found[0], found[0] + step]


def short(value: float) -> str:
    """A number in at most four characters and its prefix.

    Example:
        >>> short(1234), short(2.5e12), short(0.0312), short(999.9)
        ('1.23k', '2.5T', '0.0312', '1k')
    """
    value = float(f"{value:.3g}")
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def clipped(text: str, longest: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _plain(value: float) -> str:
    return short(value) if abs(value) >= 10_000 else f"{value:g}"
