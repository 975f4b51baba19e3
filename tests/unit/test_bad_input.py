"""Bad input from a shell: one line that names fault and remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docendo.cli import main
from docendo.errors import DocendoError, StorageError, UserError

OWN_GRAPH = """
from docendo import ScriptedEngine, Student, Verifier, evals, graphs


def graph():
    engine = ScriptedEngine(lambda request: "Answer: 4 " + "x" * {size})
    return graphs.tutoring(
        student=Student(engine), tutor=None, teacher=None, verifier=Verifier(evals.ExactScorer())
    )
"""
CHAIN = ["--task", "reasoning_gym:chain_sum", "--set", "max_terms=3"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def questions() -> Path:
    lines = [{"question": f"What is {n} + {n}?", "answer": 2 * n} for n in range(40)]
    path = Path("questions.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """All files, without SQLite's lock and shared-memory files, which say nothing."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith((".lock", "-shm", "-wal"))
    }


def refuse(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], *says: str, code: int = 2
) -> str:
    """Runs a command that must fail cleanly and change nothing; returns its line on stderr."""
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error")
    for text in says:
        assert text in err, err
    assert tree(tmp_path) == before
    return err


# --- models and adapters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smollm", "did you mean"),
        ("./nowhere", "does not exist"),
        (".", "config.json"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["eval", *CHAIN, "--test", "4", "--model"],
        ["quickstart", "--limit", "12", "--student"],
        ["run", "teach-and-distill", "--limit", "12", "--set"],
        ["distill", "--data", "questions.jsonl", "--output", "out", "--model"],
    ],
    ids=lambda command: command[0],
)
def test_unknown_model(
    command: list[str], model: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("questions.jsonl").write_text('{"prompt": "2 + 2 =", "completion": "4"}\n')
    model = f"student={model}" if command[0] == "run" else model
    refuse(capsys, tmp_path, [*command, model], model.removeprefix("student="), says)


def test_damaged_model(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tiny_model_dir.iterdir():
        size = 1000 if file.suffix == ".safetensors" else -1
        (damaged / file.name).write_bytes(file.read_bytes()[:size] if size > 0 else file.read_bytes())
    refuse(capsys, tmp_path, ["eval", *CHAIN, "--test", "4", "--model", "damaged"], "damaged")
    Path("data.jsonl").write_text('{"prompt": "2 + 2 =", "completion": "4"}\n')
    distill = ["distill", "--data", "data.jsonl", "--output", "out", "--model", "damaged"]
    refuse(capsys, tmp_path, distill, "damaged")


@pytest.fixture(scope="module")
def adapter_of_another_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from docendo.agents import tiny_model
    from docendo.distill import TrainConfig, train

    folder = tmp_path_factory.mktemp("other")
    rows = [{"prompt": "2 + 2 =", "completion": "4"}] * 4
    base = tiny_model(folder / "base", seed=9)
    return train(base, rows, output=folder / "adapter", config=TrainConfig(max_steps=2), quiet=True).path


def test_adapter_for_another_base(
    tiny_model_dir: Path, adapter_of_another_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["eval", "--model", str(tiny_model_dir), *CHAIN, "--test", "4"]
    refuse(
        capsys, tmp_path, [*evaluate, "--adapter", str(adapter_of_another_base)], "another base model", "load"
    )
    refuse(capsys, tmp_path, [*evaluate, "--adapter", "nowhere"], "adapter nowhere", "expected a PEFT folder")
    refuse(
        capsys,
        tmp_path,
        ["eval", "--model", str(adapter_of_another_base), *CHAIN, "--test", "4"],
        "is an adapter, not a base model",
        "--adapter",
    )
    Path("data.jsonl").write_text('{"prompt": "2 + 2 =", "completion": "4"}\n')
    distill = ["distill", "--model", str(tiny_model_dir), "--data", "data.jsonl", "--output", "out"]
    refuse(capsys, tmp_path, [*distill, "--parent", str(adapter_of_another_base)], "base model", "train")


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": "What is 1 + 1?", "answer": 2', "not JSON"),
        ("[1, 2]", "list"),
        ('{"question": "What is 1 + 1?"}', "field 'answer' is missing"),
        ('{"question": "  ", "answer": 2}', "field 'question'"),
        ('{"question": "What is 1 + 1?", "answer": null}', "field 'answer' is None"),
        ('{"question": "What is 3 + 3?", "answer": 7}', "another answer"),
    ],
)
def test_broken_line(
    line: str, says: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with questions.open("a") as file:
        file.write(line + "\n")
    command = ["eval", "--model", "none", "--task", str(questions), "--test", "4"]
    refuse(capsys, tmp_path, command, f"{questions}, line 41", says)
    refuse(
        capsys,
        tmp_path,
        ["run", "teach-and-distill", "--set", f"task={questions}", "--set", "settings={}"],
        "line 41",
        says,
    )


def test_empty_task_set(tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("graph.py").write_text(OWN_GRAPH.format(size=1))
    Path("empty.jsonl").write_text("\n")
    none = ["--model", "none"]
    refuse(capsys, tmp_path, ["eval", *none, "--task", "empty.jsonl"], "'empty'", "at least one", "add lines")
    refuse(
        capsys, tmp_path, ["eval", *none, "--task", str(questions), "--test", "0"], "all 0", "such as test="
    )
    refuse(capsys, tmp_path, ["eval", *none, "--task", "gone.jsonl"], "gone.jsonl does not exist")
    refuse(capsys, tmp_path, ["eval", *none, "--task", str(questions)], "40 distinct", "ask for fewer")
    refuse(capsys, tmp_path, ["eval", *none, "--task", "reasoning_gym:chainsum"], "did you mean chain_sum")
    refuse(capsys, tmp_path, ["run", "graph.py:graph", *CHAIN, "--train", "0"], "all 0")
    refuse(capsys, tmp_path, ["run", "graph.py:graph", *CHAIN, "--limit", "0"], "--limit is 0")
    refuse(capsys, tmp_path, ["quickstart", "--limit", "0"], "is 0")
    refuse(capsys, tmp_path, ["run", "teach-and-distill", "--limit", "-3"], "is -3")
    refuse(capsys, tmp_path, ["run", "teach-and-distill", "--set", "trian=3"], "'trian'", "train")
    refuse(capsys, tmp_path, ["run", "teach"], "'teach'", "teach-and-distill")
    refuse(capsys, tmp_path, ["run", "graph.py:graph"], "--task")
    refuse(capsys, tmp_path, ["run", "nofile.py:graph", *CHAIN], "'nofile.py'", "FILE.py:NAME")
    refuse(capsys, tmp_path, ["run", "graph.py:grahp", *CHAIN], "'grahp'", "FILE.py:NAME")
    refuse(capsys, tmp_path, ["distill", *none, "--data", "gone", "--output", "o"], "--data gone")


# --- resuming -------------------------------------------------------------------------------------


def test_resuming_with_another_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("graph.py").write_text(OWN_GRAPH.format(size=1))
    command = ["run", "graph.py:graph", *CHAIN, "--train", "6", "--name", "one"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 6
    refuse(capsys, tmp_path, command, "run 'one' exists already", "--resume")
    refuse(
        capsys,
        tmp_path,
        [*command, "--resume", "--seed", "1"],
        "seed was 0, is 1 now",
        "go back to the old values",
    )
    refuse(capsys, tmp_path, [*command, "--resume", "--limit", "5"], "items.count was 6, is 5 now")
    refuse(capsys, tmp_path, [*command[:-2], "--resume"], "--name")
    assert main([*command, "--resume"]) == 0


def test_resuming_an_evaluation_with_another_configuration(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--model", str(tiny_model_dir), *CHAIN, "--test", "4", "--max-tokens", "4"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4
    refuse(capsys, tmp_path, command, "--resume", "--name")
    refuse(capsys, tmp_path, [*command, "--resume", "--seed", "3"], "another configuration", "--name")
    assert main([*command, "--resume"]) == 0


# --- the disk -------------------------------------------------------------------------------------


def test_storage_errors_exit_with_2() -> None:
    assert StorageError.exit_code == UserError.exit_code == 2
    assert DocendoError.exit_code == 1


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if os.geteuid() == 0:
        # Root may write everywhere; nobody may write below a file.
        folder.rmdir()
        folder.write_text("")
    yield folder
    folder.chmod(0o755)


def test_a_folder_that_cannot_be_written(
    read_only: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("graph.py").write_text(OWN_GRAPH.format(size=1))
    Path("data.jsonl").write_text('{"prompt": "2 + 2 =", "completion": "4"}\n')
    Path("runs").symlink_to(read_only)
    tiny, target = str(tiny_model_dir), "locked/out"
    for command in (
        ["run", "graph.py:graph", *CHAIN, "--train", "6", "--name", "one"],
        ["eval", "--model", tiny, *CHAIN, "--test", "4"],
        ["quickstart", "--student", tiny, "--limit", "12"],
        ["distill", "--model", tiny, "--data", "data.jsonl", "--output", target],
    ):
        line = refuse(capsys, tmp_path, command, "cannot", "choose another folder")
        assert "runs/" in line or target in line


def limited(arguments: list[str], kilobytes: int) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process that cannot make files larger than so many kilobytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    return subprocess.run(
        [sys.executable, "-m", "docendo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("graph.py").write_text(OWN_GRAPH.format(size=20_000))
    command = ["run", "graph.py:graph", *CHAIN, "--train", "40", "--name", "full"]
    done = limited(command, 600)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("tutoring: ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error (storage): ")
    assert "docendo.db" in errors[0]
    assert not (tmp_path / "runs/full/summary.json").exists()
    # With space again the run goes on, and nothing is damaged.
    assert main([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 40
    assert main(["board", "verify", "runs/full"]) == 0


@pytest.mark.slow
def test_a_disk_that_fills_up_while_an_adapter_is_written(tiny_model_dir: Path, tmp_path: Path) -> None:
    Path("data.jsonl").write_text('{"prompt": "2 + 2 =", "completion": "4"}\n' * 4)
    arguments = ["distill", "--model", str(tiny_model_dir), "--data", "data.jsonl", "--output", "new/adapter"]
    before = tree(tmp_path)
    done = limited([*arguments, "--max-steps", "2"], 40)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error (storage): cannot write new/adapter")
    assert "Traceback" not in done.stderr
    assert {name: data for name, data in tree(tmp_path).items() if name != "new"} == before
