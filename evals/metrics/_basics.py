"""What the metrics of answers share: shares and means with their intervals, and checks of their input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from docendo.checks import entries, is_number, short
from docendo.errors import DataError
from docendo.evals.metrics._measures import Measure
from docendo.evals.statistics import paired_bootstrap, wilson
from docendo.evals.statistics._checks import check_resampling


def share(successes: int, n: int, level: float, *, of: str = "items") -> Measure:
    """The share of successes with Wilson's interval; undefined if there is nothing that it could be of."""
    if not n:
        return Measure(value=None, reason=f"there are no {of}", level=level)
    return Measure(value=successes / n, interval=wilson(successes, n, level), level=level)


def mean(
    values: Sequence[float],
    *,
    level: float,
    resamples: int,
    seed: int,
    shares: bool = False,
    reason: str = "there are no items",
) -> Measure:
    """The mean of one value for each item, with the percentile bootstrap's interval over items.

    Args:
        values: The values.
        level: Confidence level.
        resamples: Number of resamples.
        seed: Seed of the bootstrap.
        shares: Whether the values are shares of right answers. If they are all 0 or 1, the interval is
            Wilson's: where all agree the bootstrap would claim to be certain.
        reason: Why there is no value, if there is none.

    Raises:
        ConfigError: if a setting is out of range.
    """
    check_resampling(resamples, seed, level)
    if not values:
        return Measure(value=None, reason=reason, level=level)
    if shares and set(values) <= {0.0, 1.0}:
        return share(round(sum(values)), len(values), level)
    value = math.fsum(values) / len(values)
    if len(values) == 1:
        return Measure(value=value, reason="one item has no interval", level=level)
    interval = paired_bootstrap([0.0] * len(values), values, resamples=resamples, level=level, seed=seed)
    return Measure(value=value, interval=interval, level=level)


def rows(name: str, values: Any) -> list[Any]:
    """The entries of a sequence, numbers of arrays and tensors as Python's own.

    Raises:
        DataError: if it is a text or no sequence.
    """
    found = entries(name, values)
    return [entry.item() if getattr(entry, "ndim", None) == 0 else entry for entry in found]


def flags(name: str, values: Any) -> list[bool]:
    """Right or wrong, yes or no: True, False, 1 or 0.

    Raises:
        DataError: naming the first entry that is something else.
    """
    found = rows(name, values)
    for position, value in enumerate(found):
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise DataError(f"{name}[{position}] is {short(value)}", expected="True or False")
    return [bool(value) for value in found]


def finite(name: str, values: Any) -> list[float]:
    """Finite numbers; True and False count as 1 and 0.

    Raises:
        DataError: naming the first entry that is something else.
    """
    found = rows(name, values)
    for position, value in enumerate(found):
        if not (isinstance(value, bool) or is_number(value)):
            raise DataError(f"{name}[{position}] is {short(value)}", expected="a finite number")
    return [float(value) for value in found]


def probabilities(name: str, values: Any) -> list[float]:
    """Numbers in [0, 1].

    Raises:
        DataError: naming the first entry that is something else.
    """
    found = finite(name, values)
    for position, value in enumerate(found):
        if not 0 <= value <= 1:
            raise DataError(f"{name}[{position}] is {short(value)}", expected="a number from 0 to 1")
    return found


def same_length(**lists: Sequence[Any]) -> int:
    """The common length of the lists, at least 1.

    Raises:
        DataError: if they differ or are empty.
    """
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        seen = " and ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(f"{seen} entries", expected="the same number, at least one")
    return next(iter(lengths.values()))
