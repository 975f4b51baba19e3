"""FUAR: facts forgotten for each fact gained."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from docendo.errors import ConfigError, DataError
from docendo.evals import fuar


def sets(invariant, updated, new):
    return {"invariant": invariant, "updated": updated, "new": new}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (sets(0.8, 0.1, 0.0), sets(0.5, 0.3, 0.1), 1.0),
        (sets(0.8, 0.1, 0.0), sets(0.8, 0.3, 0.1), 0.0),
        (sets(0.8, 0.1, 0.0), sets(0.9, 0.3, 0.1), 0.0),  # what was gained besides does not count
        (sets(0.8, 0.1, 0.2), sets(0.6, 0.3, 0.1), 1.0),  # nor does a fall on new facts
        ({"invariant": 0.8, "new": 0.0}, {"invariant": 0.4, "new": 0.1}, 4.0),
        ({"invariant": 10, "updated": 0}, {"invariant": 5, "updated": 20}, 0.25),
    ],
)
def test_hand_made_tables(before, after, expected):
    assert fuar(before, after).value == pytest.approx(expected)


@pytest.mark.parametrize("after", [sets(0.5, 0.1, 0.0), sets(0.8, 0.0, 0.0), sets(0.1, 0.1 + 1e-14, 0.0)])
def test_without_gain_there_is_no_value(after):
    found = fuar(sets(0.8, 0.1, 0.0), after)
    assert (found.value, found.interval, found.reason) == (None, None, "no gain")


def test_mean_scores_have_no_interval():
    found = fuar(sets(0.8, 0.1, 0.0), sets(0.7, 0.3, 0.1))
    assert found.interval is None
    assert "single probes" in found.reason


def test_probes_give_the_paired_bootstraps_interval():
    rng = np.random.default_rng(0)
    before = {
        "invariant": rng.random(200) < 0.8,
        "updated": rng.random(150) < 0.1,
        "new": rng.random(100) < 0.05,
    }
    after = {
        "invariant": rng.random(200) < 0.6,
        "updated": rng.random(150) < 0.5,
        "new": rng.random(100) < 0.4,
    }
    found = fuar(before, after)
    changes = {kind: after[kind].astype(float) - before[kind].astype(float) for kind in before}
    assert found.value == pytest.approx(
        -changes["invariant"].mean() / (changes["updated"].mean() + changes["new"].mean())
    )
    expected = stats.bootstrap(
        tuple(changes.values()),
        lambda i, u, n, axis: np.maximum(0, -i.mean(axis)) / (u.mean(axis) + n.mean(axis)),
        method="percentile",
        n_resamples=4_000,
        rng=1,
    ).confidence_interval
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.01)
    assert fuar(before, after) == found
    order = rng.permutation(200)
    shuffled = [{**one, "invariant": one["invariant"][order]} for one in (before, after)]
    assert fuar(*shuffled).value == pytest.approx(found.value)


def test_a_gain_that_most_resamples_miss_has_no_interval():
    before = {"invariant": [1, 1, 1, 0], "new": [0, 0, 0, 0]}
    found = fuar(before, {"invariant": [1, 1, 0, 0], "new": [1, 0, 0, 0]})
    assert found.value == 1.0
    assert found.interval is None
    assert found.reason.endswith("% of the resamples no gain")


shares = st.floats(0, 1)


@given(*[st.fixed_dictionaries(sets(shares, shares, shares))] * 2)
def test_it_is_never_negative_and_zero_only_without_forgetting(before, after):
    value = fuar(before, after).value
    assert value is None or (value >= 0 and math.isfinite(value))
    if value is not None and before["invariant"] <= after["invariant"]:
        assert value == 0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"invariant": 1.0}, {"invariant": 1.0}, "invariant and updated or new"),
        ({"updated": 1.0, "new": 0.0}, {"updated": 1.0, "new": 0.0}, "invariant and updated or new"),
        ({"invariant": 1.0, "new": 0.0}, {"invariant": 1.0, "updated": 0.0}, "the same before and after"),
        ({"invariant": 1.0, "old": 0.0}, {"invariant": 1.0, "old": 0.0}, "invariant and updated or new"),
        ({"invariant": math.nan, "new": 0.0}, {"invariant": 1.0, "new": 0.0}, "finite number"),
        ({"invariant": [], "new": [0]}, {"invariant": [], "new": [0]}, "finite number"),
        ({"invariant": "high", "new": 0.0}, {"invariant": 1.0, "new": 0.0}, "finite number"),
        ({"invariant": [1, 0], "new": [0]}, {"invariant": [1], "new": [0]}, "same probes"),
        ({"invariant": [1], "new": [0]}, {"invariant": 1.0, "new": [0]}, "same probes"),
    ],
)
def test_bad_scores_are_refused(before, after, message):
    with pytest.raises(DataError, match=message):
        fuar(before, after)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="resamples"):
        fuar(sets(1, 1, 1), sets(1, 1, 1), resamples=1)
