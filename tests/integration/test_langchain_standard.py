"""LangChain's standard tests on `ChatDocendo`: every one of them, unit and integration.

What they ask for by way of content (call this tool, answer in this form) an engine without a trained model
cannot know, so they run on several engines, and it counts which:

* `TestScripted...`: a script plays a model that does as it is told. It shows that requests, answers, chunks
  and messages are converted rightly, and nothing about a model. Once with an engine that shows tools and
  constrains answers itself, once with one that has neither, where the script has only the prompt to go by.
* `TestTinyEngine`: the real engine with random weights. Its text is noise, so what needs a tool to be called
  or a form to be kept is declared as not offered.
* `TestSmolLM2` (slow): the real engine with a real model. A grammar holds it to the form of answers and of
  calls that it is forced to make. What takes a larger model (to see by itself that a tool is called for, to
  write Japanese) is expected to fail.

No standard test is replaced; those that are skipped are so by the suite's own properties.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from docendo.agents import ChatDocendo, Engine, ScriptedEngine
from docendo.records import Capabilities, Feature, Request, SamplingParams

# Two standard tests use parts of LangChain that are in beta and say so.
pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")


# --- a script that does as it is told ---------------------------------------------------------------


def obedient(request: Request) -> str:
    """Answers in the form that is asked for, by grammar, tools or system message; else says hello."""
    *_, last = [message for message in request.prompt if isinstance(message, dict)]
    system = "".join(m["content"] for m in request.prompt if isinstance(m, dict) and m["role"] == "system")
    if request.sampling.grammar:
        return json.dumps(instance(json.loads(request.sampling.grammar.spec), last["content"]))
    tools = list(request.tools)
    if listed := re.search(r"<tools>\n(.*)\n</tools>", system, re.DOTALL):
        tools = [json.loads(line) for line in listed[1].splitlines()]
    if tools and "tool_response" not in last["content"] and last["role"] == "user":
        function = tools[0]["function"]
        if named := re.search(r"Call (\w+)\.", system):
            function = next(tool["function"] for tool in tools if tool["function"]["name"] == named[1])
        call = {
            "name": function["name"],
            "arguments": instance(function.get("parameters", {}), last["content"]),
        }
        bare = "Answer with one JSON object" in system
        text = json.dumps(call, ensure_ascii=False)
        return text if bare else f"<tool_call>\n{text}\n</tool_call>"
    if shown := re.search(r"fits this schema.*:\n(\{.*\})", system):
        return f"```json\n{json.dumps(instance(json.loads(shown[1]), last['content']))}\n```"
    if "JSON" in last["content"]:
        return json.dumps({"setup": "Why?", "punchline": "Because."})
    return "Hello, how do you do?"


def instance(schema: Mapping[str, Any], prompt: str) -> Any:
    """The plainest value that fits a schema; a text is what the prompt quotes, a number what it names."""
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], prompt)
    if schema.get("type") == "integer":
        return int(found[0]) if (found := re.search(r"\d+", prompt)) else 0
    if schema.get("type") == "string":
        return found[1] if (found := re.search(r"'(.+?)'", prompt)) else "Why?"
    if not schema.get("properties") and "JSON" in prompt:  # any object, which the prompt describes
        return {"setup": "Why?", "punchline": "Because."}
    return {name: instance(part, prompt) for name, part in schema.get("properties", {}).items()}


def script(*without: Feature) -> ScriptedEngine:
    engine = ScriptedEngine(obedient)
    features = engine.capabilities.features | {"tools", "json_schema", "stream", "adapters", "messages"}
    engine.capabilities = Capabilities(features=features - set(without))
    engine.load_adapter("other", Path("other"))
    return engine


# --- the suites -------------------------------------------------------------------------------------


class Declared:
    """What `ChatDocendo` offers on every engine; the rest of the suite's properties have fitting defaults."""

    engine: Any

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDocendo

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": self.engine}

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatDocendo(engine=self.engine, max_tokens=4)
        messages = [SystemMessage("You are a patient teacher. " * 10), HumanMessage("Hello")]
        model.invoke(messages)
        if not stream:
            return model.invoke(messages)
        first, *rest = model.stream(messages)
        for chunk in rest:
            first += chunk
        return first


class TestScriptedUnit(Declared, ChatModelUnitTests):
    engine = script()


class TestScriptedPlainUnit(Declared, ChatModelUnitTests):
    engine = script("tools")


class Obedient(Declared):
    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "other"


class TestScriptedIntegration(Obedient, ChatModelIntegrationTests):
    engine = script()


class TestScriptedByTools(TestScriptedIntegration):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestScriptedPlainIntegration(Obedient, ChatModelIntegrationTests):
    engine = script("tools", "json_schema")


@pytest.fixture(scope="module")
def tiny_engine(tiny_model_dir: Path) -> Iterator[Engine]:
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        yield engine


class TestTinyEngine(Declared, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _on_the_tiny_model(self, tiny_engine: Engine) -> None:
        self.engine = tiny_engine

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": self.engine, "max_tokens": 32}

    @property
    def supports_model_override(self) -> bool:
        return False

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False


@pytest.fixture(scope="module")
def smollm2_engine(smollm2: Path) -> Iterator[Engine]:
    # In float32, because what a model this small says may turn on the rounding of a machine.
    with Engine.load(smollm2, dtype="float32") as engine:
        yield engine


@pytest.mark.skipif(
    os.environ.get("DOCENDO_FAULTS") != "full", reason="takes minutes: DOCENDO_FAULTS=full asks for it"
)
class TestSmolLM2(Declared, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _on_smollm2(self, smollm2_engine: Engine) -> None:
        self.engine = smollm2_engine

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # Without the penalty it repeats itself inside a text until its tokens are used up.
        return {"engine": self.engine, "sampling": SamplingParams(max_tokens=80, repetition_penalty=1.1)}

    @property
    def supports_model_override(self) -> bool:
        return False

    @pytest.mark.xfail(reason="so small a model does not see by itself that a tool is called for")
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @pytest.mark.xfail(strict=False, reason="so small a model repeats itself in Japanese, and is cut off")
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:  # type: ignore[override]
        super().test_unicode_tool_call_integration(model)
