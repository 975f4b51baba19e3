"""Models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, hosted ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from docendo.agents._answers import (
    StreamedAnswer,
    completions_of,
    prompt_logprobs_of,
    score_of,
    usage_of,
)
from docendo.agents._dispatch import Job
from docendo.agents._remote import RemoteEngine
from docendo.agents._served import ServedAdapters
from docendo.agents._servers import (
    COMPLETIONS,
    SERVERS,
    STANDARD,
    ServerKind,
    generation_body,
    prompt_messages,
    score_body,
)
from docendo.agents._templates import _break_markers, completion_ids, plain_text, prompt_ids, render
from docendo.errors import CapabilityError, ConfigError
from docendo.hashing import derive_seed, digest
from docendo.records import (
    Capabilities,
    Chunk,
    Feature,
    Message,
    Request,
    Result,
    ScoreRequest,
    ScoreResult,
)

T = TypeVar("T", Result, ScoreResult)


class OpenAIEngine(RemoteEngine):
    """Asks a model on an OpenAI-compatible server, with the interface of `Engine`.

    Requests wait here, by priority, until fewer than `max_concurrency` are at the server; batching is the
    server's affair. Cancelling one breaks its connection off, at which vLLM, SGLang and llama.cpp stop
    generating. A refused connection, a 429 or a 5xx is tried again with growing pauses. What the
    server does not offer is refused before it is sent (`CapabilityError`), and an answer that shows that the
    server ignored a setting is refused as well, because servers ignore what they do not know.

    Two limits: `fingerprint` is a digest of address and model name, so a server whose model is replaced under
    the same name looks unchanged (journals and traces included). And message text goes to the server as it
    is: unless `tokenizer` is given, role markers in it, such as `<|im_end|>`, are not broken up.

    Example:
        >>> engine = OpenAIEngine(                                        # doctest: +SKIP
        ...     "http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B", server="vllm", adapters={"tutor": "qwen-tutor"}
        ... )
        >>> engine.generate(Request(prompt="The sky is", adapter="tutor")).text         # doctest: +SKIP
        ' blue.'
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        server: ServerKind = "generic",
        features: Iterable[Feature] | None = None,
        api_key: str | None = None,
        adapters: Mapping[str, str] | None = None,
        tokenizer: Any = None,
        retries: int = 4,
        timeout: float | None = None,
        max_concurrency: int = 16,
        max_waiting: int = 1024,
    ) -> None:
        """Opens no connection yet.

        Args:
            base_url: Address of the server's OpenAI interface, such as "http://127.0.0.1:8000/v1".
            model: The model's name there.
            server: Kind of server: decides what it offers and what it calls its settings. "generic" is the
                least common; "openai" the hosted service.
            features: What the server offers, where that is not what its kind usually does.
            api_key: Sent as a bearer token. Nothing is read from the environment.
            adapters: Adapters that the server already has: our name to the model name that it serves them
                under (on SGLang "model:adapter"; with `transformers serve` the folder of a whole model that
                has the adapter merged in).
            tokenizer: The model's Hugging Face tokenizer: for `render`, and for `score` of anything but
                token ids.
            retries: Further tries after a refused connection, a 429 or a 5xx.
            timeout: Seconds that a request may be at the server, further tries included, or None. Waiting
                here is not counted; for that a request has a timeout of its own.
            max_concurrency: Most requests at the server at once.
            max_waiting: Most requests that wait here; who submits one more, waits to do so.

        Raises:
            MissingExtra: if the extra `openai` is not installed.
            ConfigError: if the address or a setting cannot be used.
            CapabilityError: if adapters are given and the server has none.
        """
        from docendo.agents._http import ServerClient  # here, so that only who uses it needs the extra

        if server not in get_args(ServerKind):
            raise ConfigError(f"server is {server!r}", expected=f"one of {', '.join(get_args(ServerKind))}")
        offered = SERVERS[server].features if features is None else frozenset(features)
        askable = SERVERS[server].features | STANDARD
        if offered - askable:
            raise ConfigError(
                f"features holds {', '.join(sorted(offered - askable))}, which cannot be asked of {server!r}",
                expected=f"some of {', '.join(sorted(askable))}",
            )
        for name, value, least in (
            ("retries", retries, 0),
            ("max_concurrency", max_concurrency, 1),
            ("max_waiting", max_waiting, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}", expected=f"at least {least}")
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout is {timeout}", expected="seconds, more than 0, or None")
        capabilities = Capabilities(features=offered, determinism=SERVERS[server].determinism)
        if adapters:
            capabilities.require(frozenset({"adapters"}), engine=model, by="an adapter")
        client = self._client = ServerClient(base_url, api_key=api_key, retries=retries)
        super().__init__(
            name=model,
            fingerprint=digest("openai", base_url.rstrip("/"), model),
            capabilities=capabilities,
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            close=client.close,
        )
        self.tokenizer = tokenizer
        self._kind = server
        self._timeout = timeout
        # Fast tokenizers are not safe to use from two threads at once.
        self._tokenizing = threading.Lock()
        dispatcher = self._dispatcher  # not self: an unused engine can be collected
        self._served = ServedAdapters(
            SERVERS[server],
            base_url,
            model=model,
            given=adapters or {},
            command=lambda path, body: dispatcher.call(client.command(path, body)),
        )

    @classmethod
    def from_spec(cls, spec: str, **options: Any) -> Self:
        """Makes an engine from one line: kind of server, address and model.

        Raises:
            ConfigError: if the line is not of this form.

        Example:
            >>> engine = OpenAIEngine.from_spec("vllm:http://127.0.0.1:8000/v1#Qwen/Qwen3-8B")
            >>> engine.name, "adapters" in engine.capabilities.features
            ('Qwen/Qwen3-8B', True)
            >>> engine.close()
        """
        kind, _, rest = spec.partition(":")
        base_url, _, model = rest.partition("#")
        if kind not in get_args(ServerKind) or not base_url or not model:
            raise ConfigError(
                f"the model is {spec!r}",
                expected=f"KIND:ADDRESS#MODEL with a kind of {', '.join(get_args(ServerKind))}",
                remedy="write for example vllm:http://127.0.0.1:8000/v1#Qwen/Qwen3-8B",
            )
        return cls(base_url, model, server=kind, **options)  # type: ignore[arg-type]

    # --- requests --------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The prompt text for chat messages: the model's own with `tokenizer`, else one line a message."""
        if not self.tokenizer:
            return plain_text(messages, tools)
        with self._tokenizing:
            return render(self.tokenizer, messages, tools)

    def _job(self, request: Request, put: Callable[[Chunk], None] | None = None) -> Job[Result]:
        params = request.sampling
        messages = prompt_messages(request.prompt)
        self._require(request.needs() | ({"stream"} if put else frozenset()), by="the request")
        served, adapter = self._served.find(request.adapter)
        if messages and self.tokenizer:
            messages = tuple({**m, "content": _break_markers(self.tokenizer, m["content"])} for m in messages)
        seed = derive_seed(request.prompt, request.adapter) if params.seed is None else params.seed
        seeded = "seed" in self.capabilities.features
        streamed = put is not None or SERVERS[self._kind].always_stream
        path, body = generation_body(
            self._kind,
            request,
            model=served,
            seed=seed if seeded else None,
            stream=streamed,
            messages=messages,
        )

        async def work(job: Job[Result]) -> Result:
            prompt: tuple[tuple[int, ...], tuple[float | None, ...]] = ((), ())
            if streamed:
                parts = StreamedAnswer(params, put)
                async with aclosing(self._client.stream(path, body)) as events:
                    async for event in events:
                        if parts.feed(event):
                            job.first_token = job.first_token or time.perf_counter()
                completions, usage = parts.end()
            else:
                answer = await self._client.post(path, body)
                completions = completions_of(answer, params)
                usage = usage_of(answer, completions)
                job.first_token = time.perf_counter()
                if params.prompt_logprobs:
                    prompt = prompt_logprobs_of(answer)
            return Result(
                completions=completions,
                usage=usage,
                model=self.fingerprint,
                adapter=adapter,
                seed=seed if seeded else 0,
                seconds=job.seconds(),
                latency=time.perf_counter() - job.submitted,
                queued=job.started - job.submitted,
                first_token=(job.first_token or time.perf_counter()) - job.submitted,
                prompt_token_ids=prompt[0],
                prompt_logprobs=prompt[1],
            )

        return Job(
            work=work,
            report=self._reporter(request),
            priority=request.priority,
            timeout=request.timeout,
            patience=self._timeout,
        )

    def _score_job(self, request: ScoreRequest) -> Job[ScoreResult]:
        """Needs the completions endpoint with `echo` (vLLM, SGLang), and `tokenizer` for all but token ids.

        With it the same tokens are scored as by `Engine`.
        """
        served, adapter = self._served.find(request.adapter)
        self._require({"score"}, by="scoring")
        prompt, completion = self._score_ids(request)
        body = score_body(self._kind, prompt, completion, model=served)

        async def work(job: Job[ScoreResult]) -> ScoreResult:
            answer = await self._client.post(COMPLETIONS, body)
            return ScoreResult(
                token_ids=tuple(completion),
                logprobs=score_of(answer, len(prompt), len(completion)),
                usage=usage_of(answer),
                model=self.fingerprint,
                adapter=adapter,
            )

        return Job(
            work=work,
            report=self._reporter(request),
            priority=request.priority,
            timeout=request.timeout,
            patience=self._timeout,
        )

    def _score_ids(self, request: ScoreRequest) -> tuple[list[int], list[int]]:
        ids = isinstance(request.prompt, tuple) and request.prompt and isinstance(request.prompt[0], int)
        if not (self.tokenizer or (ids and not isinstance(request.completion, str))):
            raise CapabilityError(
                "scoring text needs the model's tokenizer", remedy="pass tokenizer=, or token ids"
            )
        with self._tokenizing:
            prompt = prompt_ids(self.tokenizer, request.prompt)
            if isinstance(request.completion, str):
                completion = completion_ids(self.tokenizer, request.completion, end=False)
            else:
                completion = list(request.completion)
        if not completion:
            raise ConfigError("the completion to score is empty", expected="at least one token")
        return prompt, completion

    # --- adapters --------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | Path) -> str:
        """Lets the server load a PEFT folder, which it must see under the same path; returns its SHA-256.

        vLLM must have been started with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, SGLang
        with `--enable-lora`. A name that is taken is swapped: later requests get the new weights.

        Raises:
            CapabilityError: if this kind of server cannot.
            AdapterError: if there is no such adapter, or the server refuses it.
        """
        if SERVERS[self._kind].load is None or "adapters" not in self.capabilities.features:
            raise CapabilityError(
                f"this engine cannot make its server ({self._kind}) load an adapter",
                expected="vllm or sglang",
                remedy="start the server with the adapter and name it in adapters=",
            )
        return self._served.load(name, Path(path))

    def drop_adapter(self, name: str) -> None:
        """Forgets an adapter; the server unloads it if it was loaded from here."""
        self._served.drop(name)

    def adapters(self) -> dict[str, str]:
        """Names of the known adapters and their SHA-256 (of the server's name, if it had it before)."""
        return self._served.hashes()

    def adapter_hash(self, name: str | None) -> str | None:
        """SHA-256 of a known adapter; None for the base model."""
        return self._served.find(name)[1]
