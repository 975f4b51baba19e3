"""Curricula: determinism, closed forms, effect against their own shuffled control, and crashes."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from docendo.distill import UCB, BalancedWindow, EasyToHard, Feedback, Plan, RandomScheduler, Scheduler
from docendo.distill.rounds._scheduler import Curriculum, group_advantages
from docendo.errors import ConfigError, DataError
from docendo.evals import make_item

POOL = {f"{stratum}-{n}": stratum for stratum in ("fair", "hopeless", "mastered") for n in range(20)}
RATES = {"fair": 0.5, "hopeless": 0.0, "mastered": 1.0}
LEVEL = {item: float(sum(map(ord, item))) for item in POOL}

KINDS: dict[str, Callable[[], Curriculum]] = {
    "random": lambda: RandomScheduler(POOL, size=7, seed=3),
    "easy to hard": lambda: EasyToHard(POOL, difficulty=LEVEL, size=7, seed=3),
    "window": lambda: BalancedWindow(POOL, size=7, seed=3),
    "ucb": lambda: UCB(POOL, size=7, seed=3),
}
each = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def answers(items: tuple[str, ...], draws: random.Random, samples: int = 8) -> Feedback:
    """Samples of a simulated student with a success rate for each stratum."""
    asked = [item for item in items for _ in range(samples)]
    rewards = [float(draws.random() < RATES[POOL[item]]) for item in asked]
    return Feedback(items=tuple(asked), rewards=tuple(rewards))


def drive(scheduler: Scheduler, steps: int, *, start: int = 0) -> list[Plan]:
    plans = []
    for step in range(start, start + steps):
        plans.append(scheduler.plan(step))
        scheduler.observe(answers(plans[-1].items, random.Random(step)))
    return plans


def share(plans: list[Plan], stratum: str) -> float:
    asked = Counter(POOL[item] for plan in plans for item in plan.items)
    return asked[stratum] / asked.total()


@each
def test_it_keeps_the_protocol_and_plans_each_item_once(make: Callable[[], Curriculum]) -> None:
    scheduler = make()
    assert isinstance(scheduler, Scheduler)
    for plan in drive(scheduler, 12):
        assert 1 <= len(plan.items) <= 7
        assert len(set(plan.items)) == len(plan.items)
        assert set(plan.items) <= set(POOL)


@each
def test_plans_repeat_and_the_order_of_the_items_does_not_matter(make: Callable[[], Curriculum]) -> None:
    first, second = make(), make()
    assert first.plan(0) == first.plan(0)
    assert drive(first, 6) == drive(second, 6)
    backwards = dict(reversed(POOL.items()))
    again = type(first).__new__(type(first))
    options: dict[str, Any] = {"difficulty": LEVEL} if isinstance(first, EasyToHard) else {}
    again.__init__(backwards, size=7, seed=3, **options)  # type: ignore[misc]
    assert drive(again, 6) == drive(make(), 6)


@each
def test_it_goes_on_after_a_crash_as_if_there_had_been_none(make: Callable[[], Curriculum]) -> None:
    whole = drive(make(), 8)
    killed = make()
    drive(killed, 5)
    state = json.loads(json.dumps(killed.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert drive(resumed, 3, start=5) == whole[5:]


@each
def test_states_of_others_are_refused(make: Callable[[], Curriculum]) -> None:
    scheduler = make()
    for state in (
        {},
        {**scheduler.state_dict(), "scheduler": "Other"},
        {**scheduler.state_dict(), "pool": "0"},
        scheduler.shuffled().state_dict(),
        {**scheduler.state_dict(), "settings": {**scheduler.state_dict()["settings"], "seed": 4}},
    ):
        with pytest.raises(DataError, match="another"):
            scheduler.load_state_dict(state)
    with pytest.raises(DataError, match="of the scheduler"):
        scheduler.observe(Feedback(items=("other",), rewards=(1.0,)))
    for step in (-1, 0.5):
        with pytest.raises(ConfigError, match="step"):
            scheduler.plan(step)  # type: ignore[arg-type]


def test_random_asks_everything_once_before_anything_twice() -> None:
    scheduler = RandomScheduler(POOL, size=7, seed=1)
    passed = [item for step in range(9) for item in scheduler.plan(step).items]
    assert sorted(passed) == sorted(POOL)
    following = [item for step in range(9, 18) for item in scheduler.plan(step).items]
    assert sorted(following) == sorted(POOL)
    assert passed != following


def test_easy_comes_first_and_the_control_knows_nothing_of_it() -> None:
    scheduler = EasyToHard(POOL, difficulty=LEVEL, size=10)
    order = [item for step in range(6) for item in scheduler.plan(step).items]
    assert order == sorted(order, key=LEVEL.__getitem__)
    control = scheduler.shuffled(seed=1)
    shuffled = [item for step in range(6) for item in control.plan(step).items]
    assert sorted(shuffled) == sorted(order)
    assert abs(inversions(shuffled) - 0.5) < 0.15
    # The original is as it was.
    assert [item for step in range(6) for item in scheduler.plan(step).items] == order


def inversions(order: list[str]) -> float:
    pairs = [
        (LEVEL[a], LEVEL[b]) for i, a in enumerate(order) for b in order[i + 1 :] if LEVEL[a] != LEVEL[b]
    ]
    return sum(a > b for a, b in pairs) / len(pairs)


def test_ucb_has_the_closed_form_of_the_paper() -> None:
    scheduler = UCB(POOL, size=3, temperature=0.1)
    scheduler.observe(Feedback(items=("fair-0",) * 4, rewards=(1, 0, 0, 0)))
    scheduler.observe(Feedback(items=("hopeless-0", "hopeless-1"), rewards=(0, 0), advantages=(-0.4, 0.2)))
    # By hand: |advantages| of 1 in 4 are sqrt 3 and three times 1 / sqrt 3.
    learnt = {"fair": (3**0.5 + 3 / 3**0.5) / 4, "hopeless": 0.3, "mastered": 0.0}
    seen = {"fair": 4, "hopeless": 2, "mastered": 0}
    bounds = {name: learnt[name] + math.sqrt(2 * math.log(7) / (seen[name] + 1)) for name in learnt}
    assert scheduler.bounds() == pytest.approx(bounds)
    parts = {name: math.exp(bound / 0.1) for name, bound in bounds.items()}
    total = sum(parts.values())
    assert scheduler.probabilities() == pytest.approx({name: part / total for name, part in parts.items()})


def test_ucb_counts_prompts_if_it_is_told_to_and_keeps_a_window() -> None:
    scheduler = UCB(POOL, size=3, count="prompts", window=2)
    scheduler.observe(
        Feedback(items=("fair-0",) * 4 + ("fair-1",), rewards=(0.0,) * 5, advantages=(9, 9, 9, 1, 2))
    )
    assert scheduler.state_dict()["seen"]["fair"] == 2
    assert scheduler.learnability()["fair"] == 1.5


def test_ucb_is_even_where_nothing_is_to_be_learnt() -> None:
    scheduler = UCB(POOL, size=3)
    for stratum in RATES:
        scheduler.observe(Feedback(items=(f"{stratum}-0",) * 8, rewards=(0.0,) * 8))
    assert scheduler.probabilities() == pytest.approx(dict.fromkeys(RATES, 1 / 3))


@pytest.mark.parametrize("kind", [UCB, BalancedWindow])
def test_adaptive_curricula_find_what_is_learnable_and_their_controls_do_not(kind: type[Curriculum]) -> None:
    """After warm-up the fair stratum is over-sampled, hopeless and mastered are below their third."""
    plans = drive(kind(POOL, size=6, seed=1), 60)[20:]
    assert share(plans, "fair") > 0.6
    assert max(share(plans, "hopeless"), share(plans, "mastered")) < 1 / 3
    controls = [drive(kind(POOL, size=6, seed=1).shuffled(seed), 60)[20:] for seed in range(4)]
    mean = sum(share(plans, "fair") for plans in controls) / 4
    assert mean < 0.5, "what is known of one item is told about another, so it helps nobody"


def test_a_window_starts_with_what_is_known_and_its_control_with_the_same_of_others() -> None:
    scheduler = BalancedWindow(POOL, size=6)
    for item, stratum in POOL.items():
        scheduler.table.add(item, [RATES[stratum]] * 8)
    weights = scheduler.plan(0).weights
    assert {POOL[item] for item, weight in weights.items() if weight == 1.0} == {"fair"}
    control = scheduler.shuffled(0).plan(0).weights
    assert Counter(control.values()) == Counter(weights.values())
    assert control != weights


def test_a_stratum_that_is_used_up_is_passed_over() -> None:
    scheduler = UCB({"a": "one", "b": "two", "c": "two"}, size=3)
    scheduler.observe(Feedback(items=("a",) * 2, rewards=(1, 0)))
    scheduler.observe(Feedback(items=("b",) * 500, rewards=(0,) * 500))
    assert sorted(scheduler.plan(0).items) == ["a", "b", "c"]


def test_items_bring_their_strata() -> None:
    items = [make_item(f"{n} + {n}", 2 * n) for n in range(3)]
    assert sorted(RandomScheduler(items, size=3).plan(0).items) == sorted(item.id for item in items)


def test_advantages_are_those_of_a_group() -> None:
    assert group_advantages([], []) == ()
    found = group_advantages(["a", "b", "a", "b"], [1.0, 0.3, 0.0, 0.3])
    assert found == (1.0, 0.0, -1.0, 0.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"items": ("a",), "rewards": ()},
        {"items": ("a",), "rewards": (math.nan,)},
        {"items": ("a",), "rewards": (2.0,)},
        {"items": ("a",), "rewards": (1.0,), "losses": (1.0, 2.0)},
        {"items": (1,), "rewards": (1.0,)},
        {"items": ("a",), "rewards": (1.0,), "version": -1},
    ],
)
def test_bad_feedback_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Feedback(**bad)


def test_bad_settings_are_refused() -> None:
    for pool, size in ((POOL, 0), (POOL, 61), (POOL, 1.5)):
        with pytest.raises(ConfigError, match="size"):
            RandomScheduler(pool, size=size)  # type: ignore[arg-type]
    for nothing in ({}, ["text"], {"a": 1}):
        with pytest.raises(DataError):
            RandomScheduler(nothing, size=1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="difficulty"):
        EasyToHard(POOL, difficulty={"fair-0": 1.0}, size=1)
    for options in ({"temperature": 0}, {"window": 0}, {"count": "tokens"}):
        with pytest.raises(ConfigError):
            UCB(POOL, size=1, **options)
    with pytest.raises(ConfigError, match="explore"):
        BalancedWindow(POOL, size=1, explore=0)
