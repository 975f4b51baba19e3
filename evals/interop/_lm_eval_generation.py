"""Generation for lm-eval: its settings as an engine's, and the texts of its requests."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from docendo.agents import EngineProtocol
from docendo.errors import ConfigError, DataError
from docendo.evals.interop._flight import Flight
from docendo.evals.interop._lm_eval_setup import LAST
from docendo.hashing import derive_seed
from docendo.progress import progress
from docendo.records import Origin, Request, Result, SamplingParams

_log = logging.getLogger("docendo.evals")
#: Settings of `transformers.generate` that change nothing at these values; task files write them out.
_IDLE: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1, None),
    "num_return_sequences": (1, None),
    "no_repeat_ngram_size": (0, None),
    "length_penalty": (1.0, None),
    "early_stopping": (True, False, None),
    "use_cache": (True, False, None),
    "typical_p": (1.0, None),
    "diversity_penalty": (0.0, None),
    "presence_penalty": (0.0, None),
    "frequency_penalty": (0.0, None),
    "n": (1, None),
}
_TAKEN = ("top_p", "top_k", "min_p", "repetition_penalty", "seed")


class Generation(NamedTuple):
    """How one text is generated.

    Attributes:
        sampling: Decoding settings for the engine.
        until: Strings that end the text, as the task names them, and the model's own end.
    """

    sampling: SamplingParams
    until: tuple[str, ...]


def generation(
    settings: Mapping[str, Any],
    *,
    max_gen_toks: int,
    end: str,
    token_of: Callable[[str], int | None],
) -> Generation:
    r"""Reads a task's `generation_kwargs`.

    What lm-eval's own `hf` model makes of them, with two differences that follow from their wording:
    `do_sample: true` without a temperature samples at 1, and nothing is filtered (top-k) unless it is
    asked for.

    Args:
        settings: The task's settings.
        max_gen_toks: Most tokens where the task names none.
        end: Text of the token that ends a text.
        token_of: Gives the id of a special token's text, or None if the text is none. Special tokens are
            no part of a decoded text, so they end it by their id.

    Raises:
        ConfigError: if a setting has no counterpart, such as beams.

    Example:
        >>> made = generation({"until": ["\n"], "do_sample": False}, max_gen_toks=16, end="</s>",
        ...                   token_of=lambda text: 2 if text == "</s>" else None)
        >>> made.sampling.stop, made.sampling.stop_token_ids, made.sampling.max_tokens
        (('\n',), (2,), 16)
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    found: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), max_gen_toks))
    until = tuple(text for text in handle_stop_sequences(found.pop("until"), eos=end) if text)
    sampled = bool(found.pop("do_sample"))
    temperature = float(found.pop("temperature", 1.0)) if sampled else 0.0
    found.pop("temperature", None)
    options = {name: found.pop(name) for name in _TAKEN if found.get(name) is not None}
    if options.get("top_k") == -1:  # vLLM's way to say all
        options["top_k"] = 0
    for name, value in found.items():
        if name != "max_gen_toks" and value not in _IDLE.get(name, (None,)):
            raise ConfigError(
                f"the generation setting {name} is {value!r}",
                expected=f"until, max_gen_toks, do_sample, temperature, {', '.join(_TAKEN)}",
                remedy="override it with --gen_kwargs",
            )
    special = {text: token_of(text) for text in until}
    return Generation(
        SamplingParams(
            max_tokens=found["max_gen_toks"],
            temperature=temperature,
            stop=tuple(text for text in until if special[text] is None),
            stop_token_ids=tuple(token for token in special.values() if token is not None),
            **options,
        ),
        until,
    )


class TextGenerator:
    """What an lm-eval model needs to generate; mixed in, because lm-eval asks its model for everything.

    Attributes:
        engine: What runs the model.
        adapter: Name of a loaded adapter, or None for the base model.
        tokenizer: A Hugging Face tokenizer that nobody else uses.
        max_length: Most tokens that a text may feed to the model.
        max_gen_toks: Most tokens to generate where a task names none.
        think_end_token: Text that ends a model's reasoning, or None.
        cache_hook: Where lm-eval keeps answers.
    """

    engine: EngineProtocol
    adapter: str | None
    tokenizer: Any
    max_length: int
    max_gen_toks: int
    think_end_token: str | None
    cache_hook: Any
    eot_token_id: Any
    prefix_token_id: Any
    tok_encode: Callable[..., list[int]]
    _seed: int
    _quiet: bool
    _origin: Origin
    _cut_contexts = 0

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A text for each context, up to the first of its stop strings."""
        texts: list[str] = [""] * len(requests)
        flight = Flight(self.engine)
        seen: Counter[str] = Counter()
        asked: list[tuple[tuple[int, ...], Callable[[], None]]] = []
        with progress("generation", len(requests), quiet=self._quiet or disable_tqdm) as bar:

            def start(number: int, prompt: tuple[int, ...], made: Generation, name: str) -> None:
                def done(result: Result) -> None:
                    texts[number] = self._text(result, made.until)
                    self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                    bar.advance()

                request = Request(
                    prompt=prompt, sampling=made.sampling, adapter=self.adapter, origin=self._origin
                )
                flight.ask(request, done, about=name)

            for number, request in enumerate(requests):
                name = name_of(number, request)
                context, settings = request.args
                made = self._generation(context, settings, seen, name)
                prompt = self._prompt(context, made.sampling.max_tokens, name)
                asked.append((prompt, partial(start, number, prompt, made, name)))
            self._tell_cuts()
            # Contexts that begin alike lie side by side.
            flight.run(ask for _, ask in sorted(asked, key=lambda one: one[0]))
        return texts

    def _generation(self, context: str, settings: Any, seen: Counter[str], name: str) -> Generation:
        try:
            made = generation(
                settings,
                max_gen_toks=self.max_gen_toks,
                end=self.tokenizer.decode([self.eot_token_id]),
                token_of=self._special,
            )
        except ConfigError as error:
            raise DataError(f"{name}: {error.seen}", expected=error.expected, remedy=error.remedy) from error
        if made.sampling.greedy:
            return made
        # One text asked for several times is to be several samples.
        seed = derive_seed("lm-eval", made.sampling.seed, self._seed, context, seen[context])
        seen[context] += 1
        return made._replace(sampling=made.sampling.replace(seed=seed))

    def _special(self, text: str) -> int | None:
        token = self.tokenizer.get_added_vocab().get(text)
        return int(token) if token in self.tokenizer.all_special_ids else None

    def _prompt(self, context: str, new: int, name: str) -> tuple[int, ...]:
        room = self.max_length + LAST - new
        if room < 1:
            raise DataError(
                f"{name}: max_gen_toks is {new}",
                expected=f"at most {self.max_length}, which leaves one token for the context",
                remedy="lower it with --gen_kwargs max_gen_toks=...",
            )
        return self._cut(self.tok_encode(context) or [self.prefix_token_id], room)

    def _text(self, result: Result, until: tuple[str, ...]) -> str:
        # From the tokens, because an engine cuts the text for chats, and stop strings count from here.
        from lm_eval.models.utils import postprocess_generated_text

        text = self.tokenizer.decode(list(result.completions[0].token_ids), skip_special_tokens=True)
        return str(postprocess_generated_text(text, list(until), self.think_end_token))

    def _cut(self, context: Sequence[int], room: int) -> tuple[int, ...]:
        """The last tokens of a context, as many as there is room for."""
        self._cut_contexts += len(context) > room
        return tuple(context[-room:])

    def _tell_cuts(self) -> None:
        if self._cut_contexts:
            _log.warning(
                "%d contexts were too long for the model and were cut off from the left", self._cut_contexts
            )
            self._cut_contexts = 0


def name_of(number: int, request: Any) -> str:
    """What errors call a request of lm-eval."""
    return f"request {number} (task {request.task_name}, document {request.doc_id})"
