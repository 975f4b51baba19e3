"""Runs and their finished items: what a resumed run still has to do."""

from __future__ import annotations

import asyncio
import builtins
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from docendo.errors import DataError, InfrastructureError, ResumeError
from docendo.hashing import digest
from docendo.memory.runs import _leases
from docendo.memory.runs._origin import origin_of
from docendo.memory.storage import _schema, _text
from docendo.memory.storage._chain import CHANGED, Damage, Report
from docendo.memory.storage._database import Database
from docendo.memory.storage._store import Store
from docendo.records import Record

RunStatus = Literal["running", "finished", "failed", "interrupted", "stopped", "pruned"]

_STORED = ("running", "finished", "failed", "interrupted")

#: Stands for a setting that a configuration does not have.
UNSET = object()
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow(Record):
    """A stored run.

    Attributes:
        run: Its name.
        config: What it was started with; a resumed run must have the same.
        status: "running", or how it ended: "finished", "failed" by an error, "interrupted" by Ctrl-C,
            "stopped" where its process is gone and could not say so. Of a "pruned" run only posts are left.
        created: When it was started first, in seconds since 1970.
        updated: When its status last changed.
        items: How many of its items have finished.
        origin: Where it came from: "folder", "parent" and "launch", as far as they are known.
        seconds: Wall seconds that processes have worked on it, this part included.
        holder: The process that works on it, or "".
    """

    run: str
    config: Mapping[str, Any]
    status: RunStatus
    created: float
    updated: float
    items: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    holder: str = ""


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

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._held: dict[str, _leases.Lease] = {}
        weakref.finalize(self, _leases.give_up_all, self._held)

    def start(
        self, run: str, config: Mapping[str, Any], *, resume: bool, origin: Mapping[str, Any] | None = None
    ) -> RunRow:
        """Starts a run, or goes on with one, and claims it for this store until `end`.

        Resuming a run that does not exist starts it: a run may be killed before it is recorded. Without
        `running`, which renews the claim, another machine takes it for given up after a minute.

        Args:
            run: Its name.
            config: What it is started with.
            resume: Go on with an earlier run.
            origin: Where it comes from; kept from the first start.

        Raises:
            ResumeError: if it exists and `resume` is false, if a living process works on it, or if it was
                started with another configuration.
            DataError: if the configuration is not JSON, naming the field.
        """
        name = _text.name(run, "the run's name")
        given = _text.mapping(config, "config")
        came = _text.mapping({**origin_of(name), **(origin or {})}, "origin")
        with self.database.transaction() as connection:
            moment = self.database.now()
            stored = self._row(connection, name)
            if stored is None:
                row = RunRow(
                    run=name, config=given, status="running", created=moment, updated=moment, origin=came
                )
                connection.execute(_schema.runs.insert().values(**_sealed(row)))
                lease = _leases.take(connection, name, moment)
            else:
                self._require_free(connection, stored, given, resume)
                # `seconds` counts what a killed process left behind; the new lease starts at zero.
                self._set_status(connection, stored, "running")
                lease = _leases.take(connection, name, moment)
        self._held[name] = lease
        return self.get(name)

    def _require_free(
        self, connection: sa.Connection, stored: RunRow, given: Mapping[str, Any], resume: bool
    ) -> None:
        """Refuses to go on with a run that exists, is pruned, is being worked on or has other settings."""
        name = stored.run
        if stored.status == "pruned":
            raise ResumeError(
                f"run {name!r} was pruned, and its posts are still on the board",
                remedy="choose another name: a run of the same name would take them for its own",
            )
        if not resume:
            raise ResumeError(
                f"run {name!r} exists already ({stored.status}, {stored.items} items finished)",
                remedy="resume it (resume=True, --resume) or choose another name",
            )
        lease, moment = _leases.read(connection, name), self.database.now()
        if lease is not None and not self._holds(lease) and lease.live(moment):
            raise lease.refusal(moment)
        changes = [
            f"{change['field']} was {_show(change['before'])}, is {_show(change['after'])} now"
            for change in differences(stored.config, given)
        ]
        if changes:
            shown = ", ".join(changes[:_MOST_NAMED])
            more = f" and {len(changes) - _MOST_NAMED} more" if len(changes) > _MOST_NAMED else ""
            raise ResumeError(
                f"run {name!r} was started with another configuration: {shown}{more}",
                remedy="go back to the old values or choose another name",
            )

    @contextmanager
    def running(
        self, run: str, config: Mapping[str, Any], *, resume: bool, origin: Mapping[str, Any] | None = None
    ) -> Iterator[RunRow]:
        """Starts a run, keeps the claim to it, and records how the block ended.

        Raises:
            ResumeError: as `start`; or, at the next outcome, if another process has taken the run over
                because this one was not heard of for a minute.
        """
        row = self.start(run, config, resume=resume, origin=origin)
        try:
            with self._beating(row.run):
                yield row
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, asyncio.CancelledError))
            # The error that ended the run is the one to report, even if the disk is full.
            with suppress(InfrastructureError, ResumeError):
                self.end(run, "interrupted" if stopped else "failed")
            self._let_go(run)
            raise
        try:
            self.end(run, "finished")
        finally:
            self._let_go(run)

    def _let_go(self, run: str) -> None:
        lease = self._held.pop(run, None)
        if lease is not None:
            _leases.give_up(lease)

    @contextmanager
    def _beating(self, run: str) -> Iterator[None]:
        """Renews the lease from a thread; the event loop may be busy for longer than a lease holds."""
        lease, done = self._held[run], threading.Event()

        def beat() -> None:
            while not done.wait(_leases.BEAT_SECONDS):
                # A full disk is for the run itself to report; a lease lost meanwhile too.
                with suppress(InfrastructureError), self.database.transaction() as connection:
                    _leases.renew(connection, lease, self.database.now())

        thread = threading.Thread(target=beat, name=f"docendo-lease-{run}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _holds(self, lease: _leases.Lease) -> bool:
        held = self._held.get(lease.run)
        return held is not None and held.token == lease.token

    def _require_held(self, connection: sa.Connection, run: str) -> None:
        """Refuses to write for a run that this store had claimed and another process has taken since."""
        if run not in self._held:
            return
        lease = _leases.read(connection, run)
        if lease is None or not self._holds(lease):
            raise ResumeError(
                f"run {run!r} was taken over by {lease.holder if lease else 'another process'}",
                expected="one process to a run",
                remedy="leave it to that process",
            )

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
            self._require_held(connection, name)
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
        """Records how a run ended, gives up the claim to it, and returns it.

        Raises:
            DataError: if the run or the status is unknown.
            ResumeError: if another process has taken the run over.
        """
        if status not in _STORED:
            raise DataError(f"the run's status is {status!r}", expected=f"one of {', '.join(_STORED)}")
        name = _text.name(run, "the run's name")
        with self.database.transaction() as connection:
            stored = self._require(connection, name)
            self._require_held(connection, name)
            changed = self._set_status(connection, stored, status)
            _leases.drop(connection, name)
        self._let_go(name)
        return changed

    def claim(self, run: str) -> None:
        """Keeps other processes from going on with a run, until this store `end`s it or this process does.

        Raises:
            DataError: if the run is unknown.
            ResumeError: if a living process works on it.
        """
        name = _text.name(run, "the run's name")
        with self.database.transaction() as connection:
            self._require(connection, name)
            lease, moment = _leases.read(connection, name), self.database.now()
            if lease is not None and not self._holds(lease) and lease.live(moment):
                raise lease.refusal(moment)
            self._held[name] = _leases.take(connection, name, moment)

    def forget(self, run: str, *, keep: bool) -> None:
        """Takes a run out of the list; with `keep`, its name stays taken and its status becomes "pruned".

        Raises:
            DataError: if it is unknown.
        """
        name, table = _text.name(run, "the run's name"), _schema.runs
        with self.database.transaction() as connection:
            row = self._require(connection, name)
            _leases.drop(connection, name)
            if keep:
                self._set_status(connection, row, "pruned")
            else:
                connection.execute(table.delete().where(table.c.run == name))

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
        _text.check_seal(row.hash, *_content(row._mapping), record=f"run {run!r}")
        count = connection.scalar(sa.select(sa.func.count()).select_from(items).where(items.c.run == run))
        lease, moment = _leases.read(connection, run), self.database.now()
        live = lease is not None and lease.live(moment)
        seconds = row.seconds
        if lease is not None:
            seconds += max(0.0, (moment if live else lease.beat) - lease.taken)
        return RunRow(
            run=row.run,
            config=_text.decode(row.config),
            status="stopped" if row.status == "running" and not live else row.status,
            created=row.created,
            updated=row.updated,
            items=int(count or 0),
            origin=_text.decode(row.origin),
            seconds=seconds,
            holder=str(lease.holder) if lease is not None and live else "",
        )

    def _require(self, connection: sa.Connection, run: str) -> RunRow:
        row = self._row(connection, run)
        if row is None:
            raise _unknown(run)
        return row

    def _set_status(self, connection: sa.Connection, row: RunRow, status: RunStatus) -> RunRow:
        changed = row.replace(status=status, updated=self.database.now(), holder="")
        table = _schema.runs
        connection.execute(table.update().where(table.c.run == row.run).values(**_sealed(changed)))
        return changed


_FIELDS = ("run", "config", "origin", "status", "seconds", "created", "updated")


def _sealed(row: RunRow) -> dict[str, Any]:
    texts = {"config": _text.encode(row.config), "origin": _text.encode(row.origin)}
    values = {name: texts.get(name) or getattr(row, name) for name in _FIELDS}
    return {**values, "hash": digest(*_content(values))}


def _content(row: Mapping[Any, Any]) -> builtins.list[Any]:
    return [row[name] for name in _FIELDS]


def _outcome(row: sa.Row[Any]) -> dict[str, Any]:
    _text.check_seal(
        row.hash, row.run, row.item, row.outcome, record=f"outcome of item {row.item!r} in run {row.run!r}"
    )
    value: dict[str, Any] = _text.decode(row.outcome)
    return value


def _unknown(run: str) -> DataError:
    return DataError(f"there is no run {run!r}", remedy="start it first")


def differences(before: Any, after: Any, path: str = "") -> builtins.list[dict[str, Any]]:
    """Names the fields in which two configurations differ, with both values; an absent one is `UNSET`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found: builtins.list[dict[str, Any]] = []
        for key in sorted({*before, *after}):
            inner = f"{path}.{key}" if path else key
            found += differences(before.get(key, UNSET), after.get(key, UNSET), inner)
        return found
    # Compared as text: 1, 1.0 and True are equal in Python and three different settings.
    if UNSET not in (before, after) and _text.encode(before) == _text.encode(after):
        return []
    return [{"field": path, "before": before, "after": after}]


def _show(value: Any) -> str:
    if value is UNSET:
        return "not set"
    text = _text.encode(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _walk(connection: sa.Connection) -> tuple[int, builtins.list[Damage]]:
    damage: builtins.list[Damage] = []
    runs = connection.execute(sa.select(_schema.runs).order_by(_schema.runs.c.run)).all()
    items = connection.execute(sa.select(_schema.items)).all()
    for row in runs:
        if not _text.sealed(row.hash, *_content(row._mapping)):
            damage.append(Damage(record="run", id=str(row.run), reason=CHANGED))
    known = {row.run for row in runs}
    for row in items:
        if not _text.sealed(row.hash, row.run, row.item, row.outcome):
            damage.append(Damage(record="outcome", id=f"{row.run} {row.item}", reason=CHANGED))
        elif row.run not in known:
            damage.append(Damage(record="outcome", id=f"{row.run} {row.item}", reason="its run is missing"))
    leases = connection.execute(sa.select(_schema.leases)).all()
    for row in leases:
        if not _text.sealed(row.hash, row.run, row.token, row.holder, row.taken, row.beat):
            damage.append(Damage(record="lease", id=str(row.run), reason=CHANGED))
    return len(runs) + len(items) + len(leases), damage
