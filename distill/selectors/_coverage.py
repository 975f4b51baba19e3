"""Rows that cover a space: greedy k-centre over vectors or over label probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from docendo.checks import is_count
from docendo.distill.selectors._labels import given_probs
from docendo.distill.selectors._rows import Row, as_rows, question, row_digest, text
from docendo.distill.selectors._selector import Selector
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError, DataError
from docendo.memory import Embedder

if TYPE_CHECKING:
    import numpy as np

    Points = np.ndarray[Any, np.dtype[np.float64]]


class Cover(NamedTuple):
    """Chosen points in the order in which they were chosen, and a score for every point.

    A chosen point scores the distance to the nearest centre at the time, every other one that at the end,
    which is never more than that of the last chosen.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def radius(self) -> float:
        """The largest distance that is left: no point is farther from its nearest centre."""
        chosen = set(self.order)
        return max((score for at, score in enumerate(self.scores) if at not in chosen), default=0.0)


def greedy_k_center(points: Any, k: int, *, centres: Any = None, keys: Sequence[str] | None = None) -> Cover:
    """Chooses k points, each the farthest from all centres so far, by Euclidean distance.

    The largest distance that is left is at most twice the smallest possible one (Gonzalez 1985,
    doi 10.1016/0304-3975(85)90224-5). Without centres to begin with, the first choice is the point nearest
    to the mean; since nothing is near it, it scores twice the largest distance to it, which no two points
    exceed. Takes (k + centres) x points x dimensions operations.

    Args:
        points: Array of shape (points, dimensions).
        k: How many to choose, at most all.
        centres: Array of shape (centres, dimensions) of what is covered already, or None.
        keys: What tells equally far points apart, the smallest first; by default their place.

    Raises:
        DataError: if there is no point, a number is not finite, or shapes differ.
        ConfigError: if k is not from 1 to the number of points.

    Example:
        >>> cover = greedy_k_center([[0.0], [1.0], [4.0], [10.0]], 3, centres=[[0.0]])
        >>> cover.order, cover.radius
        ((3, 2, 1), 0.0)
    """
    import numpy as np

    given = _points(points, "points")
    if not (is_count(k) and 1 <= k <= len(given)):
        raise ConfigError(f"k is {k!r}", expected=f"1 to {len(given)}, the number of points")
    names = [f"{at:012d}" for at in range(len(given))] if keys is None else list(keys)
    if len(names) != len(given):
        raise DataError(f"{len(given)} points and {len(names)} keys", expected="as many")
    # Sums in the order of the keys, so that rounding does not depend on the order of points.
    sorted_ = sorted(range(len(given)), key=lambda at: (names[at], at))
    ordered = given[sorted_]
    scores = np.full(len(given), np.nan)
    order: list[int] = []
    if centres is None or not len(centres):
        first = int(np.argmin(_distances(ordered, ordered.mean(axis=0))))
        nearest = _distances(ordered, ordered[first])
        scores[first] = 2 * nearest.max()
        order.append(first)
    else:
        covered = _points(centres, "centres")
        if covered.shape[1] != given.shape[1]:
            raise DataError(f"centres have {covered.shape[1]} numbers and points {given.shape[1]}")
        nearest = np.full(len(given), np.inf)
        for centre in covered:
            nearest = np.minimum(nearest, _distances(ordered, centre))
    left = np.ones(len(given), dtype=bool)
    left[order] = False
    while len(order) < k:
        at = int(np.argmax(np.where(left, nearest, -1.0)))  # of equal ones the first, by key
        scores[at], left[at] = nearest[at], False
        order.append(at)
        nearest = np.minimum(nearest, _distances(ordered, ordered[at]))
    scores = np.where(left, nearest, scores)
    back: list[float] = [0.0] * len(given)
    for place, at in enumerate(sorted_):
        back[at] = float(scores[place])
    return Cover(tuple(sorted_[at] for at in order), tuple(back))


class _KCenter(Selector):
    """What both selectors share: a budget, and the greedy choice."""

    def __init__(self, budget: int) -> None:
        if not (is_count(budget) and budget >= 1):
            raise ConfigError(f"budget is {budget!r}", expected="at least 1")
        self.budget = int(budget)

    @property
    def default(self) -> Mapping[str, Any]:
        """The budget."""
        return {"k": self.budget}

    def _cover(self, rows: Sequence[Row], points: Any, centres: Any, **settings: Any) -> ScoreTable:
        keys = [row_digest(row, index) for index, row in enumerate(rows)]
        cover = greedy_k_center(points, min(self.budget, len(rows)), centres=centres, keys=keys)
        return self._table(
            rows, "distance", {"distance": cover.scores}, budget=self.budget, radius=cover.radius, **settings
        )


class KCenter(_KCenter):
    """Chooses rows that cover a space of vectors: the core-set of Sener and Savarese 2018, arXiv 1708.00489.

    The score is the distance to the nearest row chosen before; see `greedy_k_center`. Ask for no more rows
    than the budget: beyond it, rows are ranked by their distance to the chosen ones alone.

    Args:
        budget: How many rows to choose.
        vectors: The column that holds each row's vector.
        embedder: Makes the vectors of texts instead, such as `docendo.agents.EngineEmbedder`.
        on: What it embeds: "prompt" (its last message) or "completion".
        chosen: Rows that are there already and cover what is near them.

    Example:
        >>> rows = [{"prompt": str(x), "vector": [float(x)]} for x in (0, 1, 5, 9, 10)]
        >>> KCenter(2, chosen=rows[:1]).select(rows[1:]).indices  # 10, then 5
        (1, 3)
    """

    def __init__(
        self,
        budget: int,
        *,
        vectors: str = "vector",
        embedder: Embedder | None = None,
        on: str = "prompt",
        chosen: Iterable[Row] = (),
    ) -> None:
        super().__init__(budget)
        if on not in ("prompt", "completion"):
            raise ConfigError(f"on is {on!r}", expected="prompt or completion")
        self.vectors, self.embedder, self.on, self.chosen = vectors, embedder, on, list(chosen)

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """The distance of each row to the rows chosen before it."""
        found = as_rows(rows)
        centres = self._vectors(self.chosen) if self.chosen else None
        made_of = self.vectors if self.embedder is None else self.embedder.fingerprint
        return self._cover(found, self._vectors(found), centres, vectors=made_of, on=self.on)

    def _vectors(self, rows: Sequence[Row]) -> Any:
        if self.embedder is not None:
            read = question if self.on == "prompt" else text
            return self.embedder.embed([read(row, index) for index, row in enumerate(rows)])
        found = [row.get(self.vectors) for row in rows]
        for index, vector in enumerate(found):
            if not isinstance(vector, Sequence) or isinstance(vector, str) or not len(vector):
                raise DataError(
                    f"row {index} has the {self.vectors} {vector!r}"[:200], expected="a list of numbers"
                )
        if len({len(vector) for vector in found if vector is not None}) > 1:
            raise DataError(f"the {self.vectors} of rows have unlike lengths", expected="one length")
        return found


class PCoreSet(_KCenter):
    """Chooses rows whose predicted label probabilities differ most from those of labelled rows.

    PCoreSet (2025, arXiv 2506.00910): greedy k-centre in the space of probabilities, not of features, so
    that a budget of labels covers what the student believes. Here it says which questions to ask a large
    teacher. No right answer is looked at.

    Args:
        budget: How many rows to choose.
        probs: The column of each row's label probabilities, as `label_probs` makes them.
        labelled: Rows that have a label already, with the same column. Without any, the choice begins at the
            row nearest to the mean.

    Example:
        >>> rows = [{"prompt": name, "label_probs": {"a": p, "b": 1 - p}}
        ...         for name, p in (("sure", 1.0), ("too", 0.9), ("torn", 0.5), ("other", 0.0))]
        >>> PCoreSet(2, labelled=rows[:1]).select(rows[1:]).indices  # "other", then "torn"
        (1, 2)
    """

    def __init__(self, budget: int, *, probs: str = "label_probs", labelled: Iterable[Row] = ()) -> None:
        super().__init__(budget)
        self.probs, self.labelled = probs, list(labelled)

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """The distance of each row's probabilities to those chosen before it."""
        found = as_rows(rows)
        pool = given_probs(found, self.probs)
        centres = given_probs(self.labelled, self.probs, pool.labels).rows if self.labelled else None
        return self._cover(found, pool.rows, centres, probs=self.probs, labels=list(pool.labels))


def _points(given: Any, what: str) -> Points:
    import numpy as np

    try:
        points = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the {what} are no table of numbers ({error})") from None
    if points.ndim != 2 or not points.size:
        raise DataError(
            f"the {what} have the shape {points.shape}", expected="rows and columns, at least one"
        )
    if not np.isfinite(points).all():
        raise DataError(f"the {what} hold a number that is not finite")
    return points


def _distances(points: Points, centre: Points) -> Points:
    import numpy as np

    return np.sqrt(((points - centre) ** 2).sum(axis=1))
