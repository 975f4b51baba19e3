"""What the statistics share: checks of what they are given, and the normal quantile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from docendo.checks import MOST, check_count, is_count, is_number, short
from docendo.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    #: One number for each item: a list, a tuple or an array.
    Values = Sequence[float] | npt.NDArray[Any]


# More resamples than this take minutes and tell nothing more.
_MOST_RESAMPLES = 10_000_000


def quantile(level: float) -> float:
    """The normal quantile of a two-sided level: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


@cache
def averaged(points: int) -> tuple[Floats, Floats]:
    """Points in (0, 1) and weights: the weighted sum of a smooth function is its mean (Gauss, Legendre)."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (1 + nodes) / 2, weights / 2


def check_level(level: float, *, name: str = "level") -> None:
    """Refuses what is no probability between 0 and 1."""
    if not (is_number(level) and 0 < level < 1):
        raise ConfigError(f"{name} is {short(level)}", expected="between 0 and 1, such as 0.95")


def check_resampling(resamples: int, seed: int, level: float = 0.95) -> None:
    """Refuses settings that no bootstrap can have.

    Raises:
        ConfigError: naming the one that is out of range.
    """
    check_level(level)
    check_count("resamples", resamples, 100, _MOST_RESAMPLES)
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Refuses what is no seed; there is no largest one."""
    if not is_count(seed) or seed < 0:
        raise ConfigError(f"seed is {short(seed)}", expected="a whole number, 0 or more")


def check_flips(up: int, down: int) -> None:
    """Refuses what is no number of pairs."""
    if not (is_count(up) and is_count(down) and 0 <= min(up, down) <= max(up, down) <= MOST):
        raise ConfigError(f"up is {short(up)} and down is {short(down)}", expected="counts of 0 or more")


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Refuses what is no number from `low` to `high`."""
    if not is_number(value) or not low <= value <= high:
        raise ConfigError(f"{name} is {short(value)}", expected=f"a number from {low:g} to {high:g}")


def numbers(name: str, values: Any, *, ndim: int = 1, missing: bool = False) -> Floats:
    """The values as an array of finite numbers, True and False as 1 and 0.

    Args:
        name: What the values are, for the error.
        values: Numbers.
        ndim: How many dimensions they must have; of 2, a single row may be given as it is.
        missing: Whether NaN may stand for a missing value.

    Raises:
        DataError: if they are no numbers, have other dimensions, or one is infinite (or NaN).
    """
    import numpy as np

    try:
        given = np.asarray(values)
        found = given.astype(float)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} cannot be read as numbers ({error})", expected="numbers") from error
    if given.dtype.kind in "SU" and given.size:
        raise DataError(f"{name} holds text", expected="numbers")
    if ndim == 2 and found.ndim == 1:
        found = found[None]
    if found.ndim != ndim:
        shape = "a sequence" if ndim == 1 else "a table of seeds by items"
        raise DataError(f"{name} has {found.ndim} dimensions", expected=shape)
    wrong = np.isinf(found) if missing else ~np.isfinite(found)
    if wrong.any():
        place = tuple(int(axis) for axis in np.argwhere(wrong)[0])
        where = ", ".join(map(str, place))
        raise DataError(f"{name}[{where}] is {found[place]}", expected="a finite number")
    return found


def pairs(before: Any, after: Any) -> tuple[Floats, Floats]:
    """Both sides of a paired comparison as arrays.

    Raises:
        DataError: if they differ in length, are empty, or hold what is no finite number.
    """
    first, second = numbers("before", before), numbers("after", after)
    if len(first) != len(second) or not len(first):
        raise DataError(f"{len(first)} values before and {len(second)} after", expected="pairs, at least one")
    return first, second


def are_binary(*arrays: Floats) -> bool:
    """Whether every number is 0 or 1, a missing one aside."""
    import numpy as np

    return all(bool(np.isin(array[np.isfinite(array)], (0.0, 1.0)).all()) for array in arrays)
