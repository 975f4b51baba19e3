"""OpenTelemetry spans and metrics, made from an engine's events."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from docendo.agents import Engine, instrument
from docendo.errors import MissingExtra
from docendo.records import EngineEvent, Grammar, Message, Origin, Request, SamplingParams, Usage

EVENT = EngineEvent(
    kind="generate",
    status="finished",
    origin=Origin(run="r1", role="student", agent="ann", node="solve", item="i1"),
    model="tiny",
    adapter="sums",
    sampling=SamplingParams(max_tokens=64, temperature=0.5, top_k=5, seed=7, n=2, stop=("\n",)),
    usage=Usage(prompt_tokens=20, cached_tokens=16, generated_tokens=9),
    finish_reasons=("stop", "length"),
    submitted=1_700_000_000.25,
    started=1_700_000_000.5,
    first_token=1_700_000_001.0,
    ended=1_700_000_002.25,
    seconds=0.75,
    flops=1.5e9,
    prompt=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}),
    texts=("4", "Four"),
)


class Emitter:
    """The part of an engine that telemetry sees: it calls back, in the context of whoever submitted."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[EngineEvent], None]] = []

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def emit(self, event: EngineEvent) -> None:
        for callback in self.callbacks:
            contextvars.copy_context().run(callback, event)


class Recorder:
    """An instrumented engine, and what came out of it."""

    def __init__(self, **options: Any) -> None:
        self.engine, self.exporter, self.reader = Emitter(), InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.stop = instrument(
            self.engine,  # type: ignore[arg-type]
            tracer_provider=self.tracers,
            meter_provider=MeterProvider([self.reader]),
            **options,
        )

    def span(self, event: EngineEvent) -> ReadableSpan:
        self.exporter.clear()
        self.engine.emit(event)
        (span,) = self.exporter.get_finished_spans()
        return span

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for metric in found if metric.name == name for point in metric.data.data_points]


def test_a_generation_is_a_span_with_the_conventions_names() -> None:
    span = Recorder().span(EVENT)
    assert span.name == "chat tiny"
    assert span.kind is SpanKind.INTERNAL
    assert span.status.status_code is StatusCode.UNSET
    assert (span.start_time, span.end_time) == (1_700_000_000_250_000_000, 1_700_000_002_250_000_000)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "docendo",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": 5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stop_sequences": ("\n",),
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "docendo.run": "r1",
        "docendo.role": "student",
        "docendo.agent": "ann",
        "docendo.node": "solve",
        "docendo.item": "i1",
        "docendo.adapter": "sums",
        "docendo.status": "finished",
        "docendo.flops": 1.5e9,
        "docendo.compute_seconds": 0.75,
        "docendo.queue_seconds": 0.25,
    }


def test_what_was_not_set_is_not_recorded() -> None:
    sampling = SamplingParams(grammar=Grammar.json_schema({"type": "object"}), seed=0)
    event = EVENT.replace(sampling=sampling, origin=Origin(), adapter=None, prompt="2 + 2 =")
    span = Recorder().span(event)
    assert span.name == "text_completion tiny"
    names = set(span.attributes or {})
    assert not names & {
        "gen_ai.request.top_k",
        "gen_ai.request.choice.count",
        "gen_ai.request.stop_sequences",
    }
    assert not names & {"docendo.run", "docendo.role", "docendo.adapter"}
    assert (span.attributes or {})["gen_ai.output.type"] == "json"
    assert (span.attributes or {})["gen_ai.request.seed"] == 0


@pytest.mark.parametrize("prompt", [(), (1, 2, 3), ""])
def test_a_prompt_without_messages_is_a_text_completion(prompt: Any) -> None:
    span = Recorder(capture_content=True).span(EVENT.replace(prompt=prompt))
    assert span.name == "text_completion tiny"


def test_scoring_is_a_span_without_decoding_settings() -> None:
    event = EVENT.replace(
        kind="score", sampling=SamplingParams(), finish_reasons=(), usage=Usage(prompt_tokens=30), texts=()
    )
    span = Recorder().span(event)
    assert span.name == "score tiny"
    asked = {name for name in span.attributes or {} if name.startswith("gen_ai.request.")}
    assert asked == {"gen_ai.request.model"}
    assert (span.attributes or {})["gen_ai.usage.input_tokens"] == 30


def test_a_failed_request_is_an_error() -> None:
    recorder = Recorder()
    event = EVENT.replace(status="failed", error="DeadlineExceeded", finish_reasons=(), usage=Usage())
    span = recorder.span(event)
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "DeadlineExceeded"
    (duration,) = recorder.points("gen_ai.client.operation.duration")
    assert duration.attributes["error.type"] == "DeadlineExceeded"
    assert recorder.points("gen_ai.client.token.usage") == []
    assert recorder.points("gen_ai.server.time_to_first_token") == []


def test_a_cancelled_request_is_no_error_and_its_tokens_count() -> None:
    recorder = Recorder()
    span = recorder.span(EVENT.replace(status="cancelled", finish_reasons=(), first_token=EVENT.ended))
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["docendo.status"] == "cancelled"
    assert "error.type" not in (span.attributes or {})
    assert len(recorder.points("gen_ai.client.token.usage")) == 2
    assert recorder.points("gen_ai.server.time_to_first_token") == []


def test_metrics_add_up() -> None:
    recorder = Recorder()
    for _ in range(3):
        recorder.engine.emit(EVENT)
    tokens = {
        point.attributes["gen_ai.token.type"]: point for point in recorder.points("gen_ai.client.token.usage")
    }
    assert {kind: (point.count, point.sum) for kind, point in tokens.items()} == {
        "input": (3, 60),
        "output": (3, 27),
    }
    (duration,) = recorder.points("gen_ai.client.operation.duration")
    assert (duration.count, duration.sum) == (3, 6.0)
    (first,) = recorder.points("gen_ai.server.time_to_first_token")
    assert first.sum == 3 * 0.75
    assert dict(first.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "docendo",
        "gen_ai.request.model": "tiny",
    }
    assert tokens["input"].explicit_bounds[:4] == (1, 4, 16, 64)
    assert duration.explicit_bounds[-1] == 81.92
    assert len(first.explicit_bounds) == 16


def test_content_is_recorded_only_if_asked_for() -> None:
    plain = json.dumps(dict(Recorder().span(EVENT).attributes or {}))
    assert "Be brief" not in plain
    assert "Four" not in plain
    attributes = Recorder(capture_content=True).span(EVENT).attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "2 + 2?"}]},
    ]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "4"}], "finish_reason": "stop"},
        {"role": "assistant", "parts": [{"type": "text", "content": "Four"}], "finish_reason": "length"},
    ]


def test_tool_calls_in_content() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    prompt = (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    )
    attributes = Recorder(capture_content=True).span(EVENT.replace(prompt=prompt)).attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 2}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "4"}]},
    ]


def test_a_text_prompt_in_content() -> None:
    attributes = Recorder(capture_content=True).span(EVENT.replace(prompt="Größe?")).attributes or {}
    assert "Größe?" in str(attributes["gen_ai.input.messages"])


def test_a_span_belongs_to_the_span_that_submitted() -> None:
    recorder = Recorder()
    with recorder.tracers.get_tracer("app").start_as_current_span("node") as node:
        recorder.engine.emit(EVENT)
    child, parent = recorder.exporter.get_finished_spans()
    assert parent.name == "node"
    assert child.parent is not None
    assert child.parent.span_id == node.get_span_context().span_id


def test_a_server_is_called_as_a_client() -> None:
    span = Recorder(provider="openai").span(EVENT)
    assert span.kind is SpanKind.CLIENT
    assert (span.attributes or {})["gen_ai.provider.name"] == "openai"


def test_after_stopping_nothing_is_recorded() -> None:
    recorder = Recorder()
    recorder.stop()
    recorder.engine.emit(EVENT)
    assert recorder.exporter.get_finished_spans() == ()


def test_a_failing_processor_does_not_reach_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise OSError("disk full")

    recorder = Recorder()
    recorder.tracers.add_span_processor(Broken())
    with caplog.at_level(logging.WARNING):
        recorder.engine.emit(EVENT)
        recorder.engine.emit(EVENT)
    assert [record.name for record in caplog.records] == ["docendo.agents._telemetry"]


def test_without_a_set_up_nothing_happens() -> None:
    engine = Emitter()
    instrument(engine)  # type: ignore[arg-type]
    engine.emit(EVENT)


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtra, match=r"docendo\[otel\]"):
        instrument(Emitter())  # type: ignore[arg-type]


def test_spans_of_an_engine_are_children_of_where_the_request_was_made(tiny_model_dir: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Engine.load(tiny_model_dir, dtype="float32") as engine:
        instrument(engine, tracer_provider=provider, capture_content=True)
        with provider.get_tracer("test").start_as_current_span("node"):
            message: Message = {"role": "user", "content": "a question"}
            engine.generate(Request(prompt=(message,), sampling=SamplingParams(max_tokens=2)))
    spans = {span.name.split()[0]: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"chat", "node"}
    assert spans["chat"].parent.span_id == spans["node"].context.span_id
    assert "a question" in str(spans["chat"].attributes)
