"""How many commits an SQLite file has seen, noted beside it: so that a lost end of its log is noticed.

SQLite's log is checksummed, and a damaged one is read up to the damage: what was committed behind it is gone
without a word, and the database is a true earlier state of itself. So the database counts its commits, and a
small file beside it says how far the count had come. The file is written after the commit and not synced:
it may say less than the database, never more, unless commits were lost.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from docendo.errors import IntegrityError
from docendo.memory.storage import _schema

#: The name of the count among the facts of a database.
COUNT = "commits"
SUFFIX = "-commits"
_BUMP = f"UPDATE {_schema.meta.name} SET value = value + 1 WHERE name = '{COUNT}' RETURNING value"
_READ = sa.select(_schema.meta.c.value).where(_schema.meta.c.name == COUNT)


class Commits:
    """The count of one file's commits, inside and beside it."""

    def __init__(self, path: Path) -> None:
        """Opens nothing."""
        self.file = path.with_name(path.name + SUFFIX)

    def begin(self, connection: sa.Connection) -> None:
        """Starts the count, in the transaction that makes the tables."""
        connection.execute(_schema.meta.insert(), {"name": COUNT, "value": "0"})

    def bump(self, connection: sa.Connection) -> int:
        """Counts the commit that is about to be made."""
        return int(connection.exec_driver_sql(_BUMP).scalar() or 0)

    def note(self, count: int) -> None:
        """Notes a commit that has been made. What cannot be noted is not: the commit stands."""
        text = f"{count:020d}"
        with suppress(OSError):
            # Opened each time: a handle that is kept would be inherited by forks.
            handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(handle, f"{text} {zlib.crc32(text.encode()):08x}\n".encode(), 0)
            finally:
                os.close(handle)

    def noted(self) -> int:
        """The number that was noted last, 0 if there is none that can be read."""
        try:
            text, _, check = self.file.read_text(encoding="ascii").strip().partition(" ")
        except (OSError, UnicodeDecodeError):
            return 0
        return int(text) if text.isdecimal() and f"{zlib.crc32(text.encode()):08x}" == check else 0

    def check(self, connection: sa.Connection, noted: int) -> None:
        """Compares the database with what was noted before it was looked at.

        Raises:
            IntegrityError: if commits are missing.
        """
        found = str(connection.scalar(_READ))
        if not found.isdecimal() or int(found) < noted:
            raise IntegrityError(
                f"{str(self.file).removesuffix(SUFFIX)} has lost its end ({found} of {noted} commits): its "
                "log was damaged or removed, or an older file put in its place; restore a backup, or remove "
                f"{self.file.name} to go on with what is there"
            )
