"""Errors and power of tests, and of comparisons that may stop early, in samples whose truth is known.

A function here measures one row, as in `_simulated_intervals`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from _simulated import ALPHA, LEVEL, batches
from _simulated_intervals import outcomes
from scipy.stats import binom, norm

from docendo.evals import (
    EvalRecord,
    EvalResult,
    benjamini_hochberg,
    compare,
    holm,
    mcnemar,
    sample_size,
    sign_flip,
)
from docendo.evals.statistics._intervals import tango_bounds
from docendo.evals.statistics._sequential import log_wealth


@cache
def _p(up: int, down: int) -> float:
    return mcnemar(up, down)


def _p_values(ups: np.ndarray, downs: np.ndarray) -> np.ndarray:
    return np.array([_p(int(u), int(d)) for u, d in zip(ups, downs, strict=True)])


def mcnemar_error(
    rng: np.random.Generator, runs: int, *, n: int, discordant: float, alpha: float = ALPHA
) -> dict[str, float]:
    """McNemar's exact test without an effect, over all outcomes; that of Tango's interval beside it."""
    ups, downs, chance = outcomes(n, discordant / 2, discordant / 2)
    low, high = tango_bounds(ups, downs, n, LEVEL)
    return {
        "error": float(chance @ (_p_values(ups, downs) <= alpha)),
        "Tango's interval alone": float(chance @ ((low > 1e-12) | (high < -1e-12))),
    }


def flip_error(rng: np.random.Generator, runs: int, *, kind: str, n: int) -> dict[str, float]:
    """The sign-flip test without an effect."""
    names = None
    if "means" in kind:
        chance = rng.beta(0.3, 0.7, (runs, n))
        first, second = rng.binomial(4, chance) / 4, rng.binomial(4, chance) / 4
    elif "normal" in kind:
        first, second = rng.normal(size=(2, runs, n))
    else:
        # Ten items of each of n seeds whose differences have something in common.
        common = rng.normal(size=(runs, n, 1)) + rng.normal(size=(runs, n, 10))
        first, second = np.zeros((runs, 10 * n)), common.reshape(runs, -1)
        names = np.repeat(np.arange(n), 10).tolist()
    found = [
        sign_flip(x, y, clusters=names, resamples=1000, seed=k)
        for k, (x, y) in enumerate(zip(first, second, strict=True))
    ]
    return {"error": float(np.mean(np.array(found) <= ALPHA))}


def verdict_error(rng: np.random.Generator, runs: int, *, n: int, accuracy: float) -> dict[str, float]:
    """`compare` on two runs of one sampler: how often it claims a difference.

    Items have their own chance of a right answer. Equal counts give equal verdicts, so that each pair of
    counts is compared once.
    """
    chance = rng.beta(2 * accuracy, 2 * (1 - accuracy), (runs, n))
    before, after = rng.random((2, runs, n)) < chance
    ups, downs = (after & ~before).sum(1), (before & ~after).sum(1)
    counts, where = np.unique(np.stack([ups, downs], axis=1), axis=0, return_inverse=True)
    claims = np.array([_claims(int(up), int(down), n) for up, down in counts])[where]
    low, high = tango_bounds(ups.astype(float), downs.astype(float), n, LEVEL)
    return {
        "error": float(claims.mean()),
        "of the first 200": float(claims[:200].sum()),
        "McNemar alone": float((_p_values(ups, downs) < ALPHA).mean()),
        "Tango's interval alone": float(((low > 0) | (high < 0)).mean()),
    }


def _claims(up: int, down: int, n: int) -> bool:
    def result(name: str, right: list[bool]) -> EvalResult:
        records = tuple(EvalRecord(item=str(k), question="", correct=one) for k, one in enumerate(right))
        return EvalResult(name=name, task="simulated", scorer="exact", records=records)

    before = [False] * up + [True] * down + [False] * (n - up - down)
    after = [True] * up + [False] * down + [False] * (n - up - down)
    found = compare(result("before", before), result("after", after))
    return found.verdict != "no effect shown"


def several(rng: np.random.Generator, runs: int, *, count: int, effects: int) -> dict[str, float]:
    """Tests of several methods against one baseline; the first have an effect of 3.5 standard errors."""
    scores = (rng.normal(size=(runs, count)) + rng.normal(size=(runs, 1))) / np.sqrt(2)
    scores[:, :effects] += 3.5
    plain = 2 * norm.sf(np.abs(scores))

    def claims(adjust: object) -> np.ndarray:
        return np.array([adjust(row) for row in plain]) <= ALPHA  # type: ignore[operator]

    by_holm, by_rate = claims(holm), claims(benjamini_hochberg)
    false_rate = by_rate[:, effects:].sum(1) / np.maximum(1, by_rate.sum(1))
    figures = {
        "error": float(by_holm[:, effects:].any(1).mean()),
        "false among claims (Benjamini-Hochberg)": float(false_rate.mean()),
        "unadjusted": float((plain[:, effects:] <= ALPHA).any(1).mean()),
    }
    if effects:
        figures["effects found (Holm)"] = float(by_holm[:, :effects].mean())
        figures["effects found (Benjamini-Hochberg)"] = float(by_rate[:, :effects].mean())
    return figures


def paired_power(
    rng: np.random.Generator, runs: int, *, discordant: float, difference: float
) -> dict[str, float]:
    """The power of the exact test at the size that `sample_size` gives for 80 %, over all outcomes."""
    n = sample_size(difference, discordant)
    ups, downs, chance = outcomes(n, (discordant + difference) / 2, (discordant - difference) / 2)
    low, _ = tango_bounds(ups, downs, n, LEVEL)
    return {
        "power": float(chance @ (_p_values(ups, downs) <= ALPHA)),
        "n": n,
        "Tango's interval alone": float(chance @ (low > 0)),
    }


def peeking(rng: np.random.Generator, runs: int, *, discordant: float, looks: int) -> dict[str, float]:
    """Without an effect, looking after every item: how often one ever decides; McNemar's test beside it."""
    least, naive = _least_up(looks), _least_up_by_test(looks)
    decided = fooled = 0
    for size in batches(runs, looks):
        ups, flips = _paths(rng, size, looks, discordant, 0.0)
        most = np.maximum(ups, flips - ups)
        decided += int((most >= least[flips]).any(1).sum())
        fooled += int((most >= naive[flips]).any(1).sum())
    return {"error": decided / runs, "McNemar's test at every item": fooled / runs}


def stopping(
    rng: np.random.Generator, runs: int, *, discordant: float, difference: float
) -> dict[str, float]:
    """With an effect: when one stops, in terms of the items of a fixed test of 80 % power."""
    fixed = sample_size(difference, discordant)
    most = 4 * fixed
    least, stopped = _least_up(most), []
    for size in batches(runs, most):
        ups, flips = _paths(rng, size, most, discordant, difference)
        over = ups >= least[flips]
        stopped.append(np.where(over.any(1), over.argmax(1) + 1, most + 1))
    at = np.concatenate(stopped)
    return {
        "fixed n": fixed,
        "median n": float(np.median(at)),
        "decided by fixed n": float((at <= fixed).mean()),
        "by 2 fixed n": float((at <= 2 * fixed).mean()),
        "by 4 fixed n": float((at <= most).mean()),
    }


def ever_wrong(
    rng: np.random.Generator, runs: int, *, discordant: float, difference: float, looks: int
) -> dict[str, float]:
    """How often the interval excludes the true difference at any of the looks."""
    places = np.unique(np.concatenate([np.arange(1, 50), np.geomspace(50, looks, 60).astype(int)])) - 1
    values = np.array([-1.0, 0.0, 1.0])
    limit, wrong = np.log(2 / ALPHA), 0
    for size in batches(runs, looks):
        ups, flips = (path[:, places] for path in _paths(rng, size, looks, discordant, difference))
        counts = np.stack([flips - ups, places + 1 - flips, ups], axis=-1).astype(float)
        above = log_wealth(values, counts, difference) >= limit
        below = log_wealth(values, counts[..., ::-1], -difference) >= limit
        wrong += int((above | below).any(1).sum())
    return {"error": wrong / runs}


def _paths(
    rng: np.random.Generator, runs: int, n: int, discordant: float, difference: float
) -> tuple[np.ndarray, np.ndarray]:
    """After each item: how many pairs went up, and how many flipped either way."""
    draw = rng.random((runs, n))
    ups = np.cumsum(draw < (discordant + difference) / 2, axis=1, dtype=np.int32)
    return ups, np.cumsum(draw < discordant, axis=1, dtype=np.int32)


@cache
def _least_up(most: int) -> np.ndarray:
    """For each number of flips the least number of ups that decides: other pairs change no bet on 0."""
    flips = np.arange(most + 1)
    low, high = flips // 2, flips + 1
    values = np.array([-1.0, 1.0])
    while (high - low > 1).any():
        middle = (low + high) // 2
        counts = np.stack([flips - middle, middle], axis=1).astype(float)
        enough = log_wealth(values, counts, 0.0) >= np.log(2 / ALPHA)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


@cache
def _least_up_by_test(most: int) -> np.ndarray:
    """The same of McNemar's exact test."""
    flips = np.arange(most + 1)
    least = flips - binom.ppf(ALPHA / 2, flips, 0.5)
    return np.where(2 * binom.cdf(flips - least, flips, 0.5) <= ALPHA, least, least + 1)
