"""The scores of rows, as a record that can be stored."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from docendo.checks import is_number
from docendo.errors import DataError
from docendo.hashing import derive_seed
from docendo.records import Record, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable(Record):
    """What a selector says of each row; every column has one entry for each row, in their order.

    Attributes:
        selector: Name of the selector.
        by: The column that rows are ranked by, the highest first.
        columns: Named scores; None where a row could not be scored.
        digests: Of each row, for ties.
        reasons: Why a row has no score; empty where it has one.
        settings: Of the selector, as JSON.
        usage: Tokens that the scores cost, those of stored answers included.

    Raises:
        DataError: if lengths differ, a score is not finite, or a row has neither score nor reason.

    Example:
        >>> table = ScoreTable(selector="mine", by="taste", columns={"taste": (0.5, None)},
        ...                    digests=("a", "b"), reasons=("", "too long"))
        >>> table.scores
        (0.5, None)
        >>> ScoreTable.from_json(table.to_json()) == table
        True
    """

    selector: str
    by: str
    columns: Mapping[str, tuple[float | None, ...]]
    digests: tuple[str, ...]
    reasons: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        """Checks that all columns belong to the same rows."""
        if self.by not in self.columns:
            raise DataError(f"the table has no column {self.by!r}", expected=", ".join(self.columns) or "one")
        size = len(self.digests)
        for name, column in (*self.columns.items(), ("reasons", self.reasons)):
            if len(column) != size:
                raise DataError(f"column {name!r} has {len(column)} entries for {size} rows")
        for name, column in self.columns.items():
            for index, value in enumerate(column):
                if value is not None and not is_number(value):
                    raise DataError(f"{name} of row {index} is {value!r}", expected="a finite number or None")
        for index, (value, reason) in enumerate(zip(self.scores, self.reasons, strict=True)):
            if (value is None) == (not reason):
                raise DataError(f"row {index} has {self.by} {value!r} and the reason {reason!r}")

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The column that rows are ranked by."""
        return self.columns[self.by]

    @property
    def ranked(self) -> list[int]:
        """Rows that have a score, the best first; equal ones by digest, equal rows by their place."""
        found = [(-score, index) for index, score in enumerate(self.scores) if score is not None]
        found.sort(key=lambda one: (one[0], self.digests[one[1]], one[1]))
        return [index for _, index in found]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a table stored by `to_json`.

        Raises:
            DataError: if a field is missing or malformed.
        """
        try:
            return cls(
                **{
                    **value,
                    "columns": {name: tuple(column) for name, column in value["columns"].items()},
                    "digests": tuple(value["digests"]),
                    "reasons": tuple(value["reasons"]),
                    "usage": Usage(**value["usage"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the stored table cannot be read ({error})", expected="what ScoreTable.to_json returns"
            ) from None

    def shuffled(self, seed: int, groups: Sequence[str] | None = None) -> Self:
        """The same scores, given to other rows; within each group, if there are groups.

        A row without a score keeps none, so that what is chosen by the result is as many rows, and none
        that could not be chosen before. The order of rows does not matter.

        Args:
            seed: Seed of the permutation.
            groups: The group of each row, or None for one group.
        """
        places: dict[str, list[int]] = {}
        for index in sorted(range(len(self)), key=lambda index: (self.digests[index], index)):
            if self.scores[index] is not None:
                places.setdefault("" if groups is None else groups[index], []).append(index)
        source = list(range(len(self)))
        for name, members in places.items():
            drawn = list(members)
            random.Random(derive_seed("shuffled", seed, name)).shuffle(drawn)
            for to, from_ in zip(members, drawn, strict=True):
                source[to] = from_
        columns = {name: tuple(column[at] for at in source) for name, column in self.columns.items()}
        return self.replace(
            selector=f"Shuffled({self.selector})",
            columns=columns,
            settings={**self.settings, "shuffled": seed},
        )
