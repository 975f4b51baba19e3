"""A comparison that may be looked at after every item and stopped at any time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from docendo.errors import DataError
from docendo.evals.statistics._checks import averaged, check_level, numbers

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats

# Bets over which the wealth is averaged; with any fixed set it stays a fair game.
_BETS = 32
_HALVINGS = 50


class SequentialComparison:
    """Follows paired differences in [-1, 1], such as `after - before` of right answers, until they decide.

    The interval holds the true mean difference at all looks at once with probability `level`: looking after
    every item and stopping when it excludes 0 errs in at most `1 - level` of all cases, while a test for
    a fixed number of items would err ever more often. In simulation it decides, by the median, after about
    as many items as a fixed test of 80 % power needs, and in four of five cases or more within twice as many
    (`docs/statistics.md`).

    It is a confidence sequence by betting (Waudby-Smith and Ramdas 2023): against each candidate mean one
    bets on the next difference being above it (and another on below), at a fair price, a fixed fraction of
    one's wealth; wealth is averaged over fractions from 0 to 1. If the candidate is the true mean, wealth
    exceeds 2 / (1 - level) at any time with at most half the error (Ville's inequality); the candidates
    against which it does so are excluded. Valid if every difference has the same mean given those before:
    take items in random order. Several seeds of an item count as one: add the mean of their differences.

    Args:
        level: Confidence level.

    Attributes:
        level: Confidence level.
        n: Number of differences so far.

    Example:
        >>> test = SequentialComparison()
        >>> for differences in ([1, 0, 1, 1, 0], [1, 1, 0, 1, 1], [1, 1, 0, 1, 1]):
        ...     test.add(differences)
        ...     if test.decided:
        ...         break
        >>> test.n, round(test.difference, 2), test.decided
        (15, 0.73, True)
    """

    def __init__(self, *, level: float = 0.95) -> None:
        """Starts without a difference."""
        check_level(level)
        self.level = level
        self.n = 0
        self._counts: dict[float, int] = {}
        self._interval = (-1.0, 1.0)

    def add(self, differences: Any) -> None:
        """Adds differences, in any number at a time, and looks at what they show together.

        The time of a look grows with the number of distinct differences so far, not with their number.

        Args:
            differences: Numbers in [-1, 1].

        Raises:
            DataError: if one is not in [-1, 1], or the differences exclude every mean, which shows that
                they drift. Of those given none is then added.
        """
        import numpy as np

        found = numbers("differences", differences)
        for place, value in enumerate(found):
            if abs(value) > 1:
                raise DataError(f"differences[{place}] is {value:g}", expected="a number in [-1, 1]")
        counts = dict(self._counts)
        for value in found.tolist():
            counts[value] = counts.get(value, 0) + 1
        if not counts:
            return
        # Sorted, so that the order within a look does not matter.
        values = np.array(sorted(counts))
        weights = np.array([float(counts[value]) for value in values.tolist()])
        low = max(self._interval[0], lower_bound(values, weights, self.level))
        high = min(self._interval[1], -lower_bound(-values, weights, self.level))
        if low > high:
            raise DataError(
                f"differences {self.n + 1} to {self.n + len(found)} and those before have no common mean",
                expected="differences that do not drift",
                remedy="take the items in random order",
            )
        self._counts, self._interval = counts, (low, high)
        self.n += len(found)

    @property
    def difference(self) -> float:
        """Mean of the differences so far; NaN if there is none."""
        if not self.n:
            return math.nan
        return math.fsum(value * count for value, count in self._counts.items()) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """What all looks so far leave of [-1, 1]; it never widens."""
        return self._interval

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0, so that one may stop; its sign says which way."""
        low, high = self._interval
        return low > 0 or high < 0

    def __repr__(self) -> str:
        low, high = self._interval
        found = f"{self.difference:+.3f} ({low:+.3f} to {high:+.3f})" if self.n else "nothing yet"
        return f"SequentialComparison(n={self.n}, {found}, {'decided' if self.decided else 'not decided'})"


def lower_bound(values: Floats, counts: Floats, level: float) -> float:
    """The least mean that bets on larger differences do not exclude."""
    low, high = -1.0, float(values @ counts / counts.sum())
    limit = math.log(2 / (1 - level))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle <= -1.0 or log_wealth(values, counts, middle) < limit:
            high = middle
        else:
            low = middle
    return low


def log_wealth(values: Floats, counts: Floats, mean: float) -> Any:
    """Logarithm of the wealth of betting that differences are above `mean`, which is more than -1.

    A bet of the fraction c multiplies wealth by 1 - c + c (1 + x) / (1 + mean) at a difference x: 1 on
    average if that is the mean, and less the larger the candidate, so that the excluded ones have no gap.

    Args:
        values: Distinct differences, of shape [values].
        counts: How often each came, of shape [..., values].
        mean: The candidate.
    """
    import numpy as np

    # The points lie close enough near 0 for the small bets that small effects need.
    fractions, weights = averaged(_BETS)
    gains = np.log1p(np.outer(fractions, (values - mean) / (1 + mean)))
    return np.logaddexp.reduce(counts @ gains.T + np.log(weights), axis=-1)
