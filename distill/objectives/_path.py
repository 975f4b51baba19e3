"""Losses of the log-probabilities of whole answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from docendo.checks import is_count
from docendo.distill.objectives._objective import Labels, PathObjective
from docendo.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DCO(PathObjective):
    """Direct coverage optimisation: learn so that one of `samples` tries is right (arXiv 2502.07154).

    Of an answer with probability p the loss is -log(1 - (1 - p)^N), whose gradient is that of
    cross-entropy times `coverage_factor(log p, N)`: an answer that N tries would find anyway is pushed no
    further, so the model does not become overconfident. N = 1 is cross-entropy. Each answer has the weight
    of its labels, and the loss is a mean over labels as everywhere, so that it can stand beside other
    terms.

    Attributes:
        samples: N, about as many tries as the model will get when it is used (64: the middle of the
            paper's pass@N figures as we have them at second hand).

    Example:
        >>> from docendo.distill import DCO
        >>> DCO(samples=8).name
        'dco'
    """

    name: ClassVar[str] = "dco"
    samples: int = 64

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not is_count(self.samples) or self.samples < 1:
            raise ConfigError(f"samples is {self.samples!r}", expected="a whole number, 1 or more")

    def on_path(self, logprobs: Any, labels: Labels) -> Any:
        """The sum of the losses of a batch."""
        total = _by_sequence(logprobs, labels)
        learnt = _by_sequence(torch.ones_like(logprobs), labels) > 0
        found = coverage_loss(total.detach(), self.samples)
        factor = coverage_factor(total.detach(), self.samples)
        # The value is the loss, the gradient the factor times that of cross-entropy: exact at any p.
        loss = found + factor * (total.detach() - total)
        return (loss * labels.sequence_weights())[learnt].sum()


def coverage_loss(logprob: Any, samples: int) -> Any:
    """-log(1 - (1-p)^N) from log p, any shape, at most 0: how unlikely it is that one of N tries hits."""
    logprob = logprob.double()
    exact = -log1mexp(-samples * log1mexp(-logprob))
    # Where N p is tiny, N tries hit N times as often as one.
    small = logprob + math.log(samples) < math.log(1e-12)
    return torch.where(small, -(logprob + math.log(samples)), exact).float()


def coverage_factor(logprob: Any, samples: int) -> Any:
    """How strongly DCO learns an answer: N p (1-p)^(N-1) / (1 - (1-p)^N), from log p.

    It is 1 for N = 1 and for p near 0, and falls to 0 where N tries would find the answer anyway.

    Args:
        logprob: log p, any shape, at most 0.
        samples: N.

    Example:
        >>> import torch
        >>> from docendo.distill.objectives._path import coverage_factor
        >>> round(float(coverage_factor(torch.tensor(0.5).log(), 2)), 4)  # 2 x 0.5 x 0.5 / 0.75
        0.6667
    """
    logprob = logprob.double()
    miss = log1mexp(-logprob)  # log(1 - p)
    exact = math.log(samples) + (samples - 1) * miss + logprob - log1mexp(-samples * miss)
    # Where N p is tiny both sides of the quotient cancel: the first terms of its series.
    series = (1 - (samples - 1) * logprob.exp() / 2).clamp_min(0).log()
    small = logprob + math.log(samples) < math.log(1e-4)
    return torch.where(small, series, exact).exp().nan_to_num(0.0).float()


def log1mexp(x: Any) -> Any:
    """log(1 - exp(-x)) for x >= 0, without cancellation at either end (Maechler 2012)."""
    x = x.clamp_min(torch.finfo(x.dtype).tiny)
    return torch.where(x < math.log(2), (-torch.expm1(-x)).log(), torch.log1p(-(-x).exp()))


def _by_sequence(values: Any, labels: Labels) -> Any:
    """Sums of the labels' values for each sequence."""
    return values.new_zeros(labels.sequences).index_add(0, labels.sequence, values)
