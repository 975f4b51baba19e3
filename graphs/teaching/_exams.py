"""Exams: which questions show whether a lesson has taught something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from docendo.checks import is_count
from docendo.errors import ConfigError, LeakError
from docendo.memory import Embedder
from docendo.records import Item, PublicItem


class Exam(Protocol):
    """Chooses exam questions for a problem: solvable by the same way, with answers that are known."""

    def questions(self, problem: PublicItem) -> Sequence[Item]:
        """The exam for a problem; none where nothing is similar enough."""

    def describe(self) -> dict[str, Any]:
        """The exam as JSON, for a run's configuration."""


class VariantExam:
    """Other variants of the same template: the exams of learning by teaching on MATH() (arXiv 2406.14629).

    Args:
        bank: Items whose answers are known. Never the items that are being answered.
        variant_of: The template that an item is a variant of.
        questions: Questions of an exam; 3, as in the paper.

    Raises:
        ConfigError: if there is no item in the bank, or `questions` is less than 1.
        LeakError: if the bank has a test item.

    Example:
        >>> from docendo.records import Gold
        >>> bank = [Item(public=PublicItem(id=f"i{n}", question=f"{n} + 1 = ?", task="plus one"),
        ...              gold=Gold(str(n + 1))) for n in range(5)]
        >>> exam = VariantExam(bank, variant_of=lambda item: item.task, questions=2)
        >>> [item.id for item in exam.questions(PublicItem(id="new", question="9 + 1 = ?", task="plus one"))]
        ['i0', 'i1']
    """

    def __init__(
        self, bank: Iterable[Item], *, variant_of: Callable[[PublicItem], str], questions: int = 3
    ) -> None:
        self._by_template: dict[str, list[Item]] = {}
        for item in _checked_bank(bank, questions):
            self._by_template.setdefault(variant_of(item.public), []).append(item)
        self._variant_of, self._count = variant_of, questions

    def questions(self, problem: PublicItem) -> Sequence[Item]:
        """The first other variants of the problem's template."""
        found = self._by_template.get(self._variant_of(problem), [])
        return [item for item in found if not _same(item, problem)][: self._count]

    def describe(self) -> dict[str, Any]:
        """The exam as JSON."""
        return {"exam": "variants", "templates": len(self._by_template), "questions": self._count}


class NearestExam:
    """The nearest questions of a bank by sentence embedding (cosine).

    Args:
        bank: Items whose answers are known. Never the items that are being answered.
        embedder: Embeds the questions.
        questions: Questions of an exam.
        least: Similarity below which a question is left out. Exams of dissimilar problems do harm
            (arXiv 2406.14629); measure on a development set what is similar enough.

    Raises:
        ConfigError: if there is no item in the bank, or `questions` is less than 1.
        LeakError: if the bank has a test item.
    """

    def __init__(
        self, bank: Iterable[Item], *, embedder: Embedder, questions: int = 3, least: float = 0.0
    ) -> None:
        import numpy as np

        self._bank = _checked_bank(bank, questions)
        self._embedder, self._count, self._least = embedder, questions, least
        self._vectors = _unit(np.asarray(embedder.embed([item.public.question for item in self._bank])))

    def questions(self, problem: PublicItem) -> Sequence[Item]:
        """The nearest other questions, the nearest first."""
        import numpy as np

        vector = _unit(np.asarray(self._embedder.embed([problem.question])))[0]
        likeness = self._vectors @ vector
        order = np.argsort(-likeness, kind="stable")
        near = [self._bank[n] for n in order if likeness[n] >= self._least]
        return [item for item in near if not _same(item, problem)][: self._count]

    def describe(self) -> dict[str, Any]:
        """The exam as JSON."""
        return {
            "exam": "nearest",
            "bank": len(self._bank),
            "embedder": self._embedder.fingerprint,
            "questions": self._count,
            "least": self._least,
        }


def require_other(problem: PublicItem, questions: Sequence[Item]) -> None:
    """Refuses an exam that asks the problem itself, whose answer would choose the answer, or a test item.

    Raises:
        LeakError: naming the problem.
    """
    for item in questions:
        if _same(item, problem):
            raise LeakError(
                f"the exam for item {problem.id} asks that item itself",
                expected="other questions, whose answers may be known",
                remedy="take the items to be answered out of the exam's bank",
            )
        if item.public.split == "test":
            raise LeakError(
                f"the exam for item {problem.id} asks the test item {item.id}",
                expected="items whose answers may be known: training or development items",
            )


def teaching_score(verdicts: Iterable[bool]) -> float:
    """How well students did with a lesson: the share of right exam answers, over all students.

    Example:
        >>> teaching_score([True, True, False, True])
        0.75
    """
    found = [float(verdict) for verdict in verdicts]
    if not found:
        raise ConfigError("an exam has no answers", expected="one at least")
    return sum(found) / len(found)


def _checked_bank(bank: Iterable[Item], questions: int) -> list[Item]:
    items = list(bank)
    if not items:
        raise ConfigError("the exam's bank is empty", expected="items whose answers are known")
    for item in items:
        if item.public.split == "test":
            raise LeakError(
                f"the exam's bank has the test item {item.id}",
                expected="items whose answers may be known: training or development items",
            )
    if not is_count(questions) or questions < 1:
        raise ConfigError(f"questions is {questions!r}", expected="a whole number, at least 1")
    return items


def _same(item: Item, problem: PublicItem) -> bool:
    return item.id == problem.id or item.public.question.strip() == problem.question.strip()


def _unit(vectors: Any) -> Any:
    import numpy as np

    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
