"""A teacher's path through the completions of rows: what ALM compares a student's with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from docendo.agents import models
from docendo.agents._templates import end_ids
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.objectives._align import byte_ends, spells, token_bytes
from docendo.distill.objectives._alm import PATH
from docendo.distill.training._batches import Encoded, encode
from docendo.distill.training._config import Dtype, require_batch_size
from docendo.distill.training._forward import Forward
from docendo.distill.training._live import load_teacher
from docendo.errors import DataError
from docendo.progress import progress, say

if TYPE_CHECKING:
    from datasets import Dataset


def teacher_paths(
    model: str | Path,
    dataset: Iterable[Mapping[str, Any]],
    *,
    adapter: str | Path | None = None,
    batch_size: int = 16,
    dtype: Dtype = "auto",
    quiet: bool = False,
) -> Dataset:
    """Adds a teacher's view of each completion to rows: the column `teacher_path` that `ALM` learns from.

    It holds, for each of the teacher's tokens, `ends` (where it ends in the completion's bytes), `logprobs`
    (natural logarithm; of the end of the turn that of all tokens that end one) and `boundaries` (the
    probability that something new begins after it: a token that starts with white space, or the end of the
    turn). The teacher is asked with the same messages, under its own template.

    Args:
        model: The teacher: catalogue name, folder or hub id; its tokenizer may be any.
        dataset: Rows with `prompt` and a `completion` of one answer.
        adapter: A LoRA adapter of the teacher, or None.
        batch_size: Rows in a forward pass.
        dtype: Precision of the teacher, as in `TrainConfig`.
        quiet: Show no progress.

    Returns:
        The rows with the column, but for those whose text the teacher's tokenizer or template changes.

    Raises:
        ConfigError: if `batch_size` is below 1.
        DataError: if a row is malformed, or none is left.

    Example:
        >>> from docendo.distill import ALM, teacher_paths, train
        >>> rows = teacher_paths("gemma-3-270m", rows)  # doctest: +SKIP
        >>> adapter = train(
        ...     "smollm2-135m-instruct", rows, output="adapters/alm", objective=ALM()
        ... )  # doctest: +SKIP
    """
    from datasets import Dataset

    require_batch_size(batch_size)
    source = models.resolve(model)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    rows: list[dict[str, Any]] = []

    examples: list[Encoded] = []

    def keep(row: Mapping[str, Any], example: Encoded) -> Encoded:
        if spells(pieces := token_bytes(tokenizer, example.completion), _text(row)):
            rows.append({**row, PATH: {"ends": byte_ends(pieces)}})
            examples.append(example)
        return example

    seen, too_long = encode(dataset, tokenizer, max_length=tokenizer.model_max_length, extend=keep)
    if not rows:
        raise DataError(
            f"the teacher's tokenizer changes the text of all {len(seen)} completions",
            expected="a tokenizer that keeps a text as it is",
            remedy="use another teacher",
        )
    if not quiet and len(rows) < len(seen) + too_long:
        say(
            f"Of {len(seen) + too_long} rows left out: {len(seen) - len(rows)} whose text the teacher's "
            f"tokenizer or template changes, {too_long} too long for it."
        )
    older = Adapter.open(adapter) if adapter is not None else None
    teacher = Forward(load_teacher(source, older, dtype), packed=None, examples=examples)
    size = teacher.model.get_output_embeddings().weight.shape[0]
    ends = [token for token in end_ids(tokenizer, teacher.model.generation_config) if token < size]
    opening = _openers(tokenizer, ends, size)
    order = sorted(range(len(rows)), key=lambda index: len(examples[index]))
    with progress("score with the teacher", len(rows), quiet=quiet) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = teacher.collate([examples[index] for index in chosen])
            found, new = _scores(teacher, batch, opening, ends)
            for index in chosen:
                count = len(examples[index].completion)
                # Of a token's own end the mass comes from the next place; nothing follows the last.
                rows[index][PATH] |= {"logprobs": found[:count], "boundaries": [*new[1:count], 1.0]}
                found, new = found[count:], new[count:]
            bar.advance(len(chosen))
    return Dataset.from_list(rows)


def _text(row: Mapping[str, Any]) -> str:
    completion = row["completion"]
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _scores(
    teacher: Forward, batch: Mapping[str, Any], opening: Any, ends: list[int]
) -> tuple[list[float], list[float]]:
    """Log-probability of each label, and the mass on tokens that begin something new in its place.

    To end the turn is to write any token that ends it: models of chat often have one beside the tokenizer's.
    """
    labels, logprobs, masses = batch["labels"], [], []
    with torch.inference_mode():
        outputs = teacher(batch)
        for start in range(0, len(labels), 16):
            part = slice(start, start + 16)
            found = outputs.logits_of(part).float().log_softmax(-1)
            own = found.gather(1, labels[part].unsqueeze(1)).squeeze(1)
            ended = torch.isin(labels[part], torch.tensor(ends, dtype=torch.long))
            logprobs.extend(torch.where(ended, found[:, ends].logsumexp(-1), own).tolist())
            masses.extend((found.exp() @ opening).tolist())
    return logprobs, masses


def _openers(tokenizer: Any, ends: list[int], size: int) -> Any:
    """1 for each token that begins with white space or ends the turn, 0 for the others."""
    known = min(size, len(tokenizer))
    opening = torch.zeros(size)
    new = {*ends, *tokenizer.all_special_ids}
    for token, piece in enumerate(token_bytes(tokenizer, range(known))):
        opening[token] = float(token in new or piece[:1].isspace())
    return opening
