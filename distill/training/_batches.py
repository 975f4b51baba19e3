"""From chat examples to token ids, and the order of batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        columns: What the objective needs of each token of `completion`: arrays of that length, by name.
        positives: Token ids of other good answers to the prompt, which are compared and not learnt.
        negatives: Token ids of bad ones.

    Raises:
        DataError: if `mask` has another length than `completion`.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0
    mask: tuple[bool, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    positives: tuple[tuple[int, ...], ...] = ()
    negatives: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        """Checks that mask and completion agree."""
        if self.mask is not None and len(self.mask) != len(self.completion):
            raise DataError(
                f"the mask has {len(self.mask)} entries for {len(self.completion)} tokens",
                expected="one for each token of the completion",
            )

    def __len__(self) -> int:
        """Tokens that it takes, before any are shared."""
        return sum(map(len, (self.prompt, self.completion, *self.positives, *self.negatives)))

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence: the prompt with one of the answers."""
        return len(self.prompt) + max(map(len, (self.completion, *self.positives, *self.negatives)))


def encode(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    extend: Callable[[Mapping[str, Any], Encoded], Encoded] | None = None,
) -> tuple[list[Encoded], int]:
    """Tokenises rows exactly as the engine serves them.

    Args:
        rows: Rows with `prompt` (chat messages or text), `completion` (text, one assistant message, or a
            conversation), and optionally `weight` and `tools`. Of a conversation the assistant's messages
            are learnt, but for those with `"learn": false`; everything else is context.
        tokenizer: The base model's tokenizer.
        max_length: Examples with a longer sequence are left out: cut ones would teach to stop mid-sentence.
        extend: Adds to an example what an objective needs of its row.

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
        if extend and example.longest <= max_length:
            example = extend(row, example)
        if example.longest <= max_length:
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
    """Yields the batches of `batch_order`; the trainer sets `epoch`.

    Of several processes each gets its share of batches that are so many times larger, as one process with
    that batch size would have them. One that is left without a share gets an index below 0: `~index` names
    an example to go through the motions with, at no weight.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, seed: int, processes: int = 1, process: int = 0
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size * processes, seed, 0
        self.processes, self.process = processes, process

    def __iter__(self) -> Iterator[list[int]]:
        for batch in batch_order(self.lengths, self.batch_size, seed=self.seed, epoch=self.epoch):
            yield batch[self.process :: self.processes] or [~batch[0]]

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)


class Shared(torch.utils.data.Dataset):
    """Examples as one of several processes reads them; those with an index below 0 weigh nothing."""

    def __init__(self, examples: Sequence[Encoded]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Encoded:
        return self.examples[index] if index >= 0 else replace(self.examples[~index], weight=0.0)
