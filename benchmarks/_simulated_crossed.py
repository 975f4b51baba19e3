"""Coverage, errors and power of a comparison over several seeds, in samples whose truth is known.

A function here measures one row, as in `_simulated_intervals`.
"""

from __future__ import annotations

import numpy as np
from _simulated import ALPHA, LEVEL, batches
from scipy.special import stdtrit

from docendo.evals import crossed_sample_size
from docendo.evals.statistics._crossed import CrossedParts, crossed_half, crossed_p, crossed_parts


def crossed(
    rng: np.random.Generator,
    runs: int,
    *,
    seeds: int,
    items: int,
    discordant: float,
    seed_spread: float,
    item_spread: float,
    difference: float = 0.0,
    missing: float = 0.0,
) -> dict[str, float]:
    """The interval of a difference over several seeds; two common ones beside it.

    Of each pair the true difference is that of all, of its seed and of its item; the latter two are uniform
    with these standard deviations, so that shares stay shares.
    """
    held: list[np.ndarray] = []
    widths = []
    gone = rng.random((seeds, items)) < missing
    for size in batches(runs, seeds * items):
        tables = differences(
            rng,
            (size, seeds, items),
            discordant,
            difference,
            seed_spread=seed_spread,
            item_spread=item_spread,
        )
        tables[:, gone] = np.nan
        parts = crossed_parts(tables)
        half = crossed_half(parts, LEVEL)
        means = np.nanmean(tables, axis=2)
        alone = stdtrit(seeds - 1, (1 + LEVEL) / 2) * means.std(1, ddof=1) / np.sqrt(seeds)
        n = (~gone).sum()
        flat = stdtrit(n - 1, (1 + LEVEL) / 2) * np.nanstd(tables, axis=(1, 2), ddof=1) / np.sqrt(n)
        off = np.abs(np.stack([parts.mean, parts.mean, means.mean(1), parts.mean]) - difference)
        held.append(off <= np.stack([half, _satterthwaite(parts), alone, flat]) + 1e-12)
        widths.append(2 * half)
    ours, pooled, by_seed, independent = np.concatenate(held, axis=1).mean(1)
    return {
        "coverage": float(ours),
        "width": float(np.concatenate(widths).mean()),
        "Satterthwaite's t": float(pooled),
        "seeds' means alone": float(by_seed),
        "answers as independent": float(independent),
    }


def _satterthwaite(parts: CrossedParts) -> np.ndarray:
    """Half the width of the interval whose t quantile has pooled degrees of freedom."""
    seeds, items = parts.seeds - 1, parts.items - 1
    noise = parts.noise / (parts.seeds * parts.items)
    spread = np.where(parts.by_item > 0, (parts.by_item + noise) ** 2 + noise**2 / seeds, 0.0)
    variance = parts.by_seed + parts.by_item
    freedom = variance**2 / (parts.by_seed**2 / seeds + spread / items)
    return stdtrit(np.maximum(seeds, freedom), (1 + LEVEL) / 2) * np.sqrt(variance)


def crossed_error(
    rng: np.random.Generator,
    runs: int,
    *,
    seeds: int,
    items: int,
    discordant: float,
    seed_spread: float = 0.0,
    item_spread: float = 0.0,
) -> dict[str, float]:
    """The p-value of `crossed_difference` without an effect."""
    found = [
        crossed_p(
            crossed_parts(
                differences(
                    rng,
                    (size, seeds, items),
                    discordant,
                    0.0,
                    seed_spread=seed_spread,
                    item_spread=item_spread,
                )
            )
        )
        for size in batches(runs, seeds * items)
    ]
    return {"error": float(np.mean(np.concatenate(found) <= ALPHA))}


def crossed_power(
    rng: np.random.Generator,
    runs: int,
    *,
    seeds: int,
    discordant: float,
    difference: float,
    seed_spread: float,
    item_spread: float,
) -> dict[str, float]:
    """The power of `crossed_difference` at the size that `crossed_sample_size` gives for 80 %."""
    noise = float(np.sqrt(discordant - difference**2 - seed_spread**2 - item_spread**2))
    items = crossed_sample_size(
        difference, seeds, noise=noise, seed_spread=seed_spread, item_spread=item_spread
    )
    found = []
    for size in batches(runs, seeds * items):
        tables = differences(
            rng,
            (size, seeds, items),
            discordant,
            difference,
            seed_spread=seed_spread,
            item_spread=item_spread,
        )
        found.append(crossed_p(crossed_parts(tables)))
    return {"power": float(np.mean(np.concatenate(found) <= ALPHA)), "n": items}


def differences(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    discordant: float,
    difference: float,
    *,
    seed_spread: float,
    item_spread: float,
) -> np.ndarray:
    """Tables of -1, 0 and 1: right answers after minus before."""
    runs, seeds, items = shape
    own = difference + seed_spread * np.sqrt(3) * rng.uniform(-1, 1, (runs, seeds, 1))
    own = own + item_spread * np.sqrt(3) * rng.uniform(-1, 1, (runs, 1, items))
    if np.abs(own).max() > discordant:
        raise ValueError("the spreads need more discordant pairs")
    draw = rng.random(shape)
    up = (discordant + own) / 2
    return (draw < up).astype(float) - ((draw >= up) & (draw < discordant))
