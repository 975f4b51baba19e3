import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from docendo.errors import DataError
from docendo.evals import CrossedDifference, crossed_difference, paired_interval, sign_flip, tango

#: A loaded machine is no failure.
ANY_PACE = settings(deadline=None, max_examples=30)


def tables(seeds, items, *, by_seed=0.05, by_item=0.2, seed=0):
    rng = np.random.default_rng(seed)
    shift = by_seed * rng.normal(size=(seeds, 1)) + by_item * rng.normal(size=(1, items)) + 0.1
    before = rng.random((seeds, items))
    return before, before + shift + 0.4 * rng.normal(size=(seeds, items))


def mean_squares(difference):
    """Of seeds, items and residual, by statsmodels' analysis of variance."""
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    seeds, items = np.indices(difference.shape)
    frame = pandas.DataFrame({"d": difference.ravel(), "seed": seeds.ravel(), "item": items.ravel()})
    table = anova_lm(ols("d ~ C(seed) + C(item)", frame).fit())
    return table["mean_sq"].tolist()


def test_the_variance_is_that_of_the_analysis_of_variance():
    before, after = tables(4, 9)
    of_seeds, of_items, rest = mean_squares(after - before)
    found = crossed_difference(before, after)
    n = 36
    parts = of_seeds / n, max(0, of_items - rest) / n
    half = (stats.t.ppf(0.975, 3) * parts[0] + stats.t.ppf(0.975, 8) * parts[1]) / math.sqrt(sum(parts))
    mean = (after - before).mean()
    assert found.difference == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - half, mean + half))
    assert found.seed_spread**2 == pytest.approx(max(0, of_seeds - rest) / 9)
    assert found.item_spread**2 == pytest.approx(max(0, of_items - rest) / 4)
    assert found.noise**2 == pytest.approx(rest)
    assert (found.n, found.seeds, found.items) == (n, 4, 9)


@ANY_PACE
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 10_000), st.sampled_from([0.8, 0.95, 0.99]))
def test_p_is_below_the_level_just_where_the_interval_excludes_zero(seeds, items, seed, level):
    found = crossed_difference(*tables(seeds, items, seed=seed), level=level)
    low, high = found.interval
    assert (low > 0 or high < 0) == (found.p_value < 1 - level)
    at_p = crossed_difference(*tables(seeds, items, seed=seed), level=1 - found.p_value)
    assert min(map(abs, at_p.interval)) == pytest.approx(0, abs=1e-6)


def test_one_seed_is_the_paired_comparison():
    before, after = tables(1, 30)
    found = crossed_difference(before, after)
    assert found.interval == paired_interval(before[0], after[0])
    assert found.p_value == sign_flip(before[0], after[0])
    assert (found.seed_spread, found.item_spread) == (None, None)
    assert crossed_difference(before[0], after[0]) == found
    right = crossed_difference([0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1])
    assert right.interval == tango(4, 1, 6)
    assert right.p_value == sign_flip([0] * 5, [1] * 4 + [-1])


def test_seeds_that_change_nothing_add_nothing():
    before, after = tables(1, 40)
    before, after = np.repeat(before, 3, axis=0), np.repeat(after, 3, axis=0)
    found = crossed_difference(before, after)
    assert found.interval == pytest.approx(paired_interval(before[0], after[0]))
    assert found.p_value == pytest.approx(stats.ttest_rel(after[0], before[0]).pvalue)


def test_items_without_a_difference_of_their_own_leave_the_t_test_of_the_seeds():
    # Each row sums to its seed's effect, each column to none: items show less than their noise.
    difference = np.array([[0.3, -0.1], [-0.1, 0.5], [0.4, 0.2]]) + np.array([[0.1], [0.2], [0.0]])
    difference += difference.mean() - difference.mean(0)
    found = crossed_difference(np.zeros((3, 2)), difference)
    expected = stats.ttest_1samp(difference.mean(1), 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("change", [0, 1, -1])
def test_differences_that_are_all_the_same_are_judged_by_their_items(change):
    before = np.full((3, 20), 1 if change < 0 else 0)
    found = crossed_difference(before, before + change)
    assert found.interval == tango(20 * (change > 0), 20 * (change < 0), 20)
    assert found.p_value == (1.0 if change == 0 else 2 / 2**20)
    assert found.difference == change


def test_a_table_without_any_change_is_not_certain():
    rng = np.random.default_rng(0)
    table = rng.random((3, 30)) < 0.5
    low, high = crossed_difference(table, table).interval
    assert low < -0.05 < 0.05 < high


def test_seeds_that_agree_exactly_are_not_certain():
    # One flip by each seed, on different items: the seeds' means are equal.
    after = np.eye(3, 50)
    found = crossed_difference(np.zeros((3, 50)), after)
    assert found.difference == 1 / 50
    assert found.interval[0] < 0 < found.interval[1]
    assert found.p_value > 0.05


def test_a_pair_with_a_missing_side_is_left_out():
    before, after = tables(4, 12)
    before[0, 3] = after[2, 5] = math.nan
    before[:, 7] = math.nan
    found = crossed_difference(before, after)
    known = ~(np.isnan(before) | np.isnan(after))
    assert (found.n, found.seeds, found.items) == (4 * 11 - 2, 4, 11)
    assert found.difference == pytest.approx((after - before)[known].mean())
    kept = np.arange(12) != 7
    assert crossed_difference(before[:, kept], after[:, kept]) == found


def test_seeds_with_items_of_their_own_still_get_an_interval():
    after = np.full((3, 9), math.nan)
    for seed in range(3):
        after[seed, 3 * seed : 3 * seed + 3] = [0.1 * seed, 0.2, 0.4]
    found = crossed_difference(np.zeros((3, 9)), after)
    assert found.interval[0] < found.difference < found.interval[1]


def test_the_order_of_seeds_and_items_does_not_matter():
    before, after = tables(3, 20)
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(3), rng.permutation(20)
    found = crossed_difference(before[rows][:, columns], after[rows][:, columns])
    expected = crossed_difference(before, after)
    assert found.interval == pytest.approx(expected.interval)
    assert found.p_value == pytest.approx(expected.p_value)


def test_the_difference_of_right_answers_stays_within_1():
    found = crossed_difference([[0, 0, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]])
    assert -1 <= found.interval[0] <= found.interval[1] <= 1


def test_a_difference_is_stored_and_read_back():
    found = crossed_difference(*tables(3, 10))
    assert CrossedDifference.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([[0, 1], [1, 0]], [[0, 1]], "shape"),
        ([[math.nan]], [[1.0]], "no pair in common"),
        ([], [], "no pair in common"),
        ([[0], [1]], [[1], [0]], "at least 2 items"),
        ([[math.inf, 1]], [[1, 1]], r"before\[0, 0\] is inf"),
        ([[1, 2], [3]], [[1, 2], [3]], "numbers"),
        ("text", "text", "numbers"),
    ],
)
def test_tables_that_cannot_be_compared_are_clear_errors(before, after, message):
    with pytest.raises(DataError, match=message):
        crossed_difference(before, after)
