"""Continual learning: scores of every task after every stage, and what is gained and forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from docendo.checks import is_number, short
from docendo.errors import DataError
from docendo.evals.metrics._measures import Measure, measured, resampled_means
from docendo.evals.metrics._stage_rows import Row, Stage, as_tuples, collected
from docendo.evals.statistics._checks import check_resampling
from docendo.hashing import derive_seed
from docendo.records import Record

# Gives the score of a row (a stage's index, "base" or "joint") on a task's index, or its resampled scores.
_Cell: TypeAlias = Callable[[Row, int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMatrix(Record):
    """Scores of all tasks after each stage of learning; stage `t` (from 0) learns task `t`.

    With a[t][i] the score on task i after stage t, T stages (T may be less than the number of tasks, as long
    as learning goes on), b the untouched base and J the model that learnt all tasks at once:

    | metric | formula |
    |---|---|
    | `overall` | mean over i <= T of a[T][i] |
    | `running` | for each t, mean over i <= t of a[t][i] |
    | `average_incremental` | mean over t of `running` |
    | `forgetting` | mean over i < T of max over t < T of a[t][i], less a[T][i] |
    | `bwt` (backward transfer) | mean over i < T of a[T][i] - a[i][i] |
    | `fwt` (forward transfer) | mean over i > 1 of a[i-1][i] - b[i] |
    | `intransigence` | mean over i of J[i] - a[i][i] |
    | `expanded_bwt` | mean over all j < i of a[i][j] - a[j][j] |

    Forward and backward transfer are those of Lopez-Paz and Ranzato (2017, arXiv 1706.08840), forgetting and
    intransigence of Chaudhry et al. (2018, arXiv 1801.10112), expanded backward transfer of Diaz-Rodriguez
    et al. (2018, arXiv 1810.13166). Tasks with different chance levels average badly, so give `chance`.

    Attributes:
        tasks: Names of the tasks, in the order in which they are learnt.
        scores: For each stage its score on each task; None where it was not measured.
        base: Scores of the untouched base.
        joint: Scores of the model that learnt all tasks at once.
        chance: What guessing reaches on each task.
        items: Per task and row ("base", "joint", or the stage's index as text) the scores of its items, in
            one order; with them the metrics have intervals.
        left_out: Items left out because they had no answer in some row.

    Example:
        >>> matrix = StageMatrix(
        ...     tasks=("a", "b"), scores=((0.8, 0.3), (0.6, 0.9)), base=(0.1, 0.1), chance=(0.1, 0.1)
        ... )
        >>> print(matrix.overall(), matrix.bwt(), matrix.fwt(), sep="; ")
        0.750; -0.200; 0.200
        >>> print(matrix)
                      a      b
        base      0.100  0.100
        1: a      0.800  0.300
        2: b      0.600  0.900
        chance    0.100  0.100
    """

    tasks: tuple[str, ...]
    scores: tuple[tuple[float | None, ...], ...]
    base: tuple[float | None, ...] | None = None
    joint: tuple[float | None, ...] | None = None
    chance: tuple[float | None, ...] | None = None
    items: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    left_out: int = 0

    def __post_init__(self) -> None:
        """Checks the shape, and that every score is a number."""
        given = {name: getattr(self, name) for name in ("scores", "base", "joint", "chance")}
        for name, value in as_tuples(self.tasks, **given).items():
            object.__setattr__(self, name, value)
        if len(set(self.tasks)) != len(self.tasks) or not 1 <= len(self.scores) <= len(self.tasks):
            raise DataError(
                f"there are {len(self.scores)} stages for the tasks {', '.join(self.tasks) or 'none'}",
                expected="different tasks, and one stage or more, at most one for each task",
            )
        extra = (("base", self.base), ("joint", self.joint), ("chance", self.chance))
        named = [(f"stage {t}", row) for t, row in enumerate(self.scores)]
        for name, row in (*named, *((name, row) for name, row in extra if row is not None)):
            if len(row) != len(self.tasks) or not all(score is None or is_number(score) for score in row):
                raise DataError(
                    f"the scores of {name} are {short(row)}",
                    expected=f"{len(self.tasks)} finite numbers or None",
                )
        for task, rows in self.items.items():
            self._check_items(task, rows)

    def _check_items(self, task: str, rows: Mapping[str, Sequence[float]]) -> None:
        for name, scores in rows.items():
            cell = self.score(int(name) if name.isdigit() else name, self.tasks.index(task))  # type: ignore[arg-type]
            mean = sum(scores) / len(scores) if len(scores) else math.nan
            if len({len(other) for other in rows.values()}) > 1 or not abs(mean - cell) < 1e-9:
                raise DataError(
                    f"the {len(scores)} items of task {task!r} in row {name} have the mean {mean:.3f}",
                    expected=f"as many in each row, with the mean {cell:.3f}",
                )

    @classmethod
    def of(
        cls,
        stages: Sequence[Stage],
        *,
        tasks: Sequence[str] | None = None,
        base: Stage | None = None,
        joint: Stage | None = None,
    ) -> Self:
        """Builds the matrix of evaluations, with the scores of single items for intervals.

        Items are paired over all rows: one that has no answer in some row, or is missing there, is left out
        of its task everywhere and counted.

        Args:
            stages: For each stage the results of all tasks: a list of `EvalResult`, told apart by their
                `task`, or a mapping from a name to a result.
            tasks: Names of the tasks in the order in which they are learnt; by default that of the first
                stage's results.
            base: Results of the untouched base.
            joint: Results of the model that learnt all tasks at once.

        Raises:
            DataError: if a row has a task twice, lacks one, or no item of a task was answered in all rows.

        Example:
            >>> from docendo.evals import ExactScorer, evaluate, make_item
            >>> def result(answer, task):
            ...     items = [make_item(f"Say {digit}.", digit, task=task) for digit in (1, 2)]
            ...     return evaluate(lambda item: answer, items, scorer=ExactScorer(), quiet=True)
            >>> first, second = [[result(text, task) for task in "ab"] for text in ("1", "no")]
            >>> StageMatrix.of([first, second]).scores
            ((0.5, 0.5), (0.0, 0.0))
        """
        return cls(**collected(stages, tasks=tasks, base=base, joint=joint))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a matrix stored by `to_json`."""
        rows = {
            name: tuple(value[name]) if value.get(name) is not None else None
            for name in ("base", "joint", "chance")
        }
        items = {
            task: {row: tuple(scores) for row, scores in given.items()}
            for task, given in value.get("items", {}).items()
        }
        scores = tuple(tuple(row) for row in value["scores"])
        return cls(**{**value, **rows, "items": items, "scores": scores, "tasks": tuple(value["tasks"])})

    def score(self, row: Row, task: int) -> float:
        """Returns one score.

        Args:
            row: Index of the stage, "base" or "joint".
            task: Index of the task.

        Raises:
            DataError: if it was not measured; it never counts as 0.
        """
        scores = self.scores[row] if isinstance(row, int) else getattr(self, row)
        if scores is None:
            raise DataError(f"the matrix has no {row} row", remedy=f"evaluate the {row} model on all tasks")
        found = scores[task]
        if found is None:
            where = (
                f"after stage {row} ({self.tasks[row]!r})" if isinstance(row, int) else f"of the {row} row"
            )
            raise DataError(
                f"the score {where} on task {self.tasks[task]!r} is missing",
                remedy="evaluate every task after every stage",
            )
        return float(found)

    def running(self, **bootstrap: Any) -> tuple[Measure, ...]:
        """Mean score of the tasks learnt so far, after each stage."""

        def after(stage: int) -> Measure:
            learnt = range(stage + 1)
            return self._measure(lambda cell: _mean([cell(stage, i) for i in learnt]), **bootstrap)

        return tuple(after(stage) for stage in range(len(self.scores)))

    def overall(self, **bootstrap: Any) -> Measure:
        """Mean score of all tasks learnt, after the last stage.

        Args:
            **bootstrap: `resamples` (10,000), `level` (0.95) and `seed` (0) of the interval; likewise below.
        """
        return self.running(**bootstrap)[-1]

    def average_incremental(self, **bootstrap: Any) -> Measure:
        """Mean of the running means."""
        stages = range(len(self.scores))
        return self._measure(
            lambda cell: _mean([_mean([cell(t, i) for i in range(t + 1)]) for t in stages]), **bootstrap
        )

    def forgetting(self, **bootstrap: Any) -> Measure:
        """How far old tasks fell from their best score before the last stage; lower is better."""
        import numpy as np

        last = len(self.scores) - 1
        return self._measure(
            lambda cell: _mean(
                [np.max([cell(t, i) for t in range(last)], axis=0) - cell(last, i) for i in range(last)]
            ),
            **bootstrap,
        )

    def bwt(self, **bootstrap: Any) -> Measure:
        """Backward transfer: change of old tasks since they were learnt; below 0 is forgetting."""
        last = len(self.scores) - 1
        return self._measure(
            lambda cell: _mean([cell(last, i) - cell(i, i) for i in range(last)]), **bootstrap
        )

    def fwt(self, **bootstrap: Any) -> Measure:
        """Forward transfer: lead over the base on tasks that are learnt next; needs the base row."""
        stages = range(1, len(self.scores))
        return self._measure(
            lambda cell: _mean([cell(i - 1, i) - cell("base", i) for i in stages]), **bootstrap
        )

    def intransigence(self, **bootstrap: Any) -> Measure:
        """What each task lacks, when it is learnt, of joint learning; needs the joint row."""
        stages = range(len(self.scores))
        return self._measure(lambda cell: _mean([cell("joint", i) - cell(i, i) for i in stages]), **bootstrap)

    def expanded_bwt(self, **bootstrap: Any) -> Measure:
        """Backward transfer over all later stages, not the last alone."""
        pairs = [(i, j) for i in range(len(self.scores)) for j in range(i)]
        return self._measure(lambda cell: _mean([cell(i, j) - cell(j, j) for i, j in pairs]), **bootstrap)

    def _measure(
        self,
        formula: Callable[[_Cell], Any],
        *,
        resamples: int = 10_000,
        level: float = 0.95,
        seed: int = 0,
    ) -> Measure:
        check_resampling(resamples, seed, level)
        value = formula(self.score)
        if value is None:
            return Measure(value=None, reason="there is only one stage", level=level)
        drawn: dict[int, dict[str, Any]] = {}

        def cell(row: Row, task: int) -> Any:
            if task not in drawn:
                drawn[task] = self._drawn(task, resamples=resamples, seed=seed)
            return drawn[task][str(row)]

        try:
            draws = formula(cell)
        except KeyError:
            return Measure(value=float(value), reason="there are no scores of single items", level=level)
        return measured(float(value), draws, level=level, reason="")

    def _drawn(self, task: int, *, resamples: int, seed: int) -> dict[str, Any]:
        """For each row the mean of the same resampled items; tasks are resampled on their own."""
        import numpy as np

        name = self.tasks[task]
        rows = self.items[name]
        table = np.array(list(rows.values()), dtype=float).T
        drawn = resampled_means(table, resamples=resamples, seed=derive_seed("stages", seed, name))
        return dict(zip(rows, drawn.T, strict=True))

    def __str__(self) -> str:
        rows = [(f"{t + 1}: {self.tasks[t]}", scores) for t, scores in enumerate(self.scores)]
        if self.base is not None:
            rows.insert(0, ("base", self.base))
        rows += [("joint", self.joint)] if self.joint is not None else []
        rows.append(("chance", self.chance or (None,) * len(self.tasks)))
        shown = [(name, ["-" if one is None else f"{one:.3f}" for one in scores]) for name, scores in rows]
        first = max(len(name) for name, _ in shown) + 2
        wide = [max(len(task), 5) for task in self.tasks]
        lines = [("", list(self.tasks)), *shown]
        text = "\n".join(
            f"{name:<{first}}"
            + "".join(f"  {one:>{width}}" for one, width in zip(scores, wide, strict=True)).rstrip()
            for name, scores in lines
        )
        return text + (f"\n{self.left_out} items left out" if self.left_out else "")


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers, or of arrays; None of none."""
    return sum(values) / len(values) if values else None
