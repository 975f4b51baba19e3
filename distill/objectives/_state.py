"""Losses of hidden states: contrast between answers, and features of a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from docendo.checks import is_number
from docendo.distill.objectives._objective import Labels, StateObjective
from docendo.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TripletHidden(StateObjective):
    """Self-reflection: a good answer ends nearer to other good ones than to the student's bad ones.

    The hinge of cosine distances of Learn-to-Reason (Wang et al. 2023, arXiv 2310.13332): for an anchor h,
    each positive h+ and each negative h-, max(0, d(h, h+) - d(h, h-) + margin) with d = 1 - cos, the mean
    over the pairs of an example, then over the examples that have both, by their weights. Rows come from
    `contrastive_dataset`.

    Attributes:
        margin: How much nearer (1: the authors' code).
    """

    name: ClassVar[str] = "triplet"
    needs_families: ClassVar[bool] = True
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not is_number(self.margin) or self.margin < 0:
            raise ConfigError(f"margin is {self.margin!r}", expected="a number, 0 or more")

    def count(self, labels: Labels) -> float:
        """The weight of the examples that have a positive and a negative."""
        weights = labels.sequence_weights()
        return sum(float(weights[anchor]) for anchor, _, _ in _families(labels))

    def on_states(self, states: Any, labels: Labels, teacher: Any) -> Any:
        """The sum of the losses of a batch."""
        weights = labels.sequence_weights()
        # Where no example has both the loss is 0, and so is its gradient, which there has to be.
        total = (0 * states).sum()
        for anchor, positives, negatives in _families(labels):
            near = 1 - F.cosine_similarity(states[anchor].unsqueeze(0), states[positives])
            far = 1 - F.cosine_similarity(states[anchor].unsqueeze(0), states[negatives])
            hinge = F.relu(near.unsqueeze(1) - far.unsqueeze(0) + self.margin).mean()
            total = total + weights[anchor] * hinge
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMSE(StateObjective):
    """Feature distillation: the student's state after an answer becomes the teacher's (arXiv 2402.02803).

    The mean squared difference of P h and the teacher's state, over its width and, by their weights, over
    the answers, where P is a linear layer. It can be a small part of a sum only: states say what a model
    makes of a text and not what it would write.

    Attributes:
        normalise: Whether both states are first brought to mean square 1, so that the loss does not depend
            on how large a model's states are (True: our choice; the paper has a projection alone).

    Example:
        >>> from docendo.distill import CrossEntropy, FeatureMSE
        >>> objective = CrossEntropy() + 0.4 * FeatureMSE()  # 0.4: the paper's weight
    """

    name: ClassVar[str] = "features"
    needs_states: ClassVar[bool] = True
    normalise: bool = True

    def count(self, labels: Labels) -> float:
        """The weight of the answers that are learnt."""
        return float(labels.sequence_weights()[labels.role == 0].sum())

    def on_states(self, states: Any, labels: Labels, teacher: Any) -> Any:
        """The sum of the losses of a batch."""
        anchors = labels.role == 0
        ours, theirs = states[anchors], teacher[anchors]
        if self.normalise:
            ours, theirs = F.rms_norm(ours, ours.shape[-1:]), F.rms_norm(theirs, theirs.shape[-1:])
        return ((ours - theirs).square().mean(-1) * labels.sequence_weights()[anchors]).sum()


def _families(labels: Labels) -> list[tuple[Any, Any, Any]]:
    """Anchor, positives and negatives, as indices of sequences, of the examples that have all of them."""
    found = []
    for example in torch.unique(labels.example).tolist():
        own = labels.example == example
        anchor, positives, negatives = (
            torch.nonzero(own & (labels.role == role)).squeeze(1) for role in (0, 1, -1)
        )
        if len(positives) and len(negatives):
            found.append((anchor[0], positives, negatives))
    return found
