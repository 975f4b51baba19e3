"""Analytic heads: classifiers on frozen features that learn in closed form and forget nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from docendo.agents._analytic_sums import Array, Label, Sums
from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, DataError, IntegrityError
from docendo.files import new_directory
from docendo.hashing import digest
from docendo.manifest import read_manifest, write_manifest

_FORMAT = 1
_TENSORS = "head.safetensors"
_SETTINGS = ("dim", "gamma", "expansion", "intercept", "balanced", "features")


class AnalyticHead:
    """A ridge regression on one-hot labels, learnt from sums, so that streaming equals joint training.

    It keeps X'X, X'Y and the number of rows of each class, in double precision, and solves for its weights
    when they are needed. The sums of two batches add up, so the order and size of batches do not matter, a
    new class is one more column, and heads that learnt in different places merge into the one that saw
    everything. The weights are those of recursive least squares, as in G-ACIL (Zhuang et al. 2024, arXiv
    2403.15706), which updates the inverse of X'X instead; sums can be merged, and stay accurate where
    `gamma` is small.

    With F features (`expansion`, or `dim` without it) a batch costs rows x F x F operations and the next
    prediction F x F x F; the sums take 8 F x F bytes, with `balanced` for each class. Methods may be called
    from several threads.

    Args:
        dim: Number of features of a row.
        gamma: Ridge penalty, more than 0; 0.1 as in the paper's code. It weighs against the squared
            features, so it depends on their scale: choose it on held-out rows.
        expansion: Number of random features: a fixed Gaussian projection and ReLU, as in the paper; 0 uses
            the rows as they are.
        intercept: Whether there is a constant that is not penalised (the paper has none). The scores of all
            classes then add up to 1.
        balanced: Whether classes count equally, however many rows they have: rows weigh by the inverse
            count of their class (AIR, Fang et al. 2024, arXiv 2408.10349), scaled to a mean of 1.
        seed: Seed of the projection.
        features: What made the features, such as an embedder's fingerprint: only heads on the same ones
            merge.

    Example:
        >>> head = AnalyticHead(2, gamma=0.01)
        >>> _ = head.partial_fit([[0.0, 1.0], [0.1, 0.9]], ["a", "a"])
        >>> _ = head.partial_fit([[1.0, 0.0], [0.9, 0.2]], ["b", "b"])
        >>> head.predict([[0.2, 1.0], [1.0, 0.1]])
        ['a', 'b']
    """

    def __init__(
        self,
        dim: int,
        *,
        gamma: float = 0.1,
        expansion: int = 0,
        intercept: bool = True,
        balanced: bool = False,
        seed: int = 0,
        features: str = "",
    ) -> None:
        if not (is_count(dim) and dim >= 1):
            raise ConfigError(f"dim is {dim!r}", expected="at least 1")
        if not (is_count(expansion) and expansion >= 0):
            raise ConfigError(f"expansion is {expansion!r}", expected="0 (off) or more")
        if not (is_number(gamma) and gamma > 0):
            raise ConfigError(f"gamma is {gamma!r}", expected="more than 0")
        self.dim, self.gamma, self.expansion = int(dim), float(gamma), int(expansion)
        self.intercept, self.balanced, self.features = intercept, balanced, features
        # Scaled so that a projected feature is about as large as a feature.
        scale = 1 / np.sqrt(dim)
        self._projection: Array = scale * np.random.default_rng(seed).standard_normal((dim, expansion))
        self._sums = Sums.nothing(expansion or dim, by_class=balanced)
        self._solved: tuple[Array, Array] | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"AnalyticHead(dim={self.dim}, rows={sum(self.counts.values())}, classes={[*self.classes]})"

    @property
    def classes(self) -> tuple[Label, ...]:
        """The classes in the order in which they were first seen."""
        return self._sums.classes

    @property
    def counts(self) -> dict[Label, int]:
        """Number of rows of each class."""
        sums = self._sums
        return {label: int(count) for label, count in zip(sums.classes, sums.counts, strict=True)}

    def partial_fit(self, rows: Any, labels: Sequence[Label]) -> Self:
        """Learns from more rows; labels not seen before become new classes.

        Args:
            rows: Array of shape (n, dim).
            labels: n texts, whole numbers, or True and False (which equal 1 and 0).

        Raises:
            DataError: if there is no row, a number is not finite, or rows and labels do not go together.
        """
        if isinstance(labels, str):
            raise DataError(f"labels is the text {labels!r}", expected="a sequence of labels")
        features, names = self._expanded(rows), [_label(label) for label in labels]
        if len(features) != len(names) or not names:
            raise DataError(f"{len(features)} rows and {len(names)} labels", expected="as many, at least one")
        sums = Sums.of(features, names, by_class=self.balanced)
        with self._lock:
            self._sums, self._solved = self._sums + sums, None
        return self

    def scores(self, rows: Any) -> Array:
        """The regression's value for each row and class, in the order of `classes`; not bounded.

        Raises:
            ConfigError: if the head has seen nothing.
        """
        features = self._expanded(rows)
        weights, constant = self.weights()
        return np.asarray(features @ weights + constant)

    def predict(self, rows: Any) -> list[Label]:
        """The class of the highest score for each row; of equal ones the class seen first."""
        best = self.scores(rows).argmax(1)
        return [self.classes[number] for number in best]

    def predict_proba(self, rows: Any) -> Array:
        """The scores, clipped to [0, 1] and scaled to the sum 1; shape (n, classes).

        The regression estimates the probability of each class, but nothing keeps it calibrated: with few
        rows for many features it is too sure, with a large `gamma` not sure enough. Check with
        `docendo.evals.calibration` on held-out rows before relying on the numbers.
        """
        clipped = np.clip(self.scores(rows), 0, 1)
        total = clipped.sum(1, keepdims=True)
        # Without an intercept all scores may be below 0.
        return np.where(total > 0, clipped / np.where(total > 0, total, 1), 1 / clipped.shape[1])

    def weights(self) -> tuple[Array, Array]:
        """The solution: weights of shape (features, classes), and the constant of each class.

        Raises:
            ConfigError: if the head has seen nothing.
        """
        with self._lock:
            if not self.classes:
                raise ConfigError("the head has seen no row", remedy="call partial_fit first")
            if self._solved is None:
                self._solved = self._sums.solution(self.gamma, intercept=self.intercept)
            return self._solved

    def merge(self, other: AnalyticHead) -> AnalyticHead:
        """A head that has seen the rows of both; neither is changed.

        Raises:
            ConfigError: if their settings, features or projections differ.
        """
        for name in _SETTINGS:
            if getattr(self, name) != getattr(other, name):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r} here and {getattr(other, name)!r} there",
                    expected="heads with the same settings",
                )
        if not np.array_equal(self._projection, other._projection):
            raise ConfigError("the projections differ", expected="heads made with the same seed")
        merged = self.emptied()
        merged._sums = self._sums + other._sums
        return merged

    def emptied(self) -> AnalyticHead:
        """A head with the same settings and projection that has seen nothing."""
        head = AnalyticHead(**{name: getattr(self, name) for name in _SETTINGS})
        head._projection = self._projection
        return head

    @property
    def fingerprint(self) -> str:
        """Changes whenever the head learns or its settings change."""
        facts, tensors = self._contents()
        return digest(facts, [hashlib.sha256(tensor.tobytes()).hexdigest() for tensor in tensors.values()])[
            :16
        ]

    def save(self, path: str | Path) -> Path:
        """Writes the folder `path`: the sums as safetensors, and a manifest with checksums.

        Raises:
            StorageError: if the folder cannot be written.
        """
        facts, tensors = self._contents()
        with new_directory(Path(path)) as folder:
            save_file(tensors, folder / _TENSORS)
            write_manifest(folder, facts)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> AnalyticHead:
        """Reads a folder written by `save`; what it learns from then on is as if it had never stopped.

        Raises:
            IntegrityError: if a file is missing, damaged, or no head.
        """
        folder = Path(path)
        facts = read_manifest(folder)
        try:
            if (facts["kind"], facts["format"]) != ("analytic head", _FORMAT):
                raise ValueError(f"it holds {facts['kind']!r} of format {facts['format']}")
            head = cls(**{name: facts[name] for name in _SETTINGS})
            tensors, classes = load_file(folder / _TENSORS), tuple(facts["classes"])
            width, matrices = head._sums.totals.shape[1], len(classes) if head.balanced else 1
            head._projection = _checked(tensors, "projection", (head.dim, head.expansion))
            head._sums = Sums(
                classes=classes,
                gram=_checked(tensors, "gram", (matrices, width, width)),
                totals=_checked(tensors, "totals", (len(classes), width)),
                counts=_checked(tensors, "counts", (len(classes),)),
                by_class=head.balanced,
            )
        except (KeyError, TypeError, ValueError, ConfigError, SafetensorError, OSError) as error:
            raise IntegrityError(f"{folder} holds no analytic head ({error}); save it again") from error
        return head

    def _contents(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """What is stored: facts for the manifest, and tensors."""
        sums, settings = self._sums, {name: getattr(self, name) for name in _SETTINGS}
        facts = {"format": _FORMAT, "kind": "analytic head", **settings, "classes": list(sums.classes)}
        tensors = {"gram": sums.gram, "totals": sums.totals, "counts": sums.counts}
        return facts, {**tensors, "projection": self._projection}

    def _expanded(self, rows: Any) -> Array:
        try:
            found = np.asarray(rows, dtype=float)
        except (TypeError, ValueError) as error:
            raise DataError(f"the rows cannot be read ({error})", expected="numbers") from None
        if found.ndim != 2 or found.shape[1] != self.dim:
            raise DataError(f"rows have the shape {found.shape}", expected=f"(n, {self.dim})")
        if not np.isfinite(found).all():
            raise DataError("a row holds NaN or infinity", expected="finite numbers")
        return np.maximum(found @ self._projection, 0) if self.expansion else found


def _label(label: Any) -> Label:
    value = label.item() if getattr(label, "ndim", None) == 0 else label
    if not isinstance(value, (str, int)):
        raise DataError(f"a label is {label!r}", expected="text, a whole number, True or False")
    return value


def _checked(tensors: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    found = tensors[name]
    if found.shape != shape or found.dtype != np.float64 or not np.isfinite(found).all():
        raise ValueError(f"{name} is {found.dtype} of the shape {found.shape}, or not finite")
    return np.asarray(found)
