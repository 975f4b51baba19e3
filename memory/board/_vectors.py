"""Vectors of posts: embedded once, stored with a digest, compared by cosine.

All vectors of a memory lie in one matrix and every one is compared with the query; there is no index that
could miss one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import sqlalchemy as sa

from docendo.errors import DataError, IntegrityError
from docendo.memory.storage import _schema
from docendo.memory.storage._database import Database

if TYPE_CHECKING:
    import numpy as np

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

#: Texts that are embedded, and vectors that are fetched, at once.
_BATCH = 256
#: Similarities are compared to this many digits: below are sums whose order depends on the matrix's size.
_DIGITS = 5


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors of one length.

    Attributes:
        fingerprint: Changes whenever a text could get another vector; vectors are stored by it.
    """

    fingerprint: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text, float32; its length does not matter."""


class VectorIndex:
    """The vectors of some posts under one embedder, in the database and in one matrix."""

    def __init__(self, database: Database, embedder: Embedder) -> None:
        self.database, self.embedder = database, embedder
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._blocks: list[Vectors] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, texts: Iterable[tuple[str, str]]) -> None:
        """Takes in posts (id, text): vectors that are stored are read, the others made and stored.

        Raises:
            DataError: if the embedder returns something else than a finite vector per text.
            IntegrityError: if a stored vector is damaged.
        """
        with self._lock:
            new = [(post, text) for post, text in dict(texts).items() if post not in self._rows]
            for start in range(0, len(new), _BATCH):
                chunk = new[start : start + _BATCH]
                known = self._stored([post for post, _ in chunk])
                missing = [(post, text) for post, text in chunk if post not in known]
                known.update(self._made(missing))
                self._take_in(chunk, known)

    def similarities(self, query: str, posts: Sequence[str] | None = None) -> Vectors:
        """Cosine similarity of the query to posts that were taken in; by default to all, in their order."""
        wanted = self._embedded([query])[0]
        with self._lock:
            if not self._rows:
                return wanted[:0]
            found: Vectors = (self._matrix() @ wanted).round(_DIGITS)
            return found if posts is None else found[[self._rows[post] for post in posts]]

    def _take_in(self, chunk: Sequence[tuple[str, str]], known: dict[str, Vectors]) -> None:
        import numpy as np

        block = np.stack([known[post] for post, _ in chunk])
        if self._blocks and block.shape[1] != self._blocks[0].shape[1]:
            raise DataError(
                f"a vector has {block.shape[1]} numbers and others {self._blocks[0].shape[1]}",
                expected="one length per embedder",
                remedy="give embedders that differ different fingerprints",
            )
        for post, _ in chunk:
            self._rows[post] = len(self._rows)
        self._blocks.append(block)

    def _matrix(self) -> Vectors:
        import numpy as np

        # Joined only when something was added; joining every time would copy the whole matrix per read.
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0]

    def _embedded(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1."""
        import numpy as np

        made = np.asarray(self.embedder.embed(texts), dtype=np.float32)
        if made.ndim != 2 or len(made) != len(texts) or not np.isfinite(made).all():
            raise DataError(
                f"the embedder returned an array of shape {made.shape} for {len(texts)} texts",
                expected="one row of finite numbers per text",
            )
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        return (made / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def _made(self, missing: Sequence[tuple[str, str]]) -> dict[str, Vectors]:
        if not missing:
            return {}
        made = self._embedded([text for _, text in missing])
        found = {post: row for (post, _), row in zip(missing, made, strict=True)}
        table = _schema.vectors
        with self.database.transaction() as connection:
            # Another process may have been first; its vectors count, so that all read the same.
            here = self._select(connection, list(found))
            found.update(here)
            rows = [self._row(post, vector) for post, vector in found.items() if post not in here]
            if rows:
                connection.execute(sa.insert(table), rows)
        return found

    def _row(self, post: str, vector: Vectors) -> dict[str, Any]:
        data = vector.astype("<f4").tobytes()
        return {
            "post": post,
            "embedder": self.embedder.fingerprint,
            "vector": data,
            "hash": _digest(post, self.embedder.fingerprint, data),
        }

    def _stored(self, posts: Sequence[str]) -> dict[str, Vectors]:
        with self.database.reading() as connection:
            return self._select(connection, posts)

    def _select(self, connection: sa.Connection, posts: Sequence[str]) -> dict[str, Vectors]:
        import numpy as np

        table = _schema.vectors
        rows = connection.execute(
            sa.select(table).where(
                table.c.embedder == self.embedder.fingerprint, table.c.post.in_(list(posts))
            )
        )
        found = {}
        for row in rows:
            data = bytes(row.vector)
            if row.hash != _digest(row.post, row.embedder, data):
                raise IntegrityError(
                    f"the vector of post {row.post} by {row.embedder} does not match its digest; "
                    "delete it from docendo_vectors, it will be made anew"
                )
            found[str(row.post)] = np.frombuffer(data, dtype="<f4").astype(np.float32)
        return found


def _digest(post: str, embedder: str, data: bytes) -> str:
    return sha256(b"\0".join((post.encode(), embedder.encode(), data))).hexdigest()
