"""docs/statistics.md, made from the stored figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _simulated import judged
from _simulated_sections import SECTIONS

_HEAD = """# Statistics

Made by `make statistics` from `benchmarks/results/statistics.json`, never by hand.

How often the intervals of `docendo.evals` hold the truth, and how often its tests err, in samples whose
truth is known. All intervals are 95 % intervals, all tests have the level 5 %. Where the outcomes of a
sample can be listed with their probabilities the figures are exact; else they are shares of {runs}
simulated samples, with a standard error of about 0.2 points. Other methods stand beside ours for
comparison, by as many samples or a tenth of them. All figures are in percent, widths in hundredths.

An interval that holds the truth in 94 to 96 % of the samples is *held*; above that it is *wide*, below it
is *narrow*. A test that errs in at most 5 % (of simulated samples two standard errors more) is *held*.

| question | use |
|---|---|
| how good is one accuracy | `wilson` |
| the same, where answers come in clusters (seeds, templates) | `cluster_interval` |
| two methods on the same items | `paired_interval`, and `mcnemar` or `sign_flip` |
| two methods on the same items, with several seeds | `crossed_difference` |
| several methods against one | `holm`; for many `benjamini_hochberg`; intervals by `simultaneous_level` |
| how many items | `sample_size`, `detectable_difference`; with several seeds `crossed_sample_size` |
| stop as soon as it is clear | `SequentialComparison` |

{summary}
"""

#: Of each section: its title, and what a reader must know.
_TEXTS = {
    "share": (
        "One accuracy: Wilson's interval",
        """Exact. A count is discrete, so that coverage jumps up and down with the true accuracy. The first
figure is its mean over accuracies within 0.05, *least* and *most* are the extremes there, and *at this
accuracy* is one point of the curve: single points lie outside 94 to 96 % with 50 items, and with 200 near 0
and 1. Clopper and Pearson's interval never falls below 95 %, and pays with width.""",
    ),
    "paired": (
        "A paired difference of right answers: Tango's interval",
        """Ours exact, through `tango`. Coverage depends on the shares of pairs that go up and down, not on
the accuracies. It is above 96 % where 5 discordant pairs or fewer are expected: so few counts leave nothing
nearer, and wide is the safe side. The percentile bootstrap (1,000 resamples) errs to both sides there: it
claims to be certain when no pair is discordant. From some 20 discordant pairs on the two agree.""",
    ),
    "numbers": (
        "A paired difference of other numbers: Student's t",
        """Through `paired_interval`. Bootstraps of 1,000 resamples stand beside it where differences have
few values: they are narrow where most differences are 0.""",
    ),
    "clusters": (
        "An accuracy over clusters",
        """*alike* is the correlation of two answers of one cluster: 0.02 is that of seeds whose accuracies
differ by some points, 0.3 that of templates of which some are mostly solved and some are not. With 3
clusters, and with clusters of unequal sizes, the interval can be wide. It is narrow where a few
clusters hold most of the right answers (accuracy 0.1, alike 0.3): others like them are then missing from
most samples, and no interval can know of them. Resampling clusters needs many of them.""",
    ),
    "scores": (
        "A mean score over clusters",
        "Normal scores, through `cluster_interval`; *spread* is that of the clusters beside a noise of 1.",
    ),
    "crossed": (
        "Several seeds on the same items",
        """*spreads* are the standard deviations of the true difference over seeds and over items. A t
interval of the seeds' means leaves out that other items differ; answers taken as independent leave out
both. Pooled degrees of freedom (*Satterthwaite's t*) take too many with 3 seeds. With few seeds, few items
and few discordant pairs ours is wide: noise is then taken for a spread of the items.""",
    ),
    "mcnemar": (
        "McNemar's exact test",
        """Exact. It never errs in more than 5 %, and mostly in fewer, as p-values have steps: with 10
discordant pairs the next below 0.109 is 0.021. A test that claims an effect where Tango's interval excludes
0 errs in nearly 5 %, and at times in a little more.""",
    ),
    "verdict": (
        "The verdict of `compare` on two runs of one sampler",
        """A claim needs the interval to exclude 0 and McNemar's test to agree. *of the first 200* is the
number of claims in 200 comparisons, of which 10 would be 5 %.""",
    ),
    "flips": (
        "The sign-flip test",
        """With all signs counted, p-values have steps as in McNemar's test: with 6 seeds the smallest is
0.031, with 5 it is 0.063. Drawn signs count the observed ones as one of them, which keeps p valid.""",
    ),
    "crossed error": (
        "The p-value of `crossed_difference`",
        "Without an effect. It is below 5 % just where the interval above excludes 0.",
    ),
    "several": (
        "Several tests",
        """Of methods that share a baseline. *error* is the share of experiments with any false claim by
Holm's procedure; that of Benjamini and Hochberg bounds the share of false ones among the claims.""",
    ),
    "power": (
        "Planned power, one seed",
        """The exact power of McNemar's test with the number of items that `sample_size` gives for 80 %.
Where few pairs are discordant, or all go one way, the plan is on the safe side.""",
    ),
    "crossed power": (
        "Planned power, several seeds",
        "`crossed_difference` with the number of items that `crossed_sample_size` gives for 80 %.",
    ),
    "peeking": (
        "Stopping early: errors without an effect",
        """`SequentialComparison` with a look after each item: how often it ever decides. McNemar's test,
applied as often, claims a difference sooner or later.""",
    ),
    "ever wrong": (
        "Stopping early: intervals that exclude the truth",
        "With an effect: how often the interval excludes the true difference at any look.",
    ),
    "stopping": (
        "Stopping early: when",
        """*fixed n* is the number of items that `sample_size` gives for a fixed test of 80 % power. The
sequential comparison decides by then in about half of the cases, and by twice as many items in more than 80
%.""",
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
