"""Charts: axes hold what is drawn, and places are those of the numbers."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.evals import Arm, EvalCost
from docendo.evals.reports._axes import Axis, log_spanning, named, short, spanning, ticks
from docendo.evals.reports._charts import curve_chart, frontier_chart, loss_chart, pareto, reliability_chart
from docendo.evals.reports._drawing import BOTTOM, LEFT, RIGHT, TOP, Mark, Plane, labelled, shape
from docendo.evals.reports._forest import forests
from docendo.evals.reports._parts import Confidence, Curve, Difference

numbers = st.floats(-1e9, 1e9, allow_subnormal=False)
costs = st.floats(1e-6, 1e15)


@given(numbers, numbers)
def test_ticks_are_even_and_hold_the_range(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    assert 2 <= len(found) <= 8
    assert all(b - a == pytest.approx(step) for a, b in pairwise(found))


@given(st.lists(costs, min_size=1, max_size=6))
def test_a_logarithmic_axis_holds_its_values_and_writes_few_ticks(values: list[float]) -> None:
    axis = log_spanning(values)
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in values)
    assert 1 <= len(axis.ticks) <= 5
    assert axis.share(axis.low) == 0
    assert axis.share(axis.high) == pytest.approx(1)


@given(st.floats(1e-12, 1e20))
def test_short_numbers_are_short_and_true(value: float) -> None:
    text = short(value)
    factor = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}.get(text[-1])
    shown = float(text[:-1]) * factor if factor else float(text)
    assert shown == pytest.approx(value, rel=6e-3)
    assert len(text) <= 8


def test_places_are_those_of_the_numbers() -> None:
    plane = Plane(across=spanning([0, 10]), up=spanning([0.0, 1.0], percent=True))
    assert [text for _, text in plane.up.ticks] == ["0", "20", "40", "60", "80", "100"]
    assert plane.points([(0, 0), (5, 0.5), (10, 1)]) == (
        f"{LEFT},{BOTTOM} {(LEFT + RIGHT) / 2},{(TOP + BOTTOM) / 2} {RIGHT},{TOP}"
    )
    assert plane.whisker(5, (0.0, 1.0), 3) == (f"{(LEFT + RIGHT) / 2}", f"{TOP}", f"{BOTTOM}", 3)


def test_stages_with_long_names_are_thinned_and_clipped() -> None:
    axis = named([f"a stage with a long name {n}" for n in range(20)])
    assert len(axis.ticks) == 5
    assert all(len(text) <= 9 for _, text in axis.ticks)
    assert isinstance(named(["only"]), Axis)


def _dominated(points: list[tuple[float, float]], n: int) -> bool:
    cost, good = points[n]
    return any(
        (c < cost and g >= good) or (c <= cost and g > good) for k, (c, g) in enumerate(points) if k != n
    )


@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=9))
def test_the_frontier_holds_just_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    assert pareto(points) == [n for n in range(len(points)) if not _dominated(points, n)]


def arm(name: str, accuracy: float, tokens: int, seconds: float = 0.0) -> Arm:
    return Arm(
        name=name,
        accuracy=accuracy,
        interval=(accuracy - 0.1, accuracy + 0.1),
        n=100,
        correct=round(100 * accuracy),
        items=100,
        cost=EvalCost(correct=round(100 * accuracy), generated_tokens=tokens, seconds=seconds),
    )


def test_the_frontier_chart_marks_who_is_beaten() -> None:
    arms = [arm("cheap", 0.3, 1000), arm("good", 0.6, 5000), arm("beaten", 0.5, 8000)]
    tones = {"cheap": 0, "good": 1, "beaten": 2}
    chart = frontier_chart(arms, "tokens", tones)
    assert chart is not None
    assert [mark.hollow for mark in chart.marks] == [False, False, True]
    assert [mark.text for mark in chart.marks] == ["1", "2", "3"]
    assert "cheap, good" in chart.says
    # 10, 50 and 80 tokens an item on an axis from 0 to 80.
    assert [text for _, text in chart.x_ticks] == ["0", "20", "40", "60", "80"]
    assert float(chart.whiskers[1][0]) == pytest.approx(LEFT + (RIGHT - LEFT) * 50 / 80, abs=0.06)
    assert frontier_chart(arms, "flops", tones) is None
    assert frontier_chart(arms[:1], "tokens", tones) is None
    wide = frontier_chart([*arms, arm("costly", 0.9, 500_000)], "tokens", {**tones, "costly": 3})
    assert wide is not None
    assert wide.x_label.endswith("logarithmic")


def test_labels_leave_marks_and_each_other_free_where_there_is_room() -> None:
    places = [(100.0, 100.0), (108.0, 100.0), (100.0, 110.0)]
    marks = labelled([(Mark(path="", series=0), x, y) for x, y in places], ["1", "2", "3"])
    boxes = [(float(m.x), float(m.y) - 10, float(m.x) + 7, float(m.y) + 2) for m in marks]
    boxes += [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for n, one in enumerate(boxes[:3]):
        for other in boxes[n + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one, other)


def test_neighbouring_series_differ_in_shape() -> None:
    paths = [shape(series, 10, 10) for series in range(4)]
    assert len({re.sub(r"[\d.,\s-]", "", path) for path in paths}) >= 3
    assert len(set(paths)) == 4
    assert all(path.startswith("M") and path.endswith("z") for path in paths)


def test_a_loss_curve_says_where_it_begins_and_ends() -> None:
    chart = loss_chart([(1, 2.0), (2, float("nan")), (3, 0.5)])
    assert chart is not None
    assert chart.says == "The loss goes from 2.000 at the start to 0.500 at the end."
    assert len(chart.lines[0].points.split()) == 2
    assert loss_chart([(1, 2.0)]) is None


def test_curves_of_k_samples_lie_on_doublings() -> None:
    curve = Curve(name="a", kind="pass@k", labels=("1", "2", "4"), values=(0.2, 0.4, 0.6))
    chart = curve_chart([curve], {"a": 1}, title="pass@k", x_label="k", numbers=True)
    assert chart is not None
    across = [float(point.split(",")[0]) for point in chart.lines[0].points.split()]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.11)
    assert chart.legend == ()
    assert curve_chart([], {}, title="", x_label="") is None


def test_a_reliability_diagram_has_a_column_for_each_bin_with_answers() -> None:
    found = Confidence(
        name="a",
        n=30,
        accuracy=0.5,
        confidence=0.6,
        ece=0.1,
        ece_if_calibrated=0.05,
        brier=0.2,
        aurc=0.3,
        bins=((0.05, 0.0, 0.0, 0.3, 10), (1.0, 0.8, 0.5, 0.9, 20)),
        curve=((1.0, 0.5),),
    )
    chart = reliability_chart(found, {"a": 2})
    assert len(chart.bars) == len(chart.marks) == 2
    heights = [float(height) for *_, height in chart.bars]
    assert heights[1] == 2 * heights[0]
    assert float(chart.bars[1][0]) + float(chart.bars[1][2]) < RIGHT


def difference(name: str, value: float, **fields: object) -> Difference:
    row = Difference(
        name=name,
        against="base",
        difference=value,
        interval=(value - 0.1, value + 0.1),
        p_value=0.2,
        n=9,
        verdict="no effect shown",
    )
    return row.replace(**fields)


def test_a_forest_shares_one_axis_that_holds_zero_and_every_interval() -> None:
    (forest,) = forests([difference("a", 0.3), difference("b", 0.5, verdict="better")])
    assert forest.unit == "percentage points"
    assert forest.sides == ("worse", "better")
    assert 0 <= float(forest.zero) < float(forest.rows[0].low) < float(forest.rows[0].middle)
    assert float(forest.rows[1].high) <= 100
    assert [row.tone for row in forest.rows] == ["flat", "good"]
    assert forest.rows[1].interval == "+40.0 to +60.0"
    width = float(forest.rows[0].high) - float(forest.rows[0].low)
    assert width == pytest.approx(float(forest.rows[1].high) - float(forest.rows[1].low), abs=0.02)


def test_a_forest_of_another_metric_keeps_its_unit_and_its_good_side() -> None:
    tokens = difference("a", -12.0, metric="tokens", direction="less", adjusted=0.4, before=40.0, after=28.0)
    right, other = forests([difference("b", 0.1), tokens])
    assert (right.metric, other.metric, other.unit) == ("correct", "tokens", "tokens")
    assert other.sides == ("better", "worse")
    assert (other.rows[0].difference, other.rows[0].means) == ("−12", "40 → 28")
    assert other.rows[0].p_value == "p 0.200, adjusted 0.400"
