"""From scores to rows: the best ones, a guard for small groups, and a report of what was dropped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from docendo.checks import is_count, is_number
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError, DataError
from docendo.records import Record, Usage

#: Least number of rows: of every group, or of each that is named.
Quota: TypeAlias = "int | Mapping[str, int]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped(Record):
    """A row that was not chosen: its place, its score if it has one, and why."""

    index: int
    score: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(Record):
    """Which rows were chosen, and which were not and why.

    Attributes:
        indices: Places of the chosen rows, in their original order.
        scores: Their scores, in the same order.
        dropped: All other rows, in their original order.
        weights: Of the chosen rows, if the selector weighs them; else empty.
        groups: Rows and chosen rows of each group; empty without groups.
        rule: What was asked for: `k`, `ratio` or `threshold`, and `quota`.
        selector: Name of the selector.
        by: The column that decided.
        settings: Of the selector, as JSON.
        usage: Tokens that the scores cost.
    """

    indices: tuple[int, ...]
    scores: tuple[float, ...]
    dropped: tuple[Dropped, ...]
    weights: tuple[float, ...]
    groups: Mapping[str, Mapping[str, int]]
    rule: Mapping[str, Any]
    selector: str
    by: str
    settings: Mapping[str, Any]
    usage: Usage

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were dropped for each reason, the commonest first."""
        return dict(Counter(row.reason for row in self.dropped).most_common())

    def take(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The chosen rows of those that were scored, with their `weight` if the selector weighs them.

        Raises:
            DataError: if there are more or fewer rows than were scored.
        """
        scored = len(self.indices) + len(self.dropped)
        if len(rows) != scored:
            raise DataError(f"{len(rows)} rows were given and {scored} were scored", expected="the same rows")
        chosen = [dict(rows[index]) for index in self.indices]
        for row, weight in zip(chosen, self.weights, strict=False):
            row["weight"] = weight
        return chosen

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a selection stored by `to_json`.

        Raises:
            DataError: if a field is missing or malformed.
        """
        try:
            return cls(
                **{
                    **value,
                    **{name: tuple(value[name]) for name in ("indices", "scores", "weights")},
                    "dropped": tuple(Dropped(**row) for row in value["dropped"]),
                    "usage": Usage(**value["usage"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"the stored selection cannot be read ({error})", expected="what Selection.to_json returns"
            ) from None

    def __str__(self) -> str:
        tokens = self.usage.prompt_tokens + self.usage.generated_tokens
        lines = [
            f"{self.selector}: {len(self)} of {len(self) + len(self.dropped)} rows by {self.by}"
            f" ({tokens} tokens)"
        ]
        lines += [f"  dropped {count}: {reason}" for reason, count in self.reasons.items()]
        lines += [f"  {name}: {count['kept']} of {count['rows']}" for name, count in self.groups.items()]
        return "\n".join(lines)


def choose(
    table: ScoreTable,
    *,
    k: int | None = None,
    ratio: float | None = None,
    threshold: float | None = None,
    quota: Quota = 0,
    groups: Sequence[str] | None = None,
) -> Selection:
    """Chooses the best rows of a table. Exactly one of `k`, `ratio` and `threshold` is given.

    Args:
        table: The scores.
        k: Most rows; fewer if fewer have a score.
        ratio: Share of the rows that have a score, rounded down, at least one row.
        threshold: Least score.
        quota: Least rows of each group, whatever their score, as far as the group has rows with one: a
            number for all groups, or numbers by name. Rows beyond the quotas are the best of the rest.
        groups: The group of each row, in their order; needed with a quota.

    Raises:
        ConfigError: if the rule is not one, a quota names a group that no row has, or the quotas are more
            than the rows to choose.

    Example:
        >>> table = ScoreTable(selector="mine", by="taste", columns={"taste": (0.1, 0.9, 0.8)},
        ...                    digests=("a", "b", "c"), reasons=("", "", ""))
        >>> choose(table, k=2).indices
        (1, 2)
        >>> choose(table, k=2, quota=1, groups=["rare", "common", "common"]).indices
        (0, 1)
    """
    ranked = table.ranked
    count = _count(len(ranked), k=k, ratio=ratio, threshold=threshold)
    kept = set(_guarded(ranked, quota, groups))
    if count is None:
        kept |= {index for index in ranked if _score(table, index) >= _number(threshold)}
        why = f"{table.by} below {threshold:g}"
    else:
        if len(kept) > count:
            raise ConfigError(
                f"the quotas of the groups are {len(kept)} rows", expected=f"at most the {count} to choose"
            )
        kept |= set([index for index in ranked if index not in kept][: count - len(kept)])
        why = f"not among the best {count}"
    indices = tuple(sorted(kept))
    weights = table.columns.get("weight", ())
    rule = {"k": k, "ratio": ratio, "threshold": threshold}
    return Selection(
        indices=indices,
        scores=tuple(_score(table, index) for index in indices),
        dropped=tuple(
            Dropped(index=index, score=table.scores[index], reason=table.reasons[index] or why)
            for index in range(len(table))
            if index not in kept
        ),
        weights=tuple(_number(weights[index]) for index in indices) if weights else (),
        groups={} if groups is None else _counts(groups, kept),
        rule={
            **{name: value for name, value in rule.items() if value is not None},
            **({"quota": dict(quota) if isinstance(quota, Mapping) else quota} if quota else {}),
        },
        selector=table.selector,
        by=table.by,
        settings=table.settings,
        usage=table.usage,
    )


def _score(table: ScoreTable, index: int) -> float:
    return _number(table.scores[index])


def _number(value: float | None) -> float:
    if value is None:
        raise DataError("a chosen row lacks a weight", expected="a weight for each row that has a score")
    return value


def _count(scored: int, *, k: int | None, ratio: float | None, threshold: float | None) -> int | None:
    """How many rows to choose; None if the threshold decides."""
    given = [
        name for name, value in (("k", k), ("ratio", ratio), ("threshold", threshold)) if value is not None
    ]
    if len(given) != 1:
        raise ConfigError(
            f"{', '.join(given) or 'neither k nor ratio nor threshold'} was given",
            expected="one of the three",
        )
    if threshold is not None:
        if not is_number(threshold):
            raise ConfigError(f"threshold is {threshold!r}", expected="a finite number")
        return None
    if ratio is not None:
        if not (is_number(ratio) and 0 < ratio <= 1):
            raise ConfigError(f"ratio is {ratio!r}", expected="more than 0 and at most 1")
        # A share such as 0.29 of 100 is a rounding error below 29.
        return min(scored, max(1, math.floor(ratio * scored + 1e-9)))
    if not (is_count(k) and k >= 1):
        raise ConfigError(f"k is {k!r}", expected="at least 1")
    return min(k, scored)


def _guarded(ranked: Sequence[int], quota: Quota, groups: Sequence[str] | None) -> list[int]:
    """The best rows of each group, up to its quota."""
    numbers = quota.values() if isinstance(quota, Mapping) else (quota,)
    for number in numbers:
        if not (is_count(number) and number >= 0):
            raise ConfigError(f"a quota is {number!r}", expected="0 or more rows")
    if not any(numbers):
        return []
    if groups is None:
        raise ConfigError("a quota was given without a group", remedy="pass group=, such as a column's name")
    if isinstance(quota, Mapping):
        unknown = sorted(set(quota) - set(groups))
        if unknown:
            raise ConfigError(f"no row is of the group {unknown[0]!r}, which has a quota")
        left = Counter(dict(quota))
    else:
        left = Counter(dict.fromkeys(groups, quota))
    found = []
    for index in ranked:
        if left[groups[index]] > 0:
            left[groups[index]] -= 1
            found.append(index)
    return found


def _counts(groups: Sequence[str], kept: set[int]) -> dict[str, dict[str, int]]:
    rows, chosen = Counter(groups), Counter(groups[index] for index in kept)
    return {name: {"rows": rows[name], "kept": chosen[name]} for name in sorted(rows)}
