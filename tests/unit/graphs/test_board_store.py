"""LangGraph's store on the blackboard: what it promises beyond LangGraph's own, and in a graph."""

import asyncio
import doctest
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TypedDict

import pytest
from langchain_core.embeddings import Embeddings
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

from docendo.errors import ConfigError, DataError, IntegrityError, VersionConflict
from docendo.graphs import BoardStore
from docendo.memory import Blackboard
from docendo.records import Author

TUTOR = Author(agent="tutor", role="tutor")
MINUTE = 60.0


class Letters(Embeddings):
    """A vector of how often each letter occurs; counts what it was asked."""

    def __init__(self):
        self.asked = []

    def embed_documents(self, texts):
        self.asked += texts
        return [[float(text.count(letter)) for letter in "abcdefgh"] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


@pytest.fixture
def store(board):
    return BoardStore(board, author=TUTOR)


@pytest.mark.parametrize(
    "name",
    [
        "graphs._store",
        "graphs._store_rules",
        "memory.board._documents",
        "memory.runs._streams",
        "memory.runs._timeline",
    ],
)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"docendo.{name}"), optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


def keys(items):
    return [item.key for item in items]


def expire(store, key):
    with store.board.database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE docendo_documents SET expires = 1 WHERE key = '{key}'")


def test_put_compares_versions(store):
    store.put(("a",), "k", {"n": 1}, expected=0)
    first = store.get(("a",), "k")
    assert (first.version, first.author, first.value) == (1, TUTOR, {"n": 1})
    for expected in (0, 2):
        with pytest.raises(VersionConflict, match="has version 1, written by 'tutor'"):
            store.put(("a",), "k", {"n": 2}, expected=expected)
    with pytest.raises(VersionConflict, match="has no version"):
        store.put(("a",), "other", {"n": 2}, expected=1)
    store.put(("a",), "k", {"n": 2}, expected=1)
    assert store.search(("a",))[0].version == 2


def test_an_item_that_was_deleted_counts_as_none_but_its_versions_go_on(store):
    store.put(("a",), "k", {"n": 1})
    store.delete(("a",), "k")
    store.delete(("a",), "k")  # is not there: no version
    with pytest.raises(VersionConflict):
        store.put(("a",), "k", {"n": 2}, expected=2)
    store.put(("a",), "k", {"n": 2}, expected=0)
    assert store.get(("a",), "k").version == 3
    history = store.history(("a",), "k")
    assert [(entry.version, entry.value) for entry in history] == [(1, {"n": 1}), (2, None), (3, {"n": 2})]
    assert {entry.author for entry in history} == {TUTOR}
    assert store.board.verify().ok


def test_created_stays_and_updated_moves(store):
    store.put(("a",), "k", {"n": 1})
    first = store.get(("a",), "k")
    store.put(("a",), "k", {"n": 2})
    second = store.get(("a",), "k")
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert second.created_at.tzinfo is not None


def test_newest_first_and_pages(store):
    for n in range(7):
        store.put(("a", f"n{n % 2}"), f"k{n}", {"n": n, "odd": n % 2 == 1})
    store.put(("a", "n0"), "k2", {"n": 2, "odd": False})
    assert keys(store.search(("a",))) == ["k2", "k6", "k5", "k4", "k3", "k1", "k0"]
    assert keys(store.search((), limit=2, offset=1)) == ["k6", "k5"]
    assert keys(store.search(("a",), filter={"odd": True}, limit=1, offset=1)) == ["k3"]
    assert keys(store.search(("a", "n1"), filter={"n": {"$gt": 1, "$lte": 5}})) == ["k5", "k3"]
    assert store.search(("a",), limit=0) == []
    with pytest.raises(DataError, match="limit is -1"):
        store.search(("a",), limit=-1)


def test_namespaces_are_whole_labels(store):
    for namespace in (
        ("a",),
        ("a", "b"),
        ("ab",),
        ("A",),
        ("a/b",),
        ("a%",),
        ("a_",),
        ("a", "b\n"),
        ("é", "ü"),
    ):
        store.put(namespace, "k", {})
    assert {item.namespace for item in store.search(("a",))} == {("a",), ("a", "b"), ("a", "b\n")}
    assert {item.namespace for item in store.search(("a%",))} == {("a%",)}
    assert store.list_namespaces(prefix=("a", "b")) == [("a", "b")]
    assert store.list_namespaces(suffix=("ü",)) == [("é", "ü")]
    assert store.list_namespaces(prefix=("*", "b")) == [("a", "b")]
    assert store.list_namespaces(max_depth=1, limit=3) == [("A",), ("a",), ("a%",)]


def test_keys_may_be_anything(store):
    for key in ("", ".", "..", "a.b", "x/y", "%", "ключ", "a" * 1500):
        store.put(("n", "m"), key, {"key": key})
        assert store.get(("n", "m"), key).value == {"key": key}
        assert store.get(("n",), f"m..{key}") is None
    assert len(store.search(("n",), limit=100)) == 8
    with pytest.raises(DataError, match="at most 2000"):
        store.put(("n",), "k" * 3000, {})


@pytest.mark.parametrize("namespace", [(), ("",), ("a.b",), ("a", ""), ("a\x00",), (1,), ("langgraph", "x")])
def test_invalid_namespaces(store, namespace):
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "k", {})
    if namespace and namespace[0] != "langgraph":
        for op in (PutOp(namespace, "k", {}), GetOp(namespace, "k"), SearchOp(namespace)):
            with pytest.raises(InvalidNamespaceError):
                store.batch([op])
        with pytest.raises(InvalidNamespaceError):
            store.batch([ListNamespacesOp(match_conditions=(MatchCondition("prefix", namespace),))])
    assert store.list_namespaces() == []


def test_what_has_no_form_in_json_is_refused(store):
    for value in ({"x": float("nan")}, {"x": object()}, {1: 2}, [1]):
        with pytest.raises(DataError):
            store.put(("a",), "k", value)
    store.put(("a",), "k", {"x": "\ud800\x00"})
    assert store.get(("a",), "k").value == {"x": "\\ud800\\x00"}
    with pytest.raises(ValueError, match="operator '\\$near'"):
        store.search(("a",), filter={"x": {"$near": 1}})
    with pytest.raises(ValueError, match="the operation is a str"):
        store.batch(["get"])


def test_a_batch_reads_before_it_writes_and_is_whole_or_not_at_all(store):
    store.put(("a",), "k", {"n": 1})
    got, _, found, _, names = store.batch(
        [
            GetOp(("a",), "k"),
            PutOp(("a",), "k", {"n": 2}),
            SearchOp(("a",)),
            PutOp(("b",), "k", {"n": 1}),
            ListNamespacesOp(),
        ]
    )
    assert (got.value, [item.value for item in found], names) == ({"n": 1}, [{"n": 1}], [("a",)])
    assert store.batch([PutOp(("a",), "k", {"n": 3}), PutOp(("a",), "k", None)]) == [None, None]
    assert store.get(("a",), "k") is None
    with pytest.raises(DataError):
        store.batch([PutOp(("c",), "good", {}), PutOp(("c",), "bad", {"x": object()})])
    assert store.search(("c",)) == []


def test_words_rank_and_the_rest_follows(store):
    store.put(("a",), "1", {"text": "Carry the one, then carry on.", "tag": "sums"})
    store.put(("a",), "2", {"text": "Check the units of what you carry.", "tag": "units"})
    store.put(("a",), "3", {"text": "Draw a picture."})
    store.put(("a",), "4", {"text": "Carry carry carry."}, index=False)
    found = store.search(("a",), query="When do I CARRY?")
    assert keys(found) == ["1", "2", "4", "3"]
    assert found[0].score > found[1].score > 0
    assert [item.score for item in found[2:]] == [None, None]
    assert keys(store.search(("a",), query="carry", limit=2, offset=1)) == ["2", "4"]
    assert keys(store.search(("a",), query="carry", filter={"tag": "units"})) == ["2"]
    assert keys(store.search(("a",), query="?!")) == ["4", "3", "2", "1"]


def test_words_of_chosen_fields(board):
    store = BoardStore(board, index={"fields": ["title"]})
    store.put(("a",), "1", {"title": "apples", "text": "pears"})
    store.put(("a",), "2", {"title": "pears", "text": "apples"})
    store.put(
        ("a",), "3", {"title": "x", "parts": [{"say": "pears"}, {"say": "plums"}]}, index=["parts[*].say"]
    )
    assert [item.score is not None for item in store.search(("a",), query="apples")] == [True, False, False]
    assert store.search(("a",), query="apples")[0].key == "1"
    assert store.search(("a",), query="plums")[0].key == "3"


def test_embeddings_rank(board):
    embed = Letters()
    store = BoardStore(board, index={"dims": 8, "embed": embed, "fields": ["text", "more"]})
    store.put(("a",), "1", {"text": "aab"})
    store.put(("a",), "2", {"text": "zzz", "more": "bb"})
    store.put(("a",), "3", {"text": "b"}, index=False)
    store.put(("a",), "4", {"text": "b", "other": "c"}, index=["other"])
    found = store.search(("a",), query="b")
    assert [(item.key, item.score) for item in found[:2]] == [
        ("2", pytest.approx(1.0)),
        ("1", pytest.approx(1 / 5**0.5)),
    ]
    assert [(item.key, item.score) for item in found[2:]] == [("4", 0.0), ("3", None)]
    store.put(("a",), "2", {"text": "a"})
    assert keys(store.search(("a",), query="bbbb", limit=1)) == ["1"]
    store.delete(("a",), "1")
    assert store.search(("a",), query="b")[0].key in "24"
    assert embed.asked.count("zzz") == 1
    with pytest.raises(ConfigError, match="makes 8 numbers; expected dims=3"):
        BoardStore(board, index={"dims": 3, "embed": embed}).put(("a",), "5", {"text": "a"})
    other = BoardStore(board, index={"dims": 2, "embed": lambda texts: [[1.0, 2.0] for _ in texts]})
    with pytest.raises(DataError, match="has 2 numbers"):
        other.search(("a",), query="b")


def test_items_expire_unless_they_are_read(board):
    store = BoardStore(board, ttl={"default_ttl": 10, "omit_expired": True})
    store.put(("a",), "read", {"n": 1})
    store.put(("a",), "kept", {"n": 2}, ttl=None)
    store.put(("b",), "late", {"n": 3}, ttl=0.5)

    def left(key):
        with board.database.reading() as connection:
            query = f"SELECT expires FROM docendo_documents WHERE key = '{key}'"
            at = connection.exec_driver_sql(query).scalar()
        return None if at is None else at - board.database.now()

    assert left("kept") is None
    assert 9 * MINUTE < left("read") <= 10 * MINUTE
    with board.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE docendo_documents SET expires = expires - 300 WHERE key = 'read'")
    store.get(("a",), "read", refresh_ttl=False)
    store.search(("a",), refresh_ttl=False)
    assert left("read") < 6 * MINUTE
    store.get(("a",), "read")
    assert left("read") > 9 * MINUTE
    expire(store, "late")
    assert store.get(("b",), "late") is None
    assert store.search(("b",)) == []
    assert store.list_namespaces() == [("a",)]
    assert BoardStore(board).get(("b",), "late", refresh_ttl=False).value == {"n": 3}  # until it is swept
    assert (store.sweep_ttl(), store.sweep_ttl()) == (1, 0)
    assert BoardStore(board).get(("b",), "late") is None
    assert [entry.value for entry in store.history(("b",), "late")] == [{"n": 3}, None]


def test_reading_an_expired_item_gives_it_time_again(store):
    store.put(("a",), "k", {}, ttl=1)
    expire(store, "k")
    assert store.get(("a",), "k") is not None
    assert store.sweep_ttl() == 0


def test_the_sweeper_sweeps_until_it_is_stopped(store):
    store.put(("a",), "k", {}, ttl=1)
    expire(store, "k")
    running = store.start_ttl_sweeper(0.05 / 60)
    assert store.start_ttl_sweeper() is running
    deadline = time.monotonic() + 30
    while store.list_namespaces() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert store.list_namespaces() == []
    assert store.stop_ttl_sweeper(10)
    assert running.done()
    assert store.stop_ttl_sweeper()


def test_damage_is_an_error(store):
    store.put(("a",), "k", {"n": 1})
    store.put(("a",), "k", {"n": 2})
    with store.board.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE docendo_documents SET seq = 1")  # an older version
    with pytest.raises(IntegrityError, match=r"document 'k' in 'a\.'"):
        store.get(("a",), "k")
    with store.board.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE docendo_documents SET seq = 2")
        connection.exec_driver_sql('UPDATE docendo_keys SET value = \'{"value":{"n":3}}\' WHERE seq = 2')
    with pytest.raises(IntegrityError, match="key version 2"):
        store.search(("a",))


def test_a_read_only_store_reads(board, store):
    store.put(("a",), "k", {"n": 1}, ttl=1)
    store.put(("a",), "word", {"text": "plum"})
    if board.database.path is None:
        pytest.skip("a server has roles for that")
    with Blackboard.open(board.database.path, read_only=True) as other:
        reader = BoardStore(other)
        assert reader.get(("a",), "k").value == {"n": 1}
        assert keys(reader.search(("a",), query="plum", limit=1)) == ["word"]


COUNT = """
import sys
from docendo.errors import VersionConflict
from docendo.graphs import BoardStore
from docendo.memory import Blackboard
from docendo.records import Author
store = BoardStore(Blackboard.open(sys.argv[1]), author=Author(agent=sys.argv[2], role="counter"))
for n in range(25):
    store.put(("mine", sys.argv[2]), str(n), {"n": n})
    while True:
        item = store.get(("shared",), "count")
        try:
            store.put(("shared",), "count", {"n": item.value["n"] + 1}, expected=item.version)
            break
        except VersionConflict:
            pass
"""


def test_processes_share_a_store_and_lose_no_update(store, database_url):
    store.put(("shared",), "count", {"n": 0})
    arguments = [sys.executable, "-P", "-c", COUNT, database_url]
    started = [subprocess.Popen([*arguments, f"p{n}"]) for n in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert store.get(("shared",), "count").value == {"n": 75}
    assert len(store.search(("mine",), limit=1000)) == 75
    assert {entry.author.agent for entry in store.history(("shared",), "count")} == {
        "tutor",
        "p0",
        "p1",
        "p2",
    }
    assert store.board.verify().ok


ENDLESS = """
import itertools, sys
from langgraph.store.base import PutOp
from docendo.graphs import BoardStore
from docendo.memory import Blackboard
store = BoardStore(Blackboard.open(sys.argv[1]))
for n in itertools.count():
    store.batch([PutOp(("pair", side), str(n), {"n": n}) for side in ("left", "right")])
    print(n, flush=True)
"""


def test_what_was_put_survives_a_kill_and_batches_stay_whole(store, database_url):
    process = subprocess.Popen([sys.executable, "-P", "-c", ENDLESS, database_url], stdout=subprocess.PIPE)
    told = [int(process.stdout.readline()) for _ in range(20)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    left, right = (
        {item.key for item in store.search(("pair", side), limit=100_000)} for side in ("left", "right")
    )
    assert left == right >= {str(n) for n in range(told + 1)}
    store.put(("pair", "left"), "0", {"n": -1})
    assert store.board.verify().ok


def test_threads_share_a_store(store):
    def work(name):
        for n in range(20):
            store.put(("t", name), str(n), {"n": n})
            store.search(("t",), query="n", limit=3)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store.search(("t", f"w{n}"), limit=100)) for n in range(4)] == [20] * 4


async def test_async_calls_do_not_block_the_loop(store):
    await asyncio.gather(*(store.aput(("a",), str(n), {"text": f"word{n}"}) for n in range(20)))
    assert (await store.aget(("a",), "3")).value == {"text": "word3"}
    assert keys(await store.asearch(("a",), query="word7", limit=1)) == ["7"]
    assert await store.alist_namespaces() == [("a",)]
    await store.adelete(("a",), "3")
    assert await store.aget(("a",), "3") is None
    with pytest.raises(VersionConflict):
        await store.aput(("a",), "4", {}, expected=0)
    released = asyncio.Event()

    async def beat():
        for _ in range(5):
            await asyncio.sleep(0.01)
        released.set()

    held, go = threading.Event(), threading.Event()

    def hold():
        with store.board.database.transaction():
            held.set()
            go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    waiting = asyncio.create_task(store.aget(("a",), "5"))
    await beat()
    assert released.is_set()
    assert not waiting.done()
    go.set()
    assert (await waiting).value == {"text": "word5"}
    thread.join()


async def test_async_embeddings(board):
    store = BoardStore(board, index={"dims": 8, "embed": Letters()})
    await store.abatch([PutOp(("a",), "1", {"t": "aa"}), PutOp(("a",), "2", {"t": "hh"})])
    first, second = await store.abatch([SearchOp(("a",), query="hhh"), SearchOp(("a",), query="aaa")])
    assert (first[0].key, second[0].key) == ("2", "1")


class State(TypedDict):
    said: str
    heard: list[str]


def remember(state: State, runtime: Runtime) -> dict:
    runtime.store.put(("said",), state["said"], {"text": state["said"]})
    return {}


def recall(state: State) -> dict:
    return {"heard": sorted(item.value["text"] for item in get_store().search(("said",)))}


async def aremember(state: State, runtime: Runtime) -> dict:
    await runtime.store.aput(("said",), state["said"], {"text": state["said"]})
    return {}


async def arecall(state: State) -> dict:
    return {"heard": sorted(item.value["text"] for item in await get_store().asearch(("said",)))}


def compiled(first, second, store):
    graph = StateGraph(State)
    graph.add_node("remember", first)
    graph.add_node("recall", second)
    graph.add_edge(START, "remember")
    graph.add_edge("remember", "recall")
    graph.add_edge("recall", END)
    return graph.compile(store=store)


def test_nodes_of_a_graph_use_it(store, board):
    graph = compiled(remember, recall, store)
    assert graph.invoke({"said": "one"})["heard"] == ["one"]
    assert graph.invoke({"said": "two"})["heard"] == ["one", "two"]
    assert board.keys.names("store/said") == ["store/said..one", "store/said..two"]


async def test_nodes_of_an_async_graph_use_it(store):
    graph = compiled(aremember, arecall, store)
    await graph.ainvoke({"said": "one"})
    assert (await graph.ainvoke({"said": "two"}))["heard"] == ["one", "two"]
