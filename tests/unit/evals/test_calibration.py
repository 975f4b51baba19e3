"""Calibration against hand-computed values, scikit-learn, and simulated models of known calibration."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from docendo.errors import ConfigError, DataError
from docendo.evals import calibration, wilson

answers = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def simulated(n, *, shift=0.0, seed=0):
    """Answers whose chance to be right is their confidence less `shift`."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 0.95, n)
    return confidence, rng.random(n) < confidence - shift


def binned_gap(groups, n):
    """The definition: the sum over bins of n_b / n |accuracy - confidence|."""
    return sum(
        len(g) / n * abs(sum(r for _, r in g) / len(g) - sum(c for c, _ in g) / len(g)) for g in groups if g
    )


def test_a_table_worked_out_by_hand():
    found = calibration([0.95, 0.95, 0.85, 0.35, 0.35, 0.05], [1, 0, 1, 0, 1, 0], bins=10)
    # (0.9, 1]: 0.5 against 0.95; (0.8, 0.9]: 1 against 0.85; (0.3, 0.4]: 0.5 against 0.35; [0, 0.1]: 0, 0.05
    assert found.ece.value == pytest.approx((2 * 0.45 + 0.15 + 2 * 0.15 + 0.05) / 6)
    assert found.brier.value == pytest.approx((0.05**2 + 0.95**2 + 0.15**2 + 0.35**2 + 0.65**2 + 0.05**2) / 6)
    logs = [math.log(p) for p in (0.95, 0.05, 0.85, 0.65, 0.35, 0.95)]
    assert found.nll.value == pytest.approx(-sum(logs) / 6)
    assert [row.n for row in found.bins] == [1, 0, 0, 2, 0, 0, 0, 0, 1, 2]
    top = found.bins[9]
    assert (top.low, top.high, top.confidence, top.accuracy) == (0.9, 1.0, 0.95, 0.5)
    assert top.interval == wilson(1, 2)
    assert (found.bins[1].accuracy, found.bins[1].interval) == (None, (0.0, 1.0))
    assert found.accuracy.value == 0.5
    assert found.n == 6


@given(answers, st.integers(1, 20))
def test_ece_is_its_definition(rows, bins):
    groups = [
        [(c, r) for c, r in rows if (c > low / bins or low == 0) and c <= (low + 1) / bins]
        for low in range(bins)
    ]
    found = calibration(*zip(*rows, strict=True), bins=bins, resamples=100)
    assert found.ece.value == pytest.approx(binned_gap(groups, len(rows)))
    assert [row.n for row in found.bins] == [len(group) for group in groups]


@given(answers)
def test_brier_and_likelihood_are_sklearns(rows):
    confidence, right = zip(*rows, strict=True)
    found = calibration(confidence, right, resamples=100)
    assert found.brier.value == pytest.approx(brier_score_loss(right, confidence, labels=[False, True]))
    assert found.nll.value == pytest.approx(log_loss(right, confidence, labels=[False, True]))


def test_distributions_are_sklearns():
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.ones(4), 300), rng.integers(0, 4, 300)
    found = calibration(probs, labels)
    assert found.brier.value == pytest.approx(brier_score_loss(labels, probs, scale_by_half=False))
    assert found.nll.value == pytest.approx(log_loss(labels, probs))
    top = calibration(probs.max(1), probs.argmax(1) == labels)
    assert found.ece == top.ece
    assert found.bins == top.bins


def test_two_classes_are_a_confidence_seen_from_both_sides():
    found = calibration([[0.8, 0.2], [0.3, 0.7]], [0, 0])
    assert found.ece.value == pytest.approx((0.2 + 0.7) / 2)
    assert found.brier.value == pytest.approx((2 * 0.2**2 + 2 * 0.7**2) / 2)


def test_adaptive_bins_hold_equally_many_answers():
    confidence = [0.1, 0.2, 0.6, 0.61, 0.62, 0.63]
    right = [0, 1, 1, 0, 1, 1]
    rows = list(zip(confidence, right, strict=True))
    expected = binned_gap([rows[:2], rows[2:4], rows[4:]], 6)
    assert calibration(confidence, right, bins=3).adaptive_ece == pytest.approx(expected)


def test_adaptive_bins_do_not_part_equal_confidences():
    # Parted between right and wrong, the gaps would be 0.5 each.
    assert calibration([0.5] * 10, [0] * 5 + [1] * 5, bins=2).adaptive_ece == 0


def test_the_calibrated_show_only_noise():
    found = calibration(*simulated(4000), resamples=200)
    assert found.ece.value < 0.04
    assert found.ece.value == pytest.approx(found.ece_if_calibrated, abs=0.015)
    assert found.ece.interval[0] == 0
    assert found.adaptive_ece < 0.04


@pytest.mark.parametrize("shift", [0.1, 0.25])
def test_a_shift_shows_as_it_is(shift):
    found = calibration(*simulated(4000, shift=shift), resamples=200)
    assert found.ece.value == pytest.approx(shift, abs=0.02)
    assert found.adaptive_ece == pytest.approx(shift, abs=0.02)
    assert found.ece.interval[0] < shift < found.ece.interval[1]
    assert found.confidence.value - found.accuracy.value == pytest.approx(shift, abs=0.02)


def test_few_answers_look_miscalibrated_and_the_report_says_so():
    found = [calibration(*simulated(100, seed=seed), resamples=100) for seed in range(20)]
    assert np.mean([one.ece.value for one in found]) > 0.07
    assert np.mean([one.ece.value - one.ece_if_calibrated for one in found]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_the_interval_of_ece_covers(shift):
    found = [calibration(*simulated(300, shift=shift, seed=seed), resamples=100) for seed in range(60)]
    hits = [one.ece.interval[0] <= shift <= one.ece.interval[1] for one in found]
    assert np.mean(hits) >= 0.8


def test_a_sure_mistake_costs_36_nats():
    assert calibration([1.0], [False]).nll.value == pytest.approx(-math.log(np.finfo(float).eps))
    assert calibration([1.0], [True]).nll.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("confidence", "place"), [(0.7, 6), (0.6, 5), (0.0, 0), (1.0, 9), (0.700001, 7)])
def test_an_edge_belongs_to_the_lower_bin(confidence, place):
    rows = calibration([confidence], [True], bins=10).bins
    assert [row.n for row in rows].index(1) == place


def test_order_does_not_matter():
    confidence, right = simulated(200)
    order = np.random.default_rng(1).permutation(200)
    assert calibration(confidence, right, resamples=200) == calibration(
        confidence[order], right[order], resamples=200
    )


def test_the_report_is_json():
    stored = json.loads(json.dumps(calibration([0.9, 0.2], [1, 0]).to_json(), allow_nan=False))
    assert stored["ece"]["value"] == pytest.approx(0.15)
    assert len(stored["bins"]) == 15


@pytest.mark.parametrize(
    ("predictions", "outcomes", "message"),
    [
        ([], [], "at least one"),
        ([0.5], [1, 0], "2 entries"),
        ([1.2], [1], r"predictions\[0\] is 1.2"),
        ([float("nan")], [1], "finite"),
        (["0.5"], [1], "predictions"),
        ("0.5", [1], "sequence"),
        ([0.5], [2], r"outcomes\[0\] is 2"),
        ([0.5], [None], "True or False"),
        ([[0.5, 0.6]], [0], "sum 1"),
        ([[0.5, 0.5], [1.0]], [0, 0], "1 probabilities"),
        ([[0.5, 0.5]], [2], "0 to 1"),
        ([[0.5, 0.5]], [True], "index of a class"),
        ([[]], [0], "sum"),
    ],
)
def test_what_cannot_be_measured_is_refused(predictions, outcomes, message):
    with pytest.raises(DataError, match=message):
        calibration(predictions, outcomes)


@pytest.mark.parametrize("settings", [{"bins": 0}, {"resamples": 5}, {"level": 95}, {"bins": 2.5}])
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError):
        calibration([0.5, 0.6], [1, 0], **settings)
