"""`docendo distill` from a shell's point of view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docendo import evals
from docendo.agents import tiny_model
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


def test_lengths_temperatures_and_tau_can_be_set(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "2 + 2 =", "completion": "4"}] * 4 + [{"prompt": "2 + 2 =", "completion": "4" * 50}]
    data, teacher = write_lines(tmp_path / "data.jsonl", rows), ["--teacher", str(tiny_model_dir)]
    kl = ["--objective", "kl", *teacher, "--temperature", "2", "--max-length", "20"]
    assert distill(tiny_model_dir, data, tmp_path / "kl", *kl) == 0
    manifest = Adapter.open(tmp_path / "kl").manifest
    assert manifest["method"]["objective"][0]["temperature"] == 2
    assert (manifest["config"]["max_length"], manifest["data"]["too_long"]) == (20, 1)
    assert distill(tiny_model_dir, data, tmp_path / "alm", "--objective", "alm", *teacher, "--tau", "10") == 0
    assert Adapter.open(tmp_path / "alm").manifest["method"]["objective"][0]["tau"] == 10
    assert distill(tiny_model_dir, data, tmp_path / "a", "--tau", "10") == 2
    assert "--tau is not for --objective sft" in capsys.readouterr().err


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


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PROMPTS = [{"prompt": [{"role": "user", "content": f"{n} + {n}"}], "answer": str(n)} for n in range(4)]
PAIRS = [{**row, "chosen": said("yes"), "rejected": said("no")} for row in PROMPTS]
LABELLED = [
    {**row, "completion": said(text), "label": text == "yes"} for row in PROMPTS for text in ("yes", "no")
]
ANSWERED = [{**row, "completion": said("yes")} for row in PROMPTS]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "teacher", seed=1)


@pytest.mark.parametrize(
    ("objective", "rows", "options", "method"),
    [
        ("kl", ANSWERED, ["--teacher", "TEACHER", "--beta", "0.5"], {"name": "sft"}),
        ("alm", ANSWERED, ["--teacher", "TEACHER"], {"name": "sft"}),
        (
            "dpo",
            PAIRS,
            ["--beta", "0.2", "--loss", "ipo", "--nll-weight", "1"],
            {"name": "dpo", "beta": 0.2, "loss": "ipo", "nll_weight": 1.0},
        ),
        ("kto", LABELLED, ["--beta", "0.3"], {"name": "kto", "beta": 0.3}),
        (
            "on-policy",
            PROMPTS,
            ["--teacher", "TEACHER", "--beta", "0", "--max-completion-length", "3"],
            {"name": "on-policy", "beta": 0.0, "max_completion_length": 3},
        ),
    ],
)
def test_every_objective_trains_from_rows(
    objective: str,
    rows: Any,
    options: list[str],
    method: dict[str, Any],
    teacher: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_lines(tmp_path / "data.jsonl", rows)
    options = [str(teacher) if text == "TEACHER" else text for text in options]
    code = distill(tiny_model_dir, data, tmp_path / "a", "--objective", objective, *options)
    assert code == 0, capsys.readouterr().err
    manifest = Adapter.open(tmp_path / "a").manifest
    assert {key: manifest["method"][key] for key in method} == method
    gentle = objective not in ("kl", "alm")
    assert manifest["config"]["learning_rate"] == (1e-5 if gentle else 1e-3)
    assert manifest["config"]["num_train_epochs"] == (1 if gentle else 3)
    if objective in ("kl", "alm"):
        assert manifest["method"]["objective"][0]["name"] == objective


def test_grpo_is_rewarded_by_the_scorer_of_the_task(
    guessing_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_lines(
        tmp_path / "task.jsonl",
        [{"question": f"{n % 7} + {n % 5} =", "answer": str(n % 10)} for n in range(30)],
    )
    sizes = "--train 8 --test 8 --num-generations 8 --max-completion-length 16 --max-steps 3 --rank 4"
    rewards = "--learning-rate 1e-3 --reward length=0.5 --reward verified"
    where = ["--model", str(guessing_model_dir), "--task", str(task), "--output", str(tmp_path / "a")]
    code = main(["distill", "--objective", "grpo", *where, *sizes.split(), *rewards.split(), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "rewards/verified/mean" in json.loads(captured.out)["metrics"]
    assert Adapter.open(tmp_path / "a").manifest["method"]["rewards"] == {
        "verified": {"scorer": "exact", "kind": "ExactScorer", "ignore_case": False, "weight": 1.0},
        "length": {"function": "LengthReward", "correct": "verified", "warmup": 0.0, "weight": 0.5},
    }


@pytest.mark.parametrize("objective", ["dpo", "kto", pytest.param("on-policy", marks=pytest.mark.slow)])
def test_traces_become_what_the_objective_needs(
    objective: str,
    teacher: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    task_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = evals.tasks(str(task_file), train=8, test=8)
    turns = []
    for item in task.train:
        for text, reward in (("Answer: right", 1.0), ("Answer: wrong", 0.0)):
            turns.append({**teach(item, text), "id": f"{item.id} {text}", "rewards": {"verified": reward}})
    data = write_lines(tmp_path / "traces.jsonl", turns)
    options = ["--objective", objective, "--task", str(task_file)]
    if objective == "on-policy":
        options += ["--teacher", str(teacher), "--max-completion-length", "3"]
    code = distill(tiny_model_dir, data, tmp_path / "a", *options)
    assert code == 0, capsys.readouterr().err
    assert Adapter.open(tmp_path / "a").manifest["data"]["items"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "dpo"], "line 1 has no field 'chosen'"),
        (["--objective", "kto"], "line 1 has no field 'label'"),
        (["--objective", "kl"], "--objective kl has no teacher"),
        (["--objective", "on-policy"], "--objective on-policy has no teacher"),
        (["--objective", "alm", "--teacher-adapter", "x"], "--teacher-adapter has no --teacher"),
        (["--nll-weight", "1"], "--nll-weight is not for --objective sft"),
        (["--objective", "dpo", "--num-generations", "4"], "--num-generations is not for --objective dpo"),
        (["--objective", "grpo"], "--task is not given"),
        (["--objective", "grpo", "--reward", "bleu"], "--reward is 'bleu'"),
        (["--objective", "grpo", "--reward", "length=x"], "has the weight 'x'"),
        (["--objective", "grpo", "--reward", "length"], "--reward length stands alone"),
        (["--reward", "a", "--reward", "b"], "--reward is given 2 times"),
        (["--objective", "ppo"], "ppo"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    options: list[str],
    message: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_lines(tmp_path / "data.jsonl", ANSWERED)
    assert distill(tiny_model_dir, data, tmp_path / "a", *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_without_data_and_task_it_says_what_is_missing(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", "--model", str(tiny_model_dir), "--output", str(tmp_path / "a")]
    assert main(command) == 2
    assert "--task is not given" in capsys.readouterr().err
    task = write_lines(tmp_path / "task.jsonl", [{"question": f"{n}?", "answer": "1"} for n in range(20)])
    assert main([*command, "--task", str(task), "--train", "5", "--test", "5"]) == 2
    assert "--data is not given" in capsys.readouterr().err


def test_the_help_has_an_example_of_each_objective(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for objective in ("kl", "alm", "dpo", "kto", "grpo", "on-policy"):
        assert f"{objective}: docendo distill --objective {objective} " in shown
