"""A graph that brings its own context: for callers that give none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from docendo import graphs
from docendo.agents import RunContext, ScriptedEngine, Student, Verifier
from docendo.errors import ConfigError
from docendo.evals import ExactScorer, evaluate, make_item
from docendo.memory import Database, TraceStore

ITEM = make_item("What is 20 + 22?", 42)


def build(**options: Any) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(lambda request: "42")
    graph = graphs.tutoring(
        student=Student(engine), tutor=None, teacher=None, verifier=Verifier(ExactScorer()), **options
    )
    return graph, engine


def test_without_it_a_graph_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"without a run context; .*graphs\.standalone"):
        build()[0].invoke({"item": ITEM.id})


def test_it_runs_with_invoke_and_ainvoke_and_streams() -> None:
    graph, _ = build()
    alone = graphs.standalone(graph, [ITEM])
    assert alone.invoke({"item": ITEM.id})["solved"]
    assert asyncio.run(alone.ainvoke({"item": ITEM.id}))["solved"]
    assert [list(step) for step in alone.stream({"item": ITEM.id})] == [["attempt"], ["grade"]]
    with pytest.raises(ConfigError, match="item 'other' is not part of this run"):
        alone.invoke({"item": "other"})


def test_a_thread_generates_once_and_another_one_anew(tmp_path: Path) -> None:
    graph, engine = build(checkpointer=InMemorySaver())
    path = tmp_path / "dev.db"
    alone = graphs.standalone(graph, [ITEM], database=path)
    for thread in ("a", "a", "b"):
        alone.invoke({"item": ITEM.id}, {"configurable": {"thread_id": thread}})
    assert len(engine.requests) == 2
    with Database.open(path) as database:
        assert [trace.run for trace in TraceStore(database).find()] == ["a", "b"]


def test_a_context_that_is_given_is_used(tmp_path: Path) -> None:
    graph, engine = build()
    alone = graphs.standalone(graph, [])
    context = RunContext.in_memory([ITEM])
    assert alone.invoke({"item": ITEM.id}, context=context)["solved"]
    assert len(context.traces.find()) == 1
    assert graphs.description(alone) == graphs.description(graph)
    with graphs.run(alone, [ITEM], name="run", folder=tmp_path, quiet=True) as finished:
        assert finished.outcomes[ITEM.id]["solved"]
    assert evaluate(alone, [ITEM], scorer=ExactScorer(), quiet=True).accuracy == 1.0
    assert engine.requests
