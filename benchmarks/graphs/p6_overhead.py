"""P6: five nodes in line, and a fan-out to 100, on an engine that does nothing; reference: bare LangGraph.

Both graphs have the same topology, the same saver and the same calls of the engine in their nodes. What
differs is docendo's part: `graphs.node`, the run context, and the metadata of a built graph. What
`RunContext.ask` adds to a call, the journal's and the trace's transaction, is reported beside it: bare
LangGraph has nothing to compare it with.
"""

import asyncio
import operator
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, TypedDict

from _harness import Bar, Options, Part, alternate, ratios, shown
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from docendo.agents import RunContext, ScriptedEngine, Student
from docendo.graphs import node
from docendo.graphs._nodes import finish
from docendo.memory import Database
from docendo.records import Completion, Gold, Item, PublicItem, Request, Result

ENGINE = ScriptedEngine(lambda _: ANSWER)
ANSWER = Result(completions=(Completion(text="yes", token_ids=(0,), logprobs=(-0.5,)),))
ASKED = Request(prompt="?")
ITEM = Item(public=PublicItem(id="item", question="?"), gold=Gold("yes"))


class State(TypedDict, total=False):
    """An item's id, and what was said about it."""

    item: str
    said: Annotated[list[str], operator.add]


async def bare(state: State) -> dict[str, Any]:
    return {"said": [(await ENGINE.agenerate(ASKED)).text]}


async def ours(state: State, context: RunContext) -> dict[str, Any]:
    return {"said": [(await ENGINE.agenerate(ASKED)).text]}


def build(shape: str, *, docendo: bool, saver: Any, width: int) -> Any:
    """The same graph in both ways."""
    builder = StateGraph(State, context_schema=RunContext) if docendo else StateGraph(State)
    names = ["work"] if shape == "fan-out" else [f"step{number}" for number in range(width)]
    for name in names:
        builder.add_node(name, node(ours, name) if docendo else bare)
    if shape == "fan-out":
        builder.add_conditional_edges(
            START, lambda state: [Send("work", {"item": state["item"]}) for _ in range(width)], ["work"]
        )
        builder.add_edge("work", END)
    else:
        for source, target in zip([START, *names], [*names, END], strict=True):
            builder.add_edge(source, target)
    if docendo:
        return finish(builder, shape, {}, checkpointer=saver)
    return builder.compile(checkpointer=saver)


async def measure_all(options: Options) -> Bar:
    """One event loop for all, because savers belong to theirs."""
    widths = {"line": 5, "fan-out": options.size(100, 10)}
    parts, taken, processor = [], {}, {}
    context = RunContext.in_memory([ITEM])
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for shape, width in widths.items():
            for saving in ("no saver", "memory", "SQLite"):
                costs, spent = await _alternate(options, stack, scratch, shape, width, saving, context)
                parts.append(
                    Part(
                        name=f"{'five nodes' if shape == 'line' else f'{width}-way fan-out'}, {saving}: "
                        "time over LangGraph's",
                        target=1.10,
                        at_most=True,
                        ratios=ratios(costs["docendo"], costs["reference"]),
                    )
                )
                taken[f"{shape}, {saving}"] = shown(costs, 5)
                processor[f"{shape}, {saving}"] = round(
                    statistics.median(ratios(spent["docendo"][1:], spent["reference"][1:])), 3
                )
        asked = {
            where: await _ask_microseconds(options, Database.open(target))
            for where, target in (("memory", "sqlite://"), ("file", scratch / "asked.db"))
        }
    return Bar(
        name="P6",
        parts=parts,
        detail={"seconds": taken, "processor_time_ratios": processor, "ask_microseconds": asked},
    )


async def _alternate(
    options: Options, stack: AsyncExitStack, scratch: Path, shape: str, width: int, saving: str, context: Any
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and processor seconds of both graphs."""
    repeats = options.size(20 if shape == "line" else 3, 1)
    graphs = {}
    spent: dict[str, list[float]] = {"docendo": [], "reference": []}
    for arm in ("docendo", "reference"):
        saver = None
        if saving == "memory":
            saver = InMemorySaver()
        elif saving == "SQLite":
            file = scratch / f"{shape}-{arm}.db"
            saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(file)))
        graphs[arm] = build(shape, docendo=arm == "docendo", saver=saver, width=width)

    async def run(arm: str, number: int) -> float:
        began, worked = time.perf_counter(), time.process_time()
        for repeat in range(repeats):
            config = {"configurable": {"thread_id": f"{number}-{repeat}"}}
            more = {"context": context} if arm == "docendo" else {}
            state = await graphs[arm].ainvoke({"item": "item", "said": []}, config, **more)
            if len(state["said"]) != width:
                raise SystemExit(f"the graph said {len(state['said'])} things instead of {width}")
        spent[arm].append(time.process_time() - worked)
        return (time.perf_counter() - began) / repeats

    arms = {arm: lambda number, arm=arm: run(arm, number) for arm in graphs}
    return await alternate_async(arms, options), spent


async def alternate_async(arms: dict[str, Any], options: Options) -> dict[str, list[float]]:
    """`alternate` for arms that are coroutines: it runs in a thread and hands them to this loop."""
    loop = asyncio.get_running_loop()

    def arm(make: Any) -> Any:
        return lambda number: asyncio.run_coroutine_threadsafe(make(number), loop).result()

    return await asyncio.to_thread(
        lambda: alternate({name: arm(make) for name, make in arms.items()}, rounds=options.rounds(15))
    )


async def _ask_microseconds(options: Options, database: Database) -> float:
    """What one call through `RunContext.ask` takes on this engine, with its journal entry and its trace."""
    context, agent = RunContext([ITEM], database), Student(ENGINE)
    messages = agent.messages(ITEM.public)
    count = options.size(300, 5)
    began = time.perf_counter()
    for step in range(count):
        await context.ask(agent, "item", messages, node="ask", step=step)
    spent = time.perf_counter() - began
    database.close()
    return round(1e6 * spent / count, 1)


def measure(options: Options) -> Bar:
    """Runs everything on an event loop of its own."""
    return asyncio.run(measure_all(options))
