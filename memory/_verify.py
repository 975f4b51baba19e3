"""Verification of everything that a database holds."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from docendo.errors import IntegrityError
from docendo.memory.board._artifacts import Artifacts
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.runs._journal import Journal
from docendo.memory.runs._runs import RunStore
from docendo.memory.runs._traces import TraceStore
from docendo.memory.storage import _schema
from docendo.memory.storage._chain import Damage, Report, watched
from docendo.memory.storage._database import Database


def verify(database: Database, *, told: Callable[[int], None] | None = None) -> tuple[Report, ...]:
    """Verifies the boards, the journal, the traces, what was learnt and the runs of a database.

    Args:
        database: The database.
        told: Is told how many more records of boards were read, now and then, of `count_chained` in all.

    Returns:
        One report for the database's own structure, for each board, and for each other store.

    Example:
        >>> from docendo.memory import Database, verify
        >>> with Database.open(":memory:") as database:
        ...     all(report.ok for report in verify(database))
        True
    """
    with watched(told):
        structure = [Damage(record="database", reason=line) for line in database.check()]
        try:
            boards = [
                Blackboard(database, name=name)
                for name in Blackboard.names(database)
                if name and isinstance(name, str)
            ]
        except IntegrityError as error:
            boards = []
            structure.append(Damage(record="database", reason=str(error)))
        return (
            Report(name="structure", records=0, damage=tuple(dict.fromkeys(structure))),
            *(board.verify() for board in boards),
            Journal(database).verify(),
            TraceStore(database).verify(),
            Artifacts(database).verify(),
            RunStore(database).verify(),
        )


def count_chained(database: Database) -> int:
    """Returns how many records the boards of a database hold, as the ends of their chains say."""
    with database.reading() as connection:
        return int(connection.scalar(sa.select(sa.func.sum(_schema.heads.c.seq))) or 0)
