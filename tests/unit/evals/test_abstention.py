"""Abstention, coverage and risk, and gaps out of distribution."""

import json
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support
from statsmodels.stats.proportion import confint_proportions_2indep

from docendo.errors import DataError
from docendo.evals import abstention, coverage_risk, ood_gap, wilson

# --- abstention ------------------------------------------------------------------------------------


def test_scores_worked_out_by_hand():
    found = abstention(
        answerable=[1, 1, 1, 1, 0, 0, 0, 0, 0],
        answered=[1, 1, 1, 0, 1, 0, 0, 0, 1],
        correct=[1, 1, 0, None, None, None, None, None, 1],
    )
    scores = found.scores
    assert (found.answerable, found.unanswerable) == (4, 5)
    assert scores.accuracy.value == 2 / 4
    assert scores.precision.value == 3 / 4
    assert scores.recall.value == 3 / 5
    assert scores.f1.value == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert scores.hallucination.value == 2 / 5  # whatever `correct` says of an unanswerable item
    assert scores.handled.value == 5 / 9
    assert scores.recall.interval == wilson(3, 5)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_abstention_is_sklearns(rows):
    can, did, right = zip(*rows, strict=True)
    scores = abstention(can, did, right).scores
    expected = precision_recall_fscore_support(
        [not one for one in can], [not one for one in did], average="binary", zero_division=np.nan
    )
    for found, value in zip((scores.precision, scores.recall, scores.f1), expected, strict=False):
        assert found.value is None if math.isnan(value) else found.value == pytest.approx(value)
        assert found.interval is None or found.interval[0] <= found.value <= found.interval[1]


def test_who_always_abstains_hallucinates_nothing_and_knows_nothing():
    found = abstention([1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, None]).always_abstain
    assert (found.accuracy.value, found.recall.value, found.hallucination.value) == (0, 1, 0)
    assert (found.precision.value, found.handled.value) == (1 / 4, 1 / 4)


def test_who_never_abstains_is_known_only_if_all_answers_are_graded():
    graded = abstention([1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, None]).never_abstain
    assert (graded.accuracy.value, graded.handled.value) == (2 / 3, 2 / 4)
    assert (graded.recall.value, graded.hallucination.value, graded.f1.value) == (0, 1, 0)
    assert graded.precision.value is None
    assert "no abstentions" in graded.precision.reason
    ungraded = abstention([1, 1, 1, 0], [1, 0, 1, 0], [1, None, 0, None]).never_abstain
    assert ungraded.accuracy.value is None
    assert "not every answer" in ungraded.accuracy.reason


def test_without_unanswerable_items_there_is_no_hallucination_rate():
    scores = abstention([1, 1], [1, 1], [1, 0]).scores
    assert scores.hallucination.value is None
    assert "no unanswerable" in scores.hallucination.reason


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([], [], []), "at least one"),
        (([1], [1, 1], [1]), "the same number"),
        (([1], [1], [None]), r"correct\[0\] is None"),
        (([1], ["yes"], [1]), r"answered\[0\]"),
        (([1], [1], ["right"]), r"correct\[0\]"),
    ],
)
def test_abstention_refuses_what_it_cannot_count(columns, message):
    with pytest.raises(DataError, match=message):
        abstention(*columns)


# --- coverage and risk -----------------------------------------------------------------------------


def aurc_by_enumeration(confidences, correct):
    """The mean, over all orders of equal confidences, of the mean risk of the first 1, 2, ... answers."""
    found = []
    for order in permutations(range(len(correct))):
        ranked = [confidences[i] for i in order]
        if ranked == sorted(ranked, reverse=True):
            wrong = np.cumsum([not correct[i] for i in order])
            found.append(np.mean(wrong / np.arange(1, len(order) + 1)))
    return np.mean(found)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_aurc_is_the_mean_over_the_orders_of_ties(rows):
    confidences, correct = zip(*rows, strict=True)
    found = coverage_risk(confidences, correct, resamples=100)
    assert found.aurc.value == pytest.approx(aurc_by_enumeration(confidences, correct))
    best = aurc_by_enumeration([float(right) for right in correct], correct)
    assert found.eaurc == pytest.approx(found.aurc.value - best, abs=1e-12)


def test_points_stand_only_where_the_confidence_changes():
    curve = coverage_risk([0.9, 0.7, 0.7, 0.7, 0.2], [1, 1, 0, 0, 1])
    assert [(p.threshold, p.n, p.risk) for p in curve.points] == [(0.9, 1, 0.0), (0.7, 4, 0.5), (0.2, 5, 0.4)]
    assert curve.points[1].interval == wilson(2, 4)
    assert curve.risk.value == 0.4


def test_risk_at_coverage_and_coverage_at_risk():
    curve = coverage_risk([0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 0, 1, 0])
    assert curve.risk_at(0.5).n == 3
    assert curve.risk_at(0.0).n == 1
    assert curve.risk_at(1.0).risk == 0.4
    assert curve.coverage_at(0.25).n == 4  # the risk is 1/3 in between
    assert curve.coverage_at(0.0).n == 2
    assert coverage_risk([0.9, 0.1], [0, 1]).coverage_at(0.2) is None
    with pytest.raises(DataError, match="coverage"):
        curve.risk_at(1.5)


def test_confidence_without_information_has_the_overall_risk():
    rng = np.random.default_rng(0)
    right = rng.random(5000) < 0.7
    blind = coverage_risk(rng.random(5000), right, resamples=100)
    assert blind.aurc.value == pytest.approx(blind.risk.value, abs=0.03)
    assert coverage_risk([0.5] * 5000, right, resamples=100).aurc.value == pytest.approx(1 - right.mean())
    sighted = coverage_risk(right + 0.1 * rng.random(5000), right, resamples=100)
    assert sighted.eaurc == pytest.approx(0, abs=1e-12)
    # The closed form for many answers: r + (1 - r) log(1 - r).
    assert sighted.aurc.value == pytest.approx(
        1 - right.mean() + right.mean() * math.log(right.mean()), abs=1e-3
    )


def test_the_interval_of_aurc_covers():
    rng = np.random.default_rng(3)

    def sample(n):
        confidence = rng.random(n).round(1)
        return confidence, rng.random(n) < confidence

    truth = coverage_risk(*sample(200_000), resamples=100).aurc.value
    found = [coverage_risk(*sample(200), resamples=200).aurc.interval for _ in range(150)]
    assert 0.9 <= np.mean([low <= truth <= high for low, high in found]) <= 0.99


def test_answers_all_alike_have_no_interval():
    aurc = coverage_risk([0.9, 0.1], [1, 1]).aurc
    assert (aurc.value, aurc.interval) == (0, None)
    assert "all answers" in aurc.reason


def test_the_curve_does_not_depend_on_the_order_and_is_json():
    rng = np.random.default_rng(5)
    confidence, right, order = rng.random(60).round(1), rng.random(60) < 0.6, rng.permutation(60)
    curve = coverage_risk(confidence, right)
    assert curve == coverage_risk(confidence[order], right[order])
    assert json.loads(json.dumps(curve.to_json(), allow_nan=False))["n"] == 60
    only_the_order_counts = coverage_risk(np.log(confidence + 1) * 40 - 7, right)
    assert only_the_order_counts.aurc == curve.aurc


@pytest.mark.parametrize(
    ("confidences", "correct"), [([], []), ([0.1], [1, 0]), ([float("inf")], [1]), ([0.1], ["1"])]
)
def test_coverage_risk_refuses_what_it_cannot_rank(confidences, correct):
    with pytest.raises(DataError):
        coverage_risk(confidences, correct)


# --- out of distribution ---------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_the_gap_has_newcombes_interval(n_in, n_out, data):
    right_in, right_out = data.draw(st.integers(0, n_in)), data.draw(st.integers(0, n_out))
    report = ood_gap(
        [True] * right_in + [False] * (n_in - right_in), [True] * right_out + [False] * (n_out - right_out)
    )
    expected = confint_proportions_2indep(right_in, n_in, right_out, n_out, method="newcomb", compare="diff")
    (gap,) = report.gaps
    assert gap.gap == pytest.approx(right_in / n_in - right_out / n_out)
    assert gap.interval == pytest.approx(expected, abs=1e-9)
    assert gap.accuracy.interval == wilson(right_out, n_out)


def test_newcombes_own_example():
    # 56 of 70 against 48 of 80 (Newcombe 1998, table II, method 10).
    (gap,) = ood_gap([1] * 56 + [0] * 14, [1] * 48 + [0] * 32).gaps
    assert [round(bound, 4) for bound in gap.interval] == [0.0524, 0.3339]


def test_several_splits_keep_their_names_and_order():
    report = ood_gap([1, 1, 1, 0], {"longer": [0, 1], "unseen template": [1, 1, 0]}, level=0.9)
    assert [gap.name for gap in report.gaps] == ["longer", "unseen template"]
    assert report.gaps[0].gap == 0.25
    assert (report.accuracy.value, report.level) == (0.75, 0.9)
    assert json.loads(json.dumps(report.to_json()))["gaps"][1]["name"] == "unseen template"


@pytest.mark.parametrize(
    ("inside", "outside"), [([], [1]), ([1], []), ([1], {}), ([1], {"a": []}), ([1], [0.5]), ([1], ["x"])]
)
def test_a_gap_needs_two_groups_of_right_and_wrong(inside, outside):
    with pytest.raises(DataError):
        ood_gap(inside, outside)
