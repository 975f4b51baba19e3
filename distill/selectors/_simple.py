"""Selectors that need no model: by reward, by length among correct answers, at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from docendo.checks import is_count, is_number
from docendo.distill.selectors._rows import Row, as_rows, reward, row_digest, text
from docendo.distill.selectors._selector import Selector
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError, DataError
from docendo.hashing import derive_seed


class Verified(Selector):
    """Keeps what was verified: rows whose reward is high enough.

    Args:
        reward: Name of the reward: in a row's `rewards`, else a column of that name.
        threshold: Least reward.

    Example:
        >>> rows = [{"prompt": "?", "completion": "yes", "verified": value} for value in (0.2, 0.9, None)]
        >>> chosen = Verified(threshold=0.5).select(rows)
        >>> chosen.indices, chosen.reasons
        ((1,), {'verified below 0.5': 1, 'without the reward verified': 1})
    """

    def __init__(self, reward: str = "verified", threshold: float = 1.0) -> None:
        self.reward, self.threshold = reward, _threshold(threshold)

    @property
    def default(self) -> Mapping[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """The reward of each row."""
        found = as_rows(rows)
        values = [reward(row, self.reward, index) for index, row in enumerate(found)]
        return self._table(
            found,
            self.reward,
            {self.reward: values},
            reasons=[f"without the reward {self.reward}" if value is None else "" for value in values],
            threshold=self.threshold,
        )


class ShortestCorrect(Selector):
    """Keeps the shortest correct answers of each item: shortest rejection sampling of Kimi k1.5.

    Kimi Team 2025, arXiv 2501.12599: of 8 samples of a question the shortest correct one is learnt from.
    The score is 1 for the shortest correct answer of an item, 1/2 for the next, and so on. What is
    truncated is often short and sometimes right by chance: `sft_dataset` leaves it out.

    Args:
        reward: Name of the reward that says what is correct, as for `Verified`.
        threshold: Least reward of a correct answer.
        per_item: Most answers of an item, 1 as in the report.
        length: Length of a row's answer; by default the bytes of its text. Pass a count of tokens for the
            length as a model sees it.

    Example:
        >>> rows = [{"prompt": "2 + 2?", "completion": said, "item": "a", "verified": right}
        ...         for said, right in (("Two and two is 4", 1), ("4", 1), ("", 0))]
        >>> chosen = ShortestCorrect().select(rows)
        >>> chosen.indices, chosen.reasons
        ((1,), {'rank below 1': 1, 'not correct': 1})
    """

    def __init__(
        self,
        reward: str = "verified",
        threshold: float = 1.0,
        *,
        per_item: int = 1,
        length: Callable[[Row], float] | None = None,
    ) -> None:
        if not (is_count(per_item) and per_item >= 1):
            raise ConfigError(f"per_item is {per_item!r}", expected="at least 1")
        self.reward, self.threshold = reward, _threshold(threshold)
        self.per_item, self.length = per_item, length

    @property
    def default(self) -> Mapping[str, Any]:
        """The `per_item` shortest."""
        return {"threshold": 1 / self.per_item}

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """One over the rank among the correct answers of an item, the shortest first."""
        found = as_rows(rows)
        by_item: dict[str, list[int]] = {}
        lengths: list[float | None] = []
        for index, row in enumerate(found):
            value = reward(row, self.reward, index)
            if value is None or value < self.threshold:
                lengths.append(None)
                continue
            if not isinstance(row.get("item"), str):
                raise DataError(f"row {index} has the item {row.get('item')!r}", expected="an item's id")
            lengths.append(self._length(row, index))
            by_item.setdefault(row["item"], []).append(index)
        ranks: list[float | None] = [None] * len(found)
        for members in by_item.values():
            members.sort(key=lambda index: (lengths[index], row_digest(found[index], index), index))
            for rank, index in enumerate(members, start=1):
                ranks[index] = 1 / rank
        return self._table(
            found,
            "rank",
            {"rank": ranks, "length": lengths},
            reasons=["not correct" if value is None else "" for value in ranks],
            reward=self.reward,
            threshold=self.threshold,
        )

    def _length(self, row: Row, index: int) -> float:
        if self.length is None:
            return float(len(text(row, index).encode("utf-8", "surrogatepass")))
        value = self.length(row)
        if not is_number(value):
            raise DataError(f"the length of row {index} is {value!r}", expected="a finite number")
        return float(value)


class Random(Selector):
    """Chooses at random: the baseline of every selector. A row's score depends on seed and row alone.

    Args:
        seed: Seed of the scores.

    Example:
        >>> rows = [{"prompt": "?", "completion": str(n)} for n in range(100)]
        >>> len(Random(seed=1).select(rows, ratio=0.3))
        30
    """

    def __init__(self, seed: int = 0) -> None:
        if not is_count(seed):
            raise ConfigError(f"seed is {seed!r}", expected="a whole number")
        self.seed = seed

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """A number in [0, 1) for each row."""
        found = as_rows(rows)
        drawn = [
            derive_seed("random row", self.seed, row_digest(row, index)) / 2**63
            for index, row in enumerate(found)
        ]
        return self._table(found, "drawn", {"drawn": drawn}, seed=self.seed)


def _threshold(value: float) -> float:
    if not is_number(value):
        raise ConfigError(f"threshold is {value!r}", expected="a finite number")
    return float(value)
