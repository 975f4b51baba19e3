"""The mean of values that come in clusters: several answers to one template, several items of one seed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from docendo.checks import entries
from docendo.errors import DataError
from docendo.evals.statistics._checks import are_binary, check_level, numbers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from docendo.evals.statistics._checks import Floats, Values


def cluster_interval(
    values: Values, clusters: Sequence[Hashable], *, level: float = 0.95
) -> tuple[float, float]:
    """Returns the interval of the mean of values that come in clusters, such as templates or seeds.

    Clusters are taken as drawn at random, and values of one cluster as alike; only whole clusters count
    as independent. The variance is that between clusters, corrected for their number and sizes (CR2 of
    Bell and McCaffrey 2002), held against Student's t with Satterthwaite's degrees of freedom: the smaller
    of those for independent values and for values that agree within their cluster. Values that are all 0
    or 1 get Wilson's interval for the effective number of values, with the same t quantile (the idea of
    Kott and Carr 1997), which stays in [0, 1] and holds its level near 0 and 1.

    Resampling clusters was tried and is not offered: with 3 to 10 clusters its intervals are far too
    narrow (`docs/statistics.md`).

    Args:
        values: One number for each item.
        clusters: The cluster of each item, in the same order.
        level: Confidence level.

    Returns:
        Lower and upper end. Where the clusters' means agree exactly, the values are taken as independent.

    Raises:
        DataError: if the two differ in length, there are fewer than two clusters, or a value is not finite.

    Example:
        >>> low, high = cluster_interval([1, 1, 0, 1, 0, 0, 1, 1, 1], list("aaabbbccc"))
        >>> f"{low:.2f} to {high:.2f}"
        '0.11 to 0.97'
    """
    import numpy as np

    check_level(level)
    found = numbers("values", values)
    members = _members(clusters, len(found))
    sizes = np.bincount(members).astype(float)
    if len(sizes) < 2:
        raise DataError(f"there are {len(sizes)} clusters", expected="at least 2")
    means = np.bincount(members, weights=found) / sizes
    spread = float(found.var(ddof=1))
    low, high = cluster_bounds(means[None], sizes, level, binary=are_binary(found), spread=spread)
    return float(low[0]), float(high[0])


def cluster_bounds(
    means: Floats, sizes: Floats, level: float, *, binary: bool, spread: float | Floats
) -> tuple[Floats, Floats]:
    """The interval for many samples at once.

    Args:
        means: Mean of each cluster, of shape [samples, clusters].
        sizes: Number of values of each cluster.
        level: Confidence level.
        binary: Whether the values are 0 and 1.
        spread: Variance of a single value, for samples whose clusters agree exactly.
    """
    import numpy as np
    from scipy.special import stdtrit

    n = sizes.sum()
    weights = sizes / n
    centre = means @ weights
    variance = cluster_variance(means - centre[:, None], weights)
    k = stdtrit(_freedom(weights, sizes), (1 + level) / 2)
    agree = variance <= 1e-15
    if not binary:
        half = k * np.sqrt(np.where(agree, spread / n, variance))
        return centre - half, centre + half
    effective = np.where(agree, n, centre * (1 - centre) / np.where(agree, 1.0, variance))
    scale = 1 + k * k / effective
    middle = (centre + k * k / (2 * effective)) / scale
    half = k / scale * np.sqrt(centre * (1 - centre) / effective + (k / (2 * effective)) ** 2)
    return np.clip(middle - half, 0.0, centre), np.clip(middle + half, centre, 1.0)


def cluster_variance(deviations: Floats, weights: Floats) -> Floats:
    """Variance of the weighted mean, from the deviations of the clusters' means (last axis)."""
    return ((weights * deviations) ** 2 / (1 - weights)).sum(-1)


def _freedom(weights: Floats, sizes: Floats) -> float:
    """Satterthwaite's degrees of freedom of `cluster_variance`, the smaller of two working models."""
    return min(_freedom_under(weights, sizes / sizes), _freedom_under(weights, 1 / sizes))


def _freedom_under(weights: Floats, variances: Floats) -> float:
    """The degrees of freedom if the clusters' means have these variances, up to a factor.

    The variance is a quadratic form u'Au in the means. With C the diagonal of w²/(1-w) and s its trace,
    A = C - Cw' - wC' + s ww', and the degrees of freedom are tr(AV)² / tr(AVAV).
    """
    own = weights**2 / (1 - weights)
    total = own.sum()
    diagonal = own - 2 * own * weights + total * weights**2
    trace = (variances * diagonal).sum()
    # The sum over all entries of (Cw' + wC' - s ww')², whose own diagonal is exchanged for that of A.
    cc, ww, cw = ((variances * x).sum() for x in (own**2, weights**2, own * weights))
    rest = 2 * cc * ww + 2 * cw**2 + total**2 * ww**2 - 4 * total * cw * ww
    squares = rest + (variances**2 * (diagonal**2 - (diagonal - own) ** 2)).sum()
    return float(trace**2 / squares)


def cluster_sums(values: Floats, clusters: Sequence[Hashable]) -> Floats:
    """The sum of each cluster's values.

    Raises:
        DataError: if the two differ in length or are empty.
    """
    import numpy as np

    return np.bincount(_members(clusters, len(values)), weights=values).astype(float)


def _members(clusters: Sequence[Hashable], n: int) -> npt.NDArray[np.intp]:
    """The number of each item's cluster, in the order of the clusters' first items."""
    import numpy as np

    clusters = entries("clusters", clusters, Hashable, "a cluster for each value")
    if len(clusters) != n or not n:
        raise DataError(
            f"there are {n} values and {len(clusters)} clusters",
            expected="a cluster for each value",
        )
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([places[cluster] for cluster in clusters])
