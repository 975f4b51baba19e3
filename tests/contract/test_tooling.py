"""The checkers must really check all rooms: a deliberate mistake in each is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("agents", "distill", "evals", "graphs", "memory")
MEMORY = ("board", "memories", "requests", "runs", "storage")
EVALS = (
    "items",
    "statistics",
    "metrics",
    "harness",
    "comparison",
    "experiments",
    "interop",
    "reports",
    "search",
)
DISTILL = ("adapters", "datasets", "objectives", "rounds", "selectors", "training")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "Makefile").is_file(), reason="needs the repository, not only the tests"),
]


def run(tree: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": "."}
    program = str(Path(sys.executable).parent / command[0])
    done = subprocess.run(
        [program, *command[1:]],
        cwd=tree / ".typing",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{done.stdout}{done.stderr}\nexit {done.returncode}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, small rooms that import nothing, links as tracked."""
    for name in (
        *ROOMS,
        *(f"{room}/recipes" for room in ROOMS),
        *(f"memory/{part}" for part in MEMORY),
        *(f"evals/{part}" for part in EVALS),
        *(f"distill/{part}" for part in DISTILL),
        "docendo",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('"""A room."""\n')
    for file in (ROOT / "docendo").glob("*.py"):
        shutil.copy(file, tmp_path / "docendo")
    (tmp_path / "memory" / "_verify.py").write_text('"""Nothing."""\n')
    (tmp_path / "docendo" / "__init__.py").write_text('"""The facade."""\n')
    (tmp_path / "docendo" / "__main__.py").write_text('"""Nothing."""\n')
    (tmp_path / "docendo" / "cli").mkdir()
    (tmp_path / "docendo" / "cli" / "__init__.py").write_text('"""The command line."""\n')
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / ".typing", tmp_path / ".typing", symlinks=True, ignore=shutil.ignore_patterns(".*_cache")
    )
    return tmp_path


def test_a_type_error_in_any_room_is_found(tree: Path) -> None:
    for room in ROOMS:
        (tree / room / "_wrong.py").write_text('"""Wrong."""\n\nnumber: int = "text"\n')
    output = run(tree, "mypy", "--config-file", "../pyproject.toml")
    for room in ROOMS:
        assert f"docendo/{room}/_wrong.py:3: error: Incompatible types" in output, output
    assert "exit 1" in output


def test_an_upward_import_is_found(tree: Path) -> None:
    arguments = ("lint-imports", "--no-cache", "--config", "../pyproject.toml")
    assert "exit 0" in run(tree, *arguments)
    wrong = (
        ("memory", "agents"),
        ("agents", "graphs"),
        ("graphs", "evals"),
        ("evals", "distill"),
        ("memory.storage", "memory.board"),
        ("memory.requests", "memory.runs"),
        ("evals.statistics", "evals.metrics"),
        ("evals.harness", "evals.comparison"),
        ("distill.datasets", "distill.training"),
        ("distill.adapters", "distill.rounds"),
    )
    for lower, upper in wrong:
        (tree / lower.replace(".", "/") / "_up.py").write_text(f'"""Wrong."""\n\nimport docendo.{upper}\n')
    output = run(tree, *arguments)
    for lower, upper in wrong:
        assert f"docendo.{lower} is not allowed to import docendo.{upper}" in output, output
    assert "exit 1" in output
