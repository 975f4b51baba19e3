"""Constrained decoding: which tokens a JSON schema, a regular expression or a choice allows next.

llguidance does the work (docs/decisions/README.md says why). A grammar is compiled once, on the thread that
asks for it; every row then has a matcher of its own, which the thread that decodes feeds and asks:

    matcher.fill(masks, row)        # one bit per token of the vocabulary
    apply(logits, masks, [row])     # what is not allowed becomes -inf
    matcher.accept(token)           # and so on, until an end token or `finished`

What a grammar means is llguidance's: JSON schema 2020-12, where a keyword that it cannot enforce is an error
and never ignored, properties come in the order of the schema, and duplicate keys of free-form objects are not
excluded; regular expressions in the syntax of Rust's `regex` crate, always matching the whole text, with
Unicode classes and without look-around, word boundaries and back-references.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from docendo.errors import CapabilityError, ConfigError, MissingExtra
from docendo.records import Grammar

#: White space where JSON allows it: none, a space, or a new line with an indent. JSON's own rule allows any
#: amount, and a small model in doubt writes nothing else until its tokens are used up.
JSON_SPACE = r" |\n {0,16}"
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "choice"}


class Matcher:
    """Where one row stands in its grammar. Not thread-safe."""

    __slots__ = ("_state",)

    def __init__(self, state: Any) -> None:
        """Takes over an `LLMatcher`."""
        self._state = state

    def fill(self, masks: torch.Tensor, index: int) -> None:
        """Writes which tokens may come next into row `index` of `masks` (`GrammarCompiler.masks`).

        Raises:
            ConfigError: if the grammar is too complex from here on, or the vocabulary cannot spell the rest.
        """
        row = masks[index]
        self._state.unsafe_compute_mask_ptr(row.data_ptr(), row.nbytes)
        if self._state.is_error():
            raise ConfigError(
                f"the grammar cannot be continued: {_reason(self._state.get_error())}",
                remedy="simplify it, and see that the model's vocabulary can spell what it asks for",
            )

    def accept(self, token: int) -> bool:
        """Takes the token that was drawn; False if it was not allowed, after which nothing else is."""
        return bool(self._state.consume_token(token))

    def forced(self) -> list[int]:
        """The tokens that must come next, as the tokenizer would write them. They are not accepted yet."""
        return list(self._state.compute_ff_tokens())

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing but an end token may follow."""
        return bool(self._state.is_stopped())


class CompiledGrammar:
    """A compiled grammar, from which any number of rows start."""

    __slots__ = ("_prototype",)

    def __init__(self, prototype: Any) -> None:
        """Takes over an `LLMatcher` that has accepted nothing; it is only copied from now on."""
        self._prototype = prototype

    def matcher(self) -> Matcher:
        """A matcher at the beginning of the text."""
        return Matcher(self._prototype.deep_copy())


class GrammarCompiler:
    """Compiles grammars for one model, and remembers the latest. May be used from any thread.

    Nothing is imported or built before the first grammar, which therefore takes half a second for a
    vocabulary of 49 thousand tokens and five seconds for one of 262 thousand.
    """

    def __init__(self, tokenizer: Any, *, width: int, ends: Iterable[int], cache: int = 128) -> None:
        """Remembers what is needed.

        Args:
            tokenizer: The model's tokenizer, a fast one.
            width: Number of logits, which may be more or less than the tokenizer has tokens.
            ends: Tokens that end a completion.
            cache: How many compiled grammars are kept.
        """
        self._tokenizer = tokenizer
        self._ends = sorted(set(ends))
        self._size = max(width, len(tokenizer))
        self._capacity = cache
        self._compiled: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()
        self._vocabulary: Any = None

    def masks(self, rows: int) -> torch.Tensor:
        """An empty mask for `rows` rows: one bit per token in 32-bit words, on the CPU."""
        return torch.zeros((rows, -(-self._size // 32)), dtype=torch.int32)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compiles a grammar, or returns it as compiled before.

        Raises:
            ConfigError: if the specification is invalid; the message says why and where.
            CapabilityError: if the model's tokenizer cannot be constrained.
            MissingExtra: if llguidance is not installed.
        """
        with self._lock:
            found = self._compiled.get(grammar)
            if found is not None:
                self._compiled.move_to_end(grammar)
                return found
            if self._vocabulary is None:
                self._vocabulary = self._load()
        # Without the lock: a large grammar takes long and should not hold up the others.
        compiled = CompiledGrammar(self._build(grammar))
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > self._capacity:
                self._compiled.popitem(last=False)
        return compiled

    def _load(self) -> Any:
        try:
            import llguidance
        except ImportError as error:
            raise MissingExtra("llguidance", "grammar") from error
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CapabilityError("the model's tokenizer is not a fast one, so no grammar can be applied")
        known = backend.get_vocab_size(with_added_tokens=True)
        ends = [token for token in self._ends if token < known]
        if not ends:
            raise CapabilityError("the model has no end token, so no grammar can be applied")
        try:
            return llguidance.LLTokenizer(_as_text(backend), n_vocab=self._size, eos_token=ends)
        except ValueError as error:
            raise CapabilityError(
                f"no grammar can be applied to the model's tokenizer: {_reason(str(error))}",
                expected="a tokenizer whose tokens are bytes or fall back to bytes",
            ) from error

    def _build(self, grammar: Grammar) -> Any:
        """A fresh `LLMatcher`, whose first mask has been computed so that all copies have it."""
        from llguidance import LLMatcher, LLParserLimits

        try:
            state = LLMatcher(
                self._vocabulary, _source(grammar), log_level=0, limits=LLParserLimits(verbose_errors=False)
            )
        except ValueError as error:  # text that is not UTF-8, such as half of a surrogate pair
            raise _invalid(grammar, str(error)) from error
        if not state.is_error():
            state.compute_bitmask()
        if state.is_error():
            raise _invalid(grammar, state.get_error())
        return state


def apply(logits: torch.Tensor, masks: torch.Tensor, rows: Sequence[int]) -> None:
    """Sets the logits of tokens that are not allowed to -inf, in place.

    Args:
        logits: Shape (rows, vocabulary).
        masks: Shape (rows, words), filled by `Matcher.fill`.
        rows: Which rows have a grammar; the others stay as they are.

    Example:
        >>> logits = torch.zeros(2, 3)
        >>> apply(logits, torch.tensor([[0], [0b101]], dtype=torch.int32), [1])
        >>> logits.tolist()
        [[0.0, 0.0, 0.0], [0.0, -inf, 0.0]]
    """
    words, width = masks.numpy(), logits.shape[-1]
    never = torch.tensor(float("-inf"), dtype=logits.dtype, device=logits.device)
    for row in rows:
        allowed = np.unpackbits(words[row].view(np.uint8), count=width, bitorder="little").view(np.bool_)
        torch.where(torch.from_numpy(allowed).to(logits.device), logits[row], never, out=logits[row])


def _as_text(backend: Any) -> str:
    """A `tokenizers.Tokenizer` as llguidance reads it: as JSON, and so that it spells text as text.

    llguidance lets the tokenizer spell what a grammar forces, and the tokenizer would make a special token of
    a marker such as `<|im_end|>`. Under another name none is found in any text. Padding and truncation are
    left over from earlier calls.
    """
    spec = json.loads(backend.to_str())
    spec["padding"] = spec["truncation"] = None
    names = {}
    for token in spec["added_tokens"]:
        text = token["content"]
        # llguidance takes all that look like this for special, and so does every model that has them.
        if token["special"] or (text.startswith("<") and text.endswith(">")):
            names[text] = f"\ufdd0{token['id']}"  # a code point that is never a character
            token.update(content=names[text], special=True)
    model = spec["model"]
    pieces = model["vocab"]
    if isinstance(pieces, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in pieces.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in pieces]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return json.dumps(spec, ensure_ascii=False)


def _source(grammar: Grammar) -> str:
    """A grammar as llguidance's text."""
    from llguidance import LLMatcher

    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.spec)
    try:
        spec = json.loads(grammar.spec)
    except (ValueError, RecursionError) as error:
        raise _invalid(grammar, f"not JSON: {error}") from error
    if grammar.kind == "choice":
        if not isinstance(spec, list) or not spec or not all(isinstance(text, str) for text in spec):
            raise _invalid(grammar, "not a list of texts")
        return LLMatcher.grammar_from_regex("|".join(map(re.escape, spec)))
    if not isinstance(spec, dict) or "x-guidance" in spec:  # llguidance's key for such options
        return LLMatcher.grammar_from_json_schema(grammar.spec)
    return LLMatcher.grammar_from_json_schema(grammar.spec, defaults={"whitespace_pattern": JSON_SPACE})


def _invalid(grammar: Grammar, message: str) -> ConfigError:
    shown = grammar.spec if len(grammar.spec) <= 80 else f"{grammar.spec[:77]}..."
    name = _NAMES[grammar.kind]
    return ConfigError(f"the {name} {shown!r} cannot be used: {_reason(message)}")


def _reason(message: str) -> str:
    """A message of llguidance in one line: no drawing, but the part of a pattern up to the fault."""
    drawn = re.search(r"^    (.+)\n    ( *\^+)\n(?:.*\n)*?error: (.+)", message, re.MULTILINE)
    if drawn:
        # Slashes stand for themselves in a pattern; llguidance escapes them.
        return f"{drawn[3]}, at the end of {drawn[1][: len(drawn[2])].replace(chr(92) + '/', '/')!r}"
    first = next((line.strip() for line in message.splitlines() if line.strip()), "unknown")
    if first == "NoExtensionBias":
        return "no text that the vocabulary can spell satisfies it"
    first = re.sub(r'^at \d+\(\d+\): (invalid regex ".*" \(in regex\): )?', "", first)
    return re.sub(r" in regex /.*/$", "", first)[:300]
