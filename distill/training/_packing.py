"""From encoded examples to one batch: packed without padding, or padded.

A batch is packed as a prefix tree: a token that several sequences share with everything before it (a
system prompt, or a question with four answers) is stored and computed once. Causal attention makes
this exact, because a token's state depends only on the tokens before it. There is no padding in the
layers that cost most; attention alone sees the rows side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from docendo.distill.objectives._objective import Labels
from docendo.distill.training._batches import Encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the tokens of a packed batch form the rows that attention sees.

    Attributes:
        rows: Number of sequences.
        width: Length of the longest.
        gather: For each cell of the `rows x width` grid, its token in the packed batch. Cells right of a
            row's end point anywhere: under causal attention nothing looks at them.
        scatter: For each packed token, one cell that holds it.
        plain: Whether rows are just the packed tokens in order, so that nothing need be moved.
    """

    rows: int
    width: int
    gather: Any
    scatter: Any
    plain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """One row of a batch: a prompt and an answer that is learnt, or compared only."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    mask: tuple[bool, ...]
    weight: float
    example: int
    role: int

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt, *self.completion)


def pack(examples: Sequence[Encoded], *, share: bool = True) -> dict[str, Any]:
    """Packs examples into one row of tokens without padding, with shared prefixes stored once.

    Args:
        examples: The examples of one batch.
        share: Whether to share prefixes; off when dropout would make copies of a token differ.

    Returns:
        `input_ids` and `position_ids` (1 x tokens), `layout`, `sources` (for each label the packed token
        that predicts it), `ends` (the last packed token of each sequence), and of the labels themselves
        `labels`, `weights`, `sequence`, `example`, `role` and `columns` (see `labels_of`).
    """
    rows = list(_sequences(examples))
    width = max(len(row.tokens) for row in rows)
    tokens: list[int] = []
    positions: list[int] = []
    scatter: list[int] = []
    gather: list[int] = []
    sources: list[int] = []
    ends: list[int] = []
    children: dict[tuple[int, int], int] = {}
    for index, row in enumerate(rows):
        node = -1 if share else -2 - index
        path: list[int] = []
        for position, token in enumerate(row.tokens):
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = len(tokens)
                tokens.append(token)
                positions.append(position)
                scatter.append(index * width + position)
            answer = position - len(row.prompt)
            if answer >= 0 and row.mask[answer]:
                sources.append(node)
            path.append(child)
            node = child
        ends.append(node)
        gather.extend(path)
        gather.extend([path[-1]] * (width - len(path)))
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([positions]),
        "layout": Layout(
            rows=len(rows),
            width=width,
            gather=torch.tensor(gather),
            scatter=torch.tensor(scatter),
            plain=gather == list(range(len(tokens))),
        ),
        "sources": torch.tensor(sources),
        "ends": torch.tensor(ends),
        **_labels(examples, rows),
    }


def pad(examples: Sequence[Encoded], *, pad_id: int = 0) -> dict[str, Any]:
    """Pads examples on the right, for models whose attention cannot be packed; keys as in `pack`."""
    rows = list(_sequences(examples))
    width = max(len(row.tokens) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    sources: list[int] = []
    ends: list[int] = []
    for index, row in enumerate(rows):
        length = len(row.tokens)
        ids[index, :length] = torch.tensor(row.tokens)
        mask[index, :length] = 1
        start = index * width + len(row.prompt) - 1
        sources.extend(start + place for place, learnt in enumerate(row.mask) if learnt)
        ends.append(index * width + length - 1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "sources": torch.tensor(sources),
        "ends": torch.tensor(ends),
        **_labels(examples, rows),
    }


def labels_of(batch: Mapping[str, Any]) -> Labels:
    """The labels of a batch, as objectives see them."""
    return Labels(
        ids=batch["labels"],
        weights=batch["weights"],
        sequence=batch["sequence"],
        example=batch["example"],
        role=batch["role"],
        columns=batch["columns"],
    )


def _sequences(examples: Sequence[Encoded]) -> Iterator[_Sequence]:
    for number, example in enumerate(examples):
        mask = example.mask or (True,) * len(example.completion)
        yield _Sequence(
            prompt=example.prompt,
            completion=example.completion,
            mask=mask,
            weight=example.weight,
            example=number,
            role=0,
        )
        for role, answers in ((1, example.positives), (-1, example.negatives)):
            for answer in answers:
                yield _Sequence(
                    prompt=example.prompt,
                    completion=answer,
                    mask=(False,) * len(answer),
                    weight=0.0,
                    example=number,
                    role=role,
                )


def _labels(examples: Sequence[Encoded], rows: Sequence[_Sequence]) -> dict[str, Any]:
    labels: list[int] = []
    weights: list[float] = []
    sequence: list[int] = []
    for index, row in enumerate(rows):
        learnt = [token for token, used in zip(row.completion, row.mask, strict=True) if used]
        labels.extend(learnt)
        weights.extend([row.weight] * len(learnt))
        sequence.extend([index] * len(learnt))
    return {
        "labels": torch.tensor(labels),
        "weights": torch.tensor(weights, dtype=torch.float32),
        "sequence": torch.tensor(sequence),
        "example": torch.tensor([row.example for row in rows]),
        "role": torch.tensor([row.role for row in rows]),
        "columns": {
            name: torch.cat([_learnt(example, example.columns[name]) for example in examples])
            for name in examples[0].columns
        },
    }


def _learnt(example: Encoded, column: Any) -> Any:
    """A column's values at the tokens that are learnt."""
    values = torch.as_tensor(np.asarray(column))
    return values if example.mask is None else values[torch.tensor(example.mask)]
