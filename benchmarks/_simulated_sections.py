"""What is simulated: the settings of each section of docs/statistics.md, and how its figure is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, TypeAlias

import _simulated_intervals as intervals
import _simulated_tests as tests
import numpy as np

from docendo.hashing import derive_seed

SIZES = (50, 200, 1000)
SEEDS = (3, 5, 10)
ACCURACIES = (0.1, 0.3, 0.5, 0.9)

#: The figures of a row, of a generator and a number of simulated samples.
Row: TypeAlias = "Callable[[np.random.Generator, int], dict[str, float]]"

#: What a row's first figure is: the share of samples whose interval holds the truth; the share in which a test
#: errs; the power that a plan promises; either of the first two, of a variant that is broken on purpose and has
#: to be noticed; or nothing that can be right or wrong.
Kind = Literal["coverage", "error", "power", "broken coverage", "broken error", "shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table.

    Attributes:
        kind: How the first figure of a row is judged.
        rows: What is measured, by label.
        runs: Simulated samples of each row; 0 where all outcomes are listed.
    """

    kind: Kind
    rows: Mapping[str, Row]
    runs: int = 0


def measured(section: str, label: str, runs: int | None = None) -> dict[str, float]:
    """The figures of one row. A row has the same figures whatever ran before it."""
    chosen = SECTIONS[section]
    rng = np.random.default_rng(derive_seed("statistics", section, label))
    # Where all outcomes of ours are listed, what is shown beside it is drawn.
    figures = chosen.rows[label](rng, runs or chosen.runs or 10_000)
    return {name: round(value, 5) for name, value in figures.items()}


def judged(kind: Kind, figures: Mapping[str, float], runs: int) -> str:
    """What a row's first figure shows. An error may pass its level by two standard errors of the simulation."""
    value = next(iter(figures.values()))
    most = 0.05 + (2 * (0.05 * 0.95 / runs) ** 0.5 if runs else 1e-9)
    if kind == "coverage":
        return "held" if 0.94 <= value <= 0.96 else "wide" if value > 0.96 else "**narrow**"
    if kind == "error":
        return "held" if value <= most else "**above**"
    if kind == "power":
        return "as planned" if value >= 0.77 else "**short**"
    if kind == "shown":
        return ""
    seen = not 0.94 <= value <= 0.96 if kind == "broken coverage" else value > most
    return "noticed" if seen else "**not noticed**"


def _rows(
    measure: Callable[..., dict[str, float]], label: str, settings: Iterable[Mapping[str, Any]]
) -> dict[str, Row]:
    """One row for each setting, under a label that shows it."""
    return {label.format(**setting): partial(measure, **setting) for setting in settings}


def _each(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def _zip(names: str, *values: Iterable[Any]) -> list[dict[str, Any]]:
    return [dict(zip(names.split(), chosen, strict=True)) for chosen in values]


def _only(name: str, row: Row) -> Row:
    """One figure of a row, as the one that is judged."""
    return lambda rng, runs: {name: row(rng, runs)[name]}


FLIPS = _zip(
    "discordant difference",
    (0.05, 0.0),
    (0.1, 0.0),
    (0.1, 0.05),
    (0.3, 0.0),
    (0.3, 0.1),
    (0.5, 0.0),
    (0.5, 0.2),
)
EFFECTS = _zip(
    "discordant difference", (0.1, 0.05), (0.2, 0.2), (0.3, 0.05), (0.3, 0.1), (0.5, 0.1), (0.5, 0.3)
)
KINDS = (
    "4 samples, a gain everywhere",
    "4 samples, hard items, a gain on a tenth",
    "normal",
    "heavy tails (t, 3 degrees)",
)
SPREADS = _zip("seed_spread item_spread", (0.0, 0.0), (0.03, 0.0), (0.0, 0.2), (0.03, 0.2))
_PAIR = "{discordant:.0%} discordant, {difference:+.0%}"
_CROSSED = (
    "{seeds} seeds, {items} items, {discordant:.0%} discordant, spreads {seed_spread:g} and {item_spread:g}"
)

_crossed_rows = {
    **_rows(
        intervals.crossed,
        _CROSSED,
        [
            {**size, "discordant": 0.5, **spread}
            for size in _each(seeds=SEEDS, items=SIZES)
            for spread in (SPREADS if size["items"] < 1000 else (SPREADS[0], SPREADS[-1]))
        ],
    ),
    **_rows(
        intervals.crossed,
        _CROSSED,
        _each(seeds=SEEDS, items=[50], discordant=[0.1], seed_spread=[0.0], item_spread=[0.0]),
    ),
    **_rows(
        intervals.crossed,
        _CROSSED + ", {difference:+.0%}",
        _each(
            seeds=SEEDS,
            items=[200],
            discordant=[0.1],
            seed_spread=[0.02],
            item_spread=[0.02],
            difference=[0.02],
        ),
    ),
    **_rows(
        intervals.crossed,
        _CROSSED + ", {missing:.0%} missing",
        _each(
            seeds=SEEDS, items=[200], discordant=[0.5], seed_spread=[0.03], item_spread=[0.2], missing=[0.2]
        ),
    ),
}
_uneven = "3x20+4x50+3x200"

SECTIONS: dict[str, Section] = {
    "share": Section(
        kind="coverage",
        rows=_rows(intervals.share, "{n} items, accuracy {accuracy}", _each(n=SIZES, accuracy=ACCURACIES)),
    ),
    "paired": Section(
        kind="coverage",
        rows=_rows(
            intervals.paired, "{n} items, " + _PAIR, [{"n": n, **flips} for n in SIZES for flips in FLIPS]
        ),
    ),
    "numbers": Section(
        kind="coverage",
        rows=_rows(intervals.numbers, "{n} items, {kind}", _each(n=(20, 50, 200), kind=KINDS)),
        runs=10_000,
    ),
    "clusters": Section(
        kind="coverage",
        rows={
            **_rows(
                intervals.clusters,
                "{count} seeds of 50 items, accuracy {accuracy}, alike {alike}",
                _each(count=SEEDS, accuracy=ACCURACIES, alike=(0.0, 0.02)),
            ),
            **_rows(
                intervals.clusters,
                "10 templates of 20, 50 or 200 items, accuracy {accuracy}, alike {alike}",
                _each(sizes=[_uneven], accuracy=(0.1, 0.5), alike=[0.02]),
            ),
            **_rows(
                intervals.clusters,
                "30 templates of 5 items, accuracy {accuracy}, alike {alike}",
                _each(sizes=["30x5"], accuracy=(0.1, 0.5), alike=[0.3]),
            ),
        },
        runs=20_000,
    ),
    "scores": Section(
        kind="coverage",
        rows=_rows(
            intervals.cluster_scores,
            "{count} seeds of {n} items, spread {spread:g}",
            _each(count=SEEDS, n=[20], spread=(0.0, 0.5)),
        ),
        runs=10_000,
    ),
    "crossed": Section(kind="coverage", rows=_crossed_rows, runs=10_000),
    "mcnemar": Section(
        kind="error",
        rows=_rows(
            tests.mcnemar_error,
            "{n} items, {discordant:.0%} discordant",
            _each(n=SIZES, discordant=(0.05, 0.1, 0.3, 0.5)),
        ),
    ),
    "verdict": Section(
        kind="error",
        rows=_rows(
            tests.verdict_error, "{n} items, accuracy {accuracy}", _each(n=(50, 200), accuracy=ACCURACIES)
        ),
        runs=10_000,
    ),
    "flips": Section(
        kind="error",
        rows=_rows(
            tests.flip_error,
            "{n} {kind}",
            _zip(
                "kind n",
                ("items, means of 4 samples, exact", 50),
                ("items, means of 4 samples, exact", 200),
                ("items, normal, exact", 10),
                ("items, normal, 1,000 drawn", 50),
                ("seeds of 10 items, flipped by seed, exact", 6),
                ("seeds of 10 items, flipped by seed, exact", 10),
            ),
        ),
        runs=10_000,
    ),
    "crossed error": Section(
        kind="error",
        rows=_rows(
            tests.crossed_error,
            _CROSSED,
            [
                {**size, "discordant": 0.5, **spread}
                for size in _each(seeds=SEEDS, items=(50, 200))
                for spread in SPREADS
            ],
        ),
        runs=10_000,
    ),
    "several": Section(
        kind="error",
        rows=_rows(
            tests.several,
            "{count} tests, {effects} with an effect",
            _zip("count effects", (3, 0), (3, 1), (10, 0), (10, 3)),
        ),
        runs=20_000,
    ),
    "power": Section(kind="power", rows=_rows(tests.paired_power, _PAIR, EFFECTS)),
    "crossed power": Section(
        kind="power",
        rows=_rows(
            tests.crossed_power,
            "{seeds} seeds, {difference:+.0%}, spreads {seed_spread:g} and {item_spread:g}",
            [
                {"discordant": 0.5, **plan}
                for plan in _zip(
                    "seeds difference seed_spread item_spread",
                    (3, 0.15, 0.0, 0.0),
                    (3, 0.15, 0.02, 0.15),
                    (5, 0.1, 0.0, 0.0),
                    (5, 0.1, 0.02, 0.2),
                    (10, 0.05, 0.0, 0.0),
                    (10, 0.05, 0.02, 0.2),
                )
            ],
        ),
        runs=10_000,
    ),
    "peeking": Section(
        kind="error",
        rows=_rows(
            tests.peeking,
            "{discordant:.0%} discordant, up to {looks:,} items",
            _each(discordant=(0.05, 0.1, 0.3, 0.5), looks=[5000]),
        ),
        runs=10_000,
    ),
    "ever wrong": Section(
        kind="error",
        rows=_rows(
            tests.ever_wrong,
            _PAIR + ", up to {looks:,} items",
            [{**effect, "looks": 5000} for effect in EFFECTS[::2]],
        ),
        runs=10_000,
    ),
    "stopping": Section(kind="shown", rows=_rows(tests.stopping, _PAIR, EFFECTS), runs=10_000),
    "broken intervals": Section(
        kind="broken coverage",
        rows={
            "a paired bootstrap that resamples each side for itself": partial(
                intervals.unpaired, n=200, discordant=0.1, difference=0.0, accuracy=0.5
            ),
            "Tango's interval of the level 0.9": partial(
                intervals.paired, n=200, discordant=0.3, difference=0.1, level=0.9, resampled=False
            ),
            "5 seeds, items as independent": _only(
                "items as independent", partial(intervals.clusters, count=5, accuracy=0.5, alike=0.02)
            ),
            "5 seeds, clusters resampled": _only(
                "clusters resampled", partial(intervals.clusters, count=5, accuracy=0.5, alike=0.02)
            ),
            "5 seeds on the same items, answers as independent": _only(
                "answers as independent",
                partial(
                    intervals.crossed, seeds=5, items=200, discordant=0.5, seed_spread=0.03, item_spread=0.2
                ),
            ),
        },
        runs=10_000,
    ),
    "broken tests": Section(
        kind="broken error",
        rows={
            "McNemar's test after every item": _only(
                "McNemar's test at every item", partial(tests.peeking, discordant=0.3, looks=5000)
            ),
            "10 tests without adjustment": _only("unadjusted", partial(tests.several, count=10, effects=0)),
        },
        runs=10_000,
    ),
}
