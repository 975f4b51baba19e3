"""The engine over a LangChain chat model: what reaches the model, and what comes back.

The chat model is mostly `ChatDocendo` over a `ScriptedEngine`, so that the script sees what arrived.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage

from docendo.agents import ChatDocendo, ChatModelEngine, EngineProtocol, ScriptedEngine, Teacher
from docendo.errors import (
    AdapterError,
    CapabilityError,
    ConfigError,
    DeadlineExceeded,
    EngineClosed,
    InfrastructureError,
    ModelFailure,
)
from docendo.records import (
    Chunk,
    EngineEvent,
    Grammar,
    Message,
    Origin,
    PublicItem,
    Request,
    SamplingParams,
    ScoreRequest,
    Usage,
)

CHAT: tuple[Message, ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1?", "name": "ann"},
)
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture
def wrap() -> Iterator[Callable[..., ChatModelEngine]]:
    """Makes engines, and closes them after the test."""
    made: list[ChatModelEngine] = []

    def make(chat_model: Any, **options: Any) -> ChatModelEngine:
        made.append(ChatModelEngine(chat_model, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


Wrap = Callable[..., ChatModelEngine]


def ask(prompt: Any = "1 + 1?", *, timeout: float | None = None, **settings: Any) -> Request:
    return Request(
        prompt=prompt,
        sampling=SamplingParams(**settings),
        origin=Origin(role="teacher", agent="t"),
        timeout=timeout,
    )


def test_it_has_the_protocols_interface(wrap: Wrap) -> None:
    assert isinstance(wrap(FakeListChatModel(responses=["a"])), EngineProtocol)
    for name, method in vars(EngineProtocol).items():
        if not name.startswith("_") and callable(method):
            wanted = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(ChatModelEngine, name)).parameters) == wanted, name


def test_messages_and_settings_reach_the_model(wrap: Wrap) -> None:
    inner = ScriptedEngine(["Two.", "2", "3"])
    engine = wrap(ChatDocendo(engine=inner, temperature=0.9))
    result = engine.generate(ask(CHAT, temperature=0.25, max_tokens=7, seed=3, stop=("\n",)))
    assert result.text == "Two."
    assert inner.requests[0].prompt == CHAT
    assert inner.requests[0].sampling == SamplingParams(temperature=0.25, max_tokens=7, seed=3, stop=("\n",))
    engine.generate(ask("1 + 1?"))
    assert inner.requests[1].prompt == ({"role": "user", "content": "1 + 1?"},)
    keeping = wrap(ChatDocendo(engine=inner, temperature=0.9), keep=("temperature", "seed"))
    keeping.generate(ask(temperature=0.25, max_tokens=7, seed=5))
    assert inner.requests[2].sampling == SamplingParams(temperature=0.9, max_tokens=7)
    assert "seed" not in keeping.capabilities.features


def test_samples_are_calls_with_seeds_of_their_own(wrap: Wrap) -> None:
    inner = ScriptedEngine(lambda request: f"seed {request.sampling.seed}")
    engine = wrap(ChatDocendo(engine=inner))
    result = engine.generate(ask(temperature=1.0, seed=2**62 + 5, n=3))
    assert [c.text for c in result.completions] == ["seed 5", "seed 6", "seed 7"]
    assert result.seed == 5
    assert result.usage == Usage(prompt_tokens=9, generated_tokens=6)  # each call has read the prompt


def test_usage_reasons_and_times_are_the_models(wrap: Wrap) -> None:
    counts = {
        "input_tokens": 9,
        "output_tokens": 2,
        "total_tokens": 11,
        "input_token_details": {"cache_read": 4},
    }
    answers = [
        AIMessage("a", usage_metadata=counts, response_metadata={"stop_reason": "max_tokens"}),  # type: ignore[arg-type]
        AIMessage("b"),
    ]
    engine = wrap(GenericFakeChatModel(messages=iter(answers)))
    first, second = engine.generate(ask()), engine.generate(ask())
    assert first.usage == Usage(prompt_tokens=9, cached_tokens=4, generated_tokens=2)
    assert first.completions[0].finish_reason == "length"
    assert second.usage == Usage()
    assert second.completions[0].finish_reason == "stop"
    assert 0 <= first.queued <= first.first_token <= first.latency


def test_a_refusal_is_the_models_failure(wrap: Wrap) -> None:
    answer = AIMessage("", response_metadata={"finish_reason": "content_filter"})
    with pytest.raises(ModelFailure, match="refused to answer"):
        wrap(GenericFakeChatModel(messages=iter([answer]))).generate(ask())


def test_text_ends_at_a_stop_string_also_where_the_model_goes_on(wrap: Wrap) -> None:
    engine = wrap(FakeListChatModel(responses=["one END two"]))
    assert engine.generate(ask(stop=(" END",))).text == "one"
    chunks = list(engine.stream(ask(stop=(" END",))))
    assert "".join(chunk.text for chunk in chunks) == "one"


def test_tools_and_calls_go_there_and_back(wrap: Wrap) -> None:
    inner = ScriptedEngine([f"Well.\n{CALL}", CALL, CALL])
    engine = wrap(ChatDocendo(engine=inner))
    request = Request(prompt=CHAT, tools=(ADD,))
    assert engine.generate(request).text == f"Well.\n\n{CALL}"
    assert "".join(chunk.text for chunk in engine.stream(request)) == CALL
    assert inner.requests[0].tools[0]["function"]["name"] == "add"
    outer = ChatDocendo(engine=engine).bind_tools([ADD])
    assert outer.invoke("x").tool_calls[0]["args"] == {"a": 1}
    bad = AIMessage(
        "",
        invalid_tool_calls=[
            {"name": "add", "args": "{", "id": "1", "error": "?", "type": "invalid_tool_call"}
        ],
    )
    outer = ChatDocendo(engine=wrap(GenericFakeChatModel(messages=iter([bad])))).bind_tools([])
    assert "add" in str(outer.invoke("x").content)


def test_it_streams_samples_and_counts_them_at_the_end(wrap: Wrap) -> None:
    inner = ScriptedEngine(lambda request: f"one two {request.sampling.seed}")
    engine = wrap(ChatDocendo(engine=inner))
    chunks = list(engine.stream(ask(seed=0, n=2, temperature=1.0)))
    for sample in range(2):
        own = [chunk for chunk in chunks if chunk.index == sample]
        assert "".join(chunk.text for chunk in own) == f"one two {sample}"
        assert len(own) > 2
        assert [chunk.finish_reason for chunk in own] == [None] * (len(own) - 1) + ["stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == Usage(prompt_tokens=6, generated_tokens=6)
    uncounted = list(wrap(FakeListChatModel(responses=["ab"])).stream(ask()))
    assert uncounted[-1] == Chunk(text="", finish_reason="stop")


async def test_async_says_the_same(wrap: Wrap) -> None:
    engine = wrap(FakeListChatModel(responses=["ab"]))
    results = await asyncio.gather(*(engine.agenerate(ask()) for _ in range(20)))
    assert {result.text for result in results} == {"ab"}
    assert [chunk.text async for chunk in engine.astream(ask())] == ["a", "b", ""]


@pytest.mark.parametrize(
    ("request_", "lacking"),
    [
        (Request(prompt=(1, 2)), "token_prompts"),
        (Request(prompt="x", adapter="a"), "adapters"),
        (Request(prompt="x", tools=(ADD,)), "tools"),
        (ask(grammar=Grammar.regex("a")), "regex"),
        (ask(top_logprobs=2), "top_logprobs"),
        (ask(top_k=3, temperature=1.0), "top_k"),
        (ask(repetition_penalty=1.1), "repetition_penalty"),
    ],
)
async def test_what_the_model_lacks_is_refused_before_it_is_asked(
    wrap: Wrap, request_: Request, lacking: str
) -> None:
    engine = wrap(FakeListChatModel(responses=["a"]))
    for call in (engine.submit, engine.generate, lambda r: next(engine.stream(r))):
        with pytest.raises(CapabilityError, match=f"needs {lacking}"):
            call(request_)  # type: ignore[operator]
    with pytest.raises(CapabilityError, match=f"needs {lacking}"):
        await engine.agenerate(request_)
    assert not engine.ledger()


def test_what_no_chat_model_has_is_refused(wrap: Wrap, tmp_path: Path) -> None:
    engine = wrap(FakeListChatModel(responses=["a"]))
    score = ScoreRequest(prompt="a", completion="b")
    refused: tuple[Callable[[], Any], ...] = (
        lambda: engine.score(score),
        lambda: engine.submit_score(score),
        lambda: asyncio.run(engine.ascore(score)),
        lambda: engine.load_adapter("a", tmp_path),
        lambda: engine.paused().__enter__(),
    )
    for call in refused:
        with pytest.raises(CapabilityError, match=r"needs (score|adapters|pause), which the engine"):
            call()
    for call in (lambda: engine.drop_adapter("a"), lambda: engine.adapter_hash("a")):
        with pytest.raises(AdapterError, match="'a' is not loaded"):
            call()
    assert engine.adapters() == {}
    assert engine.adapter_hash(None) is None
    assert engine.capabilities.determinism == "none"
    assert engine.capabilities.features == {"messages", "n", "stream"}


def test_a_setting_that_cannot_be_used_is_named() -> None:
    model = FakeListChatModel(responses=["a"])
    for options, seen in (
        ({"keep": ["temprature"]}, "keep holds temprature"),
        ({"max_concurrency": 0}, "max_concurrency is 0"),
        ({"timeout": 0}, "timeout is 0"),
    ):
        with pytest.raises(ConfigError, match=seen):
            ChatModelEngine(model, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="before bind, with_config"):
        ChatModelEngine(model.bind(stop=["x"]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the prompt is empty"), ChatModelEngine(model) as engine:
        engine.submit(Request(prompt=""))


def test_a_failing_model_is_an_infrastructure_error_that_names_it(wrap: Wrap) -> None:
    def fail(_: Request) -> str:
        raise OSError("connection reset\nby peer")

    engine = wrap(ChatDocendo(engine=ScriptedEngine(fail)), name="hosted")
    with pytest.raises(InfrastructureError, match=r"'hosted' failed \(OSError\): connection reset$"):
        engine.generate(ask())
    with pytest.raises(InfrastructureError, match="hosted"):
        list(engine.stream(ask()))
    ending = wrap(ChatDocendo(engine=ScriptedEngine([])))
    with pytest.raises(ConfigError, match="the script has no more answers"):  # its own errors stay
        ending.generate(ask(n=3))


def test_ledger_and_events_count_what_was_asked(wrap: Wrap) -> None:
    engine = wrap(ChatDocendo(engine=ScriptedEngine(["one two", "three"])))
    events: list[EngineEvent] = []
    unsubscribe = engine.subscribe(events.append)
    engine.generate(ask(max_tokens=9))
    unsubscribe()
    engine.generate(ask())
    (event,) = events
    assert (event.status, event.model, event.origin.role) == ("finished", "scripted", "teacher")
    assert event.usage == Usage(prompt_tokens=3, generated_tokens=2)
    assert event.finish_reasons == ("stop",)
    assert event.sampling.max_tokens == 9
    assert event.submitted <= event.started <= event.first_token <= event.ended
    (row,) = engine.ledger()
    assert (row["role"], row["agent"], row["calls"], row["prompt_tokens"]) == ("teacher", "t", 2, 6)


SLOW = {"responses": ["late"], "sleep": 0.5}


def test_a_deadline_ends_a_slow_call(wrap: Wrap) -> None:
    engine = wrap(FakeListChatModel(**SLOW))
    events: list[EngineEvent] = []
    engine.subscribe(events.append)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        engine.generate(ask(timeout=0.05))
    assert time.monotonic() - start < 0.4
    assert [(event.status, event.error) for event in events] == [("failed", "DeadlineExceeded")]
    default = wrap(FakeListChatModel(**SLOW), timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        default.generate(ask())


def test_a_cancelled_request_is_not_answered(wrap: Wrap) -> None:
    inner = ScriptedEngine(["a", "b"])
    engine = wrap(ChatDocendo(engine=inner), max_concurrency=1)
    events: list[EngineEvent] = []
    engine.subscribe(events.append)
    with holding(engine) as release:
        waiting = engine.submit(ask("second"))
        assert waiting.cancel()
        release()
    assert engine.generate(ask("third")).text == "b"
    assert [r.prompt[0]["content"] for r in inner.requests] == ["first", "third"]  # type: ignore[index]
    assert [event.status for event in events] == ["cancelled", "finished", "finished"]


def test_a_reader_who_leaves_cancels(wrap: Wrap) -> None:
    engine = wrap(FakeListChatModel(responses=["a" * 1000], sleep=0.01))
    events: list[EngineEvent] = []
    ended = threading.Event()
    engine.subscribe(lambda event: (events.append(event), ended.set()))  # type: ignore[func-returns-value]
    reader = engine.stream(ask())
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    assert ended.wait(5)
    assert [event.status for event in events] == ["cancelled"]


class holding:
    """Keeps the engine's event loop busy with the request "first" until it is released."""

    def __init__(self, engine: ChatModelEngine) -> None:
        self.engine, self.gate = engine, threading.Event()

    def __enter__(self) -> Callable[[], None]:
        inner = self.engine.chat_model.engine  # type: ignore[attr-defined]
        answer, started = inner.agenerate, threading.Event()

        async def agenerate(request: Request) -> Any:
            started.set()
            while not self.gate.is_set():
                await asyncio.sleep(0.001)
            return await answer(request)

        inner.agenerate = agenerate
        self.first = self.engine.submit(ask("first"))
        assert started.wait(5)
        return self.gate.set

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.first.result(5)


def test_who_is_more_urgent_goes_first(wrap: Wrap) -> None:
    inner = ScriptedEngine(["a"] * 4)
    engine = wrap(ChatDocendo(engine=inner), max_concurrency=1)
    with holding(engine) as release:
        futures = [
            engine.submit(Request(prompt=name, priority=priority))
            for name, priority in (("later", 5), ("next", 0), ("soon", 1))
        ]
        release()
        for future in futures:
            future.result(5)
    order = [r.prompt[0]["content"] for r in inner.requests]  # type: ignore[index]
    assert order == ["first", "next", "soon", "later"]


def test_no_more_calls_run_than_allowed_however_many_samples(
    wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = ScriptedEngine(lambda _: "a")
    answer, running, peak = inner.agenerate, 0, 0

    async def agenerate(request: Request) -> Any:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.002)
        running -= 1
        return await answer(request)

    monkeypatch.setattr(inner, "agenerate", agenerate)
    engine = wrap(ChatDocendo(engine=inner), max_concurrency=3, max_waiting=2)
    futures = [engine.submit(ask(n=4, temperature=1.0)) for _ in range(10)]
    assert all(len(future.result(10).completions) == 4 for future in futures)
    assert peak == 3


def test_models_without_an_async_interface_run_side_by_side(wrap: Wrap) -> None:
    engine = wrap(FakeListChatModel(responses=["a"], sleep=0.3), max_concurrency=24)
    start = time.monotonic()
    futures = [engine.submit(ask()) for _ in range(24)]
    assert [future.result(10).text for future in futures] == ["a"] * 24
    assert time.monotonic() - start < 1.0  # with the event loop's own six threads on two cores: 1.2 s


def test_a_sample_that_fails_spares_the_others(wrap: Wrap) -> None:
    def fail(_: Request) -> str:
        raise OSError("no")

    inner = ScriptedEngine(fail)
    engine = wrap(ChatDocendo(engine=inner), max_concurrency=1)
    with pytest.raises(InfrastructureError):
        engine.generate(ask(n=5))
    with pytest.raises(InfrastructureError):
        engine.generate(ask("after"))
    assert len(inner.requests) == 2


def test_a_closed_engine_ends_what_runs_and_takes_nothing(wrap: Wrap) -> None:
    engine = wrap(FakeListChatModel(**SLOW))
    future = engine.submit(ask())
    engine.close()
    with pytest.raises(EngineClosed):
        future.result(1)
    with pytest.raises(EngineClosed):
        engine.generate(ask())
    engine.close()


def test_an_engine_that_nobody_holds_ends_its_thread() -> None:
    engine = ChatModelEngine(FakeListChatModel(responses=["a"]))
    engine.generate(ask())
    thread, gone = engine._dispatcher._thread, weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    thread.join(5)
    assert not thread.is_alive()


def test_names_and_fingerprints_tell_models_apart(wrap: Wrap) -> None:
    one = wrap(ChatDocendo(engine=ScriptedEngine([], name="one")))
    same = wrap(ChatDocendo(engine=ScriptedEngine([], name="one")))
    other = wrap(ChatDocendo(engine=ScriptedEngine([], name="two")))
    assert (one.name, other.name) == ("one", "two")
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert wrap(FakeListChatModel(responses=["a"])).name == "FakeListChatModel"
    assert wrap(FakeListChatModel(responses=["a"]), name="hosted").name == "hosted"


def test_it_can_be_the_teacher(wrap: Wrap) -> None:
    inner = ScriptedEngine(lambda _: "Carry the one.")
    teacher = Teacher(wrap(ChatDocendo(engine=inner)))
    assert teacher.reply(PublicItem(id="1", question="8 + 5?")) == "Carry the one."
    assert "8 + 5?" in str(inner.requests[0].prompt)
