"""docs/statistics.md, made from the stored figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _simulated_sections import SECTIONS, judged

_HEAD = """# Statistics

Made by `make statistics` from `benchmarks/results/statistics.json`, never by hand.

How often the intervals of `docendo.evals` hold the truth, and how often its tests err, in samples whose truth is
known. All intervals are 95 % intervals and all tests have the level 5 %. Where the outcomes of a sample can be
listed with their probabilities the figures are exact; else they are shares of {runs} simulated samples, with a
standard error of about 0.2 points. Methods that are not ours are shown beside them, for comparison, by as many or
a fifth of the samples.

An interval that holds the truth in 94 to 96 % is **held**, above that it is wide, below it is narrow. A test that
errs in at most 5 % is held.

| question | use |
|---|---|
| how good is one accuracy | `wilson` |
| the same, where answers come in clusters (seeds, templates) | `cluster_interval` |
| two methods on the same items | `paired_interval`, and `mcnemar` or `sign_flip` |
| two methods on the same items, with several seeds | `crossed_difference` |
| several methods against one | `holm`; for many, `benjamini_hochberg`; intervals by `simultaneous_level` |
| how many items | `sample_size`, `detectable_difference`; with seeds `crossed_sample_size` |
| stop as soon as it is clear | `SequentialComparison` |

{summary}
"""

#: Of each section: its title, and what a reader must know.
_TEXTS = {
    "share": (
        "One accuracy: Wilson's interval",
        """Exact. A count is discrete, so that coverage jumps up and down with the true accuracy: the first figure
is its mean over accuracies within 0.05, *least* and *most* are the extremes there, and *at this accuracy* is one
point of the curve. Clopper and Pearson's interval never falls below 95 % and pays with width. Where Wilson's lies
above 96 % few items are right (or wrong), and no interval that depends on the count alone does better everywhere.""",
    ),
    "paired": (
        "A paired difference of right answers: Tango's interval",
        """Ours exact. Coverage depends on the shares of pairs that go up and down, not on the accuracies. It is above
96 % where fewer than about 10 discordant pairs are expected: there the counts are too coarse to come nearer. The
percentile bootstrap (1,000 resamples) fails on both sides there, as it claims to be certain when no pair is
discordant; from some 20 discordant pairs on the two agree.""",
    ),
    "numbers": (
        "A paired difference of other numbers: Student's t",
        """Through `paired_interval`. Of bootstraps the percentile interval is shown; BCa and bootstrap-t were
tried, too, and were narrower than t on differences that are mostly 0.""",
    ),
    "clusters": (
        "An accuracy over clusters",
        """*alike* is the correlation of two answers of one cluster: 0.02 are seeds whose accuracies differ by
some points, 0.3 are templates that are mostly solved or not. Resampling clusters needs many of them: with 3 its
interval is that of the three means. The smallest clusters, and unequal ones, get wide intervals; a skewed
distribution of few clusters' accuracies near 0 or 1 leaves them narrow.""",
    ),
    "scores": (
        "A mean score over clusters",
        "Normal scores; *spread* is that of the clusters beside a noise of 1. Through `cluster_interval`.",
    ),
    "crossed": (
        "Several seeds on the same items",
        """*spreads* are the standard deviations of the true difference over seeds and over items. The seeds' means
alone, by a t interval, leave out that other items differ; answers taken as independent leave out both. With few
items and nothing but noise ours is slightly wide: a share of the noise is then taken for a spread of the items.""",
    ),
    "mcnemar": (
        "McNemar's exact test",
        """Exact. It never errs in more than 5 % and mostly in fewer: with 10 discordant pairs the next smaller
p-value after 0.109 is 0.021. Tango's interval excludes 0 a little more often, at times in more than 5 %.""",
    ),
    "verdict": (
        "The verdict of `compare`: two runs of one sampler",
        """A claim needs the interval to exclude 0 and McNemar's test to agree. *of the first 200* is the number of
claims in 200 comparisons.""",
    ),
    "flips": (
        "The sign-flip test",
        """With all signs counted, p-values have steps as in McNemar's test; by 6 seeds the smallest is 0.031, so
that the error is that or none. Drawn signs count the observed ones as one of them, which keeps p valid.""",
    ),
    "crossed error": ("The p-value of `crossed_difference`", "Without an effect."),
    "several": (
        "Several tests",
        """Methods that share a baseline. Holm's procedure bounds the share of experiments with any false claim,
that of Benjamini and Hochberg the share of false ones among the claims.""",
    ),
    "power": (
        "Planned power, one seed",
        """The exact power of McNemar's test with the number of items that `sample_size` gives for 80 %. Within 3
points is as planned; small samples fall short as the exact test is conservative.""",
    ),
    "crossed power": (
        "Planned power, several seeds",
        "`crossed_difference` with the number of items that `crossed_sample_size` gives for 80 %.",
    ),
    "peeking": (
        "Stopping early: errors without an effect",
        """`SequentialComparison` with a look after each item: how often it ever decides. McNemar's test, applied
as often, claims a difference sooner or later.""",
    ),
    "ever wrong": (
        "Stopping early: intervals that exclude the truth",
        "With an effect: how often the interval excludes the true difference at any look.",
    ),
    "stopping": (
        "Stopping early: when",
        """*fixed n* is the number of items with which a fixed test has 80 % power. By twice as many items a
sequential comparison has more than that, and mostly it stops earlier.""",
    ),
    "broken intervals": (
        "Would a broken interval be noticed?",
        "Variants that are wrong on purpose must not be within 94 to 96 %.",
    ),
    "broken tests": (
        "Would a broken test be noticed?",
        "Variants that are wrong on purpose must err in more than 5 %.",
    ),
}

#: Figures that are no shares.
_COUNTS = ("n", "fixed n", "median n", "of the first 200")


def render(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The page: a table for each section, of what is stored."""
    runs = sorted({section.runs for section in SECTIONS.values() if section.runs})
    counts, parts = [], []
    for name, section in SECTIONS.items():
        rows = {label: figures.get(name, {}).get(label) for label in section.rows}
        verdicts = {label: judged(section.kind, row, section.runs) for label, row in rows.items() if row}
        title, text = _TEXTS[name]
        parts.append(f"\n## {title}\n\n{text}\n\n{_table(rows, verdicts)}")
        if section.kind != "shown":
            counts.append((title, verdicts))
    shown = " to ".join(f"{number:,}" for number in (runs[0], runs[-1]))
    return _HEAD.format(runs=shown, summary=_summary(counts)) + "".join(parts)


def _summary(counts: list[tuple[str, dict[str, str]]]) -> str:
    lines = ["| | rows | |", "|---|---|---|"]
    for title, verdicts in counts:
        seen = list(verdicts.values())
        found = ", ".join(f"{seen.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(seen)))
        lines.append(f"| {title} | {len(seen)} | {found or 'not measured'} |")
    return "\n".join(lines)


def _table(rows: Mapping[str, Mapping[str, float] | None], verdicts: Mapping[str, str]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row or ()))
    lines = [f"| setting | {' | '.join(columns)} | |", f"|---|{'---|' * (len(columns) + 1)}"]
    for label, row in rows.items():
        if row is None:
            lines.append(f"| {label} | {' | '.join('' for _ in columns)} | not measured |")
            continue
        cells = [_cell(name, row.get(name)) for name in columns]
        lines.append(f"| {label} | {' | '.join(cells)} | {verdicts[label]} |")
    return "\n".join(lines) + "\n"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name in _COUNTS else f"{100 * value:.1f}"
