"""Joining the scores of several rankings into one.

Reciprocal ranks need nothing. Calibrated scores need queries whose relevant entries are known: each ranking's
scores become probabilities (Platt scaling), and the weights are those that rank these queries best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from docendo.errors import DataError
from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

#: Scores of one ranking by post id, for one query.
Scores = Mapping[str, float]

_STEPS = 10
_NEWTON = 100
_CUT = 10


@runtime_checkable
class Fusion(Protocol):
    """Makes one score of several."""

    def fuse(self, rankings: Mapping[str, Scores]) -> dict[str, float]:
        """One score per id that any ranking has; higher is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReciprocalRank(Record):
    """Sums 1 / (k + rank) over the rankings (Cormack, Clarke and Buettcher 2009, where k is 60).

    Attributes:
        k: How little the first ranks stand out.

    Example:
        >>> fused = ReciprocalRank().fuse({"dense": {"a": 0.9, "b": 0.8}, "words": {"b": 7.0, "c": 1.0}})
        >>> max(fused, key=fused.get)
        'b'
    """

    k: float = 60.0

    def fuse(self, rankings: Mapping[str, Scores]) -> dict[str, float]:
        """Equal scores share the better rank; an id that a ranking lacks gets nothing from it."""
        fused: dict[str, float] = {}
        for scores in rankings.values():
            ordered = sorted(scores.values(), reverse=True)
            ranks = {score: rank for rank, score in reversed(list(enumerate(ordered, start=1)))}
            for one, score in scores.items():
                fused[one] = fused.get(one, 0.0) + 1 / (self.k + ranks[score])
        return fused


@dataclass(frozen=True, slots=True, kw_only=True)
class Platt(Record):
    """A score's probability of being that of a relevant entry: 1 / (1 + exp(-(slope x score + offset)))."""

    slope: float
    offset: float

    def __call__(self, score: float) -> float:
        """The probability."""
        return _sigmoid(self.slope * score + self.offset)

    @classmethod
    def fit(cls, scores: Sequence[float], relevant: Sequence[bool]) -> Platt:
        """Fits slope and offset by maximum likelihood to Platt's smoothed targets.

        Platt (1999) with the regularised Newton steps of Lin, Lin and Weng (2007). The targets are not 0 and
        1 but what a uniform prior makes of the counts, so that scores which separate perfectly have a finite
        slope. Where all scores are relevant, or none, the slope is 0: there is nothing to learn one from.

        Raises:
            DataError: if there are no scores, or not a label for each.

        Example:
            >>> platt = Platt.fit([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
            >>> platt(0.9) > 0.5 > platt(0.1)
            True
        """
        import numpy as np

        x, y = np.asarray(scores, dtype=float), np.asarray(relevant, dtype=bool)
        positive, negative = int(y.sum()), int((~y).sum())
        if not len(x) or len(x) != len(y):
            raise DataError(f"{len(x)} scores and {len(y)} labels", expected="as many of both, at least one")
        if not positive or not negative:
            share = (positive + 1) / (positive + negative + 2)
            return cls(slope=0.0, offset=math.log(share / (1 - share)))
        target = np.where(y, (positive + 1) / (positive + 2), 1 / (negative + 2))
        # Newton's steps are taken on standardised scores, whatever scale they come in.
        centre, spread = float(x.mean()), float(x.std()) or 1.0
        slope, offset = _newton((x - centre) / spread, target)
        return cls(slope=slope / spread, offset=offset - slope * centre / spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Record):
    """A query whose relevant entries are known.

    Attributes:
        rankings: The scores of each ranking, by post id.
        relevant: Ids of the entries that are relevant, found or not.
    """

    rankings: Mapping[str, Scores]
    relevant: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedFusion(Record):
    """A weighted mean of calibrated scores; made by `fit`.

    Attributes:
        calibrations: How each ranking's scores become probabilities.
        weights: The weight of each ranking; they add up to 1.
    """

    calibrations: Mapping[str, Platt]
    weights: Mapping[str, float]

    @classmethod
    def fit(cls, queries: Sequence[Judged]) -> CalibratedFusion:
        """Fits calibrations and weights; the weights by nDCG@10 over all tenths that add up to 1.

        Use queries that nothing else is measured on.

        Raises:
            DataError: if the queries have different rankings, or no ranking found a relevant entry.
        """
        names = sorted({name for query in queries for name in query.rankings})
        if not names or any(set(query.rankings) != set(names) for query in queries):
            raise DataError(f"the queries have the rankings {names}", expected="the same ones in each query")
        if not any(query.relevant & set(scores) for query in queries for scores in query.rankings.values()):
            raise DataError("no ranking has found a relevant entry", expected="at least one, to learn from")
        calibrations = {}
        for name in names:
            pairs = [
                (score, one in query.relevant)
                for query in queries
                for one, score in query.rankings[name].items()
            ]
            calibrations[name] = Platt.fit([score for score, _ in pairs], [known for _, known in pairs])
        # Equal gains go to the most even weights: with little data that is the safer choice.
        best = max(
            _simplex(len(names)),
            key=lambda tenths: (_gain(queries, calibrations, names, tenths), -max(tenths)),
        )
        weights = {name: tenth / _STEPS for name, tenth in zip(names, best, strict=True)}
        return cls(calibrations=calibrations, weights=weights)

    def fuse(self, rankings: Mapping[str, Scores]) -> dict[str, float]:
        """An id that a ranking lacks has probability 0 there.

        Raises:
            DataError: if the rankings are not those that were calibrated.
        """
        if set(rankings) != set(self.weights):
            raise DataError(
                f"the rankings are {', '.join(sorted(rankings))}",
                expected=", ".join(sorted(self.weights)),
                remedy="calibrate with the rankings that are fused",
            )
        fused: dict[str, float] = {}
        for name, scores in rankings.items():
            for one, score in scores.items():
                fused[one] = fused.get(one, 0.0) + self.weights[name] * self.calibrations[name](score)
        return fused


def ndcg(ranked: Sequence[str], relevant: frozenset[str], *, k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k, with gains of 1 and 0 (Järvelin and others 2002).

    Example:
        >>> ndcg(["a", "b"], frozenset({"a"})), round(ndcg(["b", "a"], frozenset({"a"})), 3)
        (1.0, 0.631)
    """
    gained = sum(1 / math.log2(rank + 1) for rank, one in enumerate(ranked[:k], start=1) if one in relevant)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
    return gained / best if best else 0.0


def ordered(scores: Scores, order: Mapping[str, int]) -> list[str]:
    """Ids, the highest score first; equal ones by their place in `order`."""
    return sorted(scores, key=lambda one: (-round(scores[one], 9), order[one]))


def _gain(
    queries: Sequence[Judged], calibrations: Mapping[str, Platt], names: Sequence[str], tenths: Sequence[int]
) -> float:
    weights = {name: tenth / _STEPS for name, tenth in zip(names, tenths, strict=True)}
    fusion = CalibratedFusion(calibrations=calibrations, weights=weights)
    total = 0.0
    for query in queries:
        fused = fusion.fuse(query.rankings)
        order = {one: place for place, one in enumerate(sorted(fused))}
        total += ndcg(ordered(fused, order), query.relevant, k=_CUT)
    return round(total, 9)


def _simplex(count: int) -> Iterator[tuple[int, ...]]:
    """All ways to give so many rankings tenths that add up to ten."""
    for tenths in itertools.product(range(_STEPS + 1), repeat=count - 1):
        if sum(tenths) <= _STEPS:
            yield (*tenths, _STEPS - sum(tenths))


def _newton(x: Array, target: Array) -> tuple[float, float]:
    """Slope and offset of the likeliest logistic curve: Newton's method with halved steps."""
    import numpy as np

    def loss(slope: float, offset: float) -> float:
        margin = slope * x + offset
        return float((np.logaddexp(0, margin) - target * margin).sum())

    slope, offset = 0.0, float(np.log(target.mean() / (1 - target.mean())))
    for _ in range(_NEWTON):
        share = 1 / (1 + np.exp(-(slope * x + offset)))
        residual, weight = share - target, share * (1 - share) + 1e-12
        gradient = np.array([(residual * x).sum(), residual.sum()])
        curvature = np.array(
            [[(weight * x * x).sum(), (weight * x).sum()], [(weight * x).sum(), weight.sum()]]
        )
        step = np.linalg.solve(curvature + 1e-10 * np.eye(2), gradient)
        size, here = 1.0, loss(slope, offset)
        while size > 1e-8 and loss(slope - size * step[0], offset - size * step[1]) > here:
            size /= 2
        slope, offset = slope - size * float(step[0]), offset - size * float(step[1])
        if abs(gradient).max() < 1e-6 * len(x) or size <= 1e-8:
            break
    return slope, offset


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1 + grown)
