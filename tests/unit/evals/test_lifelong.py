"""Lifelong metrics: hand-made matrices and curves whose answers are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from docendo.errors import ConfigError, DataError
from docendo.evals import (
    EvalRecord,
    EvalResult,
    LifelongBlock,
    LifelongLog,
    StageMatrix,
    TaskMeasures,
    forgetting_resilience,
    incremental_plasticity,
    windowed_forgetting,
    windowed_plasticity,
)
from docendo.evals.metrics._lifelong_log import smooth

# Three stages, three tasks:      a    b    c
HAND = StageMatrix(
    tasks=("a", "b", "c"),
    scores=(
        (0.8, 0.2, 0.1),
        (0.9, 0.7, 0.3),
        (0.5, 0.6, 0.9),
    ),
    base=(0.1, 0.1, 0.2),
    joint=(0.9, 0.9, 0.9),
    chance=(0.1, 0.5, None),
)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("overall", (0.5 + 0.6 + 0.9) / 3),
        ("average_incremental", (0.8 + (0.9 + 0.7) / 2 + (0.5 + 0.6 + 0.9) / 3) / 3),
        ("forgetting", ((0.9 - 0.5) + (0.7 - 0.6)) / 2),
        ("bwt", ((0.5 - 0.8) + (0.6 - 0.7)) / 2),
        ("fwt", ((0.2 - 0.1) + (0.3 - 0.2)) / 2),
        ("intransigence", ((0.9 - 0.8) + (0.9 - 0.7) + (0.9 - 0.9)) / 3),
        ("expanded_bwt", ((0.9 - 0.8) + (0.5 - 0.8) + (0.6 - 0.7)) / 3),
    ],
)
def test_each_formula_by_hand(metric, expected):
    found = getattr(HAND, metric)()
    assert found.value == pytest.approx(expected)
    assert (found.interval, found.reason) == (None, "there are no scores of single items")


def test_the_running_mean_counts_the_tasks_learnt_so_far():
    assert [one.value for one in HAND.running()] == pytest.approx([0.8, 0.8, 2 / 3])


def test_learning_that_goes_on_has_fewer_stages_than_tasks():
    young = StageMatrix(tasks=HAND.tasks, scores=HAND.scores[:2], base=HAND.base)
    assert young.overall().value == pytest.approx(0.8)
    assert young.forgetting().value == pytest.approx(0.8 - 0.9)
    assert young.fwt().value == pytest.approx(0.1)


def test_one_stage_has_nothing_to_forget():
    first = StageMatrix(tasks=("a", "b"), scores=((0.8, 0.2),), base=(0.1, 0.1))
    for metric in ("forgetting", "bwt", "fwt", "expanded_bwt"):
        found = getattr(first, metric)()
        assert (found.value, found.reason) == (None, "there is only one stage")
    assert first.overall().value == 0.8


@pytest.mark.parametrize(
    ("metric", "hole"),
    [
        ("overall", (2, 1)),
        ("average_incremental", (1, 0)),
        ("forgetting", (0, 1)),
        ("bwt", (1, 1)),
        ("fwt", (0, 1)),
        ("expanded_bwt", (1, 0)),
    ],
)
def test_a_missing_cell_is_an_error_where_it_is_needed_and_never_zero(metric, hole):
    stage, task = hole
    rows = [list(row) for row in HAND.scores]
    rows[stage][task] = None
    matrix = HAND.replace(scores=tuple(map(tuple, rows)))
    with pytest.raises(DataError, match=rf"after stage {stage} .* on task '{HAND.tasks[task]}' is missing"):
        getattr(matrix, metric)()


def test_what_is_not_needed_may_be_missing():
    rows = ((0.8, None, None), (0.9, 0.7, None), (0.5, 0.6, 0.9))
    lower = StageMatrix(tasks=HAND.tasks, scores=rows)
    assert lower.overall().value == HAND.overall().value
    assert lower.bwt().value == HAND.bwt().value
    with pytest.raises(DataError, match="no base row; evaluate the base model"):
        HAND.replace(base=None).fwt()
    with pytest.raises(DataError, match="no joint row"):
        HAND.replace(joint=None).intransigence()


def test_the_table_shows_every_row_and_chance():
    lines = str(HAND).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["base", "1:", "2:", "3:", "joint", "chance"]
    assert lines[-1].split() == ["chance", "0.100", "0.500", "-"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tasks": ("a", "a", "c")},
        {"scores": ()},
        {"scores": HAND.scores * 2},
        {"scores": ((0.1, 0.2),)},
        {"base": (0.1, math.nan, 0.2)},
        {"items": {"a": {"0": (1.0, 0.0)}}},
        {"items": {"a": {"0": (0.8,), "1": (0.9, 0.9)}}},
    ],
)
def test_a_matrix_that_makes_no_sense_is_refused(fields):
    with pytest.raises(DataError):
        HAND.replace(**fields)


def result(task, rights, chance=None):
    records = tuple(EvalRecord(item=f"{task}{i}", question="", correct=r) for i, r in enumerate(rights))
    return EvalResult(name="x", task=task, scorer="exact", records=records, chance=chance)


def drawn(seed=0, n=(40, 60)):
    rng = np.random.default_rng(seed)
    shares = {"base": (0.1, 0.1), 0: (0.8, 0.3), 1: (0.5, 0.9), "joint": (0.9, 0.9)}
    return {
        row: [
            result(task, [bool(x) for x in rng.random(size) < share], chance=0.25)
            for task, size, share in zip("ab", n, given, strict=True)
        ]
        for row, given in shares.items()
    }


def test_a_matrix_of_evaluations_has_their_accuracies():
    rows = drawn()
    matrix = StageMatrix.of([rows[0], rows[1]], base=rows["base"], joint=rows["joint"])
    assert matrix.tasks == ("a", "b")
    for row, scores in (
        (rows[0], matrix.scores[0]),
        (rows[1], matrix.scores[1]),
        (rows["base"], matrix.base),
    ):
        assert scores == pytest.approx([one.accuracy for one in row])
    assert matrix.chance == (0.25, 0.25)
    assert StageMatrix.of([rows[0], dict(zip("ab", rows[1], strict=True))]).scores == matrix.scores
    assert StageMatrix.of([rows[0], rows[1]], tasks=["b", "a"]).scores[0] == matrix.scores[0][::-1]


def test_intervals_resample_items_and_keep_their_pairs():
    rows = drawn()
    matrix = StageMatrix.of([rows[0], rows[1]], base=rows["base"], joint=rows["joint"])

    def rights(row, task):
        return np.array([record.correct for record in rows[row][task].records], dtype=float)

    expected = stats.bootstrap(
        (rights(0, 0), rights(1, 0)),
        lambda old, new, axis: new.mean(axis) - old.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=1,
    ).confidence_interval
    assert matrix.bwt().interval == pytest.approx((expected.low, expected.high), abs=1.01 / 40)
    assert matrix.bwt() == matrix.bwt()
    assert len({matrix.overall(seed=seed, resamples=500).interval for seed in range(5)}) > 1
    for metric in ("overall", "forgetting", "fwt", "intransigence", "average_incremental", "expanded_bwt"):
        low, high = getattr(matrix, metric)(resamples=500).interval
        assert low <= getattr(matrix, metric)(resamples=500).value <= high


def test_identical_stages_forget_nothing_with_certainty():
    rows = drawn()
    matrix = StageMatrix.of([rows[0], rows[0]])
    assert (matrix.bwt().value, matrix.bwt().interval) == (0.0, (0.0, 0.0))


def test_left_out_items_are_counted():
    stages = [
        [result("a", [True, True, None, False]), result("b", [True])],
        [result("a", [False, None, True, True, True]), result("b", [True])],
    ]
    matrix = StageMatrix.of(stages)
    # Items 0 and 3 of task a were answered in both stages.
    assert (matrix.scores, matrix.left_out) == (((0.5, 1.0), (0.5, 1.0)), 3)
    assert str(matrix).endswith("3 items left out")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "there is no stage"),
        ([[result("a", [True]), result("a", [True])]], "task 'a' more than once"),
        (
            [[result("a", [True]), result("b", [True])], [result("a", [True])]],
            "row 1 has no result of task 'b'",
        ),
        ([[result("a", [None])]], "no item of task 'a' was answered in all rows"),
    ],
)
def test_evaluations_that_do_not_fit_are_refused(stages, message):
    with pytest.raises(DataError, match=message):
        StageMatrix.of(stages)


def test_a_matrix_survives_json():
    rows = drawn()
    matrix = StageMatrix.of([rows[0], rows[1]], base=rows["base"])
    for one in (HAND, matrix):
        assert StageMatrix.from_json(json.loads(json.dumps(one.to_json()))) == one


# Series of average scores


def test_a_constant_series_neither_falls_nor_rises():
    flat = [0.5] * 8
    assert windowed_forgetting(flat).value == windowed_plasticity(flat).value == 0.0
    assert incremental_plasticity(flat).value == 0.0
    assert forgetting_resilience(flat).value == 1.0


def test_windows_see_so_far_and_no_further():
    fall = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert windowed_forgetting(fall).value == pytest.approx(0.5)
    assert windowed_forgetting(fall, window=2).value == pytest.approx(0.2)
    assert windowed_plasticity(fall).value == 0.0
    rise = fall[::-1]
    assert windowed_plasticity(rise).value == pytest.approx(0.5)
    assert windowed_plasticity([0.0, 1.0, 0.2, 0.4]).value == 1.0
    assert incremental_plasticity(rise).value == pytest.approx(0.1)
    assert forgetting_resilience(fall).value == pytest.approx(1 / 3)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(1, 6))
def test_windowed_metrics_by_brute_force(scores, window):
    drops = [scores[m] - scores[n] for n in range(len(scores)) for m in range(n) if n - m <= window]
    assert windowed_forgetting(scores, window=window).value == max(0.0, *drops)
    assert windowed_plasticity(scores, window=window).value == max(0.0, *(-drop for drop in drops))


def test_series_without_an_answer_say_why():
    for metric in (windowed_forgetting, windowed_plasticity, incremental_plasticity):
        assert metric([0.5]).reason == "there is only one stage"
    assert forgetting_resilience([0.0, 0.0]).reason == "every score is 0"
    for metric in (windowed_forgetting, incremental_plasticity, forgetting_resilience):
        for bad in ([], [math.nan]):
            with pytest.raises(DataError, match="finite numbers"):
                metric(bad)
    with pytest.raises(DataError, match="0 or more"):
        forgetting_resilience([-0.1])
    with pytest.raises(ConfigError, match="window"):
        windowed_forgetting([0.1, 0.2], window=0)


# Logs of learning and evaluation


def learn(task, *scores):
    return LifelongBlock(kind="learn", task=task, scores=scores)


def checked(task, *scores):
    return LifelongBlock(kind="evaluate", task=task, scores=scores)


def log(*blocks):
    return LifelongLog(blocks=blocks)


def test_terminal_performance_is_the_last_tenth_of_a_lesson_and_all_of_an_evaluation():
    assert learn("a", *range(20)).terminal == (18 + 19) / 2
    assert learn("a", *range(5)).terminal == 4
    assert learn("a", *range(11)).terminal == (9 + 10) / 2
    assert checked("a", 0.0, 1.0).terminal == 0.5


FADING = log(
    checked("a", 0.1),
    learn("a", 0.2, 0.9),
    checked("a", 0.8),  # the reference of mrlep
    learn("b", 0.5),
    checked("a", 0.6),
    learn("b", 0.7),
    checked("a", 0.5),
    learn("a", 0.9, 1.0),
    checked("a", 0.9),  # the next reference
    checked("a", 0.7),
)


def test_performance_maintenance_by_hand():
    by_evaluation = FADING.performance_maintenance()
    assert by_evaluation.values["a"].value == pytest.approx(((0.6 - 0.8) + (0.5 - 0.8) + (0.7 - 0.9)) / 3)
    by_lesson = FADING.performance_maintenance(reference="mrtlp")
    assert by_lesson.values["a"].value == pytest.approx(((0.6 - 0.9) + (0.5 - 0.9) + (0.7 - 1.0)) / 3)
    assert by_evaluation.values["b"].reason == "it is not evaluated twice after it is learnt"
    assert by_evaluation.mean.value == by_evaluation.values["a"].value


def test_what_stays_is_maintained_perfectly():
    steady = log(learn("a", 0.5), checked("a", 0.5), learn("b", 0.1), checked("a", 0.5))
    assert steady.performance_maintenance().values["a"].value == 0.0


def test_transfer_forward_and_backward_by_hand():
    met = log(
        checked("a", 0.2),
        checked("b", 0.2),
        learn("a", 0.5),
        checked("a", 0.6),
        checked("b", 0.3),
        learn("b", 0.5),
        checked("a", 0.4),
        checked("b", 0.6),
    )
    assert met.forward_transfer().values.keys() == {"a -> b"}
    assert met.forward_transfer().values["a -> b"].value == pytest.approx((0.3 - 0.2) / (0.3 + 0.2))
    assert met.forward_transfer(form="ratio").values["a -> b"].value == pytest.approx(0.3 / 0.2)
    assert met.backward_transfer().values.keys() == {"b -> a"}
    assert met.backward_transfer().values["b -> a"].value == pytest.approx((0.4 - 0.6) / (0.4 + 0.6))
    assert met.backward_transfer(form="ratio").values["b -> a"].value == pytest.approx(0.4 / 0.6)


def test_transfer_is_averaged_over_repeats_and_needs_one_teacher_alone():
    twice = log(
        checked("b", 0.2), learn("a", 1), checked("b", 0.4), learn("a", 1), checked("b", 0.4), learn("b", 1)
    )
    assert twice.forward_transfer(form="ratio").values["a -> b"].value == pytest.approx((2.0 + 1.0) / 2)
    mixed = log(checked("c", 0.2), learn("a", 1), learn("b", 1), checked("c", 0.4))
    assert mixed.forward_transfer().values == {}
    own = log(checked("a", 0.2), learn("a", 1), checked("a", 0.4))
    assert own.forward_transfer().values == own.backward_transfer().values == {}


def test_transfer_from_zero_has_a_contrast_but_no_ratio():
    first = log(checked("b", 0.0), learn("a", 1), checked("b", 0.4))
    assert first.forward_transfer().values["a -> b"].value == 1.0
    ratio = first.forward_transfer(form="ratio").values["a -> b"]
    assert (ratio.value, ratio.reason) == (None, "its ratio has the denominator 0")
    still = log(checked("b", 0.0), learn("a", 1), checked("b", 0.0))
    assert still.forward_transfer().values["a -> b"].value is None
    assert still.forward_transfer().mean.value is None
    with pytest.raises(DataError, match="normalise the log first"):
        log(checked("b", -1), learn("a", 1), checked("b", 0.4)).forward_transfer()


LINE = tuple((i + 1) / 10 for i in range(10))


@pytest.mark.parametrize(
    ("own", "expert", "expected"),
    [
        ((0.5,) * 10, (0.5,) * 10, 1.0),  # constant
        (LINE, LINE, 1.0),
        (tuple(x / 2 for x in LINE), LINE, 0.5),
        ((0.0,) * 5 + (1.0,) * 5, (1.0,) * 10, 0.5),  # a step half-way
        ((1.0,) * 4, LINE, 4 / (0.1 + 0.2 + 0.3 + 0.4)),  # over as many experiences
    ],
)
def test_relative_performance_on_known_curves(own, expert, expected):
    found = log(learn("a", *own[:3]), learn("b", 1), learn("a", *own[3:])).relative_performance({"a": expert})
    assert found.values["a"].value == pytest.approx(expected)
    assert found.values["b"].reason == "it has no expert"


def test_an_expert_that_learnt_less_is_pointed_out():
    found = log(learn("a", 1, 1, 1)).relative_performance({"a": (1, 1)}).values["a"]
    assert (found.value, found.reason) == (1.0, "the expert has 2 of 3 experiences")
    assert log(learn("a", 1)).relative_performance({"a": (0.0,)}).values["a"].value is None
    assert log(checked("a", 1)).relative_performance({"a": (1,)}).values["a"].reason == "it is never learnt"


@pytest.mark.parametrize(
    ("own", "expert", "expected"),
    [
        ((0.5,) * 10, (0.5,) * 10, 1.0),  # constant: saturated at once
        ((0.25,) * 10, (0.5,) * 10, 0.5),
        (LINE, LINE, 1.0),
        ((0.0,) * 4 + (1.0,) * 6, (0.0,) * 9 + (1.0,), 10 / 5),  # steps: after 5 and after 10 experiences
        ((0.0,) * 4 + (0.5,) * 6, (0.0,) + (1.0,) * 9, 0.5 * 2 / 5),
        ((0.1,) * 10, (1.0,) * 10, 0.0),  # below a fifth of the expert
        ((0.2,) * 10, (1.0,) * 10, 0.2),  # a fifth is enough
        (LINE[::-1], LINE, 0.0),  # it slopes down
    ],
)
def test_sample_efficiency_on_known_curves(own, expert, expected):
    found = log(learn("a", *own)).sample_efficiency({"a": expert}, window=1)
    assert found.values["a"].value == pytest.approx(expected)


def test_sample_efficiency_saturates_at_the_maximum_of_the_moving_average():
    spike = (0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.6, 0.6, 0.6, 0.6)
    found = log(learn("a", *spike)).sample_efficiency({"a": (0.6,) * 10}, window=3)
    # The spike averages to 0.3; 0.6 is first reached by a mean of three at the eighth.
    assert found.values["a"].value == pytest.approx(1.0 * 1 / 8)
    assert log(learn("a", 1.0)).sample_efficiency({"a": (0.0, 0.0)}).values["a"].value is None


def test_recovery_times_and_their_slope():
    rising = log(
        learn("a", 0.2, 0.5, 0.8),
        learn("b", 0.1),
        learn("a", 0.1, 0.4, 0.7, 0.8),  # as good as 0.8 again after four
        learn("a", 0.1, 0.9, 0.9),  # after two
        learn("a", 0.9, 0.3),  # at once
        learn("a", 0.1, 0.2),  # never: three
    )
    assert rising.recovery_times() == {"a": (4, 2, 1, 3), "b": ()}
    found = rising.performance_recovery()
    slopes = [(2 - 4) / 1, (1 - 4) / 2, (3 - 4) / 3, (1 - 2) / 1, (3 - 2) / 2, (3 - 1) / 1]
    assert found.values["a"].value == pytest.approx(-np.median(slopes))
    assert found.values["b"].reason == "it has fewer than three lessons"


@pytest.mark.parametrize(("times", "expected"), [((3, 3, 3), 0.0), ((4, 3, 2), 1.0), ((1, 3, 5), -2.0)])
def test_recovery_on_known_lines(times, expected):
    blocks = [learn("a", 1.0)] + [learn("a", *([0.0] * (t - 1)), 1.0) for t in times]
    # Each lesson ends at 1, so it takes as long as it is.
    found = log(*blocks).performance_recovery().values["a"].value
    assert found == expected
    assert math.copysign(1, found) == 1 or found < 0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_smoothing_is_the_mirrored_moving_average(scores):
    size = min(len(scores) // 5, 100)
    smoothed = smooth(scores)
    if size < 3:
        assert smoothed == tuple(scores)
        return
    before, after = size // 2, size - 1 - size // 2
    padded = np.pad(scores, (before, after), mode="reflect")
    expected = np.convolve(padded, np.ones(size) / size, mode="valid")
    assert smoothed == pytest.approx(list(expected), abs=1e-12)


def test_smoothing_touches_lessons_only_and_only_when_asked():
    noisy = log(learn("a", 0, 1, 0, 1, 0, 1), checked("a", 0, 1, 0))
    smoothed = noisy.smoothed(3)
    assert smoothed.blocks[0].scores == pytest.approx((2 / 3, 1 / 3, 2 / 3, 1 / 3, 2 / 3, 1 / 3))
    assert smoothed.blocks[1] == noisy.blocks[1]
    assert isinstance(smoothed, LifelongLog)
    with pytest.raises(ConfigError, match="window"):
        noisy.smoothed(0)


def test_normalising_maps_each_task_to_zero_and_one():
    raw = log(learn("a", -5, 5), checked("a", 0), learn("b", 1, 3))
    mapped, experts = raw.normalised({"a": (15.0,)})
    assert [block.scores for block in mapped.blocks] == [(0.0, 0.5), (0.25,), (0.0, 1.0)]
    assert experts == {"a": (1.0,)}
    fixed, _ = raw.normalised(ranges={"a": (-10, 10), "b": (0, 4)})
    assert [block.scores for block in fixed.blocks] == [(0.25, 0.75), (0.5,), (0.25, 0.75)]
    with pytest.raises(DataError, match="say with ranges="):
        log(learn("a", 0.5, 0.5)).normalised()


def test_rows_in_any_order_make_the_log():
    rows = [
        {"block": 0, "kind": "evaluate", "task": "b", "step": 0, "score": 0.1},
        {"block": 1, "kind": "learn", "task": "a", "step": 20, "score": 0.7},
        {"block": 1, "kind": "learn", "task": "a", "step": 10, "score": 0.4},
        {"block": 2, "kind": "evaluate", "task": "b", "step": 0, "score": 0.2},
        {"block": 2, "kind": "evaluate", "task": "a", "step": 0, "score": 0.6},
    ]
    expected = log(checked("b", 0.1), learn("a", 0.4, 0.7), checked("a", 0.6), checked("b", 0.2))
    assert LifelongLog.of(rows) == LifelongLog.of(rows[::-1]) == expected
    assert expected.tasks == ("b", "a")
    with pytest.raises(DataError, match="no 'step'"):
        LifelongLog.of([{"block": 0, "kind": "learn", "task": "a", "score": 1}])
    with pytest.raises(DataError, match="both learns and is evaluated"):
        LifelongLog.of([rows[1], {**rows[1], "kind": "evaluate"}])


def test_a_log_and_its_measures_survive_json():
    assert LifelongLog.from_json(json.loads(json.dumps(FADING.to_json()))) == FADING
    found = FADING.performance_maintenance()
    assert TaskMeasures.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert str(found).splitlines()[-1].startswith("mean: -0.233")


@pytest.mark.parametrize("fields", [{"kind": "sleep"}, {"scores": ()}, {"scores": (math.inf,)}])
def test_a_block_that_makes_no_sense_is_refused(fields):
    with pytest.raises(DataError):
        LifelongBlock(**{"kind": "learn", "task": "a", "scores": (1.0,), **fields})


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="mrlep, mrtlp"):
        FADING.performance_maintenance(reference="first")
    with pytest.raises(ConfigError, match="contrast, ratio"):
        FADING.forward_transfer(form="difference")
    with pytest.raises(ConfigError, match="resamples"):
        HAND.overall(resamples=3)
