"""Tokens, labels, batch order and the packed layout."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from docendo.agents._templates import completion_ids, prompt_ids
from docendo.distill import Encoded, batch_order, encode, pack
from docendo.distill.training._packing import pad
from docendo.errors import DataError, SilentNoOp


def row(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
        **more,
    }


def test_tokens_are_those_that_the_engine_serves(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    (example,), left_out = encode([row("2 + 2?", "It is 4", weight=0.5)], tokenizer)
    assert left_out == 0
    assert list(example.prompt) == prompt_ids(tokenizer, [{"role": "user", "content": "2 + 2?"}])
    assert list(example.completion) == completion_ids(tokenizer, "It is 4")
    assert example.completion[-1] == tokenizer.eos_token_id
    assert example.weight == 0.5
    rendered = tokenizer.decode([*example.prompt, *example.completion])
    assert rendered == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 4<|im_end|>"


def test_too_long_examples_are_counted_and_left_out(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    examples, left_out = encode([row("a", "b"), row("a" * 200, "b")], tokenizer, max_length=100)
    assert (len(examples), left_out) == (1, 1)
    with pytest.raises(DataError, match="at most 10 tokens"):
        encode([row("a", "b")], tokenizer, max_length=10)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([row("a", " ")], SilentNoOp),
        ([row("a", "b", weight=0.0)], SilentNoOp),
        ([row("a", "b", weight=-1.0)], DataError),
        ([{"prompt": "a"}], DataError),
        ([{"prompt": "a", "completion": []}], DataError),
        ([], DataError),
    ],
)
def test_rows_without_anything_to_learn_are_refused(
    tiny_model_dir: Path, rows: list[dict[str, Any]], error: type[Exception]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    with pytest.raises(error):
        encode(rows, tokenizer)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    size=st.integers(1, 9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_batch_order_is_a_permutation_in_buckets(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    batches = batch_order(lengths, size, seed=seed, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches if max(map(len, batches)) == len(batch) == size)
    assert sum(len(batch) < size for batch in batches) <= 1
    assert batches == batch_order(lengths, size, seed=seed, epoch=epoch)
    # No batch reaches into the lengths of another.
    spans = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in batches)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_batch_order_depends_on_seed_and_epoch() -> None:
    lengths = [n % 7 for n in range(100)]
    orders = {str(batch_order(lengths, 8, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    # Not from short to long: batches are shuffled.
    first = [lengths[batch[0]] for batch in batch_order(lengths, 8, seed=0, epoch=0)]
    assert first != sorted(first)


ids = st.lists(st.integers(3, 6), min_size=1, max_size=5)


@given(given_rows=st.lists(st.tuples(ids, ids), min_size=1, max_size=6), share=st.booleans())
@settings(max_examples=60)
def test_packing_keeps_every_row_and_every_label(given_rows: Sequence[Any], share: bool) -> None:
    examples = [
        Encoded(prompt=tuple(p), completion=tuple(c), weight=n + 1.0) for n, (p, c) in enumerate(given_rows)
    ]
    batch = pack(examples, share=share)
    layout, tokens = batch["layout"], batch["input_ids"][0]
    grid = layout.gather.view(layout.rows, layout.width)
    labels: list[int] = []
    weights: list[float] = []
    sources: list[int] = []
    for row_index, example in enumerate(examples):
        ids_of_row = (*example.prompt, *example.completion)
        cells = grid[row_index, : len(example)]
        assert tokens[cells].tolist() == list(ids_of_row)
        assert batch["position_ids"][0][cells].tolist() == list(range(len(example)))
        labels += example.completion
        weights += [example.weight] * len(example.completion)
        sources += cells[len(example.prompt) - 1 : -1].tolist()
    assert batch["labels"].tolist() == labels
    assert batch["weights"].tolist() == weights
    assert batch["sources"].tolist() == sources
    assert layout.gather[layout.scatter].tolist() == list(range(len(tokens)))
    distinct = {
        ids_of[:n] for e in examples for ids_of in [(*e.prompt, *e.completion)] for n in range(1, len(e) + 1)
    }
    assert len(tokens) == (len(distinct) if share else sum(map(len, examples)))


def test_packed_hidden_states_are_those_of_each_row_alone(tiny_model_dir: Path) -> None:
    from docendo.distill.training import _attention
    from docendo.distill.training._forward import _implementation

    _attention.register()
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype="float32").eval()
    examples = [
        Encoded(prompt=(5, 6, 7), completion=(8, 9)),
        Encoded(prompt=(5, 6), completion=(9, 9, 9, 4)),
        Encoded(prompt=(5, 6, 7), completion=(8, 10)),
    ]
    batch = pack(examples)
    assert batch["input_ids"].shape[1] == 3 + 2 + 4 + 1
    with torch.no_grad():
        with _implementation(model, _attention.NAME):
            found = model.model(
                input_ids=batch["input_ids"],
                position_ids=batch["position_ids"],
                layout=batch["layout"],
                use_cache=False,
            ).last_hidden_state[0]
        grid = batch["layout"].gather.view(3, -1)
        for cells, example in zip(grid, examples, strict=True):
            alone = model.model(torch.tensor([[*example.prompt, *example.completion]])).last_hidden_state[0]
            torch.testing.assert_close(found[cells[: len(example)]], alone, rtol=1e-5, atol=1e-5)


def test_padding_marks_exactly_the_completions() -> None:
    batch = pad(
        [Encoded(prompt=(5, 6), completion=(7, 8, 9)), Encoded(prompt=(5,), completion=(4,))], pad_id=0
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 4, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [7, 8, 9, 4]
    assert batch["sources"].tolist() == [1, 2, 3, 5]
