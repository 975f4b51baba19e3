"""Graphs that bring their own run context, for callers that give none, such as LangGraph's server."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from docendo.agents import RunContext
from docendo.hashing import derive_seed
from docendo.memory import Database
from docendo.records import Item

#: Where LangGraph's configuration holds what makes the context; no name that a caller would use.
KEY = "docendo_standalone"


class Contexts:
    """One run context for each thread of a caller, over the same items and the same database."""

    def __init__(self, items: Iterable[Item], database: Database, *, graph: str, seed: int) -> None:
        self._items, self._database, self._graph, self._seed = tuple(items), database, graph, seed
        # Each node of a thread asks for it; a context is no more than views of the one database.
        self.of = lru_cache(maxsize=128)(self._of)

    def _of(self, thread: str) -> RunContext:
        """The context of a thread: what has been finished in it is not generated again."""
        seed = derive_seed(self._seed, thread)
        return RunContext(self._items, self._database, run=thread, graph=self._graph, seed=seed)


def standalone(
    graph: Any, items: Iterable[Item], *, database: str | Path | None = None, seed: int = 0
) -> Any:
    """A copy of a graph that also runs where nobody gives it a run context.

    `docendo.run` and `evals.evaluate` give a graph its context. LangGraph's server (`langgraph dev`) and
    other callers of `invoke` do not; then the items given here are the ones that can be asked for, by
    `{"item": id}`. Each thread of the caller is a run of its own, so a thread that is called again finds its
    finished calls in the journal, and a new thread samples anew.

    Its nodes run in threads of their own, because a server's event loop must not wait for a database. Without
    a file, what was said stays in memory for as long as the graph does.

    Args:
        graph: A compiled graph whose nodes were made by `node` or by a builder of docendo.
        items: The items that can be asked for.
        database: File or URL that keeps traces and board; None keeps them in memory.
        seed: Seed of sampling.

    Returns:
        The graph, for `langgraph.json`; a context that is given to it is used as ever.

    Raises:
        ConfigError: if it is no compiled graph.

    Example:
        >>> from docendo.agents import ScriptedEngine, Student, Verifier
        >>> from docendo.evals import ExactScorer, make_item
        >>> from docendo.graphs import tutoring
        >>> item = make_item("What is 2 + 2?", 4)
        >>> graph = tutoring(student=Student(ScriptedEngine(["4"])), tutor=None, teacher=None,
        ...                  verifier=Verifier(ExactScorer()))
        >>> standalone(graph, [item]).invoke({"item": item.id})["answer"]
        '4'
    """
    from docendo.graphs._nodes import description

    name = str(description(graph)["graph"])
    opened = Database.open("sqlite://" if database is None else database)
    contexts = Contexts(items, opened, graph=name, seed=seed)
    return graph.with_config(configurable={KEY: contexts})
