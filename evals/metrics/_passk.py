"""What k samples of each item give: one right, all right, the majority right, or the best-scored right.

Every item's number is the exact mean over all subsets of k of its samples, so it is unbiased and does not
depend on the order of the samples. The interval is over items: samples of one item are not independent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from docendo.checks import check_count
from docendo.errors import DataError
from docendo.evals.metrics._basics import finite, flags, mean, rows, same_length
from docendo.evals.metrics._measures import Measure


def pass_at_k(
    correct: Sequence[Sequence[bool]],
    k: int,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Measure:
    """The chance that at least one of k samples is right (Chen et al. 2021, arXiv 2107.03374).

    Of n samples, c of them right, it is 1 - C(n - c, k) / C(n, k), computed with whole numbers, so without
    rounding or overflow. Reporting the best of k without drawing more than k is noisier, not biased.

    Args:
        correct: For each item whether each of its samples is right; k samples or more, not all items need
            the same number.
        k: How many samples are looked at.
        level: Confidence level of the interval.
        resamples: Resamples of the bootstrap over items, at least 100. Where every item's number is 0 or 1
            the interval is Wilson's.
        seed: Seed of the bootstrap.

    Raises:
        DataError: if there is no item, or one with fewer than k samples.
        ConfigError: if k is less than 1.

    Example:
        >>> pass_at_k([[True, False, False, False]], 2).value
        0.5
    """
    return _over_items(
        correct,
        k,
        lambda right: (
            (math.comb(len(right), k) - math.comb(len(right) - sum(right), k)) / math.comb(len(right), k)
        ),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def pass_hat_k(
    correct: Sequence[Sequence[bool]],
    k: int,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Measure:
    """The chance that all of k samples are right: pass^k, reliability (Yao et al. 2024, arXiv 2406.12045).

    Of n samples, c of them right, it is C(c, k) / C(n, k).

    Args:
        correct: As for `pass_at_k`.
        k: As for `pass_at_k`.
        level: As for `pass_at_k`.
        resamples: As for `pass_at_k`.
        seed: As for `pass_at_k`.

    Raises:
        DataError: if there is no item, or one with fewer than k samples.
        ConfigError: if k is less than 1.

    Example:
        >>> pass_hat_k([[True, True, True, False]], 2).value
        0.5
    """
    return _over_items(
        correct,
        k,
        lambda right: math.comb(sum(right), k) / math.comb(len(right), k),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def majority_at_k(
    answers: Sequence[Sequence[str | None]],
    correct: Sequence[Sequence[bool]],
    k: int,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Measure:
    """The chance that the most frequent answer of k samples is right (Wang et al. 2022, arXiv 2203.11171).

    Equal answers vote together. Among t answers with equally many votes each wins with the chance 1 / t. A
    sample without an answer does not vote; where none of the k has an answer the item counts as wrong.

    Args:
        answers: For each item the final answer of each sample, in one form for what is the same; None where
            there is none.
        correct: Whether each of them is right; the same for equal answers.
        k: How many samples vote; every item has that many or more.
        level: As for `pass_at_k`.
        resamples: As for `pass_at_k`.
        seed: As for `pass_at_k`.

    Raises:
        DataError: as `pass_at_k`, or if equal answers to an item are right and wrong, or numbers differ.
        ConfigError: if k is less than 1.

    Example:
        >>> majority_at_k([["7", "7", "8"]], [[True, True, False]], 2).value  # 7 7, or twice a tie
        0.6666666666666666
    """
    check_count("k", k, 1)
    given, right = rows("answers", answers), rows("correct", correct)
    same_length(answers=given, correct=right)
    items = []
    for item, (said, good) in enumerate(zip(given, right, strict=True)):
        texts, verdicts = rows(f"answers[{item}]", said), flags(f"correct[{item}]", good)
        _enough(item, same_length(**{f"answers[{item}]": texts, f"correct[{item}]": verdicts}), k)
        items.append(_majority(*_votes(item, texts, verdicts), k))
    return mean(items, shares=True, level=level, resamples=resamples, seed=seed)


def best_of_n(
    correct: Sequence[Sequence[float]],
    scores: Sequence[Sequence[float]],
    n: int,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Measure:
    """The mean result of taking the best-scored of n samples, as a verifier or a reward model would.

    Among samples of equal score each is taken with the same chance.

    Args:
        correct: For each item whether each of its samples is right, or any finite measure of it.
        scores: The score of each sample, higher is better.
        n: How many samples are drawn; every item has that many or more.
        level: As for `pass_at_k`.
        resamples: As for `pass_at_k`.
        seed: As for `pass_at_k`.

    Raises:
        DataError: as `pass_at_k`, or if the numbers differ or one is not finite.
        ConfigError: if n is less than 1.

    Example:
        >>> best_of_n([[True, False, False]], [[0.9, 0.5, 0.1]], 2).value  # drawn in two of three pairs
        0.6666666666666666
    """
    check_count("n", n, 1)
    good, scored = rows("correct", correct), rows("scores", scores)
    same_length(correct=good, scores=scored)
    items, graded = [], True
    for item, (values, marks) in enumerate(zip(good, scored, strict=True)):
        results, ranks = finite(f"correct[{item}]", values), finite(f"scores[{item}]", marks)
        _enough(item, same_length(**{f"correct[{item}]": results, f"scores[{item}]": ranks}), n)
        items.append(_best(results, ranks, n))
        graded = graded and set(results) <= {0.0, 1.0}
    return mean(items, shares=graded, level=level, resamples=resamples, seed=seed)


def _over_items(correct: Any, k: int, measure: Callable[[list[bool]], float], **settings: Any) -> Measure:
    check_count("k", k, 1)
    items = [flags(f"correct[{item}]", samples) for item, samples in enumerate(rows("correct", correct))]
    same_length(correct=items)
    for item, right in enumerate(items):
        _enough(item, len(right), k)
    return mean([measure(right) for right in items], shares=True, **settings)


def _enough(item: int, samples: int, k: int) -> None:
    if samples < k:
        raise DataError(
            f"item {item} has {samples} samples", expected=f"at least {k}", remedy="draw more or lower k"
        )


def _votes(item: int, answers: list[Any], right: list[bool]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """How often each right answer and each wrong answer was given, and how often none."""
    verdicts: dict[str, bool] = {}
    for answer, good in zip(answers, right, strict=True):
        if not (answer is None or isinstance(answer, str)):
            raise DataError(f"item {item} has the answer {answer!r}", expected="text or None")
        if answer is not None and verdicts.setdefault(answer, good) != good:
            raise DataError(f"item {item} has the answer {answer!r} both as right and as wrong")
        if answer is None and good:
            raise DataError(f"item {item} has a sample without an answer that is right")
    counts = Counter(answers)
    good_ones = sorted(counts[answer] for answer, good in verdicts.items() if good)
    bad_ones = sorted(counts[answer] for answer, good in verdicts.items() if not good)
    return tuple(good_ones), tuple(bad_ones), counts[None]


@lru_cache(maxsize=4096)
def _majority(good: tuple[int, ...], bad: tuple[int, ...], silent: int, k: int) -> float:
    """The mean over all subsets of k: for each right answer, over the votes with which it may lead."""
    wins = Fraction(0)
    for number, votes in enumerate(good):
        rivals = good[:number] + good[number + 1 :] + bad
        for lead in range(1, min(votes, k) + 1):
            for ties, ways in _ways(rivals, silent, k - lead, lead).items():
                wins += Fraction(math.comb(votes, lead) * ways, 1 + ties)
    return float(wins / math.comb(sum(good) + sum(bad) + silent, k))


def _ways(rivals: tuple[int, ...], silent: int, rest: int, lead: int) -> dict[int, int]:
    """How many ways there are to draw `rest` samples so that no rival has more than `lead` votes.

    By the number of rivals with just as many; a polynomial in the votes, multiplied rival by rival.
    """
    states = {(drawn, 0): math.comb(silent, drawn) for drawn in range(min(silent, rest) + 1)}
    for votes in rivals:
        after: dict[tuple[int, int], int] = {}
        for (drawn, ties), count in states.items():
            for more in range(min(votes, lead, rest - drawn) + 1):
                key = (drawn + more, ties + (more == lead))
                after[key] = after.get(key, 0) + count * math.comb(votes, more)
        states = after
    return {ties: count for (drawn, ties), count in states.items() if drawn == rest}


def _best(results: list[float], scores: list[float], n: int) -> float:
    """Sums, over groups of equal score, the group's mean result times the chance that it leads."""
    groups: dict[float, list[float]] = {}
    for result, score in zip(results, scores, strict=True):
        groups.setdefault(score, []).append(result)
    total, below = Fraction(0), 0
    for score in sorted(groups):
        group = groups[score]
        leads = math.comb(below + len(group), n) - math.comb(below, n)
        total += leads * sum(map(Fraction, group), Fraction(0)) / len(group)
        below += len(group)
    return float(total / math.comb(len(scores), n))
