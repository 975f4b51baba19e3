import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from docendo.errors import ConfigError, DataError
from docendo.evals import SequentialComparison
from docendo.evals.statistics._sequential import log_wealth

#: A loaded machine is no failure.
ANY_PACE = settings(deadline=None, max_examples=30)

DIFFERENCES = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60)


def wealth(differences, mean):
    values, counts = np.unique(np.array(differences, dtype=float), return_counts=True)
    return math.exp(log_wealth(values, counts.astype(float), mean))


@ANY_PACE
@given(DIFFERENCES, st.floats(-0.9, 0.9))
def test_wealth_is_the_average_over_all_fractions(differences, mean):
    # A polynomial of the fraction, averaged over (0, 1) by numerical integration.
    def at(fraction):
        return math.prod(1 - fraction + fraction * (1 + x) / (1 + mean) for x in differences)

    assert wealth(differences, mean) == pytest.approx(quad(at, 0, 1, limit=200)[0], rel=1e-6)


@pytest.mark.parametrize("chances", [(0.2, 0.5, 0.3), (0.05, 0.9, 0.05), (0.6, 0.0, 0.4)])
def test_bets_on_the_true_mean_are_fair(chances):
    mean = chances[2] - chances[0]
    expected = sum(
        math.prod(chances[x + 1] for x in path) * wealth(path, mean)
        for path in itertools.product((-1, 0, 1), repeat=5)
        if all(chances[x + 1] for x in path)
    )
    assert expected == pytest.approx(1.0)


@ANY_PACE
@given(DIFFERENCES)
def test_an_end_of_the_interval_is_the_last_mean_that_bets_do_not_exclude(differences):
    test = SequentialComparison()
    test.add(differences)
    low, high = test.interval
    assert low <= test.difference <= high
    if low > -1:
        assert wealth(differences, low) == pytest.approx(40, rel=1e-3)
    if high < 1:
        assert wealth([-x for x in differences], -high) == pytest.approx(40, rel=1e-3)


@ANY_PACE
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.randoms())
def test_the_order_within_a_look_does_not_matter(differences, random):
    shuffled = list(differences)
    random.shuffle(shuffled)
    first, second = SequentialComparison(), SequentialComparison()
    first.add(differences)
    second.add(shuffled)
    assert first.interval == second.interval
    assert first.difference == second.difference


def test_looks_narrow_the_interval_and_a_decision_stays():
    rng = np.random.default_rng(0)
    test, seen, decided = SequentialComparison(), [(-1.0, 1.0)], False
    for difference in rng.choice([-1, 0, 1], size=300, p=[0.1, 0.6, 0.3]):
        test.add([difference])
        low, high = test.interval
        assert seen[-1][0] <= low <= high <= seen[-1][1]
        assert test.decided or not decided
        seen.append((low, high))
        decided = test.decided
    assert decided
    assert test.n == 300
    assert seen[-1][0] > 0


def test_one_look_at_all_is_as_good_as_the_last_look():
    differences = np.random.default_rng(1).choice([-1, 0, 1], size=200, p=[0.2, 0.5, 0.3])
    once, often = SequentialComparison(), SequentialComparison()
    once.add(differences)
    for part in np.split(differences, 20):
        often.add(part)
    assert often.interval[0] >= once.interval[0]
    assert often.interval[1] <= once.interval[1]
    assert often.difference == once.difference


def test_a_clear_effect_decides_soon_and_its_sign_is_seen():
    for sign in (1, -1):
        test = SequentialComparison()
        while not test.decided:
            test.add([sign])
        assert test.n < 12
        assert test.interval[0] > 0 if sign > 0 else test.interval[1] < 0


def test_pairs_that_agree_narrow_the_interval_and_decide_nothing():
    test = SequentialComparison()
    test.add(np.zeros(1000))
    assert not test.decided
    assert max(map(abs, test.interval)) < 0.01


def test_a_lower_level_decides_earlier():
    differences = [1, 0, 1, 1, -1, 1, 0, 1, 1, 1, 0, 1]
    strict, loose = SequentialComparison(level=0.99), SequentialComparison(level=0.8)
    for test in (strict, loose):
        test.add(differences)
    assert (strict.decided, loose.decided) == (False, True)


def test_nothing_yet():
    test = SequentialComparison()
    test.add([])
    assert (test.n, test.interval, test.decided) == (0, (-1.0, 1.0), False)
    assert math.isnan(test.difference)
    assert "nothing yet" in repr(test)


def test_differences_that_drift_are_a_clear_error_and_not_added():
    test = SequentialComparison()
    test.add([1] * 200)
    before = test.interval
    with pytest.raises(DataError, match="random order"):
        test.add([-1] * 2000)
    assert (test.n, test.interval) == (200, before)


@pytest.mark.parametrize("wrong", [[1.5], [0, -2], [math.nan], "text", [[0, 1]]])
def test_what_is_no_difference_is_refused_and_nothing_is_added(wrong):
    test = SequentialComparison()
    with pytest.raises(DataError, match="differences"):
        test.add(wrong)
    assert test.n == 0


def test_the_level_is_checked():
    with pytest.raises(ConfigError, match="level"):
        SequentialComparison(level=1)
