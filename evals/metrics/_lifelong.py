"""Lifelong learning from learning curves: maintenance, transfer, recovery, and comparison with experts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal, Self, get_args

from docendo.errors import ConfigError, DataError
from docendo.evals.metrics._lifelong_log import Blocks, smooth
from docendo.evals.metrics._measures import Measure
from docendo.records import Record

Reference = Literal["mrlep", "mrtlp"]
TransferForm = Literal["contrast", "ratio"]

# Below this share of the expert's saturation nothing was learnt, and a sample is worth nothing.
_LEARNT = 0.2
# Two scores that differ by less are equal; smoothing and normalising round.
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMeasures(Record):
    """A metric of each task, or of each pair of tasks.

    Attributes:
        values: The measure by task, or by "a -> b" for what learning a does to b.

    Example:
        >>> values = {"a": Measure(value=0.5), "b": Measure(value=None, reason="no expert")}
        >>> print(TaskMeasures(values=values))
        a: 0.500
        b: none: no expert
        mean: 0.500
    """

    values: Mapping[str, Measure]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds measures stored by `to_json`."""
        return cls(values={name: Measure.from_json(one) for name, one in value["values"].items()})

    @property
    def mean(self) -> Measure:
        """Mean of the values there are."""
        found = [one.value for one in self.values.values() if one.value is not None]
        if found:
            return Measure(value=fmean(found))
        return Measure(value=None, reason="no task has a value")

    def __str__(self) -> str:
        return "\n".join(f"{name}: {one}" for name, one in {**self.values, "mean": self.mean}.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class LifelongLog(Blocks):
    """The log of a learner that meets several tasks, evaluated on all of them between its lessons.

    The metrics are those of Baker et al. (2023, arXiv 2301.07799), with the terminal performance of a block
    as its value (`LifelongBlock.terminal`). Scores are taken as they are: call `smoothed` and `normalised`
    first where curves are noisy or tasks have different scales, as the paper does.

    Example:
        >>> def block(kind, task, *scores):
        ...     return LifelongBlock(kind=kind, task=task, scores=scores)
        >>> from docendo.evals import LifelongBlock
        >>> log = LifelongLog(blocks=(
        ...     block("evaluate", "b", 0.25), block("learn", "a", 0.1, 0.8), block("evaluate", "a", 0.75),
        ...     block("evaluate", "b", 0.75), block("learn", "b", 0.5, 0.9), block("evaluate", "a", 0.5),
        ... ))
        >>> print(log.performance_maintenance().values["a"], log.forward_transfer().values["a -> b"])
        -0.250 0.500
    """

    def performance_maintenance(self, *, reference: Reference = "mrlep") -> TaskMeasures:
        """How a task's later evaluations compare with the time it was learnt; below 0 is forgetting.

        The mean, over the evaluations after the first that follows a lesson, of their value less the
        reference's.

        Args:
            reference: "mrlep", the first evaluation after the most recent lesson; "mrtlp", the terminal
                performance of that lesson itself.
        """
        _require("reference", reference, get_args(Reference))
        return TaskMeasures(values={task: self._maintained(task, reference) for task in self.tasks})

    def _maintained(self, task: str, reference: Reference) -> Measure:
        lessons, tests = self.places(task, "learn"), self.places(task, "evaluate")
        first = {min((test for test in tests if test > lesson), default=-1) for lesson in lessons} - {-1}
        known = sorted(first if reference == "mrlep" else lessons)
        later = [test for test in tests if first and test > min(first) and test not in first]
        changes = [
            self.blocks[test].terminal - self.blocks[max(at for at in known if at < test)].terminal
            for test in later
        ]
        if changes:
            return Measure(value=fmean(changes))
        return Measure(value=None, reason="it is not evaluated twice after it is learnt")

    def forward_transfer(self, *, form: TransferForm = "contrast") -> TaskMeasures:
        """What learning one task does to another that is not learnt yet; above 0 (ratio: 1) it helps.

        With p1 and p2 the evaluations of the other task before and after, either the contrast
        (p2 - p1) / (p2 + p1) in [-1, 1], or the ratio p2 / p1, which grows without bound near p1 = 0. Only
        stretches between two evaluations in which one task alone is learnt count; several are averaged.

        Raises:
            DataError: if a score is below 0.
        """
        return self._transfer(form, learnt=False)

    def backward_transfer(self, *, form: TransferForm = "contrast") -> TaskMeasures:
        """The same for tasks that were learnt before."""
        return self._transfer(form, learnt=True)

    def _transfer(self, form: TransferForm, *, learnt: bool) -> TaskMeasures:
        _require("form", form, get_args(TransferForm))
        found: dict[str, list[float | None]] = {}
        for task in self.tasks:
            tests, lessons = self.places(task, "evaluate"), self.places(task, "learn")
            for before, after in pairwise(tests):
                between = {block.task for block in self.blocks[before:after] if block.kind == "learn"}
                if len(between) != 1 or task in between or learnt != any(at < before for at in lessons):
                    continue
                name = f"{between.pop()} -> {task}"
                pair = self.blocks[before].terminal, self.blocks[after].terminal
                found.setdefault(name, []).append(_transferred(form, *pair, task=task))
        values = {}
        for name, given in found.items():
            defined = [one for one in given if one is not None]
            values[name] = (
                Measure(value=fmean(defined))
                if defined
                else Measure(value=None, reason=f"its {form} has the denominator 0")
            )
        return TaskMeasures(values=values)

    def relative_performance(self, experts: Mapping[str, Sequence[float]]) -> TaskMeasures:
        """Scores summed over a task's lessons, beside those of an expert that learns this task alone (RP).

        Both over as many experiences as the shorter of the two has; 1 is as good.

        Args:
            experts: Learning curve of each single-task expert, one score for each experience, counted as in
                the log. An expert that learns less than the learner makes the learner look good.
        """
        return self._beside(experts, _relative)

    def sample_efficiency(
        self, experts: Mapping[str, Sequence[float]], *, window: int | None = None
    ) -> TaskMeasures:
        """How high and how soon a task saturates, beside an expert that learns this task alone (SE).

        (saturation / the expert's) x (the expert's experiences to saturation / the learner's), where a curve
        saturates at the maximum of its moving average. 0 if the learner stays below a fifth of the expert's
        saturation, or its curve slopes down (least squares).

        Args:
            experts: As for `relative_performance`.
            window: Scores in each mean of the moving average; by default a fifth of the curve, at most 100.
        """
        return self._beside(experts, lambda own, expert: _efficiency(own, expert, window))

    def _beside(self, experts: Mapping[str, Sequence[float]], formula: Any) -> TaskMeasures:
        values = {}
        for task in self.tasks:
            curve, expert = self.curve(task), tuple(experts.get(task, ()))
            if curve and expert:
                values[task] = formula(curve, expert)
            else:
                reason = "it has no expert" if curve else "it is never learnt"
                values[task] = Measure(value=None, reason=reason)
        return TaskMeasures(values=values)

    def recovery_times(self) -> dict[str, tuple[int, ...]]:
        """Experiences of each later lesson until the task is as good again as at the end of the one before.

        One more than the lesson has, if it never is.
        """
        times = {}
        for task in self.tasks:
            lessons = [self.blocks[at] for at in self.places(task, "learn")]
            times[task] = tuple(
                _reached(lesson.scores, before.terminal) for before, lesson in pairwise(lessons)
            )
        return times

    def performance_recovery(self) -> TaskMeasures:
        """How much sooner a task recovers from lesson to lesson (PR): minus the Theil-Sen slope of the times.

        Higher is better; above 0 the learner recovers ever faster. It needs three lessons.
        """
        from scipy.stats import theilslopes

        values = {}
        for task, times in self.recovery_times().items():
            if len(times) < 2:
                values[task] = Measure(value=None, reason="it has fewer than three lessons")
            else:
                values[task] = Measure(value=0.0 - float(theilslopes(times).slope))
        return TaskMeasures(values=values)


def _require(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}", expected=f"one of {', '.join(known)}")


def _transferred(form: TransferForm, before: float, after: float, *, task: str) -> float | None:
    if min(before, after) < 0:
        raise DataError(
            f"task {task!r} has the score {min(before, after)}",
            expected="0 or more",
            remedy="normalise the log first",
        )
    if form == "contrast":
        return (after - before) / (after + before) if after + before > 0 else None
    return after / before if before > 0 else None


def _relative(own: Sequence[float], expert: Sequence[float]) -> Measure:
    n = min(len(own), len(expert))
    total = sum(expert[:n])
    if total <= 0:
        return Measure(value=None, reason="the expert's scores add up to no more than 0")
    short = f"the expert has {n} of {len(own)} experiences" if n < len(own) else ""
    return Measure(value=sum(own[:n]) / total, reason=short)


def _efficiency(own: Sequence[float], expert: Sequence[float], window: int | None) -> Measure:
    import numpy as np

    curves = smooth(own, window), smooth(expert, window)
    (mine, soon), (theirs, expected) = ((max(curve), _reached(curve, max(curve))) for curve in curves)
    if theirs <= 0:
        return Measure(value=None, reason="the expert never exceeds 0")
    places = np.arange(len(own)) - (len(own) - 1) / 2
    falls = float(places @ np.asarray(curves[0])) < -_EQUAL
    if mine < _LEARNT * theirs - _EQUAL or falls:
        return Measure(value=0.0)
    return Measure(value=(mine / theirs) * (expected / soon))


def _reached(scores: Sequence[float], target: float) -> int:
    """How many experiences it takes to reach a score; one more than there are if it is never reached."""
    return next((at for at, score in enumerate(scores, 1) if score >= target - _EQUAL), len(scores) + 1)
