"""What a sample can show: the smallest detectable difference, and the sample that a difference needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from docendo.checks import check_count
from docendo.errors import ConfigError
from docendo.evals.statistics._checks import averaged, check_level, check_number, quantile

# No plan asks for more.
_MOST = 1_000_000_000
# Nor for differences that vary more: the square of this is still a number.
_WIDEST = 1e100


def detectable_difference(n: int, discordant: float, *, power: float = 0.8, level: float = 0.95) -> float:
    """Returns the smallest difference of two paired shares that McNemar's exact test sees with this power.

    Solves the sample size formula of Connor (1987) for the difference, with the continuity correction of
    Edwards (1948), without which the exact test falls short of the power. Where the share of discordant
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
        0.113
    """
    check_level(level)
    check_level(power, name="power")
    check_count("n", n, 1)
    check_number("discordant", discordant, 0, 1)
    if _connor(1.0, discordant, power, level) > n:
        return 1.0
    return _least(lambda difference: _connor(difference, discordant, power, level) <= n, 1.0)


def sample_size(difference: float, discordant: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Returns the number of pairs with which McNemar's exact test sees a difference with this power.

    The inverse of `detectable_difference`. Where few pairs are discordant, or all go one way, it is on the
    safe side by some points of power (`docs/statistics.md`).

    Args:
        difference: The difference of the two shares that is to be seen, of either sign.
        discordant: Share of pairs whose two answers differ; a pilot run gives it. At least `difference`.
        power: Wanted probability of detection.
        level: Confidence level of the two-sided test.

    Example:
        >>> sample_size(0.1, 0.3)
        253
    """
    check_level(level)
    check_level(power, name="power")
    check_number("difference", difference, -1, 1)
    check_number("discordant", discordant, 0, 1)
    if not 0 < abs(difference) <= discordant:
        raise ConfigError(
            f"difference is {difference} with {discordant} of the pairs discordant",
            expected="a difference other than 0, at most the share of discordant pairs",
        )
    # Rounding must not ask for one more.
    return math.ceil(_connor(abs(difference), discordant, power, level) - 1e-9)


def crossed_detectable_difference(
    seeds: int,
    items: int,
    *,
    noise: float,
    seed_spread: float = 0.0,
    item_spread: float = 0.0,
    power: float = 0.8,
    level: float = 0.95,
) -> float:
    """Returns the smallest difference that `crossed_difference` sees with this power.

    Args:
        seeds: Number of seeds, at least 2.
        items: Number of items, at least 2; each seed answers all of them.
        noise: Standard deviation of one paired difference around what seed and item explain. Of right and
            wrong answers about the square root of the share of discordant pairs.
        seed_spread: Standard deviation of the true difference over seeds.
        item_spread: Standard deviation of the true difference over items. All three are in the
            `CrossedDifference` of a pilot run.
        power: Wanted probability of detection.
        level: Confidence level of the two-sided test.

    Example:
        >>> round(crossed_detectable_difference(3, 200, noise=0.55), 3)
        0.127
        >>> round(crossed_detectable_difference(10, 200, noise=0.55), 3)
        0.039
    """
    plan = _Plan(noise, seed_spread, item_spread, power, level)
    check_count("seeds", seeds, 2, _MOST)
    check_count("items", items, 2, _MOST)
    most = 100 * plan.error(seeds, items)
    while plan.power_at(most, seeds, items) < power:
        most *= 10
    return _least(lambda difference: plan.power_at(difference, seeds, items) >= power, most)


def crossed_sample_size(
    difference: float,
    seeds: int,
    *,
    noise: float,
    seed_spread: float = 0.0,
    item_spread: float = 0.0,
    power: float = 0.8,
    level: float = 0.95,
) -> int:
    """Returns the number of items with which `crossed_difference` sees a difference with this power.

    Args:
        difference: The difference that is to be seen, of either sign.
        seeds: Number of seeds, at least 2; each answers all items.
        noise: As in `crossed_detectable_difference`.
        seed_spread: Likewise.
        item_spread: Likewise.
        power: Wanted probability of detection.
        level: Confidence level of the two-sided test.

    Raises:
        ConfigError: if no number of items suffices, as the seeds differ too much; it names how many would.

    Example:
        >>> crossed_sample_size(0.08, 3, noise=0.55), crossed_sample_size(0.08, 10, noise=0.55)
        (504, 47)
    """
    plan = _Plan(noise, seed_spread, item_spread, power, level)
    check_count("seeds", seeds, 2, _MOST)
    check_number("difference", difference, -_WIDEST, _WIDEST)
    if difference == 0:
        raise ConfigError("difference is 0", expected="a difference other than 0")
    wanted = abs(difference)
    if plan.power_at(wanted, seeds, _MOST) < power:
        enough = _least_count(lambda count: plan.power_at(wanted, count, _MOST) >= power, seeds)
        raise ConfigError(
            f"no number of items shows a difference of {difference:g} with {seeds} seeds",
            expected=f"at least {enough} seeds with a seed_spread of {seed_spread:g}",
        )
    return _least_count(lambda count: plan.power_at(wanted, seeds, count) >= power, 2)


class _Plan:
    """The power of `crossed_difference` under given spreads."""

    def __init__(
        self, noise: float, seed_spread: float, item_spread: float, power: float, level: float
    ) -> None:
        check_level(level)
        check_level(power, name="power")
        for name, value in (("noise", noise), ("seed_spread", seed_spread), ("item_spread", item_spread)):
            check_number(name, value, 0, _WIDEST)
        self.noise, self.seed, self.item, self.level = noise**2, seed_spread**2, item_spread**2, level
        if self.noise + self.seed + self.item == 0:
            raise ConfigError("noise and spreads are 0", expected="at least one above 0")

    def parts(self, seeds: int, items: int) -> tuple[float, float]:
        """The variance of the mean difference: the part that seeds show, and what items add."""
        return self.seed / seeds + self.noise / (seeds * items), self.item / items

    def error(self, seeds: int, items: int) -> float:
        """The standard error of the mean difference."""
        return math.sqrt(sum(self.parts(seeds, items)))

    def power_at(self, difference: float, seeds: int, items: int) -> float:
        """The probability that the interval excludes 0.

        The seeds' part is estimated and so varies as chi-squared; its quantiles are averaged over. The
        items' part is taken as known: there are many more items than seeds.
        """
        import numpy as np
        from scipy.special import chdtri, ndtr, stdtrit

        shares, weights = averaged(100)
        by_seed, by_item = self.parts(seeds, items)
        seen = by_seed * chdtri(seeds - 1, shares) / (seeds - 1)
        share = seen / np.maximum(seen + by_item, 1e-300)
        upper = (1 + self.level) / 2
        k = share * stdtrit(seeds - 1, upper) + (1 - share) * stdtrit(items - 1, upper)
        half, error = k * np.sqrt(seen + by_item), math.sqrt(by_seed + by_item)
        hit = ndtr((difference - half) / error) + ndtr((-difference - half) / error)
        return float(hit @ weights)


def _connor(difference: float, discordant: float, power: float, level: float) -> float:
    """Pairs needed; all flips go one way where the difference is more than the share of discordant pairs.

    The expected excess of one direction, n times the difference, must be 1 (for the steps of the counts)
    more than `wanted` times the root of n.
    """
    if difference <= 0:
        return math.inf
    share = max(discordant, difference)
    spread = math.sqrt(max(0.0, share - difference**2))
    wanted = quantile(level) * math.sqrt(share) + NormalDist().inv_cdf(power) * spread
    return ((wanted + math.sqrt(wanted**2 + 4 * difference)) / (2 * difference)) ** 2


def _least(enough: Callable[[float], bool], most: float) -> float:
    """The least number up to `most` that is enough, if all larger ones are."""
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _least_count(enough: Callable[[int], bool], least: int) -> int:
    """The least whole number from `least` on that is enough, if all larger ones are."""
    high = least
    while not enough(high):
        if high > _MOST:
            raise ConfigError(f"more than {_MOST:,} would be needed", expected="a larger difference")
        least, high = high, 2 * high
    while high - least > 1:
        middle = (least + high) // 2
        least, high = (least, middle) if enough(middle) else (middle, high)
    return high if not enough(least) else least
