"""OpenTelemetry spans and metrics of an engine's requests. Off unless `instrument` is called.

The names are those of the GenAI conventions in OpenTelemetry's semantic conventions 1.41.0, the last release
that has them (github.com/open-telemetry/semantic-conventions, docs/gen-ai). What they lack is under
`docendo.*`. Prompts and completions are recorded only if asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from docendo.agents._protocol import EngineProtocol
from docendo.errors import MissingExtra
from docendo.records import EngineEvent, Message

_SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
#: Bounds of histogram buckets that the conventions ask for: tokens, seconds, seconds to the first token.
_TOKENS = tuple(4**power for power in range(14))
_SECONDS = tuple(0.01 * 2**power for power in range(14))
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

_log = logging.getLogger(__name__)


def instrument(
    engine: EngineProtocol,
    *,
    tracer_provider: Any = None,
    meter_provider: Any = None,
    capture_content: bool = False,
    provider: str = "docendo",
) -> Callable[[], None]:
    """Makes a span and metrics of every request that the engine ends from now on.

    A span lasts from submission to the end, and is a child of the span in which the request was submitted if
    the engine calls back in the submitter's context. It costs the engine's thread a tenth of a millisecond a
    request. Where no SDK is set up, the default providers record nothing.

    Args:
        engine: The engine to watch.
        tracer_provider: Where spans go; by default the process's own provider.
        meter_provider: Where metrics go; by default the process's own provider.
        capture_content: Whether spans hold prompts and completions, which may be private and are long.
        provider: What runs the model (`gen_ai.provider.name`): "openai" for a server of OpenAI's protocol.

    Returns:
        What stops it.

    Raises:
        MissingExtra: if OpenTelemetry's API is not installed.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> stop = instrument(ScriptedEngine(["4"]))  # doctest: +SKIP
        >>> stop()                                    # doctest: +SKIP
    """
    return engine.subscribe(_Observer(tracer_provider, meter_provider, capture_content, provider))


class _Observer:
    """Turns events into spans and measurements. Called on the engine's thread."""

    def __init__(
        self, tracer_provider: Any, meter_provider: Any, capture_content: bool, provider: str
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError as error:
            raise MissingExtra("opentelemetry-api", "otel") from error

        release = version("docendo")
        self._provider, self._capture = provider, capture_content
        self._tracer = trace.get_tracer("docendo", release, tracer_provider, _SCHEMA)
        self._kind = trace.SpanKind.INTERNAL if provider == "docendo" else trace.SpanKind.CLIENT
        self._failed = trace.StatusCode.ERROR
        meter = metrics.get_meter("docendo", release, meter_provider, _SCHEMA)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "Time to generate first token for successful responses.",
            explicit_bucket_boundaries_advisory=_FIRST,
        )
        self._warned = False

    def __call__(self, event: EngineEvent) -> None:
        try:
            self._span(event)
            self._measure(event)
        except Exception:  # of an exporter or processor: telemetry must never hurt the engine
            if not self._warned:
                self._warned = True
                _log.warning("telemetry failed; further failures are not reported", exc_info=True)

    def _span(self, event: EngineEvent) -> None:
        attributes = {**self._common(event), **_request(event), **_response(event), **_own(event)}
        if self._capture:
            attributes.update(_content(event))
        span = self._tracer.start_span(
            f"{_operation(event)} {event.model}",
            kind=self._kind,
            attributes=attributes,
            start_time=_nanoseconds(event.submitted),
        )
        if event.status == "failed":
            span.set_status(self._failed, event.error)
        span.end(_nanoseconds(event.ended))

    def _measure(self, event: EngineEvent) -> None:
        common = self._common(event)
        failed = {"error.type": event.error} if event.status == "failed" else {}
        self._duration.record(event.ended - event.submitted, {**common, **failed})
        used = {"input": event.usage.prompt_tokens, "output": event.usage.generated_tokens}
        for kind, count in used.items():
            if count:
                self._tokens.record(count, {**common, "gen_ai.token.type": kind})
        if event.status == "finished" and event.usage.generated_tokens:
            self._first_token.record(event.first_token - event.submitted, common)

    def _common(self, event: EngineEvent) -> dict[str, Any]:
        return {
            "gen_ai.operation.name": _operation(event),
            "gen_ai.provider.name": self._provider,
            "gen_ai.request.model": event.model,
        }


def _operation(event: EngineEvent) -> str:
    if event.kind == "score":
        return "score"  # the conventions have no name for it
    if event.kind == "embed":
        return "embeddings"
    messages = isinstance(event.prompt, tuple) and event.prompt and not isinstance(event.prompt[0], int)
    return "chat" if messages else "text_completion"


def _request(event: EngineEvent) -> dict[str, Any]:
    if event.kind != "generate":
        return {}
    sampling = event.sampling
    found: dict[str, Any] = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": float(sampling.temperature),
        "gen_ai.request.top_p": float(sampling.top_p),
    }
    optional = {
        "gen_ai.request.choice.count": sampling.n if sampling.n > 1 else None,
        "gen_ai.request.top_k": sampling.top_k or None,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.stop_sequences": sampling.stop or None,
        "gen_ai.output.type": "json" if sampling.grammar and sampling.grammar.kind == "json_schema" else None,
    }
    return found | {name: value for name, value in optional.items() if value is not None}


def _response(event: EngineEvent) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.usage.input_tokens": event.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": event.usage.generated_tokens,
        "gen_ai.usage.cache_read.input_tokens": event.usage.cached_tokens,
    }
    if event.finish_reasons:
        found["gen_ai.response.finish_reasons"] = event.finish_reasons
    if event.status == "failed":
        found["error.type"] = event.error
    return found


def _own(event: EngineEvent) -> dict[str, Any]:
    """What the conventions have no name for. Who asked is left out where nobody said."""
    named = {**event.origin.to_json(), "adapter": event.adapter}
    found = {f"docendo.{name}": value for name, value in named.items() if value}
    return found | {
        "docendo.status": event.status,
        "docendo.flops": event.flops,
        "docendo.compute_seconds": event.seconds,
        "docendo.queue_seconds": event.started - event.submitted,
    }


def _content(event: EngineEvent) -> dict[str, Any]:
    """Prompt and completions in the conventions' shape, as JSON text. A prompt of token ids has no text."""
    messages: list[Mapping[str, Any]] = []
    if isinstance(event.prompt, str):
        messages = [{"role": "user", "parts": [_text(event.prompt)]}]
    elif _operation(event) == "chat":
        messages = [_message(message) for message in event.prompt if not isinstance(message, int)]
    answers = [
        {"role": "assistant", "parts": [_text(text)], "finish_reason": reason}
        for text, reason in zip(event.texts, event.finish_reasons, strict=False)
    ]
    found = {"gen_ai.input.messages": messages, "gen_ai.output.messages": answers}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in found.items() if value}


def _message(message: Message) -> dict[str, Any]:
    if message["role"] == "tool":
        answer = {"type": "tool_call_response", "response": message["content"]}
        return {"role": "tool", "parts": [{**answer, "id": message.get("tool_call_id")}]}
    parts: list[dict[str, Any]] = [_text(message["content"])] if message["content"] else []
    for call in message.get("tool_calls", ()):
        function = call.get("function", call)  # OpenAI's shape, or the short one of chat templates
        parts.append(
            {
                "type": "tool_call",
                "id": call.get("id"),
                "name": function.get("name", ""),
                "arguments": function.get("arguments"),
            }
        )
    return {"role": message["role"], "parts": parts}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _nanoseconds(seconds: float) -> int:
    # A float of this size times 1e9 would be off by hundreds of nanoseconds.
    return int(seconds) * 1_000_000_000 + round(seconds % 1 * 1e9)
