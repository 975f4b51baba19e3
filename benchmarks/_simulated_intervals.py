"""Coverage of intervals: how often they hold what is true, in samples whose truth is known.

A function here measures one row: it gets a generator, a number of simulated samples and a setting, and
returns figures by name. Where all outcomes can be listed with their probabilities, nothing is simulated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _simulated import LEVEL
from scipy.special import gammaln, xlog1py, xlogy
from scipy.stats import beta, binom, bootstrap

from docendo.evals import cluster_interval, paired_bootstrap, paired_interval, wilson
from docendo.evals.statistics._clusters import cluster_bounds
from docendo.evals.statistics._intervals import tango_bounds

#: Resamples of the bootstraps that are shown beside our intervals.
RESAMPLES = 1_000


def share(rng: np.random.Generator, runs: int, *, n: int, accuracy: float) -> dict[str, float]:
    """Wilson's interval of a share, over all outcomes; Clopper and Pearson's beside it."""
    counts = np.arange(n + 1)
    ends = np.array([wilson(int(k), n, LEVEL) for k in counts])
    tails = (1 - LEVEL) / 2
    exact = np.stack(
        [
            np.nan_to_num(beta.ppf(tails, counts, n - counts + 1), nan=0.0),
            np.nan_to_num(beta.ppf(1 - tails, counts + 1, n - counts), nan=1.0),
        ],
        axis=1,
    )

    def coverage(bounds: np.ndarray, truth: float) -> float:
        held = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
        return float(binom.pmf(counts, n, truth) @ held)

    near = np.linspace(accuracy - 0.05, accuracy + 0.05, 501)
    around = np.array([coverage(ends, truth) for truth in near])
    return {
        "coverage": float(around.mean()),
        "least": float(around.min()),
        "most": float(around.max()),
        "at this accuracy": coverage(ends, accuracy),
        "Clopper-Pearson": float(np.mean([coverage(exact, truth) for truth in near])),
    }


def outcomes(n: int, up: float, down: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All counts of pairs that go up and down, with probabilities; what is rarer than 1e-8 is left out."""
    first, second = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    inside = first + second <= n
    first, second = first[inside], second[inside]
    rest = n - first - second
    log = gammaln(n + 1) - gammaln(first + 1) - gammaln(second + 1) - gammaln(rest + 1)
    chance = np.exp(log + xlogy(first, up) + xlogy(second, down) + xlog1py(rest, -up - down))
    likely = chance > 1e-8
    return first[likely], second[likely], chance[likely] / chance[likely].sum()


def paired(
    rng: np.random.Generator,
    runs: int,
    *,
    n: int,
    discordant: float,
    difference: float,
    level: float = LEVEL,
    resampled: bool = True,
) -> dict[str, float]:
    """Tango's interval of a paired difference, over all outcomes; the percentile bootstrap beside it."""
    up, down = (discordant + difference) / 2, (discordant - difference) / 2
    ups, downs, chance = outcomes(n, up, down)
    low, high = tango_bounds(ups, downs, n, level)
    figures = {
        "coverage": float(chance @ _held(low, high, difference)),
        "width": float(chance @ (high - low)),
    }
    if resampled:
        drawn, times = np.unique(
            rng.multinomial(n, [up, down, 1 - up - down], runs), axis=0, return_counts=True
        )
        ends = np.array(
            [
                paired_bootstrap(*as_values(int(u), int(d), n), resamples=RESAMPLES, level=level, seed=seed)
                for seed, (u, d, _) in enumerate(drawn)
            ]
        )
        figures["percentile bootstrap"] = float(times @ _held(*ends.T, difference) / runs)
        figures["its width"] = float(times @ (ends[:, 1] - ends[:, 0]) / runs)
    return figures


def as_values(up: int, down: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong answers before and after with these counts."""
    before, after = np.zeros(n), np.zeros(n)
    after[:up] = 1
    before[up : up + down] = 1
    return before, after


def unpaired(
    rng: np.random.Generator, runs: int, *, n: int, discordant: float, difference: float, accuracy: float
) -> dict[str, float]:
    """Broken on purpose: the two sides are resampled each for itself, as if the items were others."""
    up, down = (discordant + difference) / 2, (discordant - difference) / 2
    counts = rng.multinomial(n, [up, down, 1 - up - down], runs)
    # How many of the concordant pairs are right on both sides; those that go down were right before.
    right = rng.binomial(counts[:, 2], (accuracy - down) / (1 - up - down))
    before, after = (right + counts[:, 1]) / n, (right + counts[:, 0]) / n
    means = [rng.binomial(n, side[:, None], (runs, RESAMPLES)) / n for side in (before, after)]
    low, high = np.quantile(means[1] - means[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return {"coverage": float(_held(low, high, difference).mean()), "width": float((high - low).mean())}


def numbers(rng: np.random.Generator, runs: int, *, kind: str, n: int) -> dict[str, float]:
    """The interval of a paired difference of other numbers than 0 and 1."""
    before, after, truth = _values(rng, runs, kind, n)
    ours = np.array([paired_interval(x, y, level=LEVEL) for x, y in zip(before, after, strict=True)])
    figures = {
        "coverage": float(_held(*ours.T, truth).mean()),
        "width": float((ours[:, 1] - ours[:, 0]).mean()),
    }
    if kind.startswith("4 samples"):
        # Of continuous values each resample costs too much.
        fewer = after[: runs // 10] - before[: runs // 10]
        zeros = np.zeros(n)
        theirs = np.array(
            [
                paired_bootstrap(zeros, row, resamples=RESAMPLES, level=LEVEL, seed=seed)
                for seed, row in enumerate(fewer)
            ]
        )
        figures["percentile bootstrap"] = float(_held(*theirs.T, truth).mean())
        figures["BCa (SciPy)"] = float(_held(*_bca(rng, fewer[np.ptp(fewer, axis=1) > 0]), truth).mean())
    return figures


def _bca(rng: np.random.Generator, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """BCa bootstrap intervals of the rows' means; where all of a row is the same there is none."""
    found = bootstrap(
        (rows,),
        np.mean,
        axis=1,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        batch=10,
        method="BCa",
        rng=rng,
    ).confidence_interval
    return found.low, found.high


def _values(rng: np.random.Generator, runs: int, kind: str, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    shape = (runs, n)
    if kind == "4 samples, a gain everywhere":
        chance = rng.beta(0.5, 0.5, shape)
        return rng.binomial(4, chance) / 4, rng.binomial(4, chance + 0.1 * (1 - chance)) / 4, 0.05
    if kind == "4 samples, hard items, a gain on a tenth":
        chance = rng.beta(0.1, 1, shape)
        better = chance + 0.3 * (1 - chance) * (rng.random(shape) < 0.1)
        return rng.binomial(4, chance) / 4, rng.binomial(4, better) / 4, 0.03 * (1 - 1 / 11)
    if kind == "normal":
        return np.zeros(shape), rng.normal(0.2, 1, shape), 0.2
    if kind == "heavy tails (t, 3 degrees)":
        return np.zeros(shape), rng.standard_t(3, shape), 0.0
    raise ValueError(kind)


def clusters(
    rng: np.random.Generator,
    runs: int,
    *,
    accuracy: float,
    alike: float,
    count: int = 0,
    sizes: str = "",
) -> dict[str, float]:
    """The interval of an accuracy over clusters whose own accuracies vary; two common ones beside it.

    `alike` is the correlation of two answers of one cluster. Clusters are `count` of 50 items, or have
    `sizes` such as 3x20+4x50.
    """
    each = np.array(
        [int(size) for part in (sizes or f"{count}x50").split("+") for size in _repeat(part)], dtype=float
    )
    chance = np.full((runs, len(each)), accuracy)
    if alike:
        strength = 1 / alike - 1
        chance = rng.beta(accuracy * strength, (1 - accuracy) * strength, chance.shape)
    means = rng.binomial(each.astype(int), chance) / each
    low, high = cluster_bounds(means, each, LEVEL, binary=True, spread=0.0)
    pooled = means @ each / each.sum()
    alone = np.array([wilson(round(k), int(each.sum()), LEVEL) for k in pooled * each.sum()])
    return {
        "coverage": float(_held(low, high, accuracy).mean()),
        "width": float((high - low).mean()),
        "clusters resampled": _resampled(rng, means[: runs // 10], each, accuracy),
        "items as independent": float(_held(*alone.T, accuracy).mean()),
    }


def _repeat(part: str) -> list[str]:
    times, _, size = part.partition("x")
    return [size] * int(times)


def _resampled(rng: np.random.Generator, means: np.ndarray, sizes: np.ndarray, truth: float) -> float:
    """Coverage of the percentile bootstrap over clusters."""
    n = len(sizes)
    held = []
    for row in means:
        picked = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
        resampled = picked @ (sizes * row) / (picked @ sizes)
        held.append(_held(*np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]), truth))
    return float(np.mean(held))


def cluster_scores(
    rng: np.random.Generator, runs: int, *, count: int, n: int, spread: float
) -> dict[str, float]:
    """The same of normal scores whose clusters have this spread beside a noise of 1."""
    values = rng.normal(size=(runs, count, n)) + spread * rng.normal(size=(runs, count, 1))
    names = np.repeat(np.arange(count), n).tolist()
    ends = np.array([cluster_interval(row, names, level=LEVEL) for row in values.reshape(runs, -1)])
    return {
        "coverage": float(_held(*ends.T, 0.0).mean()),
        "width": float((ends[:, 1] - ends[:, 0]).mean()),
        "clusters resampled": _resampled(rng, values[: runs // 10].mean(2), np.full(count, float(n)), 0.0),
    }


def _held(low: Any, high: Any, truth: float) -> np.ndarray:
    # An end that meets the truth but for rounding holds it.
    return (low - 1e-12 <= truth) & (truth <= high + 1e-12)
