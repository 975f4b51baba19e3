"""LangGraph checkpointers that are safe to load from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from docendo.errors import ConfigError, DataError, MissingExtra

_EXPECTED = "a path, sqlite:///file or postgresql://user@host/name"


@contextmanager
def checkpointer(url_or_path: str | Path, *, allow: Iterable[type] = ()) -> Iterator[Any]:
    """Opens a LangGraph checkpointer, for graphs that are invoked either way.

    It is LangGraph's own `SqliteSaver` or `PostgresSaver` with these differences: it serves `invoke` and
    `ainvoke`, in any thread and event loop; on SQLite a write is on disk when it returns, and an error undoes
    it whole; loading builds no object but LangGraph's own records and those of `allow`, and a checkpoint that
    names another, or is damaged, is an error.

    A run does not need one. Its finished calls are in the journal and its posts have keys, so an item that
    was stopped is run again from its start and generates nothing twice. A checkpointer is for graphs with
    interrupts and for a look at states in between; `durability="exit"` of `invoke` is then enough, one
    checkpoint at the end or at an interrupt, unless the states on the way are wanted too.

    One thread belongs to one process at a time, as a run does: LangGraph lets two of them fork its history.

    Args:
        url_or_path: A file, `:memory:`, or the URL of a PostgreSQL server. A file may be the run's own
            database; tables do not collide.
        allow: Classes whose objects may be in a graph's state. Best left empty: a state holds ids and JSON.

    Raises:
        MissingExtra: if LangGraph's saver is not installed.
        ConfigError: if the URL cannot be used.
        StorageError: if it cannot be opened.

    Example:
        >>> from typing import TypedDict
        >>> from langgraph.graph import END, START, StateGraph
        >>> from docendo.graphs import checkpointer
        >>> class Count(TypedDict):
        ...     n: int
        >>> builder = StateGraph(Count).add_node("add", lambda state: {"n": state["n"] + 1})
        >>> builder = builder.add_edge(START, "add").add_edge("add", END)
        >>> thread = {"configurable": {"thread_id": "1"}}
        >>> with checkpointer(":memory:") as saver:
        ...     graph = builder.compile(checkpointer=saver)
        ...     state = graph.invoke({"n": 1}, thread, durability="exit")
        ...     graph.get_state(thread).values
        {'n': 2}
    """
    from docendo.graphs._serializer import PlainSerializer

    serializer = PlainSerializer(allow=allow)
    url = _url(url_or_path)
    if url.get_backend_name() == "sqlite":
        try:
            from docendo.graphs._savers import open_file
        except ModuleNotFoundError as error:
            raise MissingExtra("langgraph-checkpoint-sqlite", "checkpoint") from error
        path = url.database or ":memory:"
        if Path(path).is_dir():
            raise DataError(f"{path} is a folder", expected="a file for the checkpoints")
        saver: Any = open_file(path, serializer)
        try:
            yield saver
        finally:
            # Threads of an async graph that was cancelled may still write.
            with saver.lock:
                saver.conn.close()
        return
    try:
        from docendo.graphs._savers_postgres import open_server
    except ImportError as error:  # also psycopg without its library
        raise MissingExtra("langgraph-checkpoint-postgres", "checkpoint") from error
    address = url.set(drivername="postgresql")
    saver = open_server(
        address.render_as_string(hide_password=False), url.render_as_string(hide_password=True), serializer
    )
    try:
        yield saver
    finally:
        saver.pool.close()


def _url(url_or_path: str | Path) -> sa.URL:
    text = str(url_or_path)
    if not text:
        raise ConfigError("the checkpointer's path is empty", expected=_EXPECTED)
    if isinstance(url_or_path, Path) or "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("the checkpointer's URL cannot be read", expected=_EXPECTED) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"the checkpointer's URL starts with {url.drivername}", expected=_EXPECTED)
    return url
