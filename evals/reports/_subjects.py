"""What a report is about: evaluations, each once or once for each seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from docendo.errors import DataError
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult
from docendo.evals.statistics import CrossedDifference, crossed_difference, wilson

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A method's evaluation, or one for each seed.

    Attributes:
        name: Its name in the report.
        results: The evaluations.
        seeds: Their seeds; empty if there is one without a seed of its own.
        every_sample: Whether an item's score is the share of right answers among all samples, as in a
            comparison of several arms, or that of the first sample.
        against: Name of what it is compared with, or None.
        control: Whether it is a control.
        spent: What was spent with each seed, the making of the subject included; or empty.
        unit: What `spent` is counted in.
    """

    name: str
    results: tuple[EvalResult, ...]
    seeds: tuple[int, ...] = ()
    every_sample: bool = False
    against: str | None = None
    control: bool = False
    spent: tuple[float, ...] = ()
    unit: str = ""

    def records(self) -> Iterator[EvalRecord]:
        """All records, seed by seed."""
        return (record for result in self.results for record in result.records)

    def by_item(self) -> dict[str, tuple[EvalRecord, ...]]:
        """The answered records of each item, in the order of the seeds."""
        found: dict[str, list[EvalRecord]] = defaultdict(list)
        for record in self.records():
            if record.correct is not None:
                found[record.item].append(record)
        return {item: tuple(records) for item, records in found.items()}

    def score(self, record: EvalRecord) -> float:
        """The score of an answered record, from 0 to 1."""
        if not self.every_sample:
            return float(record.correct is True)
        samples = record.samples
        return sum(sample.correct is True for sample in samples) / len(samples)

    def scores(self) -> dict[str, float]:
        """The mean score of each answered item."""
        return {
            item: math.fsum(map(self.score, records)) / len(records)
            for item, records in self.by_item().items()
        }

    def table(self, items: Sequence[str] | None = None) -> Floats:
        """The scores as [seeds, items], NaN where an item has no answer.

        Args:
            items: The items, by default all, sorted.
        """
        import numpy as np

        chosen = sorted({record.item for record in self.records()}) if items is None else items
        places = {item: place for place, item in enumerate(chosen)}
        table = np.full((len(self.results), len(places)), np.nan)
        for row, result in zip(table, self.results, strict=True):
            for record in result.records:
                place = places.get(record.item)
                if place is not None and record.correct is not None:
                    row[place] = self.score(record)
        return table

    def strata(self) -> dict[str, str]:
        """The stratum of each item."""
        return {record.item: record.stratum for record in self.records()}


class Mean(NamedTuple):
    """A mean score with its interval, and the number of answers it is of."""

    value: float
    interval: tuple[float, float]
    n: int


def mean_of(table: Floats, *, level: float) -> Mean:
    """The mean of a table of scores.

    The interval is Wilson's for right and wrong answers with one seed. With several seeds, or scores
    between 0 and 1, it is that of `crossed_difference` from nothing, for other seeds and other items.
    """
    import numpy as np

    known = table[np.isfinite(table)]
    if not len(known):
        return Mean(0.0, (0.0, 1.0), 0)
    value, n = math.fsum(known.tolist()) / len(known), len(known)
    if len(table) == 1 and set(known.tolist()) <= {0.0, 1.0}:
        return Mean(value, wilson(round(float(known.sum())), n, level), n)
    found = difference_of(np.zeros_like(table), table, level=level)
    low, high = (0.0, 1.0) if found is None else found.interval
    return Mean(value, (max(0.0, low), min(1.0, high)), n)


def difference_of(before: Floats, after: Floats, *, level: float) -> CrossedDifference | None:
    """How two tables of the same items and seeds differ; None if there are too few pairs to say it."""
    try:
        return crossed_difference(before, after, level=level)
    except DataError:
        return None
