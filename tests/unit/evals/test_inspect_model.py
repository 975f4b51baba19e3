"""inspect_ai's tasks on an engine: exact counts, each call its own settings, nothing waited for."""

import asyncio
import json
import sys
import threading
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from docendo import Request, SamplingParams
from docendo.agents import Engine, ScriptedEngine
from docendo.errors import AdapterError, CapabilityError, ConfigError, EngineClosed, MissingExtra

# What inspect_ai's own code warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROOT = Path(__file__).resolve().parents[3]
WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture(scope="module")
def engine(tiny_model_dir: Path) -> Iterator[Engine]:
    with Engine.load(tiny_model_dir, dtype="float32") as engine:
        yield engine


def model_of(engine: Any, **options: Any) -> Any:
    from docendo.evals import inspect_model

    return inspect_model(engine, **options)


async def ask(
    model: Any, text: str = "What is 2 + 2?", tools: Any = (), choice: Any = None, **config: Any
) -> Any:
    from inspect_ai.model import GenerateConfig

    return await model.generate(
        text, tools=list(tools), tool_choice=choice, config=GenerateConfig(**{"max_tokens": 8, **config})
    )


def weather() -> Any:
    from inspect_ai.tool import ToolInfo, ToolParam, ToolParams

    city = ToolParam(type="string", enum=["Oslo", "Rome"], description="Name of a city")
    parameters = ToolParams(properties={"city": city}, required=["city"])
    return ToolInfo(name="weather", description="Tells the weather.", parameters=parameters)


# --- a whole evaluation --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def log(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The log of a task of four questions, asked twice each."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    dataset = [Sample(input=f"What is {n}?", target="n") for n in range(4)]
    (log,) = eval(
        Task(name="letters", dataset=dataset, solver=generate(), scorer=includes()),
        model=model_of(engine),
        log_dir=str(tmp_path_factory.mktemp("logs")),
        display="none",
        epochs=2,
        max_tokens=12,
        temperature=1.0,
    )
    return log


def test_a_task_is_evaluated_with_exact_token_counts(log: Any, engine: Engine) -> None:
    assert log.status == "success"
    assert log.eval.model == f"docendo/{engine.name}"
    assert len(log.samples) == 8
    for sample in log.samples:
        prompt = engine.render([{"role": "user", "content": sample.input}])
        usage = sample.output.usage
        assert usage.input_tokens + usage.input_tokens_cache_read == len(engine.tokenizer(prompt).input_ids)
        assert usage.output_tokens <= 12
        assert usage.total_tokens == usage.input_tokens + usage.input_tokens_cache_read + usage.output_tokens
        assert sample.output.stop_reason in ("stop", "max_tokens")


def test_looking_a_model_up_loads_no_second_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from inspect_ai.model import get_model_info

    EntryPoint(name="docendo", value="docendo.evals.interop._inspect_registry", group="inspect_ai").load()
    loads: list[Any] = []
    monkeypatch.setattr(Engine, "load", lambda *args, **options: loads.append(args))
    assert get_model_info("docendo/model-that-is-in-no-table") is None
    assert loads == []


def test_epochs_are_samples_and_not_copies(log: Any) -> None:
    texts: dict[int, set[str]] = {}
    for sample in log.samples:
        texts.setdefault(sample.id, set()).add(sample.output.completion)
    assert any(len(found) == 2 for found in texts.values())


def test_the_log_can_be_read_as_an_evaluation(log: Any) -> None:
    from docendo.evals import load_result

    result = load_result(log.location)
    assert [record.item for record in result.records] == [f"letters:{n}" for n in range(1, 5)]
    assert all(len(record.samples) == 2 for record in result.records)
    rights = [sample.scores["includes"].value == "C" for sample in log.samples if sample.epoch == 2]
    assert load_result(log.location, epoch=2).correct == sum(rights)
    assert result.usage.generated_tokens == sum(s.output.usage.output_tokens for s in log.samples)
    assert result.sampling["temperature"] == 1.0


# --- one call ------------------------------------------------------------------------------------


async def test_calls_at_once_keep_their_own_settings(engine: Engine) -> None:
    model = model_of(engine)
    calls = [
        {"temperature": 1.0, "seed": 1},
        {"temperature": 1.0, "seed": 2, "max_tokens": 5},
        {"temperature": 1.3, "seed": 1, "top_k": 5},
        {"temperature": 1.0, "seed": 3, "top_p": 0.5},
        {},
        {"stop_seqs": ["n"], "temperature": 1.0, "seed": 1, "max_tokens": 40},
    ]
    together = await asyncio.gather(*(ask(model, **call) for call in calls))
    alone = [await ask(model, **call) for call in calls]
    assert [one.completion for one in together] == [one.completion for one in alone]
    assert len({one.completion for one in together}) > 3
    assert together[1].usage.output_tokens <= 5
    assert "n" not in together[5].completion
    assert together[0].metadata["seed"] == 1


async def test_without_a_temperature_decoding_is_greedy(engine: Engine) -> None:
    found = await ask(model_of(engine))
    greedy = engine.generate(
        Request(
            prompt=({"role": "user", "content": "What is 2 + 2?"},), sampling=SamplingParams(max_tokens=8)
        )
    )
    assert found.completion == greedy.text


async def test_choices_share_a_prompt_and_tell_log_probabilities(engine: Engine) -> None:
    found = await ask(
        model_of(engine),
        temperature=1.0,
        seed=4,
        num_choices=3,
        logprobs=True,
        top_logprobs=2,
        prompt_logprobs=1,
    )
    assert len({choice.message.text for choice in found.choices}) > 1
    assert found.usage.output_tokens == sum(len(choice.logprobs.content) for choice in found.choices)
    first = found.choices[0].logprobs.content[0]
    assert first.logprob < 0
    assert [one.logprob for one in first.top_logprobs] == sorted(
        (one.logprob for one in first.top_logprobs), reverse=True
    )
    usage = found.usage
    assert len(found.choices[0].prompt_logprobs.content) == usage.total_tokens - usage.output_tokens - 1


async def test_a_form_of_the_answer_is_kept_by_a_grammar(engine: Engine) -> None:
    from inspect_ai.model import ResponseSchema
    from inspect_ai.util import json_schema

    form = ResponseSchema(name="answer", json_schema=json_schema(bool))
    found = await ask(model_of(engine), response_schema=form, max_tokens=20)
    assert isinstance(json.loads(found.completion), bool)


async def test_tools_are_shown_and_calls_are_read() -> None:
    engine = ScriptedEngine([f"Let me see.{WEATHER}", "It is {bad"])
    found = await ask(model_of(engine), tools=[weather()])
    (call,) = found.message.tool_calls
    assert (call.function, call.arguments) == ("weather", {"city": "Oslo"})
    assert (found.message.text, found.stop_reason) == ("Let me see.", "tool_calls")
    assert "weather" in str(engine.requests[0].tools or engine.requests[0].prompt)
    said = await ask(model_of(engine), tools=[weather()])
    assert said.message.tool_calls is None
    assert said.stop_reason == "stop"


async def test_a_call_that_cannot_be_read_says_so() -> None:
    found = await ask(model_of(ScriptedEngine(["<tool_call>{broken</tool_call>"])), tools=[weather()])
    (call,) = found.message.tool_calls
    assert "not JSON" in call.parse_error


async def test_a_forced_call_is_held_to_the_tool(engine: Engine) -> None:
    from inspect_ai.tool import ToolFunction

    found = await ask(
        model_of(engine),
        tools=[weather()],
        choice=ToolFunction(name="weather"),
        max_tokens=300,
        temperature=1.0,
        seed=0,
    )
    (call,) = found.message.tool_calls
    assert (call.function, call.parse_error) == ("weather", None)
    assert call.arguments["city"] in ("Oslo", "Rome")


async def test_tool_turns_become_turns_of_the_chat(engine: Engine) -> None:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ChatMessageUser, ContentText
    from inspect_ai.tool import ToolCall

    from docendo.evals.interop._inspect_messages import to_messages

    call = ToolCall(id="1", function="weather", arguments={"city": "Oslo"})
    chat = [
        ChatMessageUser(content=[ContentText(text="Is it"), ContentText(text="raining?")]),
        ChatMessageAssistant(content="", tool_calls=[call]),
        ChatMessageTool(content="rain", tool_call_id="1", function="weather"),
    ]
    user, assistant, tool = to_messages(chat)
    assert user["content"] == "Is it\nraining?"
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert (tool["role"], tool["tool_call_id"], tool["content"]) == ("tool", "1", "rain")
    model = model_of(engine)
    assert await model.count_tokens(chat[:1]) == len(
        engine.tokenizer(engine.render([{"role": "user", "content": "Is it\nraining?"}])).input_ids
    )


async def test_a_cancelled_call_leaves_the_engine(engine: Engine) -> None:
    events: list[Any] = []
    stop = engine.subscribe(events.append)
    task = asyncio.create_task(ask(model_of(engine), "cancel me", max_tokens=1900))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ask(model_of(engine), max_tokens=1)  # the engine goes on
    stop()
    assert [event.status for event in events] == ["cancelled", "finished"]


async def test_a_prompt_that_is_too_long_ends_as_model_length(engine: Engine) -> None:
    found = await ask(model_of(engine), "x" * 3000)
    assert found.stop_reason == "model_length"
    assert "more than the model takes" in found.error
    assert (await ask(model_of(engine), "x" * 2000, max_tokens=2048)).usage.total_tokens <= 2048


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"frequency_penalty": 1.0}, "frequency_penalty is 1.0; expected nothing"),
        ({"prompt_logprobs": 5}, "prompt_logprobs is 5; expected 1"),
        ({"top_p": 3.0, "temperature": 1.0}, "top_p is 3.0"),
    ],
)
async def test_settings_that_cannot_be_honoured_are_refused(
    engine: Engine, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await ask(model_of(engine), **config)


async def test_pictures_are_refused(engine: Engine) -> None:
    from inspect_ai.model import ChatMessageUser, ContentImage

    picture = "data:image/png;base64,iVBORw0KGgo="
    with pytest.raises(CapabilityError, match="message 0 holds a content block of type 'image'"):
        await model_of(engine).generate([ChatMessageUser(content=[ContentImage(image=picture)])])


# --- the provider --------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the repository")
def test_the_entry_point_brings_the_provider(tiny_model_dir: Path) -> None:
    from inspect_ai.model import get_model

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, value in project["entry-points"]["inspect_ai"].items():
        EntryPoint(name=name, value=value, group="inspect_ai").load()
    with get_model(f"docendo/{tiny_model_dir}", memoize=False) as model:
        engine = model.api.engine
        assert asyncio.run(model.api.tokenize("abc")) == engine.tokenizer("abc").input_ids
        assert model.config.max_connections == 128
    with pytest.raises(EngineClosed):
        engine.submit(Request(prompt="a"))
    running = set(threading.enumerate())
    with pytest.raises(AdapterError):
        get_model(f"docendo/{tiny_model_dir}", memoize=False, adapter="no/such/folder")
    assert set(threading.enumerate()) <= running  # the engine was closed
    with pytest.raises(ConfigError, match="base_url"):
        get_model(f"docendo/{tiny_model_dir}", memoize=False, base_url="http://127.0.0.1")


def test_an_engine_of_the_callers_stays_open(engine: Engine) -> None:
    with model_of(engine):
        pass
    assert engine.submit(Request(prompt="a")).result().completions


def test_without_inspect_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import docendo.evals

    monkeypatch.setitem(sys.modules, "inspect_ai.model", None)
    for name in ("_inspect_model", "_inspect_messages"):
        monkeypatch.delitem(sys.modules, f"docendo.evals.interop.{name}", raising=False)
    with pytest.raises(MissingExtra, match=r"'inspect_ai' is not installed; .*docendo\[inspect\]"):
        _ = docendo.evals.inspect_model
