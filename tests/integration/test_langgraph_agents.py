"""Agents and chains of LangChain and LangGraph on `ChatDocendo`.

A script plays the model where a tool has to be called: a tiny or small model would not do so by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from docendo.agents import ChatDocendo, Engine, ScriptedEngine
from docendo.records import EngineEvent, Request

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 19, "b": 23}}\n</tool_call>'


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def calculate(request: Request) -> str:
    """Calls the tool, then says what it answered."""
    last: Any = request.prompt[-1]
    if last["role"] == "tool":
        return f"The sum is {last['content']}."
    return f"I will add them.\n{CALL}"


def roles(state: dict[str, Any]) -> list[str]:
    return [message.type for message in state["messages"]]


def test_a_prebuilt_agent_calls_its_tool_and_answers() -> None:
    engine = ScriptedEngine(calculate)
    agent = create_agent(ChatDocendo(engine=engine), [add], system_prompt="Use tools.")
    state = agent.invoke({"messages": [HumanMessage("19 + 23?")]})
    assert roles(state) == ["human", "ai", "tool", "ai"]
    call, answer, said = state["messages"][1:]
    assert isinstance(call, AIMessage)
    assert isinstance(answer, ToolMessage)
    assert (call.tool_calls[0]["args"], answer.content) == ({"a": 19, "b": 23}, "42")
    assert answer.tool_call_id == call.tool_calls[0]["id"]
    assert said.content == "The sum is 42."
    assert [m["role"] for m in engine.requests[1].prompt] == ["system", "user", "assistant", "tool"]  # type: ignore[index]


async def test_a_prebuilt_agent_streams_its_tokens() -> None:
    agent = create_agent(ChatDocendo(engine=ScriptedEngine(calculate)), [add])
    said: list[str] = []
    calls: list[Any] = []
    async for message, metadata in agent.astream(
        {"messages": [HumanMessage("19 + 23?")]}, stream_mode="messages"
    ):
        if isinstance(message, AIMessageChunk):
            assert metadata["langgraph_node"] == "model"
            said.append(str(message.text))
            calls += message.tool_call_chunks
    assert "".join(said) == "I will add them.\nThe sum is 42."
    assert len([piece for piece in said if piece]) > 5
    assert [call["name"] for call in calls] == ["add"]


class Sum(pydantic.BaseModel):
    """A sum."""

    value: int


def test_a_prebuilt_agent_answers_in_a_given_form() -> None:
    def answer(request: Request) -> str:
        last: Any = request.prompt[-1]
        return '{"value": 42}' if last["role"] == "tool" else CALL

    engine = ScriptedEngine(answer)
    agent = create_agent(ChatDocendo(engine=engine), [add], response_format=Sum)
    state = agent.invoke({"messages": [HumanMessage("19 + 23?")]})
    assert state["structured_response"] == Sum(value=42)
    # The profile says that the engine constrains, so the agent leaves the form to it and makes no tool of it.
    assert all(request.sampling.grammar for request in engine.requests)
    assert roles(state) == ["human", "ai", "tool", "ai"]


def test_a_graph_of_ones_own_keeps_its_thread_and_its_node_in_the_ledger() -> None:
    engine = ScriptedEngine(calculate)
    model = ChatDocendo(engine=engine, role="student").bind_tools([add])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_node("tools", ToolNode([add]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", tools_condition)
    builder.add_edge("tools", "think")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    for turn in (1, 2):
        state = graph.invoke({"messages": [HumanMessage("19 + 23?")]}, config)
        assert state["messages"][-1].content == "The sum is 42."
        assert roles(state) == ["human", "ai", "tool", "ai"] * turn
    ids = [call["id"] for m in state["messages"] if isinstance(m, AIMessage) for call in m.tool_calls]
    assert len(set(ids)) == 2
    assert {request.origin.node for request in engine.requests} == {"think"}
    assert [(row["role"], row["calls"]) for row in engine.ledger()] == [("student", 4)]


@pytest.fixture(scope="module")
def tiny_engine(tiny_model_dir: Path) -> Iterator[Engine]:
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        yield engine


async def test_a_chain_is_batched_by_the_engine(tiny_engine: Engine) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])
    chain = prompt | ChatDocendo(engine=tiny_engine, max_tokens=16, role="chain") | StrOutputParser()
    inputs = [{"question": f"What is {number} + {number}?"} for number in range(12)]
    one_by_one = [chain.invoke(item) for item in inputs]
    assert chain.batch(inputs) == one_by_one
    events: list[EngineEvent] = []
    unsubscribe = tiny_engine.subscribe(events.append)
    with tiny_engine.paused():
        batch = asyncio.create_task(chain.abatch(inputs))
        await asyncio.sleep(0.5)  # time to submit them all
    assert await batch == one_by_one
    unsubscribe()
    assert max(event.started for event in events) < min(event.ended for event in events)
    assert "".join([piece async for piece in chain.astream(inputs[0])]) == one_by_one[0]
    (row,) = [row for row in tiny_engine.ledger() if row["role"] == "chain"]
    assert row["calls"] == 37
