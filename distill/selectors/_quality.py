"""Rows that a learnt verifier holds to be good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from docendo.checks import is_number
from docendo.distill.selectors._rows import Row, as_rows, question, text
from docendo.distill.selectors._selector import Selector
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError


class Confident(Protocol):
    """What judges answers, such as `docendo.agents.AnalyticVerifier`."""

    def confidences(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """How good each answer is, 0 to 1."""


class QualityClassifier(Selector):
    """Drops rows that a classifier, trained on good and bad examples, holds to be bad.

    The quality filter of SciGLM (Zhang and others 2024, arXiv 2401.07950), which trains a language model to
    say True or False; here `AnalyticVerifier` reads it from hidden states, which is learnt in closed form.
    Train it on other questions than those of the rows. It can find what a check of the final answer does
    not, such as a wrong way to a right answer, but only if its examples show that.

    Args:
        verifier: A trained verifier.
        threshold: Least confidence.

    Example:
        >>> class Long:
        ...     def confidences(self, questions, answers):
        ...         return [min(1.0, len(answer) / 10) for answer in answers]
        >>> rows = [{"prompt": "2 + 2?", "completion": said} for said in ("4", "2 + 2 = 4, so 4")]
        >>> QualityClassifier(Long()).select(rows).indices
        (1,)
    """

    def __init__(self, verifier: Confident, *, threshold: float = 0.5) -> None:
        if not is_number(threshold):
            raise ConfigError(f"threshold is {threshold!r}", expected="a finite number")
        self.verifier, self.threshold = verifier, float(threshold)

    @property
    def default(self) -> Mapping[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """The verifier's confidence in each row; rows without text have none."""
        found = as_rows(rows)
        answers = [text(row, index) for index, row in enumerate(found)]
        judged = [index for index, answer in enumerate(answers) if answer]
        values: list[float | None] = [None] * len(found)
        if judged:
            confidences = self.verifier.confidences(
                [question(found[index], index) for index in judged], [answers[index] for index in judged]
            )
            for index, value in zip(judged, confidences, strict=True):
                values[index] = float(value)
        return self._table(
            found,
            "confidence",
            {"confidence": values},
            reasons=["no text to judge" if value is None else "" for value in values],
            threshold=self.threshold,
        )
