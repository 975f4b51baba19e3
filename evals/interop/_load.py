"""One way to read evaluations, whoever has written them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from docendo.checks import given_path
from docendo.errors import ConfigError, DataError, StorageError
from docendo.evals.harness._results import EvalResult
from docendo.evals.interop._inspect_read import read_inspect_log
from docendo.evals.interop._lm_eval_samples import read_lm_eval_samples, samples_files

_EXPECTED = (
    "a result folder of docendo, a log of inspect_ai (.eval or .json), or samples of lm-eval "
    "(samples_TASK_DATE.jsonl, or their folder)"
)


def load_result(
    path: str | Path,
    *,
    metric: str | None = None,
    task: str | None = None,
    epoch: int | None = None,
    name: str | None = None,
) -> EvalResult:
    """Reads an evaluation of docendo, inspect_ai or lm-eval; which one it is shows in the files.

    Args:
        path: A result folder of docendo, a log of inspect_ai, or a samples file of lm-eval or its folder.
        metric: Which of several metrics (lm-eval) or scorers (inspect_ai) counts.
        task: Which of several tasks (lm-eval).
        epoch: Which of several epochs (inspect_ai); by default all, as samples.
        name: Name of the result; by default what the file says.

    Raises:
        DataError: if it is none of these, or damaged.
        ConfigError: if there is a choice to make, or one was made where there is none.

    Example:
        >>> compare(load_result("runs/before"), load_result("runs/after"))       # doctest: +SKIP
    """
    path = given_path("path", path)
    kind = _kind(path)
    given = {"metric": metric, "task": task, "epoch": epoch}
    allowed = {"docendo": (), "inspect_ai": ("metric", "epoch"), "lm-eval": ("metric", "task")}[kind]
    if wrong := [key for key, value in given.items() if value is not None and key not in allowed]:
        raise ConfigError(
            f"{wrong[0]} was given, which evaluations of {kind} do not have", remedy="leave it out"
        )
    if kind == "inspect_ai":
        return read_inspect_log(path, scorer=metric, epoch=epoch, name=name)
    if kind == "lm-eval":
        return read_lm_eval_samples(path, metric=metric, task=task, name=name)
    result = EvalResult.load(path)
    return result if name is None else result.replace(name=name)


def _kind(path: Path) -> str:
    """Who has written it."""
    if path.is_dir():
        if (path / "summary.json").is_file():
            return "docendo"
        if samples_files(path):
            return "lm-eval"
    elif path.is_file():
        if path.suffix == ".jsonl" or (path.suffix == ".json" and path.name.startswith("results_")):
            return "lm-eval"
        try:
            if zipfile.is_zipfile(path) or path.suffix == ".json":
                return "inspect_ai"
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    else:
        raise DataError(f"there is no {path}", expected=_EXPECTED)
    inside = sorted(path.glob("*/summary.json")) if path.is_dir() else []
    logs = sorted(path.glob("*.eval")) if path.is_dir() else []
    near = inside[0].parent if inside else logs[0] if logs else None
    raise DataError(
        f"{path} is no evaluation", expected=_EXPECTED, remedy=f"did you mean {near}?" if near else None
    )
