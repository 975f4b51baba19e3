"""`docendo runs` from a shell's point of view."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import docendo
from docendo.cli import main
from docendo.memory import Blackboard, Database, Journal, RunStore, verify

GRAPH = """
import os
from docendo import SamplingParams, ScriptedEngine, Student, Teacher, Tutor, Verifier, graphs
from docendo.errors import ModelFailure
from docendo.evals import ExactScorer

class Noting(ScriptedEngine):
    async def agenerate(self, request):
        with open("calls.log", "a") as log:
            log.write(f"{request.origin.item} {request.origin.node}\\n")
        return await super().agenerate(request)

def play(request):
    if request.origin.role == "student":
        if "7 + 7" in request.prompt[0]["content"]:
            raise ModelFailure("the logits are NaN")
        if os.environ.get("DIE") and "6 + 6" in request.prompt[0]["content"]:
            os.kill(os.getpid(), 9)
        return "Answer: 1"
    if request.origin.role == "tutor":
        return ["Look again."]
    return [f"Answer: {request.sampling.seed % 97}", "no"]

def graph(retries=1):
    engine = Noting(play)
    return graphs.tutoring(
        student=Student(engine),
        tutor=Tutor(engine, sampling=SamplingParams(n=1), system=""),
        teacher=Teacher(engine, sampling=SamplingParams(n=2)),
        verifier=Verifier(ExactScorer()),
        retries=retries,
    )

def patient():
    return graph(retries=2)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a graph and a task, which is the working folder."""
    (tmp_path / "g.py").write_text(GRAPH)
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(2, 10)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*more: str, name: str = "first") -> int:
    return main(["run", "g.py:graph", "--task", "task.jsonl", "--train", "8", "--name", name, *more])


def calls(folder: Path) -> int:
    log = folder / "calls.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def runs(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    code = main(["runs", *arguments, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["runs", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(("-shm", "-wal"))
    }


def killed(folder: Path, name: str = "first") -> None:
    """Starts a run in a process that kills itself on the way."""
    command = [sys.executable, "-P", "-m", "docendo", "run", "g.py:graph", "--task", "task.jsonl"]
    done = subprocess.run(
        [*command, "--train", "8", "--name", name],
        env={**__import__("os").environ, "DIE": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == -9, done.stderr


def test_list_and_show(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start() == 0
    killed(here, "second")
    found = runs(capsys, "list")
    assert [(r["run"], r["graph"], r["status"], r["total"]) for r in found] == [
        ("first", "tutoring", "finished", 8),
        ("second", "tutoring", "stopped", 8),
    ]
    assert (found[0]["done"], found[0]["failed"]) == (7, 1)
    assert found[0]["done"] + found[0]["failed"] == 8 > found[1]["done"] + found[1]["failed"]
    assert found[0]["tokens"] > found[1]["tokens"] > 0
    assert found[0]["seconds"] > 0
    assert main(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "run",
        "graph",
        "status",
        "done",
        "failed",
        "items",
        "started",
        "seconds",
        "tokens",
    ]
    assert lines[2].startswith("second  tutoring  stopped ")

    shown = runs(capsys, "show", "first")
    assert shown["failures"] == {"model": 1}
    assert shown["outcomes"] == {"done": 7, "failed": 1}
    assert shown["usage"]["student"]["calls"] == 14
    assert shown["posts"] > 0 < shown["traces"]
    assert "runs/first/summary.json" in shown["files"]
    assert shown["resume"] == "docendo runs resume first"
    assert main(["runs", "show", "first"]) == 0
    out = capsys.readouterr().out
    for part in ("7 done, 1 failed of 8", "1 x model", "docendo runs resume first", "retries = 1"):
        assert part in out


def test_nothing_is_written_by_looking(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start() == 0
    before = contents(here / "runs" / "first")
    for arguments in (["list"], ["show", "first"], ["diff", "first", "first"], ["prune", "first"]):
        assert main(["runs", *arguments]) == 0
    assert contents(here / "runs" / "first") == before


def test_resume_needs_no_arguments_and_makes_no_call_twice(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(here)
    before = calls(here)
    assert before > 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")  # the stored names of files are relative to where it was started
    summary = runs(capsys, "resume", "first", "--in", "../runs")
    assert (summary["items"], summary["done"]) == (8, 7)
    assert (here / "runs" / "first" / "report.html").exists()
    monkeypatch.chdir(here)
    resumed = calls(here)
    assert start(name="whole") == 0
    once = calls(here) - resumed
    # Only what was on its way when the process died is asked for again: each of 8 items at most once.
    assert once <= resumed <= once + 8
    assert [r["status"] for r in runs(capsys, "list")] == ["finished", "finished"]
    found = runs(capsys, "diff", "first", "whole")
    assert (found["items"], found["config"], found["same"]) == ([], [], 8)


def test_a_run_from_python_names_the_call(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from docendo.evals import make_item

    sys.path.insert(0, str(here))
    try:
        import g
    finally:
        sys.path.remove(str(here))
    docendo.run(g.graph(), [make_item("What is 1 + 1?", 2)], name="mine", quiet=True).close()
    sys.modules.pop("g")
    for command in ("resume", "fork"):
        error = refused(capsys, command, "mine")
        assert "was started from Python, with objects that are not stored" in error
        assert f"docendo.run(graph, items, name='mine', folder='{here / 'runs'}', resume=True)" in error
    assert "docendo.run(graph, items, name='mine'" in runs(capsys, "show", "mine")["resume"]


def test_a_fork_asks_only_for_what_has_changed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--limit", "4") == 0
    before, asked = contents(here / "runs" / "first"), calls(here)
    summary = runs(capsys, "fork", "first", "--set", "limit=6")
    assert summary["items"] == 6
    more = calls(here) - asked
    assert 0 < more < asked  # the two new items alone
    assert runs(capsys, "list")[1]["parent"] == "first"

    asked = calls(here)
    runs(capsys, "fork", "first", "--graph", "g.py:patient", "--name", "patient")
    assert runs(capsys, "show", "patient")["config"]["retries"] == 2
    found = runs(capsys, "diff", "first", "patient")
    assert found["config"] == [{"field": "retries", "before": 1, "after": 2}]
    assert found["items"], "the graphs behave alike: the comparison shows nothing"
    turn = found["items"][0]["turn"]
    assert (turn["node"], turn["step"]) in {("attempt", 2), ("hint", 1)}
    assert turn["before"] is None
    assert calls(here) - asked < 4 * 5  # the first two attempts of each item come from the old run

    runs(capsys, "fork", "first", "--set", "seed=5", "--name", "seeded")
    assert runs(capsys, "show", "seeded")["config"]["seed"] == 5
    assert contents(here / "runs" / "first") == before
    assert "exists already" in refused(capsys, "fork", "first", "--name", "seeded")


def test_diff_shows_outcomes_and_the_first_turn(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start() == 0
    text = (here / "g.py").read_text()
    text = text.replace('return "Answer: 1"', 'return "Answer: 4"').replace("% 97", "% 89")
    (here / "g.py").write_text(text)
    assert start(name="second") == 0
    found = runs(capsys, "diff", "first", "second")
    assert found["same"] + len(found["items"]) == 8
    solved = [i for i in found["items"] if {"field": "solved", "before": False, "after": True} in i["fields"]]
    assert len(solved) == 1  # 2 + 2
    turn = solved[0]["turn"]
    assert (turn["node"], turn["step"], turn["role"]) == ("attempt", 0, "student")
    assert (turn["before"], turn["after"], turn["prompt_differs"]) == ("Answer: 1", "Answer: 4", False)
    assert main(["runs", "diff", "first", "second", "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "first in attempt, step 0, sample 0" in out
    assert "more items differ: add --limit" in out


def test_prune_by_default_only_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second", "third"):
        assert start("--limit", "2", name=name) == 0
    assert main(["runs", "prune", "--keep", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("would delete") == 2
    assert out.endswith("Nothing was changed: add --yes.\n")
    assert len(runs(capsys, "list")) == 3
    assert runs(capsys, "prune", "--older-than", "1h", "--yes")["runs"] == []
    assert runs(capsys, "prune", "--status", "failed", "--yes")["runs"] == []
    gone = runs(capsys, "prune", "--keep", "1", "--yes")
    assert [r["run"] for r in gone["runs"]] == ["first", "second"]
    assert [entry.name for entry in (here / "runs").iterdir()] == ["third"]
    assert [r["run"] for r in runs(capsys, "prune", "third", "--yes")["runs"]] == ["third"]
    assert list((here / "runs").iterdir()) == []


def test_a_running_run_is_not_pruned(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--limit", "2") == 0
    folder = here / "runs" / "first"
    with RunStore.open(folder / "docendo.db") as store:
        store.claim("first")
        with store.database.transaction() as connection:
            store._set_status(connection, store.get("first"), "running")
        assert "is running in process" in refused(capsys, "prune", "first", "--yes")
        assert runs(capsys, "prune", "--keep", "0", "--yes")["runs"] == []
        assert "is running in process" in refused(capsys, "resume", "first")
        store.end("first", "finished")
    assert folder.is_dir()


def test_runs_of_one_database_are_pruned_apart(
    here: Path, capsys: pytest.CaptureFixture[str], database_url: str
) -> None:
    for name in ("first", "second"):
        assert start("--limit", "3", "--database", database_url, name=name) == 0
    with Database.open(database_url) as database:
        board = Blackboard(database).digest()
        journal = Journal(database).verify().records
    found = runs(capsys, "list", "--in", database_url)
    assert [(r["run"], r["done"]) for r in found] == [("first", 3), ("second", 3)]

    done = runs(capsys, "prune", "first", "--in", database_url, "--yes")["runs"][0]
    removed = done["removed"]
    assert removed["items"] == 3
    assert removed["traces"] > 0 < removed["posts"]
    assert removed["calls"] == 0  # the second run asked for the same: they stay
    assert not (here / "runs" / "first").exists()
    assert (here / "runs" / "second").exists()
    with Database.open(database_url) as database:
        assert all(report.ok for report in verify(database)), "a record was left without what it refers to"
        assert Blackboard(database).digest() == board
        assert Journal(database).verify().records == journal
    assert [r["run"] for r in runs(capsys, "list", "--in", database_url)] == ["second"]
    everything = runs(capsys, "list", "--in", database_url, "--all")
    assert [(r["run"], r["status"]) for r in everything] == [("first", "pruned"), ("second", "finished")]
    assert start("--limit", "3", "--database", database_url) == 2
    assert "was pruned, and its posts are still on the board" in capsys.readouterr().err

    removed = runs(capsys, "prune", "second", "--in", database_url, "--yes")["runs"][0]["removed"]
    assert removed["calls"] == journal > 0
    with Database.open(database_url) as database:
        assert all(report.ok for report in verify(database))
        assert Journal(database).verify().records == 0
        assert Blackboard(database).digest() == board
        with database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM docendo_prompts").scalar() == 0


def test_resume_and_fork_in_a_shared_database(
    here: Path, capsys: pytest.CaptureFixture[str], database_url: str
) -> None:
    assert start("--limit", "3", "--database", database_url) == 0
    asked = calls(here)
    assert runs(capsys, "resume", "first", "--in", database_url)["done"] == 3
    assert runs(capsys, "fork", "first", "--in", database_url)["run"] == "first-2"
    assert calls(here) == asked
    assert [r["parent"] for r in runs(capsys, "list", "--in", database_url)] == ["", "first"]


def test_a_damaged_run_hides_no_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--limit", "2") == 0
    bad = here / "runs" / "bad"
    bad.mkdir()
    (bad / "docendo.db").write_bytes(b"no database" * 500)
    found = {r["run"]: r for r in runs(capsys, "list")}
    assert found["bad"]["status"] == "unreadable"
    assert "damaged or not a database" in found["bad"]["problem"]
    assert found["first"]["status"] == "finished"
    assert main(["runs", "prune", "bad", "--yes"]) == 0
    assert not bad.exists()


def test_what_a_kill_left_of_a_pruning_is_finished_by_the_next(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--limit", "2") == 0
    (here / "runs" / "first").rename(here / "runs" / ".pruned-first-0123abcd")
    assert runs(capsys, "list") == []
    assert main(["runs", "prune", "--keep", "9", "--yes"]) == 0
    assert list((here / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--in", "nowhere"], "there is nothing at nowhere"),
        (["show", "none"], "there is no run 'none' at runs; expected one of those there are: first"),
        (["resume", "none"], "there is no run 'none'"),
        (["fork", "none"], "there is no run 'none'"),
        (["fork", "first", "--set", "seed"], "--set is 'seed'"),
        (["fork", "first", "--set", "seed=x"], "--set seed is 'x'; expected a whole number"),
        (["diff", "first", "none"], "there is no run 'none'"),
        (["prune"], "nothing says which runs to prune"),
        (["prune", "none", "--yes"], "there is no run 'none'"),
        (["prune", "--older-than", "soon"], "--older-than is 'soon'"),
    ],
)
def test_mistakes_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert start("--limit", "2") == 0
    assert message in refused(capsys, *arguments)


def test_a_recipe_is_resumed_and_forked_too(
    here: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", f"student={tiny_model_dir}", "--set", "task=task.jsonl", "--set", "settings={}"]
    settings += ["--set", "examples=0", "--set", "samples=1", "--set", "retries=0"]
    started = time.time()
    code = main(["run", "teach-and-distill", *settings, "--limit", "2", "--name", "taught"])
    error = capsys.readouterr().err
    # A random model answers nothing right, so there is nothing to train on: the run fails, and says so.
    assert code in (1, 2), error
    shown = runs(capsys, "show", "taught")
    assert shown["status"] == "failed"
    assert shown["graph"] == "teach-and-distill"
    assert shown["origin"]["launch"]["settings"]["samples"] == 1
    assert shown["resume"] == "docendo runs resume taught"
    assert shown["started"] >= started
    assert main(["runs", "resume", "taught"]) == code
    again = capsys.readouterr().err
    assert again.splitlines()[-1] == error.splitlines()[-1]
    with RunStore.open(here / "runs" / "taught" / "docendo.db") as store:
        made = Journal(store.database).verify().records
    assert main(["runs", "fork", "taught", "--set", "retries=1", "--name", "other"]) == code
    capsys.readouterr()
    shown = runs(capsys, "show", "other")
    assert (shown["parent"], shown["origin"]["launch"]["settings"]["retries"]) == ("taught", 1)
    with RunStore.open(here / "runs" / "other" / "docendo.db") as store:
        assert Journal(store.database).verify().records >= made > 0
