"""Choosing one of several answers by votes and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from docendo.errors import ConfigError

#: What a group of equal answers counts: its votes, or the sum, the mean or the highest of its scores.
By = Literal["count", "sum", "mean", "max"]


def choose(answers: Sequence[str | None], scores: Sequence[float] | None = None, *, by: By = "sum") -> int:
    """Which of several answers is taken.

    Equal answers are one group. "sum", the default of learning by teaching (arXiv 2406.14629), is a vote
    weighted by scores; "max" suits answers that cannot be compared; "count" is self-consistency
    (arXiv 2203.11171). Of groups that weigh the same the larger one wins, then the earlier one.

    Args:
        answers: The answers as read; None where none could be read, which never wins against one that could.
        scores: One for each answer; not needed for "count".
        by: What a group counts.

    Returns:
        The place of the taken answer; of the winning group the first with the highest score.

    Raises:
        ConfigError: if there is no answer, `by` is unknown, or the scores are missing or too many or few.

    Example:
        >>> choose(["4", "5", "5"], by="count"), choose(["4", "5", "5"], [1.0, 0.2, 0.3], by="sum")
        (1, 0)
    """
    if by not in get_args(By):
        raise ConfigError(f"by is {by!r}", expected=f"one of {', '.join(get_args(By))}")
    if not answers:
        raise ConfigError("there is no answer to choose from", expected="one at least")
    given = [0.0] * len(answers) if by == "count" and scores is None else list(scores or ())
    if len(given) != len(answers):
        raise ConfigError(
            f"there are {len(answers)} answers and {len(given)} scores", expected="one for each"
        )
    groups: dict[str | None, list[int]] = {}
    for place, answer in enumerate(answers):
        groups.setdefault(answer, []).append(place)
    if len(groups) > 1:
        groups.pop(None, None)

    def weight(places: list[int]) -> tuple[float, int]:
        values = [given[place] for place in places]
        if by == "count":
            return float(len(places)), len(places)
        if by == "max":
            return max(values), len(places)
        total = math.fsum(values)  # in any order the same: ties are then ties
        return (total if by == "sum" else total / len(places)), len(places)

    best = max(groups.values(), key=weight)
    return max(best, key=lambda place: given[place])
