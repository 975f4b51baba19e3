import json
import subprocess
import sys
from pathlib import Path

import pytest

from docendo.cli import main
from docendo.cli._eval import _open, parse_settings
from docendo.errors import ConfigError, ResumeError
from docendo.evals import EvalResult
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
    _open(folder, {"model": "a", "limit": None}, resume=False)
    with pytest.raises(ResumeError, match="add --resume"):
        _open(folder, {"model": "a", "limit": None}, resume=False)
    _open(folder, {"model": "a", "limit": None}, resume=True)
    with pytest.raises(ResumeError, match="model: 'a' then, 'b' now"):
        _open(folder, {"model": "b", "limit": None}, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(ResumeError, match="is no evaluation"):
        _open(tmp_path / "other", {}, resume=True)


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
    ],
)
def test_what_cannot_be_asked_leaves_no_folder(tmp_path, monkeypatch, capsys, tiny_model_dir, options, line):
    monkeypatch.chdir(tmp_path)
    task = ("--task", "reasoning_gym:chain_sum", "--test", "4", "--name", "none")
    assert main(["eval", "--model", str(tiny_model_dir), *task, *options]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


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
