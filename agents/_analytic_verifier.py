"""A verifier that reads from a model's hidden states whether an answer is right."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from docendo.agents._analytic import AnalyticHead
from docendo.agents._roles import Verdict
from docendo.checks import is_number
from docendo.errors import ConfigError, DataError
from docendo.memory import Embedder
from docendo.records import Author, Item

if TYPE_CHECKING:
    from docendo.agents._context import RunContext


class AnalyticVerifier:
    """Judges answers by an `AnalyticHead` on an embedding of question and answer.

    It learns from answers known to be right or wrong, at any time and without forgetting, and a verdict
    costs one prefill. With `EngineEmbedder` the features are the mean hidden states of the model that the
    engine runs anyway. It has no gold, so it cannot check hints for leaks.

    Args:
        embedder: Turns texts into vectors, such as `EngineEmbedder(engine)`.
        head: A head that has learnt already, or None for a new one.
        threshold: Confidence from which an answer is accepted, 0.5 or more. Below it and above 1 less it
            the verifier abstains: the answer is not accepted, and the verdict's `failure` says why.
        prompt: What is embedded; `{question}` and `{answer}` are filled in.
        name: Its name in records.
        **settings: Of the new head, such as `gamma` and `expansion`.

    Example:
        >>> verifier = AnalyticVerifier(EngineEmbedder(engine), gamma=1.0)  # doctest: +SKIP
        >>> _ = verifier.fit(["2 + 2?", "2 + 2?"], ["4", "5"], [True, False])  # doctest: +SKIP
        >>> verifier.confidence("2 + 2?", "4")  # doctest: +SKIP
        0.98
    """

    role = "verifier"
    sees_gold = False
    prompt = "Question: {question}\nProposed answer: {answer}"

    def __init__(
        self,
        embedder: Embedder,
        *,
        head: AnalyticHead | None = None,
        threshold: float = 0.5,
        prompt: str | None = None,
        name: str | None = None,
        **settings: Any,
    ) -> None:
        if not (is_number(threshold) and 0.5 <= threshold < 1):
            raise ConfigError(f"threshold is {threshold!r}", expected="0.5 or more and less than 1")
        if head is not None and settings:
            raise ConfigError(f"{', '.join(settings)} was given with a head", remedy="set it on the head")
        if head is not None and head.features != embedder.fingerprint:
            raise ConfigError(
                f"the head learnt from features {head.features!r} and the embedder makes"
                f" {embedder.fingerprint!r}",
                expected="the embedder it learnt with",
            )
        self.embedder, self.head, self.threshold = embedder, head, threshold
        self.prompt, self.name = prompt or type(self).prompt, name or self.role
        self._settings = settings

    @property
    def author(self) -> Author:
        """Who judges, as stamped on verdicts."""
        return Author(agent=self.name, role=self.role, model=self.embedder.fingerprint)

    def fit(self, questions: Sequence[str], answers: Sequence[str], correct: Sequence[bool]) -> Self:
        """Forgets everything and learns from these answers.

        Raises:
            DataError: if there is none, or the lengths differ.
        """
        if self.head is not None:
            self.head = self.head.emptied()
        return self.partial_fit(questions, answers, correct)

    def partial_fit(self, questions: Sequence[str], answers: Sequence[str], correct: Sequence[bool]) -> Self:
        """Learns from more answers; the same as learning from all of them at once.

        Raises:
            DataError: if there is none, or the lengths differ.
        """
        vectors = self._vectors(questions, answers)
        if len(correct) != len(vectors):
            raise DataError(f"{len(vectors)} answers and {len(correct)} verdicts", expected="as many")
        if self.head is None:
            self.head = AnalyticHead(vectors.shape[1], features=self.embedder.fingerprint, **self._settings)
        self.head.partial_fit(vectors, [bool(right) for right in correct])
        return self

    def confidences(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """How likely each answer is right, 0 to 1; see `AnalyticHead.predict_proba` for what that means.

        Raises:
            ConfigError: unless it has learnt from right and from wrong answers.
        """
        if self.head is None or set(self.head.classes) != {True, False}:
            raise ConfigError(
                "the verifier has not seen both right and wrong answers", remedy="call fit first"
            )
        shares = self.head.predict_proba(self._vectors(questions, answers))
        return [float(share) for share in shares[:, self.head.classes.index(True)]]

    def confidence(self, question: str, answer: str) -> float:
        """How likely one answer is right."""
        return self.confidences([question], [answer])[0]

    def check(self, item: Item, text: str) -> Verdict:
        """Judges the text of an answer; it sees the question alone."""
        value = self.confidence(item.public.question, text)
        if 1 - self.threshold < value < self.threshold:
            return Verdict(
                correct=False,
                value=value,
                failure=f"abstained: confidence {value:.2f}, threshold {self.threshold:g}",
            )
        return Verdict(correct=value >= self.threshold, value=value)

    async def grade(self, context: RunContext, item: str, text: str) -> Verdict:
        """Judges the text of an answer to the item with this id."""
        return await asyncio.to_thread(self.check, context.item(item), text)

    def leaks(self, item: Item, text: str) -> bool:
        """It does not know the answer.

        Raises:
            ConfigError: always; graphs that need this check ask `sees_gold` when they are built.
        """
        raise ConfigError(
            "an analytic verifier cannot tell a leak", remedy="use Verifier(scorer) where hints are given"
        )

    def describe(self) -> dict[str, Any]:
        """The verifier as JSON, for a run's configuration."""
        return {
            "class": type(self).__name__,
            "name": self.name,
            "prompt": self.prompt,
            "threshold": self.threshold,
            "features": self.embedder.fingerprint,
            "head": None if self.head is None else self.head.fingerprint,
        }

    def _vectors(self, questions: Sequence[str], answers: Sequence[str]) -> Any:
        if len(questions) != len(answers) or not len(questions):
            raise DataError(
                f"{len(questions)} questions and {len(answers)} answers", expected="as many, at least one"
            )
        return self.embedder.embed(
            [
                self.prompt.format_map({"question": question, "answer": answer})
                for question, answer in zip(questions, answers, strict=True)
            ]
        )
