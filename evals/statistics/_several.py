"""Several comparisons at once: adjusted p-values, and the level of simultaneous intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docendo.checks import check_count
from docendo.errors import DataError
from docendo.evals.statistics._checks import check_level, numbers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from docendo.evals.statistics._checks import Floats, Values


def holm(p_values: Values) -> list[float]:
    """Returns the p-values adjusted for their number by Holm's procedure (Holm 1979).

    Claiming an effect where the adjusted p-value is at most 0.05 claims any false one in at most 5 % of
    experiments, however the tests depend on each other. For a few methods against one baseline.

    Args:
        p_values: One p-value for each test; there may be none.

    Returns:
        The adjusted p-values in the order given, none below its own p-value.

    Raises:
        DataError: if one is NaN or not in [0, 1].

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    import numpy as np

    given, order = _ordered(p_values)
    n = len(given)
    steps = np.maximum.accumulate(given[order] * np.arange(n, 0, -1)) if n else given
    return _in_place(steps, order)


def benjamini_hochberg(p_values: Values) -> list[float]:
    """Returns the p-values adjusted by the procedure of Benjamini and Hochberg (1995).

    Claiming an effect where the adjusted p-value is at most 0.05 lets at most 5 % of the claims be false
    on average, if the tests are independent or depend positively on each other (as arms that share a
    baseline mostly do). For many tests, of which some may be wrong; for a few use `holm`.

    Args:
        p_values: One p-value for each test; there may be none.

    Returns:
        The adjusted p-values in the order given, none below its own p-value.

    Raises:
        DataError: if one is NaN or not in [0, 1].

    Example:
        >>> [round(p, 3) for p in benjamini_hochberg([0.01, 0.04, 0.03])]
        [0.03, 0.04, 0.04]
    """
    import numpy as np

    given, order = _ordered(p_values)
    n = len(given)
    steps = given[order] * n / np.arange(1, n + 1)
    return _in_place(np.minimum.accumulate(steps[::-1])[::-1], order)


def simultaneous_level(number: int, level: float = 0.95) -> float:
    """Returns the level at which each of several intervals must be taken, so that all hold together.

    By Bonferroni's inequality. Intervals of this level can hold 0 where Holm's procedure finds an effect:
    Holm's is the sharper test, but its two-sided regions are not intervals.

    Args:
        number: Number of intervals.
        level: Probability that all of them hold.

    Example:
        >>> simultaneous_level(5)
        0.99
    """
    check_level(level)
    check_count("number", number, 1)
    return 1 - (1 - level) / number


def _ordered(p_values: Values) -> tuple[Floats, npt.NDArray[np.intp]]:
    import numpy as np

    given = numbers("p_values", p_values)
    for place, value in enumerate(given):
        if not 0 <= value <= 1:
            raise DataError(f"p_values[{place}] is {value}", expected="a probability")
    return given, np.argsort(given, kind="stable")


def _in_place(steps: Floats, order: npt.NDArray[np.intp]) -> list[float]:
    import numpy as np

    found = np.empty(len(steps))
    found[order] = np.minimum(1.0, steps)
    return [float(value) for value in found]
