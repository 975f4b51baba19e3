"""From chat examples to batches: token ids, batch order, and the packed layout.

A batch is packed as a prefix tree: a token that several examples share with everything before it (a
system prompt, or a question with four solutions) is stored and computed once. Causal attention makes
this exact, because a token's state depends only on the tokens before it. There is no padding in the
layers that cost most; attention alone sees the rows side by side.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from docendo.agents._templates import completion_ids, prompt_ids
from docendo.checks import is_number
from docendo.distill.training._spans import learnt, plain, spans
from docendo.errors import DataError, SilentNoOp
from docendo.hashing import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One example as token ids. Only `completion` is learnt.

    Attributes:
        prompt: Ids of the rendered prompt, up to where the assistant starts to write.
        completion: Ids of the answer and of the token that ends the turn; in a conversation also of what
            stands between the answers.
        weight: Weight of each learnt token in the loss.
        mask: For each token of `completion` whether it is learnt, or None if all are.

    Raises:
        DataError: if `mask` has another length than `completion`.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0
    mask: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        """Checks that mask and completion agree."""
        if self.mask is not None and len(self.mask) != len(self.completion):
            raise DataError(
                f"the mask has {len(self.mask)} entries for {len(self.completion)} tokens",
                expected="one for each token of the completion",
            )

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def encode(
    rows: Iterable[Mapping[str, Any]], tokenizer: Any, *, max_length: int = 1024
) -> tuple[list[Encoded], int]:
    """Tokenises rows exactly as the engine serves them.

    Args:
        rows: Rows with `prompt` (chat messages or text), `completion` (text, one assistant message, or a
            conversation), and optionally `weight` and `tools`. Of a conversation the assistant's messages
            are learnt, but for those with `"learn": false`; everything else is context.
        tokenizer: The base model's tokenizer.
        max_length: Longer examples are left out: cut ones would teach to stop mid-sentence.

    Returns:
        The examples, and how many were left out.

    Raises:
        DataError: if a row has no prompt or completion, nothing is left, or the model's chat template
            rewrites earlier turns of a conversation.
        SilentNoOp: if an example has no token to learn from.
    """
    examples: list[Encoded] = []
    seen = 0
    for seen, row in enumerate(rows, start=1):
        example = _encode_row(row, tokenizer, seen - 1)
        if len(example) <= max_length:
            examples.append(example)
    if not examples:
        raise DataError(
            f"none of {seen} examples can be trained on",
            expected=f"at least one of at most {max_length} tokens",
            remedy="raise max_length or check the dataset",
        )
    if not any(example.weight for example in examples):
        raise SilentNoOp("Every example has the weight 0, so training would change nothing.")
    return examples, seen - len(examples)


def _encode_row(row: Mapping[str, Any], tokenizer: Any, index: int) -> Encoded:
    try:
        prompt, completion = row["prompt"], row["completion"]
        text = completion if isinstance(completion, str) else completion[-1]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"row {index} of the dataset lacks {error}", expected="columns 'prompt' and 'completion'"
        ) from None
    if not isinstance(prompt, Sequence) or not isinstance(text, str):
        raise DataError(
            f"row {index} has the prompt {prompt!r} and the completion {text!r}"[:200],
            expected="chat messages or text",
        )
    weight = row.get("weight", 1.0)
    if not is_number(weight) or weight < 0:
        raise DataError(f"row {index} has the weight {weight!r}", expected="a finite number, 0 or more")
    tools = plain(row.get("tools") or ())
    mask: tuple[bool, ...] | None = None
    chat = bool(prompt) and isinstance(prompt[0], Mapping)
    if isinstance(completion, str) or (not chat and len(completion) == 1 and learnt(completion[0])):
        ids = tuple(completion_ids(tokenizer, text)) if text.strip() else ()
        start = tuple(prompt_ids(tokenizer, plain(prompt), tools))
    else:
        if not chat:
            raise DataError(f"row {index} has a conversation after a text", expected="a prompt of messages")
        start, ids, mask = spans(tokenizer, prompt, completion, tools, where=f"row {index}")
        mask = None if all(mask) else mask
    if not ids:
        raise SilentNoOp(f"Row {index} of the dataset has no completion token to learn from; remove it.")
    return Encoded(prompt=start, completion=ids, weight=float(weight), mask=mask)


def batch_order(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Batches of similar length in shuffled order: a pure function of its arguments.

    Equal lengths are shuffled before they are cut into batches, so that batches differ between epochs.

    Example:
        >>> sorted(sum(batch_order([3, 9, 4, 8], 2, seed=0, epoch=0), []))
        [0, 1, 2, 3]
    """
    rng = random.Random(derive_seed("batch order", seed, epoch))
    order = list(range(len(lengths)))
    rng.shuffle(order)
    order.sort(key=lambda index: lengths[index])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    return batches


class BucketSampler(torch.utils.data.Sampler):
    """Yields the batches of `batch_order`; the trainer sets `epoch`."""

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def __iter__(self) -> Iterator[list[int]]:
        return iter(batch_order(self.lengths, self.batch_size, seed=self.seed, epoch=self.epoch))

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the tokens of a packed batch form the rows that attention sees.

    Attributes:
        rows: Number of examples.
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


def pack(examples: Sequence[Encoded], *, share: bool = True) -> dict[str, Any]:
    """Packs examples into one row of tokens without padding, with shared prefixes stored once.

    Args:
        examples: The examples of one batch.
        share: Whether to share prefixes; off when dropout would make copies of a token differ.

    Returns:
        `input_ids` and `position_ids` (1 x tokens), `layout`, and for each label its `sources` (the packed
        token that predicts it), `labels` and `weights`.
    """
    width = max(len(example) for example in examples)
    tokens: list[int] = []
    positions: list[int] = []
    scatter: list[int] = []
    gather: list[int] = []
    sources: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    children: dict[tuple[int, int], int] = {}
    for row, example in enumerate(examples):
        node = -1 if share else -2 - row
        path: list[int] = []
        for position, token in enumerate((*example.prompt, *example.completion)):
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = len(tokens)
                tokens.append(token)
                positions.append(position)
                scatter.append(row * width + position)
            if position >= len(example.prompt):
                sources.append(node)
                labels.append(token)
                weights.append(example.weight)
            path.append(child)
            node = child
        gather.extend(path)
        gather.extend([path[-1]] * (width - len(path)))
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([positions]),
        "layout": Layout(
            rows=len(examples),
            width=width,
            gather=torch.tensor(gather),
            scatter=torch.tensor(scatter),
            plain=gather == list(range(len(tokens))),
        ),
        "sources": torch.tensor(sources),
        "labels": torch.tensor(labels),
        "weights": torch.tensor(weights, dtype=torch.float32),
    }


def pad(examples: Sequence[Encoded], *, pad_id: int = 0) -> dict[str, Any]:
    """Pads examples on the right, for models whose attention cannot be packed; keys as in `pack`."""
    width = max(len(example) for example in examples)
    ids = torch.full((len(examples), width), pad_id)
    mask = torch.zeros((len(examples), width), dtype=torch.long)
    sources: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for row, example in enumerate(examples):
        ids[row, : len(example)] = torch.tensor((*example.prompt, *example.completion))
        mask[row, : len(example)] = 1
        start = row * width + len(example.prompt) - 1
        sources.extend(range(start, start + len(example.completion)))
        labels.extend(example.completion)
        weights.extend([example.weight] * len(example.completion))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "sources": torch.tensor(sources),
        "labels": torch.tensor(labels),
        "weights": torch.tensor(weights, dtype=torch.float32),
    }
