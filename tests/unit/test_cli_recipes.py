"""`docendo recipes` and `docendo run` with files of one's own: one line for what is wrong, JSON on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docendo import registry
from docendo.cli import main
from docendo.evals.experiments import new_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    Path("mine.py").write_text(new_recipe("my-method"))


def said(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    """What a command says on stderr, which is one line."""
    assert main(list(args)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (", "cannot load bad.py, line 1: it is no Python: '(' was never closed"),
        ("\nraise ValueError('no')", "cannot load bad.py, line 2: ValueError: no"),
        ("import no_such_module", "cannot load bad.py, line 1: ModuleNotFoundError: No module named"),
        ("raise SystemExit(0)", "cannot load bad.py, line 1: SystemExit: 0"),
        ("x = 1", "bad.py defines 0 recipes"),
    ],
)
def test_a_file_that_fails_is_one_line(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.py").write_text(text)
    assert words in said(capsys, "run", "bad.py")
    if "recipes" not in words:
        assert words in said(capsys, "run", "bad.py:graph", "--task", "reasoning_gym:chain_sum")


def test_a_file_that_prints_does_not_spoil_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    text = new_recipe("my-method").replace("    rng = np.", '    print("in the trial")\n    rng = np.')
    Path("mine.py").write_text(text + 'print("in the file")\n')
    assert main(["run", "mine.py", "--scale", "tiny", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "runs"
    assert captured.err.count("in the trial") == 2
    assert "in the file" in captured.err


def test_bad_values_are_one_line_and_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for option, words in (
        ("--set=seeds=2.5", "seeds of recipe 'my-method' is 2.5; expected a whole number"),
        ("--set=items=x", "items of recipe 'my-method' is 'x'; expected a whole number"),
        ("--seed=-1", "seed is -1; expected a whole number, at least 0"),
        ("--limit=5", "has no train or test items that --limit could be of"),
    ):
        assert words in said(capsys, "run", "mine.py", option)
    assert "--scale is 'lrge'; expected one of tiny" in said(
        capsys, "recipes", "run", "--all", "--scale", "lrge"
    )
    assert "--limit is -1" in said(capsys, "recipes", "list", "--limit", "-1")
    assert "cannot write mine.py" in said(capsys, "recipes", "run", "mine.py", "--record", "mine.py")
    assert not Path("runs").exists()


def test_it_runs_and_goes_on_and_another_seed_has_a_folder_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes", "run", "mine.py", "--record", "results", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["folder"], row["outcome"]) == ("runs/my-method-tiny", "runs")
    assert json.loads(Path(row["result"]).read_text())["id"] == "my-method"
    assert main(["recipes", "run", "mine.py"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: runs/my-method-tiny exists; add --resume to go on with it, or remove that folder."
    assert main(["recipes", "run", "mine.py", "--resume"]) == 0
    assert main(["recipes", "run", "mine.py", "--seed", "7"]) == 0
    assert Path("runs/my-method-tiny-seed-7/summary.json").is_file()


def test_scales_with_configs_in_them_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = new_recipe("my-method").replace("items: int = 200", "inner: Inner = Inner()\n    items: int = 200")
    inner = "@dataclass(frozen=True, kw_only=True)\nclass Inner(Record):\n    width: int = 3\n\n\n"
    text = text.replace("@dataclass(", inner + "@dataclass(", 1)
    text = text.replace('{"items": 20,', '{"inner": Inner(width=1), "items": 20,')
    Path("mine.py").write_text(text)
    assert main(["recipes", "show", "mine.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scales"]["tiny"]["inner"] == {"width": 1}
    assert main(["recipes", "show", "mine.py"]) == 0
    assert 'inner = {"width": 1}' in capsys.readouterr().out
