"""Verification of everything that a database holds."""

from __future__ import annotations

from docendo.errors import IntegrityError
from docendo.memory._artifacts import Artifacts
from docendo.memory._blackboard import Blackboard
from docendo.memory._chain import Damage, Report
from docendo.memory._database import Database
from docendo.memory._journal import Journal
from docendo.memory._runs import RunStore
from docendo.memory._traces import TraceStore


def verify(database: Database) -> tuple[Report, ...]:
    """Verifies the boards, the journal, the traces, what was learnt and the runs of a database.

    Returns:
        One report for the database's own structure, for each board, and for each other store.

    Example:
        >>> from docendo.memory import Database, verify
        >>> with Database.open(":memory:") as database:
        ...     all(report.ok for report in verify(database))
        True
    """
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
