"""A tutoring run on a real (tiny) model is killed with SIGKILL at random moments and resumed each time.

It must end with the posts, traces and answers of a run that nobody disturbed, and no finished call may be
generated twice. This file is also the program that is killed: `python test_run_kill.py MODEL`.

SIGKILL is not power loss: the page cache survives it.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KILLS = 20
ITEMS = 8
SEED = 5


# --- the program that is killed -------------------------------------------------------------------


def call_key(engine: Any, request: Any) -> str:
    """The key under which a run's journal keeps a call."""
    from docendo.hashing import digest

    adapter = engine.adapter_hash(request.adapter)
    return digest("generate", engine.fingerprint, adapter, list(request.prompt), request.sampling.to_json())


def make_task() -> Any:
    from docendo import evals

    return evals.tasks("reasoning_gym:chain_sum", train=ITEMS, test=0, min_terms=2, max_terms=3, max_digits=1)


def run_once(model: Any, tokenizer: Any, folder: Path, *, journal: bool, ready: int) -> None:
    """Runs, or resumes, the tutoring run in `folder`; notes each call before it starts."""
    from docendo import Engine, Student, Teacher, Tutor, Verifier, graphs
    from docendo.agents import _context
    from docendo.memory import Journal
    from docendo.records import SamplingParams

    log = os.open(folder / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    class Noting(Engine):
        def _job(self, request: Any, *args: Any) -> Any:
            os.write(log, f"{call_key(self, request)}\n".encode())
            return super()._job(request, *args)

    if not journal:

        class Forgetful(Journal):
            def get(self, key: str) -> None:
                return None

            def put(self, key: str, value: Any) -> Any:
                return dict(value)

        _context.Journal = Forgetful  # type: ignore[misc]

    task = make_task()
    with Noting(model, tokenizer) as engine:
        sampling = SamplingParams(temperature=1.0, max_tokens=8)
        graph = graphs.tutoring(
            student=Student(engine, sampling=sampling),
            tutor=Tutor(engine, sampling=sampling.replace(n=2)),
            teacher=Teacher(engine, examples=task.examples(2), sampling=sampling.replace(n=4)),
            verifier=Verifier(task.scorer),
            retries=2,
        )
        os.write(ready, b"r")
        graphs.run(
            graph, task.train, name="run", folder=folder, seed=SEED, concurrency=4, resume=True, quiet=True
        ).close()
    os.write(ready, b"e")


def serve() -> None:
    """Loads libraries and model once; then forks a process for each line on stdin, and says how it ended.

    A fork starts in milliseconds, so that the kills hit the run and not its imports. With one OpenMP
    thread torch has started no thread before the fork.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from docendo import Engine, graphs

    _ = Engine, graphs.tutoring, make_task()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    print("up", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            try:
                run_once(model, tokenizer, Path(order["folder"]), journal=order["journal"], ready=write)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        os.close(write)
        died, seconds = _watch(child, read, order["kill_after"])
        os.close(read)
        print(json.dumps({"status": died, "seconds": seconds}), flush=True)


def _watch(child: int, pipe: int, kill_after: float | None) -> tuple[int, float]:
    """Kills the child so long after its run began, unless it has ended; returns exit status and duration."""
    began = None
    if os.read(pipe, 1) == b"r":
        began = time.monotonic()
        if kill_after is not None and not select.select([pipe], [], [], kill_after)[0]:
            os.kill(child, signal.SIGKILL)
        os.read(pipe, 1)  # the end of the run, or of the process
    seconds = time.monotonic() - began if began else 0.0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seconds


# --- the test -------------------------------------------------------------------------------------


class Server:
    """Starts runs in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self, folder: Path, *, kill_after: float | None = None, journal: bool = True
    ) -> tuple[bool, float]:
        """Runs or resumes; returns whether it was killed, and the seconds from its start to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder.mkdir(exist_ok=True)
        order = {
            "folder": str(folder),
            "kill_after": kill_after,
            "journal": journal,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        report = json.loads(self._process.stdout.readline())
        assert report["status"] in (0, -signal.SIGKILL), "the run failed by itself; see stderr"
        return report["status"] != 0, report["seconds"]


@contextmanager
def serving(model: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, __file__, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "up\n"
        yield Server(process)
        process.stdin.close()


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path) -> Iterator[Server]:
    with serving(tiny_model_dir) as found:
        yield found


def calls(folder: Path) -> list[str]:
    log = folder / "calls.log"
    return log.read_text().splitlines() if log.exists() else []


def finished_calls(folder: Path, scratch: Path) -> set[str]:
    """Keys of the calls that had finished when the process died: in the journal, or with a stored trace.

    Reads a copy, so that the files the next process finds are those the dead one left.
    """
    from docendo.hashing import digest
    from docendo.memory import Database, Journal, TraceStore

    shutil.rmtree(scratch, ignore_errors=True)
    source = folder / "run"
    if not (source / "docendo.db").exists():
        return set()
    shutil.copytree(source, scratch)
    with Database.open(scratch / "docendo.db") as database:
        journal = Journal(database)
        found = {key for key in calls(folder) if journal.get(key) is not None}
        for trace in TraceStore(database).find():
            author = trace.author
            found.add(
                digest("generate", author.model, author.adapter, list(trace.messages), dict(trace.sampling))
            )
    return found


def result(folder: Path) -> dict[str, Any]:
    """What an interruption must not change."""
    from docendo.graphs import Run

    with Run.open(folder / "run") as run:
        assert run.board.verify().ok
        traces = sorted(
            (t.id, t.messages, t.completion, t.token_ids, t.parents, sorted(t.rewards.items()))
            for t in run.traces()
        )
        return {
            "posts": run.board.digest(),
            "traces": json.dumps(traces),
            "outcomes": run.outcomes,
            "items.jsonl": (folder / "run" / "items.jsonl").read_text(),
        }


def hammer(
    server: Server, tmp_path: Path, *, kills: int, journal: bool = True
) -> tuple[list[str], list[float]]:
    """Kills and resumes runs until so many kills have hit; returns the problems and when the kills hit."""
    whole = tmp_path / "whole"
    killed, duration = server.run(whole, journal=journal)
    assert not killed
    expected, total = result(whole), len(calls(whole))
    assert total == len(set(calls(whole)))
    moments, hits, problems, number = random.Random(), [], [], 0
    while len(hits) < kills:
        number += 1
        folder, done = tmp_path / f"run-{number}", set[str]()
        while True:
            before = len(calls(folder))
            after = moments.uniform(0, duration) if len(hits) < kills else None
            killed, seconds = server.run(folder, kill_after=after, journal=journal)
            again = done & set(calls(folder)[before:])
            if again:
                problems.append(f"run {number}: {len(again)} finished calls were generated again")
            if not killed:
                break
            hits.append(seconds)
            done = finished_calls(folder, tmp_path / "copy")
        found = result(folder)
        problems += [f"run {number}: other {name}" for name in expected if found[name] != expected[name]]
        if set(calls(folder)) != set(calls(whole)):
            problems.append(f"run {number}: other calls")
        if finished_calls(folder, tmp_path / "copy") != set(calls(folder)):
            problems.append(f"run {number}: calls and journal differ")
    return problems, hits


def test_killed_runs_end_like_an_undisturbed_one(server: Server, tmp_path: Path) -> None:
    problems, hits = hammer(server, tmp_path, kills=KILLS)
    assert problems == []
    assert len(hits) >= KILLS
    print("kills hit after", sorted(round(hit, 2) for hit in hits), "seconds")


def test_the_check_catches_a_run_without_its_journal(server: Server, tmp_path: Path) -> None:
    # One kill may fall between two calls and cost nothing; that so many all do is out of the question.
    for attempt in range(KILLS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        problems, _ = hammer(server, folder, kills=1, journal=False)
        if any("were generated again" in problem for problem in problems):
            return
    pytest.fail(f"{KILLS} kills of a run without its journal, and no call was repeated")


if __name__ == "__main__":
    serve()
