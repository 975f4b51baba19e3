"""A teacher's path through the completions of rows: what ALM compares a student's with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoTokenizer

from docendo.agents import models
from docendo.agents._templates import end_ids, template_stops
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.datasets._messages import answer_of
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
    (natural logarithm; of the end of the turn that of all tokens that end one, and, of a teacher without a
    chat template, of the next turn's beginning, at which it is stopped when it is served) and `boundaries`
    (the probability that something new begins after it: a token that starts with white space, or the end of
    the turn). The teacher is asked with the same messages, under its own template.

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
        if spells(pieces := token_bytes(tokenizer, example.completion), answer_of(row["completion"])):
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
    # After the examples, so that they can be scored along with them.
    turns = list(_next_turns(tokenizer, examples, ends))
    scored = [*examples, *(example for _, example in turns)]
    order = sorted(range(len(scored)), key=lambda index: len(scored[index]))
    found: dict[int, tuple[list[float], list[float]]] = {}
    with progress("score with the teacher", len(scored), quiet=quiet) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = teacher.collate([scored[index] for index in chosen])
            logprobs, new = _scores(teacher, batch, opening, ends)
            for index in chosen:
                count = len(scored[index].completion)
                found[index] = logprobs[:count], new[:count]
                logprobs, new = logprobs[count:], new[count:]
            bar.advance(len(chosen))
    for number, (index, _) in enumerate(turns, start=len(examples)):
        ended = found[index][0]
        ended[-1] = float(np.logaddexp(ended[-1], sum(found[number][0])))
    for index, row in enumerate(rows):
        logprobs, new = found[index]
        # Of a token's own end the mass comes from the next place; nothing follows the last.
        row[PATH] |= {"logprobs": logprobs, "boundaries": [*new[1:], 1.0]}
    return Dataset.from_list(rows)


def _next_turns(
    tokenizer: Any, examples: Sequence[Encoded], ends: Sequence[int]
) -> Iterator[tuple[int, Encoded]]:
    """How a teacher without a chat template ends a turn beside its end token: it begins the next one.

    That is where the engine stops it. It is written on the next line or after an empty one, and never both,
    so the probabilities of the two add up. Each comes with the index of the example that it ends.
    """
    limit = tokenizer.model_max_length
    for stop in template_stops(tokenizer):
        for begun in (stop, f"\n{stop}"):
            ids = tuple(tokenizer(begun, add_special_tokens=False).input_ids)
            for index, example in enumerate(examples):
                before = example.prompt + example.completion[:-1]
                if example.completion[-1] in ends and len(before) + len(ids) <= limit:
                    yield index, Encoded(prompt=before, completion=ids)


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
