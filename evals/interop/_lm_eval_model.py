"""A model for lm-eval: every one of its tasks on any engine, batched by the engine, with adapters.

Import it through `docendo.evals`, which needs lm-eval only when the name is used. Importing it registers the
model as `docendo` with lm-eval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docendo.agents import EngineProtocol
from docendo.errors import ConfigError, DataError, MissingExtra
from docendo.evals.interop._engines import loaded, opened
from docendo.evals.interop._likelihoods import Likelihood, Pair, likelihoods
from docendo.evals.interop._lm_eval_generation import TextGenerator, name_of
from docendo.evals.interop._lm_eval_setup import LAST, limit_of, own_tokenizer, render_chat
from docendo.progress import progress
from docendo.records import Feature, Origin

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import has_bos_prefix
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    raise MissingExtra("lm_eval", "lm-eval") from error


@register_model("docendo")
class DocendoLM(TextGenerator, TemplateLM):
    """Runs lm-eval's requests on an engine.

    All requests go to the engine at once, which batches them and computes beginnings that they share once.
    Texts become tokens as in lm-eval's own `hf` model (the split of context and continuation, spaces, the
    beginning-of-text token, truncation from the left), so that figures can be compared. Log-likelihoods are
    taken in float32 whatever the model's precision; `hf` takes them in the model's.

    On the command line, `docendo lm_eval` is lm-eval's own with this model known to it::

        docendo lm_eval --model_args pretrained=smollm2-135m-instruct,adapter=adapters/sums --tasks arc_easy

    Example:
        >>> import lm_eval                                                        # doctest: +SKIP
        >>> from docendo import Engine                                            # doctest: +SKIP
        >>> model = DocendoLM(Engine.load("smollm2-135m-instruct"))               # doctest: +SKIP
        >>> lm_eval.simple_evaluate(model=model, tasks=["arc_easy"])["results"]   # doctest: +SKIP
        {'arc_easy': {...}}
    """

    backend = "causal"

    def __init__(
        self,
        engine: EngineProtocol | None = None,
        adapter: str | Path | None = None,
        *,
        pretrained: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        max_rows: int = 64,
        tokenizer: Any = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        chat_template_args: dict[str, Any] | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | None = None,
        seed: int = 1234,
        quiet: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """Takes an engine, or loads one.

        Args:
            engine: Any engine that scores token ids; it stays the caller's to close.
            adapter: Name of an adapter loaded in the engine, or a LoRA folder, which is loaded; None is the
                base model.
            pretrained: Instead of `engine`: catalogue name, folder or hub id, or KIND:ADDRESS#MODEL of a
                server, which `docendo.agents.open_engine` takes.
            dtype: Precision of a model that is loaded, as in `Engine.load`.
            device: Torch device of a model that is loaded; the first GPU by default. lm-eval's own default,
                "cuda:0", means that as well, where there is none.
            max_rows: Most rows at once of a model that is loaded.
            tokenizer: A Hugging Face tokenizer or its local folder; by default the engine's own.
            max_length: Most tokens of context and continuation but the last; by default the engine's limit.
            max_gen_toks: Most tokens to generate where the task names none; lm-eval's default.
            add_bos_token: Whether texts begin with the beginning-of-text token; by default as the tokenizer
                does.
            prefix_token_id: What comes before a text without context; by default the beginning-of-text
                token, else the end-of-text one.
            chat_template_args: Arguments of the chat template.
            enable_thinking: The argument of that name, which templates of reasoning models have.
            think_end_token: Text that ends a model's reasoning; only what follows is the answer.
            seed: Where a task samples: repeats of a request draw differently, and the same each time.
            quiet: Show no progress.
            batch_size: Taken and not used: the engine fills its own batches.
            max_batch_size: Likewise.

        Raises:
            ConfigError: unless either an engine or a model's name is given, or a setting cannot be used.
            CapabilityError: if the engine cannot score token ids, or has no tokenizer at hand.
            ModelNotFound: if there is no such model.
            AdapterError: if the adapter cannot be used.
        """
        super().__init__()
        if (engine is None) == (pretrained is None):
            raise ConfigError(
                "both an engine and pretrained are given" if engine else "no engine is given",
                expected="an engine, or pretrained=NAME",
            )
        self.engine: EngineProtocol
        options = {"dtype": dtype, "device": _device(device), "max_rows": max_rows}
        with opened(str(pretrained), engine, **options) as self.engine:
            needs = frozenset[Feature]({"score", "token_prompts"})
            self.engine.capabilities.require(needs, engine=self.engine.name, by="lm-eval")
            self.adapter = loaded(self.engine, adapter)
            self.tokenizer = own_tokenizer(self.engine, tokenizer)
            self.max_length = limit_of(self.engine, max_length)
        self.max_gen_toks = max_gen_toks
        self.add_bos_token = add_bos_token
        self._prefix_token_id = prefix_token_id
        thinking = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self.chat_template_args = {**(chat_template_args or {}), **thinking}
        self.think_end_token = think_end_token
        self._seed, self._quiet = seed, quiet
        self._origin = Origin(run="lm-eval", role="evaluated", agent=self.adapter or self.engine.name)

    # --- what lm-eval asks about the model ----------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """Id of the token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Id of the token that stands for an empty context."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        beginning = self.tokenizer.bos_token_id
        return self.eot_token_id if beginning is None else int(beginning)

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval caches rendered requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model: enough to know it again."""
        return {
            "model_name": self.engine.name,
            "model_fingerprint": self.engine.fingerprint,
            "model_dtype": str(getattr(self.engine, "dtype", "")).removeprefix("torch."),
            "adapter": self.adapter,
            "adapter_sha256": self.engine.adapter_hash(self.adapter),
        }

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Renders a chat with the model's template; without its system message, if the template has none.

        Raises:
            ConfigError: if the model has no chat template, or it refuses the messages.
        """
        return render_chat(
            self.tokenizer,
            chat_history,
            generate=add_generation_prompt,
            model=self.engine.name,
            options=self.chat_template_args,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text. A text that brings the beginning-of-text token gets no second one."""
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and has_bos_prefix(
            string, self.tokenizer.decode([self.prefix_token_id])
        ):
            special = False
        options = {} if special is None else {"add_special_tokens": special}
        return list(self.tokenizer.encode(string, **options))

    # --- requests -----------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would write it."""
        names = [name_of(number, request) for number, request in enumerate(requests)]
        encoded = [self._encode(request.args, name) for request, name in zip(requests, names, strict=True)]
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm, names=names)

    def _encode(self, texts: tuple[str, str], name: str) -> tuple[tuple[str, str], list[int], list[int]]:
        context, continuation = texts
        if context:
            ids, following = self._encode_pair(context, continuation)
            ids = ids or [self.prefix_token_id]  # of a context of spaces, which have gone to the continuation
        else:
            ids, following = [self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False)
            if following[:1] == ids:
                following = following[1:]
        if not following:
            raise DataError(
                f"{name}: the continuation {continuation!r} is empty", expected="at least one token"
            )
        return texts, ids, following

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        names: Sequence[str] = (),
        greedy: bool = True,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        asked = [str(name) for name in names] or [f"request {number}" for number in range(len(requests))]
        pairs = [
            self._pair(context, continuation, name)
            for (_, context, continuation), name in zip(requests, asked, strict=True)
        ]
        self._tell_cuts()
        first = {pair: number for number, pair in reversed(list(enumerate(pairs)))}
        counts = Counter(pairs)

        with progress("log-likelihoods", len(pairs), quiet=self._quiet or disable_tqdm) as bar:

            def done(pair: Pair, found: Likelihood) -> None:
                if (text := requests[first[pair]][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", text, tuple(found))
                bar.advance(counts[pair])

            found = likelihoods(
                self.engine,
                pairs,
                adapter=self.adapter,
                greedy=greedy,
                origin=self._origin,
                about=lambda pair: asked[first[pair]],
                done=done,
            )
        return [(one.logprob, one.greedy) for one in found]

    def _pair(self, context: Sequence[int], continuation: Sequence[int], name: str) -> Pair:
        """A pair that fits into the model: what is too much goes from the left, but never a scored token."""
        if len(continuation) > self.max_length:
            raise DataError(
                f"{name}: the continuation has {len(continuation)} tokens",
                expected=f"at most {self.max_length}",
            )
        return Pair(self._cut(context, self.max_length + LAST - len(continuation)), tuple(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, in windows of the model's length with the most context."""
        windows: list[tuple[None, list[int], list[int]]] = []
        names: list[str] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            name = name_of(number, request)
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                names.append(name)
                owners.append(number)
        found = self._loglikelihood_tokens(windows, disable_tqdm, names, greedy=False)
        totals = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, found, strict=True):
            totals[number] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals


def _device(device: str | None) -> str | None:
    import torch

    return None if device == "cuda:0" and not torch.cuda.is_available() else device
