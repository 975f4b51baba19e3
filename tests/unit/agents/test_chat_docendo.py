"""`ChatDocendo`: what it asks of an engine, and what it makes of the answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage

from docendo.agents import ChatDocendo, Engine, ScriptedEngine
from docendo.errors import AdapterError, CapabilityError, ConfigError
from docendo.records import (
    Capabilities,
    Chunk,
    Completion,
    Feature,
    Grammar,
    Request,
    Result,
    SamplingParams,
    Usage,
)


def engine_without(*features: Feature, script: Any = ("yes",) * 9) -> ScriptedEngine:
    offered = ScriptedEngine([]).capabilities.features - set(features)
    return ScriptedEngine(script, capabilities=Capabilities(features=offered, max_length=100))


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def now() -> str:
    """Tells the time."""
    return "noon"


class Answer(pydantic.BaseModel):
    """An answer."""

    reasoning: str
    answer: int


ADD_CALL = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
ANSWER = '{"reasoning": "one and one", "answer": 2}'


def whole(chunks: Iterator[Any]) -> AIMessageChunk:
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    assert isinstance(first, AIMessageChunk)
    return first


# --- settings ---------------------------------------------------------------------------------------


def test_settings_of_a_call_go_before_fields_and_fields_before_sampling() -> None:
    engine = ScriptedEngine(["a"] * 3)
    model = ChatDocendo(
        engine=engine,
        sampling=SamplingParams(temperature=0.5, max_tokens=7, top_p=0.9, seed=1, stop=("s",)),
        max_tokens=8,
        seed=2,
        stop=["f"],
        timeout=30,
    )
    model.invoke("x")
    model.invoke("x", seed=3, stop=["c"], priority=-1, timeout=5, grammar=Grammar.regex("a"))
    ChatDocendo(engine=engine, temperature=0.25, priority=4, stop=[]).invoke("x")
    one, two, three = engine.requests
    assert one.sampling == SamplingParams(temperature=0.5, max_tokens=8, top_p=0.9, seed=2, stop=("f",))
    assert (one.priority, one.timeout) == (0, 30)
    assert two.sampling == one.sampling.replace(seed=3, stop=("c",), grammar=Grammar.regex("a"))
    assert (two.priority, two.timeout) == (-1, 5)
    assert three.sampling == SamplingParams(temperature=0.25)
    assert three.priority == 4


def test_the_ledger_knows_role_agent_and_run() -> None:
    engine = ScriptedEngine(["a", "b"])
    ChatDocendo(engine=engine, role="teacher", agent="ann", run="r1").invoke("x")
    ChatDocendo(engine=engine).invoke("x")
    assert [(r["role"], r["agent"]) for r in engine.ledger()] == [("chat", ""), ("teacher", "ann")]
    assert engine.requests[0].origin.run == "r1"


def test_a_name_that_is_not_known_is_an_error() -> None:
    engine = ScriptedEngine(["a"])
    with pytest.raises(ConfigError, match=r"no field temprature; expected .*temperature"):
        ChatDocendo(engine=engine, temprature=0.5)
    with pytest.raises(ConfigError, match=r"no setting maxtokens; expected .*max_tokens"):
        ChatDocendo(engine=engine).invoke("x", maxtokens=3)
    ChatDocendo(engine=engine, api_key="k", max_retries=1)  # LangChain's, without a meaning here
    assert not engine.requests


def test_what_the_engine_lacks_is_said_when_the_model_is_built() -> None:
    with pytest.raises(CapabilityError, match="ChatDocendo needs messages"):
        ChatDocendo(engine=engine_without("messages"))
    with pytest.raises(CapabilityError, match="ChatDocendo needs min_p, n"):
        ChatDocendo(
            engine=engine_without("n", "min_p"), sampling=SamplingParams(n=2, min_p=0.1, temperature=1)
        )
    with pytest.raises(CapabilityError, match="ChatDocendo needs adapters"):
        ChatDocendo(engine=engine_without("adapters"), adapter="x")
    with pytest.raises(ConfigError, match="the engine is a int"):
        ChatDocendo(engine=3)
    for build in (
        lambda model: model.with_structured_output(Answer, strict=True),
        lambda model: model.bind_tools([add], tool_choice="any", strict=True),
    ):
        with pytest.raises(CapabilityError, match="needs json_schema"):
            build(ChatDocendo(engine=engine_without("json_schema")))


def test_the_profile_tells_what_the_engine_offers() -> None:
    full, less = ChatDocendo(engine=ScriptedEngine([])), ChatDocendo(engine=engine_without("json_schema"))
    assert full.profile is not None
    assert less.profile is not None
    assert full.profile["structured_output"]
    assert "max_input_tokens" not in full.profile
    assert not less.profile["structured_output"]
    assert less.profile["max_input_tokens"] == 100


def test_an_adapter_answers_by_its_name(tmp_path: Path) -> None:
    engine = ScriptedEngine(["a"] * 5)
    sha256 = engine.load_adapter("tutor", tmp_path)
    tutor = ChatDocendo(engine=engine, adapter="tutor")
    base = ChatDocendo(engine=engine)
    for model, given, adapter in (
        (tutor, {}, "tutor"),
        (tutor, {"adapter": None}, None),
        (base, {"adapter": "tutor"}, "tutor"),
        (base, {"model": "tutor"}, "tutor"),
        (tutor, {"model": "scripted"}, None),
    ):
        metadata = model.invoke("x", **given).response_metadata
        assert engine.requests[-1].adapter == adapter
        assert metadata["model_name"] == (adapter or "scripted")
        assert metadata.get("adapter_sha256") == (sha256 if adapter else None)
    with pytest.raises(AdapterError, match="'nobody' is not loaded"):
        base.invoke("x", model="nobody")


def test_langchains_cache_does_not_mistake_a_swapped_adapter_for_the_old_one(tmp_path: Path) -> None:
    engine = ScriptedEngine(["old", "new"])
    model = ChatDocendo(engine=engine, cache=InMemoryCache())
    said = []
    for folder in ("one", "one", "two"):
        engine.load_adapter("tutor", tmp_path / folder)
        said.append(model.invoke("x", adapter="tutor").content)
    assert said == ["old", "old", "new"]


# --- answers ----------------------------------------------------------------------------------------

RESULT = Result(
    completions=(
        Completion(
            text="ab", token_ids=(5, 6), logprobs=(-0.5, -1.0), top_logprobs=(((5, -0.5),), ((7, -0.2),))
        ),
        Completion(text="c", token_ids=(8,), logprobs=(-2.0,), finish_reason="length"),
    ),
    usage=Usage(prompt_tokens=10, cached_tokens=4, generated_tokens=3),
)


def test_samples_are_generations_and_usage_counts_once() -> None:
    model = ChatDocendo(engine=ScriptedEngine([RESULT]), sampling=SamplingParams(n=2))
    (samples,) = model.generate([[HumanMessage("x")]]).generations
    first, second = (sample.message for sample in samples)  # type: ignore[union-attr]
    assert [sample.text for sample in samples] == ["ab", "c"]
    assert first.usage_metadata == {
        "input_tokens": 10,
        "output_tokens": 3,
        "total_tokens": 13,
        "input_token_details": {"cache_read": 4},
    }
    assert second.usage_metadata is None
    assert [m.response_metadata["finish_reason"] for m in (first, second)] == ["stop", "length"]


def test_logprobs_come_when_they_are_asked_for() -> None:
    model = ChatDocendo(engine=ScriptedEngine([RESULT] * 3))
    assert "logprobs" not in model.invoke("x").response_metadata
    content = model.invoke("x", logprobs=True).response_metadata["logprobs"]["content"]
    assert content == [
        {"token_id": 5, "logprob": -0.5, "top_logprobs": [{"token_id": 5, "logprob": -0.5}]},
        {"token_id": 6, "logprob": -1.0, "top_logprobs": [{"token_id": 7, "logprob": -0.2}]},
    ]
    one = RESULT.replace(completions=RESULT.completions[:1])
    streamed = whole(ChatDocendo(engine=ScriptedEngine([one]), logprobs=True).stream("x"))
    assert [entry["token_id"] for entry in streamed.response_metadata["logprobs"]["content"]] == [5, 6]


def test_a_stream_ends_with_usage_and_reason_and_says_the_same() -> None:
    cut = Result(
        completions=(
            Completion(
                text="one two three", token_ids=(1, 2, 3), logprobs=(-1, -1, -1), finish_reason="length"
            ),
        ),
        usage=Usage(prompt_tokens=10, cached_tokens=4, generated_tokens=3),
    )
    model = ChatDocendo(engine=ScriptedEngine([cut] * 2))
    message, chunks = model.invoke("x"), list(model.stream("x"))
    assert [chunk.content for chunk in chunks] == ["one ", "two ", "three", ""]
    streamed = whole(iter(chunks))
    assert streamed.content == message.content
    assert streamed.usage_metadata == message.usage_metadata
    assert streamed.response_metadata == message.response_metadata
    assert message.response_metadata["finish_reason"] == "length"
    with pytest.raises(ConfigError, match="n is 2 in a stream"):
        next(model.stream("x", n=2))


async def test_async_says_the_same() -> None:
    model = ChatDocendo(engine=ScriptedEngine(["one two"] * 2))
    message = await model.ainvoke("x")
    chunks = [chunk async for chunk in model.astream("x")]
    assert message.content == "one two"
    assert [chunk.content for chunk in chunks] == ["one ", "two", ""]


def test_an_engine_that_cannot_stream_answers_in_one_piece() -> None:
    (chunk,) = ChatDocendo(engine=engine_without("stream")).stream("x")
    assert chunk.content == "yes"


async def test_a_reader_who_leaves_closes_the_engines_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    held: list[Any] = []  # or the garbage collector would close them
    engine = ScriptedEngine([])

    def pieces(request: Request) -> Iterator[Chunk]:
        try:
            while True:
                yield Chunk(text="more ")
        finally:
            closed.append("stream")

    async def apieces(request: Request) -> Any:
        try:
            while True:
                yield Chunk(text="more ")
        finally:
            closed.append("astream")

    def stream(request: Request) -> Any:
        held.append(pieces(request))
        return held[-1]

    def astream(request: Request) -> Any:
        held.append(apieces(request))
        return held[-1]

    monkeypatch.setattr(engine, "stream", stream)
    monkeypatch.setattr(engine, "astream", astream)
    model = ChatDocendo(engine=engine)
    reader = model.stream("x")
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    areader = model.astream("x")
    await anext(areader)
    await areader.aclose()  # type: ignore[attr-defined]
    assert closed == ["stream", "astream"]


def test_a_batch_is_asked_for_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda request: str(request.prompt[0]["content"]))  # type: ignore[index]
    answer, lock, running, peak = engine.generate, threading.Lock(), 0, 0
    together = threading.Barrier(40, timeout=20)

    def generate(request: Request) -> Result:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        if not together.broken:
            together.wait()  # is left only when all are there
        time.sleep(0.01)
        with lock:
            running -= 1
        return answer(request)

    monkeypatch.setattr(engine, "generate", generate)
    model = ChatDocendo(engine=engine)
    inputs = [f"q{number}" for number in range(40)]
    assert [message.content for message in model.batch(inputs)] == inputs
    assert peak == 40
    together.abort()
    peak = 0
    assert [message.content for message in model.batch(inputs, {"max_concurrency": 3})] == inputs
    assert 1 <= peak <= 3


def test_tokens_are_counted_by_the_engines_tokenizer(engine: Engine) -> None:
    model = ChatDocendo(engine=engine, max_tokens=1)
    chat = [SystemMessage("Be brief."), HumanMessage("Hé?")]
    assert model.get_num_tokens("Hé?") == 4
    usage = model.invoke(chat).usage_metadata
    assert usage is not None
    assert model.get_num_tokens_from_messages(chat) == usage["input_tokens"]
    assert model.get_num_tokens_from_messages(chat, tools=[add]) > usage["input_tokens"] + 100
    with pytest.raises(CapabilityError, match="no tokenizer at hand"):
        ChatDocendo(engine=ScriptedEngine([])).get_num_tokens("x")
    assert ChatDocendo(engine=ScriptedEngine([]), custom_get_token_ids=lambda _: [1]).get_num_tokens("x") == 1


# --- tools ------------------------------------------------------------------------------------------


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    engine = ScriptedEngine([f"Sure.\n<tool_call>{ADD_CALL}</tool_call>", "3"])
    model = ChatDocendo(engine=engine).bind_tools([add])
    question = HumanMessage("1 + 2?")
    message = model.invoke([question])
    assert message.content == "Sure.\n"
    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 1, "b": 2})
    assert len(call["id"] or "") == 9
    assert model.invoke([question, message, ToolMessage("3", tool_call_id=call["id"])]).content == "3"
    first, second = engine.requests
    assert [tool["function"]["name"] for tool in first.tools] == ["add"]
    assert [m["role"] for m in second.prompt] == ["user", "assistant", "tool"]  # type: ignore[index]
    assert second.prompt[1]["tool_calls"][0]["id"] == call["id"]  # type: ignore[index]
    assert first.sampling.grammar is None


def test_other_templates_get_tools_calls_and_answers_as_text() -> None:
    engine = engine_without("tools", script=[f"<tool_call>{ADD_CALL}</tool_call>", "3"])
    model = ChatDocendo(engine=engine).bind_tools([add])
    message = model.invoke([SystemMessage("Be brief."), HumanMessage("1 + 2?")])
    assert message.tool_calls[0]["args"] == {"a": 1, "b": 2}
    answer = ToolMessage("3", tool_call_id=message.tool_calls[0]["id"])
    model.invoke([HumanMessage("1 + 2?"), message, answer])
    first, second = engine.requests
    assert first.tools == second.tools == ()
    assert first.prompt[0]["content"].startswith("Be brief.\n\n# Tools")  # type: ignore[index]
    assert '"Adds two numbers."' in first.prompt[0]["content"]  # type: ignore[index]
    assert [m["role"] for m in second.prompt] == ["system", "user", "assistant", "user"]  # type: ignore[index]
    assert "tool_response" in second.prompt[-1]["content"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        (None, None),
        ("auto", None),
        (False, None),
        ("any", ["add", "now"]),
        ("required", ["add", "now"]),
        (True, ["add", "now"]),
        ("now", ["now"]),
        ({"type": "function", "function": {"name": "now"}}, ["now"]),
    ],
)
def test_a_forced_call_is_constrained_to_its_schema(choice: Any, forced: list[str] | None) -> None:
    engine = ScriptedEngine([ADD_CALL])
    message = ChatDocendo(engine=engine).bind_tools([add, now], tool_choice=choice).invoke("x")
    assert message.tool_calls  # bare JSON that names a tool is a call in any case
    request = engine.requests[0]
    grammar = request.sampling.grammar
    if forced is None:
        assert grammar is None
        assert len(request.tools) == 2
        return
    assert grammar is not None
    assert request.tools == ()  # the template would ask for another form than the grammar allows
    assert f"Call {' or '.join(forced)}. Answer with one" in request.prompt[0]["content"]  # type: ignore[index]
    schema = json.loads(grammar.spec)
    schemas = schema.get("anyOf", [schema])
    assert [part["properties"]["name"] for part in schemas] == [{"const": name} for name in forced]
    for part in schemas:
        assert list(part["properties"]) == part["required"] == ["name", "arguments"]
        assert part["additionalProperties"] is False
    if len(forced) == 2:
        assert list(schemas[0]["properties"]["arguments"]["properties"]) == ["a", "b"]


def test_a_choice_of_no_tool_hides_them_and_an_unknown_one_is_an_error() -> None:
    engine = ScriptedEngine([ADD_CALL])
    model = ChatDocendo(engine=engine)
    message = model.bind_tools([add], tool_choice="none").invoke("x")
    assert (message.content, message.tool_calls, engine.requests[0].tools) == (ADD_CALL, [], ())
    with pytest.raises(ConfigError, match=r"tool_choice is 'sub'; expected .*add"):
        model.bind_tools([add], tool_choice="sub")
    with pytest.raises(ConfigError, match="no tools are bound"):
        model.bind_tools([], tool_choice="any")


def test_without_a_grammar_a_forced_call_is_asked_for_in_words() -> None:
    engine = engine_without("tools", "json_schema", script=[ADD_CALL])
    message = ChatDocendo(engine=engine).bind_tools([add, now], tool_choice="add").invoke("x")
    assert message.tool_calls[0]["name"] == "add"
    assert "Call add. Answer with one JSON object" in engine.requests[0].prompt[0]["content"]  # type: ignore[index]
    assert engine.requests[0].sampling.grammar is None


@pytest.mark.parametrize("choice", [None, "any"])
def test_a_call_that_was_cut_off_is_never_a_call(choice: str | None) -> None:
    cut = ADD_CALL[:40] if choice else f"<tool_call>\n{ADD_CALL[:40]}"
    model = ChatDocendo(engine=ScriptedEngine([cut] * 2)).bind_tools([add], tool_choice=choice)
    for message in (model.invoke("x"), whole(model.stream("x"))):
        assert message.tool_calls == []
        (bad,) = message.invalid_tool_calls
        assert ADD_CALL[:40] in (bad["args"] or "")


def test_calls_in_a_stream_are_those_of_the_whole() -> None:
    text = f"Both.\n<tool_call>{ADD_CALL}</tool_call><tool_call>" + '{"name": "now"}</tool_call>'
    model = ChatDocendo(engine=ScriptedEngine([text] * 3)).bind_tools([add, now])
    message, streamed, again = model.invoke("x"), whole(model.stream("x")), model.invoke("x")
    assert [call["name"] for call in message.tool_calls] == ["add", "now"]
    assert streamed.content == message.content == "Both.\n"
    assert streamed.tool_calls == message.tool_calls == again.tool_calls  # ids as well


# --- structured output ------------------------------------------------------------------------------


def test_structured_output_is_constrained_in_the_order_of_its_fields() -> None:
    engine = ScriptedEngine([ANSWER])
    assert ChatDocendo(engine=engine).with_structured_output(Answer).invoke("1 + 1?") == Answer(
        reasoning="one and one", answer=2
    )
    request = engine.requests[0]
    assert request.sampling.grammar is not None
    schema = json.loads(request.sampling.grammar.spec)
    assert list(schema["properties"]) == ["reasoning", "answer"]
    assert schema["additionalProperties"] is False
    assert '"reasoning"' in request.prompt[0]["content"]  # type: ignore[index]


def test_structured_output_without_a_grammar_is_asked_for_and_parsed() -> None:
    engine = engine_without(
        "json_schema", script=[f"```json\n{ANSWER}\n```", "I do not know.", '{"answer": 2}']
    )
    model = ChatDocendo(engine=engine).with_structured_output(Answer)
    assert model.invoke("1 + 1?").answer == 2
    assert engine.requests[0].sampling.grammar is None
    for _ in range(2):
        with pytest.raises(OutputParserException):
            model.invoke("1 + 1?")


def test_an_answer_that_was_cut_off_is_no_answer() -> None:
    cut = Result(completions=(Completion(text=ANSWER[:-5], finish_reason="length"),))
    engine = ScriptedEngine([cut] * 4)
    schema = Answer.model_json_schema()
    model = ChatDocendo(engine=engine).with_structured_output(schema)
    with pytest.raises(OutputParserException, match="cut off at max_tokens"):
        model.invoke("x")
    with pytest.raises(OutputParserException, match="cut off at max_tokens"):
        list(model.stream("x"))
    raw = ChatDocendo(engine=engine).with_structured_output(schema, include_raw=True).invoke("x")
    assert isinstance(raw["raw"], AIMessage)
    assert raw["parsed"] is None
    assert "cut off" in str(raw["parsing_error"])


def test_a_streamed_answer_grows() -> None:
    schema = Answer.model_json_schema()
    model = ChatDocendo(engine=ScriptedEngine([ANSWER])).with_structured_output(schema)
    parts = list(model.stream("x"))
    assert parts[0] == {}
    assert parts[-1] == json.loads(ANSWER)
    assert len(parts) > 3


def test_the_methods_of_structured_output() -> None:
    engine = ScriptedEngine([json.dumps({"name": "Answer", "arguments": json.loads(ANSWER)}), "{}"])
    model = ChatDocendo(engine=engine)
    assert model.with_structured_output(Answer, method="function_calling").invoke("x").answer == 2
    assert model.with_structured_output(Answer.model_json_schema(), method="json_mode").invoke("x") == {}
    by_call, by_mode = (json.loads(request.sampling.grammar.spec) for request in engine.requests)  # type: ignore[union-attr]
    assert by_call["properties"]["name"] == {"const": "Answer"}
    assert by_mode == {"type": "object"}
    with pytest.raises(ConfigError, match="method is 'magic'"):
        model.with_structured_output(Answer, method="magic")


class Tree(pydantic.BaseModel):
    label: str
    children: list[Tree] = []


def test_recursive_schemas_keep_their_definitions_also_beside_tools() -> None:
    engine = ScriptedEngine(['{"label": "root", "children": [{"label": "leaf"}]}', ADD_CALL])
    model = ChatDocendo(engine=engine)
    assert model.with_structured_output(Tree).invoke("x").children[0].label == "leaf"
    form = {"type": "json_schema", "json_schema": {"schema": Tree.model_json_schema()}}
    message = model.bind_tools([add], response_format=form).invoke("x")
    assert message.tool_calls[0]["name"] == "add"
    alone, beside = (json.loads(request.sampling.grammar.spec) for request in engine.requests)  # type: ignore[union-attr]
    system = str(engine.requests[1].prompt[0]["content"])  # type: ignore[index]
    assert system.index("To call one, answer with one JSON") < system.index("Otherwise answer with one JSON")
    assert alone["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert alone["$defs"]["Tree"]["additionalProperties"] is False
    tree, call = beside["anyOf"]
    assert tree == {"$ref": "#/$defs/0.Tree"}
    assert beside["$defs"]["0.Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/0.Tree"}
    assert call["properties"]["name"] == {"const": "add"}


def test_a_form_of_its_own_and_a_grammar_exclude_each_other() -> None:
    model = ChatDocendo(engine=ScriptedEngine([]), sampling=SamplingParams(grammar=Grammar.regex("a")))
    with pytest.raises(ConfigError, match="a grammar is set as well"):
        model.with_structured_output(Answer).invoke("x")
    with pytest.raises(ConfigError, match="response_format is 'json'"):
        model.invoke("x", response_format="json")


# --- a real engine ----------------------------------------------------------------------------------


async def test_on_a_real_engine_stream_async_and_batch_say_the_same(
    make_engine: Callable[..., Engine],
) -> None:
    model = ChatDocendo(engine=make_engine(), max_tokens=24)
    message = model.invoke("Hello")
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 24
    assert whole(model.stream("Hello")).content == message.content
    assert whole(iter([chunk async for chunk in model.astream("Hello")])).content == message.content
    assert [m.content for m in model.batch(["Hello"] * 3)] == [message.content] * 3
    assert [m.content for m in await model.abatch(["Hello"] * 3)] == [message.content] * 3


def test_on_a_real_engine_a_forced_call_keeps_its_schema(make_engine: Callable[..., Engine]) -> None:
    schema = {
        "name": "pick",
        "description": "Picks.",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
            "required": ["colour", "sure"],
        },
    }
    model = ChatDocendo(engine=make_engine(), max_tokens=200)
    (call,) = model.bind_tools([schema], tool_choice="any", strict=True).invoke("Pick one.").tool_calls
    assert call["name"] == "pick"
    assert call["args"]["colour"] in ("red", "green")
    assert isinstance(call["args"]["sure"], bool)
