"""k samples of an item against the enumeration of all subsets."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError
from docendo.evals import best_of_n, majority_at_k, pass_at_k, pass_hat_k, wilson

samples = st.lists(st.booleans(), min_size=1, max_size=9)


def mean_over_subsets(size, k, result):
    return np.mean([result(chosen) for chosen in combinations(range(size), k)])


def vote(answers, correct, chosen):
    """The chance that the winner of the votes of `chosen` is right, ties drawn by lot."""
    counts = Counter(answers[i] for i in chosen if answers[i] is not None)
    if not counts:
        return 0.0
    leaders = [answer for answer, count in counts.items() if count == max(counts.values())]
    return np.mean([any(correct[i] for i in chosen if answers[i] == leader) for leader in leaders])


def best(correct, scores, chosen):
    top = max(scores[i] for i in chosen)
    return np.mean([correct[i] for i in chosen if scores[i] == top])


@given(samples, st.data())
def test_one_right_and_all_right_are_the_means_over_subsets(right, data):
    k = data.draw(st.integers(1, len(right)))
    one = mean_over_subsets(len(right), k, lambda chosen: any(right[i] for i in chosen))
    every = mean_over_subsets(len(right), k, lambda chosen: all(right[i] for i in chosen))
    assert pass_at_k([right], k).value == pytest.approx(one)
    assert pass_hat_k([right], k).value == pytest.approx(every)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["7", "seven", "8", "9", "10", None]), min_size=1, max_size=9), st.data())
def test_the_majority_is_the_mean_over_subsets(answers, data):
    right = [answer in ("7", "seven") for answer in answers]
    k = data.draw(st.integers(1, len(answers)))
    expected = mean_over_subsets(len(answers), k, lambda chosen: vote(answers, right, chosen))
    assert majority_at_k([answers], [right], k).value == pytest.approx(expected)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 0.25]), st.sampled_from([0.1, 0.2, 0.3])), min_size=1, max_size=8
    ),
    st.data(),
)
def test_the_best_of_n_is_the_mean_over_subsets(rows, data):
    right, scores = zip(*rows, strict=True)
    n = data.draw(st.integers(1, len(rows)))
    expected = mean_over_subsets(len(rows), n, lambda chosen: best(right, scores, chosen))
    assert best_of_n([right], [scores], n).value == pytest.approx(expected)


def test_with_one_sample_all_are_the_share_of_right_ones():
    right = [[1, 0, 0, 1, 1], [0, 0, 1, 0, 0]]
    answers = [["a", "b", "c", "a", "a"], ["b", "b", "a", "c", None]]
    scores = [[0.1, 0.9, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]]
    found = [
        pass_at_k(right, 1).value,
        pass_hat_k(right, 1).value,
        majority_at_k(answers, right, 1).value,
        best_of_n(right, scores, 1).value,
    ]
    assert found == pytest.approx([0.4] * 4)


def test_a_perfect_score_makes_best_of_n_pass_at_k():
    rng = np.random.default_rng(0)
    right = (rng.random((20, 10)) < 0.3).tolist()
    assert best_of_n(right, right, 4).value == pytest.approx(pass_at_k(right, 4).value)


def test_many_samples_lose_no_digit():
    right = [[True] + [False] * 99_999]
    assert pass_at_k(right, 1).value == 1e-5
    assert pass_at_k(right, 50_000).value == 0.5
    half = [[True] * 5000 + [False] * 5000]
    assert pass_at_k(half, 20).value == 1 - math.prod((5000 - i) / (10_000 - i) for i in range(20))
    assert pass_hat_k(half, 6000).value == 0


def test_a_majority_of_many_samples_is_exact():
    # 40 of 64 right, one rival: the tail of the hypergeometric distribution, ties by half.
    expected = sum(
        math.comb(40, votes) * math.comb(24, 32 - votes) * (0.5 if votes == 16 else 1)
        for votes in range(16, 33)
    ) / math.comb(64, 32)
    assert majority_at_k([["a"] * 40 + ["b"] * 24], [[1] * 40 + [0] * 24], 32).value == pytest.approx(
        expected
    )


def test_a_majority_of_many_answers_is_what_sampling_gives():
    answers = [str(number % 20) for number in range(64)]
    right = [answer == "0" for answer in answers]
    rng = np.random.default_rng(0)
    drawn = [vote(answers, right, rng.permutation(64)[:32]) for _ in range(4000)]
    error = np.std(drawn) / math.sqrt(4000)
    assert majority_at_k([answers], [right], 32).value == pytest.approx(np.mean(drawn), abs=4 * error)


def test_items_may_have_different_numbers_of_samples():
    assert pass_at_k([[1, 0], [0, 0, 0], [1, 1, 1, 1]], 2).value == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="item 1 has 3 samples; expected at least 4"):
        pass_at_k([[1, 0, 0, 0], [0, 0, 0]], 4)
    with pytest.raises(DataError, match="item 0"):
        majority_at_k([["a"]], [[1]], 2)
    with pytest.raises(DataError, match="item 0"):
        best_of_n([[1]], [[0.5]], 2)


def test_the_interval_is_over_items_and_not_over_samples():
    # 20 items of 50 equal samples are 20 observations.
    right = [[item % 2 == 0] * 50 for item in range(20)]
    assert pass_at_k(right, 5).interval == wilson(10, 20)


def test_the_interval_covers_where_samples_are_estimates():
    rng = np.random.default_rng(1)
    # The chance that four samples fail is the mean of (1 - p)^4 over Beta(1, 2).
    truth = 1 - math.prod((2 + i) / (3 + i) for i in range(4))
    hits = []
    for seed in range(200):
        chances = rng.beta(1, 2, 80)
        right = rng.random((80, 8)) < chances[:, None]
        low, high = pass_at_k(right, 4, resamples=500, seed=seed).interval
        hits.append(low <= truth <= high)
    assert 0.9 <= np.mean(hits) <= 0.99


def test_where_all_items_pass_the_interval_is_not_a_point():
    assert pass_at_k([[1, 1]] * 30, 2).interval == wilson(30, 30)
    assert best_of_n([[1, 1]] * 30, [[0.1, 0.2]] * 30, 2).interval == wilson(30, 30)
    assert pass_at_k([[1, 0, 0]], 2).interval is None


def test_neither_order_of_items_nor_of_samples_matters():
    rng = np.random.default_rng(2)
    right = rng.random((15, 6)) < 0.4
    scores = rng.random((15, 6)).round(1)
    answers = np.where(right, "y", rng.choice(["a", "b"], (15, 6)))
    rows, columns = rng.permutation(15), rng.permutation(6)

    def shuffled(table):
        return table[rows][:, columns].tolist()

    assert pass_at_k(right, 3) == pass_at_k(shuffled(right), 3)
    assert majority_at_k(answers.tolist(), right, 3) == majority_at_k(shuffled(answers), shuffled(right), 3)
    assert best_of_n(right, scores, 3) == best_of_n(shuffled(right), shuffled(scores), 3)


def test_samples_without_an_answer_do_not_vote():
    assert majority_at_k([[None, None, "a"]], [[0, 0, 1]], 3).value == 1
    assert majority_at_k([[None, None]], [[0, 0]], 2).value == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: pass_at_k([], 1),
        lambda: pass_at_k([[]], 1),
        lambda: pass_at_k([["yes"]], 1),
        lambda: pass_at_k("1", 1),
        lambda: pass_at_k([[0.5]], 1),
        lambda: majority_at_k([["a", "a"]], [[1, 0]], 1),
        lambda: majority_at_k([[None]], [[1]], 1),
        lambda: majority_at_k([["a", "b"]], [[1]], 1),
        lambda: majority_at_k([[["a"]]], [[1]], 1),
        lambda: best_of_n([[1, 0]], [[0.5, float("nan")]], 1),
        lambda: best_of_n([[1, 0]], [[0.5]], 1),
        lambda: best_of_n([[1]], [[0.5], [0.5]], 1),
    ],
)
def test_bad_samples_are_refused(call):
    with pytest.raises(DataError):
        call()


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_is_a_whole_number(k):
    for call in (
        lambda: pass_at_k([[1]], k),
        lambda: pass_hat_k([[1]], k),
        lambda: majority_at_k([["a"]], [[1]], k),
        lambda: best_of_n([[1]], [[0.5]], k),
    ):
        with pytest.raises(ConfigError):
            call()
