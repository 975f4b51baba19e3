"""When to switch: thresholds from held-out needs, paces, and the best use of a hard budget."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from docendo.errors import ConfigError, DataError
from docendo.graphs.routing import (
    ALWAYS,
    NEVER,
    BudgetedSwitch,
    Paced,
    Threshold,
    decide_stream,
    threshold_for_share,
    threshold_for_value,
)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.99, 1.0])
def test_a_threshold_keeps_a_share_from_below(share: float) -> None:
    for needs in (np.random.default_rng(0).random(200), np.random.default_rng(1).integers(0, 5, 200)):
        reached = np.mean(needs >= threshold_for_share(needs.tolist(), share))
        assert reached <= share + 1e-12
        if len(set(needs.tolist())) == len(needs):
            assert reached == pytest.approx(share, abs=1 / 200)


def test_a_threshold_for_a_value_is_the_highest_that_reaches_it() -> None:
    generator = np.random.default_rng(2)
    needs, small = generator.random(50), generator.integers(0, 2, 50)
    threshold = threshold_for_value(needs.tolist(), small.tolist(), [1] * 50, at_least=0.8)
    assert np.where(needs >= threshold, 1, small).mean() >= 0.8
    assert np.where(needs > threshold, 1, small).mean() < 0.8
    assert threshold_for_value([0.5], [1], [0], at_least=1) == NEVER
    with pytest.raises(DataError, match=r"at_least is 2 and the best threshold reaches 1\.000"):
        threshold_for_value([0.5], [0], [1], at_least=2)


@pytest.mark.parametrize("calls", [0, 1, 7, 50, 100, 200])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.5])
def test_a_pace_uses_the_budget_to_the_last_call(calls: int, shift: float) -> None:
    generator = np.random.default_rng(calls)
    before, needs = generator.random(80).tolist(), (generator.random(100) + shift).tolist()
    assert sum(decide_stream(Paced(before), needs, calls=calls)) == min(calls, 100)


def test_a_pace_prefers_greater_needs() -> None:
    generator = np.random.default_rng(3)
    needs = generator.random(1000)
    large = np.array(decide_stream(Paced(generator.random(500).tolist()), needs.tolist(), calls=300))
    assert needs[large].mean() > 0.8
    assert needs[~large].mean() < 0.4


def test_a_budgeted_switch_is_as_good_as_the_best_policy() -> None:
    """Against all policies of three decisions and one call, enumerated."""
    needs, gains = [0.1, 0.5, 0.9, 0.9], [0.0, 0.4, 1.0, 1.0]
    switch = BudgetedSwitch(calls=1, decisions=3, bins=4).fit(needs, gains)
    shares = {0.1: 0.25, 0.5: 0.25, 0.9: 0.5}
    value = dict(zip(needs, gains, strict=True))

    def worth(decide: Any) -> float:
        total = 0.0
        for stream in itertools.product(shares, repeat=3):
            chance, calls, gained = math.prod(shares[need] for need in stream), 1, 0.0
            for place, need in enumerate(stream):
                if calls and decide(need, calls, 3 - place):
                    calls, gained = 0, gained + value[need]
            total += chance * gained
        return total

    policies = itertools.product(list(itertools.product([False, True], repeat=3)), repeat=3)
    places = {need: place for place, need in enumerate(shares)}
    best = max(
        worth(lambda need, calls, left, policy=policy: policy[left - 1][places[need]]) for policy in policies
    )
    mine = worth(lambda need, calls, left: switch.wants(need, calls=calls, decisions=left))
    assert mine == pytest.approx(best)
    assert mine == pytest.approx(switch._values[3, 1])


def test_it_saves_calls_for_what_comes_later() -> None:
    # The first half of the stream gains half as much as the second.
    needs = [0.2, 0.6] * 10 + [0.8, 1.0] * 10
    gains = [0.0, 0.5] * 10 + [1.0, 1.0] * 10
    knows = BudgetedSwitch(calls=10, decisions=40, bins=4, phases=2).fit(needs, gains)
    large = decide_stream(knows, needs, calls=10)
    assert not any(large[:20])
    assert sum(large) == 10
    paced = decide_stream(Paced(needs), needs, calls=10)
    got = [sum(gain for gain, asked in zip(gains, made, strict=True) if asked) for made in (large, paced)]
    assert got[0] == 10.0 > got[1] - 1e-9


def test_a_cost_is_what_a_call_must_gain_at_least() -> None:
    needs, gains = [0.1, 0.9] * 20, [0.2, 0.8] * 20
    free = BudgetedSwitch(calls=40, decisions=40, bins=2).fit(needs, gains)
    dear = BudgetedSwitch(calls=40, decisions=40, bins=2, cost=0.5).fit(needs, gains)
    assert sum(decide_stream(free, needs, calls=40)) == 40
    assert sum(decide_stream(dear, needs, calls=40)) == 20


def test_without_a_budget_only_a_threshold_decides() -> None:
    assert Threshold(ALWAYS).wants(0.0, calls=math.inf, decisions=math.inf)
    assert not Threshold(NEVER).wants(1.0, calls=math.inf, decisions=math.inf)
    with pytest.raises(ConfigError, match="how many decisions"):
        Paced([0.5]).wants(0.5, calls=1, decisions=math.inf)
    learnt = BudgetedSwitch(calls=1, decisions=1).fit([0.5], [1])
    with pytest.raises(ConfigError, match="without a budget"):
        learnt.wants(0.5, calls=math.inf, decisions=math.inf)
    with pytest.raises(ConfigError, match="learnt nothing"):
        BudgetedSwitch(calls=1, decisions=1).wants(0.5, calls=1, decisions=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Threshold("0.5"), "the threshold is '0.5'"),  # type: ignore[arg-type]
        (lambda: BudgetedSwitch(calls=-1, decisions=1), "calls is -1"),
        (lambda: BudgetedSwitch(calls=1, decisions=2, phases=3), "phases is 3"),
        (lambda: BudgetedSwitch(calls=1, decisions=2, cost=-1), "cost is -1"),
        (lambda: threshold_for_share([0.5], 1.5), "share is 1.5"),
    ],
)
def test_bad_settings_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Paced([]),
        lambda: Paced([math.nan]),
        lambda: threshold_for_share([], 0.5),
        lambda: threshold_for_value([0.5], [1, 0], [1], at_least=0),
        lambda: BudgetedSwitch(calls=1, decisions=1).fit([0.5], [1, 2]),
    ],
)
def test_bad_numbers_are_refused(make: Any) -> None:
    with pytest.raises(DataError):
        make()
