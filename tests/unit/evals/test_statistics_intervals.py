import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, optimize, stats
from statsmodels.stats.proportion import proportion_confint

from docendo.errors import ConfigError, DataError
from docendo.evals import cluster_interval, paired_bootstrap, paired_interval, tango, wilson
from docendo.evals.statistics._clusters import cluster_bounds, cluster_variance
from docendo.evals.statistics._intervals import tango_bounds

#: A loaded machine is no failure.
ANY_PACE = settings(deadline=None, max_examples=30)


@ANY_PACE
@given(st.integers(1, 2000), st.data())
def test_wilson_is_that_of_statsmodels(n, data):
    successes = data.draw(st.integers(0, n))
    assert wilson(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-9)


@pytest.mark.parametrize(
    ("up", "down", "n", "low", "high"),
    [
        # Complete response before and after consolidation therapy (Cavo et al. 2012), as in Fagerland,
        # Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8.
        (6, 16, 161, -0.1240, -0.0054),
        (16, 6, 161, 0.0054, 0.1240),
        # No discordant pair: z² / (n + z²).
        (0, 0, 30, -(1.959964**2) / (30 + 1.959964**2), 1.959964**2 / (30 + 1.959964**2)),
    ],
)
def test_tango_gives_published_intervals(up, down, n, low, high):
    assert tango(up, down, n) == pytest.approx((low, high), abs=5e-5)


def score(up, down, n, difference):
    """Tango's statistic, with the restricted likelihood maximised numerically."""

    def against(share):
        cells = ((up, share + difference), (down, share), (n - up - down, 1 - 2 * share - difference))
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = optimize.minimize_scalar(against, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (up - down - n * difference) / math.sqrt(n * (2 * share + difference - difference**2))


@pytest.mark.parametrize(("up", "down", "n"), [(10, 4, 40), (1, 0, 25), (7, 7, 50), (30, 2, 60), (3, 9, 500)])
def test_the_ends_of_tango_are_where_the_score_test_just_rejects(up, down, n):
    low, high = tango(up, down, n)
    assert score(up, down, n, low) == pytest.approx(1.959964, abs=1e-3)
    assert score(up, down, n, high) == pytest.approx(-1.959964, abs=1e-3)


@ANY_PACE
@given(st.integers(1, 400), st.data())
def test_tango_is_within_bounds_mirrored_and_holds_the_estimate(n, data):
    up = data.draw(st.integers(0, n))
    down = data.draw(st.integers(0, n - up))
    low, high = tango(up, down, n)
    assert -1 <= low <= (up - down) / n <= high <= 1
    assert tango(down, up, n) == pytest.approx((-high, -low), abs=1e-12)
    wider = tango(up, down, n, 0.99)
    assert wider[0] <= low
    assert high <= wider[1]
    assert (low, high) != (0, 0)


def test_tango_excludes_zero_just_where_the_asymptotic_mcnemar_test_rejects():
    up, down = (axis.ravel() for axis in np.indices((31, 31)).astype(float))
    low, high = tango_bounds(up, down, 60, 0.95)
    rejects = (up - down) ** 2 > 1.959963984540054**2 * (up + down)
    assert ((low > 1e-12) | (high < -1e-12)).tolist() == rejects.tolist()
    assert (low[40], high[40]) == tango(int(up[40]), int(down[40]), 60)


def test_tango_of_extremes():
    assert tango(0, 0, 0) == (-1.0, 1.0)
    assert tango(20, 0, 20)[1] == 1.0
    assert tango(0, 20, 20)[0] == -1.0


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, -1, 5), (0.5, 1, 5)])
def test_tango_refuses_impossible_counts(counts):
    with pytest.raises(ConfigError, match="expected counts"):
        tango(*counts)


def test_the_paired_interval_of_right_answers_is_tango():
    before, after = [True, False, False, True, False], [True, True, False, False, True]
    assert paired_interval(before, after) == tango(2, 1, 5)
    assert paired_interval(np.array(before), np.array(after, dtype=int), level=0.8) == tango(2, 1, 5, 0.8)


def test_the_paired_interval_of_numbers_is_students():
    rng = np.random.default_rng(0)
    before, after = rng.random(40), rng.random(40)
    expected = stats.ttest_rel(after, before).confidence_interval(0.9)
    assert paired_interval(before, after, level=0.9) == pytest.approx((expected.low, expected.high))


@ANY_PACE
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=30), st.randoms())
def test_the_paired_interval_does_not_depend_on_the_order_of_items(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert paired_interval(*zip(*rows, strict=True)) == paired_interval(*zip(*shuffled, strict=True))


def test_equal_differences_of_numbers_leave_no_width():
    assert paired_interval([0.25, 0.5], [0.5, 0.75]) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([], [], "pairs, at least one"),
        ([1, 0], [1], "2 values before and 1 after"),
        ([0.5], [0.25], "at least 2 pairs"),
        ([0, math.nan], [1, 1], r"before\[1\] is nan"),
        ([0, 1], [1, math.inf], r"after\[1\] is inf"),
        (["a"], [1], "cannot be read as numbers"),
        ([1], ["0"], "after holds text"),
        ([[0, 1]], [[1, 1]], "2 dimensions"),
    ],
)
def test_pairs_that_are_none_are_clear_errors(before, after, message):
    for method in (paired_interval, paired_bootstrap):
        if method is paired_interval or before != [0.5]:
            with pytest.raises(DataError, match=message):
                method(before, after)


def test_clusters_of_one_size_get_the_t_interval_of_their_means():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(6, 8)) + rng.normal(size=(6, 1))
    names = [f"seed {k}" for k in range(6) for _ in range(8)]
    expected = stats.ttest_1samp(values.mean(1), 0).confidence_interval()
    assert cluster_interval(values.ravel(), names) == pytest.approx((expected.low, expected.high))


def test_clusters_of_unequal_sizes_get_the_variance_and_freedom_of_bell_and_mccaffrey():
    rng = np.random.default_rng(2)
    sizes = np.array([3, 9, 20, 5])
    names = np.repeat(np.arange(4), sizes)
    values = rng.normal(size=37) + rng.normal(size=4)[names]
    # CR2 of a regression on a constant, by matrices: residuals times the inverse root of their covariance.
    hat = np.full((37, 37), 1 / 37)
    residuals = values - values.mean()
    adjust = np.zeros((37, 37))
    for cluster in range(4):
        inside = np.ix_(names == cluster, names == cluster)
        adjust[inside] = linalg.fractional_matrix_power((np.eye(37) - hat)[inside], -0.5).real
    sums = np.array([(adjust @ residuals)[names == cluster].sum() for cluster in range(4)])
    variance = (sums**2).sum() / 37**2
    means = np.array([values[names == cluster].mean() for cluster in range(4)])
    assert cluster_variance(means - values.mean(), sizes / 37) == pytest.approx(variance)
    # Satterthwaite's degrees of freedom from the columns of Bell and McCaffrey, under independent values.
    columns = np.stack(
        [(np.eye(37) - hat)[:, names == c] @ adjust[np.ix_(names == c, names == c)].sum(1) for c in range(4)]
    )
    roots = linalg.eigvalsh(columns @ columns.T)
    independent = roots.sum() ** 2 / (roots**2).sum()
    alike = columns @ (names[:, None] == names[None, :]) @ columns.T
    roots = linalg.eigvals(alike).real
    freedom = min(independent, roots.sum() ** 2 / (roots**2).sum())
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    expected = values.mean() - half, values.mean() + half
    assert cluster_interval(values, list(names)) == pytest.approx(expected)


def test_many_clusters_of_one_right_or_wrong_answer_get_nearly_wilsons_interval():
    values = [1] * 60 + [0] * 240
    assert cluster_interval(values, range(300)) == pytest.approx(wilson(60, 300), abs=0.001)


def test_clusters_that_agree_exactly_are_taken_as_independent_values():
    low, high = cluster_interval([1, 0, 1, 0, 1, 0], list("aabbcc"))
    assert 0 < low < 0.5 < high < 1
    assert cluster_interval([1] * 9, list("aaabbbccc"))[1] == 1.0
    low, high = cluster_interval([0.1, 0.3, 0.3, 0.1], list("aabb"))
    assert low < 0.2 < high


def test_the_interval_over_clusters_needs_neither_their_order_nor_their_names():
    rng = np.random.default_rng(3)
    values, names = (rng.random(60) < 0.4).astype(int), rng.integers(0, 5, 60)
    order = rng.permutation(60)
    expected = cluster_interval(values, names.tolist())
    assert cluster_interval(values[order], [f"template {k}" for k in names[order]]) == pytest.approx(expected)


@ANY_PACE
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=60))
def test_the_interval_of_an_accuracy_stays_within_0_and_1(rows):
    values, clusters = zip(*rows, strict=True)
    if len(set(clusters)) > 1:
        low, high = cluster_interval(values, clusters)
        assert 0 <= low <= np.mean(values) + 1e-12
        assert np.mean(values) - 1e-12 <= high <= 1


def test_many_samples_at_once_are_the_samples_one_by_one():
    rng = np.random.default_rng(4)
    values, sizes = rng.random((5, 12)) < 0.5, [3, 5, 4]
    names = np.repeat([0, 1, 2], sizes)
    means = np.array([[row[names == k].mean() for k in range(3)] for row in values])
    low, high = cluster_bounds(means, np.array(sizes, dtype=float), 0.95, binary=True, spread=0.0)
    for row, ends in zip(values, zip(low, high, strict=True), strict=True):
        assert cluster_interval(row, names.tolist()) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([1, 0], ["a"], "2 values and 1 clusters"),
        ([], [], "0 values"),
        ([1, 0], ["a", "a"], "at least 2"),
        ([1, math.nan], ["a", "b"], "finite"),
    ],
)
def test_clusters_that_are_none_are_clear_errors(values, clusters, message):
    with pytest.raises(DataError, match=message):
        cluster_interval(values, clusters)
