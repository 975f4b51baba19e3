"""How well documents fit a query: by their words, or by their embeddings.

Both are computed from columns that the documents' table and its vectors hold for this, without the documents
themselves. The database reads all of a namespace for it, so the cost grows with the namespace, not the board.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from docendo.errors import DataError, IntegrityError
from docendo.memory.board import _search
from docendo.memory.storage import _schema


def counted(text: str) -> str:
    """The words of a text with their numbers, after the number of all: `5 cat=1 the=2 ...`."""
    counts = Counter(_search.words(text))
    entries = "".join(f"{word}={count} " for word, count in sorted(counts.items()))
    return f"{counts.total()} {entries}"


def by_words(
    connection: sa.Connection, where: Iterable[sa.ColumnElement[bool]], text: str
) -> dict[int, float]:
    """BM25 of all documents that have one of the words, by the number of their version."""
    asked = list(dict.fromkeys(_search.words(text)))[: _search.MOST_TERMS]
    if not asked:
        return {}
    table, where = _schema.documents, list(where)
    total = connection.scalar(sa.select(sa.func.count(table.c.seq)).where(*where)) or 0
    having = sa.or_(*(table.c.words.like(f"% {word}=%") for word in asked))
    rows = connection.execute(sa.select(table.c.seq, table.c.words).where(*where, having)).all()
    counts = {row.seq: [_count(row.words, word) for word in asked] for row in rows}
    lengths = {row.seq: int(row.words.partition(" ")[0]) for row in rows}
    mean = sum(lengths.values()) / max(len(lengths), 1) or 1.0
    shares = [sum(1 for found in counts.values() if found[n]) for n in range(len(asked))]
    weights = [math.log(1 + (total - share + 0.5) / (share + 0.5)) for share in shares]
    scores = {}
    for seq, found in counts.items():
        norm = _search.K1 * (1 - _search.B + _search.B * lengths[seq] / mean)
        scores[seq] = sum(
            weight * count * (_search.K1 + 1) / (count + norm)
            for weight, count in zip(weights, found, strict=True)
        )
    return scores


def _count(words: str, word: str) -> int:
    start = words.find(f" {word}=")
    return 0 if start < 0 else int(words[start + len(word) + 2 : words.index(" ", start + 1)])


def by_vector(
    connection: sa.Connection, where: Iterable[sa.ColumnElement[bool]], vector: Sequence[float], *, board: str
) -> dict[int, float]:
    """The cosine of the nearest embedding of each document, by the number of its version.

    Raises:
        DataError: if the vector has another length than the stored ones.
        IntegrityError: if a stored one is damaged.
    """
    import numpy as np

    documents, vectors = _schema.documents, _schema.document_vectors
    here = sa.and_(vectors.c.board == documents.c.board, vectors.c.seq == documents.c.seq)
    query = (
        sa.select(vectors.c.seq, vectors.c.vector).select_from(documents.join(vectors, here)).where(*where)
    )
    rows = connection.execute(query).all()
    if not rows:
        return {}
    asked = np.asarray(vector, dtype=np.float32)
    size = 4 * len(asked)
    for row in rows:
        if len(row.vector) != size + 4:
            raise DataError(
                f"the query's embedding has {len(asked)} numbers, that of version {row.seq} other ones",
                expected="one embedder for a store",
                remedy="put the documents again with this one",
            )
        if zlib.crc32(row.vector[4:]) != int.from_bytes(row.vector[:4], "big"):
            raise IntegrityError(
                f"an embedding of version {row.seq} on board {board!r} does not match its checksum: "
                "it was damaged after it was written; put the document again"
            )
    stored = np.frombuffer(b"".join(row.vector[4:] for row in rows), dtype="<f4").reshape(len(rows), -1)
    lengths = np.sqrt(np.einsum("ij,ij->i", stored, stored)) * np.sqrt(asked @ asked)
    cosines = np.divide(stored @ asked, lengths, out=np.zeros(len(rows), np.float32), where=lengths > 0)
    best: dict[int, float] = {}
    for row, cosine in zip(rows, cosines.tolist(), strict=True):
        best[row.seq] = max(cosine, best.get(row.seq, -math.inf))
    return best


def packed(vector: Sequence[float]) -> bytes:
    """An embedding as it is stored: single precision, after a checksum."""
    import numpy as np

    numbers = np.asarray(vector, dtype="<f4").tobytes()
    return zlib.crc32(numbers).to_bytes(4, "big") + numbers
