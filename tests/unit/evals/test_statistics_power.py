import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from docendo.errors import ConfigError
from docendo.evals import (
    crossed_detectable_difference,
    crossed_sample_size,
    detectable_difference,
    mcnemar,
    sample_size,
)
from docendo.evals.statistics._crossed import crossed_p, crossed_parts

#: A loaded machine is no failure.
ANY_PACE = settings(deadline=None, max_examples=30)


def power(n, discordant, difference):
    """Of McNemar's exact test, summed over the number of flips and the ups among them."""
    total = 0.0
    for flips in range(1, n + 1):
        ups = np.arange(flips + 1)
        rejects = np.array([mcnemar(int(up), int(flips - up)) <= 0.05 for up in ups])
        chance = binom.pmf(ups, flips, (1 + difference / discordant) / 2)
        total += binom.pmf(flips, n, discordant) * float(chance @ rejects)
    return total


@pytest.mark.parametrize(("discordant", "difference"), [(0.3, 0.15), (0.5, 0.2), (0.2, 0.12)])
def test_the_exact_test_has_the_planned_power(discordant, difference):
    n = sample_size(difference, discordant)
    assert 0.79 <= power(n, discordant, difference) <= 0.84
    assert power(math.ceil(0.8 * n), discordant, difference) < 0.79


@ANY_PACE
@given(st.floats(0.01, 0.9), st.floats(0.05, 1), st.sampled_from([0.5, 0.8, 0.95]))
def test_size_and_difference_are_inverses(difference, discordant, wanted):
    difference = min(difference, discordant)
    n = sample_size(difference, discordant, power=wanted)
    assert detectable_difference(n, discordant, power=wanted) <= difference + 1e-9
    if n > 1:
        assert detectable_difference(n - 1, discordant, power=wanted) > difference - 1e-9
    assert sample_size(-difference, discordant, power=wanted) == n


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.3), "other than 0"),
        ((0.4, 0.3), "at most the share"),
        ((0.1, 1.2), "discordant is 1.2"),
        ((math.nan, 0.3), "difference is nan"),
    ],
)
def test_plans_that_make_no_sense_are_clear_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        sample_size(*arguments)


@pytest.mark.parametrize(
    ("seeds", "items", "noise", "by_seed", "by_item"),
    [(3, 80, 0.5, 0.0, 0.0), (5, 60, 0.4, 0.03, 0.2), (10, 40, 0.6, 0.0, 0.3)],
)
def test_the_comparison_over_seeds_has_the_planned_power(seeds, items, noise, by_seed, by_item):
    spreads = {"noise": noise, "seed_spread": by_seed, "item_spread": by_item}
    difference = crossed_detectable_difference(seeds, items, **spreads)
    rng = np.random.default_rng(0)
    shape = (3000, seeds, items)
    tables = difference + noise * rng.normal(size=shape)
    tables += by_seed * rng.normal(size=(3000, seeds, 1)) + by_item * rng.normal(size=(3000, 1, items))
    assert np.mean(crossed_p(crossed_parts(tables)) < 0.05) == pytest.approx(0.8, abs=0.025)
    assert crossed_sample_size(difference * (1 + 1e-9), seeds, **spreads) == items


def test_more_seeds_and_more_items_see_smaller_differences():
    spreads = {"noise": 0.5, "seed_spread": 0.02, "item_spread": 0.2}
    by_seeds = [crossed_detectable_difference(seeds, 100, **spreads) for seeds in (2, 3, 5, 10)]
    by_items = [crossed_detectable_difference(3, items, **spreads) for items in (50, 100, 1000)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert by_items == sorted(by_items, reverse=True)
    assert crossed_sample_size(0.1, 3, **spreads) > crossed_sample_size(0.1, 10, **spreads)


def test_a_difference_that_no_number_of_items_shows_names_the_seeds_it_needs():
    with pytest.raises(ConfigError, match=r"at least (\d+) seeds") as caught:
        crossed_sample_size(0.05, 3, noise=0.5, seed_spread=0.05)
    seeds = int(str(caught.value).split("at least ")[1].split()[0])
    assert crossed_sample_size(0.05, seeds, noise=0.5, seed_spread=0.05) > 2
    with pytest.raises(ConfigError, match="no number of items"):
        crossed_sample_size(0.05, seeds - 1, noise=0.5, seed_spread=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": 0.0}, "at least one above 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": 0.5, "seed_spread": math.nan}, "seed_spread is nan"),
        ({"noise": 0.5, "power": 1.0}, "power is 1.0"),
        ({"noise": 0.5, "seeds": 1}, "seeds is 1"),
    ],
)
def test_plans_over_seeds_are_checked(settings, message):
    arguments = {"seeds": 3, **settings}
    with pytest.raises(ConfigError, match=message):
        crossed_detectable_difference(items=50, **arguments)
    with pytest.raises(ConfigError, match=message):
        crossed_sample_size(0.1, **arguments)
