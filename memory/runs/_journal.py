"""The journal: finished calls by the digest of what was asked, so nothing finished is computed twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from docendo.hashing import digest
from docendo.memory.storage import _payloads, _schema, _text
from docendo.memory.storage._chain import CHANGED, Damage, Report
from docendo.memory.storage._store import Store


class Journal(Store):
    """Content-addressed record of finished calls.

    Example:
        >>> from docendo.hashing import digest
        >>> from docendo.memory import Journal
        >>> journal = Journal.open(":memory:")
        >>> key = digest("model", "What is 2 + 2?", {"temperature": 0.0})
        >>> journal.get(key) is None
        True
        >>> journal.put(key, {"text": "4"})
        {'text': '4'}
        >>> journal.put(key, {"text": "5"})  # the first writer wins
        {'text': '4'}
        >>> journal.close()
    """

    def get(self, key: str) -> dict[str, Any] | None:
        """Returns the stored value, or None if the call has not finished.

        Raises:
            IntegrityError: if the value is damaged, naming the key.
        """
        name = _text.name(key, "the journal key")
        with self.database.reading() as connection:
            return self._read(connection, name)

    def put(self, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Stores a value and returns what is stored: an earlier value of this key, if there is one.

        Raises:
            DataError: if the value is not JSON, naming the field.
            StorageError: if it cannot be written.
            IntegrityError: if the stored value is damaged, naming the key.
        """
        name = _text.name(key, "the journal key")
        given = _text.mapping(value, "value")
        with self.database.transaction() as connection:
            stored = self._read(connection, name)
            if stored is not None:
                return stored
            text = _payloads.store(self.database, connection, given)
            created = time.time()
            row = {"key": name, "value": text, "created": created, "hash": digest(name, text, created)}
            connection.execute(_schema.journal.insert().values(**row))
        return given

    def verify(self) -> Report:
        """Recomputes the digest of every entry."""
        return self._verified("journal", _walk)

    def _read(self, connection: sa.Connection, key: str) -> dict[str, Any] | None:
        table = _schema.journal
        row = connection.execute(sa.select(table).where(table.c.key == key)).one_or_none()
        if row is None:
            return None
        _text.check_seal(row.hash, row.key, row.value, row.created, record=f"journal entry {key!r}")
        value: dict[str, Any] = _payloads.load(connection, [row.value])[0]
        return value


def _walk(connection: sa.Connection) -> tuple[int, list[Damage]]:
    table, count = _schema.journal, 0
    intact, damage = _payloads.verify(connection)
    for row in connection.execute(sa.select(table).order_by(table.c.created)):
        count += 1
        if not _text.sealed(row.hash, row.key, row.value, row.created):
            damage.append(Damage(record="journal entry", id=str(row.key), reason=CHANGED))
        elif not _payloads.references(row.value) <= intact:
            damage.append(Damage(record="journal entry", id=str(row.key), reason=_payloads.INCOMPLETE))
    return count, damage
