"""LLKD: rows of which the teacher is sure and the student is not, by thresholds that move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from docendo.checks import is_number
from docendo.distill.selectors._asking import JournalLike, Voice
from docendo.distill.selectors._labels import Probabilities, asked_probs, checked_labels, given_probs
from docendo.distill.selectors._rows import Row, as_rows
from docendo.distill.selectors._selector import Selector
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError, DataError

Weighing = Literal["product", "mean", "confidence", "uncertainty"]

_WEIGH: dict[str, Callable[[float, float], float]] = {
    "product": lambda sure, unsure: sure * unsure,
    "mean": lambda sure, unsure: (sure + unsure) / 2,
    "confidence": lambda sure, unsure: sure,
    "uncertainty": lambda sure, unsure: unsure,
}


class LLKD(Selector):
    """Keeps rows whose label the teacher is sure of and the student is not; for classification.

    Learning with less (Li and others 2024, arXiv 2411.08028). Confidence c is the teacher's highest
    probability of a label, uncertainty u the entropy of the student's probabilities over its maximum. Each
    has a threshold of its own for every label that the teacher gives, which moves with training: a moving
    mean over all rows, times that over the rows of the label, over the highest of these, as FreeMatch
    (Wang and others 2022, arXiv 2205.07246) has it. The means start at those of the first rows.
    The score, `margin`, is the smaller of c and u less their thresholds; rows with 0 or more are kept,
    with the weight c * u.

    Every call of `score` or `select` is one step of the thresholds: give it a batch, or once an epoch all
    rows, with the student's probabilities of that time. No right answer is looked at.

    Args:
        teacher: An engine that can score, or an agent: it is asked for `labels`. None takes the column
            `label_probs`.
        student: Likewise; None takes the column `student_probs`.
        labels: Texts of the labels; needed to ask, else those of the first row.
        decay: Of the moving means: 0.9 for hundreds of rows a step or fewer, 0.999 for many more steps.
        weight: "product", "mean", "confidence" or "uncertainty".
        journal: As in `DifferenceSampling`.
        quiet: Show no progress.

    Example:
        >>> rows = [
        ...     {"label_probs": {"no": 0.1, "yes": 0.9}, "student_probs": {"no": 0.5, "yes": 0.5}},
        ...     {"label_probs": {"no": 0.1, "yes": 0.9}, "student_probs": {"no": 0.0, "yes": 1.0}},
        ...     {"label_probs": {"no": 0.4, "yes": 0.6}, "student_probs": {"no": 0.5, "yes": 0.5}},
        ... ]
        >>> chosen = LLKD().select(rows)
        >>> chosen.indices, chosen.weights
        ((0,), (0.9,))
    """

    def __init__(
        self,
        teacher: Any = None,
        student: Any = None,
        *,
        labels: Sequence[str] = (),
        decay: float = 0.9,
        weight: Weighing = "product",
        journal: JournalLike | None = None,
        quiet: bool = False,
    ) -> None:
        if not (is_number(decay) and 0 <= decay < 1):
            raise ConfigError(f"decay is {decay!r}", expected="0 or more and less than 1")
        if weight not in get_args(Weighing):
            raise ConfigError(f"weight is {weight!r}", expected=f"one of {', '.join(get_args(Weighing))}")
        if (teacher is not None or student is not None) and not labels:
            raise ConfigError("a model is to be asked, and there are no labels", remedy="pass labels=")
        self.teacher = None if teacher is None else Voice.of(teacher, "teacher")
        self.student = None if student is None else Voice.of(student, "student")
        self.labels = checked_labels(labels) if labels else ()
        self.decay, self.weight = float(decay), weight
        self.journal, self.quiet = journal, quiet
        self._confidence, self._uncertainty = _Means(self.decay), _Means(self.decay)

    @property
    def default(self) -> Mapping[str, Any]:
        """All whose margin is 0 or more."""
        return {"threshold": 0.0}

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """Moves the thresholds by these rows, and scores them with the new ones."""
        found = as_rows(rows)
        teacher = self._probs(found, self.teacher, "label_probs")
        student = self._probs(found, self.student, "student_probs", teacher.labels)
        best = [max(range(len(row)), key=row.__getitem__) for row in teacher.rows]
        given = [teacher.labels[place] for place in best]
        sure = [row[place] for row, place in zip(teacher.rows, best, strict=True)]
        unsure = [_entropy(row) for row in student.rows]
        self._confidence.step(sure, given)
        self._uncertainty.step(unsure, given)
        high = [self._confidence.threshold(label) for label in given]
        low = [self._uncertainty.threshold(label) for label in given]
        weigh = _WEIGH[self.weight]
        return self._table(
            found,
            "margin",
            {
                "margin": [min(c - s, u - t) for c, s, u, t in zip(sure, high, unsure, low, strict=True)],
                "weight": [weigh(c, u) for c, u in zip(sure, unsure, strict=True)],
                "confidence": sure,
                "uncertainty": unsure,
                "confidence_threshold": high,
                "uncertainty_threshold": low,
            },
            usage=teacher.usage + student.usage,
            labels=list(teacher.labels),
            decay=self.decay,
            weight=self.weight,
        )

    def state_dict(self) -> dict[str, Any]:
        """The moving means, as JSON: with them training goes on as if it had not stopped."""
        return {"confidence": self._confidence.state(), "uncertainty": self._uncertainty.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state.

        Raises:
            DataError: if it is no state of this class.
        """
        try:
            means = [_Means(self.decay, **state[name]) for name in ("confidence", "uncertainty")]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"the state of LLKD cannot be read ({error})", expected="what state_dict returns"
            ) from None
        self._confidence, self._uncertainty = means

    def _probs(
        self, rows: Sequence[Row], voice: Voice | None, column: str, labels: Sequence[str] = ()
    ) -> Probabilities:
        if voice is None:
            return given_probs(rows, column, labels or self.labels)
        return asked_probs(rows, voice, self.labels, journal=self.journal, quiet=self.quiet)


class _Means:
    """Moving means of a signal: over all rows, and over those of each label."""

    def __init__(
        self, decay: float, overall: float | None = None, labels: Mapping[str, float] | None = None
    ) -> None:
        self._decay, self._overall, self._labels = decay, overall, dict(labels or {})

    def step(self, values: Sequence[float], labels: Sequence[str]) -> None:
        by_label: dict[str, list[float]] = {}
        for value, label in zip(values, labels, strict=True):
            by_label.setdefault(label, []).append(value)
        self._overall = self._moved(self._overall, values)
        for label, members in by_label.items():
            self._labels[label] = self._moved(self._labels.get(label), members)

    def threshold(self, label: str) -> float:
        highest = max(self._labels.values())
        # A signal that is 0 everywhere has no label that is higher than another.
        share = self._labels[label] / highest if highest else 1.0
        return (self._overall or 0.0) * share

    def state(self) -> dict[str, Any]:
        return {"overall": self._overall, "labels": dict(self._labels)}

    def _moved(self, mean: float | None, values: Sequence[float]) -> float:
        now = math.fsum(values) / len(values)
        return now if mean is None else self._decay * mean + (1 - self._decay) * now


def _entropy(probabilities: Sequence[float]) -> float:
    """Entropy over its maximum, 0 to 1."""
    nats = -math.fsum(value * math.log(value) for value in probabilities if value > 0)
    return min(1.0, max(0.0, nats / math.log(len(probabilities))))
