"""The examples of the documentation run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The wheel has neither examples nor README.
pytestmark = pytest.mark.skipif(
    not (ROOT / "Makefile").is_file(), reason="needs the repository, not only the tests"
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_graph_of_ones_own_is_run_and_distilled(
    guessing_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    load("own_graph").main(str(guessing_model_dir), train=24, test=12, steps=2)
    assert "verdict" in capsys.readouterr().out
    assert (tmp_path / "runs/own-graph/summary.json").is_file()
    assert (tmp_path / "adapters/own-graph/adapter_model.safetensors").is_file()


def test_volunteers_answer(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    load("volunteers").main(str(tiny_model_dir))
    out = capsys.readouterr().out
    assert "response  birds       How far birds fly: a tern 70,000 km a year." in out
    assert "response  distances   The moon is 384,400 km away." in out
    assert "answer    main" in out


def test_the_readme_shows_lines_of_the_example() -> None:
    readme, example = (ROOT / "README.md").read_text(), (ROOT / "examples/own_graph.py").read_text()
    shown = re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert shown is not None
    there = {line.strip() for line in example.splitlines()}
    lines = [line.strip() for line in shown[1].splitlines() if line.strip()]
    assert len(lines) <= 20
    assert [line for line in lines if line not in there] == []


def test_the_readme_names_what_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / path).exists(), path
    for room in ("agents", "distill", "docendo", "evals", "graphs", "memory"):
        assert f"{room}/" in readme


@pytest.mark.parametrize("page", ["README.md", "docs/memory.md"])
def test_what_the_pages_say_of_memory_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    shown = [block for block in blocks if block.startswith("from docendo.memory")]
    assert shown
    for block in shown:
        exec(compile(block, page, "exec"), {})
    assert "ok" in capsys.readouterr().out
