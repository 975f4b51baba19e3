"""Several seeds on the same items: a paired comparison whose difference varies over both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from docendo.errors import DataError
from docendo.evals.statistics._checks import are_binary, check_level, numbers
from docendo.evals.statistics._clusters import cluster_variance
from docendo.evals.statistics._intervals import paired_interval
from docendo.evals.statistics._tests import sign_flip
from docendo.records import Record

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats

# Halvings of the p-value's logarithm, from 1 down to e^-700.
_HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossedDifference(Record):
    """How two methods differ on the same items with several seeds.

    Attributes:
        difference: Mean of `after - before` over all pairs.
        interval: Its confidence interval.
        p_value: Two-sided test of no difference. With several seeds it is below `1 - level` just where the
            interval excludes 0.
        n: Number of pairs: those with a value on both sides.
        seeds: Number of seeds with a pair.
        items: Number of items with a pair.
        seed_spread: Standard deviation, over seeds, of the true difference; None with one seed.
        item_spread: Standard deviation, over items, of the true difference; None with one seed.
        noise: Standard deviation of one pair around what its seed and item explain; with one seed of the
            pairs, or None with one pair. The three are what `crossed_sample_size` plans with.
        level: Confidence level.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    n: int
    seeds: int
    items: int
    seed_spread: float | None = None
    item_spread: float | None = None
    noise: float | None = None
    level: float = 0.95

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a difference stored by `to_json`."""
        return cls(**{**value, "interval": tuple(value["interval"])})


def crossed_difference(before: Any, after: Any, *, level: float = 0.95) -> CrossedDifference:
    """Compares two methods on the same items with several seeds each.

    The pair of seed s and item i is modelled as d + a_s + b_i + e_si: a common difference, what this seed
    and this item add to it, and noise, all independent of each other. Seeds and items are taken as drawn
    at random, so the interval speaks of other seeds and other items, too. Answers taken as independent would
    leave out both effects, and a t test of the seeds' means that other items may differ.

    The variance of the mean has two parts, as in the analysis of variance with crossed random effects: the
    spread of the seeds' means (seeds - 1 degrees of freedom), and what the items' means spread beyond their
    noise (items - 1 degrees). Each part has its own t quantile, and they are weighted by the parts (Cochran
    1964): pooled degrees of freedom fall short with 3 seeds (`docs/statistics.md`). With one seed the
    result is that of `paired_interval` and of the exact `sign_flip` test, which speak of that seed alone.

    Assumed: rows are seeds, columns are items, and a row holds the same seed on both sides. Where the two
    sides share no randomness any pairing of their seeds will do, if it is made before the results are seen.
    With 3 seeds an interval is wide, as the t quantile is 4.3.

    Args:
        before: A table of [seeds, items], or one sequence for one seed. NaN is a missing value.
        after: A table of the same shape. A pair with a missing side is left out.
        level: Confidence level.

    Raises:
        DataError: if the shapes differ, a value is infinite, there is no pair, or there is one item only
            (of one seed's right and wrong answers that is enough).

    Example:
        >>> before = [[0, 0, 1, 0, 0, 1], [0, 0, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0]]
        >>> after = [[1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0]]
        >>> found = crossed_difference(before, after)
        >>> f"{found.difference:+.2f} ({found.interval[0]:+.2f} to {found.interval[1]:+.2f})"
        '+0.39 (+0.01 to +0.77)'
    """
    import numpy as np

    check_level(level)
    first, second = _tables(before, after)
    seeds, items = first.shape
    table = second - first
    known = ~np.isnan(table)
    n, same = int(known.sum()), bool(np.ptp(table[known]) == 0)
    if seeds == 1 or same:
        # Seeds that differ in nothing are one: they give no sign of what another would do.
        one = known.argmax(axis=0), np.arange(items)
        return CrossedDifference(
            difference=float(np.sort(table[one]).mean()),
            interval=paired_interval(first[one], second[one], level=level),
            p_value=sign_flip(first[one], second[one]),
            noise=float(table[one].std(ddof=1)) if items > 1 else None,
            n=n,
            seeds=seeds,
            items=items,
            level=level,
        )
    if items < 2:
        raise DataError("there is 1 item", expected="at least 2 items for several seeds")
    parts = crossed_parts(table[None])
    mean, half = float(parts.mean[0]), float(crossed_half(parts, level)[0])
    bound = 1.0 if are_binary(first, second) else np.inf
    return CrossedDifference(
        difference=mean,
        interval=(max(mean - half, -bound), min(mean + half, bound)),
        p_value=float(crossed_p(parts)[0]),
        seed_spread=float(np.sqrt(parts.seed_effect[0])),
        item_spread=float(np.sqrt(parts.item_effect[0])),
        noise=float(np.sqrt(parts.noise[0])),
        n=n,
        seeds=seeds,
        items=items,
        level=level,
    )


class CrossedParts(NamedTuple):
    """The mean of many tables at once, and what its variance is made of."""

    mean: Floats
    by_seed: Floats
    by_item: Floats
    seed_effect: Floats
    item_effect: Floats
    noise: Floats
    seeds: int
    items: int


def crossed_parts(tables: Floats) -> CrossedParts:
    """The parts of the variance of each table's mean, of tables [samples, seeds, items] with NaN for missing.

    The pattern of missing values must be that of the first table. With none missing these are the mean
    squares of the analysis of variance; else the weighted spreads of `cluster_variance`, and the residual
    is what they leave.
    """
    import numpy as np

    known = ~np.isnan(tables[0])
    _, seeds, items = tables.shape
    n, per_seed, per_item = known.sum(), known.sum(1), known.sum(0)
    filled = np.where(known, tables, 0.0)
    mean = filled.sum((1, 2)) / n
    off_seed = filled.sum(2) / per_seed - mean[:, None]
    off_item = filled.sum(1) / per_item - mean[:, None]
    total = (filled**2).sum((1, 2)) - n * mean**2
    rest = total - (per_seed * off_seed**2).sum(1) - (per_item * off_item**2).sum(1)
    freedom = n - seeds - items + 1
    # Too many values are missing to tell items from noise: all of their spread is taken for that of items.
    noise = np.maximum(0.0, rest / freedom) if freedom > 0 else np.zeros_like(mean)
    by_seed, by_item = cluster_variance(off_seed, per_seed / n), cluster_variance(off_item, per_item / n)
    # Seeds whose means agree exactly agree by rounding: they spread by the noise at least.
    by_seed = np.where(by_seed <= 1e-15, noise / n, by_seed)
    extra_seed, extra_item = np.maximum(0.0, by_seed - noise / n), np.maximum(0.0, by_item - noise / n)
    return CrossedParts(
        mean=mean,
        by_seed=by_seed,
        by_item=extra_item,
        seed_effect=extra_seed * n**2 / (per_seed**2).sum(),
        item_effect=extra_item * n**2 / (per_item**2).sum(),
        noise=noise,
        seeds=seeds,
        items=items,
    )


def crossed_half(parts: CrossedParts, level: float | Floats) -> Floats:
    """Half the width of the interval of each table."""
    import numpy as np
    from scipy.special import stdtrit

    variance = parts.by_seed + parts.by_item
    share = np.divide(parts.by_seed, variance, out=np.ones_like(variance), where=variance > 0)
    upper = (1 + np.asarray(level)) / 2
    k = share * stdtrit(parts.seeds - 1, upper) + (1 - share) * stdtrit(parts.items - 1, upper)
    half: Floats = k * np.sqrt(variance)
    return half


def crossed_p(parts: CrossedParts) -> Floats:
    """The p-value of no difference: one minus the level at which the interval just touches 0."""
    import numpy as np
    from scipy.special import stdtrit

    variance = parts.by_seed + parts.by_item
    share = np.divide(parts.by_seed, variance, out=np.ones_like(variance), where=variance > 0)
    low, high = np.full(variance.shape, -700.0), np.zeros(variance.shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tail = np.exp(middle) / 2
        k = -share * stdtrit(parts.seeds - 1, tail) - (1 - share) * stdtrit(parts.items - 1, tail)
        inside = np.abs(parts.mean) < k * np.sqrt(variance)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.exp(high)


def _tables(before: Any, after: Any) -> tuple[Floats, Floats]:
    """Both tables, without the seeds and items that have no pair; a missing side is missing on both."""
    import numpy as np

    first, second = (
        numbers(name, side, ndim=2, missing=True) for name, side in (("before", before), ("after", after))
    )
    if first.shape != second.shape:
        raise DataError(
            f"before has the shape {first.shape} and after {second.shape}",
            expected="the same seeds and items",
        )
    missing = np.isnan(first) | np.isnan(second)
    if missing.all():
        raise DataError("before and after have no pair in common", expected="at least one pair")
    kept = np.ix_(~missing.all(1), ~missing.all(0))
    return np.where(missing, np.nan, first)[kept], np.where(missing, np.nan, second)[kept]
