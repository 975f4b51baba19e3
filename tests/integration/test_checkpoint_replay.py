"""A finished node that runs again after a crash, as LangGraph lets it: nothing is generated or posted twice.

Under `durability="sync"` LangGraph does not order a node's writes before the next checkpoint. Here the
writes are delayed and the process is killed with SIGKILL at every checkpoint in turn, and once more between
the end of a graph and the storing of its outcome, each time in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = """
import os, signal, sys, time
from pathlib import Path
import docendo
from docendo import Request, SamplingParams, ScriptedEngine, Student, Teacher, Tutor, Verifier, graphs
from docendo.evals import ExactScorer, make_item
from docendo.graphs import _tutoring
from docendo.memory import RunStore

folder, durability, deadly = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ITEMS = [make_item(f"What is {n} + {n}?", 2 * n) for n in (10, 11)]

def note(name, text):
    with (folder / name).open("a") as log:
        log.write(text + "\\n")

class Noting(ScriptedEngine):
    async def agenerate(self, request: Request):
        note("calls", f"{request.origin.item} {request.origin.node} {request.sampling.seed}")
        return await super().agenerate(request)

def play(request):
    if request.origin.role == "tutor":
        return ["Look again."]
    if request.origin.role == "student":
        return "Answer: 1"
    return ["Answer: 2", f"Answer: {request.sampling.seed}"]

def watched(name):
    inner = getattr(_tutoring._Nodes, name)
    async def node(self, state, context):
        note("nodes", f"{state['item']} {name} {len(state.get('attempts', []))}")
        return await inner(self, state, context)
    node.__name__ = name
    setattr(_tutoring._Nodes, name, node)

for name in ("attempt", "grade", "hint", "demonstrate"):
    watched(name)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

count = 0
with graphs.checkpointer(folder / "checkpoints.db") as saver:
    put, put_writes = saver.put, saver.put_writes

    def late(*args, **options):
        time.sleep(0.05)
        return put_writes(*args, **options)

    def deadly_put(*args, **options):
        global count
        count += 1
        if count == deadly:
            die()
        return put(*args, **options)

    saver.put, saver.put_writes = deadly_put, late
    if deadly == -1:
        RunStore.finish_item = lambda *args: die()
    engine = Noting(play)
    graph = graphs.tutoring(
        student=Student(engine),
        tutor=Tutor(engine, sampling=SamplingParams(n=1), system=""),
        teacher=Teacher(engine, sampling=SamplingParams(n=2)),
        verifier=Verifier(ExactScorer()),
        checkpointer=saver,
    )
    docendo.run(
        graph, ITEMS, name="r", folder=folder, resume=True, quiet=True, concurrency=1, durability=durability
    ).close()
"""


def run(folder: Path, durability: str, deadly: int) -> int:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", CHILD, str(folder), durability, str(deadly)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


def contents(folder: Path) -> tuple[Any, ...]:
    from docendo import Run

    with Run.open(folder / "r") as finished:
        traces = sorted((t.id, t.completion, t.messages) for t in finished.traces())
        return finished.board.digest(), finished.outcomes, traces


@pytest.mark.slow
@pytest.mark.parametrize(
    ("durability", "kills"),
    # Each process gets one checkpoint further than the one before; -1 kills it before an outcome is stored.
    [("sync", (1, 2, 2, 2, 2, -1, 2, 3, 2, 2, -1)), ("exit", (1, 1, 2, 1))],
)
def test_a_replayed_node_generates_and_posts_nothing_twice(
    tmp_path: Path, durability: str, kills: tuple[int, ...]
) -> None:
    assert run(tmp_path / "whole", durability, 0) == 0
    expected = contents(tmp_path / "whole")
    killed = tmp_path / "killed"
    deaths = [run(killed, durability, deadly) for deadly in kills]
    assert deaths == [-9] * len(kills), "a process ended before it was to be killed"
    assert run(killed, durability, 0) == 0
    assert contents(killed) == expected
    calls, nodes = lines(killed, "calls"), lines(killed, "nodes")
    assert sorted(calls) == sorted(lines(tmp_path / "whole", "calls"))  # each call once
    assert len(set(calls)) == len(calls)
    assert len(nodes) > len(set(nodes)), "no node ran a second time: the kills tested nothing"
    if durability == "sync":
        assert set(nodes) == set(lines(tmp_path / "whole", "nodes"))


def test_an_outcome_that_was_not_stored_is_taken_from_the_checkpoint(tmp_path: Path) -> None:
    assert run(tmp_path, "exit", -1) == -9
    before = lines(tmp_path, "nodes")
    assert run(tmp_path, "exit", 0) == 0
    first = before[0].split()[0]
    assert [line for line in lines(tmp_path, "nodes") if line.startswith(first)] == before
    assert len(json.loads((tmp_path / "r" / "summary.json").read_text())["failures"]) == 0
