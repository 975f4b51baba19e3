import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from docendo.errors import ConfigError, DataError
from docendo.evals import detectable_difference, mcnemar, paired_bootstrap, wilson


@given(st.integers(1, 5000), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(n, data, level):
    successes = data.draw(st.integers(0, n))
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.4):
        hits = [
            low <= share <= high
            for low, high in (wilson(int(k), 200) for k in rng.binomial(200, share, 4000))
        ]
        assert 0.935 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize("arguments", [(-1, 10), (11, 10)])
def test_wilson_refuses_impossible_counts(arguments):
    with pytest.raises(ConfigError, match="successes"):
        wilson(*arguments)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_binomial_test(up, down):
    expected = stats.binomtest(up, up + down, 0.5).pvalue if up + down else 1.0
    assert mcnemar(up, down) == pytest.approx(expected)
    assert mcnemar(up, down) == pytest.approx(mcnemar(down, up))


def test_bootstrap_is_scipys():
    rng = np.random.default_rng(1)
    before, after = rng.random(60) < 0.3, rng.random(60) < 0.6
    low, high = paired_bootstrap(before, after, resamples=20_000)
    expected = stats.bootstrap(
        (after.astype(float), before.astype(float)),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=2,
    ).confidence_interval
    # Both move in steps of 1/60.
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1.01 / 60)


def test_bootstrap_of_real_values_has_the_right_width():
    rng = np.random.default_rng(3)
    difference = rng.normal(0.5, 2.0, 400)
    low, high = paired_bootstrap(np.zeros(400), difference)
    error = difference.std() / math.sqrt(400)
    assert low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)


def test_bootstrap_depends_on_its_seed_alone():
    before, after = [0, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0]
    first = paired_bootstrap(before, after, seed=5, resamples=500)
    assert first == paired_bootstrap(before, after, seed=5, resamples=500)
    runs = {
        paired_bootstrap(before, np.add(after, 0.013 * np.arange(7)), seed=s, resamples=200) for s in range(5)
    }
    assert len(runs) > 1


def test_bootstrap_covers_the_true_difference():
    rng = np.random.default_rng(4)
    hits = []
    for seed in range(300):
        before = rng.random(150) < 0.3
        after = np.where(rng.random(150) < 0.25, ~before, before)
        truth = 0.25 * (0.7 - 0.3)
        low, high = paired_bootstrap(before, after, resamples=1000, seed=seed)
        hits.append(low <= truth <= high)
    assert 0.91 <= np.mean(hits) <= 0.985


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], [1, 0])])
def test_bootstrap_needs_pairs(before, after):
    with pytest.raises(DataError, match="pairs"):
        paired_bootstrap(before, after)


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.3), (400, 0.15), (100, 0.5)])
def test_the_detectable_difference_is_seen_with_the_promised_power(n, discordant):
    difference = detectable_difference(n, discordant)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    draws = np.random.default_rng(0).multinomial(n, shares, size=1500)
    power = np.mean([mcnemar(int(up), int(down)) < 0.05 for up, down, _ in draws])
    # The exact test is a little conservative next to the normal formula.
    assert 0.70 <= power <= 0.86


@given(st.integers(1, 3000), st.floats(0, 1))
def test_the_detectable_difference_is_a_share_and_falls_with_n(n, discordant):
    difference = detectable_difference(n, discordant)
    assert 0 < difference <= 1
    assert detectable_difference(4 * n, discordant) <= difference + 1e-12


def test_few_items_detect_nothing():
    assert detectable_difference(3, 0.5) == 1.0


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_are_checked(level):
    for call in (
        lambda: wilson(1, 2, level),
        lambda: paired_bootstrap([0], [1], level=level),
        lambda: detectable_difference(10, 0.1, level=level),
    ):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            call()
