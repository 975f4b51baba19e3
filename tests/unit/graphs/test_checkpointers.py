"""Checkpointers: LangGraph's own tests, hostile checkpoints, damage, both ways of invoking, interrupts."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path, PosixPath
from typing import Any, TypedDict

import ormsgpack
import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Interrupt, Send, interrupt

from docendo.errors import ConfigError, DataError, IntegrityError, StorageError
from docendo.graphs import checkpointer
from docendo.graphs._serializer import PlainSerializer

THREAD = {"configurable": {"thread_id": "1"}}


class Words(TypedDict, total=False):
    words: list[str]
    thing: Any


def build(saver: Any, **options: Any) -> Any:
    builder = StateGraph(Words)
    builder.add_node("say", lambda state: {"words": [*state.get("words", []), "said"]})
    builder.add_node("end", lambda state: {"words": [*state["words"], "ended"]})
    builder.add_edge(START, "say").add_edge("say", "end").add_edge("end", END)
    return builder.compile(checkpointer=saver, **options)


# --- LangGraph's own suite ------------------------------------------------------------------------


async def test_langgraphs_conformance_suite_passes(database_url: str, tmp_path: Path) -> None:
    numbers = iter(range(100))

    @checkpointer_test(name=f"docendo {database_url}")
    async def opened() -> AsyncIterator[Any]:
        url = str(tmp_path / f"{next(numbers)}.db") if database_url.startswith("sqlite") else database_url
        with checkpointer(url) as saver:
            yield saver

    report = await validate(opened)
    tested = {name: result for name, result in report.results.items() if result.detected}
    assert {"put", "put_writes", "get_tuple", "list", "delete_thread"} <= set(tested)
    assert {name: result.failures for name, result in tested.items() if not result.passed} == {}
    assert sum(result.tests_passed for result in tested.values()) >= 50


# --- hostile checkpoints --------------------------------------------------------------------------


def extension(code: int, *parts: Any) -> bytes:
    return ormsgpack.packb({"a": ormsgpack.Ext(code, ormsgpack.packb(parts))})


def hostile(canary: Path) -> dict[str, tuple[str, bytes]]:
    """Payloads that would run a command, or build something, if they were loaded as objects."""
    command = f"touch {canary}"
    constructor = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [command]}
    nested = ormsgpack.packb({"x": ormsgpack.Ext(0, ormsgpack.packb(("os", "system", command)))})
    return {
        "one argument": ("msgpack", extension(0, "os", "system", command)),
        "arguments": ("msgpack", extension(1, "subprocess", "call", [["touch", str(canary)]])),
        "keywords": ("msgpack", extension(2, "subprocess", "run", {"args": ["touch", str(canary)]})),
        "a method": ("msgpack", extension(3, "pathlib", "Path", str(canary), "touch")),
        "pydantic 1": ("msgpack", extension(4, "subprocess", "Popen", {"args": ["touch", str(canary)]})),
        "pydantic 2": ("msgpack", extension(5, "subprocess", "Popen", {"args": ["touch", str(canary)]}, "x")),
        "an array": ("msgpack", extension(6, "|O", [1], "C", b"\0" * 8)),
        "inside a snapshot": ("msgpack", ormsgpack.packb({"a": ormsgpack.Ext(7, nested)})),
        "an unknown extension": ("msgpack", extension(99, "os", "system", command)),
        "a pattern": ("msgpack", extension(1, "re", "compile", ["(a+)+$", 0])),
        "a malformed record": ("msgpack", extension(2, "langgraph.types", "Send", {"x": command})),
        "JSON": ("json", json.dumps({"a": constructor}).encode()),
        "pickle": ("pickle", b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."),
        "not msgpack": ("msgpack", b"\xc1"),
        "nothing known": ("yaml", b"!!python/object/apply:os.system ['true']"),
    }


KINDS = sorted(hostile(Path("x")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_value_is_refused_and_nothing_runs(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    name, data = hostile(canary)[kind]
    with pytest.raises(IntegrityError, match=r"a checkpoint (names|holds)") as caught:
        PlainSerializer().loads_typed((name, data))
    assert "\n" not in str(caught.value)
    if name == "msgpack":  # a digest is no signature: sealing it changes nothing
        import hashlib

        with pytest.raises(IntegrityError, match="a checkpoint names"):
            PlainSerializer().loads_typed(("msgpack+sha256", hashlib.sha256(data).digest() + data))
    assert not canary.exists()


def test_the_payloads_are_hostile(tmp_path: Path) -> None:
    """LangGraph's default serializer runs some of them: the test above tests something."""
    run = []
    for kind in ("one argument", "arguments", "keywords"):
        canary = tmp_path / kind.replace(" ", "-")
        JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(hostile(canary)[kind])
        for _ in range(100):
            if canary.exists():
                break
            threading.Event().wait(0.02)  # a child process does it
        run.append(canary.exists())
    assert all(run)


@pytest.mark.parametrize("table", ["state", "writes"])
def test_a_hostile_database_is_refused_where_it_is_read(
    database_url: str, tmp_path: Path, table: str
) -> None:
    canary = tmp_path / "canary"
    sqlite = database_url.startswith("sqlite")
    for kind, (name, data) in hostile(canary).items():
        with checkpointer(database_url) as saver:
            stopped(saver).invoke({"words": []}, THREAD, durability="sync")
        poison(database_url, table, name, data, sqlite=sqlite)
        with checkpointer(database_url) as saver:
            graph = stopped(saver)
            for read in (
                lambda graph=graph: graph.get_state(THREAD),
                lambda graph=graph: graph.invoke(None, THREAD),
                lambda saver=saver: list(saver.list(THREAD)),
            ):
                with pytest.raises(IntegrityError, match="a checkpoint"):
                    read()
            saver.delete_thread("1")
        assert not canary.exists(), kind


def stopped(saver: Any) -> Any:
    """A graph whose second node waits for an answer: its question is a pending write."""
    builder = StateGraph(Words)
    builder.add_node("say", lambda _: {"words": ["said"]})
    builder.add_node("wait", lambda _: {"words": [interrupt("What next?")]})
    builder.add_edge(START, "say").add_edge("say", "wait").add_edge("wait", END)
    return builder.compile(checkpointer=saver)


def poison(url: str, table: str, kind: str, data: bytes, *, sqlite: bool) -> None:
    """Overwrites all checkpoints, or all pending writes, as somebody could who can write the database."""
    if sqlite:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            column, where = ("checkpoint", "checkpoints") if table == "state" else ("value", "writes")
            connection.execute(f"UPDATE {where} SET type = ?, {column} = ?", (kind, data))
        connection.close()
        return
    import psycopg

    where = "checkpoint_blobs" if table == "state" else "checkpoint_writes"
    with psycopg.connect(url.replace("+psycopg", "")) as server:
        server.execute(f"UPDATE {where} SET type = %s, blob = %s", (kind, data))  # type: ignore[arg-type]


def test_a_flipped_bit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with checkpointer(path) as saver:
        build(saver).invoke({"words": ["x" * 50]}, THREAD, durability="exit")
    with sqlite3.connect(path) as connection:
        (data,) = connection.execute("SELECT checkpoint FROM checkpoints").fetchone()
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE checkpoints SET checkpoint = ?", (bytes(flipped),))
        with checkpointer(path) as saver, pytest.raises(IntegrityError, match="checksum"):
            build(saver).get_state(THREAD)
    connection.close()


@pytest.mark.parametrize("value", [[], {"id": "1"}, {"id": 1, "channel_values": {}}, "text", None])
def test_what_has_not_the_shape_of_a_checkpoint_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "c.db"
    with checkpointer(path) as saver:
        build(saver).invoke({"words": []}, THREAD, durability="exit")
    poison(f"sqlite:///{path}", "state", *PlainSerializer().dumps_typed(value), sqlite=True)
    with checkpointer(path) as saver, pytest.raises(IntegrityError, match=r"of thread '1' has no 'id'|no '"):
        build(saver).get_state(THREAD)


# --- what may be in a state -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, 2.5, True, None, "x", b"y"], "b": {"c": []}},
        Send("node", {"a": 1}),
        [Interrupt("what?", id="1")],
        Command(resume="yes", goto=[]),
    ],
)
def test_plain_values_and_langgraphs_own_come_back(value: Any) -> None:
    serializer = PlainSerializer()
    assert serializer.loads_typed(serializer.dumps_typed(value)) == value


def test_what_langgraph_has_stored_can_be_read() -> None:
    value = {"words": ["a"], "n": 1}
    assert PlainSerializer().loads_typed(JsonPlusSerializer().dumps_typed(value)) == value


def test_other_objects_are_refused_when_they_are_written(tmp_path: Path) -> None:
    builder = StateGraph(Words).add_node("put", lambda _: {"thing": PosixPath("a/b")})
    builder.add_edge(START, "put").add_edge("put", END)
    with (
        checkpointer(tmp_path / "c.db") as saver,
        pytest.raises(DataError, match=r"holds a pathlib\.PosixPath; expected JSON values; .*allow=\["),
    ):
        builder.compile(checkpointer=saver).invoke({}, THREAD, durability="sync")
    with pytest.raises(DataError, match="cannot be stored"):
        PlainSerializer().dumps_typed({"thing": object()})


def test_allowed_classes_come_back(tmp_path: Path) -> None:
    builder = StateGraph(Words).add_node("put", lambda _: {"thing": PosixPath("a/b")})
    builder.add_edge(START, "put").add_edge("put", END)
    with checkpointer(tmp_path / "c.db", allow=[PosixPath]) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({}, THREAD, durability="sync")
        assert graph.get_state(THREAD).values["thing"] == PosixPath("a/b")
    with checkpointer(tmp_path / "c.db") as saver, pytest.raises(IntegrityError, match="names pathlib"):
        builder.compile(checkpointer=saver).get_state(THREAD)
    with (
        pytest.raises(ConfigError, match="allow holds 'pathlib'"),
        checkpointer(":memory:", allow=["pathlib"]),
    ):  # type: ignore[list-item]
        pass


# --- one saver, both ways, many at once -----------------------------------------------------------


async def test_one_saver_serves_both_ways(database_url: str) -> None:
    import asyncio

    with checkpointer(database_url) as saver:
        graph = build(saver)

        async def one(n: int) -> Any:
            config = {"configurable": {"thread_id": str(n)}}
            if n % 2:
                return await graph.ainvoke({"words": [str(n)]}, config, durability="sync")
            return await asyncio.to_thread(graph.invoke, {"words": [str(n)]}, config, durability="sync")

        states = await asyncio.gather(*(one(n) for n in range(16)))
        assert [state["words"] for state in states] == [[str(n), "said", "ended"] for n in range(16)]
        listed = [entry async for entry in saver.alist({"configurable": {"thread_id": "3"}})]
        assert len(listed) == 4
        for entry in saver.list(THREAD):  # reading inside a list does not lock up
            assert saver.get_tuple(entry.config) is not None
        await saver.adelete_thread("3")
        assert await saver.aget_tuple({"configurable": {"thread_id": "3"}}) is None


ASK = """
import sys
from typing import TypedDict
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from docendo.graphs import checkpointer

class State(TypedDict, total=False):
    question: str
    answer: str

builder = StateGraph(State)
builder.add_node("ask", lambda state: {"question": "How much?"})
builder.add_node("wait", lambda state: {"answer": interrupt(state["question"])})
builder.add_edge(START, "ask").add_edge("ask", "wait").add_edge("wait", END)
thread = {"configurable": {"thread_id": "1"}}
with checkpointer(sys.argv[1]) as saver:
    graph = builder.compile(checkpointer=saver)
    state = graph.invoke(Command(resume=sys.argv[2]) if sys.argv[2] else {}, thread, durability="exit")
    print(state["__interrupt__"][0].value if "__interrupt__" in state else state["answer"])
"""


def test_an_interrupted_graph_goes_on_in_another_process(database_url: str, tmp_path: Path) -> None:
    def run(answer: str) -> str:
        command = [sys.executable, "-c", ASK, database_url, answer]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run("") == "How much?"
    assert run("42") == "42"


def test_writes_are_on_disk_and_whole(tmp_path: Path) -> None:
    with checkpointer(tmp_path / "c.db") as saver:
        assert saver.conn.execute("PRAGMA synchronous").fetchone() == (2,)
        assert saver.conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert saver.conn.execute("PRAGMA busy_timeout").fetchone() == (30_000,)
        build(saver).invoke({"words": []}, THREAD, durability="exit")
        config = saver.get_tuple(THREAD).config
        with pytest.raises(DataError):
            saver.put_writes(config, [("words", "a"), ("words", object())], "task")
        values = "thread_id, checkpoint_ns, checkpoint_id, 'task', 0, 0, 'words', 'null', x''"

        def half() -> None:
            with saver.cursor() as cursor:
                cursor.execute(f"INSERT INTO writes SELECT {values} FROM checkpoints")
                cursor.execute("INSERT INTO writes VALUES (1)")

        with pytest.raises(StorageError, match="cannot use"):
            half()
        assert saver.conn.execute("SELECT count(*) FROM writes WHERE task_id = 'task'").fetchone() == (0,)


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 200)
    for where, kind, message in (
        ("", ConfigError, "path is empty"),
        ("mysql://x", ConfigError, "starts with mysql"),
        (tmp_path, DataError, "is a folder"),
        (tmp_path / "text", IntegrityError, "damaged or not a database"),
        (tmp_path / "text" / "c.db", StorageError, "cannot write"),
    ):
        with pytest.raises(kind, match=message), checkpointer(where):
            pass
