"""Line charts as shapes of an inline SVG: where everything lies in a box of 300 by 220."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from docendo.evals.reports._axes import Axis

# About as wide as a chart is shown, on a phone as well, so that its letters keep their size.
WIDTH, HEIGHT = 300, 220
LEFT, RIGHT, TOP, BOTTOM = 40.0, 290.0, 26.0, 176.0
_LETTER = 6.2
#: The colours of the page in light mode, by series.
COLOURS = ("#7b8494", "#2457c5", "#b4500b", "#14795a", "#8a35a5", "#0b7285", "#a61e4d", "#5f6b0a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line, with what lies below or around it filled where `fill` says so."""

    points: str
    series: int
    fill: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point: its shape, what it says when pointed at, and its label."""

    path: str
    series: int
    hollow: bool = False
    says: str = ""
    text: str = ""
    x: str = ""
    y: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart, ready for the template.

    Attributes:
        title: What it shows.
        says: What can be read from it, in a sentence, for who does not see it.
        x_label: What the horizontal axis is.
        y_label: What the vertical axis is.
        x_ticks: Places and texts.
        y_ticks: Places and texts.
        lines: Its lines.
        marks: Its points.
        whiskers: Intervals: x, upper y, lower y, series.
        guides: Dashed helping lines, as points.
        bars: Columns at the bottom: x, y, width, height.
        legend: Series and their names, where there are several.
    """

    title: str
    says: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[str, str], ...]
    y_ticks: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    whiskers: tuple[tuple[str, str, str, int], ...] = ()
    guides: tuple[str, ...] = ()
    bars: tuple[tuple[str, str, str, str], ...] = ()
    legend: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Two axes in the box."""

    across: Axis
    up: Axis

    def x(self, value: float) -> float:
        """The horizontal place of a value."""
        return LEFT + (RIGHT - LEFT) * self.across.share(value)

    def y(self, value: float) -> float:
        """The vertical place of a value; SVG counts from above."""
        return BOTTOM - (BOTTOM - TOP) * self.up.share(value)

    def points(self, pairs: Iterable[tuple[float, float]]) -> str:
        """Places as SVG writes them."""
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in pairs)

    def mark(self, a: float, b: float, series: int, *, says: str = "", hollow: bool = False) -> Mark:
        """A point in its series' shape."""
        return Mark(path=shape(series, self.x(a), self.y(b)), series=series, says=says, hollow=hollow)

    def whisker(self, a: float, interval: tuple[float, float], series: int) -> tuple[str, str, str, int]:
        """A vertical interval."""
        low, high = interval
        return _at(self.x(a)), _at(self.y(high)), _at(self.y(low)), series

    @property
    def x_ticks(self) -> tuple[tuple[str, str], ...]:
        """Ticks of the horizontal axis."""
        return tuple((_at(self.x(value)), text) for value, text in self.across.ticks)

    @property
    def y_ticks(self) -> tuple[tuple[str, str], ...]:
        """Ticks of the vertical axis."""
        return tuple((_at(self.y(value)), text) for value, text in self.up.ticks)


def shape(series: int, x: float, y: float, size: float = 4.6) -> str:
    """The path of a series' mark: circle, square, triangle, diamond, and so on.

    Series differ in shape as well as in colour, so that they can be told apart without colours.

    Example:
        >>> shape(1, 10, 10, 2)
        'M8.0,8.0h4.0v4.0h-4.0z'
    """
    kind = series % 4
    if kind == 0:
        half = f"a{size},{size} 0 1,0 "
        return f"M{x - size:.1f},{y:.1f}{half}{2 * size:.1f},0{half}{-2 * size:.1f},0z"
    if kind == 1:
        return f"M{x - size:.1f},{y - size:.1f}h{2 * size:.1f}v{2 * size:.1f}h{-2 * size:.1f}z"
    wide = 1.25 * size
    if kind == 2:
        return f"M{x:.1f},{y - wide:.1f}l{wide:.1f},{2 * size:.1f}h{-2 * wide:.1f}z"
    return f"M{x:.1f},{y - wide:.1f}l{wide:.1f},{wide:.1f}l{-wide:.1f},{wide:.1f}l{-wide:.1f},{-wide:.1f}z"


def labelled(marks: Sequence[tuple[Mark, float, float]], texts: Sequence[str]) -> tuple[Mark, ...]:
    """Puts a text beside each mark where it covers neither a mark nor another text, if there is such a place.

    Args:
        marks: The marks with their places.
        texts: A short text for each.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in marks]
    found = []
    for (mark, x, y), text in zip(marks, texts, strict=True):
        wide = _LETTER * len(text) + 2
        boxes = [
            (x + dx - (wide if dx < 0 else wide / 2 if dx == 0 else 0), y + dy)
            for dx, dy in ((8, -6), (8, 6), (-8, -6), (-8, 6), (0, -14), (0, 14), (14, -16), (-14, 16))
        ]
        costs = [(_covered(left, middle, wide, taken), n) for n, (left, middle) in enumerate(boxes)]
        left, middle = boxes[min(costs)[1]]
        taken.append((left, middle - 6, left + wide, middle + 6))
        found.append(
            Mark(
                path=mark.path,
                series=mark.series,
                hollow=mark.hollow,
                says=mark.says,
                text=text,
                x=_at(left + 1),
                y=_at(middle + 4),
            )
        )
    return tuple(found)


def _covered(left: float, middle: float, wide: float, taken: Sequence[tuple[float, ...]]) -> float:
    """How much a label there would cover, being outside of the box counted as covering much."""
    top, right, bottom = middle - 6, left + wide, middle + 6
    outside = (
        max(0.0, LEFT - left) + max(0.0, right - WIDTH) + max(0.0, TOP - 12 - top) + max(0.0, bottom - BOTTOM)
    )
    overlaps = (
        max(0.0, min(right, r) - max(left, a)) * max(0.0, min(bottom, d) - max(top, b))
        for a, b, r, d in taken
    )
    return math.fsum(overlaps) + 1000 * outside


def legend_of(names: Iterable[str], tones: Mapping[str, int]) -> tuple[tuple[int, str], ...]:
    """The series of the names, none if there is only one."""
    found = tuple((tones.get(name, 1), name) for name in dict.fromkeys(names))
    return found if len(found) > 1 else ()


def _at(place: float) -> str:
    return f"{place:.1f}"
