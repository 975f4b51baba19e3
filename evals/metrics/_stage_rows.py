"""Rows of a stage matrix, from evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from docendo.checks import entries
from docendo.errors import DataError

#: Index of a stage, or a model beside the stages.
Row: TypeAlias = int | Literal["base", "joint"]


class Answered(Protocol):
    """What is read of an `EvalRecord`."""

    @property
    def item(self) -> str:
        """Item id."""

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None if there was none."""


class Evaluated(Protocol):
    """What is read of an `EvalResult`."""

    @property
    def task(self) -> str:
        """Name of the task."""

    @property
    def chance(self) -> float | None:
        """What guessing reaches."""

    @property
    def records(self) -> Sequence[Answered]:
        """One record for each item."""


Stage: TypeAlias = "Mapping[str, Evaluated] | Sequence[Evaluated]"


def collected(
    stages: Sequence[Stage],
    *,
    tasks: Sequence[str] | None,
    base: Stage | None,
    joint: Stage | None,
) -> dict[str, Any]:
    """The fields of a `StageMatrix`; see `StageMatrix.of`."""
    if not stages:
        raise DataError("there is no stage", expected="the results of one stage or more")
    rows = {str(t): _by_task(stage, f"stage {t}") for t, stage in enumerate(stages)}
    rows |= {
        name: _by_task(stage, name) for name, stage in (("base", base), ("joint", joint)) if stage is not None
    }
    names = tuple(rows["0"]) if tasks is None else tuple(tasks)
    for name, row in rows.items():
        missing = [task for task in names if task not in row]
        if missing:
            raise DataError(f"row {name} has no result of task {missing[0]!r}", expected="all tasks")
    items, left_out = {}, 0
    for task in names:
        items[task], dropped = _paired(task, {name: row[task] for name, row in rows.items()})
        left_out += dropped
    scores = {name: tuple(sum(items[task][name]) / len(items[task][name]) for task in names) for name in rows}
    return {
        "tasks": names,
        "scores": tuple(scores[str(t)] for t in range(len(stages))),
        "base": scores.get("base"),
        "joint": scores.get("joint"),
        "chance": tuple(rows["0"][task].chance for task in names),
        "items": items,
        "left_out": left_out,
    }


def _by_task(stage: Stage, where: str) -> dict[str, Evaluated]:
    if isinstance(stage, Mapping):
        return dict(stage)
    twice = [task for task, n in Counter(result.task for result in stage).items() if n > 1]
    if twice:
        raise DataError(
            f"{where} has task {twice[0]!r} more than once",
            expected="one result for each task",
            remedy="give a mapping from names of your own to results",
        )
    return {result.task: result for result in stage}


def _paired(task: str, rows: Mapping[str, Evaluated]) -> tuple[dict[str, tuple[float, ...]], int]:
    """For each row the scores of the items that all rows answered, sorted by id; and how many did not."""
    answers = {}
    for name, result in rows.items():
        answers[name] = {record.item: record.correct for record in result.records}
        if len(answers[name]) < len(result.records):
            raise DataError(f"row {name} has an item of task {task!r} twice", expected="each item once")
    everything = set().union(*answers.values())
    common = sorted(item for item in everything if all(row.get(item) is not None for row in answers.values()))
    if not common:
        raise DataError(
            f"no item of task {task!r} was answered in all rows", remedy="evaluate the same items"
        )
    scores = {name: tuple(float(row[item] is True) for item in common) for name, row in answers.items()}
    return scores, len(everything) - len(common)


def as_tuples(tasks: Any, scores: Any, **extra: Any) -> dict[str, Any]:
    """The names of the tasks and the rows of scores as tuples, whatever sequences they are given in.

    Raises:
        DataError: if one is no sequence, or a name is no text.
    """
    rows = {
        name: None if row is None else tuple(entries(f"the scores of {name}", row))
        for name, row in extra.items()
    }
    stages = enumerate(entries("scores", scores))
    return {
        "tasks": tuple(entries("tasks", tasks, str, "names of tasks")),
        "scores": tuple(tuple(entries(f"the scores of stage {t}", row)) for t, row in stages),
        **rows,
    }
