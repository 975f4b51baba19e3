"""Constrained decoding with random logits: whatever a model likes, what is finished satisfies its grammar."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from docendo.agents._grammar import CompiledGrammar, GrammarCompiler, apply
from docendo.errors import CapabilityError, ConfigError, MissingExtra
from docendo.records import Grammar

#: Logits beyond the tokenizer's tokens, as in models whose embedding is padded to a round size.
EXTRA = 37


class Model(NamedTuple):
    """A vocabulary that "generates" with random logits."""

    tokenizer: Any
    width: int
    compiler: GrammarCompiler


class Text(NamedTuple):
    text: str
    tokens: list[int]
    finished: bool


def _model(tokenizer: Any, *, extra: int = EXTRA) -> Model:
    width = len(tokenizer) + extra
    return Model(
        tokenizer, width, GrammarCompiler(tokenizer, width=width, ends=[int(tokenizer.eos_token_id)])
    )


def _byte_level_bpe() -> Any:
    """A byte-level BPE as of GPT-2 and SmolLM2, with tokens of several bytes."""
    corpus = ['{"name": "Ann", "age": 42, "tags": ["a", "b"]}', "yes no maybe not sure", "größer 日本語 🎉🎊"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in ("<|end|>", "<|start|>", "<|pad|>")]
    backend.train_from_iterator(
        corpus * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", bos_token="<|start|>", pad_token="<|pad|>"
    )


def _byte_fallback() -> Any:
    """A SentencePiece vocabulary as of Gemma and Llama 2: "▁" for a space, bytes for the rest."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*'▁abcdefghijklmnopqrstuvwxyz0123456789{}[]",:.', "é", "日"]
    pieces += ["▁a", "ye", "no", "▁no", "yes", '":']
    merges = [("▁", "a"), ("y", "e"), ("n", "o"), ("▁", "no"), ("ye", "s"), ('"', ":")]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in pieces[:4]])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module")
def vocabularies(tiny_model_dir: Path) -> dict[str, Model]:
    return {
        "bytes": _model(AutoTokenizer.from_pretrained(tiny_model_dir)),
        "byte_level_bpe": _model(_byte_level_bpe()),
        "byte_fallback": _model(_byte_fallback()),
    }


@pytest.fixture(scope="module", params=["bytes", "byte_level_bpe", "byte_fallback"])
def model(request: pytest.FixtureRequest, vocabularies: dict[str, Model]) -> Model:
    return vocabularies[request.param]


def generate(
    model: Model, grammar: Grammar, *, seed: int, greedy: bool = False, max_tokens: int = 600
) -> Text:
    """What an engine does with one row, except that the logits are noise."""
    matcher = model.compiler.compile(grammar).matcher()
    masks = model.compiler.masks(1)
    end, generator = int(model.tokenizer.eos_token_id), torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    finished = False
    while not finished and len(tokens) < max_tokens:
        logits = 4 * torch.randn(1, model.width, generator=generator)
        matcher.fill(masks, 0)
        apply(logits, masks, [0])
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        token = int(logits.argmax() if greedy else drawn)
        assert matcher.accept(token)
        finished = token == end or matcher.finished
        tokens.append(token)
    return Text(_decode(model, tokens), tokens, finished)


def _decode(model: Model, tokens: Sequence[int]) -> str:
    return str(model.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _spell(model: Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False).input_ids)


def _accepts(model: Model, grammar: Grammar, text: str) -> bool:
    """Whether a text may be written and may end there."""
    matcher = model.compiler.compile(grammar).matcher()
    return all(matcher.accept(token) for token in [*_spell(model, text), int(model.tokenizer.eos_token_id)])


def _allowed(model: Model, compiled: CompiledGrammar, before: Sequence[int] = ()) -> set[int]:
    matcher, masks = compiled.matcher(), model.compiler.masks(1)
    for token in before:
        assert matcher.accept(token)
    matcher.fill(masks, 0)
    logits = torch.zeros(1, model.width)
    apply(logits, masks, [0])
    return set(logits[0].isfinite().nonzero()[:, 0].tolist())


# --- regular expressions -----------------------------------------------------------------------------

# Without classes such as \d and \w: which letters there are depends on the version of Unicode.
_CLASSES = ["[a-c]", "[^a-y]", "[0-9a-f]", "[é日🎉]", r"[ \-\]]", "(?i:no)", "[A-Z\n]"]
_LITERALS = st.text("abz09 .*+?()[]{}|^$\\/\"'é日🎉\n\t", min_size=1, max_size=4).map(re.escape)
_ATOMS = _LITERALS | st.sampled_from(_CLASSES)
_QUANTIFIED = st.tuples(_ATOMS, st.sampled_from(["", "?", "{2}", "{1,3}", "{0,2}", "+", "*"])).map(
    lambda pair: f"(?:{pair[0]}){pair[1]}"
)
_PATTERNS = st.recursive(
    _QUANTIFIED,
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})")
    ),
    max_leaves=6,
)


@given(pattern=_PATTERNS, seed=st.integers(0, 1 << 31), name=st.integers(0, 2), greedy=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_finished_text_matches_its_pattern(
    vocabularies: dict[str, Model], pattern: str, seed: int, name: int, greedy: bool
) -> None:
    model = list(vocabularies.values())[name]
    made = generate(model, Grammar.regex(pattern), seed=seed, greedy=greedy, max_tokens=200)
    if made.finished:
        assert re.fullmatch(pattern, made.text)
    else:
        assert "+" in pattern or "*" in pattern
        begun = made.text.rstrip("\ufffd")  # half a character
        assert regex.fullmatch(pattern, begun, partial=True)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("^abc$", "abc", True),
        ("abc", "abcd", False),
        ("abc", "zabc", False),
        ("^a|b$", "b", True),
        ("yes|yes sir", "yes sir", True),
        ("yes|yes sir", "yes", True),
        ("a+?b", "aab", True),
        ("(?s)a.c", "a\nc", True),
        ("a.c", "a\nc", False),
        (r"\w+", "größer", True),
        ("日{2}", "日日", True),
        ("a*", "", True),
        ("a/b\\/c", "a/b/c", True),
        ("(?P<year>[0-9]{4})", "1984", True),
    ],
)
def test_patterns_match_whole_texts(model: Model, pattern: str, text: str, matches: bool) -> None:
    assert _accepts(model, Grammar.regex(pattern), text) is matches


# --- choices -----------------------------------------------------------------------------------------


@given(
    choices=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True),
    seed=st.integers(0, 1 << 31),
    name=st.integers(0, 2),
)
@settings(max_examples=100, deadline=None)
def test_a_finished_text_is_one_of_the_choices(
    vocabularies: dict[str, Model], choices: list[str], seed: int, name: int
) -> None:
    model = list(vocabularies.values())[name]
    made = generate(model, Grammar.choice(choices), seed=seed)
    assert made.finished
    assert made.text in choices


def test_choices_with_a_common_beginning_can_all_be_reached(model: Model) -> None:
    choices = ["no", "not", "not sure", " not", "no ", 'no"', "no\n", "<eos>", "<|end|>"]
    made = {generate(model, Grammar.choice(choices), seed=seed).text for seed in range(200)}
    assert made == set(choices)


# --- JSON schemas ------------------------------------------------------------------------------------


def _integer(low: int, span: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": low + span}


_SCALARS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({"type": ["integer", "null"]}),
    st.builds(_integer, st.integers(-1000, 1000), st.integers(0, 500)),
    st.just({"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 70}),
    st.just({"type": "number", "minimum": -2.5, "maximum": 10}),
    st.just({"type": "string", "maxLength": 6}),
    st.just({"type": "string", "minLength": 2, "maxLength": 4}),
    st.just({"type": "string", "pattern": "^[a-z]{2,5}(-[0-9]{2})?$"}),
    st.just({"type": "string", "pattern": "é[0-9]", "maxLength": 5}),
    st.just({"const": {"a": [1, "é"]}}),
    st.just({"enum": ["red", "green", 3, None, "red wine"]}),
    st.just({"$ref": "#/$defs/tree"}),
    st.just({"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]}),
)


def _object(properties: dict[str, Any], required: int) -> dict[str, Any]:
    names = list(properties)
    return {
        "type": "object",
        "properties": properties,
        "required": names[: required % (len(names) + 1)],
        "additionalProperties": False,
    }


def _array(items: dict[str, Any], low: int, span: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": low, "maxItems": low + span}


_SCHEMAS = st.recursive(
    _SCALARS,
    lambda inner: (
        st.builds(_array, inner, st.integers(0, 2), st.integers(0, 2))
        | st.builds(
            _object,
            st.dictionaries(st.sampled_from(["name", "b", "a", "größe", 'a "quote"', ""]), inner, max_size=3),
            st.integers(0, 3),
        )
    ),
    max_leaves=5,
)
_DEFS = {
    "tree": {
        "type": "object",
        "properties": {
            "v": {"type": "integer", "minimum": 0, "maximum": 9},
            "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1},
        },
        "required": ["v"],
        "additionalProperties": False,
    }
}


@given(schema=_SCHEMAS, seed=st.integers(0, 1 << 31), name=st.integers(0, 2), greedy=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_finished_text_satisfies_its_schema(
    vocabularies: dict[str, Model], schema: dict[str, Any], seed: int, name: int, greedy: bool
) -> None:
    model = list(vocabularies.values())[name]
    whole = {**schema, "$defs": _DEFS}
    made = generate(model, Grammar.json_schema(whole), seed=seed, greedy=greedy)
    if made.finished:
        Draft202012Validator(whole).validate(json.loads(made.text))
    else:  # a number may go on for as long as it likes
        assert '"number"' in json.dumps(schema)


def test_properties_come_in_the_order_of_the_schema(model: Model) -> None:
    schema = _object({"why": {"enum": ["z", "y"]}, "answer": {"type": "boolean"}}, required=2)
    made = generate(model, Grammar.json_schema(schema), seed=0)
    assert list(json.loads(made.text)) == ["why", "answer"]


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ('{"a":[1,2]}', True),
        ('{"a": [1, 2]}', True),
        ('{\n  "a": [\n    1\n  ]\n}', True),
        ('{"a":  []}', False),
        ('{\n\n"a": []}', False),
        ('{"a": []} ', False),
        (' {"a": []}', False),
        ('{"a": [], "b": 1}', False),
        ("{}", False),
    ],
)
def test_white_space_in_json_cannot_go_on_for_ever(model: Model, text: str, allowed: bool) -> None:
    schema = _object({"a": {"type": "array", "items": {"type": "integer"}}}, required=1)
    assert _accepts(model, Grammar.json_schema(schema), text) is allowed


def test_a_schema_may_choose_its_own_white_space(model: Model) -> None:
    schema = {**_object({"a": {"type": "null"}}, required=1), "x-guidance": {"whitespace_flexible": False}}
    assert _accepts(model, Grammar.json_schema(schema), '{"a":null}')
    assert not _accepts(model, Grammar.json_schema(schema), '{"a": null}')


# --- what a mask lets through ------------------------------------------------------------------------


def test_without_the_mask_the_same_logits_break_every_grammar(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar.regex("[0-9]{8}")
    assert re.fullmatch("[0-9]{8}", generate(model, grammar, seed=1).text)
    monkeypatch.setitem(generate.__globals__, "apply", lambda logits, masks, rows: None)
    with pytest.raises(AssertionError):
        generate(model, grammar, seed=1)


def test_no_special_token_but_the_end_may_come(model: Model) -> None:
    compiled = model.compiler.compile(Grammar.regex("(?s).*"))
    allowed = _allowed(model, compiled)
    end = int(model.tokenizer.eos_token_id)
    assert allowed & set(model.tokenizer.all_special_ids) == {end}
    assert max(allowed) < len(model.tokenizer)
    before = _allowed(model, model.compiler.compile(Grammar.regex("(?s).+")))
    assert allowed - before == {end}


def test_a_marker_written_as_text_is_not_the_marker(model: Model) -> None:
    end = model.tokenizer.eos_token
    made = generate(model, Grammar.choice([f"{end}{end}"]), seed=0)
    # Spelt with ordinary tokens; nothing was skipped in decoding.
    assert made.text == f"{end}{end}"


def test_every_end_token_ends(vocabularies: dict[str, Model]) -> None:
    tokenizer = vocabularies["bytes"].tokenizer
    ends = [0, 2]  # <|pad|> and <|im_end|>
    compiler = GrammarCompiler(tokenizer, width=len(tokenizer), ends=[*ends, 10**6])
    model = Model(tokenizer, len(tokenizer), compiler)
    compiled = model.compiler.compile(Grammar.choice(["a", "ab"]))
    after = _spell(model, "a")
    assert _allowed(model, compiled, after) == {*ends, *_spell(model, "b")}
    assert _allowed(model, compiled, [*after, 0]) == set(ends)


def test_finished_means_that_only_the_end_may_come(model: Model) -> None:
    compiled = model.compiler.compile(Grammar.regex("[0-9]{1,2}"))
    one, two = _spell(model, "7"), _spell(model, "42")
    end = int(model.tokenizer.eos_token_id)
    for tokens, finished in ((one, False), (two, True), ([*one, end], True)):
        matcher = compiled.matcher()
        assert all(map(matcher.accept, tokens))
        assert matcher.finished is finished
        assert (_allowed(model, compiled, tokens) == {end}) is finished
        assert matcher.accept(end)


def test_forced_tokens_are_what_the_tokenizer_writes(model: Model) -> None:
    schema = _object({"name": {"type": "boolean"}}, required=1)
    schema["x-guidance"] = {"whitespace_flexible": False}
    matcher = model.compiler.compile(Grammar.json_schema(schema)).matcher()
    forced = matcher.forced()
    assert '{"name":'.startswith(_decode(model, forced))
    assert len(_decode(model, forced)) > 2
    assert all(map(matcher.accept, forced))
    assert model.compiler.compile(Grammar.regex("a|b")).matcher().forced() == []


def test_what_max_tokens_cuts_is_a_beginning(model: Model) -> None:
    schema = _object({"a": {"type": "string", "pattern": "^[a-z]{30}$"}}, required=1)
    grammar = Grammar.json_schema(schema)
    for limit in range(1, 12):
        made = generate(model, grammar, seed=3, max_tokens=limit)
        assert not made.finished
        matcher, masks = model.compiler.compile(grammar).matcher(), model.compiler.masks(1)
        assert all(map(matcher.accept, made.tokens))
        matcher.fill(masks, 0)
        assert masks.any()


def test_a_refused_token_is_reported(model: Model) -> None:
    matcher = model.compiler.compile(Grammar.regex("[0-9]+")).matcher()
    assert matcher.accept(_spell(model, "1")[0])
    assert not matcher.accept(_spell(model, "x")[0])
    assert not matcher.accept(_spell(model, "1")[0])
    with pytest.raises(ConfigError, match="cannot be continued"):
        matcher.fill(model.compiler.masks(1), 0)


def test_the_end_is_refused_while_text_is_missing(model: Model) -> None:
    matcher = model.compiler.compile(Grammar.regex("[0-9]{2}")).matcher()
    assert not matcher.accept(int(model.tokenizer.eos_token_id))


def test_rows_have_grammars_of_their_own(model: Model) -> None:
    """In one batch: rows with different grammars, one half-way, and rows with none."""
    grammars = {0: Grammar.choice(["a"]), 2: Grammar.regex("[0-9]+"), 3: Grammar.choice(["a"])}
    masks = model.compiler.masks(8).fill_(-1)
    for row, grammar in grammars.items():
        matcher = model.compiler.compile(grammar).matcher()
        if row == 3:
            matcher.accept(_spell(model, "a")[0])
        matcher.fill(masks, row)
    logits = torch.randn(5, model.width)
    before = logits.clone()
    apply(logits, masks, list(grammars))
    finite = [set(row.isfinite().nonzero()[:, 0].tolist()) for row in logits]
    assert torch.equal(logits[[1, 4]], before[[1, 4]])
    assert torch.equal(logits[logits.isfinite()], before[logits.isfinite()])
    assert _spell(model, "a")[0] in finite[0]
    assert finite[3] == {int(model.tokenizer.eos_token_id)}
    assert finite[2] == _allowed(model, model.compiler.compile(grammars[2]))
    assert {_decode(model, [token]) for token in finite[0]} == {"a"}


@pytest.mark.parametrize("width", [1, 31, 32, 33, 95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_is_applied_bit_by_bit(width: int, dtype: torch.dtype) -> None:
    bits = torch.rand(3, 96, generator=torch.Generator().manual_seed(width)) < 0.5
    weights = 1 << torch.arange(32)
    masks = (bits.view(3, 3, 32) * weights).sum(-1).to(torch.int32)  # wraps to the sign bit
    logits = torch.randn(3, width).to(dtype)
    expected = logits.masked_fill(~bits[:, :width], float("-inf"))
    apply(logits, masks, [0, 1, 2])
    assert torch.equal(logits, expected)


def test_fewer_logits_than_tokens(vocabularies: dict[str, Model]) -> None:
    """Gemma's tokenizer has a token more than its text model has logits."""
    tokenizer = vocabularies["bytes"].tokenizer
    width = len(tokenizer) - 20
    model = Model(tokenizer, width, GrammarCompiler(tokenizer, width=width, ends=[2]))
    assert re.fullmatch("[a-z]{5}", generate(model, Grammar.regex("[a-z]{5}"), seed=0).text)


def test_rows_outside_the_masks_are_refused(model: Model) -> None:
    matcher = model.compiler.compile(Grammar.choice(["a"])).matcher()
    with pytest.raises(IndexError):
        matcher.fill(model.compiler.masks(2), 2)


# --- compiling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar.regex("a(b"), r"'a\(b' cannot be used: unclosed group, at the end of 'a\('"),
        (Grammar.regex("a/b/[c"), r"unclosed character class, at the end of 'a/b/\['"),
        (Grammar.regex("*"), "missing expression"),
        (Grammar.regex(r"\bword\b"), "lookarounds not supported"),
        (Grammar.regex("a(?=b)b"), "look-ahead"),
        (Grammar.regex(r"(a)\1"), "backreferences are not supported"),
        (Grammar.regex(r"[^\s\S]"), "no text that the vocabulary can spell"),
        (Grammar.regex("\ud800"), "surrogates not allowed"),
        (Grammar(kind="choice", spec="yes"), "not JSON"),
        (Grammar(kind="choice", spec="[]"), "not a list of texts"),
        (Grammar(kind="choice", spec='["a", 1]'), "not a list of texts"),
        (Grammar(kind="choice", spec=r'["\ud800"]'), "surrogates not allowed"),
        (Grammar(kind="json_schema", spec='{"type": '), "not JSON.*line 1 column 10"),
        (Grammar(kind="json_schema", spec="[1]"), "must be an object or boolean"),
        (Grammar(kind="json_schema", spec="false"), "schema is false"),
        (Grammar(kind="json_schema", spec='{"items":' * 100_000 + "{}" + "}" * 100_000), "not JSON"),
        (Grammar.json_schema({"type": "text"}), "Invalid type: text"),
        (Grammar.json_schema({"type": "string", "pattern": "(a"}), "unclosed group"),
        (Grammar.json_schema({"type": "string", "format": "colour"}), "Unknown format: colour"),
        (Grammar.json_schema({"type": "integer", "minimum": 3, "maximum": 1}), "is greater than maximum"),
        (Grammar.json_schema({"$ref": "#/$defs/none"}), "does not exist"),
        (Grammar.json_schema({"$ref": "https://example.org/schema"}), "does not fetch"),
        (Grammar.json_schema({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), "no text that"),
        # Keywords that it cannot enforce are never ignored.
        (Grammar.json_schema({"not": {"type": "null"}}), r'Unimplemented keys: \["not"\]'),
        (Grammar.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Grammar.json_schema({"if": {"type": "null"}, "then": {}}), "if"),
    ],
)
def test_an_invalid_grammar_is_refused_in_one_line(model: Model, grammar: Grammar, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        model.compiler.compile(grammar)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_what_the_vocabulary_cannot_spell() -> None:
    letters = ["<pad>", "<eos>", *"abc"]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(letters)}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in letters[:2]])
    model = _model(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>"))
    assert generate(model, Grammar.choice(["abc", "x"]), seed=0).text == "abc"
    with pytest.raises(ConfigError, match="no text that the vocabulary can spell"):
        model.compiler.compile(Grammar.choice(["xyz"]))
    matcher = model.compiler.compile(Grammar.choice(["az"])).matcher()
    assert matcher.accept(2)
    with pytest.raises(ConfigError, match="cannot be continued"):
        matcher.fill(model.compiler.masks(1), 0)


def test_tokenizers_that_cannot_be_constrained() -> None:
    backend = Tokenizer(models.WordLevel(vocab={"a": 0, "<unk>": 1, "<eos>": 2}, unk_token="<unk>"))
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    with pytest.raises(CapabilityError, match="decoder"):
        GrammarCompiler(words, width=3, ends=[2]).compile(Grammar.choice(["a"]))
    with pytest.raises(CapabilityError, match="no end token"):
        GrammarCompiler(words, width=3, ends=[]).compile(Grammar.choice(["a"]))

    class Slow:
        def __len__(self) -> int:
            return 3

    with pytest.raises(CapabilityError, match="fast"):
        GrammarCompiler(Slow(), width=3, ends=[2]).compile(Grammar.choice(["a"]))


def test_without_llguidance(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match=r"docendo\[grammar\]"):
        GrammarCompiler(model.tokenizer, width=model.width, ends=[2]).compile(Grammar.choice(["a"]))


def test_truncation_and_padding_of_earlier_calls_do_not_matter(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer(["abc", "d"], truncation=True, max_length=2, padding="max_length")
    model = _model(tokenizer)
    assert model.compiler.compile(Grammar.choice(["abcdef"])).matcher().forced() == _spell(model, "abcdef")


def test_the_latest_grammars_are_kept(model: Model) -> None:
    compiler = GrammarCompiler(model.tokenizer, width=model.width, ends=[2], cache=2)
    first, second, third = (Grammar.choice([text]) for text in "abc")
    kept = compiler.compile(first)
    compiler.compile(second)
    assert compiler.compile(first) is kept
    dropped = compiler.compile(second)
    compiler.compile(first)
    compiler.compile(third)
    assert compiler.compile(first) is kept
    assert compiler.compile(second) is not dropped


def test_compiling_and_matching_from_many_threads(model: Model) -> None:
    compiler = GrammarCompiler(model.tokenizer, width=model.width, ends=[int(model.tokenizer.eos_token_id)])
    shared = Model(model.tokenizer, model.width, compiler)
    made: list[tuple[str, str]] = []

    def work(number: int) -> None:
        for turn in range(6):
            text = f"{'ab' * 20} {(number + turn) % 4}"
            made.append((text, generate(shared, Grammar.choice([text]), seed=number).text))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 48
    assert all(wanted == text for wanted, text in made)


@pytest.mark.slow
def test_grammars_on_a_real_vocabulary(smollm2: Path) -> None:
    model = _model(AutoTokenizer.from_pretrained(smollm2), extra=64)
    schema = _object({"name": {"type": "string", "maxLength": 9}, "age": _integer(0, 120)}, required=2)
    choices = ["yes", "yes sir", " no"]
    for seed in range(20):
        made = generate(model, Grammar.json_schema(schema), seed=seed)
        Draft202012Validator(schema).validate(json.loads(made.text))
        assert generate(model, Grammar.choice(choices), seed=seed).text in choices
        assert re.fullmatch("[^a-y]{3,9}!", generate(model, Grammar.regex("[^a-y]{3,9}!"), seed=seed).text)
    allowed = _allowed(model, model.compiler.compile(Grammar.regex("(?s).*")))
    assert allowed & set(model.tokenizer.all_special_ids) == {int(model.tokenizer.eos_token_id)}
