"""What follows from what: posts, the turns they hold, and what was learnt from these.

Parents of posts are in `links`. The other ways down are rows of `descent`:

* `posted`: a turn's text stands in a post. It is one text in two places, so taint goes both ways.
* `turn`: a turn answers to another.
* `row`: a turn is a row of a data set.
* `trained`: an adapter was trained on a data set.
* `continued`: an adapter was trained from another adapter.
* `spoke`: an adapter spoke a turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from docendo.memory.board import _posts
from docendo.memory.storage import _payloads, _schema
from docendo.memory.storage._chain import Chain, Damage
from docendo.memory.storage._text import decode_list, encode

if TYPE_CHECKING:
    from docendo.memory.storage._database import Database

POSTED, TURN, ROW, TRAINED, CONTINUED, SPOKE = "posted", "turn", "row", "trained", "continued", "spoke"

Edges = Iterable[tuple[str, str, str]]
_BATCH = 500
_EDGES, _LINKS, _TRUST = _schema.descent, _schema.links, _schema.trust


def _wanted(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return column.in_(sa.bindparam("wanted", expanding=True))


# Built once: building a statement takes longer than running it.
_DOWN = sa.select(_EDGES.c.child).where(_EDGES.c.kind == sa.bindparam("edge"), _wanted(_EDGES.c.parent))
_UP = sa.select(_EDGES.c.parent).where(_EDGES.c.kind == sa.bindparam("edge"), _wanted(_EDGES.c.child))
_PAIRS = (
    sa.select(_EDGES.c.parent, _EDGES.c.child)
    .where(_EDGES.c.kind == sa.bindparam("edge"), _wanted(_EDGES.c.parent))
    .order_by(_EDGES.c.parent, _EDGES.c.child)
)
#: Whether anything was ever quarantined in the database: mostly not, and then there is nothing to ask.
ANY_QUARANTINE = sa.exists().where(_TRUST.c.level == sa.literal_column("'quarantined'"))
_ANY = sa.select(ANY_QUARANTINE)
_LATER = _TRUST.alias()
_LATEST_OWN = sa.select(_TRUST.c.post).where(
    _TRUST.c.level == sa.literal_column("'quarantined'"),
    _TRUST.c.cause == "",
    ~sa.exists().where(
        _LATER.c.post == _TRUST.c.post,
        _LATER.c.board == _TRUST.c.board,
        _LATER.c.seq > _TRUST.c.seq,
        _LATER.c.cause == "",
        _LATER.c.level != _posts.FLAG,
    ),
)


def _closure(table: sa.Table, start: str, end: str, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Selects what can be reached from some ids over rows of a table, over any number of them."""
    first = sa.select(table.c[end].label("id")).where(_wanted(table.c[start]), *where)
    found = first.cte("found", recursive=True)
    further = sa.select(table.c[end]).join(found, table.c[start] == found.c.id).where(*where)
    return sa.select(found.union(further).c.id)


_IS_TURN = _EDGES.c.kind == sa.literal_column(f"'{TURN}'")
_POSTS_BELOW = _closure(_LINKS, "parent", "child")
_POSTS_ABOVE = _closure(_LINKS, "child", "parent")
_TURNS_BELOW = _closure(_EDGES, "parent", "child", _IS_TURN)
_TURNS_ABOVE = _closure(_EDGES, "child", "parent", _IS_TURN)


class Reach(NamedTuple):
    """Posts and turns that some posts reach, themselves included."""

    posts: set[str]
    traces: set[str]


@lru_cache(maxsize=64)
def chain(table: sa.Table, board: str, record: str) -> Chain:
    """The chain of a board, to check rows by: made once, since that takes longer than checking."""
    return Chain(table, board, record=record)


def add(database: Database, connection: sa.Connection, edges: Edges) -> None:
    """Stores edges: kind, parent, child. Must run inside a write transaction."""
    rows = [{"kind": kind, "parent": parent, "child": child} for kind, parent, child in edges]
    database.insert_new(connection, _EDGES, *rows)


def down(connection: sa.Connection, kind: str, ids: Iterable[str]) -> set[str]:
    """The children of some parents over edges of one kind."""
    return _ask(connection, _DOWN, ids, edge=kind)


def up(connection: sa.Connection, kind: str, ids: Iterable[str]) -> set[str]:
    """The parents of some children over edges of one kind."""
    return _ask(connection, _UP, ids, edge=kind)


def pairs(connection: sa.Connection, kind: str, parents: Iterable[str]) -> list[tuple[str, str]]:
    """The edges of one kind from some parents."""
    return [
        (row.parent, row.child)
        for batch in _batches(parents)
        for row in connection.execute(_PAIRS, {"wanted": batch, "edge": kind})
    ]


def reach(connection: sa.Connection, posts: Iterable[str] = (), *, traces: Iterable[str] = ()) -> Reach:
    """Everything said that follows from some posts and turns: over any number of either, on any board."""
    found = Reach(set(posts), set(traces))
    new = Reach(set(found.posts), set(found.traces))
    while new.posts or new.traces:
        further = Reach(
            _ask(connection, _POSTS_BELOW, new.posts) | down(connection, POSTED, new.traces),
            _ask(connection, _TURNS_BELOW, new.traces) | up(connection, POSTED, new.posts),
        )
        new = Reach(further.posts - found.posts, further.traces - found.traces)
        found.posts.update(new.posts)
        found.traces.update(new.traces)
    return found


def before(connection: sa.Connection, posts: Iterable[str]) -> Reach:
    """Everything said that some posts follow from, themselves included."""
    found = Reach(set(posts), set())
    new = Reach(set(found.posts), set())
    while new.posts or new.traces:
        further = Reach(
            _ask(connection, _POSTS_ABOVE, new.posts) | down(connection, POSTED, new.traces),
            _ask(connection, _TURNS_ABOVE, new.traces) | up(connection, POSTED, new.posts),
        )
        new = Reach(further.posts - found.posts, further.traces - found.traces)
        found.posts.update(new.posts)
        found.traces.update(new.traces)
    return found


def turns_before(connection: sa.Connection, traces: Iterable[str]) -> set[str]:
    """The turns that some turns answer to, over any number of them."""
    return _ask(connection, _TURNS_ABOVE, traces)


def any_quarantine(connection: sa.Connection) -> bool:
    """`ANY_QUARANTINE` by itself."""
    return bool(connection.scalar(_ANY))


def sources(connection: sa.Connection) -> set[str]:
    """The posts that are quarantined on their own account, on all boards."""
    return set(connection.scalars(_LATEST_OWN))


def tainted(connection: sa.Connection) -> Reach:
    """Everything said that is quarantined or follows from what is."""
    return reach(connection, sources(connection)) if any_quarantine(connection) else Reach(set(), set())


def levels(connection: sa.Connection, posts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Trust and cause of posts of any board by their ids; of those that exist.

    Raises:
        IntegrityError: if the event that decides it is damaged.
    """
    found: dict[str, tuple[str, str]] = {}
    for batch in _batches(posts):
        for row in connection.execute(_posts.LEVELS, {"wanted": batch}):
            event = {column.name: getattr(row, f"trust_{column.name}") for column in _TRUST.columns}
            if event["seq"] is None:
                found[row.id] = ("unverified", "")
                continue
            chain(_TRUST, event["board"], "trust event").check(event)
            found[row.id] = (event["level"], event["cause"])
    return found


def posts_of(connection: sa.Connection, traces: Iterable[str]) -> dict[str, list[str]]:
    """The posts that hold each of some turns, in no particular order; turns without posts are left out."""
    found: dict[str, list[str]] = {}
    for trace, post in pairs(connection, POSTED, traces):
        found.setdefault(trace, []).append(post)
    return found


def runs_on_boards(connection: sa.Connection, runs: Iterable[str]) -> set[str]:
    """Those of some runs that have a post on any board."""
    heads, posts = _schema.heads, _schema.posts
    prefix = f"{posts.name}:"
    boards = [
        name.removeprefix(prefix)
        for name in connection.scalars(sa.select(heads.c.chain).where(heads.c.chain.startswith(prefix)))
    ]
    query = sa.select(sa.exists().where(posts.c.board == sa.bindparam("b"), posts.c.run == sa.bindparam("r")))
    return {run for run in runs if any(connection.scalar(query, {"b": board, "r": run}) for board in boards)}


def turn_edges(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The edges that a turn's record stands for: from its parents, and from the adapter that spoke it."""
    edges = [(TURN, parent, record["id"]) for parent in dict.fromkeys(record["parents"])]
    adapter = record["author"].get("adapter")
    return [*edges, (SPOKE, adapter, record["id"])] if adapter else edges


def verify_turns(connection: sa.Connection) -> Iterator[Damage]:
    """Compares the edges of turns with the stored turns, which are intact.

    Edges of turns that were pruned stay, so that what they led to is still found.
    """
    table = _schema.traces
    known: set[str] = set()
    expected: set[tuple[str, str, str]] = set()
    for rows in connection.execute(sa.select(table.c.id, table.c.record)).partitions(_BATCH):
        # Of a record only this much is read: tokens and texts are the larger part.
        parts = [{name: json.loads(row.record)[name] for name in ("parents", "author")} for row in rows]
        loaded = _payloads.load(connection, map(encode, parts))
        for row, part in zip(rows, loaded, strict=True):
            known.add(row.id)
            expected.update(turn_edges({**part, "id": row.id}))
    yield from _differences(connection, (TURN, SPOKE), expected, of=known)


def verify_posts(connection: sa.Connection) -> Iterator[Damage]:
    """Compares the edges of posts with the posts of a database whose chains are intact."""
    posts = _schema.posts
    expected = {
        (POSTED, trace, row.id)
        for row in connection.execute(sa.select(posts.c.id, posts.c.traces))
        for trace in decode_list(row.traces)
    }
    yield from _differences(connection, (POSTED,), expected)


def verify_artifacts(connection: sa.Connection, expected: set[tuple[str, str, str]]) -> Iterator[Damage]:
    """Compares the edges of data sets and adapters with their records."""
    yield from _differences(connection, (ROW, TRAINED, CONTINUED), expected)


def _differences(
    connection: sa.Connection,
    kinds: tuple[str, ...],
    expected: set[tuple[str, str, str]],
    *,
    of: set[str] | None = None,
) -> Iterator[Damage]:
    found = {
        (row.kind, row.parent, row.child)
        for row in connection.execute(sa.select(_EDGES).where(_EDGES.c.kind.in_(kinds)))
        if of is None or row.child in of
    }
    for edge in sorted(expected ^ found):
        reason = "is missing" if edge in expected else "belongs to no record"
        yield Damage(record="descent", id=" ".join(edge), reason=reason)


def _ask(connection: sa.Connection, query: sa.Select[Any], ids: Iterable[str], **values: str) -> set[str]:
    found: set[str] = set()
    for batch in _batches(ids):
        found.update(connection.scalars(query, {"wanted": batch, **values}))
    return found


def _batches(ids: Iterable[str]) -> Iterator[list[str]]:
    names = sorted(set(ids))
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]
