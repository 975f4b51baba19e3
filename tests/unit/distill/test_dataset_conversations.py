"""Conversations as rows: what is learnt is what the student wrote, after what it was served."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from docendo.agents import tiny_model
from docendo.agents._templates import completion_ids, prompt_ids
from docendo.distill import Encoded, encode
from docendo.errors import DataError, SilentNoOp

QUESTION = {"role": "user", "content": "2 + 2, by the tool?"}


def says(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def learnt_texts(example: Encoded, tokenizer: Any) -> list[str]:
    """The learnt tokens, as one text for each run of them."""
    found: list[list[int]] = []
    before = False
    mask = example.mask or (True,) * len(example.completion)
    for token, learnt in zip(example.completion, mask, strict=True):
        if learnt and not before:
            found.append([])
        if learnt:
            found[-1].append(token)
        before = learnt
    return [tokenizer.decode(ids) for ids in found]


def test_only_the_students_turns_are_learnt_and_all_is_rendered_once(tokenizer: Any) -> None:
    completion = [
        says("assistant", "add(2, 2)"),
        says("tool", "4"),
        says("assistant", "Look again.", learn=False),
        says("user", "So?"),
        says("assistant", "Answer: 4"),
        says("user", "Thanks."),
    ]
    ((example,), _) = encode([{"prompt": [QUESTION], "completion": completion}], tokenizer)
    assert tokenizer.decode([*example.prompt, *example.completion]) == (
        "<|im_start|>user\n2 + 2, by the tool?<|im_end|>\n<|im_start|>assistant\nadd(2, 2)<|im_end|>\n"
        "<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\nLook again.<|im_end|>\n"
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\nAnswer: 4<|im_end|>"
    )
    assert learnt_texts(example, tokenizer) == ["add(2, 2)<|im_end|>", "Answer: 4<|im_end|>"]


def test_one_assistant_message_has_no_mask(tokenizer: Any) -> None:
    ((one,), _) = encode([{"prompt": [QUESTION], "completion": [says("assistant", "4")]}], tokenizer)
    ((text,), _) = encode([{"prompt": [QUESTION], "completion": "4"}], tokenizer)
    assert one == text
    assert one.mask is None


turns = st.lists(
    st.tuples(st.sampled_from(["user", "tool", "assistant"]), st.text(max_size=12), st.booleans()),
    min_size=1,
    max_size=6,
)


@given(drawn=turns)
@example(drawn=[("assistant", "", True), ("assistant", "", True)])
@example(drawn=[("assistant", "4", True), ("assistant", " ", True)])
@settings(max_examples=60, deadline=None)
def test_every_learnt_span_follows_exactly_what_the_engine_serves(
    drawn: list[Any], tiny_model_dir: Path
) -> None:
    tokenizer = TOKENIZER.setdefault("it", AutoTokenizer.from_pretrained(tiny_model_dir))
    completion = [says(role, text, learn=learn) for role, text, learn in drawn]
    spoken = [
        (at, one)
        for at, one in enumerate(completion)
        if one["role"] == "assistant" and one["learn"] and one["content"].strip()
    ]
    if not spoken:
        with pytest.raises(SilentNoOp):
            encode([{"prompt": [QUESTION], "completion": completion}], tokenizer)
        return
    ((example,), _) = encode([{"prompt": [QUESTION], "completion": completion}], tokenizer)
    ids = [*example.prompt, *example.completion]
    expected = [False] * len(ids)
    for at, one in spoken:
        plain = [{"role": m["role"], "content": m["content"]} for m in completion[:at]]
        served = prompt_ids(tokenizer, [QUESTION, *plain])
        written = completion_ids(tokenizer, one["content"])
        assert ids[: len(served) + len(written)] == [*served, *written]
        expected[len(served) : len(served) + len(written)] = [True] * len(written)
    mask = example.mask or (True,) * len(example.completion)
    assert [False] * len(example.prompt) + list(mask) == expected


TOKENIZER: dict[str, Any] = {}


@pytest.mark.slow
def test_a_real_tokenizer_has_conversations_of_stripped_turns(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    draw, pieces = random.Random(0), ["2", "+", "So", "the answer", "is\n", " ", "é", "```py\nx\n```", "\n\n"]
    for _ in range(100):
        texts = ["".join(draw.choices(pieces, k=draw.randint(1, 6))) for _ in range(6)]
        completion = [
            says("user", text) if at % 2 else says("assistant", text.strip() or "x")
            for at, text in enumerate(texts)
        ]
        ((example,), _) = encode([{"prompt": [QUESTION], "completion": completion}], tokenizer)
        expected = [f"{message['content']}<|im_end|>" for message in completion[::2]]
        assert learnt_texts(example, tokenizer) == expected
    with pytest.raises(DataError, match="strip the learnt ones"):
        encode([{"prompt": [QUESTION], "completion": [says("assistant", "\n\n\n4"), *completion]}], tokenizer)


def test_columns_filled_up_with_none_change_nothing(tokenizer: Any) -> None:
    row = {"prompt": [QUESTION], "completion": [says("assistant", "a"), says("assistant", "b", learn=False)]}
    filled = {
        "prompt": [{**QUESTION, "name": None, "learn": None}],
        "completion": [
            says("assistant", "a", learn=None, tool_calls=None),
            says("assistant", "b", learn=False, tool_calls=None),
        ],
        "tools": None,
    }
    assert encode([row], tokenizer) == encode([filled], tokenizer)


@pytest.mark.parametrize(
    ("template", "completion"),
    [
        ("trim", [says("assistant", "4 "), says("user", "Sure?"), says("assistant", "yes")]),
        ("forget", [says("assistant", "<think>4</think>4"), says("user", "Sure?"), says("assistant", "yes")]),
    ],
)
def test_a_template_that_rewrites_earlier_turns_is_refused(
    template: str, completion: list[Any], tiny_model_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    change = {
        "trim": "message['content'] | trim",
        "forget": "message['content'].split('</think>')[-1]",
    }[template]
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", change)
    with pytest.raises(DataError, match=r"row 0 otherwise once others follow.*one row of each turn"):
        encode([{"prompt": [QUESTION], "completion": completion}], tokenizer)
    assert encode([{"prompt": [QUESTION], "completion": completion[:1]}], tokenizer)


def test_a_model_without_a_template_has_no_conversations_in_one_row(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "base", chat=False))
    completion = [says("assistant", "4"), says("user", "Sure?"), says("assistant", "yes")]
    with pytest.raises(DataError, match="one row of each turn"):
        encode([{"prompt": [QUESTION], "completion": completion}], tokenizer)
    completion[0]["learn"] = False
    ((example,), _) = encode([{"prompt": [QUESTION], "completion": completion}], tokenizer)
    assert example.mask is None
    assert tokenizer.decode(example.prompt).endswith("Assistant: 4\n\nUser: Sure?\nAssistant:")


def test_calls_that_are_not_in_the_text_are_refused(tokenizer: Any) -> None:
    call = says("assistant", "", tool_calls=[{"function": {"name": "add", "arguments": {"a": 2}}}])
    with pytest.raises(DataError, match="learnt message of row 0 has tool_calls"):
        encode([{"prompt": [QUESTION], "completion": [call, says("assistant", "4")]}], tokenizer)


def test_nothing_to_learn_and_texts_before_conversations_are_refused(tokenizer: Any) -> None:
    with pytest.raises(SilentNoOp):
        encode([{"prompt": [QUESTION], "completion": [says("assistant", "4", learn=False)]}], tokenizer)
    with pytest.raises(DataError, match="conversation after a text"):
        encode(
            [{"prompt": "2 + 2", "completion": [says("assistant", "4"), says("assistant", "5")]}], tokenizer
        )


def test_what_is_no_message_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="row 0 holds 'so'"):
        encode([{"prompt": [QUESTION, "so"], "completion": [says("assistant", "4")]}], tokenizer)
    with pytest.raises(DataError, match="row 0 cannot be rendered"):
        encode([{"prompt": [{"role": "user"}], "completion": [says("assistant", "4")]}], tokenizer)


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="1 entries for 2 tokens"):
        Encoded(prompt=(1,), completion=(2, 3), mask=(True,))
