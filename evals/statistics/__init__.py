"""Intervals, tests, and what a sample can show: pure functions over sequences and arrays."""

from __future__ import annotations

from docendo.evals.statistics._clusters import cluster_interval
from docendo.evals.statistics._crossed import CrossedDifference, crossed_difference
from docendo.evals.statistics._intervals import paired_bootstrap, paired_interval, tango, wilson
from docendo.evals.statistics._power import (
    crossed_detectable_difference,
    crossed_sample_size,
    detectable_difference,
    sample_size,
)
from docendo.evals.statistics._sequential import SequentialComparison
from docendo.evals.statistics._several import benjamini_hochberg, holm, simultaneous_level
from docendo.evals.statistics._tests import mcnemar, sign_flip

__all__ = [
    "CrossedDifference",
    "SequentialComparison",
    "benjamini_hochberg",
    "cluster_interval",
    "crossed_detectable_difference",
    "crossed_difference",
    "crossed_sample_size",
    "detectable_difference",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "paired_interval",
    "sample_size",
    "sign_flip",
    "simultaneous_level",
    "tango",
    "wilson",
]
