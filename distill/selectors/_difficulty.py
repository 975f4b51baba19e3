"""Rows of items that are neither mastered nor out of reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docendo.checks import is_count, is_number
from docendo.distill.selectors._rows import Row, as_rows, reward
from docendo.distill.selectors._selector import Selector
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError, DataError


class DifficultyWindow(Selector):
    """Keeps rows of items that are sometimes solved: a success rate inside a window.

    Online difficulty filtering (Bae and others 2025, arXiv 2504.03380): what can be learnt from an item is
    bounded by the variance of its success p (1 - p), which is largest at 1/2 and 0 for items that are
    always or never solved. Few samples say little about p, so it is the mean of a Beta posterior, which
    shrinks towards that of the prior: 2 of 2 solved counts as 0.75, 8 of 8 as 0.9.

    The score, `margin`, is the distance to the nearer end of the window, negative outside. Further columns:
    `rate`, the mean of the posterior; `inside`, its mass in the window; `learnability`, 2 sqrt(p (1 - p)),
    the mean size of a group-normalised advantage; `samples`. All rows of an item have the same scores.

    Args:
        low: Least success rate; 0.25 and 0.75 are our choice, symmetric as the theory asks.
        high: Highest success rate.
        reward: Name of the reward that says what was solved. Rows are samples of an item, unless they hold
            counts in the columns `successes` and `samples`.
        threshold: Least reward of a sample that was solved.
        prior: The two counts of the Beta prior, more than 0; 1 and 1 is the uniform one.

    Example:
        >>> rows = [{"item": name, "prompt": name, "successes": solved, "samples": 8}
        ...         for name, solved in (("mastered", 8), ("sometimes", 4), ("never", 0))]
        >>> DifficultyWindow().select(rows).indices
        (1,)
    """

    def __init__(
        self,
        low: float = 0.25,
        high: float = 0.75,
        *,
        reward: str = "verified",
        threshold: float = 1.0,
        prior: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        if not (is_number(low) and is_number(high) and 0 <= low < high <= 1):
            raise ConfigError(f"the window is {low!r} to {high!r}", expected="0 <= low < high <= 1")
        if not is_number(threshold):
            raise ConfigError(f"threshold is {threshold!r}", expected="a finite number")
        if len(prior) != 2 or not all(is_number(count) and count > 0 for count in prior):
            raise ConfigError(f"prior is {prior!r}", expected="two numbers, more than 0")
        self.low, self.high, self.reward = float(low), float(high), reward
        self.threshold, self.prior = float(threshold), (float(prior[0]), float(prior[1]))

    @property
    def default(self) -> Mapping[str, Any]:
        """All inside the window."""
        return {"threshold": 0.0}

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """How far inside the window each row's item is."""
        from scipy.special import betainc

        found = as_rows(rows)
        columns: dict[str, list[float | None]] = {
            name: [] for name in ("margin", "rate", "inside", "learnability", "samples")
        }
        reasons = []
        for counts in self._counts(found):
            reasons.append("" if counts else f"without the reward {self.reward}")
            if counts is None:
                for column in columns.values():
                    column.append(None)
                continue
            solved, samples = counts
            a, b = self.prior[0] + solved, self.prior[1] + samples - solved
            rate = a / (a + b)
            columns["margin"].append(min(rate - self.low, self.high - rate))
            columns["rate"].append(rate)
            columns["inside"].append(float(betainc(a, b, self.high) - betainc(a, b, self.low)))
            columns["learnability"].append(2 * math.sqrt(rate * (1 - rate)))
            columns["samples"].append(float(samples))
        return self._table(
            found,
            "margin",
            columns,
            reasons=reasons,
            window=[self.low, self.high],
            prior=list(self.prior),
            reward=self.reward,
        )

    def _counts(self, rows: Sequence[Row]) -> list[tuple[int, int] | None]:
        """Solved and all samples of each row's item; None where nothing is known of the row."""
        solved: list[bool | None] = [None] * len(rows)
        totals: dict[str, list[int]] = {}
        found: list[tuple[int, int] | None] = [None] * len(rows)
        for index, row in enumerate(rows):
            if row.get("samples") is not None:
                found[index] = _given(row, index)
                continue
            value = reward(row, self.reward, index)
            if value is None:
                continue
            solved[index] = value >= self.threshold
            total = totals.setdefault(_item(row, index), [0, 0])
            total[0] += int(value >= self.threshold)
            total[1] += 1
        for index, row in enumerate(rows):
            if solved[index] is not None:
                right, all_ = totals[_item(row, index)]
                found[index] = right, all_
        return found


def _given(row: Row, index: int) -> tuple[int, int]:
    successes, samples = row.get("successes"), row["samples"]
    if not (is_count(samples) and is_count(successes) and 0 <= successes <= samples):
        raise DataError(
            f"row {index} has {successes!r} successes of {samples!r} samples",
            expected="whole numbers, at most as many successes as samples",
        )
    return int(successes), int(samples)


def _item(row: Row, index: int) -> str:
    item = row.get("item")
    if not isinstance(item, str):
        raise DataError(f"row {index} has the item {item!r}", expected="an item's id")
    return item
