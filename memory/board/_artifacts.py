"""What was learnt from which turns: data sets and adapters, so that taint can be followed into weights."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from docendo.hashing import digest
from docendo.memory.board import _descent
from docendo.memory.storage import _payloads, _schema, _text
from docendo.memory.storage._chain import Chain, Damage, Report
from docendo.memory.storage._database import Database
from docendo.memory.storage._store import Store
from docendo.records import Record

ArtifactKind = Literal["dataset", "adapter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact(Record):
    """A data set or an adapter, as recorded.

    Attributes:
        kind: Which of the two.
        id: The data set's digest, or the SHA-256 of the adapter's weights.
        sources: What it was made of: ids of turns, or the digest of a data set and, in `parent`, an adapter.
        parent: SHA-256 of the adapter that training went on from, or empty.
        posts: Ids of the posts that held the turns when the data set was made.
        facts: Whatever else was recorded, such as a name.
    """

    kind: ArtifactKind
    id: str
    sources: tuple[str, ...]
    parent: str = ""
    posts: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Artifacts(Store):
    """An append-only record of data sets and adapters. The same record again is stored once.

    Example:
        >>> from docendo.memory import Artifacts
        >>> artifacts = Artifacts.open(":memory:")
        >>> artifacts.dataset("d1", traces=["t1", "t2"])
        >>> artifacts.adapter("a1", dataset="d1", name="first")
        >>> [(one.kind, one.id, one.sources) for one in artifacts.find()]
        [('dataset', 'd1', ('t1', 't2')), ('adapter', 'a1', ('d1',))]
        >>> artifacts.close()
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._chain = Chain(_schema.artifacts, "", record="artifact")

    def dataset(self, name: str, *, traces: Iterable[str], posts: Iterable[str] = (), **facts: Any) -> None:
        """Records a data set by its digest: the turns of its rows, and the posts that held them."""
        self._record("dataset", name, sources=traces, posts=posts, facts=facts)

    def adapter(self, sha256: str, *, dataset: str, parent: str | None = None, **facts: Any) -> None:
        """Records an adapter by the SHA-256 of its weights: its data set, and the adapter it went on from."""
        self._record("adapter", sha256, sources=[dataset], parent=parent or "", facts=facts)

    def find(self, *, kind: ArtifactKind | None = None) -> list[Artifact]:
        """Returns what was recorded, in order.

        Raises:
            IntegrityError: if a record is damaged.
        """
        table = _schema.artifacts
        query = sa.select(table).order_by(table.c.seq)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
            for row in rows:
                self._chain.check(row._mapping)
            records = _payloads.load(connection, (row.record for row in rows))
        return [
            Artifact(
                **{
                    **record,
                    "kind": row.kind,
                    "id": row.artifact,
                    "sources": tuple(record["sources"]),
                    "posts": tuple(record["posts"]),
                }
            )
            for row, record in zip(rows, records, strict=True)
        ]

    def verify(self) -> Report:
        """Recomputes all hashes and compares what the records say with the links that are followed."""
        return self._verified("artifacts", self._walk)

    def _record(
        self,
        kind: ArtifactKind,
        name: str,
        *,
        sources: Iterable[str],
        facts: Mapping[str, Any],
        posts: Iterable[str] = (),
        parent: str = "",
    ) -> None:
        record = {
            "sources": list(dict.fromkeys(_text.name(source, "sources") for source in sources)),
            "posts": list(dict.fromkeys(_text.name(post, "posts") for post in posts)),
            "parent": parent,
            "facts": _text.mapping(facts, "facts", cleaned=True),
        }
        name = _text.name(name, f"the {kind}'s id")
        entry = digest(kind, name, record)[:32]
        table = _schema.artifacts
        with self.database.transaction() as connection:
            if connection.scalar(sa.select(table.c.seq).where(table.c.id == entry)) is not None:
                return
            row = {"id": entry, "kind": kind, "artifact": name, "created": time.time()}
            row["record"] = _payloads.store(self.database, connection, record)
            self._chain.append(connection, row)
            _descent.add(self.database, connection, _edges(kind, name, record))

    def _walk(self, connection: sa.Connection) -> tuple[int, list[Damage]]:
        count, damage = self._chain.verify(connection)
        if damage:
            return count, damage
        table = _schema.artifacts
        rows = connection.execute(sa.select(table).order_by(table.c.seq)).all()
        intact, _ = _payloads.verify(connection)
        for row in rows:
            if not _payloads.references(row.record) <= intact:
                reason = _payloads.INCOMPLETE
                damage.append(Damage(record="artifact", seq=row.seq, id=row.artifact, reason=reason))
        if not damage:
            records = _payloads.load(connection, (row.record for row in rows))
            expected = {
                edge
                for row, record in zip(rows, records, strict=True)
                for edge in _edges(row.kind, row.artifact, record)
            }
            damage += _descent.verify_artifacts(connection, expected)
        return count, damage


def _edges(kind: str, name: str, record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    edge = _descent.ROW if kind == "dataset" else _descent.TRAINED
    edges = [(edge, source, name) for source in record["sources"]]
    return [*edges, (_descent.CONTINUED, record["parent"], name)] if record["parent"] else edges
