"""The in-process engine: one owner thread runs one model for every agent and every graph run."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import secrets
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from safetensors import SafetensorError

from docendo.agents import _models as models
from docendo.agents._adapter_files import read_adapter
from docendo.agents._flops import FlopsModel
from docendo.agents._grammar import GrammarCompiler
from docendo.agents._jobs import Desk, Job
from docendo.agents._loop import DecodeLoop
from docendo.agents._lora import LoadedAdapter, install_router
from docendo.agents._serving import make_loop
from docendo.agents._streams import astream, stream
from docendo.agents._templates import (
    completion_ids,
    end_ids,
    has_chat_template,
    prompt_ids,
    render,
    takes_tools,
    template_stops,
)
from docendo.agents._worker import Worker
from docendo.errors import AdapterError, CapabilityError, ConfigError, ModelNotFound
from docendo.hashing import derive_seed
from docendo.records import (
    Capabilities,
    Chunk,
    Determinism,
    EngineEvent,
    Feature,
    GrammarKind,
    Message,
    Origin,
    Request,
    Result,
    ScoreRequest,
    ScoreResult,
)

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from docendo.agents._chat_model_engine import ChatModelEngine

DType = Literal["auto", "float32", "bfloat16", "float16"]
_NOBODY = Origin()


def best_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, else float32."""
    if device != "cpu":
        return torch.bfloat16
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, probe, bool)() for probe in native)
    return torch.bfloat16 if fast else torch.float32


class Engine:
    """Runs one base model with any number of LoRA adapters, batching all callers together.

    Requests may come from any thread or event loop. Each keeps its own sampling settings, seed, stop
    strings and adapter; the batch it happens to run in changes nothing but rounding.

    Example:
        >>> engine = Engine.load("smollm2-135m-instruct")             # doctest: +SKIP
        >>> engine.generate(Request(prompt="The sky is")).text        # doctest: +SKIP
        ' blue.'
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "model",
        model_path: str | Path | None = None,
        fingerprint: str | None = None,
        max_rows: int = 64,
        max_queue: int = 1024,
        prefix_tokens: int = 16_384,
        cache_bytes: int = 4 << 30,
        determinism: Determinism = "seeded",
    ) -> None:
        """Wraps a loaded `transformers` causal language model, which the engine then owns.

        Args:
            model: The model. It is put into eval mode, and its linear layers are wrapped when an adapter is
                loaded: do not train it.
            tokenizer: Its tokenizer.
            name: What to call it in records.
            model_path: Folder or hub id it came from, for training.
            fingerprint: Digest of its files; by default one of its configuration.
            max_rows: Most samples decoded at once. Decoding is bound by memory traffic, so a step of 64 rows
                costs little more than one of 8.
            max_queue: Most requests that wait for a row. Beyond it `submit` blocks and `agenerate` awaits, so
                that a fast producer cannot fill the memory.
            prefix_tokens: Tokens of prompt beginnings kept for reuse (23 KB a token for SmolLM2-135M in
                bfloat16).
            cache_bytes: Memory for keys and values of running rows; requests wait rather than exceed it.
            determinism: What a seed promises. "seeded": the same random numbers, so the same tokens up to
                rounding, which depends on what else is in the batch; a request without a seed gets one from
                its prompt. "invariant": the same bits whatever else runs; each row is computed alone, which
                costs most of the batch's speed. "none": as "seeded", but a request without a seed gets
                a fresh one each time.

        Raises:
            ConfigError: if a limit is not positive or the level of determinism is unknown.
        """
        for field, value, least in (
            ("max_rows", max_rows, 1),
            ("max_queue", max_queue, 1),
            ("prefix_tokens", prefix_tokens, 0),
            ("cache_bytes", cache_bytes, 1),
        ):
            if value < least:
                raise ConfigError(f"{field} is {value}", expected=f"at least {least}")
        if determinism not in get_args(Determinism):
            raise ConfigError(
                f"determinism is {determinism!r}", expected=f"one of {', '.join(get_args(Determinism))}"
            )
        self.name = name
        self.model_path = model_path
        self.tokenizer = tokenizer
        self.config = model.config
        self.dtype: torch.dtype = model.dtype
        self.fingerprint = fingerprint or f"{derive_seed(model.config.to_json_string()):016x}"
        self._model = model.eval().requires_grad_(False)
        # Fast tokenizers are not safe to use from two threads at once.
        self._tokenizing = threading.Lock()
        self._adapting = threading.Lock()
        self._adapters: dict[str, LoadedAdapter] = {}
        text = model.config.get_text_config()
        # Some models without a limit say -1.
        positions = int(getattr(text, "max_position_embeddings", 0))
        self.max_length = positions if positions > 0 else 1 << 20
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._stops = template_stops(tokenizer)
        self._ends = end_ids(tokenizer, model.config, text, model.generation_config)
        self._grammars = GrammarCompiler(tokenizer, width=self._vocabulary, ends=self._ends)
        self._desk = Desk(
            name=name, fingerprint=self.fingerprint, decode_text=_text_decoder(tokenizer, self._tokenizing)
        )
        self._desk.mask_width = max(self._vocabulary, len(tokenizer))
        self._worker = Worker(
            make_loop(
                model,
                self._desk,
                max_rows=max_rows,
                max_length=self.max_length,
                prefix_tokens=prefix_tokens,
                cache_bytes=cache_bytes,
                invariant=determinism == "invariant",
                flops=_flops(FlopsModel.from_model(model)),
            ),
            max_queue=max_queue,
        )
        self.capabilities = Capabilities(
            features=_features(tokenizer), determinism=determinism, max_length=self.max_length
        )
        self._closer = weakref.finalize(self, self._worker.stop)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        dtype: DType = "auto",
        device: str | None = None,
        max_rows: int = 64,
        **options: Any,
    ) -> Self:
        """Loads a model by catalogue name, local folder or hub id.

        Args:
            model: For example "smollm2-135m-instruct" (`docendo models list`), a folder, or "org/name".
            dtype: "auto" is bfloat16 where the processor is fast at it, else float32.
            device: Torch device; by default the first GPU if there is one, else the CPU.
            max_rows: Most samples decoded at once.
            **options: Further arguments of the constructor.

        Raises:
            ModelNotFound: if there is no such model; the message lists near names.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype != "auto" and dtype not in kinds:
            raise ConfigError(f"dtype is {dtype!r}", expected="one of auto, float32, bfloat16, float16")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # AssertionError: built without support for it
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device is {device!r} ({reason})", expected="such as cpu or cuda") from error
        source = models.resolve(str(model))
        try:
            transformers_logging.disable_progress_bar()
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=best_dtype(device) if dtype == "auto" else kinds[dtype],
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelNotFound(
                f"cannot load model {str(model)!r}: {reason}",
                remedy="fetch it again, or see `docendo models list` for names that work offline",
            ) from error
        return cls(
            loaded.to(device),
            tokenizer,
            name=str(model),
            model_path=source,
            fingerprint=models.fingerprint(source) if Path(source).is_dir() else None,
            max_rows=max_rows,
            **options,
        )

    @classmethod
    def from_chat_model(cls, chat_model: BaseChatModel, **options: Any) -> ChatModelEngine:
        """An engine over any LangChain chat model, so that a hosted model can be the teacher.

        Args:
            chat_model: Any `BaseChatModel`.
            **options: Arguments of `ChatModelEngine`.

        Example:
            >>> from langchain_core.language_models import FakeListChatModel
            >>> teacher = Engine.from_chat_model(FakeListChatModel(responses=["42"]))
            >>> teacher.generate(Request(prompt="6 x 7?")).text
            '42'
        """
        from docendo.agents._chat_model_engine import ChatModelEngine

        return ChatModelEngine(chat_model, **options)

    # --- requests --------------------------------------------------------------------------------

    def submit(self, request: Request) -> Future[Result]:
        """Queues a generation request; blocks only while the queue is full.

        Cancelling the future frees its rows at the next step. Errors that the request itself causes are
        raised here; those of the model arrive through the future.

        Raises:
            ConfigError: if the prompt is empty, malformed, too long for the model, or its grammar wrong.
            AdapterError: if the adapter is not loaded.
            DeadlineExceeded: if the queue stays full for the request's timeout.
            EngineClosed: if the engine is closed.
        """
        return self._worker.submit(self._job(request))

    def _job(self, request: Request, listener: Callable[[Chunk], None] | None = None) -> Job:
        """Checks a request and makes the job of it."""
        _require(request, Request)
        adapter = self._adapter(request.adapter)
        params = request.sampling
        # First, because it says which extra is missing.
        grammar = self._grammars.compile(params.grammar) if params.grammar else None
        self.capabilities.require(request.needs(), engine=self.name, by="the request")
        with self._tokenizing:
            prompt = prompt_ids(self.tokenizer, request.prompt, request.tools)
        self._check_ids([*prompt, *params.stop_token_ids])
        if len(prompt) + params.max_tokens > self.max_length:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens and max_tokens is {params.max_tokens}",
                expected=f"at most {self.max_length} together",
                remedy="shorten the prompt or lower max_tokens",
            )
        if params.seed is not None:
            seed = params.seed
        elif self.capabilities.determinism == "none":
            seed = secrets.randbits(62)
        else:
            seed = derive_seed(prompt, request.adapter)
        is_chat = not isinstance(request.prompt, str) and not isinstance(request.prompt[0], int)
        return Job(
            prompt=prompt,
            adapter=adapter,
            origin=request.origin,
            future=Future(),
            asked=request.prompt,
            params=params,
            seed=seed,
            # A grammar says itself where the text ends.
            stops=(*params.stop, *(self._stops if is_chat and params.grammar is None else ())),
            ends=(frozenset() if params.ignore_eos else self._ends) | frozenset(params.stop_token_ids),
            grammar=grammar,
            listener=listener,
            priority=request.priority,
            deadline=_deadline(request.timeout),
        )

    def submit_score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Queues a request for the log-probabilities of a given completion.

        Raises:
            ConfigError: if prompt or completion is empty or too long for the model.
            AdapterError: if the adapter is not loaded.
            DeadlineExceeded: if the queue stays full for the request's timeout.
            EngineClosed: if the engine is closed.
        """
        return self._worker.submit(self._score_job(request))

    def _score_job(self, request: ScoreRequest) -> Job:
        """Checks a request and makes the job of it."""
        _require(request, ScoreRequest)
        adapter = self._adapter(request.adapter)
        with self._tokenizing:
            prompt = prompt_ids(self.tokenizer, request.prompt)
            if isinstance(request.completion, str):
                completion = completion_ids(self.tokenizer, request.completion, end=False)
            else:
                completion = list(request.completion)
        if not completion:
            raise ConfigError("the completion to score is empty", expected="at least one token")
        self._check_ids(prompt + completion)
        if len(prompt) + len(completion) > self.max_length:
            raise ConfigError(
                f"prompt and completion have {len(prompt) + len(completion)} tokens",
                expected=f"at most {self.max_length}",
            )
        return Job(
            prompt=prompt,
            adapter=adapter,
            origin=request.origin,
            future=Future(),
            completion=completion,
            priority=request.priority,
            deadline=_deadline(request.timeout),
        )

    def submit_embedding(
        self,
        text: str | Sequence[int],
        *,
        adapter: str | None = None,
        origin: Origin = _NOBODY,
        most_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Future[list[float]]:
        """Queues a text whose mean hidden state is wanted: that of the last layer, over all tokens.

        It runs in the same packed passes as everything else and is counted alike, without the vocabulary
        head.

        Args:
            text: Text or token ids.
            adapter: Name of a loaded adapter, or None for the base model.
            origin: Who asks, for the ledger.
            most_tokens: How many tokens count at most, from the first; by default all.
            timeout: As in `Request`.

        Raises:
            ConfigError: if the text is empty or too long for the model.
            AdapterError: if the adapter is not loaded.
        """
        with self._tokenizing:
            tokens = prompt_ids(self.tokenizer, text)[:most_tokens]
        self._check_ids(tokens)
        if len(tokens) > self.max_length:
            raise ConfigError(
                f"the text has {len(tokens)} tokens",
                expected=f"at most {self.max_length}",
                remedy="give most_tokens",
            )
        return self._worker.submit(
            Job(
                prompt=tokens,
                adapter=self._adapter(adapter),
                origin=origin,
                future=Future(),
                completion=[],
                states=[],
                deadline=_deadline(timeout),
            )
        )

    def generate(self, request: Request) -> Result:
        """Generates and waits; see `submit`."""
        return self.submit(request).result()

    async def agenerate(self, request: Request) -> Result:
        """Generates without blocking the event loop; cancelling the task cancels the request."""
        if request.sampling.grammar is not None:  # its first use takes seconds
            return await self._worker.asubmit(await asyncio.to_thread(self._job, request))
        return await self._worker.asubmit(self._job(request))

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Generates piece by piece; closing the iterator cancels the request.

        Example:
            >>> for chunk in engine.stream(Request(prompt="The sky is")):   # doctest: +SKIP
            ...     print(chunk.text, end="", flush=True)
        """
        return stream(lambda listener: self._worker.submit(self._job(request, listener)))

    def astream(self, request: Request) -> AsyncIterator[Chunk]:
        """`stream` without blocking the event loop."""
        return astream(lambda listener: self._worker.submit(self._job(request, listener)))

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Scores and waits; see `submit_score`."""
        return self.submit_score(request).result()

    async def ascore(self, request: ScoreRequest) -> ScoreResult:
        """Scores without blocking the event loop."""
        return await self._worker.asubmit(self._score_job(request))

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The prompt text that the model sees for chat messages and tools."""
        with self._tokenizing:
            return render(self.tokenizer, messages, tools)

    def _check_ids(self, ids: list[int]) -> None:
        # Inside a batch such an id would fail all of its rows.
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            wrong = next(token for token in ids if not 0 <= token < self._vocabulary)
            raise ConfigError(
                f"{wrong} is no token id of this model", expected=f"0 to {self._vocabulary - 1}"
            )

    # --- adapters --------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | Path) -> str:
        """Loads a PEFT LoRA folder under a name and returns its SHA-256.

        A name that is taken is swapped between two decoding steps: rows that run keep the old weights, later
        requests get the new ones.

        Raises:
            AdapterError: if the folder is damaged, unsupported, or made for another base model.
            IntegrityError: if its files do not match its manifest.
        """
        adapter = read_adapter(name, Path(path), self._model, self.fingerprint)
        if adapter.invocation and not isinstance(self._worker.loop, DecodeLoop):
            raise CapabilityError(
                f"adapter {path} is an activated LoRA, which {self.name!r} is not served with",
                expected="a plain LoRA",
            )
        with self._adapting, self.paused():
            install_router(self._model, list(adapter.pairs), self._worker.loop.router)
            self._adapters[name] = adapter
            self._worker.loop.router.fusing.keep(set(self._adapters.values()))
        return adapter.sha256

    def drop_adapter(self, name: str) -> None:
        """Forgets an adapter; requests that already run with it finish."""
        with self._adapting, self.paused():
            self._adapter(name)
            del self._adapters[name]
            self._worker.loop.router.fusing.keep(set(self._adapters.values()))

    def adapters(self) -> dict[str, str]:
        """Names of the loaded adapters and their SHA-256."""
        return {name: adapter.sha256 for name, adapter in self._adapters.items()}

    def adapter_hash(self, name: str | None) -> str | None:
        """SHA-256 of a loaded adapter; None for the base model."""
        adapter = self._adapter(name)
        return adapter.sha256 if adapter else None

    def _adapter(self, name: str | None) -> LoadedAdapter | None:
        if name is None:
            return None
        if name not in self._adapters:
            loaded = ", ".join(sorted(self._adapters)) or "none"
            raise AdapterError(
                f"adapter {name!r} is not loaded (loaded: {loaded})", remedy="call engine.load_adapter first"
            )
        return self._adapters[name]

    # --- life ------------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No decoding step runs inside this context; requests queue up. For training beside the engine."""
        self._worker.pause()
        try:
            yield
        finally:
            self._worker.go_on()

    def ledger(self) -> list[dict[str, Any]]:
        """Calls, tokens, compute seconds and estimated FLOPs by run, role, agent and adapter.

        Seconds are the engine's own: each pass's wall time is shared by its tokens, so that the sum is the
        time the engine was busy.
        """
        names = {adapter.sha256: name for name, adapter in self._adapters.items()}
        return self._desk.accounts.rows(model=self.name, names=names)

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Calls back on the engine's thread after each request that ends; returns what unsubscribes.

        Callbacks should be quick: the engine waits for them.
        """
        return self._desk.accounts.subscribe(callback)

    def close(self) -> None:
        """Stops the owner thread; what is still queued fails with `EngineClosed`."""
        self._closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _features(tokenizer: Any) -> frozenset[Feature]:
    missing: set[Feature] = set()
    if importlib.util.find_spec("llguidance") is None:
        missing |= set(get_args(GrammarKind))
    if not takes_tools(tokenizer):
        missing.add("tools")
    return frozenset(get_args(Feature)) - missing


def _flops(model: FlopsModel) -> Callable[[int, int, int, LoadedAdapter | None], float]:
    def flops(new: int, before: int, heads: int, adapter: LoadedAdapter | None) -> float:
        weights = adapter.weights if adapter else 0
        return model.forward(new, before, head_positions=heads, adapter_weights=weights)

    return flops


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout


def _text_decoder(tokenizer: Any, lock: threading.Lock) -> Callable[[Sequence[int]], str]:
    plain = not has_chat_template(tokenizer)

    def decode(ids: Sequence[int]) -> str:
        with lock:
            text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.removeprefix(" ") if plain else text

    return decode


def _require(request: object, kind: type[Request] | type[ScoreRequest]) -> None:
    if not isinstance(request, kind):
        raise ConfigError(f"the request is {request!r}"[:200], expected=f"a {kind.__name__}(prompt=...)")
