"""The charts of a report: from its data to shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from docendo.evals.reports._axes import Axis, doublings, log_spanning, named, short, spanning
from docendo.evals.reports._drawing import BOTTOM, LEFT, RIGHT, Chart, Line, Plane, labelled, legend_of
from docendo.evals.reports._parts import Confidence, Curve
from docendo.evals.reports._report import Arm

#: What a cost can be counted in: the field of `EvalCost`, and how the axis is labelled.
UNITS = {"tokens": "tokens an item", "seconds": "seconds an item", "flops": "FLOPs an item"}
#: Series drawn in one chart; the tables have all.
MOST_SERIES = 8
_LOG_FROM = 10
_TALLEST_BAR = 34.0
_SHARES = Axis(low=0.0, high=1.0, ticks=tuple((n / 4, f"{25 * n}") for n in range(5)))

Tones = Mapping[str, int]


def loss_chart(losses: Sequence[tuple[float, float]]) -> Chart | None:
    """The loss by training step; None if there are fewer than two finite points."""
    points = [(step, loss) for step, loss in losses if math.isfinite(step) and math.isfinite(loss)]
    if len(points) < 2:
        return None
    first, last = points[0], points[-1]
    plane = Plane(across=_steps(first[0], last[0]), up=spanning([0.0, *(loss for _, loss in points)]))
    line, floor = plane.points(points), plane.up.low
    area = f"{plane.points([(first[0], floor)])} {line} {plane.points([(last[0], floor)])}"
    return Chart(
        title="Training loss",
        says=f"The loss goes from {first[1]:.3f} at the start to {last[1]:.3f} at the end.",
        x_label="step",
        y_label="loss",
        x_ticks=plane.x_ticks,
        y_ticks=plane.y_ticks,
        lines=(Line(points=line, series=1, fill=area),),
        marks=(plane.mark(*last, 1, says=f"step {last[0]:g}: {last[1]:.3f}"),),
    )


def curve_chart(
    curves: Sequence[Curve], tones: Tones, *, title: str, x_label: str, numbers: bool = False
) -> Chart | None:
    """Shares at points in order, with intervals where they have some.

    Args:
        curves: One line each.
        tones: The series of each name.
        title: What it shows.
        x_label: What the points are.
        numbers: Whether the labels are numbers of samples, which lie on a logarithmic axis.
    """
    curves = curves[:MOST_SERIES]
    if not curves:
        return None
    longest = max((curve.labels for curve in curves), key=len)
    across = doublings(int(longest[-1])) if numbers else named(longest)
    plane = Plane(across=across, up=spanning(_range(curves), percent=True))
    lines, marks, whiskers = [], [], []
    for curve in curves:
        tone = tones.get(curve.name, 1)
        places = [float(k) for k in curve.labels] if numbers else [float(n) for n in range(len(curve.values))]
        lines.append(Line(points=plane.points(zip(places, curve.values, strict=True)), series=tone))
        for place, label, value in zip(places, curve.labels, curve.values, strict=True):
            marks.append(plane.mark(place, value, tone, says=f"{curve.name}, {label}: {100 * value:.1f} %"))
        whiskers += [
            plane.whisker(place, span, tone) for place, span in zip(places, curve.intervals, strict=False)
        ]
    ends = (f"{c.name} from {100 * c.values[0]:.1f} to {100 * c.values[-1]:.1f} %" for c in curves)
    return Chart(
        title=title,
        says=f"{title}: {'; '.join(ends)}.",
        x_label=x_label,
        y_label="%",
        x_ticks=plane.x_ticks,
        y_ticks=plane.y_ticks,
        lines=tuple(lines),
        marks=tuple(marks),
        whiskers=tuple(whiskers),
        legend=legend_of((curve.name for curve in curves), tones),
    )


def reliability_chart(found: Confidence, tones: Tones) -> Chart:
    """Share of right answers by confidence, with the number of answers of each bin at the bottom."""
    plane = Plane(across=_SHARES, up=_SHARES)
    tone, most = tones.get(found.name, 1), max(n for *_, n in found.bins)
    width = 0.8 * (RIGHT - LEFT) / 10
    bars = []
    for sure, _, _, _, n in found.bins:
        tall = max(1.0, _TALLEST_BAR * n / most)
        middle = plane.x((min(9, math.ceil(10 * sure - 1e-9) - 1) + 0.5) / 10 if sure > 0 else 0.05)
        bars.append((f"{middle - width / 2:.1f}", f"{BOTTOM - tall:.1f}", f"{width:.1f}", f"{tall:.1f}"))
    return Chart(
        title=found.name,
        says=(
            f"{found.name}: mean confidence {100 * found.confidence:.1f} %, "
            f"right {100 * found.accuracy:.1f} %, expected calibration error {100 * found.ece:.1f} points."
        ),
        x_label="confidence, %",
        y_label="right, %",
        x_ticks=plane.x_ticks,
        y_ticks=plane.y_ticks,
        guides=(plane.points([(0, 0), (1, 1)]),),
        bars=tuple(bars),
        whiskers=tuple(plane.whisker(sure, (low, high), tone) for sure, _, low, high, _ in found.bins),
        lines=(Line(points=plane.points((sure, right) for sure, right, *_ in found.bins), series=tone),),
        marks=tuple(
            plane.mark(
                sure, right, tone, says=f"{n} answers: {100 * sure:.0f} % sure, {100 * right:.0f} % right"
            )
            for sure, right, _, _, n in found.bins
        ),
    )


def risk_chart(found: Sequence[Confidence], tones: Tones) -> Chart | None:
    """The share of wrong answers by the share of items answered, the most confident first."""
    found = found[:MOST_SERIES]
    if not found:
        return None
    up = spanning([0.0, *(risk for each in found for _, risk in each.curve)], percent=True)
    plane = Plane(across=_SHARES, up=up)
    ends = [(each, each.curve[n]) for each in found for n in (len(each.curve) // 2, len(each.curve) - 1)]
    return Chart(
        title="Risk by coverage",
        says="; ".join(f"{each.name}: area under the curve {each.aurc:.3f}" for each in found) + ".",
        x_label="answered, the surest first, %",
        y_label="wrong, %",
        x_ticks=plane.x_ticks,
        y_ticks=plane.y_ticks,
        lines=tuple(Line(points=plane.points(each.curve), series=tones.get(each.name, 1)) for each in found),
        marks=tuple(
            plane.mark(
                cover,
                risk,
                tones.get(each.name, 1),
                says=f"{each.name}: {100 * cover:.0f} % answered, {100 * risk:.1f} % of these wrong",
            )
            for each, (cover, risk) in ends
        ),
        legend=legend_of((each.name for each in found), tones),
    )


def frontier_chart(arms: Sequence[Arm], unit: str, tones: Tones) -> Chart | None:
    """Accuracy by cost an item, each result with its number; None if fewer than two costs are known.

    The line joins the results that no other one beats in both; they are filled, the others hollow.
    """
    known = [(n, arm, cost) for n, arm in enumerate(arms, 1) if (cost := cost_of(arm, unit)) and arm.n]
    if len(known) < 2:
        return None
    costs = [cost for *_, cost in known]
    plane = Plane(
        across=cost_axis(costs),
        up=spanning([bound for _, arm, _ in known for bound in (arm.accuracy, *arm.interval)], percent=True),
    )
    best = pareto([(cost, arm.accuracy) for _, arm, cost in known])
    marks = []
    for place, (_, arm, cost) in enumerate(known):
        says = f"{arm.name}: {100 * arm.accuracy:.1f} %, {short(cost)} {UNITS[unit]}"
        mark = plane.mark(cost, arm.accuracy, tones[arm.name], says=says, hollow=place not in best)
        marks.append((mark, plane.x(cost), plane.y(arm.accuracy)))
    front = sorted((known[n][2], known[n][1].accuracy) for n in best)
    names = ", ".join(known[n][1].name for n in best)
    return Chart(
        title=UNITS[unit],
        says=f"Accuracy by {UNITS[unit]}; no other result is cheaper and better than: {names}.",
        x_label=f"{UNITS[unit]}{', logarithmic' if plane.across.log else ''}",
        y_label="accuracy, %",
        x_ticks=plane.x_ticks,
        y_ticks=plane.y_ticks,
        guides=(plane.points(front),) if len(front) > 1 else (),
        marks=labelled(marks, [str(n) for n, *_ in known]),
        whiskers=tuple(plane.whisker(cost, arm.interval, tones[arm.name]) for _, arm, cost in known),
    )


def cost_axis(costs: Sequence[float]) -> Axis:
    """The axis of costs: from 0, or logarithmic if the largest is more than ten times the smallest."""
    return log_spanning(costs) if max(costs) > _LOG_FROM * min(costs) else spanning([0.0, *costs])


def cost_of(arm: Arm, unit: str) -> float | None:
    """What an item cost, or None if unknown."""
    if arm.cost is None or not arm.items:
        return None
    tokens = arm.cost.prompt_tokens + arm.cost.generated_tokens
    total = {"tokens": tokens, "seconds": arm.cost.seconds, "flops": arm.cost.flops}[unit]
    return total / arm.items if total else None


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points that no other one beats: none costs as little and is as good, and differs.

    Args:
        points: Cost (less is better) and accuracy (more is better).

    Example:
        >>> pareto([(1, 0.5), (2, 0.5), (3, 0.9), (1, 0.5)])
        [0, 2, 3]
    """
    return [
        n
        for n, (cost, good) in enumerate(points)
        if not any(c <= cost and g >= good and (c, g) != (cost, good) for c, g in points)
    ]


def _steps(first: float, last: float) -> Axis:
    steps = sorted({round(first + (last - first) * part / 4) for part in range(5)})
    return Axis(low=first, high=last, ticks=tuple((float(step), f"{step:g}") for step in steps))


def _range(curves: Sequence[Curve]) -> list[float]:
    values = [value for curve in curves for value in curve.values]
    return values + [bound for curve in curves for interval in curve.intervals for bound in interval]
