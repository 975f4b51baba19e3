"""Asking graphs: each item is one invocation, whose calls and turns are kept in the evaluation's database."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from docendo.agents import RunContext
from docendo.agents._context import Turn
from docendo.errors import ConfigError, DataError
from docendo.evals.harness._functions import ask_async
from docendo.evals.harness._replies import Done, Reply, Said
from docendo.graphs._nodes import description
from docendo.hashing import digest
from docendo.records import Item, SamplingParams, Trace, Usage

if TYPE_CHECKING:
    from docendo.memory import Database


class GraphAsker:
    """Invokes a compiled graph for every item; the answer is its final state's `answer`.

    An item that is asked again finds the calls that an earlier process had finished in the journal. Their
    seeds depend on the item alone, not on how many others there are or run at a time.
    """

    sampling: SamplingParams | None = None
    model = ""
    adapter: str | None = None

    def __init__(self, graph: Any, items: Sequence[Item], *, name: str, concurrency: int) -> None:
        self._graph, self._items, self._name = graph, items, name
        self._concurrency = concurrency

    def key(self, item: Item) -> str | None:
        """By the name of the evaluation: a graph has no fingerprint."""
        return digest("evaluate", "graph", self._name, item.id, item.public.question) if self._name else None

    def ask(self, items: Sequence[Item], done: Done, database: Database | None) -> None:
        """Invokes the graph for every item; without a database its turns are kept in memory meanwhile."""
        from docendo.memory import Database

        with nullcontext(database) if database is not None else Database.open("sqlite://") as kept:
            runs = _Runs(self._graph, self._items, kept, name=self._name or "evaluate")
            ask_async(runs.invoke, _reply, items, done, concurrency=self._concurrency)


class _Noted(RunContext):
    """A run that notes which turns each item has had in this process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.noted: dict[str, set[str]] = {}

    async def ask(self, agent: Any, item: str, *args: Any, **options: Any) -> Turn:
        turn = await super().ask(agent, item, *args, **options)
        self.noted.setdefault(item, set()).update(turn.traces)
        return turn


class _Runs:
    """The runs in which items are tried: in the last that an earlier process began, else in the first."""

    def __init__(self, graph: Any, items: Sequence[Item], database: Database, *, name: str) -> None:
        self._graph, self._items, self._database, self._name = graph, items, database, name
        self._contexts: dict[int, _Noted] = {}
        self._began: dict[int, set[str]] = {}

    async def invoke(self, item: Item) -> tuple[Mapping[str, Any], list[Trace]]:
        """The final state of the graph for an item, and the turns that led to it."""
        begun = next(run for run in itertools.count() if item.id not in self._items_of(run))
        try:
            return await self._invoke(max(begun - 1, 0), item)
        except DataError:
            if not begun:
                raise
        # A turn of the earlier process has another text, as that of a graph which was changed since.
        return await self._invoke(begun, item)

    async def _invoke(self, run: int, item: Item) -> tuple[Mapping[str, Any], list[Trace]]:
        context = self._context(run)
        # A checkpointer must not take it for a thread that it knows.
        thread = {"configurable": {"thread_id": f"{item.id}@{uuid.uuid4().hex}"}}
        state = await self._graph.ainvoke({"item": item.id}, thread, context=context)
        noted = context.noted.get(item.id, ())
        turns = context.traces.find(run=context.run, item=item.id) if noted else []
        return state, [turn for turn in turns if turn.id in noted]

    def _items_of(self, run: int) -> set[str]:
        """The items that earlier processes began in a run."""
        if run not in self._began:
            context = self._context(run)
            self._began[run] = {turn.item for turn in context.traces.find(run=context.run)}
        return self._began[run]

    def _context(self, run: int) -> _Noted:
        if run not in self._contexts:
            name = self._name if run == 0 else f"{self._name}-{run + 1}"
            graph = str(description(self._graph)["graph"])
            self._contexts[run] = _Noted(self._items, self._database, run=name, graph=graph)
        return self._contexts[run]


def _reply(said: tuple[Mapping[str, Any], list[Trace]]) -> Reply:
    state, turns = said
    if "__interrupt__" in state:
        raise ConfigError(
            "the graph stopped at an interrupt, which an evaluation cannot answer",
            remedy="build it without interrupts",
        )
    answer = state.get("answer")
    if not isinstance(answer, str):
        raise ConfigError("the graph's final state holds no answer", expected='text under the key "answer"')
    usage = Usage()
    for turn in turns:
        usage += turn.usage
    return Reply(
        samples=(Said(text=answer),),
        traces=tuple(turn.id for turn in turns),
        usage=usage,
        seconds=sum(turn.seconds for turn in turns),
        flops=sum(turn.flops for turn in turns),
    )
