"""What every engine promises, whether it runs a model, asks a server, or plays a script.

A test needs certain features. Where an engine does not declare them, the test checks that it says so.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from docendo.agents import ChatDocendo, ChatModelEngine, Engine, EngineProtocol, OpenAIEngine, ScriptedEngine
from docendo.errors import (
    AdapterError,
    CapabilityError,
    ConfigError,
    DeadlineExceeded,
    DocendoError,
    EngineClosed,
)
from docendo.records import (
    Capabilities,
    EngineEvent,
    Feature,
    Grammar,
    Message,
    Origin,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
)

HELLO: Message = {"role": "user", "content": "What is the capital of France?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["a"],
    "additionalProperties": False,
}
LONG = 1200


@dataclass
class Subject:
    """An engine under test.

    `adapter` is the name of one that it has, or can load from `folder`; `shares_prompt` whether the samples
    of a request read the prompt once, and not once each.
    """

    engine: EngineProtocol
    adapter: str | None = None
    folder: Path | None = None
    is_model: bool = True
    shares_prompt: bool = True


KINDS = (
    "scripted",
    "chat model",
    "local",
    pytest.param("transformers", marks=pytest.mark.slow),
    pytest.param("llama.cpp", marks=pytest.mark.slow),
)


@pytest.fixture(params=KINDS)
def subject(
    request: pytest.FixtureRequest, tiny_model_dir: Path, tiny_adapter_dir: Path
) -> Iterator[Subject]:
    if request.param == "scripted":
        made = Subject(ScriptedEngine(play), "a", tiny_adapter_dir, is_model=False)
    elif request.param == "chat model":
        inner = Engine.load(tiny_model_dir, dtype="float32", device="cpu")
        engine = ChatModelEngine(ChatDocendo(engine=inner))
        close = engine.close

        def close_both() -> None:
            close()
            inner.close()  # which is not the chat model engine's to close

        engine.close = close_both  # type: ignore[method-assign]
        made = Subject(engine, shares_prompt=False)
    elif request.param == "local":
        made = Subject(
            Engine.load(tiny_model_dir, dtype="float32", device="cpu"),  # type: ignore[arg-type]
            "a",
            tiny_adapter_dir,
        )
    elif request.param == "transformers":
        address = request.getfixturevalue("transformers_server")
        other = request.getfixturevalue("other_model_dir")
        made = Subject(
            OpenAIEngine(
                f"{address}/v1", str(tiny_model_dir), server="transformers", adapters={"a": str(other)}
            ),
            "a",
        )
    else:
        address = request.getfixturevalue("llama_server")
        made = Subject(OpenAIEngine(f"{address}/v1", "smol", server="llama.cpp"))
    if made.folder and made.adapter and "adapters" in made.engine.capabilities.features:
        made.engine.load_adapter(made.adapter, made.folder)
    yield made
    made.engine.close()


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny model: a server that serves models by name serves adapters so as well."""
    from docendo.agents import tiny_model

    return tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


def play(request: Request) -> str | list[str]:
    """A script that answers as a model would: to the settings of the request, the same each time."""
    params = request.sampling
    if request.timeout is not None and request.timeout < 1:
        time.sleep(request.timeout + 0.01)
    if params.grammar:
        known = {"json_schema": '{"a": 1}', "regex": "7"}
        return known.get(params.grammar.kind) or str(json.loads(params.grammar.spec)[0])
    if params.greedy or params.top_k == 1:
        return f"one two three {request.adapter or 'base'}"
    return [f"draw {params.seed} {number}" for number in range(params.n)]


def ask(prompt: Any = (HELLO,), *, timeout: float | None = None, **settings: Any) -> Request:
    settings.setdefault("max_tokens", 8)
    return Request(prompt=prompt, sampling=SamplingParams(**settings), timeout=timeout)


def offers(subject: Subject, feature: Feature, call: Callable[[], object]) -> bool:
    """Whether an engine declares a feature; if not, `call` must raise the error that says so."""
    if feature in subject.engine.capabilities.features:
        return True
    with pytest.raises(CapabilityError, match=feature):
        call()
    return False


# --- interface ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Engine, OpenAIEngine, ScriptedEngine])
def test_signatures_are_those_of_the_protocol(kind: type) -> None:
    for name, method in vars(EngineProtocol).items():
        if name.startswith("_") or not callable(method):
            continue
        wanted = list(inspect.signature(method).parameters)
        assert list(inspect.signature(getattr(kind, name)).parameters) == wanted, name


def test_attributes(subject: Subject) -> None:
    engine = subject.engine
    assert isinstance(engine, EngineProtocol)
    assert engine.name
    assert len(engine.fingerprint) >= 16
    assert isinstance(engine.capabilities, Capabilities)
    assert engine.capabilities.features <= set(get_args(Feature))
    assert "messages" in engine.capabilities.features


def test_renders_messages_and_tools(subject: Subject) -> None:
    assert HELLO["content"] in subject.engine.render([HELLO])
    if offers(subject, "tools", lambda: subject.engine.render([HELLO], [TOOL])):
        assert HELLO["content"] in subject.engine.render([HELLO], [TOOL])


# --- generation --------------------------------------------------------------------------------------


def check(subject: Subject, request: Request, result: Result) -> None:
    """What holds for every result."""
    assert len(result.completions) == request.sampling.n
    assert result.model == subject.engine.fingerprint
    assert result.usage.prompt_tokens > 0
    assert 0 <= result.usage.cached_tokens <= result.usage.prompt_tokens
    assert 0 <= result.queued <= result.first_token <= result.latency
    assert result.seconds >= 0
    for completion in result.completions:
        if completion.logprobs:
            assert len(completion.logprobs) == len(completion.token_ids)
            assert all(logprob <= 1e-6 for logprob in completion.logprobs)
    if subject.is_model:
        limit = request.sampling.max_tokens * request.sampling.n
        assert 0 < result.usage.generated_tokens <= limit
        if all(c.finish_reason == "length" for c in result.completions):
            assert result.usage.generated_tokens == limit
    told = sum(len(completion.token_ids) for completion in result.completions)
    assert not told or told == result.usage.generated_tokens


@pytest.mark.parametrize("prompt", [(HELLO,), "The sky is"], ids=["messages", "text"])
async def test_greedy_text_is_the_same_however_it_is_asked_for(subject: Subject, prompt: Any) -> None:
    engine, request = subject.engine, ask(prompt)
    first = engine.generate(request)
    check(subject, request, first)
    assert first.adapter is None
    future = engine.submit(request)
    assert isinstance(future, Future)
    assert future.result(60).text == first.text
    assert (await engine.agenerate(request)).text == first.text
    many = await asyncio.gather(*(engine.agenerate(request) for _ in range(6)))
    assert [result.text for result in many] == [first.text] * 6


def test_token_ids_as_a_prompt(subject: Subject) -> None:
    request = ask((5, 6, 7))
    if offers(subject, "token_prompts", lambda: subject.engine.generate(request)):
        result = subject.engine.generate(request)
        check(subject, request, result)
        assert result.usage.prompt_tokens == 3


def test_samples(subject: Subject) -> None:
    request = ask(n=3, temperature=1.0, seed=4)
    if offers(subject, "n", lambda: subject.engine.generate(request)):
        result = subject.engine.generate(request)
        check(subject, request, result)
        alone = subject.engine.generate(ask(temperature=1.0, seed=4))
        read = 1 if subject.shares_prompt else 3
        assert result.usage.prompt_tokens == read * alone.usage.prompt_tokens
        assert len({completion.text for completion in result.completions}) > 1


def test_seeds(subject: Subject) -> None:
    if "seed" not in subject.engine.capabilities.features:
        assert subject.engine.capabilities.determinism == "none"
        return
    texts = {}
    for seed in range(5):
        result = subject.engine.generate(ask(temperature=1.0, seed=seed))
        assert result.seed == seed
        texts[seed] = result.text
    assert subject.engine.generate(ask(temperature=1.0, seed=3)).text == texts[3]
    assert len(set(texts.values())) > 1


def test_stop_strings_end_the_text_and_are_no_part_of_it(subject: Subject) -> None:
    engine = subject.engine
    whole = engine.generate(ask()).text
    stop = whole[2:4]
    result = engine.generate(ask(stop=("never to be seen", stop)))
    assert result.text == whole[: whole.index(stop)]
    assert result.completions[0].finish_reason == "stop"
    streamed = list(engine.stream(ask(stop=(stop,))))
    assert "".join(chunk.text for chunk in streamed) == result.text
    assert streamed[-1].finish_reason == "stop"


def test_the_end_is_told(subject: Subject) -> None:
    if subject.is_model:
        result = subject.engine.generate(ask(max_tokens=2))
        assert result.completions[0].finish_reason == "length"
        assert result.usage.generated_tokens == 2


@pytest.mark.parametrize(
    ("feature", "settings"),
    [
        ("top_k", {"top_k": 1}),
        ("min_p", {"min_p": 0.999}),
        ("repetition_penalty", {"repetition_penalty": 1.3}),
        ("stop_token_ids", {"stop_token_ids": (200,)}),
    ],
)
def test_sampling_settings(subject: Subject, feature: Feature, settings: dict[str, Any]) -> None:
    engine, request = subject.engine, ask(temperature=1.0, seed=1, **settings)
    if not offers(subject, feature, lambda: engine.generate(request)):
        return
    check(subject, request, engine.generate(request))
    greedy = engine.generate(ask()).text
    if feature == "top_k" or (feature == "min_p" and subject.is_model):
        assert engine.generate(request).text == greedy  # one token is left to choose from
    elif feature == "repetition_penalty" and subject.is_model:
        assert engine.generate(ask(repetition_penalty=5.0, max_tokens=24)).text != greedy


@pytest.mark.parametrize(
    ("grammar", "fits"),
    [
        (Grammar.choice(["north-east", "south"]), lambda text: text in ("north-east", "south")),
        (Grammar.json_schema(SCHEMA), lambda text: isinstance(json.loads(text)["a"], int)),
        (Grammar.regex("[0-9]{1,3}"), lambda text: re.fullmatch("[0-9]{1,3}", text)),
    ],
    ids=["choice", "json_schema", "regex"],
)
def test_grammars(subject: Subject, grammar: Grammar, fits: Callable[[str], object]) -> None:
    for prompt in ((HELLO,), "The answer is "):
        request = ask(prompt, grammar=grammar, max_tokens=64)

        def generate(request: Request = request) -> Result:
            return subject.engine.generate(request)

        if offers(subject, grammar.kind, generate):
            result = generate()
            assert result.completions[0].finish_reason == "stop"
            assert fits(result.text)


def test_alternatives(subject: Subject) -> None:
    request = ask(top_logprobs=3)
    if offers(subject, "top_logprobs", lambda: subject.engine.generate(request)):
        (completion,) = subject.engine.generate(request).completions
        assert len(completion.top_logprobs) == len(completion.token_ids)
        for token, logprob, position in zip(
            completion.token_ids, completion.logprobs, completion.top_logprobs, strict=True
        ):
            assert len(position) == 3
            assert position[0] == pytest.approx((token, logprob), abs=1e-3)  # greedy takes the likeliest
            assert list(position) == sorted(position, key=lambda pair: -pair[1])


def test_log_probabilities_of_the_prompt(subject: Subject) -> None:
    request = ask(prompt_logprobs=True)
    if offers(subject, "prompt_logprobs", lambda: subject.engine.generate(request)):
        result = subject.engine.generate(request)
        assert len(result.prompt_token_ids) == len(result.prompt_logprobs) == result.usage.prompt_tokens
        assert result.prompt_logprobs[0] is None
        assert all(logprob is not None and logprob <= 0 for logprob in result.prompt_logprobs[1:])


def test_tools(subject: Subject) -> None:
    request = ask().replace(tools=(TOOL,))
    if offers(subject, "tools", lambda: subject.engine.generate(request)):
        check(subject, request, subject.engine.generate(request))
        assert list(subject.engine.stream(request))[-1].finish_reason


# --- streams -----------------------------------------------------------------------------------------


async def test_a_stream_adds_up_to_the_whole(subject: Subject) -> None:
    engine, request = subject.engine, ask()
    if not offers(subject, "stream", lambda: list(engine.stream(request))):
        return
    whole = engine.generate(request)
    read = list(engine.stream(request))
    assert [chunk.usage is not None for chunk in read] == [False] * (len(read) - 1) + [True]
    used = read[-1].usage
    assert used
    assert used.prompt_tokens == whole.usage.prompt_tokens
    assert used.generated_tokens == whole.usage.generated_tokens
    for chunks in (read, [chunk async for chunk in engine.astream(request)]):
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert [bool(chunk.finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1].finish_reason == whole.completions[0].finish_reason
        ids = tuple(token for chunk in chunks for token in chunk.token_ids)
        assert ids == whole.completions[0].token_ids
        assert len(chunks) > 1


def test_a_stream_of_samples(subject: Subject) -> None:
    request = ask(n=2, temperature=1.0, seed=1)
    if offers(subject, "n", lambda: list(subject.engine.stream(request))):
        whole = subject.engine.generate(request)
        texts = ["", ""]
        ends = [0, 0]
        chunks = list(subject.engine.stream(request))
        assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        for chunk in chunks:
            texts[chunk.index] += chunk.text
            ends[chunk.index] += chunk.finish_reason is not None
        assert texts == [completion.text for completion in whole.completions]
        assert ends == [1, 1]


async def test_closing_a_stream_cancels_the_request(subject: Subject) -> None:
    engine = subject.engine
    seen: list[EngineEvent] = []
    engine.subscribe(seen.append)
    stream = engine.stream(ask(max_tokens=LONG))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    chunks = engine.astream(ask(max_tokens=LONG))
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(until, lambda: len(seen) == 2)
    if subject.is_model:
        assert [event.status for event in seen] == ["cancelled", "cancelled"]
    assert engine.generate(ask(max_tokens=2)).completions


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- time --------------------------------------------------------------------------------------------


async def test_cancelling(subject: Subject) -> None:
    engine = subject.engine
    seen: list[EngineEvent] = []
    engine.subscribe(seen.append)
    future = engine.submit(ask(max_tokens=LONG))
    assert future.cancel() == subject.is_model  # a script has answered by then
    task = asyncio.create_task(engine.agenerate(ask(max_tokens=LONG)))
    await asyncio.sleep(0.05)
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.generate(ask()).completions
    await asyncio.to_thread(until, lambda: len(seen) == 3)
    if subject.is_model:
        assert sorted(event.status for event in seen) == ["cancelled", "cancelled", "finished"]


def test_deadlines(subject: Subject) -> None:
    engine = subject.engine
    late = ask(max_tokens=LONG, timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        engine.generate(late)
    with pytest.raises(DeadlineExceeded):
        list(engine.stream(late))
    assert engine.generate(ask(timeout=60)).completions
    with pytest.raises(ConfigError, match="timeout"):
        ask(timeout=0)


# --- accounts ----------------------------------------------------------------------------------------


def test_ledger_and_events_count_what_results_say(subject: Subject) -> None:
    engine = subject.engine
    seen: list[EngineEvent] = []
    unsubscribe = engine.subscribe(seen.append)
    origins = [Origin(run="r", role="student", agent="ann"), Origin(run="r", role="teacher", agent="tom")]
    results = [engine.generate(ask().replace(origin=origins[at % 2])) for at in range(4)]
    list(engine.stream(ask().replace(origin=origins[0])))
    until(lambda: len(seen) == 5)
    unsubscribe()
    engine.generate(ask().replace(origin=origins[1]))
    assert len(seen) == 5
    rows = {row["role"]: row for row in engine.ledger()}
    assert {role: (row["agent"], row["calls"]) for role, row in rows.items()} == {
        "student": ("ann", 3),
        "teacher": ("tom", 3),
    }
    one = results[0].usage
    assert rows["student"]["prompt_tokens"] == 3 * one.prompt_tokens
    assert rows["student"]["generated_tokens"] == 3 * one.generated_tokens
    for event, result in zip(seen, results, strict=False):
        assert (event.kind, event.status, event.model) == ("generate", "finished", engine.name)
        assert event.usage == result.usage
        assert event.finish_reasons == tuple(c.finish_reason for c in result.completions)
        assert event.submitted <= event.started <= event.first_token <= event.ended
    assert [event.origin for event in seen[:2]] == origins


# --- adapters ----------------------------------------------------------------------------------------


def test_adapters(subject: Subject) -> None:
    engine = subject.engine
    assert engine.adapter_hash(None) is None
    if subject.adapter is None:
        with pytest.raises(CapabilityError, match="adapter"):
            engine.load_adapter("a", "somewhere")
        return
    name = subject.adapter
    assert engine.adapters() == {name: engine.adapter_hash(name)}
    assert re.fullmatch("[0-9a-f]{64}", engine.adapters()[name])
    result = engine.generate(ask().replace(adapter=name))
    assert result.adapter == engine.adapter_hash(name)
    assert result.text != engine.generate(ask()).text
    engine.drop_adapter(name)
    assert engine.adapters() == {}
    with pytest.raises(AdapterError):
        engine.generate(ask().replace(adapter=name))


def test_unknown_adapters(subject: Subject) -> None:
    engine, request = subject.engine, ask().replace(adapter="nobody")
    if offers(subject, "adapters", lambda: engine.generate(request)):
        with pytest.raises(AdapterError, match="'nobody' is not loaded"):
            engine.generate(request)
    for call in (lambda: engine.adapter_hash("nobody"), lambda: engine.drop_adapter("nobody")):
        with pytest.raises(AdapterError, match="'nobody' is not loaded"):
            call()


# --- scores ------------------------------------------------------------------------------------------


async def test_scores(subject: Subject) -> None:
    engine, request = subject.engine, ScoreRequest(prompt=(HELLO,), completion="Paris it is")
    if not offers(subject, "score", lambda: engine.score(request)):
        return
    scored = engine.score(request)
    assert len(scored.logprobs) == len(scored.token_ids) > 0
    assert scored.total == pytest.approx(sum(scored.logprobs))
    assert scored.total < 0
    assert scored.model == engine.fingerprint
    again = await engine.ascore(request)
    assert again.logprobs == pytest.approx(scored.logprobs, abs=1e-4)
    assert engine.submit_score(request).result(60).token_ids == scored.token_ids
    with pytest.raises(ConfigError, match="empty"):
        engine.score(request.replace(completion=""))


# --- mistakes and the end ----------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", (), ({"role": "user"},), ({"role": "user", "content": None},)])
def test_prompts_that_are_none(subject: Subject, prompt: Any) -> None:
    with pytest.raises(ConfigError):
        subject.engine.generate(ask(prompt))


def test_pausing(subject: Subject) -> None:
    engine = subject.engine

    def pause() -> None:
        with engine.paused():
            future = engine.submit(ask())
            time.sleep(0.05)
            assert future.done() != subject.is_model
        assert future.result(60).completions

    if offers(subject, "pause", pause):
        pause()


async def test_a_closed_engine_says_so(subject: Subject) -> None:
    engine = subject.engine
    before = {thread for thread in threading.enumerate() if thread.name.startswith("docendo")}
    engine.generate(ask(max_tokens=1))
    pending = [engine.submit(ask(max_tokens=LONG)) for _ in range(2)]
    engine.close()
    engine.close()
    for future in pending:
        assert isinstance(future.exception(30), EngineClosed) == subject.is_model
    score = ScoreRequest(prompt="a", completion="b")
    calls: list[Callable[[], object]] = [
        lambda: engine.submit(ask()),
        lambda: engine.generate(ask()),
        lambda: list(engine.stream(ask())),
    ]
    if "score" in engine.capabilities.features:
        calls.append(lambda: engine.score(score))
    for call in calls:
        with pytest.raises(EngineClosed):
            call()
    with pytest.raises(EngineClosed):
        await engine.agenerate(ask())
    with pytest.raises(EngineClosed):
        await anext(engine.astream(ask()))
    assert not any(thread.is_alive() for thread in before)


def test_errors_are_one_line(subject: Subject) -> None:
    for request in (ask(""), ask().replace(adapter="nobody")):
        with pytest.raises(DocendoError) as caught:
            subject.engine.generate(request)
        assert "\n" not in str(caught.value)
