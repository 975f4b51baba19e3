"""Coverage and risk: how often answers are wrong if only the more confident ones are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from docendo.evals.metrics._basics import (
    finite,
    flags,
    probabilities,
    same_length,
    share,
)
from docendo.evals.metrics._measures import Measure
from docendo.evals.statistics import wilson
from docendo.evals.statistics._checks import check_resampling
from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np

    Counts = np.ndarray[Any, np.dtype[np.int64]]
    Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveragePoint(Record):
    """What answering from one confidence on would give.

    Attributes:
        threshold: Answers of at least this confidence are given.
        coverage: Share of the items that are answered.
        risk: Share of wrong answers among them.
        interval: Wilson's interval of the risk.
        n: Number of answers given.
    """

    threshold: float
    coverage: float
    risk: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRisk(Record):
    """The curve of risk over coverage.

    Attributes:
        points: One for each distinct confidence, from the most confident answers to all.
        aurc: Area under the curve, lower is better: the mean risk over all numbers of answers given
            (Geifman and El-Yaniv 2017, arXiv 1705.08500). Confidences without information have the
            overall risk.
        eaurc: `aurc` less that of the best order of the same answers, all right ones first (Geifman et
            al. 2019, arXiv 1805.08206); 0 is perfect.
        risk: Risk of answering everything.
        n: Number of answers.
        level: Confidence level of all intervals.
    """

    points: tuple[CoveragePoint, ...]
    aurc: Measure
    eaurc: float
    risk: Measure
    n: int
    level: float

    def risk_at(self, coverage: float) -> CoveragePoint:
        """The point of the smallest coverage that is at least this.

        Example:
            >>> coverage_risk([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]).risk_at(0.5).risk
            0.0
        """
        wanted = probabilities("coverage", [coverage])[0]
        return next(point for point in self.points if point.coverage >= wanted)

    def coverage_at(self, risk: float) -> CoveragePoint | None:
        """The point of the largest coverage whose risk is at most this, or None.

        A threshold chosen so on the answers that it is judged by looks better than it is: choose it on
        other items.

        Example:
            >>> coverage_risk([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]).coverage_at(0.25).coverage
            1.0
        """
        allowed = probabilities("risk", [risk])[0]
        return next((point for point in reversed(self.points) if point.risk <= allowed), None)


def coverage_risk(
    confidences: Sequence[float],
    correct: Sequence[bool],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> CoverageRisk:
    """Traces how the risk falls if only the more confident answers are given.

    Answers of equal confidence are given together, so the curve has no points between them, and `aurc` is
    the mean over all orders of theirs.

    Args:
        confidences: How sure each answer is; only their order counts.
        correct: Whether each answer is right.
        level: Confidence level of the intervals.
        resamples: Resamples of the bootstrap of `aurc`, at least 100.
        seed: Seed of the bootstrap.

    Raises:
        DataError: if there is no answer, the lengths differ, or a value is no number or no outcome.

    Example:
        >>> curve = coverage_risk([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0])
        >>> [(point.coverage, round(point.risk, 3)) for point in curve.points]
        [(0.25, 0.0), (0.75, 0.333), (1.0, 0.5)]
        >>> print(f"{curve.aurc.value:.3f} {curve.eaurc:.3f}")
        0.271 0.062
    """
    import numpy as np

    check_resampling(resamples, seed, level)
    scores, right = finite("confidences", confidences), flags("correct", correct)
    n = same_length(confidences=scores, correct=right)
    values, place = np.unique(-np.array(scores), return_inverse=True)
    sizes = np.bincount(place, minlength=len(values))
    wrong = np.bincount(place, weights=~np.array(right), minlength=len(values)).astype(np.int64)
    given, failed = sizes.cumsum().tolist(), wrong.cumsum().tolist()
    aurc = float(_aurc(sizes[None], wrong[None])[0])
    best = float(_aurc(np.array([[n - failed[-1], failed[-1]]]), np.array([[0, failed[-1]]]))[0])
    return CoverageRisk(
        points=tuple(
            CoveragePoint(
                threshold=float(-value) + 0.0,
                coverage=answers / n,
                risk=errors / answers,
                interval=wilson(errors, answers, level),
                n=answers,
            )
            for value, answers, errors in zip(values, given, failed, strict=True)
        ),
        aurc=Measure(value=aurc, interval=_resampled(sizes, wrong, level, resamples, seed), level=level)
        if 0 < failed[-1] < n
        else Measure(value=aurc, reason="all answers are right, or all wrong", level=level),
        eaurc=max(0.0, aurc - best),
        risk=share(failed[-1], n, level),
        n=n,
        level=level,
    )


def _aurc(sizes: Counts, wrong: Counts) -> Array:
    """AURC of rows of groups, most confident first, with the mean over the orders within each group.

    The j-th of a group of m answers, k of them wrong, after p answers with a wrong ones has the mean risk
    (a + k j / m) / (p + j). Summed over j that needs only differences of harmonic numbers.
    """
    import numpy as np

    n = int(sizes[0].sum())
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    ends = sizes.cumsum(1)
    before, failed = ends - sizes, wrong.cumsum(1) - wrong
    rise = harmonic[ends] - harmonic[before]
    rate = wrong / np.maximum(sizes, 1)
    return np.asarray((failed * rise + wrong - rate * before * rise).sum(1) / n)


def _resampled(sizes: Counts, wrong: Counts, level: float, resamples: int, seed: int) -> tuple[float, float]:
    """The percentile interval over answers, drawn as counts of right and wrong in each group."""
    import numpy as np

    n, groups = int(sizes.sum()), len(sizes)
    generator = np.random.default_rng(seed)
    chances = np.concatenate([sizes - wrong, wrong]) / n
    found = []
    chunk = max(1, 4_000_000 // (2 * groups))
    for start in range(0, resamples, chunk):
        drawn = generator.multinomial(n, chances, size=min(chunk, resamples - start))
        found.append(_aurc(drawn[:, :groups] + drawn[:, groups:], drawn[:, groups:]))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
