"""An engine over any LangChain chat model: a hosted model, or one on a server, becomes the teacher."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable

from docendo.agents._answers import StopText
from docendo.agents._dispatch import Job
from docendo.agents._messages import from_messages
from docendo.agents._remote import RemoteEngine
from docendo.agents._servers import prompt_messages
from docendo.agents._toolcalls import CLOSE, OPEN, format_call
from docendo.errors import ConfigError, DocendoError, InfrastructureError, ModelFailure
from docendo.hashing import digest
from docendo.records import (
    Capabilities,
    Chunk,
    Completion,
    Feature,
    FinishReason,
    Request,
    Result,
    SamplingParams,
    Usage,
)

# What a setting is called as a field of chat models, and what it is where it is off.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "max_tokens": (
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "num_predict",
        "max_new_tokens",
    ),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "seed": ("seed", "random_seed"),
}
_OFF: Mapping[str, float | None] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "seed": None,
}
_FEATURES: tuple[Feature, ...] = ("top_k", "min_p", "repetition_penalty", "seed")
_REASONS = ("finish_reason", "stop_reason", "done_reason")
_CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
_REFUSED = frozenset({"content_filter", "safety", "refusal", "recitation", "blocklist", "prohibited_content"})
#: Seeds are given as 31 bits, which every provider takes.
_SEED_MASK = 0x7FFF_FFFF


class ChatModelEngine(RemoteEngine):
    """Asks a LangChain chat model, with the interface of `Engine`.

    A setting of `SamplingParams` is given to the chat model under the name of its field (`temperature`,
    `max_tokens` or what else it calls it, `top_p`, `top_k`, `seed` and so on). What it has no field for stays
    as it is configured: temperature, `max_tokens` and `top_p` silently, as every engine is asked for them;
    the others are missing from the capabilities. Text ends at a stop string also where the model ignores it.
    `n` samples are `n` calls, with seeds one apart, and their tokens add up. Tool calls are written into the
    text (`<tool_call>`), as a local model writes them.

    Nothing is promised about repeatability: `fingerprint` is a digest of the model's name and parameters, and
    what answers under that name may change. Tokens are those that the chat model reports, zero if it reports
    none.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> with ChatModelEngine(FakeListChatModel(responses=["42"])) as engine:
        ...     engine.generate(Request(prompt="6 x 7?")).text
        '42'
    """

    def __init__(
        self,
        chat_model: BaseChatModel,
        *,
        name: str | None = None,
        keep: Collection[str] = (),
        timeout: float | None = None,
        max_concurrency: int = 16,
        max_waiting: int = 1024,
    ) -> None:
        """Wraps a chat model, which keeps its own key, address, retries and limits.

        Args:
            chat_model: Any `BaseChatModel`.
            name: What to call it in records; by default what it calls its model.
            keep: Settings that stay as the chat model has them, such as "temperature" for a model that
                refuses any but its own.
            timeout: Seconds that a call may take, queueing here apart; None waits for ever.
            max_concurrency: Most calls at once.
            max_waiting: Most requests that wait here; who submits one more, waits to do so.

        Raises:
            ConfigError: if it is no chat model, or a setting cannot be used.
        """
        if not isinstance(chat_model, BaseChatModel):
            raise ConfigError(
                f"the chat model is a {type(chat_model).__name__}",
                expected="a langchain_core BaseChatModel",
                remedy="pass the model itself, before bind, with_config or the like",
            )
        if unknown := sorted(set(keep) - set(_FIELDS)):
            raise ConfigError(f"keep holds {', '.join(unknown)}", expected=f"some of {', '.join(_FIELDS)}")
        for field, value, least in (("max_concurrency", max_concurrency, 1), ("max_waiting", max_waiting, 0)):
            if value < least:
                raise ConfigError(f"{field} is {value}", expected=f"at least {least}")
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout is {timeout}", expected="seconds, more than 0, or None")
        kind = type(chat_model)
        self.chat_model = chat_model
        self._timeout = timeout
        self._fields = {
            setting: next(field for field in fields if field in kind.model_fields)
            for setting, fields in _FIELDS.items()
            if setting not in keep and any(field in kind.model_fields for field in fields)
        }
        features: set[Feature] = {"messages", "n"}
        features |= {feature for feature in _FEATURES if feature in self._fields}
        if kind.bind_tools is not BaseChatModel.bind_tools:
            features.add("tools")
        if kind._stream is not BaseChatModel._stream or kind._astream is not BaseChatModel._astream:
            features.add("stream")
        name = name or chat_model._get_ls_params().get("ls_model_name") or kind.__name__
        plain = {
            key: str(value)
            for key, value in chat_model._identifying_params.items()
            if isinstance(value, (str, int, float))
        }
        super().__init__(
            name=name,
            fingerprint=digest("chat model", kind.__module__, kind.__qualname__, name, plain),
            capabilities=Capabilities(features=frozenset(features)),
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            close=_nothing,
        )
        # A request of n samples makes n calls, so calls have a bound of their own.
        self._calls = asyncio.Semaphore(max_concurrency)
        self._dispatcher.call(_run_in_threads(max_concurrency))

    def _job(self, request: Request, put: Callable[[Chunk], None] | None = None) -> Job[Result]:
        params = request.sampling
        chat = prompt_messages(request.prompt)
        self._require(request.needs() | ({"stream"} if put else set()), by="the request")
        # Token ids are refused by now, so what is no chat is text.
        messages = from_messages(chat) if chat else [HumanMessage(str(request.prompt))]

        async def work(job: Job[Result]) -> Result:
            answers = _Answers(params.n, job, put)
            calls = [
                asyncio.ensure_future(self._ask(request, messages, answers, sample))
                for sample in range(params.n)
            ]
            try:
                completions = await asyncio.gather(*calls)
            finally:
                for call in calls:
                    call.cancel()
            now = time.perf_counter()
            return Result(
                completions=tuple(completions),
                usage=answers.usage,
                model=self.fingerprint,
                seed=_seed(params, 0) or 0,
                seconds=job.seconds(),
                latency=now - job.submitted,
                queued=job.started - job.submitted,
                first_token=(job.first_token or now) - job.submitted,
            )

        return Job(
            work=work,
            report=self._reporter(request),
            priority=request.priority,
            timeout=request.timeout,
            patience=self._timeout,
        )

    async def _ask(
        self, request: Request, messages: Sequence[BaseMessage], answers: _Answers, sample: int
    ) -> Completion:
        """One call, which is one sample."""
        params = request.sampling
        text = StopText(params.stop)
        message: BaseMessage | None = None
        said: list[str] = []
        try:
            model: Runnable[Any, Any] = self._configured(params, sample)
            if request.tools:
                model = model.bind_tools([dict(tool) for tool in request.tools])  # type: ignore[attr-defined]
            options: dict[str, Any] = {"stop": list(params.stop)} if params.stop else {}
            async with self._calls:
                if answers.put is None:
                    message = await model.ainvoke(list(messages), **options)
                    said.append(text.feed(str(message.text)))
                else:
                    async for piece in model.astream(list(messages), **options):
                        message = piece if message is None else message + piece
                        said.append(text.feed(str(piece.text)))
                        answers.tell(sample, said[-1])
        except DocendoError:
            raise
        except Exception as error:  # whatever a provider's client raises
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InfrastructureError(
                f"the chat model {self.name!r} failed ({type(error).__name__}): {reason}"
            ) from error
        if message is None:
            raise InfrastructureError(f"the chat model {self.name!r} ended its stream without a message")
        reason = _finish_reason(message, self.name)
        rest = text.rest()
        rest += _calls_text(message, after="".join(said) + rest)
        answers.end(sample, rest, reason, _usage(message))
        return Completion(text="".join(said) + rest, finish_reason=reason)

    def _configured(self, params: SamplingParams, sample: int) -> BaseChatModel:
        """The chat model with the settings of a request."""
        changes: dict[str, Any] = {}
        for setting, field in self._fields.items():
            value = _seed(params, sample) if setting == "seed" else getattr(params, setting)
            off = setting in _OFF and value == _OFF[setting]
            # Some providers refuse a setting that is merely there, even where it says "off".
            if not off or (setting != "seed" and getattr(self.chat_model, field) is not None):
                changes[field] = None if off else value
        return self.chat_model.model_copy(update=changes) if changes else self.chat_model


class _Answers:
    """The samples of a request as they come in."""

    def __init__(self, samples: int, job: Job[Result], put: Callable[[Chunk], None] | None) -> None:
        self.put = put
        self.usage = Usage()
        self._counted = True
        self._job = job
        self._open = samples

    def tell(self, sample: int, text: str) -> None:
        if text and self.put:
            self._job.first_token = self._job.first_token or time.perf_counter()
            self.put(Chunk(text=text, index=sample))

    def end(self, sample: int, rest: str, reason: FinishReason, usage: Usage | None) -> None:
        self.usage += usage or Usage()
        self._counted = self._counted and usage is not None
        self._open -= 1
        self._job.first_token = self._job.first_token or time.perf_counter()
        if self.put:
            whole = self.usage if self._counted and not self._open else None
            self.put(Chunk(text=rest, index=sample, finish_reason=reason, usage=whole))


def _seed(params: SamplingParams, sample: int) -> int | None:
    return None if params.seed is None else (params.seed + sample) & _SEED_MASK


def _usage(message: BaseMessage) -> Usage | None:
    counts = message.usage_metadata if isinstance(message, AIMessage) else None
    if not counts:
        return None
    return Usage(
        prompt_tokens=counts["input_tokens"],
        cached_tokens=counts.get("input_token_details", {}).get("cache_read", 0),
        generated_tokens=counts["output_tokens"],
    )


def _finish_reason(message: BaseMessage, name: str) -> FinishReason:
    told = (message.response_metadata.get(key) for key in _REASONS)
    reason = next((str(value).lower() for value in told if value), "stop")
    if reason in _REFUSED:
        raise ModelFailure(f"the chat model {name!r} refused to answer (finish reason {reason!r})")
    return "length" if reason in _CUT_OFF else "stop"


def _calls_text(message: BaseMessage, *, after: str) -> str:
    if not isinstance(message, AIMessage):
        return ""
    written = [format_call(call["name"], call["args"]) for call in message.tool_calls]
    for bad in message.invalid_tool_calls:  # the reader will find the same fault
        written.append(
            f'{OPEN}\n{{"name": {json.dumps(bad["name"] or "")}, "arguments": {bad["args"]}}}\n{CLOSE}'
        )
    return ("\n" if after and written else "") + "\n".join(written)


async def _nothing() -> None:
    """There is nothing to close: the chat model is the caller's."""


async def _run_in_threads(count: int) -> None:
    # Chat models without an async interface run in the event loop's threads, few by default.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count, "docendo-chat-model"))
