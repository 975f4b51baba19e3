"""How two methods differ over seeds and items, and what can be said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from docendo.errors import DataError
from docendo.evals.comparison._outcome import ArmVerdict, shown_p
from docendo.evals.comparison._rules import Rules
from docendo.evals.statistics import crossed_difference, holm

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats


class Found(NamedTuple):
    """How two arms differ, and what a verdict on that must say beside it."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    n: int
    seeds: int
    #: Whether the seeds gave the same answers, so that the items were counted once.
    once: bool = False
    #: Why nothing can be said, or empty.
    problem: str = ""


def differ(before: Floats, after: Floats, level: float) -> Found:
    """The difference of two arms. Seeds with the same answers count once: they are no further evidence."""
    import numpy as np

    known = np.isfinite(before) & np.isfinite(after)
    answered = known.any(axis=0)
    if not answered.any():
        return _nothing(0, "no item was answered by both")
    first, second = (np.where(known, table, np.nan)[:, answered] for table in (before, after))
    seeds = int(known.any(axis=1).sum())
    most, least = (tuple(pick(side, axis=0) for side in (first, second)) for pick in (np.nanmax, np.nanmin))
    # Of items that mostly have one value nothing can be seen: each seed then has its own.
    once = bool(np.median(known.sum(axis=0)[answered]) > 1 and np.array_equal(most, least))
    if once:
        (first, second), seeds = most, 1
    try:
        found = crossed_difference(first, second, level=level)
    except DataError as error:  # one item, of whose spread nothing is known
        return _nothing(int(known.sum()), str(error).rstrip("."))
    return Found(found.difference, found.interval, found.p_value, found.n, seeds, once)


def _nothing(n: int, problem: str) -> Found:
    return Found(math.nan, (math.nan, math.nan), 1.0, n, 0, problem=problem)


def verdict_on(found: Found, p_value: float, rules: Rules) -> tuple[ArmVerdict, str]:
    """The verdict on a difference, and its grounds in one sentence.

    Args:
        found: The difference.
        p_value: Its p-value, adjusted for the number of methods.
        rules: How it is judged.
    """
    if found.problem:
        return "no effect shown", f"Nothing can be said: {found.problem}."
    low, high = found.interval
    once = " All seeds gave the same answers, so that they count once." if found.once else ""
    if p_value >= 1 - rules.level or low <= 0 <= high:
        reason = f"{pairs_of(found)} do not show a difference ({p_of(p_value)}).{once}"
        return "no effect shown", reason
    good = (found.difference > 0) == (rules.direction == "more")
    reason = f"{pairs_of(found)} show the difference ({p_of(p_value)}).{once}"
    return ("better" if good else "worse"), reason


def pairs_of(found: Found) -> str:
    """On how many pairs a difference rests, in words."""
    return f"{found.n} pairs over {found.seeds} seeds" if found.seeds > 1 else f"{found.n} pairs"


def p_of(p_value: float) -> str:
    """A p-value in words."""
    return f"p {shown_p(p_value)}" if p_value < 0.001 else f"p = {shown_p(p_value)}"


def adjusted_for_number(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values of several methods, adjusted for their number by Holm's procedure."""
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))
