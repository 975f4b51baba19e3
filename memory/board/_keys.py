"""Versioned keys: small shared values that change, with compare-and-swap and all their history."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from docendo.checks import is_count
from docendo.errors import ConfigError, VersionConflict
from docendo.hashing import digest
from docendo.memory.storage import _schema, _text
from docendo.memory.storage._chain import Chain
from docendo.records import JSON, Author, Record

if TYPE_CHECKING:
    from docendo.memory.storage._database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned(Record):
    """One version of a key.

    Attributes:
        key: The key.
        version: 1, 2, 3, ... without gaps.
        value: The value, JSON.
        author: Who wrote it.
        process: The process that wrote it.
        created: When it was written, in seconds since 1970.
        seq: Position among all writes to keys of this board.
    """

    key: str
    version: int
    value: Any
    author: Author
    process: str
    created: float
    seq: int


class Keys:
    """The versioned keys of a board: `board.keys`.

    Every write adds a version; nothing is overwritten. A writer says which version it has seen, and one
    that has been overtaken gets a `VersionConflict` with the version that is there now.

    Example:
        >>> from docendo.memory import Blackboard
        >>> from docendo.records import Author
        >>> board, tutor = Blackboard.open(":memory:"), Author(agent="tutor", role="tutor")
        >>> board.keys.write("plan", {"step": 1}, author=tutor, expected=0).version
        1
        >>> board.keys.write("plan", {"step": 9}, author=tutor, expected=0)
        Traceback (most recent call last):
        docendo.errors.VersionConflict: key 'plan' has version 1, written by 'tutor'; expected version 0; ...
        >>> board.keys.update("plan", lambda old: {"step": old["step"] + 1}, author=tutor).value
        {'step': 2}
        >>> board.close()
    """

    def __init__(self, database: Database, board: str, process: str) -> None:
        """Made by `Blackboard`."""
        self._database, self._board, self._process = database, board, process
        self.chain = Chain(_schema.keys, board, record="key version")

    def read(self, key: str) -> Versioned | None:
        """Returns the newest version, or None if the key was never written.

        Raises:
            IntegrityError: if it is damaged, naming it.
        """
        name = _text.name(key, "the key")
        with self._database.reading() as connection:
            return self._newest(connection, name)

    def history(self, key: str) -> list[Versioned]:
        """Returns all versions, oldest first."""
        return self._select(_schema.keys.c.key == _text.name(key, "the key"))

    def names(self, prefix: str = "") -> list[str]:
        """Returns the keys that begin with `prefix`, sorted."""
        table = _schema.keys
        query = sa.select(table.c.key).distinct().where(table.c.board == self._board)
        if start := _text.name(prefix, "prefix", empty=True):
            query = query.where(table.c.key.startswith(start, autoescape=True))
        with self._database.reading() as connection:
            return sorted(connection.scalars(query))

    def write(
        self, key: str, value: JSON, *, author: Author, expected: int | None = None, once: str = ""
    ) -> Versioned:
        """Writes a new version.

        Args:
            key: The key.
            value: The value.
            author: Who writes.
            expected: The version that must be the newest, 0 if there must be none; None overwrites any.
            once: Idempotency key: a write with the same one returns the version that the first has made.

        Raises:
            VersionConflict: if another version is the newest; `error.current` is that version.
            DataError: if the value is not JSON.
        """
        name = _text.name(key, "the key")
        if expected is not None and (not is_count(expected) or expected < 0):
            raise ConfigError(f"expected is {expected!r}", expected="a version, 0 for none, or None for any")
        text = _text.encode(_text.plain(value, "value", cleaned=True))
        stamp = _text.author(author)
        with self._database.transaction() as connection:
            if once:
                done = self._one(connection, _schema.keys.c.id == self._id("once", name, once))
                if done is not None:
                    return done
            newest = self._newest(connection, name)
            version = newest.version if newest else 0
            if expected is not None and expected != version:
                raise VersionConflict(name, expected=expected, current=newest)
            row_id = self._id("once", name, once) if once else self._id("version", name, version + 1)
            values = {
                "id": row_id,
                "key": name,
                "version": version + 1,
                "value": text,
                "author": stamp,
                "process": self._process,
                "created": time.time(),
            }
            return _build(self.chain.append(connection, values))

    def update(
        self, key: str, change: Callable[[Any], JSON], *, author: Author, attempts: int = 100
    ) -> Versioned:
        """Writes what `change` makes of the newest value (None if there is none), again if overtaken.

        Args:
            key: The key.
            change: Called without a lock, perhaps more than once.
            author: Who writes.
            attempts: Tries before the conflict is raised.

        Raises:
            VersionConflict: if every try was overtaken.
        """
        for attempt in range(attempts):
            seen = self.read(key)
            value = change(None if seen is None else seen.value)
            try:
                return self.write(key, value, author=author, expected=seen.version if seen else 0)
            except VersionConflict:
                if attempt == attempts - 1:
                    raise
        raise ConfigError(f"attempts is {attempts}", expected="at least 1")

    def _id(self, *parts: JSON) -> str:
        return digest("key", self._board, *parts)[:32]

    def _newest(self, connection: sa.Connection, name: str) -> Versioned | None:
        row = connection.execute(_NEWEST, {"on_board": self._board, "name": name}).one_or_none()
        return None if row is None else self._version(row)

    def _one(self, connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Versioned | None:
        row = connection.execute(sa.select(_schema.keys).where(condition)).one_or_none()
        return None if row is None else self._version(row)

    def _select(self, condition: sa.ColumnElement[bool]) -> list[Versioned]:
        table = _schema.keys
        query = sa.select(table).where(table.c.board == self._board, condition).order_by(table.c.seq)
        with self._database.reading() as connection:
            return [self._version(row) for row in connection.execute(query)]

    def _version(self, row: sa.Row[Any]) -> Versioned:
        self.chain.check(row._mapping)
        return _build(row._mapping)


# Built once: building a statement takes longer than running it.
_NEWEST = (
    sa.select(_schema.keys)
    .where(_schema.keys.c.board == sa.bindparam("on_board"), _schema.keys.c.key == sa.bindparam("name"))
    .order_by(_schema.keys.c.version.desc())
    .limit(1)
)


def _build(row: Mapping[Any, Any]) -> Versioned:
    return Versioned(
        key=row["key"],
        version=row["version"],
        value=_text.decode(row["value"]),
        author=Author(**_text.decode(row["author"])),
        process=row["process"],
        created=row["created"],
        seq=row["seq"],
    )
