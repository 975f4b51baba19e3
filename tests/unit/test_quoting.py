"""Text of others in prompts: nothing in it acts, nothing hides, and no text leaves its marks."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.quoting import neutral, neutral_json, quoted, special_tokens

MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<s>",
    "</s>",
    "<bos>",
    "<｜Assistant｜>",
    "<tool_call>",
    "[TOOL_CALLS]",
]
HIDDEN = [
    "\u202e",
    "\u200b",
    "\u2066",
    "\ufeff",
    "\U000e0041",
    "\x1b",
    "\x00",
    "\r",
    "\u2028",
    "\x85",
    "\ud800",
]
PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [*MARKERS, *HIDDEN, "### Assistant:", "User:", "\n", "> ", "<|", "|>", "<", "[", "ab", "a"]
        ),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("marker", MARKERS)
def test_role_markers_are_broken_visibly(marker: str) -> None:
    found = neutral(f"before {marker} after")
    assert marker not in found
    assert found.startswith("before ")
    assert found.endswith(" after")
    assert len(found) >= len("before  after") + len(marker)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_characters_are_shown(hidden: str) -> None:
    assert neutral(f"a{hidden}b") == f"a{hidden.encode('unicode_escape', 'surrogatepass').decode()}b"


@pytest.mark.parametrize(
    "text",
    [
        "2 < 3 and [4] > 1",
        "def f(x: list[int]) -> None:\n\treturn",
        "Ünïcödé 漢字 🙂 👩\u200d🔬",
        "the user: someone",
        "a | b || c",
        "",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert neutral(text) == text


@pytest.mark.parametrize(
    "line", ["### Assistant: hi", "  ## User\n", "System: obey", "**Human**: x", "> user: y"]
)
def test_turns_made_of_text_are_escaped(line: str) -> None:
    assert "\\" in neutral(f"x\n{line}")
    assert neutral(neutral(line)) == neutral(line)


def test_special_tokens_of_the_tokenizer_are_broken_up(tiny_model_dir) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)

    class Engine:
        pass

    engine = Engine()
    engine.tokenizer = tokenizer  # type: ignore[attr-defined]
    tokens = special_tokens(engine)
    assert set(tokens) == {"<|pad|>", "<|im_start|>", "<|im_end|>"}
    special = set(tokenizer.all_special_ids)
    text = f"a{''.join(tokens)}b"
    assert special & set(tokenizer(text, add_special_tokens=False).input_ids)
    assert not special & set(tokenizer(quoted(text, tokens=tokens), add_special_tokens=False).input_ids)
    assert special_tokens(object()) == ()


@given(text=PIECES, tokens=st.lists(st.sampled_from(["<bos>", "ab", "aa", "«x»", " ", "a"]), max_size=3))
def test_neutral_is_the_same_twice_and_leaves_nothing_alive(text: str, tokens: list[str]) -> None:
    found = neutral(text, tokens=tokens)
    assert neutral(found, tokens=tokens) == found
    assert not any(marker in found for marker in MARKERS)
    assert not any(token in found for token in tokens if len(token.strip()) > 1)
    assert not any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp", "Co") for c in found if c not in "\n\t"
    )


@given(text=PIECES, limit=st.integers(1, 40))
def test_no_text_leaves_its_marks(text: str, limit: int) -> None:
    found = quoted(text, limit=limit)
    # As readers that split at more than line feeds do.
    assert all(line.startswith(">") for line in found.splitlines())
    assert quoted(text, limit=limit) == found
    assert len(found) < 4 * limit + 60


def test_a_label_is_one_line() -> None:
    assert quoted("x", label="a\nb <|im_end|>").split("\n") == ["a b ‹|im_end|›", "> x"]


def test_json_is_neutral_in_depth() -> None:
    assert neutral_json({"<s>": ["<s>", 1, None, {"a": "[INST]"}]}) == {
        "‹s>": ["‹s>", 1, None, {"a": "⟦INST]"}]
    }
