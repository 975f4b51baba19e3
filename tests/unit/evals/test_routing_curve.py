"""The curve of a router: exact areas, costs that count, and a random choice in the middle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from docendo.errors import ConfigError, DataError
from docendo.evals import RoutingCurve, oracle_scores, routing_curve


def curve(scores: list[float], small: list[float], large: list[float], **options: Any) -> RoutingCurve:
    costs = {"small_cost": [1.0] * len(scores), "large_cost": [5.0] * len(scores)}
    return routing_curve(scores, small, large, **{**costs, "resamples": 100, **options})


def test_the_areas_are_those_of_the_pieces() -> None:
    # Of four questions the second and third need the large model; they are ranked first and third.
    found = curve([0.2, 0.9, 0.4, 0.7], [1, 0, 0, 1], [1, 1, 1, 1])
    # A question that goes over between two budgets is the large model's for the rest, and half between.
    assert found.values == pytest.approx((1.0, 7 / 8, 3 / 8, 1.0))
    assert found.apgr.value == pytest.approx((7 / 8 + 3 / 8) / 2)
    assert found.recovered.value == pytest.approx(found.apgr.value)
    assert found.spent == pytest.approx(3.0)


def test_any_order_of_equal_needs_is_a_random_choice() -> None:
    generator = np.random.default_rng(0)
    small, large = generator.integers(0, 2, 50).tolist(), [1] * 50
    assert curve([0.5] * 50, small, large).apgr.value == pytest.approx(0.5)
    areas = [curve(generator.random(50).tolist(), small, large).apgr.value for _ in range(200)]
    assert np.mean([area for area in areas if area is not None]) == pytest.approx(0.5, abs=0.02)


def test_what_routing_costs_is_paid_first() -> None:
    scores, small, large = [0.9, 0.1], [0, 1], [1, 1]
    free, dear = curve(scores, small, large), curve(scores, small, large, router_cost=2.0)
    # Budgets from 0 to 8 beyond the small answers: 4 for the question; with the router 4 are gone before.
    assert free.recovered.value == pytest.approx(0.75)
    assert dear.recovered.value == pytest.approx(0.25)
    assert dear.apgr.value == free.apgr.value
    assert curve(scores, small, large, router_cost=5.0).recovered.value == 0.0
    assert curve(scores, small, large, router_cost=5.0).spent == 1.0


def test_a_cascade_pays_for_both_answers() -> None:
    found = curve([0.9, 0.1], [0, 1], [1, 1], cascade=True)
    # The large answer costs 5 of the 8, not 4.
    assert found.recovered.value == pytest.approx((8 - 2.5) / 8)
    assert found.frontier[-1].share == pytest.approx(0.8)
    assert found.frontier[-1].cost == pytest.approx(5.0)


def test_all_routers_that_can_spend_what_they_may_spend_the_same() -> None:
    generator = np.random.default_rng(1)
    small, large = generator.integers(0, 2, 60).tolist(), generator.integers(0, 2, 60).tolist()
    costs = {
        "small_cost": generator.uniform(1, 2, 60).tolist(),
        "large_cost": generator.uniform(5, 9, 60).tolist(),
    }
    spent = {
        round(routing_curve(generator.random(60).tolist(), small, large, resamples=100, **costs).spent, 9)
        for _ in range(5)
    }
    assert len(spent) == 1
    assert spent.pop() == pytest.approx((np.mean(costs["small_cost"]) + np.mean(costs["large_cost"])) / 2)


def test_nobody_beats_the_oracle_at_any_budget() -> None:
    generator = np.random.default_rng(2)
    small, large = generator.integers(0, 2, 40).tolist(), generator.integers(0, 2, 40).tolist()
    costs = {
        "small_cost": generator.uniform(1, 2, 40).tolist(),
        "large_cost": generator.uniform(5, 9, 40).tolist(),
    }
    best = routing_curve(oracle_scores(small, large, **costs), small, large, resamples=100, **costs)
    for _ in range(20):
        other = routing_curve(generator.random(40).tolist(), small, large, resamples=100, **costs)
        for mine, theirs in zip(best.frontier, other.frontier, strict=True):
            assert mine.value >= theirs.value - 1e-9


def test_the_interval_covers_what_other_questions_give() -> None:
    generator = np.random.default_rng(3)

    def drawn(n: int) -> tuple[list[float], list[float]]:
        hard = generator.random(n)
        return hard.tolist(), (generator.random(n) > hard).astype(float).tolist()

    # Of n questions of need u, 1 - u of which the small model answers: the area under u^2 - 2 u.
    covered = []
    for _ in range(60):
        found = curve(*drawn(200), [1.0] * 200, resamples=200)
        assert found.apgr.interval is not None
        covered.append(found.apgr.interval[0] <= 2 / 3 <= found.apgr.interval[1])
    assert np.mean(covered) >= 0.85


def test_a_large_model_that_is_not_better_has_no_gap() -> None:
    found = curve([0.1, 0.2], [1, 1], [1, 0])
    assert (found.apgr.value, found.apgr.reason) == (None, "the large model is not better")


def test_the_cost_of_a_share_of_the_gap() -> None:
    found = curve([0.9, 0.1], [0, 1], [1, 1])
    assert found.cost_of(0.5) == pytest.approx(2.0)
    assert found.cost_of(1.0) == pytest.approx(3.0)
    for share in (1.5, -0.1, "half", None):
        with pytest.raises(ConfigError, match=r"recovered is .*; expected a number from 0 to 1"):
            found.cost_of(share)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"large_cost": [1.0, 1.0]}, r"large_cost\[0\] is 1 and small_cost\[0\] is 1"),
        ({"router_cost": -1}, "router_cost is -1"),
        ({"scores": [0.5, math.nan]}, "scores"),
        ({"scores": [0.5]}, "scores"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "scores": [0.1, 0.2],
        "small": [0, 1],
        "large": [1, 1],
        "small_cost": [1.0, 1.0],
        "large_cost": [5.0, 5.0],
    }
    with pytest.raises(DataError, match=words):
        routing_curve(**{**given, **changes})
    with pytest.raises(ConfigError, match="cascade is 'no'; expected True or False"):
        routing_curve(**{**given, "cascade": "no"})
