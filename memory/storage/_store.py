"""What all stores have in common: a database, and ways to open and close it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from docendo.errors import IntegrityError
from docendo.memory.storage._chain import Damage, Report
from docendo.memory.storage._database import Database


class Store:
    """A part of a database. Stores that share a `Database` can write in one transaction.

    Attributes:
        database: Where it is stored.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(cls, url_or_path: str | Path, **options: Any) -> Self:
        """Opens the store in a database of its own; `options` go to `Database.open`."""
        return cls(Database.open(url_or_path, **options))

    def _verified(self, name: str, walk: Callable[[sa.Connection], tuple[int, list[Damage]]]) -> Report:
        """Reports what `walk` finds; a database too damaged to be read is a finding as well."""
        try:
            with self.database.reading() as connection:
                records, damage = walk(connection)
        except IntegrityError as error:
            records, damage = 0, [Damage(record="database", reason=str(error))]
        return Report(name=name, records=records, damage=tuple(damage))

    def close(self) -> None:
        """Closes the database, for this store and for all others that share it."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.database.label!r})"
