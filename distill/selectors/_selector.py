"""What all selectors have in common, and their negative control."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docendo.checks import is_count
from docendo.distill.selectors._rows import Group, Row, as_rows, group_names, row_digest
from docendo.distill.selectors._selection import Quota, Selection, choose
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError
from docendo.records import Usage


class Selector(ABC):
    """Scores rows and chooses the best of them. Subclass it and write `score`.

    Rows are mappings with the columns of `sft_dataset`, in any iterable. Neither scores nor choice depend
    on the order of rows: equal scores are told apart by a digest of the row.

    Example:
        >>> from docendo.distill import Verified
        >>> rows = [{"prompt": "2 + 2?", "completion": said, "rewards": {"verified": right}}
        ...         for said, right in (("4", 1.0), ("5", 0.0))]
        >>> chosen = Verified().select(rows)
        >>> chosen.indices, chosen.dropped[0].reason
        ((0,), 'verified below 1')
    """

    @abstractmethod
    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """Scores each row; what cannot be scored has a reason instead.

        Raises:
            DataError: if there is no row, or one is malformed.
        """

    @property
    def default(self) -> Mapping[str, Any]:
        """What `select` goes by without a rule: `k`, `ratio` or `threshold`; empty if it needs one."""
        return {}

    def select(
        self,
        rows: Iterable[Row],
        *,
        k: int | None = None,
        ratio: float | None = None,
        threshold: float | None = None,
        quota: Quota = 0,
        group: Group | None = None,
    ) -> Selection:
        """Scores the rows and chooses the best.

        Args:
            rows: The rows.
            k: Most rows.
            ratio: Share of the rows that have a score.
            threshold: Least score. At most one of the three; without any the selector's own rule holds.
            quota: Least rows of each group, whatever their score: a number for all, or numbers by name.
            group: The column that says which group a row belongs to, or a function of a row.

        Raises:
            ConfigError: if there is no rule or more than one, or a quota cannot be met.
            DataError: if there is no row, or one is malformed.
        """
        found = as_rows(rows)
        rule: Mapping[str, Any] = {"k": k, "ratio": ratio, "threshold": threshold}
        if all(value is None for value in rule.values()):
            rule = self.default
        groups = None if group is None else group_names(found, group)
        return choose(self._scored(found, groups if quota else None), **rule, quota=quota, groups=groups)

    def _scored(self, rows: Sequence[Row], groups: Sequence[str] | None) -> ScoreTable:
        """The table to choose from; `groups` are those that have quotas."""
        return self.score(rows)

    def _table(
        self,
        rows: Sequence[Row],
        by: str,
        columns: Mapping[str, Sequence[float | None]],
        *,
        reasons: Sequence[str] | None = None,
        usage: Usage | None = None,
        **settings: Any,
    ) -> ScoreTable:
        return ScoreTable(
            selector=type(self).__name__,
            by=by,
            columns={name: tuple(column) for name, column in columns.items()},
            digests=tuple(row_digest(row, index) for index, row in enumerate(rows)),
            reasons=("",) * len(rows) if reasons is None else tuple(reasons),
            settings=settings,
            usage=usage or Usage(),
        )


class Shuffled(Selector):
    """The negative control of a selector: its scores, given to other rows.

    It keeps as many rows with the same distribution of scores, and takes away what they say about their
    row. A method that gains as much with it does not gain by its scores. Rows that the selector cannot
    score stay out: the control of `ShortestCorrect` picks among correct answers, whatever their length.

    Args:
        selector: The selector.
        seed: Seed of the permutation.
        within: Give scores to rows of the same group only, as `group` of `select`; with a quota this is the
            quota's group in any case.

    Example:
        >>> from docendo.distill import Random
        >>> rows = [{"prompt": "?", "completion": str(n)} for n in range(10)]
        >>> real, control = Random(seed=1), Shuffled(Random(seed=1), seed=2)
        >>> sorted(real.score(rows).scores) == sorted(control.score(rows).scores)
        True
        >>> real.select(rows, k=5).indices == control.select(rows, k=5).indices
        False
    """

    def __init__(self, selector: Selector, *, seed: int = 0, within: Group | None = None) -> None:
        if not is_count(seed):
            raise ConfigError(f"seed is {seed!r}", expected="a whole number")
        self.selector, self.seed, self.within = selector, seed, within

    @property
    def default(self) -> Mapping[str, Any]:
        """That of the selector."""
        return self.selector.default

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """Shuffled scores."""
        return self._scored(as_rows(rows), None)

    def _scored(self, rows: Sequence[Row], groups: Sequence[str] | None) -> ScoreTable:
        table = self.selector.score(rows)
        if groups is None and self.within is not None:
            groups = group_names(rows, self.within)
            _require_company(table, groups)
        return table.shuffled(self.seed, groups)


def _require_company(table: ScoreTable, groups: Sequence[str]) -> None:
    """Refuses groups of one row each, in which every row would keep its own score."""
    sizes = Counter(group for group, score in zip(groups, table.scores, strict=True) if score is not None)
    if len(sizes) > 1 and max(sizes.values()) == 1:
        raise ConfigError(
            f"each of {len(sizes)} groups has one row with a score, so that there is nothing to shuffle",
            expected="groups of several rows",
        )
