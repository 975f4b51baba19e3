"""Distillation across tokenizers: likelihoods of aligned chunks of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from docendo.checks import is_number
from docendo.distill.datasets._messages import answer_of
from docendo.distill.objectives._align import align, byte_ends, spells, token_bytes
from docendo.distill.objectives._objective import Labels, PathObjective
from docendo.distill.objectives._path import log1mexp
from docendo.errors import ConfigError, DataError

#: What `teacher_paths` adds to a row: the teacher's view of its completion.
PATH = "teacher_path"

_CHUNK, _TEACHER = "alm_chunk", "alm_teacher"
_EPS = 1e-6
"""Keeps a chunk that is certain to one side from an infinite loss to the other (the authors' code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ALM(PathObjective):
    """Approximate likelihood matching: a teacher with any tokenizer (Minixhofer 2025, arXiv 2503.20083).

    Both tokenizations of a completion are cut into the shortest chunks that end at the same byte. Each
    chunk has a likelihood under teacher and student, and the loss is the binary cross-entropy between the
    two, each raised to 1 / `tau`:

        x = log p_T(chunk) / tau,  y = log p_S(chunk) / tau,  loss = -(e^x y + (1 - e^x) log(1 - e^y))

    The mean is over chunks. It needs one number for each of the teacher's tokens, so the teacher can be
    run once (`teacher_paths`), or be anything that reports log-probabilities. With one tokenizer on both
    sides, and no `boundary`, every token is a chunk. The optimum is the teacher's likelihood of the text.

    A chunk may end where one side could go on with the same token: its likelihood then counts more than
    the text up to there. With `boundary` set, chunks are joined until they end where the teacher gives at
    least that probability to a token that begins something new.

    Attributes:
        tau: Evens out chunks of different length (100: the authors' configurations). It also divides the
            gradient, so that beside other terms the loss wants a weight of about `tau`.
        boundary: Least probability of a new beginning at a chunk's end (0.1: the authors' setting for
            mathematics), or None to take every common end.

    Example:
        >>> from docendo.distill import ALM
        >>> ALM().identity()
        [{'name': 'alm', 'weight': 1.0, 'tau': 100.0, 'boundary': 0.1}]
    """

    name: ClassVar[str] = "alm"
    tau: float = 100.0
    boundary: float | None = 0.1

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not is_number(self.tau) or self.tau <= 0:
            raise ConfigError(f"tau is {self.tau!r}", expected="a number above 0")
        least = self.boundary
        if least is not None and (not is_number(least) or not 0 <= least < 1):
            raise ConfigError(f"boundary is {least!r}", expected="a probability below 1, or None")

    def encode(self, row: Mapping[str, Any], labels: Sequence[int], tokenizer: Any) -> Mapping[str, Any]:
        """The chunk of each token, and the teacher's log-likelihood of it."""
        path = row.get(PATH)
        if not path:
            raise DataError(
                f"the row of item {row.get('item', '')!r} has no {PATH}",
                expected="rows from teacher_paths(teacher, rows)",
            )
        try:
            pieces = token_bytes(tokenizer, labels)
            if not spells(pieces, answer_of(row["completion"])):
                raise DataError(
                    "the student's tokenizer or template changes the text of the completion",
                    expected="the same text on both sides",
                    remedy="leave the row out",
                )
            chunks = chunks_of(path, byte_ends(pieces), boundary=self.boundary)
        except DataError as error:
            seen = f"the row of item {row.get('item', '')!r}: {error.seen}"
            raise DataError(seen, expected=error.expected, remedy=error.remedy) from None
        number = np.empty(len(labels), dtype=np.int64)
        likelihood = np.empty(len(labels), dtype=np.float32)
        for place, (ours, theirs) in enumerate(chunks):
            number[ours] = place
            likelihood[ours] = sum(path["logprobs"][theirs])
        return {_CHUNK: number, _TEACHER: likelihood}

    def count(self, labels: Labels) -> float:
        """The weight of the chunks."""
        return float(_first(labels, self.name)[1].sum())

    def on_path(self, logprobs: Any, labels: Labels) -> Any:
        """The sum of the losses of a batch."""
        chunk, weights, theirs = _first(labels, self.name)
        ours = logprobs.new_zeros(len(weights)).index_add(0, chunk, logprobs)
        x, y = theirs.to(ours) / self.tau - _EPS, ours / self.tau - _EPS
        likely = x.exp()
        losses = -(likely * y + (1 - likely) * log1mexp(-y))
        return (losses * weights).sum()


def chunks_of(
    path: Mapping[str, Any], ours: Sequence[int], *, boundary: float | None
) -> list[tuple[slice, slice]]:
    """Aligned chunks of the student's tokens and a teacher's path, the last of each the end of the turn."""
    chunks = align(ours, path["ends"])
    if boundary is None or not chunks:
        return chunks
    joined: list[tuple[slice, slice]] = []
    first_ours = first_theirs = 0
    for place, (mine, other) in enumerate(chunks):
        if place == len(chunks) - 1 or path["boundaries"][other.stop - 1] >= boundary:
            joined.append((slice(first_ours, mine.stop), slice(first_theirs, other.stop)))
            first_ours, first_theirs = mine.stop, other.stop
    return joined


def _first(labels: Labels, name: str) -> tuple[Any, Any, Any]:
    """The chunk of each label, and of each chunk its weight and the teacher's likelihood."""
    local = labels.column(_CHUNK, name)
    start = torch.ones(len(local), dtype=torch.bool, device=local.device)
    start[1:] = (local[1:] != local[:-1]) | (labels.sequence[1:] != labels.sequence[:-1])
    return start.cumsum(0) - 1, labels.weights[start], labels.column(_TEACHER, name)[start]
