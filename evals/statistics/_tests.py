"""Exact tests of a paired difference: McNemar's, and the test that flips signs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from docendo.evals.statistics._checks import check_flips, check_resampling, pairs
from docendo.evals.statistics._clusters import cluster_sums

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats, Values

# Flips held in memory at once, in cells (8 bytes each).
_CELLS = 4_000_000
# Differences with a common step of at least 1/64 (right or wrong, shares of up to 64 samples, their sums) are
# counted exactly by their sums, up to this many additions.
_STEPS, _ADDITIONS = 64, 200_000_000
# So many differences of any size are flipped in every way: half a million sums.
_ENUMERATED = 20


def mcnemar(up: int, down: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test.

    The test is conservative: with few discordant pairs its error is well below its level, as no p-value
    lies near it (`docs/statistics.md` has figures).

    Args:
        up: Pairs that went from wrong to right.
        down: Pairs that went from right to wrong.

    Example:
        >>> round(mcnemar(10, 1), 4), mcnemar(0, 0)
        (0.0117, 1.0)
    """
    from scipy.special import bdtr

    check_flips(up, down)
    if up + down == 0:
        return 1.0
    # Under no effect either direction is a coin's: both tails, which meet where up and down are equal.
    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5)))


def sign_flip(
    before: Values,
    after: Values,
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Returns the two-sided p-value of the sign-flip test of a paired mean difference.

    If a change has no effect, every difference could as well have the other sign. The p-value is the share
    of all choices of signs whose mean is at least as far from 0. It is exact where the differences have a
    common step (right and wrong answers, means over up to 64 samples) or are at most 20; else `resamples`
    choices are drawn, and the observed one counts as one of them, so that p is valid and never 0 (Phipson
    and Smyth 2010). On right and wrong answers it is McNemar's exact test.

    Args:
        before: One number for each item.
        after: One number for each item, in the same order.
        clusters: The cluster of each item, such as its seed or template: signs then flip by whole clusters.
            With k clusters p is at least 2 / 2^k, so that 5 seeds can never show an effect at 0.05.
        resamples: Number of drawn choices where all are too many.
        seed: Seed of the draws.

    Raises:
        DataError: if the sequences are empty, differ in length, or hold a number that is not finite.

    Example:
        >>> sign_flip([0.5, 0.25, 0.0, 0.5], [0.75, 0.5, 0.5, 1.0])
        0.125
        >>> sign_flip([0] * 11, [1] * 10 + [0]), mcnemar(10, 0)
        (0.001953125, 0.001953125)
    """
    import numpy as np

    check_resampling(resamples, seed)
    first, second = pairs(before, after)
    difference = second - first
    if clusters is not None:
        difference = cluster_sums(difference, clusters)
    # Sorted, so that neither rounding nor the draws depend on the order of the items.
    sizes = np.sort(np.abs(difference[difference != 0]))
    if not len(sizes):
        return 1.0
    observed, largest = abs(float(np.sort(difference).sum())), float(sizes.sum())
    # Sums that are the same but for rounding are the same.
    observed -= 1e-9 * largest
    steps = _in_steps(sizes)
    if steps is not None:
        return _counted(steps, observed / largest)
    if len(sizes) <= _ENUMERATED:
        sums = sizes[:1]
        for size in sizes[1:]:
            sums = np.concatenate([sums + size, sums - size])
        return float(np.mean(np.abs(sums) >= observed))
    return _drawn(sizes, observed, resamples, seed)


def _in_steps(sizes: Floats) -> Floats | None:
    """The sizes as whole numbers of a common step, or None if there is none, or too many sums."""
    import numpy as np

    for parts in range(1, _STEPS + 1):
        steps = np.rint(sizes * parts)
        if np.abs(sizes * parts - steps).max() < 1e-9 * parts:
            return steps if len(steps) * steps.sum() <= _ADDITIONS else None
    return None


def _counted(steps: Floats, observed: float) -> float:
    """The share of signs whose sum is at least `observed` of the largest, from the distribution of sums."""
    import numpy as np

    total = int(steps.sum())
    # Of the sum of the sizes that keep their sign.
    shares = np.zeros(total + 1)
    shares[0], reached = 1.0, 0
    for step in steps.astype(int):
        shares[step : reached + step + 1] += shares[: reached + 1].copy()
        reached += step
        shares[: reached + 1] /= 2
    sums = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(shares[sums >= observed * total].sum()))


def _drawn(sizes: Floats, observed: float, resamples: int, seed: int) -> float:
    import numpy as np

    generator = np.random.default_rng(seed)
    chunk, beyond = max(1, _CELLS // len(sizes)), 0
    for start in range(0, resamples, chunk):
        signs = generator.integers(0, 2, (min(chunk, resamples - start), len(sizes)), dtype=np.int8)
        beyond += int((np.abs((2.0 * signs - 1) @ sizes) >= observed).sum())
    return (1 + beyond) / (1 + resamples)
