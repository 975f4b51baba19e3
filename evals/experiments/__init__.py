"""Experiments: a method's arms over several seeds, held against rules that were fixed before."""

from __future__ import annotations

from docendo.evals.experiments._experiment import experiment, text
from docendo.evals.experiments._findings import Finding
from docendo.evals.experiments._new import new_recipe
from docendo.evals.experiments._record import figures, page, result, store, versions
from docendo.evals.experiments._rules import Difference, Within, gain, no_gain, shown, within
from docendo.evals.experiments._trial import Scores, Trial

__all__ = [
    "Difference",
    "Finding",
    "Scores",
    "Trial",
    "Within",
    "experiment",
    "figures",
    "gain",
    "new_recipe",
    "no_gain",
    "page",
    "result",
    "shown",
    "store",
    "text",
    "versions",
    "within",
]
