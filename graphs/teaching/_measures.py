"""Whether teaching scores tell right answers from wrong ones: the mechanism behind learning by teaching."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachingMeasures(Record):
    """How scores and correctness go together within problems.

    Attributes:
        auroc: Chance that a right sample scores higher than a wrong one of the same problem, ties counting
            half; 0.5 says nothing.
        tau: Kendall's tau-b of score and correctness, the mean over problems that have both.
        problems: Problems with right and wrong samples, which alone say something.
    """

    auroc: float
    tau: float
    problems: int


def teaching_measures(
    scores: Iterable[Sequence[float]], correct: Iterable[Sequence[bool]]
) -> TeachingMeasures:
    """How well scores tell right samples from wrong ones within each problem.

    Args:
        scores: For each problem the score of each sample.
        correct: For each problem whether each sample's answer is right.

    Returns:
        The measures; NaN where no problem has both right and wrong samples.

    Example:
        >>> teaching_measures([[1.0, 0.2], [0.5, 0.5]], [[True, False], [True, False]]).auroc
        0.75
    """
    wins = pairs = 0.0
    taus = []
    problems = 0
    for values, rights in zip(scores, correct, strict=True):
        good = [value for value, right in zip(values, rights, strict=True) if right]
        bad = [value for value, right in zip(values, rights, strict=True) if not right]
        if not good or not bad:
            continue
        problems += 1
        won = sum((a > b) + 0.5 * (a == b) for a in good for b in bad)
        wins += won
        pairs += len(good) * len(bad)
        taus.append(_tau_b(values, rights))
    if not problems:
        return TeachingMeasures(auroc=math.nan, tau=math.nan, problems=0)
    return TeachingMeasures(auroc=wins / pairs, tau=math.fsum(taus) / problems, problems=problems)


def _tau_b(values: Sequence[float], rights: Sequence[bool]) -> float:
    """Kendall's tau-b; 0 where all scores are equal, which order nothing."""
    from scipy.stats import kendalltau

    found = float(kendalltau(values, [float(right) for right in rights]).statistic)
    return 0.0 if math.isnan(found) else found
