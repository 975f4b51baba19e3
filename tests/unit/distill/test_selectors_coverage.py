"""Greedy k-centre: cases by hand, the factor of two against brute force, and its two selectors."""

from __future__ import annotations

from itertools import combinations
from math import dist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.distill import KCenter, PCoreSet, Shuffled, greedy_k_center
from docendo.errors import ConfigError, DataError

LINE = [[0.0], [2.0], [3.0], [7.0], [10.0]]


def test_the_order_on_a_line_is_that_of_a_hand_calculation() -> None:
    # From 0: 10 is farthest; then 3 (3 from 0) and 7 (3 from 10) tie, and the smaller key wins; then 7.
    cover = greedy_k_center(LINE, 3, centres=[[0.0]])
    assert cover.order == (4, 2, 3)
    assert cover.scores == (0.0, 1.0, 3.0, 3.0, 10.0)
    assert cover.radius == 1.0
    assert greedy_k_center(LINE, 2, centres=[[0.0]], keys=["e", "d", "c", "b", "a"]).order == (4, 3)


def test_without_centres_the_first_is_nearest_to_the_mean() -> None:
    # The mean is 4.4; 3 is nearest; then 10 (7 away); then 0 (3) before 7 (3) by key.
    cover = greedy_k_center(LINE, 3)
    assert cover.order == (2, 4, 0)
    assert cover.scores == (3.0, 1.0, 14.0, 3.0, 7.0)


def test_equal_points_are_chosen_last() -> None:
    assert greedy_k_center([[1.0], [1.0], [5.0]], 3, centres=[[0.0]]).scores == (1.0, 0.0, 5.0)


points = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=8)


@settings(deadline=None, max_examples=40)
@given(points, st.integers(1, 4), st.booleans())
def test_the_radius_is_at_most_twice_the_best_possible(
    made: list[tuple[int, int]], k: int, labelled: bool
) -> None:
    k = min(k, len(made) - 1)
    given_ = [made[0]] if labelled else []
    pool = made[1:] if labelled else made
    k = max(1, min(k, len(pool)))
    cover = greedy_k_center(pool, k, centres=given_ or None)

    def radius(chosen: Any) -> float:
        return max(min(dist(p, c) for c in chosen) for p in pool)

    best = min(radius([*given_, *chosen]) for chosen in combinations(pool, k))
    assert radius([*given_, *(pool[at] for at in cover.order)]) == pytest.approx(cover.radius)
    assert cover.radius <= 2 * best + 1e-9
    picked = [cover.scores[at] for at in cover.order]
    assert picked == sorted(picked, reverse=True)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"points": [], "k": 1}, DataError),
        ({"points": [[float("nan")]], "k": 1}, DataError),
        ({"points": [[1.0], [1.0, 2.0]], "k": 1}, DataError),
        ({"points": [["a"]], "k": 1}, DataError),
        ({"points": [[1.0]], "k": 2}, ConfigError),
        ({"points": [[1.0]], "k": 0}, ConfigError),
        ({"points": [[1.0]], "k": 1, "centres": [[1.0, 2.0]]}, DataError),
        ({"points": [[1.0]], "k": 1, "keys": []}, DataError),
    ],
)
def test_points_that_cannot_be_covered_are_refused(bad: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        greedy_k_center(bad.pop("points"), bad.pop("k"), **bad)


def test_p_core_set_takes_what_the_labelled_rows_do_not_cover() -> None:
    rows = [
        {"prompt": str(n), "label_probs": {"a": a, "b": b, "c": c}}
        for n, (a, b, c) in enumerate([(0.9, 0.1, 0.0), (0.8, 0.1, 0.1), (0.0, 1.0, 0.0), (0.1, 0.1, 0.8)])
    ]
    labelled = [{"label_probs": {"a": 1.0, "b": 0.0, "c": 0.0}}]
    chosen = PCoreSet(2, labelled=labelled).select(rows)
    # sqrt(2) to the certain b; then c is sqrt(.81 + .01 + .64) from a and as far from b.
    assert chosen.indices == (2, 3)
    assert chosen.scores == pytest.approx((2**0.5, (0.1**2 + 0.9**2 + 0.8**2) ** 0.5))
    assert chosen.settings["radius"] == pytest.approx((0.2**2 + 0.1**2 + 0.1**2) ** 0.5)
    assert len(Shuffled(PCoreSet(2, labelled=labelled)).select(rows)) == 2
    assert len(PCoreSet(9).select(rows)) == 4


def test_the_choice_does_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    rows = [{"prompt": str(n), "vector": rng.normal(size=3).round(1).tolist()} for n in range(40)]
    turned = [rows[at] for at in rng.permutation(40)]
    one, two = KCenter(10).select(rows), KCenter(10).select(turned)
    assert {rows[at]["prompt"] for at in one.indices} == {turned[at]["prompt"] for at in two.indices}
    assert sorted(one.scores) == sorted(two.scores)


def test_vectors_come_from_an_embedder_as_well() -> None:
    class Length:
        fingerprint = "length"

        def embed(self, texts: Any) -> Any:
            return np.array([[len(text)] for text in texts], dtype=np.float32)

    rows = [
        {"prompt": [{"role": "user", "content": "x" * n}], "completion": "y" * (9 - n)} for n in (1, 2, 8)
    ]
    assert KCenter(1, embedder=Length(), chosen=rows[:1]).select(rows[1:]).indices == (1,)
    by_answer = KCenter(1, embedder=Length(), on="completion", chosen=rows[2:]).select(rows[:2])
    assert by_answer.indices == (0,)
    assert by_answer.settings["vectors"] == "length"


def test_rows_without_vectors_or_probabilities_are_refused() -> None:
    for vectors in ([None], ["12"], [[1.0], [1.0, 2.0]], [[]]):
        with pytest.raises(DataError):
            KCenter(1).select([{"prompt": "?", "vector": vector} for vector in vectors])
    for given_ in (
        None,
        {"a": 1.0},
        {"a": 0.5, "b": 0.2},
        {"a": -0.5, "b": 1.5},
        {"a": float("nan"), "b": 1},
    ):
        with pytest.raises(DataError):
            PCoreSet(1).select([{"prompt": "?", "label_probs": given_}])
    with pytest.raises(DataError, match="row 1 names the labels"):
        PCoreSet(1).select([{"label_probs": {"a": 1.0, "b": 0.0}}, {"label_probs": {"a": 1.0, "c": 0.0}}])
    with pytest.raises(ConfigError):
        PCoreSet(0)
