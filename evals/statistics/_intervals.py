"""Confidence intervals of a share and of a paired difference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from docendo.checks import check_count
from docendo.errors import ConfigError, DataError
from docendo.evals.statistics._checks import (
    are_binary,
    check_flips,
    check_level,
    check_resampling,
    pairs,
    quantile,
)

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats, Values

# Resampled sums held in memory at once, in cells (8 bytes each).
_CELLS = 4_000_000
# Halvings of [-1, 1]: far below the resolution of any sample.
_HALVINGS = 50


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's score interval of a share; (0, 1) if `n` is 0.

    Unlike the normal interval it stays inside [0, 1] and is honest near 0 and 1 (Wilson 1927). As a count
    is discrete, its coverage swings around `level` with the true share: `docs/statistics.md` has figures.

    Example:
        >>> low, high = wilson(24, 200)
        >>> f"{low:.3f} to {high:.3f}"
        '0.082 to 0.172'
    """
    check_level(level)
    check_count("n", n, 0)
    check_count("successes", successes, 0, n)
    if n == 0:
        return 0.0, 1.0
    z = quantile(level)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    # Rounding must not push the bound of a sure share inside or outside of it.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def tango(up: int, down: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Tango's score interval of the difference of two paired shares, `(up - down) / n`.

    It holds the differences that the score test of McNemar's kind does not reject (Tango 1998). Unlike the
    bootstrap it has a width where no pair is discordant, and keeps its level with few of them.

    Args:
        up: Pairs that went from wrong to right.
        down: Pairs that went from right to wrong.
        n: All pairs.
        level: Confidence level.

    Returns:
        Lower and upper end, within [-1, 1]; (-1, 1) if `n` is 0.

    Example:
        >>> low, high = tango(16, 6, 161)
        >>> f"{low:.4f} to {high:.4f}"
        '0.0054 to 0.1240'
    """
    import numpy as np

    check_level(level)
    check_flips(up, down)
    check_count("n", n, 0)
    if up + down > n:
        raise ConfigError(f"up is {up} and down is {down} of {n} pairs", expected="counts within n")
    if n == 0:
        return -1.0, 1.0
    low, high = tango_bounds(np.array([float(up)]), np.array([float(down)]), n, level)
    return float(low[0]), float(high[0])


def tango_bounds(up: Floats, down: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """Tango's interval for many pairs of counts at once."""
    # The upper end is the lower end with the signs exchanged.
    return _tango_lower(up, down, n, level), -_tango_lower(down, up, n, level)


def _tango_lower(up: Floats, down: Floats, n: int, level: float) -> Floats:
    import numpy as np

    z = quantile(level)
    low, high = np.full(up.shape, -1.0), (up - down) / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # Share of pairs that go down, by maximum likelihood under this difference: eq. 26 of Tango (1998).
        linear = (2 * n - up + down) * middle - up - down
        product = down * middle * (1 - middle)
        share = (np.sqrt(np.maximum(0.0, linear**2 + 8 * n * product)) - linear) / (4 * n)
        spread = np.sqrt(np.maximum(0.0, n * (2 * share + middle * (1 - middle))))
        rejected = up - down - n * middle > z * spread
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def paired_interval(before: Values, after: Values, *, level: float = 0.95) -> tuple[float, float]:
    """Returns the interval of the mean difference `after - before` of paired values.

    The one to use for a comparison on the same items: Tango's score interval where all values are 0 or 1
    (or True and False), else Student's t interval of the differences. In simulation both keep their level
    from 50 items on, and better than the bootstrap: `docs/statistics.md`.

    Args:
        before: One number for each item.
        after: One number for each item, in the same order.
        level: Confidence level.

    Returns:
        Lower and upper end. If all differences are the same, and not of 0 and 1, both are that number.

    Raises:
        DataError: if the two differ in length, are empty, hold a number that is not finite, or there is
            one pair only and it is not of 0 and 1.

    Example:
        >>> low, high = paired_interval([0, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1])
        >>> f"{low:.2f} to {high:.2f}"
        '-0.19 to 0.70'
    """
    import numpy as np
    from scipy.special import stdtrit

    check_level(level)
    first, second = pairs(before, after)
    n = len(first)
    if are_binary(first, second):
        return tango(int((second > first).sum()), int((second < first).sum()), n, level)
    if n < 2:
        raise DataError("there is 1 pair", expected="at least 2 pairs of numbers")
    # Sorted, so that rounding does not depend on the order of the items.
    difference = np.sort(second - first)
    mean = float(difference.mean())
    half = float(stdtrit(n - 1, (1 + level) / 2) * difference.std(ddof=1) / math.sqrt(n))
    return mean - half, mean + half


def paired_bootstrap(
    before: Values,
    after: Values,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile interval of the mean difference `after - before`, resampling pairs.

    Only the distinct differences matter to the mean, so each resample is one multinomial draw over
    them: the same distribution as drawing pairs with replacement, in a fraction of the time. With few
    items or few discordant pairs it is too narrow (`docs/statistics.md`); `paired_interval` is not.

    Raises:
        DataError: if the two sequences are empty, differ in length, or hold a number that is not finite.

    Example:
        >>> paired_bootstrap([0, 0, 1, 1], [1, 1, 1, 1])
        (0.0, 1.0)
    """
    import numpy as np

    check_resampling(resamples, seed, level)
    first, second = pairs(before, after)
    values, counts = np.unique(second - first, return_counts=True)
    n = len(first)
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
