"""The old place of these functions."""

from docendo.evals.statistics import detectable_difference, mcnemar, paired_bootstrap, wilson

__all__ = ["detectable_difference", "mcnemar", "paired_bootstrap", "wilson"]
