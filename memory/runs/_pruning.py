"""Taking a run out of a database that others share, and handing its finished calls to another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from docendo.memory.runs import _leases
from docendo.memory.runs._journal import Journal
from docendo.memory.runs._runs import RunStore
from docendo.memory.runs._traces import TraceStore
from docendo.memory.storage import _payloads, _schema
from docendo.memory.storage._database import Database
from docendo.records import Record, Trace

_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed(Record):
    """What pruning a run takes out of its database, and what stays.

    Attributes:
        run: The run's name.
        items: Outcomes of items.
        traces: Turns of agents, with their rewards.
        calls: Journal entries of its turns, where no other run has a turn with the same prompt.
        texts: Prompts and long texts that nothing else refers to; None before it is done.
        posts: Posts that stay: a board is a chain, from which nothing can be taken.
    """

    run: str
    items: int = 0
    traces: int = 0
    calls: int = 0
    texts: int | None = None
    posts: int = 0


def prune(database: Database, run: str, *, call_key: Callable[[Trace], str], dry: bool = False) -> Removed:
    """Takes a run out of a database, whole or not at all.

    Its posts stay, and with them its name: a later run of the same name would take the posts for its own.
    So the run is kept as "pruned" if it has posts, and forgotten if it has none.

    Args:
        database: Where it is stored.
        run: The run's name.
        call_key: Gives the journal's key of the call that a trace came from.
        dry: Change nothing and say what would be removed.

    Raises:
        DataError: if there is no such run.
        ResumeError: if a living process works on it.
    """
    traces, posts = _schema.traces, _schema.posts
    mine = traces.c.run == run
    with database.reading() if dry else database.transaction() as connection:
        row = RunStore(database).get(run)
        lease, moment = _leases.read(connection, run), database.now()
        if lease is not None and lease.live(moment):
            raise lease.refusal(moment)
        asked = sa.select(traces.c.prompt).where(mine)
        elsewhere = sa.select(traces.c.prompt).where(~mine, traces.c.prompt.in_(asked)).distinct()
        shared = set(connection.scalars(elsewhere))
        asked_in = sa.select(traces.c.id, traces.c.prompt).where(mine)
        prompts = {row.id: row.prompt for row in connection.execute(asked_in)}
        found = TraceStore(database).find(run=run)
        keys = {call_key(trace) for trace in found if prompts[trace.id] not in shared}
        removed = Removed(
            run=run,
            items=row.items,
            traces=len(found),
            calls=_count(connection, _schema.journal.c.key, keys),
            posts=int(connection.scalar(sa.select(sa.func.count()).where(posts.c.run == run)) or 0),
        )
        if dry:
            return removed
        _delete(connection, _schema.journal.c.key, keys)
        rewarded = sa.select(traces.c.id).where(mine)
        connection.execute(_schema.rewards.delete().where(_schema.rewards.c.trace.in_(rewarded)))
        connection.execute(traces.delete().where(mine))
        connection.execute(_schema.items.delete().where(_schema.items.c.run == run))
        RunStore(database).forget(run, keep=removed.posts > 0)
        return removed.replace(texts=_sweep_prompts(connection) + _sweep_payloads(connection))


def copy_journal(source: Database, target: Database) -> int:
    """Copies all finished calls, so that a run in `target` finds them; returns how many.

    What `target` has already stays. All are copied or none.

    Raises:
        IntegrityError: if one of them is damaged, naming it.
    """
    theirs, ours = Journal(source), Journal(target)
    with source.reading() as reading:
        keys = list(reading.scalars(sa.select(_schema.journal.c.key)))
        with target.transaction():
            for key in keys:
                value = theirs.get(key)
                if value is not None:
                    ours.put(key, value)
    return len(keys)


def _sweep_prompts(connection: sa.Connection) -> int:
    """Deletes prompts that are neither a trace's nor the beginning of one that is; returns how many."""
    table = _schema.prompts
    parents = {row.hash: row.parent for row in connection.execute(sa.select(table.c.hash, table.c.parent))}
    wanted = list(connection.scalars(sa.select(_schema.traces.c.prompt).distinct()))
    kept: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in parents and name not in kept:
            kept.add(name)
            wanted.append(parents[name])
    loose = parents.keys() - kept
    _delete(connection, table.c.hash, loose)
    return len(loose)


def _sweep_payloads(connection: sa.Connection) -> int:
    """Deletes payloads that no row refers to, of whatever table; returns how many.

    Every text of the database is looked at, and what only looks like a reference keeps its payload too:
    a table that this module knows nothing of must not lose its texts.
    """
    table = _schema.payloads
    kept: set[str] = set()
    wanted: set[str] = set()
    for other in _schema.metadata.sorted_tables:
        if other is table:
            continue
        for column in other.columns:
            if isinstance(column.type, sa.Text):
                texts = connection.scalars(
                    sa.select(column).where(column.contains(_payloads.SIGN, autoescape=True))
                )
                for text in texts:
                    wanted |= _payloads.mentioned(text)
    while wanted:
        kept |= wanted
        inside = _payloads.texts_of(connection, wanted).values()
        wanted = {name for text in inside for name in _payloads.mentioned(text)} - kept
    loose = set(connection.scalars(sa.select(table.c.hash))) - kept
    _delete(connection, table.c.hash, loose)
    return len(loose)


def _batches(column: sa.Column[Any], values: Iterable[str]) -> list[sa.ColumnElement[bool]]:
    wanted = sorted(values)
    return [column.in_(wanted[start : start + _BATCH]) for start in range(0, len(wanted), _BATCH)]


def _count(connection: sa.Connection, column: sa.Column[Any], values: Iterable[str]) -> int:
    query = sa.select(sa.func.count()).select_from(column.table)
    return sum(int(connection.scalar(query.where(batch)) or 0) for batch in _batches(column, values))


def _delete(connection: sa.Connection, column: sa.Column[Any], values: Iterable[str]) -> None:
    for batch in _batches(column, values):
        connection.execute(sa.delete(column.table).where(batch))
