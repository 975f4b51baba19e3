"""Documents in namespaces, as LangGraph's stores have them, kept as versioned keys of a board.

Every write of a document is a version of a key, with author, history and hash chain; a delete is a version
without a value. A table of its own (`_schema.documents`) holds the newest version of each document by
namespace, so that a search reads a namespace and not the board.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from docendo.errors import DataError, IntegrityError, VersionConflict
from docendo.hashing import digest
from docendo.memory.board import _document_ranks
from docendo.memory.board._keys import Versioned
from docendo.memory.storage import _schema, _text
from docendo.records import JSON, Author, Record

if TYPE_CHECKING:
    from docendo.memory.board._blackboard import Blackboard

#: What the board's keys of documents begin with.
PREFIX = "store/"
#: PostgreSQL has no room for longer ones in an index.
MAX_NAME_BYTES = 2000
_AT_ONCE = 200
_LONGEST_NEEDLE = 200
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Record):
    """A document as it is now.

    Attributes:
        namespace: Where it lies.
        key: Its name there.
        value: Its content, JSON.
        version: Of its key: grows with every write, also over a delete.
        author: Who wrote this version.
        created: When it was first written since it was last deleted, in seconds since 1970.
        updated: When this version was written.
        minutes: For how long it is kept after it was last read, or None.
        seq: Position of this version among all writes to keys of the board.
        score: How well it fits the query, or None.
    """

    namespace: tuple[str, ...]
    key: str
    value: Mapping[str, Any]
    version: int
    author: Author
    created: float
    updated: float
    minutes: float | None
    seq: int
    score: float | None = None


class Documents:
    """The documents of a board.

    Labels of namespaces hold no period. Lone surrogates and NUL in names and values become visible escapes.

    Example:
        >>> from docendo.memory import Blackboard
        >>> from docendo.memory.board._documents import Documents
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> documents = Documents(board, author=Author(agent="tutor", role="tutor"))
        >>> documents.put(("lessons", "sums"), "carry", {"text": "Carry the one."}, expected=0)
        1
        >>> [found.value["text"] for found in documents.find(("lessons",))]
        ['Carry the one.']
        >>> documents.delete(("lessons", "sums"), "carry")
        >>> [version.value for version in documents.history(("lessons", "sums"), "carry")]
        [{'text': 'Carry the one.'}, None]
    """

    def __init__(self, board: Blackboard, *, author: Author) -> None:
        self.board, self.author = board, author
        self._database, self._name = board.database, board.name

    def put(
        self,
        namespace: Sequence[str],
        key: str,
        value: Mapping[str, JSON],
        *,
        minutes: float | None = None,
        words: str = "",
        vectors: Mapping[str, Sequence[float]] | None = None,
        expected: int | None = None,
    ) -> int:
        """Writes a document and returns its version.

        Args:
            namespace: Where.
            key: Its name there.
            value: Its content.
            minutes: Forget it so long after it was last read or written.
            words: The text by whose words it is found.
            vectors: The embeddings by which it is found, by field.
            expected: The version that must be there, 0 if there must be none; None overwrites any.

        Raises:
            VersionConflict: if another version is there.
            DataError: if the value is not JSON, or a name too long.
        """
        path, minutes = to_path(namespace), None if minutes is None else float(minutes)
        content = {"value": _text.mapping(value, "value", cleaned=True)}
        with self._database.transaction() as connection:
            old = self._current(connection, path, key, expected)
            version = self.board.keys.write(_name(path, key), content, author=self.author)
            created = version.created if old is None else old.document_created
            row = {
                "seq": version.seq,
                "created": created,
                "minutes": minutes,
                "words": _document_ranks.counted(words),
            }
            row["expires"] = None if minutes is None else self._database.now() + 60 * minutes
            place = {"board": self._name, "path": path, "key": _text.clean(key)}
            row["hash"] = _seal({**place, **row})
            if old is None:
                connection.execute(_schema.documents.insert(), {**place, **row})
            else:
                self._forget_vectors(connection, old.seq)
                connection.execute(_schema.documents.update().where(*_at(place)), row)
            for field, vector in (vectors or {}).items():
                blob = {"field": _text.clean(field), "vector": _document_ranks.packed(vector)}
                connection.execute(
                    _schema.document_vectors.insert(), {"board": self._name, "seq": version.seq, **blob}
                )
        return version.version

    def delete(
        self, namespace: Sequence[str], key: str, *, expected: int | None = None, reason: str = ""
    ) -> None:
        """Deletes a document: a version without a value. One that is not there is left alone."""
        path = to_path(namespace)
        with self._database.transaction() as connection:
            old = self._current(connection, path, key, expected)
            if old is None:
                return
            content = {"value": None, "reason": reason} if reason else {"value": None}
            self.board.keys.write(_name(path, key), content, author=self.author)
            self._forget_vectors(connection, old.seq)
            connection.execute(
                _schema.documents.delete().where(
                    *_at({"board": self._name, "path": path, "key": _text.clean(key)})
                )
            )

    def get(self, namespace: Sequence[str], key: str, *, alive_at: float | None = None) -> Document | None:
        """Returns a document, or None; with `alive_at` also where it had expired by then.

        Raises:
            IntegrityError: if it is damaged, naming it.
        """
        with self._database.reading() as connection:
            row = self._row(connection, to_path(namespace), key)
            if row is None or not _alive(row, alive_at):
                return None
            return self._document(row)

    def history(self, namespace: Sequence[str], key: str) -> list[Versioned]:
        """Returns all versions of a document, oldest first; a deletion has the value None."""
        versions = self.board.keys.history(_name(to_path(namespace), key))
        return [version.replace(value=version.value["value"]) for version in versions]

    def find(
        self,
        prefix: Sequence[str],
        *,
        accept: Callable[[Mapping[str, Any]], bool] | None = None,
        holding: Iterable[str] = (),
        words: str = "",
        vector: Sequence[float] | None = None,
        alive_at: float | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> list[Document]:
        """Returns documents of a namespace and all below it: the best first, then the newest.

        Args:
            prefix: The namespace, empty for all.
            accept: Only documents whose value it accepts.
            holding: Texts that the canonical JSON of an accepted value holds; the database looks for them.
            words: Score documents by these words (BM25); others follow without a score.
            vector: Score documents by the cosine of the embedding nearest to this one.
            alive_at: Only documents that have not expired by then.
            limit: At most this many.
            offset: Leave out so many of the first.

        Raises:
            DataError: if limit or offset is negative, or the vector has another length than the stored ones.
            IntegrityError: if one of them is damaged, naming it.
        """
        if limit < 0 or offset < 0:
            raise DataError(f"limit is {limit} and offset is {offset}", expected="0 or more")
        where = self._where(prefix, alive_at)
        with self._database.reading() as connection:
            scores: dict[int, float] = {}
            if vector is not None:
                scores = _document_ranks.by_vector(connection, where, vector, board=self._name)
            elif words:
                scores = _document_ranks.by_words(connection, where, words)
            ranked = sorted(scores, key=lambda seq: (-scores[seq], -seq))
            plain = accept is None and not scores
            newest = _newest(where, holding, limit=offset + limit if plain else None)
            if plain:
                newest, offset = newest.offset(offset).limit(limit), 0
            rest = (seq for seq in connection.scalars(newest) if seq not in scores)
            found = (
                document.replace(score=scores.get(document.seq))
                for document in self._loaded(connection, chain(ranked, rest), limit=limit if plain else None)
                if accept is None or accept(document.value)
            )
            return list(islice(found, offset, offset + limit))

    def namespaces(
        self, prefix: Sequence[str] = (), *, alive_at: float | None = None
    ) -> list[tuple[str, ...]]:
        """Returns the namespaces that hold documents, sorted."""
        query = sa.select(_schema.documents.c.path).distinct().where(*self._where(prefix, alive_at))
        with self._database.reading() as connection:
            return sorted(to_namespace(path) for path in connection.scalars(query))

    def touch(self, documents: Iterable[Document]) -> None:
        """Starts the time of documents that expire anew, unless the database is read-only."""
        seqs = [document.seq for document in documents if document.minutes is not None]
        if not seqs or not self._database.writable:
            return
        table = _schema.documents
        with self._database.transaction() as connection:
            now = self._database.now()
            for some in _batched(seqs, _AT_ONCE):
                here = (table.c.board == self._name, table.c.seq.in_(some))
                connection.execute(table.update().where(*here).values(expires=now + 60 * table.c.minutes))

    def sweep(self) -> int:
        """Deletes what has expired and returns how many documents that were."""
        table, count = _schema.documents, 0
        late = (table.c.board == self._name, table.c.expires <= sa.bindparam("now"))
        query = sa.select(table.c.path, table.c.key).where(*late).limit(_AT_ONCE)
        while True:
            # In pieces: others write in between.
            with self._database.transaction() as connection:
                rows = connection.execute(query, {"now": self._database.now()}).all()
                for row in rows:
                    self.delete(to_namespace(row.path), row.key, reason="expired")
            count += len(rows)
            if len(rows) < _AT_ONCE:
                return count

    def _current(
        self, connection: sa.Connection, path: str, key: str, expected: int | None
    ) -> sa.Row[Any] | None:
        """Returns the row that is there, if it is the one that the writer has seen."""
        row = self._row(connection, path, key)
        if expected is not None and expected != (0 if row is None else row.version):
            name = _name(path, key)
            current = None if row is None else self.board.keys.read(name)
            raise VersionConflict(name, expected=expected, current=current)
        return row

    def _row(self, connection: sa.Connection, path: str, key: str) -> sa.Row[Any] | None:
        _name(path, key)
        place = {"on_board": self._name, "at_path": path, "at_key": _text.clean(key)}
        return connection.execute(_ONE, place).one_or_none()

    def _where(self, prefix: Sequence[str], alive_at: float | None) -> list[sa.ColumnElement[bool]]:
        table, path = _schema.documents, to_path(prefix)
        where = [table.c.board == self._name]
        if path:
            # All that begins with `path`: its last character is a period, and a slash comes after it.
            where += [table.c.path >= path, table.c.path < f"{path[:-1]}/"]
        if alive_at is not None:
            where.append(sa.or_(table.c.expires.is_(None), table.c.expires > alive_at))
        return where

    def _loaded(
        self, connection: sa.Connection, seqs: Iterable[int], *, limit: int | None
    ) -> Iterator[Document]:
        for some in _batched(seqs, _AT_ONCE if limit is None else max(min(limit, _AT_ONCE), 1)):
            rows = connection.execute(_SOME, {"on_board": self._name, "seqs": list(some)})
            by_seq = {row.seq: row for row in rows}
            yield from (self._document(by_seq[seq]) for seq in some if seq in by_seq)

    def _document(self, row: sa.Row[Any]) -> Document:
        self.board.keys.chain.check(row._mapping)
        content = _text.decode(row.value)
        place = {"path": row.document_path, "key": row.document_key, "seq": row.seq}
        facts = {"created": row.document_created, "minutes": row.document_minutes}
        if row.key != _name(row.document_path, row.document_key) or not _text.sealed(
            row.document_hash, *_sealed({"board": self._name, **place, **facts})
        ):
            raise IntegrityError(
                f"document {row.document_key!r} in {row.document_path!r} on board {self._name!r} does not "
                "match its hash: it was damaged after it was written; restore a backup"
            )
        return Document(
            namespace=to_namespace(row.document_path),
            key=row.document_key,
            value=content["value"],
            version=row.version,
            author=Author(**_text.decode(row.author)),
            updated=row.created,
            seq=row.seq,
            **facts,
        )

    def _forget_vectors(self, connection: sa.Connection, seq: int) -> None:
        table = _schema.document_vectors
        connection.execute(table.delete().where(table.c.board == self._name, table.c.seq == seq))


def to_path(namespace: Sequence[str]) -> str:
    """Returns a namespace as stored: every label with a period after it, so that prefixes are prefixes."""
    return "".join(f"{_text.clean(label)}." for label in namespace)


def to_namespace(path: str) -> tuple[str, ...]:
    """Reads what `to_path` wrote."""
    return tuple(path.split(".")[:-1])


def _batched(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    values = iter(values)
    while batch := list(islice(values, size)):
        yield batch


def _name(path: str, key: str) -> str:
    """The board's key: the first two periods in a row end the path."""
    name = f"{PREFIX}{path}.{_text.clean(key)}"
    if (size := len(name.encode())) > MAX_NAME_BYTES:
        raise DataError(
            f"namespace and key {name[:60]!r}... have {size} bytes", expected=f"at most {MAX_NAME_BYTES}"
        )
    return name


def _at(place: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    return [_schema.documents.c[name] == value for name, value in place.items()]


def _sealed(row: Mapping[str, Any]) -> list[Any]:
    # Not `words`: they would have to be read with every document, and decide about the order alone.
    return [row[name] for name in ("board", "path", "key", "seq", "created", "minutes")]


def _seal(row: Mapping[str, Any]) -> str:
    return digest(*_sealed(row))


def _alive(row: sa.Row[Any], alive_at: float | None) -> bool:
    return alive_at is None or row.document_expires is None or row.document_expires > alive_at


def _newest(
    where: Iterable[sa.ColumnElement[bool]], holding: Iterable[str], *, limit: int | None
) -> sa.Select[Any]:
    """Selects sequence numbers, newest first."""
    documents, keys = _schema.documents, _schema.keys
    # The sum keeps SQLite from walking the whole board backwards where a namespace is small.
    query = sa.select(documents.c.seq).where(*where).order_by((documents.c.seq + 0).desc()).limit(limit)
    needles = [_text.clean(text) for text in holding if 0 < len(text) <= _LONGEST_NEEDLE]
    if needles:
        query = query.join(keys, sa.and_(keys.c.board == documents.c.board, keys.c.seq == documents.c.seq))
        query = query.where(*(keys.c.value.contains(needle, autoescape=True) for needle in needles))
    return query


def _select() -> sa.Select[Any]:
    documents, keys = _schema.documents, _schema.keys
    names = ("path", "key", "created", "minutes", "expires", "hash")
    labelled = [documents.c[name].label(f"document_{name}") for name in names]
    here = sa.and_(keys.c.board == documents.c.board, keys.c.seq == documents.c.seq)
    return sa.select(*keys.columns, *labelled).select_from(documents.join(keys, here))


# Built once: building a statement takes longer than running it.
_ONE = _select().where(
    _schema.documents.c.board == sa.bindparam("on_board"),
    _schema.documents.c.path == sa.bindparam("at_path"),
    _schema.documents.c.key == sa.bindparam("at_key"),
)
_SOME = _select().where(
    _schema.documents.c.board == sa.bindparam("on_board"),
    _schema.documents.c.seq.in_(sa.bindparam("seqs", expanding=True)),
)
