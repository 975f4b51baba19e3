"""`docendo distill` from a shell's point of view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docendo import evals
from docendo.cli import main
from docendo.distill import Adapter
from docendo.records import Author, Trace


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def teach(item: Any, text: str = "Answer: 4") -> dict[str, Any]:
    return Trace(
        id=f"trace of {item.id}",
        run="r",
        item=item.id,
        author=Author(agent="teacher", role="teacher"),
        messages=({"role": "user", "content": "Teach."},),
        completion=text,
        split="train",
        rewards={"verified": 1.0},
    ).to_json()


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(40)]
    return write_lines(tmp_path / "task.jsonl", rows)


def distill(tiny: Path, data: Path, output: Path, *more: str) -> int:
    sizes = ["--train", "8", "--test", "8"]
    steps = ["--max-steps", "2", "--batch-size", "4", "--rank", "4"]
    return main(
        ["distill", "--model", str(tiny), "--data", str(data), "--output", str(output), *sizes, *steps, *more]
    )


def test_prompts_and_completions_become_an_adapter(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_lines(tmp_path / "data.jsonl", [{"prompt": "2 + 2 =", "completion": "4"}] * 4)
    assert distill(tiny_model_dir, data, tmp_path / "a", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    adapter = Adapter.open(tmp_path / "a")
    assert facts["sha256"] == adapter.sha256
    assert facts["metrics"]["steps"] == 2
    assert adapter.manifest["config"]["lora_r"] == 4


def test_traces_become_an_adapter_but_not_of_test_items(
    tiny_model_dir: Path, tmp_path: Path, task_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = evals.tasks(str(task_file), train=8, test=8)
    good = write_lines(tmp_path / "good.jsonl", [teach(item) for item in task.train])
    assert distill(tiny_model_dir, good, tmp_path / "a", "--task", str(task_file)) == 0
    assert "2 steps" in capsys.readouterr().out
    assert Adapter.open(tmp_path / "a").manifest["data"]["examples"] == 8
    leak = write_lines(tmp_path / "leak.jsonl", [teach(item) for item in (*task.train, task.test[0])])
    assert distill(tiny_model_dir, leak, tmp_path / "b", "--task", str(task_file)) == 2
    assert task.test[0].id in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}], "line 1 has no field 'completion'"),
        ([{"prompt": "a", "completion": "b"}, {"text": "c"}], "line 2 has no field 'prompt'"),
        ([{"id": "a trace"}], "--task is not given"),
        ([], "--task is not given"),
    ],
)
def test_wrong_files_are_one_line_on_stderr(
    tiny_model_dir: Path,
    tmp_path: Path,
    rows: list[Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_lines(tmp_path / "data.jsonl", rows)
    assert distill(tiny_model_dir, data, tmp_path / "a") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_folder_that_is_no_run_is_refused(
    tiny_model_dir: Path, tmp_path: Path, task_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(tiny_model_dir, tmp_path, tmp_path / "a", "--task", str(task_file)) == 2
    assert "docendo.db" in capsys.readouterr().err
    assert distill(tiny_model_dir, tmp_path / "none.jsonl", tmp_path / "a", "--task", str(task_file)) == 2
    assert "none.jsonl" in capsys.readouterr().err
