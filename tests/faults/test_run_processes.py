"""Several processes, one database: runs side by side, two that want the same run, kills while pruning.

This file is also the program that runs: `python test_run_processes.py COMMAND DATABASE FOLDER NAME`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ITEMS = 12


# --- the program ----------------------------------------------------------------------------------


def graph(wait: float) -> Any:
    import asyncio

    from docendo import SamplingParams, ScriptedEngine, Student, Teacher, Tutor, Verifier, graphs
    from docendo.evals import ExactScorer

    class Slow(ScriptedEngine):
        async def agenerate(self, request: Any) -> Any:
            await asyncio.sleep(wait)
            return await super().agenerate(request)

    def play(request: Any) -> Any:
        if request.origin.role == "tutor":
            return ["Look again."]
        return (
            f"Answer: {request.sampling.seed % 5}"
            if request.origin.role == "student"
            else ["Answer: 2", "no"]
        )

    engine = Slow(play)
    return graphs.tutoring(
        student=Student(engine),
        tutor=Tutor(engine, sampling=SamplingParams(n=1), system=""),
        teacher=Teacher(engine, sampling=SamplingParams(n=2)),
        verifier=Verifier(ExactScorer()),
    )


def start(database: str, folder: Path, name: str, *, wait: float = 0.01, **options: Any) -> Any:
    import docendo
    from docendo.evals import make_item

    items = [make_item(f"What is {n} + {n}?", 2 * n) for n in range(ITEMS)]
    return docendo.run(
        graph(wait),
        items,
        name=name,
        folder=folder,
        seed=int(name.rpartition("-")[2]),
        database=database,
        resume=True,
        concurrency=3,
        quiet=True,
        **options,
    )


def main() -> None:
    command, database, folder, name = sys.argv[1:]
    if command == "run":
        print("up", flush=True)
        start(database, Path(folder), name).close()
        return
    from docendo.graphs import prune_runs

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if command == "prune-folder":
        import shutil

        shutil.rmtree = die  # type: ignore[assignment]
    elif command == "prune-claimed":
        os.rename = die  # type: ignore[assignment]
    else:
        from docendo.memory.runs import _pruning

        _pruning._sweep_payloads = die  # type: ignore[assignment]
    prune_runs(database, names=[name], dry=False)


# --- the tests ------------------------------------------------------------------------------------


def launch(command: str, database: str, folder: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, command, database, str(folder), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = child.communicate(timeout=240)
    return child.returncode, error


def contents(run: Any) -> tuple[Any, ...]:
    posts = sorted(
        (p.kind, p.item, p.key.partition("/")[2], str(p.body.get("text")))
        for p in run.board.posts(run=run.name)
    )
    traces = sorted((t.item, t.node, t.step, t.sample, t.completion) for t in run.traces())
    outcomes = {item: (o["solved"], o["answer"]) for item, o in run.outcomes.items()}
    return posts, traces, outcomes


@pytest.mark.slow
def test_runs_of_several_processes_on_one_database(database_url: str, tmp_path: Path) -> None:
    """Three processes with a run each, killed and started again at random: nothing is lost or mixed up."""
    from docendo import Run
    from docendo.memory import Database, RunStore, verify

    names = ["run-1", "run-2", "run-3"]
    rng = random.Random(7)
    kills = 0
    for _ in range(4):
        children = [launch("run", database_url, tmp_path, name) for name in names]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()  # libraries are loaded
        for child in rng.sample(children, 2):
            time.sleep(rng.uniform(0.0, 0.4))
            child.kill()
        for child in children:
            code, error = finish(child)
            assert code in (0, -9), error
            kills += code == -9
    assert kills >= 2, "no process died while it ran"
    for name in names:
        code, error = finish(launch("run", database_url, tmp_path, name))
        assert code == 0, error
    with Database.open(database_url) as database:
        assert [(row.run, row.status) for row in sorted(RunStore(database).list(), key=lambda r: r.run)] == [
            (name, "finished") for name in names
        ]
        assert [str(d) for report in verify(database) for d in report.damage] == []
    for name in names:
        alone = tmp_path / "alone"
        with (
            start(str(tmp_path / f"{name}.db"), alone, name, wait=0.0) as expected,
            Run.open(tmp_path / name, database=database_url) as found,
        ):
            assert contents(found) == contents(expected)


def test_of_two_processes_that_resume_one_run_one_goes_on(database_url: str, tmp_path: Path) -> None:
    for attempt in range(2):
        name = f"run-{attempt}"
        children = [launch("run", database_url, tmp_path, name) for _ in range(2)]
        ended = [finish(child) for child in children]
        failed = [error for code, error in ended if code]
        # If one was so late that the other had finished, both succeed.
        assert len(failed) <= 1
        for error in failed:
            assert "ResumeError: run 'run-" in error
            assert "is running in process" in error
        with start(database_url, tmp_path, name) as run:
            assert len(run.outcomes) == ITEMS


def test_a_process_that_holds_the_run_is_named(database_url: str, tmp_path: Path) -> None:
    from docendo.errors import ResumeError
    from docendo.memory import RunStore

    with RunStore.open(database_url) as runs:
        start(database_url, tmp_path, "run-0", wait=0.0).close()
        runs.claim("run-0")
        with pytest.raises(ResumeError, match=f"is running in process {os.getpid()} on"):
            start(database_url, tmp_path, "run-0")
        runs.end("run-0", "interrupted")
        with start(database_url, tmp_path, "run-0") as run:
            assert len(run.outcomes) == ITEMS


@pytest.mark.parametrize(("command", "left"), [("prune-claimed", "whole"), ("prune-folder", "nothing")])
def test_a_kill_while_a_folder_is_pruned(tmp_path: Path, command: str, left: str) -> None:
    from docendo import Run
    from docendo.graphs import list_runs, prune_runs

    own = tmp_path / "runs" / "run-0" / "docendo.db"
    with start(str(own), tmp_path / "runs", "run-0", wait=0.0) as run:
        expected = contents(run)
    code, error = finish(launch(command, str(tmp_path / "runs"), tmp_path, "run-0"))
    assert code == -9, error
    found = list_runs(tmp_path / "runs")
    if left == "whole":
        assert [info.status for info in found] == ["finished"]
        with Run.open(tmp_path / "runs" / "run-0") as run:
            assert contents(run) == expected
        start(str(own), tmp_path / "runs", "run-0", wait=0.0).close()  # and it can be gone on with
        return
    assert found == []
    assert [entry.name.startswith(".pruned-run-0-") for entry in (tmp_path / "runs").iterdir()] == [True]
    prune_runs(tmp_path / "runs", keep=0, dry=False)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_kill_while_a_shared_database_is_pruned(database_url: str, tmp_path: Path) -> None:
    from docendo import Run
    from docendo.graphs import prune_runs
    from docendo.memory import Database, verify

    for name in ("run-0", "run-1"):
        start(database_url, tmp_path, name, wait=0.0).close()
    with Run.open(tmp_path / "run-0", database=database_url) as run:
        expected = contents(run)
    code, error = finish(launch("prune-rows", database_url, tmp_path, "run-0"))
    assert code == -9, error
    with Run.open(tmp_path / "run-0", database=database_url) as run:
        assert contents(run) == expected
        assert run.summary()["done"] == ITEMS
    (done,) = prune_runs(database_url, names=["run-0"], dry=False)
    assert done.removed is not None
    assert done.removed.texts
    with Database.open(database_url) as database:
        assert [str(d) for report in verify(database) for d in report.damage] == []
    with Run.open(tmp_path / "run-1", database=database_url) as run:
        assert run.summary()["done"] == ITEMS


if __name__ == "__main__":
    main()
