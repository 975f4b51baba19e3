"""What an evaluation keeps of each item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from docendo.records import Record, Usage

#: What an item cost. It depends on the machine and on what else ran (a cached prefix, say), so it is stored
#: apart from what was answered.
COSTS = ("usage", "seconds", "flops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Record):
    """One answer to an item.

    Attributes:
        text: What the subject answered.
        parsed: The final answer read out of it, or None if there was none.
        correct: Whether it is right; None if the item failed.
        value: The scorer's own number, in which partial credit shows.
        score_failure: What the scorer choked on; the answer counts as wrong.
        confidence: How sure the subject was, in [0, 1]: the mean probability of its tokens (geometric), or of
            a choice its share of the likelihood; None if the engine gives no log-probabilities.
    """

    text: str = ""
    parsed: str | None = None
    correct: bool | None = None
    value: float = 0.0
    score_failure: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord(Record):
    """The outcome of one item.

    Attributes:
        item: Item id, by which two evaluations are paired.
        question: The question as the subject saw it.
        text: What the subject answered, the first sample if several were drawn.
        parsed: The final answer read out of it, or None if there was none.
        correct: Whether it is right; None if the item failed, which is not a wrong answer.
        failure: Why no answer came or none was scored, beginning with who is to blame: `model: ...`,
            `task: ...` or `infrastructure: ...`.
        value: The scorer's own number, in which partial credit shows.
        score_failure: What the scorer choked on; the answer counts as wrong.
        confidence: How sure the subject was, as in `Sample`.
        stratum: The part of a mixture it belongs to, else its task.
        more: Further samples, if several were drawn.
        choices: Log-likelihood of each choice (natural logarithm), if that is how it was asked.
        traces: Ids of the stored turns that led to the answer.
        usage: Tokens of all its requests.
        seconds: Compute seconds of its requests; of a function, wall seconds.
        flops: Estimated floating-point operations; 0 if unknown.
    """

    item: str
    question: str
    text: str = ""
    parsed: str | None = None
    correct: bool | None = None
    failure: str | None = None
    value: float = 0.0
    score_failure: str | None = None
    confidence: float | None = None
    stratum: str = ""
    more: tuple[Sample, ...] = ()
    choices: tuple[float, ...] = ()
    traces: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    flops: float = 0.0

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples; empty if the item failed."""
        if self.correct is None:
            return ()
        first = Sample(
            text=self.text,
            parsed=self.parsed,
            correct=self.correct,
            value=self.value,
            score_failure=self.score_failure,
            confidence=self.confidence,
        )
        return (first, *self.more)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a record stored by `to_json`."""
        lists = {name: tuple(value.get(name, ())) for name in ("choices", "traces")}
        more = tuple(Sample(**sample) for sample in value.get("more", ()))
        return cls(**{**value, **lists, "more": more, "usage": Usage(**value.get("usage", {}))})
