import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as of_statsmodels

from docendo.errors import ConfigError, DataError
from docendo.evals import mcnemar, sign_flip

#: A loaded machine is no failure.
ANY_PACE = settings(deadline=None, max_examples=30)


@ANY_PACE
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_that_of_statsmodels(up, down):
    expected = of_statsmodels([[5, up], [down, 5]], exact=True).pvalue if up + down else 1.0
    assert mcnemar(up, down) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_keeps_small_p_values():
    assert mcnemar(0, 500) == pytest.approx(2.0**-499, rel=1e-9)


#: As many as 2^9 choices; differences that are nearly none are none to us.
SIZES = st.floats(-3, 3).map(lambda x: x * math.pi).filter(lambda x: x == 0 or abs(x) > 1e-3)


def of_scipy(before, after):
    """All choices of signs, by SciPy."""
    return stats.permutation_test(
        (np.asarray(after, float), np.asarray(before, float)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue


@ANY_PACE
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
def test_shares_of_samples_give_the_exact_test_of_scipy(rows):
    before, after = np.array(rows).T / 4
    assert sign_flip(before, after) == pytest.approx(of_scipy(before, after))


@ANY_PACE
@given(st.lists(SIZES, min_size=2, max_size=9))
def test_a_few_differences_of_any_size_give_the_exact_test_of_scipy(values):
    zeros = [0.0] * len(values)
    assert sign_flip(zeros, values) == pytest.approx(of_scipy(zeros, values))


@ANY_PACE
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_right_and_wrong_answers_give_mcnemars_test(up, down, same):
    before = [0] * up + [1] * (down + same) + [0]
    after = [1] * up + [0] * down + [1] * same + [0]
    assert sign_flip(before, after) == pytest.approx(mcnemar(up, down))


def test_many_differences_are_drawn_and_come_near_the_exact_value():
    rng = np.random.default_rng(0)
    steps = rng.integers(-8, 10, 60) / 8
    exact = sign_flip(np.zeros(60), steps)
    # The same up to a change that leaves no common step.
    drawn = sign_flip(np.zeros(60), steps * math.pi, resamples=20_000)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert drawn != exact


def test_drawn_signs_never_give_p_0():
    assert sign_flip(np.zeros(50), np.full(50, math.pi) + np.arange(50), resamples=999) == 1 / 1000


def test_drawn_signs_depend_on_the_seed_and_not_on_the_order():
    rng = np.random.default_rng(1)
    values = rng.normal(0.2, 1, 40)
    zeros = np.zeros(40)
    first = sign_flip(zeros, values, resamples=500, seed=3)
    assert first == sign_flip(zeros, values[::-1], resamples=500, seed=3)
    assert len({sign_flip(zeros, values, resamples=500, seed=seed) for seed in range(5)}) > 1


def test_signs_of_clusters_flip_together():
    rng = np.random.default_rng(2)
    values = rng.normal(0.5, 1, 30) + np.repeat(rng.normal(size=6), 5)
    names = [f"seed {k}" for k in range(6) for _ in range(5)]
    sums = values.reshape(6, 5).sum(1)
    choices = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=6)]
    expected = np.mean(np.array(choices) >= abs(sums.sum()) - 1e-9)
    assert sign_flip(np.zeros(30), values, clusters=names) == expected
    order = rng.permutation(30)
    assert sign_flip(np.zeros(30), values[order], clusters=[names[k] for k in order]) == expected


@pytest.mark.parametrize("seeds", [3, 5, 6])
def test_few_clusters_bound_p_from_below(seeds):
    clusters = [k for k in range(seeds) for _ in range(100)]
    n = len(clusters)
    assert sign_flip([0] * n, [1] * n, clusters=clusters) == 2 / 2**seeds


def test_no_difference_is_no_evidence():
    assert sign_flip([0.3, 0.2], [0.3, 0.2]) == 1.0
    assert sign_flip([0, 1], [1, 0]) == 1.0


@pytest.mark.parametrize("size", [5000, 20_000])
def test_many_items_are_counted(size):
    before, after = np.zeros(size), np.zeros(size)
    after[: size // 50] = 1
    before[-(size // 40) :] = 1
    assert sign_flip(before, after) == pytest.approx(mcnemar(size // 50, size // 40))


def test_wrong_input_is_a_clear_error():
    with pytest.raises(DataError, match="pairs"):
        sign_flip([], [])
    with pytest.raises(DataError, match="finite"):
        sign_flip([0.0, math.nan], [1.0, 1.0])
    with pytest.raises(DataError, match="2 values and 1 clusters"):
        sign_flip([0, 0], [1, 1], clusters=["a"])
    with pytest.raises(ConfigError, match="resamples"):
        sign_flip([0], [1], resamples=10)
    with pytest.raises(ConfigError, match="counts"):
        mcnemar(-1, 3)
    with pytest.raises(ConfigError, match=r"up is 1\.5"):
        mcnemar(1.5, 3)
