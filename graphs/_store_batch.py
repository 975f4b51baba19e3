"""The operations of one batch of a store: checked, sorted, and with the texts that have to be embedded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    PutOp,
    SearchOp,
    get_text_at_path,
    tokenize_path,
)

#: Namespace and key.
Place = tuple[tuple[str, ...], str]


class PutIf(PutOp):
    """A put that compares versions."""

    expected: int

    def expecting(self, version: int) -> PutIf:
        """Sets the version that must be there."""
        self.expected = version
        return self


@dataclass
class Work:
    """The operations of a batch, and what was embedded for them."""

    size: int = 0
    reads: list[tuple[int, GetOp | SearchOp | ListNamespacesOp]] = field(default_factory=list)
    puts: dict[Place, PutOp] = field(default_factory=dict)
    #: Texts to embed, each with the items and fields that it stands in.
    texts: dict[str, list[tuple[Place, str]]] = field(default_factory=dict)
    queries: dict[str, Sequence[float]] = field(default_factory=dict)
    words: dict[Place, str] = field(default_factory=dict)
    vectors: dict[Place, dict[str, Sequence[float]]] = field(default_factory=dict)

    def embedded(self, vectors: Iterable[Sequence[float]]) -> None:
        """Gives each item the vectors of its texts."""
        for vector, uses in zip(vectors, self.texts.values(), strict=True):
            for place, name in uses:
                self.vectors.setdefault(place, {})[name] = vector


def tokenized(path: str) -> tuple[str, Any]:
    """A path and its parts; `$` is the whole value."""
    return path, path if path == "$" else tokenize_path(path)


def texts_at(value: Mapping[str, Any], paths: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Returns the texts at some paths, by path; a path to many has them numbered."""
    found = {}
    for path, tokens in paths:
        texts = get_text_at_path(value, tokens)
        found.update({f"{path}.{n}" if len(texts) > 1 else path: text for n, text in enumerate(texts)})
    return found


def labels_of(op: GetOp | SearchOp | ListNamespacesOp) -> list[Sequence[str]]:
    """The namespaces and paths that a reading operation names."""
    if isinstance(op, GetOp):
        return [op.namespace]
    if isinstance(op, SearchOp):
        return [op.namespace_prefix]
    return [condition.path for condition in op.match_conditions or ()]


def check_labels(namespace: Sequence[str]) -> None:
    """Raises an `InvalidNamespaceError` if a label is none."""
    for label in namespace:
        if not isinstance(label, str) or not label or "." in label or "\x00" in label:
            raise InvalidNamespaceError(
                f"the namespace {namespace!r} has the label {label!r}; expected text without periods and NUL"
            )
