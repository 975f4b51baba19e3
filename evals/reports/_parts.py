"""What a report's charts and tables are drawn from: plain numbers, the same for the page and the plots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from docendo.evals.comparison._compare import PairedComparison
from docendo.evals.comparison._outcome import Outcome
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Record):
    """One step of teaching: an attempt, a hint, a demonstration.

    Attributes:
        kind: What it is, such as "attempt".
        role: Who wrote it, such as "student".
        text: What was written.
        correct: The verifier's verdict, or None if there was none.
    """

    kind: str
    role: str
    text: str
    correct: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript(Record):
    """One question: the answers before and after, how it was taught, or both.

    Attributes:
        question: The question.
        before: The answer before training, or None if it was not asked then.
        before_correct: Whether that was right.
        after: The answer after training, or None.
        after_correct: Whether that was right.
        taught: The steps of teaching, in order.
        before_rights: Right answers and answers, where there were several (samples, seeds), else None.
        after_rights: The same of the answers after.
    """

    question: str
    before: str | None = None
    before_correct: bool | None = None
    after: str | None = None
    after_correct: bool | None = None
    taught: tuple[Turn, ...] = ()
    before_rights: tuple[int, int] | None = None
    after_rights: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Record):
    """How one result differs from another on the same items: a row of the forest plot.

    Attributes:
        name: The result.
        against: What it is compared with.
        difference: Its metric minus that of the other.
        interval: Interval of the difference, for this pair alone.
        p_value: Two-sided test of no difference.
        n: Number of pairs.
        verdict: "better", "worse", "no effect shown" or "budgets differ".
        reason: The verdict's grounds in one sentence.
        adjusted: The p-value adjusted for the number of pairs, or None.
        before: The metric of the other on the pairs, or None if unknown.
        after: The metric of this one.
        control: Whether it is the control, which should show no effect.
        metric: What is compared; "correct" is shown in percentage points.
        direction: Whether "more" or "less" of it is better.
        level: Confidence level of the interval.
    """

    name: str
    against: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    n: int
    verdict: str
    reason: str = ""
    adjusted: float | None = None
    before: float | None = None
    after: float | None = None
    control: bool = False
    metric: str = "correct"
    direction: str = "more"
    level: float = 0.95

    @classmethod
    def of(cls, comparison: PairedComparison, *, name: str, against: str) -> Self:
        """The row of a paired comparison."""
        shared = ("difference", "interval", "p_value", "n", "verdict", "reason", "before", "after", "level")
        return cls(name=name, against=against, **{field: getattr(comparison, field) for field in shared})

    @classmethod
    def of_outcome(cls, outcome: Outcome, names: Mapping[str, str]) -> tuple[Self, ...]:
        """The rows of a comparison of several arms, each arm by the name that it has in the report.

        An arm that nothing can be said of has none.
        """
        methods = sum(pair.name != outcome.control for pair in outcome.pairs)
        # Without a difference there is nothing to draw.
        pairs = [pair for pair in outcome.pairs if not math.isnan(pair.difference)]
        means = {arm.name: arm.mean if arm.items else None for arm in outcome.arms}
        return tuple(
            cls(
                name=names[pair.name],
                against=names[pair.against],
                difference=pair.difference,
                interval=pair.interval,
                p_value=pair.p_value,
                n=pair.n,
                verdict=pair.verdict,
                reason=pair.reason,
                # The control's p-value is not adjusted.
                adjusted=pair.adjusted if methods > 1 and pair.name != outcome.control else None,
                before=means[pair.against],
                after=means[pair.name],
                control=pair.name == outcome.control,
                metric=outcome.metric,
                direction=outcome.direction,
                level=outcome.level,
            )
            for pair in pairs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve(Record):
    """Values at points in order: accuracy by stage, or what k samples give.

    Attributes:
        name: Whose it is.
        kind: What is measured, such as "accuracy" or "pass@k".
        labels: The points: names of stages, or numbers as text.
        values: A share for each point.
        intervals: An interval for each point, or empty.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence(Record):
    """How the confidence of a result's answers goes with their being right.

    Attributes:
        name: The result.
        n: Number of answers with a confidence.
        accuracy: Share of right answers among them.
        confidence: Their mean confidence.
        ece: Expected calibration error.
        ece_if_calibrated: What perfectly calibrated confidences would show on as many answers.
        brier: Brier score.
        aurc: Area under the curve of risk over coverage.
        bins: Mean confidence, share right, interval of that (low, high) and number of answers, of each bin
            with answers.
        curve: Coverage and risk, from the most confident answers to all of them.
        ece_interval: Interval of `ece`, or None.
    """

    name: str
    n: int
    accuracy: float
    confidence: float
    ece: float
    ece_if_calibrated: float
    brier: float
    aurc: float
    bins: tuple[tuple[float, float, float, float, int], ...]
    curve: tuple[tuple[float, float], ...]
    ece_interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StratumScore(Record):
    """How a result fared in one part of a mixture: a row of the table of strata.

    Attributes:
        stratum: The part.
        name: The result.
        n: Number of answered items.
        accuracy: Share of right answers.
        interval: Interval of the accuracy.
        against: What it is compared with, or None.
        difference: Accuracy minus that of the other on the common items, or None.
        difference_interval: Interval of the difference, for this row alone.
        level: Confidence level of the intervals.
    """

    stratum: str
    name: str
    n: int
    accuracy: float
    interval: tuple[float, float]
    against: str | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    level: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes(Record):
    """Which items a result answers better or worse than another.

    Attributes:
        name: The result.
        against: What it is compared with.
        up: Items that it answers better.
        down: Items that it answers worse.
        right: Items answered as well by both, rightly more often than not.
        wrong: Items answered as well by both, wrongly at least as often as not.
        left_out: Items without an answer in one of the two.
        losses: The largest falls, the worst first.
        gains: The largest rises, as many as falls where there are so many.
    """

    name: str
    against: str
    up: int
    down: int
    right: int
    wrong: int
    left_out: int = 0
    losses: tuple[Transcript, ...] = ()
    gains: tuple[Transcript, ...] = ()


def rebuild(kind: Any, value: Any) -> Any:
    """Rebuilds a record, or a tuple of records, from what `Record.to_json` made of it.

    Example:
        >>> turn = Turn(kind="hint", role="tutor", text="Look again.")
        >>> rebuild(tuple[Turn, ...], [turn.to_json()]) == (turn,)
        True
    """
    origin, inner = get_origin(kind), get_args(kind)
    if value is None:
        return None
    if origin in (Union, UnionType):
        return rebuild(next(each for each in inner if each is not NoneType), value)
    if origin is tuple and inner[-1] is Ellipsis:
        return tuple(rebuild(inner[0], each) for each in value)
    if origin is tuple:
        return tuple(rebuild(part, each) for part, each in zip(inner, value, strict=True))
    if kind is PairedComparison:
        return PairedComparison.from_json(value)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: rebuild(hints.get(name), each) for name, each in value.items()})  # type: ignore[operator]
    return value
