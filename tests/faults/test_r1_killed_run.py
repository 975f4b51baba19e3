"""R1: A killed agent run resumes and ends like one that nobody disturbed.

A tutoring run of four roles on a real (tiny) model is killed with SIGKILL at random moments and at every
named point (before and after each post, trace, journal entry, commit, outcome, checkpoint, file), up to three
times, and resumed each time. It must end with the posts, traces and answers of an undisturbed run, and no
call that had finished may be generated again. The engine is `invariant`, so equal is equal to the last bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import pytest
from fault_forks import Order, Points, Ready, Server, serving, visits

pytestmark = pytest.mark.slow

ITEMS, SEED, KILLS = 4, 5, 3


# --- in the process that is killed ------------------------------------------------------------------


def works(model: str) -> dict[str, Callable[[Order, Ready], object]]:
    import langgraph.checkpoint.sqlite
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from docendo import Engine, graphs

    _ = Engine, graphs.tutoring, graphs.checkpointer, make_task(), langgraph
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return {"tutoring": lambda order, ready: tutor(loaded, tokenizer, order, ready), "langgraph": converse}


def make_task() -> Any:
    from docendo import evals

    return evals.tasks("reasoning_gym:chain_sum", train=ITEMS, test=0, min_terms=2, max_terms=3, max_digits=1)


def call_key(engine: Any, request: Any) -> str:
    """The key under which a run's journal keeps a call."""
    from docendo.hashing import digest

    adapter = engine.adapter_hash(request.adapter)
    return digest("generate", engine.fingerprint, adapter, list(request.prompt), request.sampling.to_json())


def name_points(points: Points) -> None:
    """Puts the named points around everything that writes."""
    from docendo.agents import Engine
    from docendo.graphs import _run, _savers
    from docendo.memory import Blackboard, Database, Journal, RunStore, TraceStore

    points.around(Blackboard, "post", "a post")
    points.around(Blackboard, "trust", "a change of trust")
    points.around(Journal, "put", "a journal entry")
    points.around(TraceStore, "add", "traces")
    points.around(TraceStore, "reward", "a reward")
    points.around(RunStore, "start", "the run's start")
    points.around(RunStore, "finish_item", "an item's outcome")
    points.around(RunStore, "end", "the run's end")
    points.around(Database, "_commit", "a commit", when=lambda database, connection, write: write)
    points.around(Engine, "_job", "a generation is queued")
    points.around(_run, "write_json", "a JSON file")
    points.around(_run, "write_text", "the items' file")
    points.around(_savers.FileSaver, "put", "a checkpoint")
    points.around(_savers.FileSaver, "put_writes", "a checkpoint's writes")


def tutor(model: Any, tokenizer: Any, order: Order, ready: Ready) -> None:
    """Runs, or resumes, the tutoring run in a folder; notes each call before it starts."""
    from docendo import Engine, Student, Teacher, Tutor, Verifier, graphs
    from docendo.agents import _context
    from docendo.memory import Blackboard, Journal
    from docendo.records import SamplingParams

    folder = Path(order["folder"])
    log = os.open(folder / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    name_points(Points(folder / "points.log", order.get("point")))

    class Noting(Engine):
        def _job(self, request: Any, *args: Any) -> Any:
            os.write(log, f"{call_key(self, request)}\n".encode())
            return super()._job(request, *args)

    class Forgetful(Journal):
        def get(self, key: str) -> None:
            return None

        def put(self, key: str, value: Any) -> Any:
            return dict(value)

    if order["broken"] == "journal":
        _context.Journal = Forgetful  # type: ignore[misc]
    if order["broken"] == "keys":
        post = Blackboard.post

        def other(self: Any, *args: Any, key: str, **options: Any) -> Any:
            return post(self, *args, key=f"{key}#{uuid.uuid4()}", **options)

        Blackboard.post = other  # type: ignore[method-assign]

    task = make_task()
    with Noting(model, tokenizer, determinism="invariant") as engine:
        sampling = SamplingParams(temperature=1.0, max_tokens=8)
        roles: dict[str, Any] = {
            "student": Student(engine, sampling=sampling),
            "tutor": Tutor(engine, sampling=sampling.replace(n=2)),
            "teacher": Teacher(engine, examples=task.examples(2), sampling=sampling.replace(n=4)),
            "verifier": Verifier(task.scorer),
        }
        options = {"name": "run", "folder": folder, "seed": SEED, "concurrency": 4, "resume": True}
        ready()
        if order["checkpoints"]:
            with graphs.checkpointer(folder / "checkpoints.db") as saver:
                graph = graphs.tutoring(**roles, retries=2, checkpointer=saver)
                graphs.run(graph, task.train, durability="sync", quiet=True, **options).close()
        else:
            graph = graphs.tutoring(**roles, retries=2)
            graphs.run(graph, task.train, database=order["url"], quiet=True, **options).close()


# --- what is left -----------------------------------------------------------------------------------


@dataclass
class Place:
    """Where one run lives: its folder, and its database if that is elsewhere."""

    folder: Path
    url: str | None = None
    checkpoints: bool = False
    broken: str = ""

    def order(self) -> Order:
        self.folder.mkdir(exist_ok=True, parents=True)
        return {
            "folder": str(self.folder),
            "url": self.url,
            "checkpoints": self.checkpoints,
            "broken": self.broken,
        }

    def calls(self) -> list[str]:
        log = self.folder / "calls.log"
        return log.read_text().splitlines() if log.exists() else []

    def finished_calls(self) -> set[str]:
        """Keys of the calls that had finished when the process died: in the journal, or with a stored trace.

        Reads a copy of a file, so that what the next process finds is what the dead one left.
        """
        from docendo.errors import DataError
        from docendo.hashing import digest
        from docendo.memory import Database, Journal, TraceStore

        target: str | Path | None = self.url
        if target is None:
            copy = self.folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            if not (self.folder / "run" / "docendo.db").exists():
                return set()
            shutil.copytree(self.folder / "run", copy)
            target = copy / "docendo.db"
        try:
            opened = Database.open(target, create=False)
        except DataError:  # killed before there were tables
            return set()
        with opened as database:
            journal = Journal(database)
            found = {key for key in set(self.calls()) if journal.get(key) is not None}
            for trace in TraceStore(database).find():
                author, asked = trace.author, (list(trace.messages), dict(trace.sampling))
                found.add(digest("generate", author.model, author.adapter, *asked))
        return found

    def result(self) -> dict[str, Any]:
        """What an interruption must not change."""
        from docendo.graphs import Run
        from docendo.memory import verify

        with Run.open(self.folder / "run", database=self.url) as run:
            damage = [str(each) for report in verify(run.board.database) for each in report.damage]
            traces = sorted(
                (t.id, t.messages, t.completion, t.token_ids, t.parents, sorted(t.rewards.items()))
                for t in run.traces()
            )
            keys = Counter(post.key.partition("#")[0] for post in run.board.posts())
            return {
                "damage": damage,
                "posts' keys": sorted(keys),
                "posts": run.board.digest(),
                "twice": sorted(key for key, often in keys.items() if often > 1),
                "traces": json.dumps(traces),
                "outcomes": run.outcomes,
                "items.jsonl": (self.folder / "run" / "items.jsonl").read_text(),
            }


@dataclass
class Tally:
    """What came of all the runs that were killed."""

    runs: int = 0
    problems: list[str] = field(default_factory=list)
    moments: int = 0
    points: Counter[str] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)

    @property
    def reached(self) -> dict[str, int]:
        return {
            "kills at random moments": self.moments,
            "kills at named points": self.points.total(),
            "different points": len(self.points),
        }


def hammer(
    server: Server,
    places: Iterator[Place],
    *,
    runs: int,
    only: Sequence[str] = (),
    seed: int = 0,
) -> Tally:
    """Kills and resumes so many runs; kills at random moments and at named points take turns.

    Args:
        server: Forks the runs.
        places: Where they live, the undisturbed one first.
        runs: How many are killed.
        only: Named points to die at; by default all that the undisturbed run visits.
        seed: Of the moments and points.
    """
    whole = next(places)
    duration = server.run("tutoring", fine=(0,), **whole.order()).seconds
    expected, total = whole.result(), whole.calls()
    assert len(total) == len(set(total))
    found, _ = visits(whole.folder / "points.log")
    names = sorted(only or found)
    rng, tally = random.Random(seed), Tally(runs=runs, known=set(found))
    tried = Counter[str]()
    for number in range(runs):
        place, done = next(places), set[str]()
        kills = rng.randint(1, KILLS)
        for attempt in range(kills + 1):
            order, before = place.order(), len(place.calls())
            if attempt < kills and (only or (number + attempt) % 2 == 0):
                name = min(names, key=lambda each: (tally.points[each], tried[each], each))
                tried[name] += 1
                # Later processes have less to do, so they visit a point less often.
                order["point"] = (name, rng.randint(1, max(1, found[name] // (attempt + 1))))
            elif attempt < kills:
                order["kill_after"] = rng.uniform(0, duration)
            ended = server.run("tutoring", **order)
            if again := done & set(place.calls()[before:]):
                tally.problems.append(f"run {number}: {len(again)} finished calls were generated again")
            if ended.killed:
                if "point" in order:
                    tally.points[order["point"][0]] += 1
                else:
                    tally.moments += 1
                done = place.finished_calls()
            elif attempt == kills or "point" not in order:
                break
        tally.problems += [f"run {number}: {line}" for line in differences(place, expected, set(total))]
        shutil.rmtree(place.folder)
    return tally


def differences(place: Place, expected: dict[str, Any], calls: set[str]) -> list[str]:
    """How a resumed run ended differently from the undisturbed one."""
    found = place.result()
    lost = set(expected["posts' keys"]) - set(found["posts' keys"])
    problems = [f"lost post {key}" for key in sorted(lost)]
    problems += [f"post {key} is there twice" for key in found["twice"]]
    problems += [f"other {name}" for name in expected if found[name] != expected[name]]
    if set(place.calls()) != calls:
        problems.append("other calls")
    if place.finished_calls() != set(place.calls()):
        problems.append("calls and journal differ")
    return problems


# --- the tests --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(guessing_model_dir: Path) -> Iterator[Server]:
    with serving(__file__, str(guessing_model_dir)) as found:
        yield found


def folders(tmp_path: Path, **options: Any) -> Iterator[Place]:
    number = 0
    while True:
        yield Place(tmp_path / f"run-{number}", **options)
        number += 1


def report(bar: Any, name: str, tally: Tally, runs: int) -> None:
    problems, reached = tally.problems, {"kills": tally.moments + tally.points.total()}
    if bar.full:  # the short form has too few kills for all of them
        problems = problems + [f"nothing died {name}" for name in sorted(tally.known - set(tally.points))]
        reached = tally.reached
    bar.part(
        name,
        cases=tally.runs,
        failed=problems,
        needed=runs,
        reached=reached,
        points=dict(sorted(tally.points.items())),
    )


def test_a_killed_run_ends_like_an_undisturbed_one(bar: Any, server: Server, tmp_path: Path) -> None:
    runs = bar.size(100, short=3)
    report(bar, "runs on SQLite", hammer(server, folders(tmp_path), runs=runs), runs)


def test_a_killed_run_with_checkpoints(bar: Any, server: Server, tmp_path: Path) -> None:
    runs = bar.size(40, short=1)
    tally = hammer(server, folders(tmp_path, checkpoints=True), runs=runs, seed=1)
    report(bar, "runs on SQLite with a checkpoint at every step", tally, runs)


def test_a_killed_run_on_postgresql(
    bar: Any, server: Server, postgres_url: str, postgres_databases: Any, tmp_path: Path
) -> None:
    renamed = sys.modules["docendo_test_postgres"].renamed

    def databases() -> Iterator[Place]:
        number = 0
        while True:
            name = postgres_databases.empty()
            yield Place(tmp_path / f"run-{number}", renamed(postgres_url, name))
            postgres_databases.give_back(name)
            number += 1

    runs = bar.size(40, short=1)
    report(bar, "runs on PostgreSQL", hammer(server, databases(), runs=runs, seed=2), runs)


@pytest.mark.parametrize(
    ("broken", "name", "sign"),
    [
        ("journal", "runs without a journal", "were generated again"),
        ("keys", "posts whose keys differ each time", "is there twice"),
    ],
)
def test_the_bar_catches(bar: Any, server: Server, tmp_path: Path, broken: str, name: str, sign: str) -> None:
    runs = bar.size(5, short=1)
    # An outcome that is missing is what makes an item run again.
    tally = hammer(
        server, folders(tmp_path, broken=broken), runs=runs, only=["before an item's outcome"], seed=3
    )
    caught = [line for line in tally.problems if sign in line]
    bar.broken(name, cases=runs, failed=caught, reached={"kills": tally.points.total()})


# --- the same kills on bare LangGraph ---------------------------------------------------------------

ROLES = ("student", "tutor", "teacher", "verifier")


class Talk(TypedDict):
    said: list[str]


def converse(order: Order, ready: Ready) -> None:
    """Four nodes that post, on LangGraph's SqliteSaver; what was started is gone on with."""
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph

    folder = Path(order["folder"])
    points = Points(folder / "points.log", order.get("point"))
    for attribute, name in (("put", "a checkpoint"), ("put_writes", "a checkpoint's writes")):
        points.around(SqliteSaver, attribute, name)
    posts = sqlite3.connect(folder / "posts.db", isolation_level=None)
    posts.execute("CREATE TABLE IF NOT EXISTS posts (role TEXT, text TEXT)")

    def speaking(role: str) -> Callable[[Talk], dict[str, list[str]]]:
        def speak(state: Talk) -> dict[str, list[str]]:
            time.sleep(0.005)
            text = f"{role} after {len(state['said'])}"
            points.at("before a post")
            posts.execute("INSERT INTO posts VALUES (?, ?)", (role, text))
            points.at("after a post")
            time.sleep(0.005)
            return {"said": [*state["said"], text]}

        return speak

    builder = StateGraph(Talk)
    for before, role in zip((START, *ROLES), ROLES, strict=False):
        builder.add_node(role, speaking(role))
        builder.add_edge(before, role)
    builder.add_edge(ROLES[-1], END)
    with SqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
        graph = builder.compile(checkpointer=saver)
        thread: Any = {"configurable": {"thread_id": "1"}}
        ready()
        known = graph.get_state(thread).metadata is not None
        state = graph.invoke(None if known else {"said": []}, thread, durability=order["mode"])
    (folder / "said.json").write_text(json.dumps(state["said"]))


@pytest.mark.parametrize("mode", ["exit", "async", "sync"])
def test_anchor_langgraph(bar: Any, server: Server, tmp_path: Path, mode: str) -> None:
    runs, rng = bar.size(100, short=3), random.Random(4)
    whole = tmp_path / "whole"
    whole.mkdir()
    duration = server.run("langgraph", folder=str(whole), mode=mode).seconds
    found, _ = visits(whole / "points.log")
    names, expected = sorted(found), json.loads((whole / "said.json").read_text())
    twice, lost, moments, died, turn = 0, 0, 0, Counter[str](), 0
    for number in range(runs):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        kills = rng.randint(1, KILLS)
        for attempt in range(kills + 1):
            order: Order = {"folder": str(folder), "mode": mode}
            if attempt < kills and (number + attempt) % 2:
                name, turn = names[turn % len(names)], turn + 1
                order["point"] = (name, rng.randint(1, found[name]))
            elif attempt < kills:
                order["kill_after"] = rng.uniform(0, duration)
            ended = server.run("langgraph", **order)
            moments += ended.killed and "kill_after" in order
        died.update(visits(folder / "points.log")[1])
        with closing(sqlite3.connect(folder / "posts.db")) as posts:
            often = Counter(row[0] for row in posts.execute("SELECT role FROM posts"))
        twice += sum(count - 1 for count in often.values())
        lost += len(set(ROLES) - set(often)) + (json.loads((folder / "said.json").read_text()) != expected)
    bar.anchor(
        f"LangGraph and SqliteSaver, 4 nodes, durability {mode!r}",
        cases=4 * runs,
        failed=twice + lost,
        note="posts that are there again or missing, of nodes that post without a key",
        reached={"kills at random moments": moments, "kills at named points": died.total()},
        twice=twice,
        lost=lost,
    )
