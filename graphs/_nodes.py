"""What graph builders share: nodes that work both ways, and the description a resumed run is checked by."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Protocol, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.config import get_config
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime

from docendo.agents import RunContext, Verdict
from docendo.checks import is_count
from docendo.errors import ConfigError
from docendo.graphs._standalone import KEY, Contexts
from docendo.records import Author, Item

State = TypeVar("State")
T = TypeVar("T")


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


class _Node(Runnable[Any, dict[str, Any]]):
    """A node for `invoke` and `ainvoke`.

    LangGraph takes a function of either kind, not of both. A `RunnableLambda` of both would add a traced run
    of its own inside the node's, which takes as long as the rest of the step.
    """

    def __init__(self, function: Callable[[Any, RunContext], Awaitable[dict[str, Any]]], name: str) -> None:
        self.function = function
        self.name = name

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """Runs the function to its end."""
        return blocking(self._run(input, _given() or _own()))

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Runs the function."""
        context = _given()
        if context is not None:
            return await self.function(input, context)
        # A server's event loop must not wait for a database.
        return await asyncio.to_thread(blocking, self._run(input, _own()))

    async def _run(self, state: Any, context: RunContext) -> dict[str, Any]:
        return await self.function(state, context)


def _given() -> RunContext | None:
    """The run context that the graph was invoked with, if any."""
    context = get_runtime(RunContext).context
    return context if isinstance(context, RunContext) else None


def _own() -> RunContext:
    """The context that a standalone graph has for the thread it was invoked in."""
    configurable = get_config().get("configurable", {})
    contexts = configurable.get(KEY)
    if not isinstance(contexts, Contexts):
        raise ConfigError(
            "the graph was invoked without a run context",
            remedy="use docendo.run(graph, items), pass context=RunContext.in_memory(items), or make it "
            "graphs.standalone(graph, items)",
        )
    return contexts.of(str(configurable.get("thread_id", "run")))


def require_agents(**agents: Any) -> None:
    """Refuses what cannot stand in a graph, when the graph is built.

    Raises:
        ConfigError: naming the argument.
    """
    for name, agent in agents.items():
        if not callable(getattr(agent, "describe", None)):
            raise ConfigError(f"{name} is {agent!r}", expected="an agent, or a verifier where one grades")


def require_keep(keep: object) -> None:
    """Refuses to keep less than one demonstration.

    Raises:
        ConfigError: if `keep` is not a whole number of at least 1.
    """
    if not is_count(keep) or keep < 1:
        raise ConfigError(f"keep is {keep!r}", expected="at least 1")


def node(
    function: Callable[[State, RunContext], Awaitable[dict[str, Any]]], name: str
) -> Runnable[Any, dict[str, Any]]:
    """Makes a node, for `invoke` and `ainvoke`, of an async function of state and run context."""
    return _Node(function, name)


def blocking(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, also where an event loop runs already, as in a notebook.

    Ctrl-C cancels the coroutine and waits until it has cleaned up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: Future[T] = Future()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def tracked() -> T:
        task = asyncio.current_task()
        if task is not None:
            started.set_result((asyncio.get_running_loop(), task))
        return await work

    def target() -> None:
        try:
            outcome.set_result(asyncio.run(tracked()))
        except BaseException as error:  # handed to the caller's thread below
            outcome.set_exception(error)

    # LangGraph keeps what a node may ask for in context variables.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), name="docendo-run")
    thread.start()
    try:
        # Not `thread.join`: until Python 3.13 an interrupted join takes the thread for finished.
        return outcome.result()
    except KeyboardInterrupt:
        loop, task = started.result()
        with contextlib.suppress(RuntimeError):  # it has ended at this very moment
            loop.call_soon_threadsafe(task.cancel)
        wait([outcome])
        raise
    finally:
        thread.join()


def finish(
    builder: StateGraph[Any, Any, Any, Any], name: str, config: dict[str, Any], **compile_options: Any
) -> Any:
    """Compiles a graph and attaches its name and JSON description as LangGraph metadata."""
    compiled: CompiledStateGraph[Any, Any, Any, Any] = builder.compile(name=name, **compile_options)
    return compiled.with_config(metadata={"docendo": {"graph": name, **config}})


def description(graph: Any) -> dict[str, Any]:
    """The JSON description of a graph: the one its builder attached, else its name and structure.

    Raises:
        ConfigError: if it is no compiled graph.
    """
    if not callable(getattr(graph, "get_graph", None)):
        raise ConfigError(f"the graph is {graph!r}", expected="a compiled LangGraph graph")
    attached = ((getattr(graph, "config", None) or {}).get("metadata") or {}).get("docendo")
    if attached:
        return dict(attached)
    drawn = graph.get_graph()
    edges = sorted(f"{e.source}->{e.target}" for e in drawn.edges)
    return {"graph": graph.get_name(), "nodes": sorted(drawn.nodes), "edges": edges}
