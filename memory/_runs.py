"""Runs and their finished items: what a resumed run still has to do."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from docendo.errors import DataError, InfrastructureError, ResumeError
from docendo.hashing import digest
from docendo.memory import _schema, _text
from docendo.memory._chain import CHANGED, Damage, Report
from docendo.memory._store import Store
from docendo.records import Record

RunStatus = Literal["running", "finished", "failed", "interrupted"]

_MISSING = object()
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow(Record):
    """A stored run.

    Attributes:
        run: Its name.
        config: What it was started with.
        status: "running" also after a kill: a run that died could not say so.
        created: When it was started first, in seconds since 1970.
        updated: When its status last changed.
        items: How many of its items have finished.
    """

    run: str
    config: Mapping[str, Any]
    status: RunStatus
    created: float
    updated: float
    items: int = 0


class RunStore(Store):
    """Runs, their configuration, and the outcome of each finished item.

    Example:
        >>> from docendo.memory import RunStore
        >>> runs = RunStore.open(":memory:")
        >>> row = runs.start("demo", {"seed": 0}, resume=False)
        >>> outcome = runs.finish_item("demo", "item-1", {"correct": True})
        >>> runs.start("demo", {"seed": 0}, resume=True).items
        1
        >>> runs.finished("demo")
        {'item-1': {'correct': True}}
        >>> runs.start("demo", {"seed": 1}, resume=True)
        Traceback (most recent call last):
        docendo.errors.ResumeError: run 'demo' was started with another configuration: seed was 0, is 1 ...
        >>> runs.close()
    """

    def start(self, run: str, config: Mapping[str, Any], *, resume: bool) -> RunRow:
        """Starts a run, or goes on with one.

        Resuming a run that does not exist starts it: a run may be killed before it is recorded.

        Raises:
            ResumeError: if it exists and `resume` is false, or was started with another configuration.
            DataError: if the configuration is not JSON, naming the field.
        """
        name = _text.name(run, "the run's name")
        given = _text.mapping(config, "config")
        now = time.time()
        with self.database.transaction() as connection:
            stored = self._row(connection, name)
            if stored is None:
                row = RunRow(run=name, config=given, status="running", created=now, updated=now)
                connection.execute(_schema.runs.insert().values(**_sealed(row)))
                return self._require(connection, name)
            if not resume:
                raise ResumeError(
                    f"run {name!r} exists already ({stored.status}, {stored.items} items finished)",
                    remedy="resume it (resume=True, --resume) or choose another name",
                )
            changes = _differences(stored.config, given)
            if changes:
                shown = ", ".join(changes[:_MOST_NAMED])
                more = f" and {len(changes) - _MOST_NAMED} more" if len(changes) > _MOST_NAMED else ""
                raise ResumeError(
                    f"run {name!r} was started with another configuration: {shown}{more}",
                    remedy="go back to the old values or choose another name",
                )
            return self._set_status(connection, stored, "running")

    @contextmanager
    def running(self, run: str, config: Mapping[str, Any], *, resume: bool) -> Iterator[RunRow]:
        """Starts a run and records how the block ended: finished, failed or interrupted.

        Raises:
            ResumeError: as `start`.
        """
        row = self.start(run, config, resume=resume)
        try:
            yield row
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, asyncio.CancelledError))
            # The error that ended the run is the one to report, even if the disk is full.
            with suppress(InfrastructureError):
                self.end(run, "interrupted" if stopped else "failed")
            raise
        self.end(run, "finished")

    def finish_item(self, run: str, item: str, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Records an item's outcome and returns the stored one: the first outcome stays.

        Raises:
            DataError: if the run is unknown or the outcome is not JSON.
        """
        name, key = _text.name(run, "the run's name"), _text.name(item, "the item's id")
        text = _text.encode(_text.mapping(outcome, "outcome"))
        table = _schema.items
        with self.database.transaction() as connection:
            if connection.scalar(sa.select(_schema.runs.c.run).where(_schema.runs.c.run == name)) is None:
                raise _unknown(name)
            row = {"run": name, "item": key, "outcome": text, "hash": digest(name, key, text)}
            self.database.insert_new(connection, table, row)
            query = sa.select(table).where(table.c.run == name, table.c.item == key)
            return _outcome(connection.execute(query).one())

    def finished(self, run: str) -> dict[str, dict[str, Any]]:
        """Returns the outcomes of finished items by item id, sorted by id; empty if the run is unknown.

        Raises:
            IntegrityError: if an outcome is damaged, naming run and item.
        """
        table = _schema.items
        query = (
            sa.select(table).where(table.c.run == _text.name(run, "the run's name")).order_by(table.c.item)
        )
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return {row.item: _outcome(row) for row in rows}

    def end(self, run: str, status: RunStatus) -> RunRow:
        """Records how a run ended and returns it.

        Raises:
            DataError: if the run or the status is unknown.
        """
        if status not in get_args(RunStatus):
            raise DataError(
                f"the run's status is {status!r}", expected=f"one of {', '.join(get_args(RunStatus))}"
            )
        with self.database.transaction() as connection:
            return self._set_status(
                connection, self._require(connection, _text.name(run, "the run's name")), status
            )

    def get(self, run: str) -> RunRow:
        """Returns a run.

        Raises:
            DataError: if it is unknown.
        """
        with self.database.reading() as connection:
            return self._require(connection, _text.name(run, "the run's name"))

    def verify(self) -> Report:
        """Recomputes the digests of all runs and outcomes."""
        return self._verified("runs", _walk)

    def list(self) -> builtins.list[RunRow]:
        """Returns all runs, oldest first."""
        table = _schema.runs
        with self.database.reading() as connection:
            names = connection.scalars(sa.select(table.c.run).order_by(table.c.created, table.c.run)).all()
            return [self._require(connection, name) for name in names]

    def _row(self, connection: sa.Connection, run: str) -> RunRow | None:
        table, items = _schema.runs, _schema.items
        row = connection.execute(sa.select(table).where(table.c.run == run)).one_or_none()
        if row is None:
            return None
        _text.check_seal(
            row.hash, row.run, row.config, row.status, row.created, row.updated, record=f"run {run!r}"
        )
        count = connection.scalar(sa.select(sa.func.count()).select_from(items).where(items.c.run == run))
        return RunRow(
            run=row.run,
            config=_text.decode(row.config),
            status=row.status,
            created=row.created,
            updated=row.updated,
            items=int(count or 0),
        )

    def _require(self, connection: sa.Connection, run: str) -> RunRow:
        row = self._row(connection, run)
        if row is None:
            raise _unknown(run)
        return row

    def _set_status(self, connection: sa.Connection, row: RunRow, status: RunStatus) -> RunRow:
        changed = row.replace(status=status, updated=time.time())
        table = _schema.runs
        connection.execute(table.update().where(table.c.run == row.run).values(**_sealed(changed)))
        return changed


def _sealed(row: RunRow) -> dict[str, Any]:
    config = _text.encode(row.config)
    values = (row.run, config, row.status, row.created, row.updated)
    return {
        **dict(zip(("run", "config", "status", "created", "updated"), values, strict=True)),
        "hash": digest(*values),
    }


def _outcome(row: sa.Row[Any]) -> dict[str, Any]:
    _text.check_seal(
        row.hash, row.run, row.item, row.outcome, record=f"outcome of item {row.item!r} in run {row.run!r}"
    )
    value: dict[str, Any] = _text.decode(row.outcome)
    return value


def _unknown(run: str) -> DataError:
    return DataError(f"there is no run {run!r}", remedy="start it first")


def _differences(stored: Any, given: Any, path: str = "") -> builtins.list[str]:
    """Names the fields in which two configurations differ, with both values."""
    if isinstance(stored, dict) and isinstance(given, dict):
        found: builtins.list[str] = []
        for key in sorted({*stored, *given}):
            inner = f"{path}.{key}" if path else key
            found += _differences(stored.get(key, _MISSING), given.get(key, _MISSING), inner)
        return found
    # Compared as text: 1, 1.0 and True are equal in Python and three different settings.
    if _MISSING not in (stored, given) and _text.encode(stored) == _text.encode(given):
        return []
    return [f"{path} was {_show(stored)}, is {_show(given)} now"]


def _show(value: Any) -> str:
    if value is _MISSING:
        return "not set"
    text = _text.encode(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _walk(connection: sa.Connection) -> tuple[int, builtins.list[Damage]]:
    damage: builtins.list[Damage] = []
    runs = connection.execute(sa.select(_schema.runs).order_by(_schema.runs.c.run)).all()
    items = connection.execute(sa.select(_schema.items)).all()
    for row in runs:
        if not _text.sealed(row.hash, row.run, row.config, row.status, row.created, row.updated):
            damage.append(Damage(record="run", id=str(row.run), reason=CHANGED))
    known = {row.run for row in runs}
    for row in items:
        if not _text.sealed(row.hash, row.run, row.item, row.outcome):
            damage.append(Damage(record="outcome", id=f"{row.run} {row.item}", reason=CHANGED))
        elif row.run not in known:
            damage.append(Damage(record="outcome", id=f"{row.run} {row.item}", reason="its run is missing"))
    return len(runs) + len(items), damage
