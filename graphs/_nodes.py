"""What graph builders share: nodes that work both ways, and the description a resumed run is checked by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from langchain_core.runnables import RunnableLambda
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime

from docendo.agents import RunContext, Verdict
from docendo.errors import ConfigError
from docendo.records import Author, Item

State = TypeVar("State")


class Grader(Protocol):
    """What graphs need of a verifier: `Verifier` and `ModelVerifier` both have it."""

    sees_gold: bool

    @property
    def author(self) -> Author:
        """Who judges."""

    async def grade(self, context: RunContext, item: str, text: str) -> Verdict:
        """Judges an answer."""

    def leaks(self, item: Item, text: str) -> bool:
        """Whether a text gives the answer away."""

    def describe(self) -> dict[str, Any]:
        """The verifier as JSON."""


def node(
    function: Callable[[State, RunContext], Awaitable[dict[str, Any]]], name: str
) -> RunnableLambda[Any, Any]:
    """Makes a node, for `invoke` and `ainvoke`, of an async function of state and run context."""

    async def run(state: State) -> dict[str, Any]:
        context = get_runtime(RunContext).context
        if not isinstance(context, RunContext):
            raise ConfigError(
                "the graph was invoked without a run context",
                remedy="use docendo.run(graph, items), or pass context=RunContext.in_memory(items)",
            )
        return await function(state, context)

    def run_blocking(state: State) -> dict[str, Any]:
        return asyncio.run(run(state))

    return RunnableLambda(run_blocking, afunc=run, name=name)


def finish(
    builder: StateGraph[Any, Any, Any, Any], name: str, config: dict[str, Any], **compile_options: Any
) -> Any:
    """Compiles a graph and attaches its name and JSON description as LangGraph metadata."""
    compiled: CompiledStateGraph[Any, Any, Any, Any] = builder.compile(name=name, **compile_options)
    return compiled.with_config(metadata={"docendo": {"graph": name, **config}})


def description(graph: Any) -> dict[str, Any]:
    """The JSON description of a graph: the one its builder attached, else its name and structure."""
    attached = ((getattr(graph, "config", None) or {}).get("metadata") or {}).get("docendo")
    if attached:
        return dict(attached)
    drawn = graph.get_graph()
    edges = sorted(f"{e.source}->{e.target}" for e in drawn.edges)
    return {"graph": graph.get_name(), "nodes": sorted(drawn.nodes), "edges": edges}
