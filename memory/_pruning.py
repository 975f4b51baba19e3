"""Taking a run out of a database that others share, and handing its finished calls to another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from docendo.memory import _leases, _schema
from docendo.memory._database import Database
from docendo.memory._journal import Journal
from docendo.memory._runs import RunStore
from docendo.memory._traces import TraceStore
from docendo.records import Record, Trace

_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed(Record):
    """What pruning a run takes out of its database, and what stays.

    Attributes:
        run: The run's name.
        items: Outcomes of items.
        traces: Turns of agents, with their rewards.
        prompts: Prompts that no other run's traces have.
        calls: Journal entries of its turns, where no other run has a turn with the same prompt.
        posts: Posts that stay: a board is a chain, from which nothing can be taken.
    """

    run: str
    items: int = 0
    traces: int = 0
    prompts: int = 0
    calls: int = 0
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
    traces = _schema.traces
    mine = traces.c.run == run
    with database.reading() if dry else database.transaction() as connection:
        row = RunStore(database).get(run)
        lease, moment = _leases.read(connection, run), _leases.now(connection)
        if lease is not None and lease.live(moment):
            raise lease.refusal(moment)
        shared = set(
            connection.scalars(
                sa.select(traces.c.prompt)
                .where(~mine, traces.c.prompt.in_(sa.select(traces.c.prompt).where(mine)))
                .distinct()
            )
        )
        prompts = dict(connection.execute(sa.select(traces.c.id, traces.c.prompt).where(mine)).tuples().all())
        found = TraceStore(database).find(run=run)
        keys = {call_key(trace) for trace in found if prompts[trace.id] not in shared}
        alone = set(prompts.values()) - shared
        removed = Removed(
            run=run,
            items=row.items,
            traces=len(found),
            prompts=len(alone),
            calls=_count(connection, _schema.journal.c.key, keys),
            posts=_posts(connection, run),
        )
        if not dry:
            _delete(connection, _schema.journal.c.key, keys)
            rewarded = sa.select(traces.c.id).where(mine)
            connection.execute(_schema.rewards.delete().where(_schema.rewards.c.trace.in_(rewarded)))
            connection.execute(traces.delete().where(mine))
            _delete(connection, _schema.prompts.c.hash, alone)
            connection.execute(_schema.items.delete().where(_schema.items.c.run == run))
            RunStore(database).forget(run, keep=removed.posts > 0)
    return removed


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


def _posts(connection: sa.Connection, run: str) -> int:
    query = sa.select(sa.func.count()).select_from(_schema.posts).where(_schema.posts.c.run == run)
    return int(connection.scalar(query) or 0)


def _batches(column: sa.Column[Any], values: Iterable[str]) -> list[sa.ColumnElement[bool]]:
    wanted = sorted(values)
    return [column.in_(wanted[start : start + _BATCH]) for start in range(0, len(wanted), _BATCH)]


def _count(connection: sa.Connection, column: sa.Column[Any], values: Iterable[str]) -> int:
    query = sa.select(sa.func.count()).select_from(column.table)
    return sum(int(connection.scalar(query.where(batch)) or 0) for batch in _batches(column, values))


def _delete(connection: sa.Connection, column: sa.Column[Any], values: Iterable[str]) -> None:
    for batch in _batches(column, values):
        connection.execute(sa.delete(column.table).where(batch))
