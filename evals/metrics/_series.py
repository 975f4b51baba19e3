"""Metrics of a series of average scores, one after each stage of lifelong learning."""

from __future__ import annotations

from collections.abc import Sequence

from docendo.checks import check_count, entries, is_number, short
from docendo.errors import DataError
from docendo.evals.metrics._measures import Measure

# They follow LeanAgent (Kumarappan et al. 2025, arXiv 2410.06209), which takes the first two from De Lange
# et al. (2023, arXiv 2205.13452). Its published scripts average rises where the paper's table says "max"; the
# table is followed here.


def windowed_forgetting(scores: Sequence[float], *, window: int = 5) -> Measure:
    """Returns the deepest fall of the average score below one of the `window` scores before it (WF5).

    Args:
        scores: Mean score of the tasks so far after each stage, such as the values of `StageMatrix.running`.
        window: How many stages to look back; where there are fewer, all.

    Returns:
        0 or more, lower is better; no value for fewer than two scores.

    Raises:
        DataError: if a score is not a finite number.
        ConfigError: if the window is less than 1.

    Example:
        >>> windowed_forgetting([0.5, 0.75, 0.25, 0.5]).value
        0.5
    """
    return _largest([-score for score in _checked(scores)], window)


def windowed_plasticity(scores: Sequence[float], *, window: int = 5) -> Measure:
    """Returns the steepest rise of the average score above one of the `window` scores before it (WP5).

    The mirror image of `windowed_forgetting`; higher is better.

    Example:
        >>> windowed_plasticity([0.5, 0.75, 0.25, 0.5]).value
        0.25
    """
    return _largest(_checked(scores), window)


def incremental_plasticity(scores: Sequence[float]) -> Measure:
    """Returns the mean change of a validation score from one stage to the next (IP); higher is better.

    Example:
        >>> incremental_plasticity([0.25, 0.75, 0.5]).value
        0.125
    """
    scores = _checked(scores)
    if len(scores) < 2:
        return Measure(value=None, reason="there is only one stage")
    return Measure(value=(scores[-1] - scores[0]) / (len(scores) - 1))


def forgetting_resilience(scores: Sequence[float]) -> Measure:
    """Returns the lowest average score as a share of the highest (CFR); higher is better.

    Returns:
        1 if it never moves; no value if the highest is not above 0.

    Raises:
        DataError: if a score is not a finite number, or below 0.

    Example:
        >>> forgetting_resilience([0.5, 0.8, 0.4]).value
        0.5
    """
    scores = _checked(scores)
    if min(scores) < 0:
        raise DataError(f"a score is {min(scores)}", expected="scores of 0 or more")
    if max(scores) == 0:
        return Measure(value=None, reason="every score is 0")
    return Measure(value=min(scores) / max(scores))


def _largest(scores: Sequence[float], window: int) -> Measure:
    """The largest rise within a window, at least 0."""
    check_count("window", window, 1)
    if len(scores) < 2:
        return Measure(value=None, reason="there is only one stage")
    rises = (scores[n] - min(scores[max(0, n - window) : n]) for n in range(1, len(scores)))
    return Measure(value=max(0.0, *rises))


def _checked(scores: Sequence[float]) -> list[float]:
    found = entries("scores", scores, expected="finite numbers")
    if not found or not all(map(is_number, found)):
        raise DataError(f"the scores are {short(found)}", expected="finite numbers, at least one")
    return [float(score) for score in found]
