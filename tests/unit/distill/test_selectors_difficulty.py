"""Windows on success rates, and items that tell models apart."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
from scipy import stats

from docendo.distill import DifficultyWindow, discriminative_items
from docendo.errors import ConfigError, DataError


def samples(item: str, solved: int, of: int) -> list[dict[str, Any]]:
    return [
        {"prompt": item, "completion": str(n), "item": item, "verified": float(n < solved)} for n in range(of)
    ]


def test_rates_are_means_of_beta_posteriors() -> None:
    rows = [*samples("a", 2, 2), *samples("b", 8, 8), *samples("c", 3, 8)]
    table = DifficultyWindow().score(rows)
    rates = [3 / 4] * 2 + [9 / 10] * 8 + [4 / 10] * 8
    assert table.columns["rate"] == pytest.approx(rates)
    assert table.scores == pytest.approx([min(rate - 0.25, 0.75 - rate) for rate in rates])
    assert table.columns["learnability"] == pytest.approx([2 * sqrt(rate * (1 - rate)) for rate in rates])
    assert table.columns["samples"] == tuple([2.0] * 2 + [8.0] * 16)
    inside = stats.beta(4, 6).cdf(0.75) - stats.beta(4, 6).cdf(0.25)
    assert table.columns["inside"][-1] == pytest.approx(inside)


def test_few_samples_leave_room_for_doubt() -> None:
    rows = [*samples("once of one", 1, 1), *samples("eight of eight", 8, 8), *samples("none of eight", 0, 8)]
    assert {rows[at]["item"] for at in DifficultyWindow().select(rows).indices} == {"once of one"}


def test_both_ends_of_the_window_are_inside() -> None:
    rows = [{"prompt": str(n), "successes": n, "samples": 10} for n in range(11)]
    window = DifficultyWindow(3 / 12, 0.75)  # (n + 1) / 12
    assert window.select(rows).indices == tuple(range(2, 9))
    # The middle first.
    assert window.select(rows, k=3).indices == (4, 5, 6)


def test_the_prior_pulls() -> None:
    rows = [{"prompt": "a", "successes": 1, "samples": 2}]
    assert DifficultyWindow(prior=(1, 5)).score(rows).columns["rate"] == (2 / 8,)


def test_rows_without_a_reward_have_no_score() -> None:
    chosen = DifficultyWindow().select([{"prompt": "?", "item": "x"}, *samples("a", 1, 2)])
    assert chosen.indices == (1, 2)
    assert chosen.reasons == {"without the reward verified": 1}


@pytest.mark.parametrize(
    "bad",
    [
        {"low": 0.8, "high": 0.2},
        {"low": -0.1},
        {"high": float("nan")},
        {"prior": (0, 1)},
        {"prior": (1, 1, 1)},
        {"threshold": None},
    ],
)
def test_windows_that_are_none_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DifficultyWindow(**bad)


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2), (None, 2), (1.0, 2)])
def test_counts_that_are_none_are_refused(counts: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match="row 0 has"):
        DifficultyWindow().score([{"prompt": "a", "successes": counts[0], "samples": counts[1]}])


def test_few_models_are_compared_by_item_rest_correlation() -> None:
    matrix = [[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    found = discriminative_items(matrix, 2)
    expected = [
        np.corrcoef([1, 1, 0, 0], [2, 1, 3, 2])[0, 1],
        0.0,  # the others have 2, 2, 2, 2
        np.corrcoef([0, 0, 1, 1], [3, 2, 2, 1])[0, 1],
        0.0,  # everybody solves it
    ]
    assert found.method == "item-rest"
    assert found.discrimination == pytest.approx(expected)
    assert found.indices == (1, 3)
    assert discriminative_items(matrix, 2, keys=["d", "c", "b", "a"]).indices == (3, 1)


def test_a_two_parameter_model_finds_what_made_the_answers() -> None:
    rng = np.random.default_rng(0)
    ability = rng.normal(size=150)
    slope = np.repeat([0.3, 2.5], 10)
    difficulty = np.tile(np.linspace(-1.5, 1.5, 10), 2)
    chance = 1 / (1 + np.exp(-slope * (ability[:, None] - difficulty)))
    matrix = (rng.random(chance.shape) < chance).astype(int)
    found = discriminative_items(matrix.tolist(), 10)
    assert found.method == "2pl"
    assert set(found.indices) == set(range(10, 20))
    assert np.corrcoef(found.ability, ability)[0, 1] > 0.9
    assert np.corrcoef(found.difficulty[10:], difficulty[10:])[0, 1] > 0.97


def test_the_fit_is_a_mode_of_the_posterior() -> None:
    matrix = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 1]])
    found = discriminative_items(matrix.tolist(), 1)
    fitted = np.array([*found.ability, *found.difficulty, *np.log(found.discrimination)])

    def minus_log_posterior(vector: Any) -> float:
        theta, b, a = vector[:6], vector[6:10], np.exp(vector[10:])
        chance = stats.logistic.cdf(a * (theta[:, None] - b))
        likelihood = stats.bernoulli.logpmf(matrix, chance).sum()
        prior = stats.norm.logpdf(theta).sum() + stats.norm.logpdf(b, scale=2).sum()
        return -float(likelihood + prior + stats.norm.logpdf(vector[10:], scale=0.5).sum())

    best = minus_log_posterior(fitted)
    for at in range(len(fitted)):
        for step in (-1e-2, 1e-2):
            moved = fitted.copy()
            moved[at] += step
            assert minus_log_posterior(moved) > best
    # An item that everybody solves tells nobody apart: its slope is not the highest.
    assert found.indices != (3,)


@pytest.mark.parametrize("matrix", [[], [[]], [[0, 2]], [[0.5, 1]], [[0], [0, 1]], [["a"]], [[float("nan")]]])
def test_matrices_that_are_none_are_refused(matrix: Any) -> None:
    with pytest.raises(DataError):
        discriminative_items(matrix, 1)


def test_k_and_keys_must_fit_the_items() -> None:
    for k in (0, 3, 1.0):
        with pytest.raises(ConfigError):
            discriminative_items([[0, 1]], k)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        discriminative_items([[0, 1]], 1, keys=["a"])
