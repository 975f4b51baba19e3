"""Success rates against scipy's Beta distribution and counts by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from docendo.distill import SuccessTable
from docendo.distill.rounds._success import inside, magnitude, priority
from docendo.errors import ConfigError, DataError

outcomes = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 3)), max_size=30
)


def table_of(found: list[tuple[str, float, int]], **settings: Any) -> SuccessTable:
    table = SuccessTable(**settings)
    for key, reward, version in found:
        table.add(key, [reward], version=version)
    return table


def test_rate_and_interval_are_those_of_the_beta_posterior() -> None:
    table = SuccessTable(prior=(1, 1))
    table.add("a", [True] * 6 + [False] * 2)
    reference = stats.beta(7, 3)
    assert table.rate("a") == pytest.approx(reference.mean())
    assert table.interval("a", 0.9) == pytest.approx(reference.interval(0.9))
    assert table.interval("unseen") == pytest.approx((0.025, 0.975))


def test_only_the_newest_outcomes_count() -> None:
    table = SuccessTable(window=3)
    table.add("a", [1, 1, 1, 0, 0])
    assert table.counts("a") == (1.0, 2.0)
    table.add("a", [1], version=2)
    # Late news of an older policy: older than all that is kept.
    table.add("a", [0], version=0)
    assert table.counts("a") == (1.0, 2.0)
    assert table.seen("a") == 3


def test_older_policies_weigh_less() -> None:
    table = SuccessTable(discount=0.5)
    table.add("a", [1, 1], version=0)
    table.add("a", [0], version=1)
    table.add("b", [1], version=2)
    assert table.counts("a") == (2 * 0.25, 0.5)
    assert table.rate("a") == pytest.approx((1 + 0.5) / (2 + 1))
    forgetful = SuccessTable(discount=0)
    forgetful.add("a", [1, 1], version=0)
    assert forgetful.counts("a") == (2.0, 0.0)
    forgetful.add("b", [1], version=1)
    assert forgetful.counts("a") == (0.0, 0.0)
    assert forgetful.rate("a") == 0.5


@pytest.mark.parametrize("right", range(9))
def test_magnitude_is_the_mean_advantage_of_a_group(right: int) -> None:
    """GRPO's advantages of a group of 8, by numpy-free arithmetic: (r - mean) / standard deviation."""
    rewards = [1.0] * right + [0.0] * (8 - right)
    deviation = stats.tstd(rewards, ddof=0) if 0 < right < 8 else 0.0
    mean = sum(rewards) / 8
    expected = sum(abs(r - mean) / deviation for r in rewards) / 8 if deviation else 0.0
    assert magnitude(right / 8) == pytest.approx(expected)


def test_one_rate_feeds_all_transforms() -> None:
    table = SuccessTable(prior=(1, 1))
    table.add("a", [1, 0, 0])  # (1 + 1) / (2 + 3)
    assert table.rate("a") == 0.4
    assert table.magnitude("a") == pytest.approx(2 * math.sqrt(0.24))
    assert table.priority("a") == 0.6
    assert table.inside("a", 0.4, 0.6)
    assert not table.inside("a", 0.5, 0.6)


@given(outcomes, outcomes, st.sampled_from([None, 1, 3]))
def test_merging_is_symmetric_and_loses_nothing_within_the_window(
    left: list[tuple[str, float, int]], right: list[tuple[str, float, int]], window: int | None
) -> None:
    a, b = table_of(left, window=window), table_of(right, window=window)
    merged = a.merge(b)
    assert merged.state_dict() == b.merge(a).state_dict()
    for key in merged.keys:
        both = sum(found[0] == key for found in (*left, *right))
        assert merged.seen(key) == (both if window is None else min(window, both))
    if window is None:
        together = table_of([*left, *right], window=None)
        assert {key: merged.counts(key) for key in merged.keys} == {
            key: pytest.approx(together.counts(key)) for key in together.keys
        }


def test_merged_windows_hold_the_newest_of_both() -> None:
    a, b = SuccessTable(window=2), SuccessTable(window=2)
    a.add("x", [0, 1])
    b.add("x", [0, 1])
    assert a.merge(b).counts("x") == (2.0, 0.0)


@given(outcomes)
def test_the_state_is_json_and_brings_everything_back(found: list[tuple[str, float, int]]) -> None:
    table = table_of(found, window=4, discount=0.9)
    state = json.loads(json.dumps(table.state_dict()))
    again = SuccessTable.from_state(state)
    assert again.state_dict() == table.state_dict()
    assert again.version == table.version


@pytest.mark.parametrize(
    "settings", [{"window": 0}, {"window": 1.5}, {"prior": (0, 1)}, {"discount": 1.1}, {"discount": math.nan}]
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SuccessTable(**settings)


@pytest.mark.parametrize("reward", [math.nan, -0.1, 1.1, "1", None])
def test_a_bad_reward_is_refused_and_nothing_is_added(reward: Any) -> None:
    table = SuccessTable()
    with pytest.raises(DataError, match="reward"):
        table.add("a", [1.0, reward])
    assert table.keys == ()


def test_bad_rates_windows_states_and_merges_are_refused() -> None:
    for call in (magnitude, inside, priority):
        with pytest.raises(DataError):
            call(math.nan)
    with pytest.raises(ConfigError, match="window"):
        inside(0.5, 0.7, 0.3)
    for state in ({}, {**SuccessTable().state_dict(), "outcomes": {"a": [[0]]}}):
        with pytest.raises(DataError, match="success table"):
            SuccessTable.from_state(state)
    with pytest.raises(ConfigError, match="unlike"):
        SuccessTable().merge(SuccessTable(window=1))
