import json
import subprocess
import sys
from pathlib import Path

import pytest

from docendo.cli import main
from docendo.cli._eval import _opened, parse_settings
from docendo.errors import ConfigError, ResumeError
from docendo.evals import EvalResult, ExactScorer
from docendo.evals.harness._records import EvalRecord


def save(folder, rights):
    records = tuple(
        EvalRecord(item=str(i), question=f"q{i}", text="t", correct=right) for i, right in enumerate(rights)
    )
    EvalResult(name=folder.name, task="demo", scorer="exact", records=records).save(folder)
    return str(folder)


def test_compare_prints_a_verdict_as_text_and_json(tmp_path, capsys):
    before = save(tmp_path / "before", [False] * 40)
    after = save(tmp_path / "after", [True] * 20 + [False] * 20)
    assert main(["compare", before, after]) == 0
    assert "verdict" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["compare", before, after, "--json", "--report", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "better"
    assert page.read_text().startswith("<!doctype html>")


def test_compare_of_a_missing_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert "a; expected a result folder of docendo" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "reasoning_gym:chain_sums"], "did you mean chain_sum"),
        (["--task", "reasoning_gym:chain_sum", "--set", "max_terms"], "--set is 'max_terms'"),
        (["--task", "reasoning_gym:chain_sum", "--limit", "0"], "--limit is 0"),
        (["--task", "reasoning_gym:chain_sum", "--test", "0"], "are all 0"),
        (["--task", "reasoning_gym:chain_sum", "--max-tokens", "0"], "max_tokens is 0"),
        (["--task", "reasoning_gym:chain_sum", "--set", "level=2"], "has an option of its own"),
        (["--task", "reasoning_gym:chain_sum", "--level", "99"], "is 99; expected 0 to 10"),
        (["--task", "reasoning_gym:chain_sum", "--levels", "num_terms"], "--levels is 'num_terms'"),
        (["--task", "reasoning_gym:chain_sum", "--levels", "num_terms=hard"], "is 'hard'"),
        (["--task", "reasoning_gym:acre", "--compact"], "no compact form"),
        (["--task", "reasoning_gym:chain_sum", "--stratum", "a"], "columns was given"),
        (["--task", "gone.jsonl", "--level", "1"], "level was given"),
        (["--task", "gone.jsonl", "--answer", ""], "columns['answer'] is ''"),
        (["--task", "reasoning_gym:chain_sum", "--scorer", "kind"], "--scorer is 'kind'"),
        (
            ["--task", "gone.jsonl", "--method", "likelihood", "--temperature", "0.5"],
            "--temperature was given with --method likelihood",
        ),
        (
            ["--task", "gone.jsonl", "--method", "likelihood-per-byte", "--max-tokens", "9"],
            "--max-tokens was given with --method likelihood-per-byte",
        ),
    ],
)
def test_eval_refuses_bad_input_before_it_writes(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "--model", "none", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_settings():
    assert parse_settings(["a=3", "b=x", 'c=["+"]', "d="]) == {"a": 3, "b": "x", "c": ["+"], "d": ""}
    for bad in (["a"], ["=1"], ["a b=1"], ["a=1", "a=2"], ["seed=1"]):
        with pytest.raises(ConfigError):
            parse_settings(bad)


def test_a_run_folder_is_resumed_only_with_the_same_configuration(tmp_path):
    folder = tmp_path / "one"

    def open_(folder, config, *, resume):
        with _opened(folder, config, resume=resume):
            pass

    open_(folder, {"model": "a", "limit": None}, resume=False)
    with pytest.raises(ResumeError, match="add --resume"):
        open_(folder, {"model": "a", "limit": None}, resume=False)
    open_(folder, {"model": "a", "limit": None}, resume=True)
    with pytest.raises(ResumeError, match="model: 'a' then, 'b' now"):
        open_(folder, {"model": "b", "limit": None}, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(ResumeError, match="is no evaluation"):
        open_(tmp_path / "other", {}, resume=True)


def test_the_room_and_its_commands_import_without_torch():
    code = (
        "import sys, docendo.evals, docendo.cli._eval, docendo.cli._compare\n"
        "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'jinja2', 'evals'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--method", "guess"), "method is 'guess'; expected one of generate, likelihood"),
        (("--method", "likelihood"), "items have no choices"),
        (("--samples", "2"), "samples is 2, but the temperature is 0"),
        (("--max-tokens", "2048"), "--max-tokens is 2048; expected less than 2048"),
        (("--determinism", "some"), "determinism is 'some'; expected one of none, seeded, invariant"),
    ],
)
def test_what_cannot_be_asked_leaves_no_folder(tmp_path, monkeypatch, capsys, tiny_model_dir, options, line):
    monkeypatch.chdir(tmp_path)
    task = ("--task", "reasoning_gym:chain_sum", "--test", "4", "--name", "none")
    assert main(["eval", "--model", str(tiny_model_dir), *task, *options]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("others", [False, True])
def test_what_only_a_question_shows_leaves_no_folder(tmp_path, monkeypatch, capsys, tiny_model_dir, others):
    monkeypatch.chdir(tmp_path)
    if others:
        (tmp_path / "runs/other").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    task = ("--task", "reasoning_gym:chain_sum", "--test", "4", "--name", "none")
    assert main(["eval", "--model", str(tiny_model_dir), *task, "--max-tokens", "2040"]) == 2
    assert "max_tokens is 2040" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def choices_file():
    rows = [
        {"question": f"Which is {n}?", "place": 1, "a": "x", "b": str(n), "kind": "even" if n % 2 else "odd"}
        for n in range(8)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (
        "--task",
        "rows.jsonl",
        "--choices",
        "a",
        "--choices",
        "b",
        "--answer-index",
        "place",
        "--test",
        "4",
    )


def test_a_server_without_likelihoods_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = choices_file()
    before = sorted(tmp_path.rglob("*"))
    server = ("--model", "generic:http://127.0.0.1:1/v1#m")
    assert main(["eval", *server, *task, "--method", "likelihood"]) == 2
    assert "lacks" in capsys.readouterr().err
    assert main(["eval", *server, *task, "--determinism", "invariant"]) == 2
    assert "where the server decides; leave it out" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_items_that_all_failed_are_no_success(tmp_path, monkeypatch, capsys, tiny_model_dir):
    monkeypatch.chdir(tmp_path)

    def fail(self, item, text):
        raise RuntimeError("no rule for this")

    monkeypatch.setattr(ExactScorer, "score", fail)
    task = ("--task", "reasoning_gym:chain_sum", "--test", "4", "--max-tokens", "4", "--json")
    assert main(["eval", "--model", str(tiny_model_dir), *task]) == 1
    out, err = capsys.readouterr()
    assert (json.loads(out)["n"], json.loads(out)["failed"]) == (0, 4)
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    assert line.startswith("error (task): all 4 items failed, the first because of TaskFailure: ")


def test_columns_levels_and_scorers_by_name(tmp_path, monkeypatch, capsys, tiny_model_dir):
    monkeypatch.chdir(tmp_path)
    tiny = ("eval", "--model", str(tiny_model_dir), "--test", "4", "--max-tokens", "4")
    scored = ("--scorer", "exact-ignore-case", "--determinism", "invariant")
    assert main([*tiny, *choices_file(), "--stratum", "kind", *scored, "--name", "file"]) == 0
    assert set(EvalResult.load("runs/file").strata) <= {"odd", "even"}
    assert EvalResult.load("runs/file").scorer == "exact-ignore-case"
    levels = ("--level", "0", "--levels", "num_terms=3", "--compact")
    assert main([*tiny, "--task", "reasoning_gym:chain_sum", *levels, "--name", "level"]) == 0
    config = json.loads(Path("runs/level/config.json").read_text())["task"]
    assert (config["max_terms"], config["max_digits"], config["compact"]) == (5, 1, True)
    capsys.readouterr()
    assert main(["tasks", "show", "chain_sum", *levels, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"]["max_terms"] == 5
    assert all(example["question"].endswith("=") for example in shown["examples"])
    assert main(["tasks", "show", "chain_sum", "--set", "compact=true"]) == 2
    assert "has an option of its own" in capsys.readouterr().err


def test_choices_from_a_file_and_several_samples(tmp_path, monkeypatch, capsys, tiny_model_dir):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Which is {n}?", "answer": "B", "options": ["x", str(n)]} for n in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [
        "eval",
        "--model",
        str(tiny_model_dir),
        "--task",
        "rows.jsonl",
        "--test",
        "4",
        "--choices",
        "options",
    ]
    assert main([*common, "--name", "one", "--method", "likelihood"]) == 0
    assert "chance 50.0 %" in capsys.readouterr().out
    drawn = ("--samples", "3", "--temperature", "1", "--max-tokens", "4")
    assert main([*common, "--name", "two", *drawn]) == 0
    result = EvalResult.load("runs/two")
    assert [len(record.samples) for record in result.records] == [3] * 4
    assert all(len(record.traces) == 3 for record in result.records)
