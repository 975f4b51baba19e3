"""What is simulated: the settings of each section of docs/statistics.md."""

from __future__ import annotations

from functools import partial

import _simulated_crossed as crossed
import _simulated_intervals as intervals
import _simulated_tests as tests
import numpy as np
from _simulated import Section, each, listed, only, rows_of

from docendo.hashing import derive_seed

SIZES = (50, 200, 1000)
SEEDS = (3, 5, 10)
ACCURACIES = (0.1, 0.3, 0.5, 0.9)


def measured(section: str, label: str, runs: int | None = None) -> dict[str, float]:
    """The figures of one row. A row has the same figures whatever ran before it."""
    chosen = SECTIONS[section]
    rng = np.random.default_rng(derive_seed("statistics", section, label))
    # Where all outcomes of ours are listed, what is shown beside it is drawn.
    figures = chosen.rows[label](rng, runs or chosen.runs or 10_000)
    return {name: round(value, 5) for name, value in figures.items()}


FLIPS = listed(
    "discordant difference",
    (0.05, 0.0),
    (0.1, 0.0),
    (0.1, 0.05),
    (0.3, 0.0),
    (0.3, 0.1),
    (0.5, 0.0),
    (0.5, 0.2),
)
EFFECTS = listed(
    "discordant difference", (0.1, 0.05), (0.2, 0.2), (0.3, 0.05), (0.3, 0.1), (0.5, 0.1), (0.5, 0.3)
)
KINDS = (
    "4 samples, a gain everywhere",
    "4 samples, hard items, a gain on a tenth",
    "normal",
    "heavy tails (t, 3 degrees)",
)
SPREADS = listed("seed_spread item_spread", (0.0, 0.0), (0.03, 0.0), (0.0, 0.2), (0.03, 0.2))
_PAIR = "{discordant:.0%} discordant, {difference:+.0%}"
_CROSSED = (
    "{seeds} seeds, {items} items, {discordant:.0%} discordant, spreads {seed_spread:g} and {item_spread:g}"
)

_crossed_rows = {
    **rows_of(
        crossed.crossed,
        _CROSSED,
        [
            {**size, "discordant": 0.5, **spread}
            for size in each(seeds=SEEDS, items=SIZES)
            for spread in (SPREADS if size["items"] < 1000 else (SPREADS[0], SPREADS[-1]))
        ],
    ),
    **rows_of(
        crossed.crossed,
        _CROSSED,
        each(seeds=SEEDS, items=[50], discordant=[0.1], seed_spread=[0.0], item_spread=[0.0]),
    ),
    **rows_of(
        crossed.crossed,
        _CROSSED + ", {difference:+.0%}",
        each(
            seeds=SEEDS,
            items=[200],
            discordant=[0.1],
            seed_spread=[0.02],
            item_spread=[0.02],
            difference=[0.02],
        ),
    ),
    **rows_of(
        crossed.crossed,
        _CROSSED + ", {missing:.0%} missing",
        each(
            seeds=SEEDS, items=[200], discordant=[0.5], seed_spread=[0.03], item_spread=[0.2], missing=[0.2]
        ),
    ),
}
_uneven = "3x20+4x50+3x200"

SECTIONS: dict[str, Section] = {
    "share": Section(
        kind="coverage",
        rows=rows_of(intervals.share, "{n} items, accuracy {accuracy}", each(n=SIZES, accuracy=ACCURACIES)),
    ),
    "paired": Section(
        kind="coverage",
        rows=rows_of(
            intervals.paired, "{n} items, " + _PAIR, [{"n": n, **flips} for n in SIZES for flips in FLIPS]
        ),
    ),
    "numbers": Section(
        kind="coverage",
        rows=rows_of(intervals.numbers, "{n} items, {kind}", each(n=(20, 50, 200), kind=KINDS)),
        runs=10_000,
    ),
    "clusters": Section(
        kind="coverage",
        rows={
            **rows_of(
                intervals.clusters,
                "{count} seeds of 50 items, accuracy {accuracy}, alike {alike}",
                each(count=SEEDS, accuracy=ACCURACIES, alike=(0.0, 0.02)),
            ),
            **rows_of(
                intervals.clusters,
                "10 templates of 20, 50 or 200 items, accuracy {accuracy}, alike {alike}",
                each(sizes=[_uneven], accuracy=(0.1, 0.5), alike=[0.02]),
            ),
            **rows_of(
                intervals.clusters,
                "10 templates of 50 items, accuracy {accuracy}, alike {alike}",
                each(count=[10], accuracy=(0.1, 0.5), alike=[0.3]),
            ),
            **rows_of(
                intervals.clusters,
                "30 templates of 5 items, accuracy {accuracy}, alike {alike}",
                each(sizes=["30x5"], accuracy=(0.1, 0.5), alike=[0.3]),
            ),
        },
        runs=20_000,
    ),
    "scores": Section(
        kind="coverage",
        rows=rows_of(
            intervals.cluster_scores,
            "{count} seeds of {n} items, spread {spread:g}",
            each(count=SEEDS, n=[20], spread=(0.0, 0.5)),
        ),
        runs=10_000,
    ),
    "crossed": Section(kind="coverage", rows=_crossed_rows, runs=10_000),
    "mcnemar": Section(
        kind="error",
        rows=rows_of(
            tests.mcnemar_error,
            "{n} items, {discordant:.0%} discordant",
            each(n=SIZES, discordant=(0.05, 0.1, 0.3, 0.5)),
        ),
    ),
    "verdict": Section(
        kind="error",
        rows=rows_of(
            tests.verdict_error, "{n} items, accuracy {accuracy}", each(n=(50, 200), accuracy=ACCURACIES)
        ),
        runs=10_000,
    ),
    "flips": Section(
        kind="error",
        rows=rows_of(
            tests.flip_error,
            "{n} {kind}",
            listed(
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
        rows=rows_of(
            crossed.crossed_error,
            _CROSSED,
            [
                {**size, "discordant": 0.5, **spread}
                for size in each(seeds=SEEDS, items=(50, 200))
                for spread in SPREADS
            ],
        ),
        runs=10_000,
    ),
    "several": Section(
        kind="error",
        rows=rows_of(
            tests.several,
            "{count} tests, {effects} with an effect",
            listed("count effects", (3, 0), (3, 1), (10, 0), (10, 3)),
        ),
        runs=20_000,
    ),
    "power": Section(kind="power", rows=rows_of(tests.paired_power, _PAIR, EFFECTS)),
    "crossed power": Section(
        kind="power",
        rows=rows_of(
            crossed.crossed_power,
            "{seeds} seeds, {difference:+.0%}, spreads {seed_spread:g} and {item_spread:g}",
            [
                {"discordant": 0.5, **plan}
                for plan in listed(
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
        rows=rows_of(
            tests.peeking,
            "{discordant:.0%} discordant, up to {looks:,} items",
            each(discordant=(0.05, 0.1, 0.3, 0.5), looks=[5000]),
        ),
        runs=10_000,
    ),
    "ever wrong": Section(
        kind="error",
        rows=rows_of(
            tests.ever_wrong,
            _PAIR + ", up to {looks:,} items",
            [{**effect, "looks": 5000} for effect in EFFECTS[::2]],
        ),
        runs=10_000,
    ),
    "stopping": Section(kind="shown", rows=rows_of(tests.stopping, _PAIR, EFFECTS), runs=10_000),
    "broken intervals": Section(
        kind="broken coverage",
        rows={
            "a paired bootstrap that resamples each side for itself": partial(
                intervals.unpaired, n=200, discordant=0.1, difference=0.0, accuracy=0.5
            ),
            "Tango's interval of the level 0.9": partial(
                intervals.paired, n=200, discordant=0.3, difference=0.1, level=0.9, resampled=False
            ),
            "5 seeds, items as independent": only(
                "items as independent", partial(intervals.clusters, count=5, accuracy=0.5, alike=0.02)
            ),
            "5 seeds, clusters resampled": only(
                "clusters resampled", partial(intervals.clusters, count=5, accuracy=0.5, alike=0.02)
            ),
            "5 seeds on the same items, answers as independent": only(
                "answers as independent",
                partial(
                    crossed.crossed, seeds=5, items=200, discordant=0.5, seed_spread=0.03, item_spread=0.2
                ),
            ),
        },
        runs=10_000,
    ),
    "broken tests": Section(
        kind="broken error",
        rows={
            "McNemar's test after every item": only(
                "McNemar's test at every item", partial(tests.peeking, discordant=0.3, looks=5000)
            ),
            "10 tests without adjustment": only("unadjusted", partial(tests.several, count=10, effects=0)),
        },
        runs=10_000,
    ),
}
