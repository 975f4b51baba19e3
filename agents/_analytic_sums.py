"""The sums that an analytic head learns from: they add up exactly, and its weights follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from docendo.errors import DataError

Label: TypeAlias = str | int | bool
Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """Sums over rows of features and their classes; `+` is what both sets of rows give together.

    Attributes:
        classes: The classes, in the order in which they were seen.
        gram: X'X, of shape (1, features, features); or one for each class, (classes, features, features).
        totals: Sum of the rows of each class (the columns of X'Y), of shape (classes, features).
        counts: Number of rows of each class.
        by_class: Whether `gram` has one matrix for each class.
    """

    classes: tuple[Label, ...]
    gram: Array
    totals: Array
    counts: Array
    by_class: bool

    @classmethod
    def nothing(cls, features: int, *, by_class: bool) -> Sums:
        """The sums of no row."""
        return cls(
            classes=(),
            gram=np.zeros((0 if by_class else 1, features, features)),
            totals=np.zeros((0, features)),
            counts=np.zeros(0),
            by_class=by_class,
        )

    @classmethod
    def of(cls, rows: Array, labels: Sequence[Label], *, by_class: bool) -> Sums:
        """The sums of these rows.

        Raises:
            DataError: if their squares overflow.
        """
        classes = tuple(dict.fromkeys(labels))
        index = {label: number for number, label in enumerate(classes)}
        member = np.eye(len(classes))[[index[label] for label in labels]]
        parts = [rows[column == 1] for column in member.T] if by_class else [rows]
        with np.errstate(over="ignore", invalid="ignore"):
            gram = np.array([part.T @ part for part in parts])
        if not np.isfinite(np.trace(gram, axis1=1, axis2=2)).all():
            raise DataError("the squares of the rows are too large", remedy="scale the features")
        return cls(
            classes=classes, gram=gram, totals=member.T @ rows, counts=member.sum(0), by_class=by_class
        )

    def __add__(self, other: Sums) -> Sums:
        classes = tuple(dict.fromkeys((*self.classes, *other.classes)))
        place = [classes.index(label) for label in other.classes]

        def added(mine: Array, theirs: Array) -> Array:
            found = np.zeros((len(classes), *mine.shape[1:]))
            found[: len(mine)] = mine
            found[place] += theirs
            return found

        return Sums(
            classes=classes,
            gram=added(self.gram, other.gram) if self.by_class else self.gram + other.gram,
            totals=added(self.totals, other.totals),
            counts=added(self.counts, other.counts),
            by_class=self.by_class,
        )

    def solution(self, gamma: float, *, intercept: bool) -> tuple[Array, Array]:
        """Ridge weights, of shape (features, classes), and the constant of each class.

        With a matrix for each class, classes count equally: rows weigh by the inverse count of theirs.
        """
        weight = self.counts.sum() / (len(self.classes) * self.counts) if self.by_class else np.ones(1)
        gram = np.tensordot(weight, self.gram, axes=1)
        totals, counts = weight[:, None] * self.totals, weight * self.counts
        # Below this, an eigenvalue of the rounded sums means nothing.
        noise = len(gram) * np.finfo(float).eps * float(np.trace(gram))
        if not intercept:
            return _ridge(gram, totals.T, gamma, noise), np.zeros(len(self.classes))
        rows = counts.sum()
        centre = totals.sum(0) / rows
        centred = gram - rows * np.outer(centre, centre)
        weights = _ridge(centred, (totals - np.outer(counts, centre)).T, gamma, noise)
        return weights, counts / rows - centre @ weights


def _ridge(gram: Array, totals: Array, gamma: float, noise: float) -> Array:
    """Solves (gram + gamma I) W = totals; where `gamma` drowns in rounding, without the empty directions."""
    if gamma > noise:
        return np.asarray(np.linalg.solve(gram + gamma * np.eye(len(gram)), totals))
    values, vectors = np.linalg.eigh(gram)
    kept = values > noise
    return np.asarray(vectors[:, kept] @ ((vectors[:, kept].T @ totals) / (values[kept] + gamma)[:, None]))
