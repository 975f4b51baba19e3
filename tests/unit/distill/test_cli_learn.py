"""`docendo learn` from a shell's point of view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docendo import evals
from docendo.agents import ScriptedEngine, Student, Verifier
from docendo.cli import main
from docendo.distill import Adapter, AdapterRegistry, GateLedger
from docendo.graphs import demonstrate, run
from docendo.records import Request

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = ["--max-steps", "2", "--batch-size", "4", "--rank", "4", "--max-tokens", "10"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def task_file(tmp_path: Path) -> str:
    rows = [
        {"question": f"{n} + {m} =", "answer": str(n + m)} for n in range(7) for m in range(7) if n + m < 10
    ]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def run_folder(task_file: str) -> Path:
    """A run with verified answers to training items."""
    task = evals.tasks(task_file, train=12, test=10)
    golds = {item.id: sum(map(int, item.public.question.strip(" =").split(" + "))) for item in task.train}

    def answer(request: Request) -> str:
        return f"Answer: {golds[request.origin.item]}"

    graph = demonstrate(teacher=Student(ScriptedEngine(answer)), verifier=Verifier(task.scorer))
    with run(graph, task.train, name="shown", quiet=True) as shown:
        return shown.folder


def learn(model: Path, task_file: str, *more: str) -> int:
    sizes = ["--train", "12", "--test", "10", "--dev", "4"]
    return main(["learn", "--model", str(model), "--task", task_file, *sizes, *QUICK, *more])


def test_a_run_is_learnt_from_and_a_null_is_a_result(
    tiny_model_dir: Path, task_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(task_file)
    assert learn(tiny_model_dir, task_file, "--data", str(folder)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "verdict  no effect shown"
    assert said[1].startswith("student@prod is kept as it was: ")
    (record,) = GateLedger("registry").records("student@prod")
    assert record.verdict is not None
    assert AdapterRegistry("registry").get("student").sha256 == record.candidate
    assert not AdapterRegistry("registry").history("student@prod")
    # The same call again is refused, unless it is to go on; then the verdict stands.
    assert learn(tiny_model_dir, task_file, "--data", str(folder)) == 2
    capsys.readouterr()
    assert learn(tiny_model_dir, task_file, "--data", str(folder), "--resume", "--json") == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (summary["promoted"], summary["verdict"], summary["gate"]) == (False, "no effect shown", 1)
    # All ten held-out items were used: another candidate needs others.
    assert (
        learn(
            tiny_model_dir, task_file, "--data", str(folder), "--name", "b", "--seed", "0", "--max-steps", "3"
        )
        == 2
    )
    assert "0 of 10 test items are fresh" in capsys.readouterr().err


@pytest.mark.slow
def test_without_data_the_student_learns_from_itself(
    guessing_model_dir: Path, task_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--rounds", "2", "--samples", "6", "--alias", "adder@live", "--alpha", "0.1", "--json"]
    assert learn(guessing_model_dir, task_file, *more) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["alias"] == "adder@live"
    last = Adapter.open(Path("runs/learn/rounds/round-2/adapter"))
    assert summary["adapter"] == last.sha256
    assert summary["alpha"] == 0.05
    report = json.loads(Path("runs/learn/rounds/report.json").read_text())
    assert [row["n"] for row in report["rows"]] == [4, 4, 4]
    assert learn(guessing_model_dir, task_file, *more, "--resume") == 0
    assert json.loads(capsys.readouterr().out)["reason"] == summary["reason"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--alias", "prod"], "NAME@ALIAS"),
        (["--data", "nothing"], "does not exist"),
        (["--alpha", "0"], "alpha of the gate"),
        (["--margin", "2"], "margin of the gate"),
        (["--name", "../x"], "--name"),
    ],
)
def test_wrong_options_are_one_line_and_code_2(
    tiny_model_dir: Path, task_file: str, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert learn(tiny_model_dir, task_file, *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("runs").exists()
