"""Cost and quality of routing between a small and a large model that both answered the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from docendo.checks import check_kind, is_number, short
from docendo.errors import DataError
from docendo.evals.metrics._basics import finite, same_length
from docendo.evals.metrics._measures import Measure
from docendo.evals.statistics._checks import check_number, check_resampling
from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

#: Budgets at which a frontier is shown: every twentieth of the way from always small to always large.
_POINTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPoint(Record):
    """One point of a frontier.

    Attributes:
        cost: Mean cost of a question, with everything that routing itself costs.
        value: Mean value of the answers.
        share: Share of the questions that the large model answers.
    """

    cost: float
    value: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingCurve(Record):
    """What a router gets at every budget between always small and always large.

    Attributes:
        frontier: Points at equal distances of budget; at the first everything is answered by the small model.
        apgr: Average performance gap recovered over the share of large calls, as in RouteLLM (Ong et al.
            2024, arXiv 2406.18665): 0 is always small, 1 always large, 0.5 a random choice. Free routing.
        recovered: The same over total cost, so that what routing costs counts: 0.5 is a random choice that
            costs nothing.
        values: For each question its mean value over all budgets; their mean is the height of the curve,
            and two routers are compared question by question. See `spent`.
        spent: Mean cost of a question over all budgets. Equal for all routers that can spend what they may.
        level: Confidence level of the intervals.
    """

    frontier: tuple[RoutingPoint, ...]
    apgr: Measure
    recovered: Measure
    values: tuple[float, ...]
    spent: float
    level: float

    def cost_of(self, recovered: float) -> float | None:
        """Mean cost from which this share of the gap in value is recovered; None if no budget does.

        Args:
            recovered: Share of the gap, 0 to 1; RouteLLM names 0.5 and 0.8.

        Raises:
            ConfigError: if it is no number from 0 to 1.
        """
        check_number("recovered", recovered, 0, 1)
        first, last = self.frontier[0].value, self.frontier[-1].value
        wanted = first + recovered * (max(last, max(p.value for p in self.frontier)) - first)
        return next((point.cost for point in self.frontier if point.value >= wanted), None)


def routing_curve(
    scores: Sequence[float],
    small: Sequence[float],
    large: Sequence[float],
    *,
    small_cost: Sequence[float],
    large_cost: Sequence[float],
    router_cost: float = 0.0,
    cascade: bool = False,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RoutingCurve:
    """Measures a router on questions that both models have answered.

    At each budget the questions of the highest scores go to the large model, the last one in part, so that
    every router spends exactly the budget; questions of equal scores share it. A router that costs more than
    a budget leaves is not used there. Nothing is chosen on these questions: no threshold, no share.

    Args:
        scores: For each question how much the large model is needed, on any scale.
        small: Value of the small model's answer, such as 1 if right and 0 if not.
        large: Value of the large model's answer.
        small_cost: What the small model's answer costs, in one unit for everything.
        large_cost: What the large model's answer costs, more than the small one's.
        router_cost: What scoring one question costs.
        cascade: Whether scores are known only when the small model has answered, so that a question that
            goes to the large model costs both answers.
        level: Confidence level of the intervals, over questions.
        resamples: Resamples of the bootstrap, at least 100.
        seed: Seed of the bootstrap.

    Returns:
        The curve.

    Raises:
        DataError: if there is no question, the lengths differ, a large answer costs no more than a small
            one, or something is no finite number.
        ConfigError: if `cascade` or a setting of the bootstrap is of another type or out of range.

    Example:
        >>> always = {"small_cost": [1, 1, 1, 1], "large_cost": [5, 5, 5, 5]}
        >>> found = routing_curve([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], [1, 1, 1, 1], **always)
        >>> found.apgr.value, found.spent, found.frontier[10]
        (0.75, 3.0, RoutingPoint(cost=3.0, value=1.0, share=0.5))
        >>> routing_curve([1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], **always).apgr.value
        0.5
    """
    import numpy as np

    check_resampling(resamples, seed, level)
    check_kind("cascade", cascade, bool, "True or False")
    if not is_number(router_cost) or router_cost < 0:
        raise DataError(f"router_cost is {short(router_cost)}", expected="a number, at least 0")
    named = {
        "scores": scores,
        "small": small,
        "large": large,
        "small_cost": small_cost,
        "large_cost": large_cost,
    }
    read = {name: finite(name, values) for name, values in named.items()}
    n = same_length(**read)
    score, low, high, cheap, dear = (np.array(values, dtype=float) for values in read.values())
    if (dear <= cheap).any():
        place = int(np.argmax(dear <= cheap))
        raise DataError(
            f"large_cost[{place}] is {dear[place]:g} and small_cost[{place}] is {cheap[place]:g}",
            expected="a large model that costs more",
        )
    gain, extra = high - low, dear if cascade else dear - cheap
    blocks = np.unique(-score, return_inverse=True)[1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    weights = np.concatenate([np.ones((1, n)), counts])
    by_share = _gap(
        _use(blocks, weights, np.zeros(len(weights)), np.full(len(weights), float(n))), weights, gain
    )
    length, overhead = weights @ (dear - cheap), weights.sum(1) * router_cost
    use = _use(blocks, weights * extra, overhead, length)
    by_cost = _gap(use, weights, gain)
    return RoutingCurve(
        frontier=_frontier(blocks, low, gain, cheap, extra, overhead[0], length[0]),
        apgr=_measure(by_share, level),
        recovered=_measure(by_cost, level),
        values=tuple((low + use[0] * gain).tolist()),
        spent=float(cheap.mean() + _mean_spent(length[0], overhead[0], float(extra.sum())) / n),
        level=level,
    )


def oracle_scores(
    small: Sequence[float],
    large: Sequence[float],
    *,
    small_cost: Sequence[float],
    large_cost: Sequence[float],
) -> list[float]:
    """Scores of who knows all outcomes: gain per cost. No router can be better at any budget.

    Raises:
        DataError: if the lengths differ or a number is not finite.

    Example:
        >>> oracle_scores([0, 1, 0], [1, 1, 0], small_cost=[1, 1, 1], large_cost=[3, 3, 3])
        [0.5, 0.0, 0.0]
    """
    named = {"small": small, "large": large, "small_cost": small_cost, "large_cost": large_cost}
    read = {name: finite(name, values) for name, values in named.items()}
    same_length(**read)
    return [
        (high - low) / max(dear - cheap, 1e-12) for low, high, cheap, dear in zip(*read.values(), strict=True)
    ]


def _ramps(blocks: Any, extra: Array, overhead: Array) -> tuple[Array, Array]:
    """Between which budgets each question goes over to the large model; those of equal scores together."""
    import numpy as np

    order = np.argsort(blocks, kind="stable")
    starts = np.searchsorted(blocks[order], np.arange(int(blocks.max()) + 1))
    total = np.add.reduceat(extra[:, order], starts, axis=1)
    end = np.cumsum(total, axis=1) + overhead[:, None]
    return (end - total)[:, blocks], end[:, blocks]


def _use(blocks: Any, extra: Array, overhead: Array, length: Array) -> Array:
    """Mean over the budgets 0 to `length` of the part of each question that the large model answers.

    Args:
        blocks: Rank of each question's score, 0 for the highest; shape (n,).
        extra: What the large model adds for each question; shape (resamples, n).
        overhead: What is spent before the first question goes over; shape (resamples,).
        length: The largest budget; shape (resamples,).
    """
    import numpy as np

    begin, end = _ramps(blocks, extra, overhead)
    most = length[:, None]
    wide = np.where(end > begin, end - begin, 1.0)  # what nothing weighs goes over at once
    inside = np.clip(most - begin, 0, None) ** 2 / (2 * wide)
    return np.where(most >= end, most - (begin + end) / 2, inside) / most


def _gap(use: Array, weights: Array, gain: Array) -> Array:
    """Share of the gap in value that is recovered, by resample; NaN where there is no gap."""
    import numpy as np

    gap = weights @ gain
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap > 0, (weights * use) @ gain / gap, np.nan)


def _measure(found: Array, level: float) -> Measure:
    import numpy as np

    value, again = float(found[0]), found[1:]
    if np.isnan(value):
        return Measure(value=None, reason="the large model is not better", level=level)
    if np.isnan(again).mean() > 0.01:
        return Measure(value=value, reason="the large model is hardly better", level=level)
    bounds = np.nanquantile(again, [(1 - level) / 2, (1 + level) / 2])
    return Measure(value=value, interval=(float(bounds[0]), float(bounds[1])), level=level)


def _mean_spent(length: float, overhead: float, extra: float) -> float:
    """Mean of what is spent beyond the small model's answers, over the budgets 0 to `length`."""
    full = min(length, overhead + extra)
    if full <= overhead:
        return 0.0
    return ((full**2 - overhead**2) / 2 + full * (length - full)) / length


def _frontier(
    blocks: Any, low: Array, gain: Array, cheap: Array, extra: Array, overhead: float, length: float
) -> tuple[RoutingPoint, ...]:
    import numpy as np

    begin, end = (side[0] for side in _ramps(blocks, extra[None], np.array([overhead])))
    points = []
    for budget in np.linspace(0, length, _POINTS + 1):
        part = np.clip((budget - begin) / (end - begin), 0, 1)
        used = overhead if budget > overhead else 0.0
        points.append(
            RoutingPoint(
                cost=float(cheap.mean() + (used + part @ extra) / len(low)),
                value=float((low + part * gain).mean()),
                share=float(part.mean()),
            )
        )
    return tuple(points)
