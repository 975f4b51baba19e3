"""Abstention: whether those items are left unanswered that cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docendo.errors import DataError
from docendo.evals.metrics._basics import flags, rows, same_length, share
from docendo.evals.metrics._measures import Measure
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class AbstentionScores(Record):
    """How one way of answering and abstaining does.

    Attributes:
        accuracy: Right answers among the answerable items; an abstention there is not right.
        precision: Unanswerable items among those abstained from.
        recall: Items abstained from among the unanswerable ones.
        f1: Harmonic mean of precision and recall.
        hallucination: Answered items among the unanswerable ones.
        handled: Items that were answered rightly, or abstained from if unanswerable, among all.
    """

    accuracy: Measure
    precision: Measure
    recall: Measure
    f1: Measure
    hallucination: Measure
    handled: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention(Record):
    """How well somebody tells what can be answered, beside two who never tell.

    Attributes:
        scores: The measured behaviour.
        always_abstain: Abstaining from every item.
        never_abstain: Answering every item. Its `accuracy` and `handled` are undefined unless it is known
            of every answerable item whether the answer would be right.
        answerable: Number of answerable items.
        unanswerable: Number of unanswerable items.
        level: Confidence level of all intervals.
    """

    scores: AbstentionScores
    always_abstain: AbstentionScores
    never_abstain: AbstentionScores
    answerable: int
    unanswerable: int
    level: float


def abstention(
    answerable: Sequence[bool],
    answered: Sequence[bool],
    correct: Sequence[bool | None],
    *,
    level: float = 0.95,
) -> Abstention:
    """Measures abstention on items of which some cannot be answered.

    All intervals are Wilson's. That of F1 is Wilson's of p = TP / (TP + FP + FN), of which F1 is the
    increasing function 2 p / (1 + p).

    Args:
        answerable: Whether each item has an answer.
        answered: Whether an answer was given (True) or withheld (False).
        correct: Whether the answer is right, or would have been; None where that is not known. An answer
            to an unanswerable item is never right, whatever stands here.
        level: Confidence level of the intervals.

    Raises:
        DataError: if there is no item, the lengths differ, or it is not known of an answer given to an
            answerable item whether it is right.

    Example:
        >>> found = abstention([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [True, False, None, None, None])
        >>> scores = found.scores
        >>> print(f"{scores.accuracy.value:.3f} {scores.precision.value} {scores.hallucination.value}")
        0.333 0.5 0.5
        >>> found.always_abstain.recall.value, found.always_abstain.accuracy.value
        (1.0, 0.0)
    """
    can, did = flags("answerable", answerable), flags("answered", answered)
    known = rows("correct", correct)
    same_length(answerable=can, answered=did, correct=known)
    for position, value in enumerate(known):
        if value is None and can[position] and did[position]:
            raise DataError(
                f"correct[{position}] is None though the item was answered", expected="True or False"
            )
    right = flags("correct", [False if value is None else value for value in known])
    complete = all(value is not None for value, one in zip(known, can, strict=True) if one)
    return Abstention(
        scores=_scores(can, did, right, level),
        always_abstain=_scores(can, [False] * len(can), right, level),
        never_abstain=_scores(can, [True] * len(can), right, level, graded=complete),
        answerable=sum(can),
        unanswerable=len(can) - sum(can),
        level=level,
    )


def _scores(
    can: Sequence[bool], did: Sequence[bool], right: Sequence[bool], level: float, *, graded: bool = True
) -> AbstentionScores:
    items = list(zip(can, did, right, strict=True))
    rights = sum(one and answered and good for one, answered, good in items)
    withheld = sum(not answered for answered in did)
    hits = sum(not one and not answered for one, answered, _ in items)
    without = sum(not one for one in can)
    unknown = Measure(value=None, reason="not every answer to an answerable item is graded", level=level)
    return AbstentionScores(
        accuracy=share(rights, len(can) - without, level, of="answerable items") if graded else unknown,
        precision=share(hits, withheld, level, of="abstentions"),
        recall=share(hits, without, level, of="unanswerable items"),
        f1=_f1(hits, withheld + without - hits, level),
        hallucination=share(without - hits, without, level, of="unanswerable items"),
        handled=share(rights + hits, len(can), level) if graded else unknown,
    )


def _f1(hits: int, either: int, level: float) -> Measure:
    overlap = share(hits, either, level, of="abstentions or unanswerable items")
    if overlap.value is None or overlap.interval is None:
        return overlap
    low, high = overlap.interval
    return overlap.replace(
        value=2 * overlap.value / (1 + overlap.value),
        interval=(2 * low / (1 + low), 2 * high / (1 + high)),
    )
