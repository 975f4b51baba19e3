"""What `docendo distill` learns from: rows of a file or a data set, or made of the traces of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from docendo.evals import Task

COLUMNS = {
    "sft": ("prompt", "completion"),
    "kl": ("prompt", "completion"),
    "alm": ("prompt", "completion"),
    "dpo": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "grpo": ("prompt",),
    "on-policy": ("prompt",),
}
"""The columns that rows of an objective must have."""


def saved_rows(path: Path, objective: str) -> list[dict[str, Any]] | None:
    """Rows of a file or of a data set's folder, or None if the path holds traces.

    Raises:
        DataError: if a row lacks a column of the objective.
    """
    columns = COLUMNS[objective]
    if path.is_dir():
        rows = _loaded(path)
        for number, row in enumerate(rows or (), start=1):
            _require(row, columns, f"row {number} of {path}")
        return rows
    rows = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path} line {number} is not JSON ({error})", expected="JSON lines"
                ) from error
            if not rows and (not isinstance(row, dict) or "prompt" not in row):
                return None
            _require(row, columns, f"{path} line {number}")
            rows.append(row)
    return rows or None


def _require(row: Any, columns: tuple[str, ...], where: str) -> None:
    for column in columns:
        if not isinstance(row, dict) or row.get(column) is None:
            raise DataError(f"{where} has no field {column!r}", expected=" and ".join(columns))


def _loaded(folder: Path) -> list[dict[str, Any]] | None:
    """Rows that `save_dataset` wrote, checked against their manifest; None if it is another folder."""
    from docendo.distill import load_dataset
    from docendo.manifest import MANIFEST

    if not (folder / MANIFEST).is_file():
        return None
    return list(load_dataset(folder).to_list())


def made_rows(
    path: Path | None,
    database: Any,
    task: Task,
    objective: str,
    *,
    reward: str,
    threshold: float,
    select: str,
    labelled: bool,
) -> Any:
    """A data set for the objective: of the traces of a run, or of items where prompts are all it takes."""
    from docendo import distill

    common = {"items": task.train, "exclude": task.test, "student": student(), "database": database}
    if objective in ("grpo", "on-policy"):

        def gold(item: Any) -> str:
            found = task.scorer.open(item)
            return str(getattr(found, "text", found))

        return distill.prompts_dataset(answer=gold if labelled else None, **common)
    if path is None:
        raise ConfigError(
            "--data is not given", expected="a run folder, a data set's folder or a .jsonl file"
        )
    judged = {"reward": reward, "threshold": threshold, **common}
    if objective == "dpo":
        return distill.pairs_dataset(traces(path, database), select=select, **judged)  # type: ignore[arg-type]
    if objective == "kto":
        return distill.unpaired_dataset(traces(path, database), **judged)
    return distill.sft_dataset(traces(path, database), **judged)


def student() -> Any:
    """A student for the sake of its prompt; it is never asked anything."""
    from docendo.agents import ScriptedEngine, Student

    return Student(ScriptedEngine([]))


def traces(path: Path, database: Any) -> Any:
    """The traces of a file, or of a run's database."""
    from docendo.memory import TraceStore, read_traces

    return read_traces(path) if database is None else TraceStore(database).find()


@contextmanager
def database_of(path: Path | None) -> Iterator[Any]:
    """The database of a run's folder, where the adapter is recorded; None for a file or a data set."""
    from docendo.manifest import MANIFEST
    from docendo.memory import DATABASE, Database

    if path is None or not path.is_dir() or (path / MANIFEST).is_file():
        yield None
        return
    if not (path / DATABASE).is_file():
        raise DataError(f"{path} holds no {DATABASE}", expected="a folder written by a run")
    with Database.open(path / DATABASE) as database:
        yield database
