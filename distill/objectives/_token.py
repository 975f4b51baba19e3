"""Losses of the student's distribution at each token: cross-entropy and divergences from a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch

from docendo.checks import is_number
from docendo.distill.objectives._objective import Labels, Objective, TokenObjective
from docendo.errors import ConfigError, DataError

#: Columns of a stored teacher: the likeliest tokens and their log-probabilities.
TOP_IDS, TOP_LOGPROBS = "teacher_ids", "teacher_logprobs"

Direction = Literal["entropy_gap", "reversed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(TokenObjective):
    """Negative log-likelihood of the labels: supervised fine-tuning."""

    name: ClassVar[str] = "cross_entropy"

    def per_token(self, student: Any, labels: Labels, teacher: Any) -> Any:
        """Losses of some labels."""
        return -student.gather(1, labels.ids.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KL(TokenObjective):
    """Divergence between the teacher's and the student's distribution at each label.

    `beta` runs from forward to reverse as in generalised knowledge distillation (Agarwal et al. 2024,
    arXiv 2306.13649, eq. 1): 0 is KL(teacher || student), 1 is KL(student || teacher), and between them
    the generalised Jensen-Shannon divergence to the mixture `beta * teacher + (1 - beta) * student`. Its size
    jumps at both ends: near 0 it is about beta times the forward divergence, near 1 about 1 - beta times the
    reverse one.

    With a stored teacher the divergence is that of the k likeliest tokens and one bin for all others: a
    lower bound of the full one, and equal to it if k is the whole vocabulary.

    Attributes:
        beta: From 0 (forward: covers all the teacher may say; the default, Hinton et al. 2015,
            arXiv 1503.02531) to 1 (reverse: keeps to what the teacher finds likely).
        temperature: Divides both models' logits (1: the teacher's distribution as it is). The loss is
            multiplied by its square, so that gradients keep their size (Hinton et al. 2015).

    Example:
        >>> from docendo.distill import KL
        >>> KL(beta=0.5).identity()
        [{'name': 'kl', 'weight': 1.0, 'beta': 0.5, 'temperature': 1.0}]
    """

    name: ClassVar[str] = "kl"
    needs_teacher: ClassVar[bool] = True
    beta: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not is_number(self.beta) or not 0 <= self.beta <= 1:
            raise ConfigError(f"beta is {self.beta!r}", expected="a number from 0 to 1")
        _require_temperature(self.temperature)

    def per_token(self, student: Any, labels: Labels, teacher: Any) -> Any:
        """Losses of some labels."""
        ours, theirs = _bins(student, labels, teacher, self.temperature, self.name)
        if self.beta == 0:
            loss = divergence(theirs, ours)
        elif self.beta == 1:
            loss = divergence(ours, theirs)
        else:
            mixture = torch.logaddexp(ours + math.log1p(-self.beta), theirs + math.log(self.beta))
            loss = self.beta * divergence(theirs, mixture) + (1 - self.beta) * divergence(ours, mixture)
        return loss * self.temperature**2


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedKL(TokenObjective):
    """Forward and reverse KL, weighted at each token by who is less sure (after BD-KD, arXiv 2212.12965).

    Where the student's entropy is above the teacher's the reverse divergence weighs `nu` and the forward
    one 1, elsewhere the other way round. The paper's abstract names the entropy gap and not its sign, so
    the sign is a setting.

    Attributes:
        nu: Weight of the favoured direction (2: our choice; the paper's value was not found).
        temperature: As in `KL`.
        direction: "entropy_gap" as described, or "reversed".
    """

    name: ClassVar[str] = "balanced_kl"
    needs_teacher: ClassVar[bool] = True
    nu: float = 2.0
    temperature: float = 1.0
    direction: Direction = "entropy_gap"

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not is_number(self.nu) or self.nu < 1:
            raise ConfigError(f"nu is {self.nu!r}", expected="a number, 1 or more")
        if self.direction not in get_args(Direction):
            raise ConfigError(f"direction is {self.direction!r}", expected=" or ".join(get_args(Direction)))
        _require_temperature(self.temperature)

    def per_token(self, student: Any, labels: Labels, teacher: Any) -> Any:
        """Losses of some labels."""
        ours, theirs = _bins(student, labels, teacher, self.temperature, self.name)
        unsure = (entropy(ours) > entropy(theirs)).detach()
        if self.direction == "reversed":
            unsure = ~unsure
        reverse = torch.where(unsure, self.nu, 1.0)
        forward = torch.where(unsure, 1.0, self.nu)
        loss = forward * divergence(theirs, ours) + reverse * divergence(ours, theirs)
        return loss * self.temperature**2


def require_stored(objective: Objective) -> None:
    """Refuses what a stored teacher cannot say, before anything is loaded.

    Raises:
        ConfigError: if a divergence has another temperature than 1.
    """
    for _, term in objective.terms:
        if isinstance(term, (KL, BalancedKL)):
            _require_untempered(term.temperature, term.name)


def divergence(p: Any, q: Any) -> Any:
    """KL(p || q) over the last dimension, of log-probabilities; a bin with p = 0 adds nothing."""
    mass = p.exp()
    return torch.where(mass > 0, mass * (p - q), 0.0).sum(-1)


def entropy(p: Any) -> Any:
    """Entropy over the last dimension, of log-probabilities."""
    mass = p.exp()
    return -torch.where(mass > 0, mass * p, 0.0).sum(-1)


def _require_temperature(temperature: float) -> None:
    if not is_number(temperature) or temperature <= 0:
        raise ConfigError(f"temperature is {temperature!r}", expected="a number above 0")


def _require_untempered(temperature: float, name: str) -> None:
    if temperature != 1:
        raise ConfigError(
            f"{name} has the temperature {temperature:g} and the teacher is stored",
            expected="temperature 1, at which its log-probabilities were stored",
            remedy="give the teacher itself",
        )


def _bins(student: Any, labels: Labels, teacher: Any, temperature: float, name: str) -> tuple[Any, Any]:
    """Log-probabilities of student and teacher over the same bins, at the temperature."""
    if teacher is not None:
        # A vocabulary may be padded at its end, by other amounts in models of one family.
        width = min(student.shape[-1], teacher.shape[-1])
        if temperature == 1 and student.shape[-1] == teacher.shape[-1]:
            return student, teacher
        return (
            (student[:, :width] / temperature).log_softmax(-1),
            (teacher[:, :width] / temperature).log_softmax(-1),
        )
    _require_untempered(temperature, name)
    ids = labels.column(TOP_IDS, name).long()
    top = labels.column(TOP_LOGPROBS, name).float()
    # What pads the teacher's vocabulary, and not the student's, belongs to the rest.
    beyond = ids >= student.shape[-1]
    ours = student.gather(1, ids.masked_fill(beyond, 0))
    return with_rest(ours.masked_fill(beyond, -math.inf)), with_rest(top.masked_fill(beyond, -math.inf))


def with_rest(top: Any) -> Any:
    """Log-probabilities of some tokens, and of all others together as one more bin."""
    mass = top.exp().sum(-1, keepdim=True)
    # Rounding may leave nothing, or less: then the rest has the smallest normal float32, not log 0.
    rest = (1 - mass).clamp_min(torch.finfo(torch.float32).tiny).log()
    return torch.cat([top, rest], dim=-1)


def require_columns(columns: Mapping[str, Any], labels: Sequence[int], name: str) -> None:
    """Checks that each column has a value for every label."""
    for key, column in columns.items():
        if len(column) != len(labels):
            raise DataError(
                f"column {key!r} of {name} has {len(column)} values",
                expected=f"one for each of {len(labels)} labels",
            )
