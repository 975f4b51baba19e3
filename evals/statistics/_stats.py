"""Statistics of right and wrong answers: intervals, paired tests, and what a sample can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from docendo.errors import ConfigError, DataError

# Resampled sums held in memory at once, in cells (8 bytes each).
_CELLS = 4_000_000


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's score interval of a share; (0, 1) if `n` is 0.

    Unlike the normal interval it stays inside [0, 1] and is honest near 0 and 1 (Wilson 1927).

    Example:
        >>> low, high = wilson(24, 200)
        >>> f"{low:.3f} to {high:.3f}"
        '0.082 to 0.172'
    """
    _check_level(level)
    if not 0 <= successes <= n:
        raise ConfigError(f"successes is {successes} of {n}", expected="between 0 and n")
    if n == 0:
        return 0.0, 1.0
    z = _quantile(level)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    # Rounding must not push the bound of a sure share inside or outside of it.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile interval of the mean difference `after - before`, resampling pairs.

    Only the distinct differences matter to the mean, so each resample is one multinomial draw over
    them: the same distribution as drawing pairs with replacement, in a fraction of the time.

    Raises:
        DataError: if the two sequences are empty or differ in length.

    Example:
        >>> paired_bootstrap([0, 0, 1, 1], [1, 1, 1, 1])
        (0.0, 1.0)
    """
    import numpy as np

    _check_level(level)
    if resamples < 100:
        raise ConfigError(f"resamples is {resamples}", expected="at least 100")
    if len(before) != len(after) or not len(before):
        raise DataError(f"{len(before)} values before and {len(after)} after", expected="pairs, at least one")
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    values, counts = np.unique(difference, return_counts=True)
    n = len(difference)
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS // len(values))
    means = np.concatenate(
        [
            generator.multinomial(n, counts / n, size=min(chunk, resamples - start)) @ values / n
            for start in range(0, resamples, chunk)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(up: int, down: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test.

    Args:
        up: Pairs that went from wrong to right.
        down: Pairs that went from right to wrong.

    Example:
        >>> round(mcnemar(10, 1), 4), mcnemar(0, 0)
        (0.0117, 1.0)
    """
    from scipy.stats import binomtest

    if up < 0 or down < 0:
        raise ConfigError(f"up is {up} and down is {down}", expected="counts of 0 or more")
    if up + down == 0:
        return 1.0
    return float(binomtest(min(up, down), up + down, 0.5).pvalue)


def detectable_difference(n: int, discordant: float, *, power: float = 0.8, level: float = 0.95) -> float:
    """Returns the smallest difference of two paired shares that McNemar's test sees with this power.

    Solves the sample size formula of Connor (1987) for the difference. Where the share of discordant
    pairs is too small for any difference within it to be seen, all flips are taken to go one way.

    Args:
        n: Number of pairs.
        discordant: Share of pairs whose two answers differ, in [0, 1].
        power: Wanted probability of detection.
        level: Confidence level of the two-sided test.

    Returns:
        A share in (0, 1]; 1.0 if even a complete reversal would not be seen.

    Example:
        >>> round(detectable_difference(200, 0.3), 3)
        0.108
    """
    _check_level(level)
    _check_level(power, name="power")
    if n < 1 or not 0 <= discordant <= 1:
        raise ConfigError(
            f"n is {n} and discordant is {discordant}", expected="n of 1 or more, a share in [0, 1]"
        )
    z_level, z_power = _quantile(level), NormalDist().inv_cdf(power)

    def missing(difference: float) -> float:
        share = max(discordant, difference)
        spread = math.sqrt(max(0.0, share - difference**2))
        return z_level * math.sqrt(share) + z_power * spread - math.sqrt(n) * difference

    if missing(1.0) > 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return high


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _check_level(level: float, *, name: str = "level") -> None:
    if not 0 < level < 1:
        raise ConfigError(f"{name} is {level!r}", expected="between 0 and 1, such as 0.95")
