"""R3: Two writers share one blackboard, are killed again and again, and a third process reads along.

Nothing that was acknowledged is lost, nothing is there twice, the numbering has no gap, the reader never sees
a broken chain, and no writer ever meets a locked database.
"""

from __future__ import annotations

import importlib.util
import mmap
import operator
import os
import random
import sqlite3
import struct
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from fault_bars import forked, kill

from docendo.errors import DocendoError
from docendo.memory import Blackboard, Database, Journal, RunStore
from docendo.records import Author

pytestmark = pytest.mark.slow

WRITERS = ("one", "two")
#: Every tenth key is wanted by both writers.
SHARED = 10
#: Where a writer is, as it tells the killer: a kill in the middle of a transaction is the one that counts.
OPENING, INSIDE, BETWEEN = 0, 1, 2


class Progress:
    """What the processes tell each other through shared memory: steps done, where each is, when to stop."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def set(self, name: str, *, step: int, place: int) -> None:
        struct.pack_into("ii", self._memory, 8 * WRITERS.index(name), step, place)

    def get(self, name: str) -> tuple[int, int]:
        return struct.unpack_from("ii", self._memory, 8 * WRITERS.index(name))

    @property
    def total(self) -> int:
        return sum(self.get(name)[0] for name in WRITERS)

    @property
    def over(self) -> bool:
        return bool(self._memory[100])

    def end(self) -> None:
        self._memory[100] = 1


def key_of(name: str, step: int) -> str:
    return f"both/{step}" if step % SHARED == SHARED - 1 else f"{name}/{step}"


def write(url: str, name: str, log: Path, progress: Progress, *, steps: int, keys: bool) -> None:
    """Goes through all steps from a few before the last acknowledged one, as a resumed run would."""
    done = len({line.split()[0] for line in lines(log)})
    acknowledged = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    progress.set(name, step=done, place=OPENING)
    with Database.open(url) as database:
        board, journal, runs = Blackboard(database), Journal(database), RunStore(database)
        runs.start(name, {}, resume=True)  # a run is one process's
        author = Author(agent=name, role="student")
        for step in range(max(0, done - 2), steps):
            key = key_of(name, step)
            posted = key if keys else f"{key}#{uuid.uuid4()}"
            progress.set(name, step=max(step, done), place=INSIDE)
            with database.transaction():
                post = board.post("attempt", {"text": uuid.uuid4().hex}, author=author, key=posted)
                journal.put(key, {"post": post.id})
                runs.finish_item(name, key, {"post": post.id})
            progress.set(name, step=max(step, done), place=BETWEEN)
            os.write(acknowledged, f"{step} {post.key} {post.hash}\n".encode())
    progress.set(name, step=steps, place=BETWEEN)


def read_along(url: str, progress: Progress) -> None:
    """Reads what is new, and verifies the whole now and then, until the writers have ended."""
    seen: list[str] = []
    passes = 0
    while True:
        last = progress.over
        try:
            with Database.open(url) as database:
                board = Blackboard(database)
                for _ in range(10):
                    new = board.posts(after=len(seen))
                    if [post.seq for post in new] != list(range(len(seen) + 1, len(seen) + 1 + len(new))):
                        raise ValueError(f"gap after {len(seen)}: {[post.seq for post in new][:5]}")
                    seen += [post.hash for post in new]
                    time.sleep(0.005)
                report = board.verify()
                if not report.ok or report.records < len(seen):
                    raise ValueError(f"broken chain: {report}")
                passes += 1
        except DocendoError as error:
            raise ValueError(f"reader: {error}") from error
        if last:
            os.write(1, b"")
            return


def guarded(work: Any, log: Path) -> None:
    """Notes an error where the parent finds it."""
    try:
        work()
    except BaseException as error:
        log.with_suffix(".errors").write_text(f"{log.stem}: {type(error).__name__}: {error}")
        raise


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def check(url: str, logs: list[Path], steps: int) -> list[str]:
    """Returns what is wrong with the finished ledger."""
    with Database.open(url) as database:
        board, runs = Blackboard(database), RunStore(database)
        posts, outcomes = board.posts(), {k: v for name in WRITERS for k, v in runs.finished(name).items()}
        problems = [str(damage) for damage in board.verify().damage]
        journal = Journal(database).verify().records
    expected = {key_of(name, step) for name in WRITERS for step in range(steps)}
    found = Counter(post.key.partition("#")[0] for post in posts)
    hashes = {post.key: post.hash for post in posts}
    problems += [f"post {key} is missing" for key in sorted(expected - set(found))]
    problems += [f"post {key} was never written" for key in sorted(set(found) - expected)]
    problems += [f"post {key} is there {often} times" for key, often in found.items() if often > 1]
    if [post.seq for post in posts] != list(range(1, len(posts) + 1)):
        problems.append("the numbering has gaps")
    for log in logs:
        for line in lines(log):
            _, key, acknowledged = line.split()
            if hashes.get(key) != acknowledged:
                problems.append(f"acknowledged {key} lost or changed")
    if {post.key: {"post": post.id} for post in posts} != outcomes:
        problems.append("posts and outcomes of items differ")
    if journal != len(outcomes):
        problems.append("journal and outcomes differ")
    return problems


def hammer(
    url: str, folder: Path, *, steps: int, kills: int, keys: bool = True
) -> tuple[list[str], dict[str, int]]:
    """Runs two writers, a reader and the killer; returns the problems and what the kills hit."""
    progress, moments = Progress(), random.Random(7)
    logs = {name: folder / f"{name}.log" for name in WRITERS}
    # Kills are spread over the work, not over the time: a fast machine must not finish before them.
    points = sorted(moments.uniform(0, 1.7 * steps) for _ in range(kills))
    reached = {"kills": 0, "in a transaction": 0}

    def start(name: str) -> int:
        work = lambda: write(url, name, logs[name], progress, steps=steps, keys=keys)  # noqa: E731
        return forked(lambda: guarded(work, logs[name]))

    Database.open(url).close()
    reader = forked(lambda: guarded(lambda: read_along(url, progress), folder / "reader.log"))
    running = {name: start(name) for name in WRITERS}
    failed = set()
    while running:
        if reached["kills"] < kills and progress.total >= points[reached["kills"]]:
            victim = moments.choice(list(running))
            time.sleep(moments.uniform(0, 0.004))
            child = running.pop(victim)
            if kill(child):
                reached["kills"] += 1
                reached["in a transaction"] += progress.get(victim)[1] == INSIDE
                running[victim] = start(victim)
            elif logs[victim].with_suffix(".errors").exists():
                failed.add(victim)
        for name, child in list(running.items()):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                del running[name]
                if os.waitstatus_to_exitcode(status):
                    failed.add(name)
        time.sleep(0.001)
    progress.end()
    os.waitpid(reader, 0)
    problems = [error.read_text() for error in sorted(folder.glob("*.errors"))]
    return problems + check(url, list(logs.values()), steps), reached


def backend(url: str) -> str:
    return "PostgreSQL" if url.startswith("postgres") else "SQLite"


def test_two_killed_writers_lose_and_repeat_nothing(bar: Any, database_url: str, tmp_path: Path) -> None:
    steps, kills = bar.size(5000, short=160), bar.size(50, short=8)
    began = time.monotonic()
    problems, reached = hammer(database_url, tmp_path, steps=steps, kills=kills)
    bar.part(
        f"2 writers and 1 reader on {backend(database_url)}",
        cases=2 * steps,
        failed=problems,
        needed=bar.size(10_000, short=1),
        reached=reached,
        kills_wanted=kills,
        seconds=round(time.monotonic() - began, 1),
    )
    assert reached["kills"] == kills


def test_the_bar_catches_writers_without_idempotency_keys(bar: Any, tmp_path: Path) -> None:
    steps = 200
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    problems, reached = hammer(url, tmp_path, steps=steps, kills=4, keys=False)
    twice = [problem for problem in problems if "times" in problem]
    bar.broken("posts without an idempotency key", cases=2 * steps, failed=twice, reached=reached)


# --- one file, made by many -----------------------------------------------------------------------


def test_many_processes_create_one_file_together(bar: Any, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom docendo.memory import Journal\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "Journal.open(sys.argv[1]).put(sys.argv[3], {})\n"
    )
    path, begin = tmp_path / "memory.db", str(time.time() + 3)
    command = [sys.executable, "-P", "-c", code, str(path), begin]
    children = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(6)]
    errors = [child.communicate()[1].strip().rpartition("\n")[2] for child in children]
    failed = [error for child, error in zip(children, errors, strict=True) if child.returncode]
    with Journal.open(path) as journal:
        assert journal.verify().records == 6 - len(failed)
    bar.part("6 started processes create one file together", cases=6, failed=failed)


def together(folder: Path, attempts: int, processes: int, work: Any) -> list[str]:
    """Forks processes that do something to one new file in the same instant; returns what failed."""
    failed = []
    for attempt in range(attempts):
        path, begin, children = folder / f"{attempt}.db", time.time() + 0.05, []

        def one(index: int, path: Path = path, begin: float = begin) -> None:
            time.sleep(max(0, begin - time.time()))
            guarded(lambda: work(path, str(index)), path.with_name(f"{path.stem}-{index}.log"))

        children = [forked(lambda i=index: one(i)) for index in range(processes)]
        for index, child in enumerate(children):
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                failed.append((folder / f"{attempt}-{index}.errors").read_text())
    return failed


def put(path: Path, key: str) -> None:
    with Journal.open(path) as journal:
        journal.put(key, {})


def test_forked_processes_create_one_file_together(bar: Any, tmp_path: Path) -> None:
    attempts = bar.size(40, short=6)
    failed = together(tmp_path, attempts, 4, put)
    for attempt in range(attempts):
        with Journal.open(tmp_path / f"{attempt}.db") as journal:
            if journal.verify().records != 4 and not failed:
                failed.append(f"{attempt}: an entry is lost")
    bar.part("4 forked processes create one file together", cases=4 * attempts, failed=failed)


# --- another library on the same tests ------------------------------------------------------------


def converse(path: Path, name: str, log: Path, turns: int) -> None:
    """Takes turns on one LangGraph thread, noting each turn that `invoke` has returned from."""
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        turns: Annotated[list[str], operator.add]
        now: str

    graph = StateGraph(State)
    graph.add_node("say", lambda state: {"turns": [state["now"]]})
    graph.add_edge(START, "say")
    graph.add_edge("say", END)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    compiled = graph.compile(checkpointer=SqliteSaver(connection))
    config: Any = {"configurable": {"thread_id": "one"}}
    with log.open("a") as acknowledged:
        for turn in range(turns):
            compiled.invoke({"now": f"{name}/{turn}"}, config, durability="sync")
            acknowledged.write(f"{name}/{turn}\n")
            acknowledged.flush()
    if name == "reader":
        (log.with_suffix(".found")).write_text("\n".join(compiled.get_state(config).values["turns"]))


def test_anchor_langgraph_two_processes_on_one_thread(bar: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("langgraph.checkpoint.sqlite") is None:
        pytest.skip("langgraph-checkpoint-sqlite is not installed")
    turns, path = bar.size(100, short=10), tmp_path / "saver.db"
    logs = {name: tmp_path / f"{name}.log" for name in WRITERS}
    converse(path, "first", tmp_path / "first.log", 1)  # the file exists before both open it
    children = [
        forked(lambda n=name, p=log: guarded(lambda: converse(path, n, p, turns), p))
        for name, log in logs.items()
    ]
    failed = [os.waitpid(child, 0)[1] for child in children]
    reader = forked(lambda: converse(path, "reader", tmp_path / "reader.log", 1))
    assert os.waitpid(reader, 0)[1] == 0
    found = set((tmp_path / "reader.found").read_text().splitlines())
    said = [line for log in logs.values() for line in lines(log)]
    bar.anchor(
        "LangGraph and SqliteSaver, 2 processes on one thread, no kills",
        cases=len(said),
        failed=[line for line in said if line not in found],
        note="turns that `invoke` had acknowledged and the thread's state no longer holds",
        processes_failed=sum(map(bool, failed)),
    )


def make_saver(path: Path, _: str) -> None:
    from langgraph.checkpoint.sqlite import SqliteSaver

    connection = sqlite3.connect(path, check_same_thread=False)
    SqliteSaver(connection).setup()
    connection.close()


def test_anchor_langgraph_creates_one_file_together(bar: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("langgraph.checkpoint.sqlite") is None:
        pytest.skip("langgraph-checkpoint-sqlite is not installed")
    attempts = bar.size(40, short=3)
    bar.anchor(
        "LangGraph's SqliteSaver, 4 forked processes create one file together",
        cases=4 * attempts,
        failed=together(tmp_path, attempts, 4, make_saver),
        note='processes that end with an error, such as "database is locked"',
    )
