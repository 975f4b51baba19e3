"""Who may judge a post: nobody who depends on its poster, however many posts lie between."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from docendo.memory.board import _descent, _posts
from docendo.memory.storage import _payloads, _schema
from docendo.memory.storage._text import decode_list, encode
from docendo.records import Author

#: Kinds of posts that say nothing a later post could repeat: what was asked, and what was judged. Any other
#: kind, a channel's own ones included, counts as content.
NO_CONTENT = frozenset({"task", "question", "request", "verdict", "exam", "event", "tombstone"})


_RECORDS = sa.select(_schema.traces.c.id, _schema.traces.c.record).where(
    _schema.traces.c.id.in_(sa.bindparam("wanted", expanding=True))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What independence is judged by."""

    id: str
    board: str
    number: int
    kind: str
    author: Author
    traces: tuple[str, ...]


def facts(connection: sa.Connection, posts: Iterable[str]) -> dict[str, Facts]:
    """The facts of posts by their ids, of any board.

    Raises:
        IntegrityError: if a post is damaged.
    """
    wanted, rows = sorted(set(posts)), list[sa.Row[Any]]()
    for start in range(0, len(wanted), 500):
        rows += connection.execute(_posts.BY_IDS, {"wanted": wanted[start : start + 500]}).all()
    for row in rows:
        _descent.chain(_schema.posts, row.board, "post").check(row._mapping)
    authors = _payloads.load(connection, (row.author for row in rows))
    return {
        row.id: Facts(
            id=row.id,
            board=row.board,
            number=row.number,
            kind=row.kind,
            author=Author(**author),
            traces=decode_list(row.traces),
        )
        for row, author in zip(rows, authors, strict=True)
    }


def same(one: Author, other: Author) -> str | None:
    """Why two authors are not independent of each other, or None.

    The same agent never is, whatever runs it. The same model with the same adapter (or both without one) is
    the same weights under another name. The same base with another adapter counts as another author: in a
    set-up of small models all share one base, and what tells a teacher, a student and a judge apart there
    is the adapter. Its judgement is weaker than that of code, since what fools a base often fools its
    adapters; where that matters, let code judge.
    """
    if one.agent == other.agent:
        return f"agent {other.agent!r}"
    if one.model and (one.model, one.adapter) == (other.model, other.adapter):
        return f"the weights of agent {other.agent!r}"
    return None


def objection(connection: sa.Connection, judged: Mapping[str, Facts], by: Author) -> str | None:
    """Why `by` may not raise the trust of some posts, or None if it may.

    It must not have written any of them, nor any content that they follow from: else two posts would do
    to launder what one may not. Nor may its adapter have learnt from quarantined text.
    """
    for post in judged.values():
        if reason := same(by, post.author):
            return f"post {post.id} was written by {reason}"
    before = _descent.before(connection, judged)
    for post in facts(connection, before.posts - judged.keys()).values():
        if post.kind not in NO_CONTENT and (reason := same(by, post.author)):
            return f"{_these(judged)} from {post.kind} {post.id} by {reason}"
    for trace, author in _speakers(connection, before.traces, judged):
        if reason := same(by, author):
            return f"{_these(judged)} from turn {trace} of {reason}"
    if by.adapter and _has_learnt_taint(connection, by.adapter):
        return f"the adapter {by.adapter[:16]} of {by.agent!r} was trained on quarantined text"
    return None


def _these(judged: Mapping[str, Facts]) -> str:
    return f"post {next(iter(judged))} follows" if len(judged) == 1 else f"{len(judged)} posts follow"


def _speakers(
    connection: sa.Connection, traces: set[str], judged: Mapping[str, Facts]
) -> Iterator[tuple[str, Author]]:
    """The authors of turns with content: those that were posted as a verdict alone have none."""
    kinds = {post: fact.kind for post, fact in facts(connection, _posted(connection, traces)).items()}
    own = {trace for post in judged.values() for trace in post.traces}
    where = _descent.posts_of(connection, traces)
    wanted = sorted(
        trace
        for trace in traces
        if trace in own or trace not in where or any(kinds[post] not in NO_CONTENT for post in where[trace])
    )
    for start in range(0, len(wanted), 500):
        rows = connection.execute(_RECORDS, {"wanted": wanted[start : start + 500]}).all()
        authors: list[Any] = _payloads.load(
            connection, (encode(json.loads(row.record)["author"]) for row in rows)
        )
        yield from ((row.id, Author(**author)) for row, author in zip(rows, authors, strict=True))


def _posted(connection: sa.Connection, traces: Iterable[str]) -> set[str]:
    return _descent.down(connection, _descent.POSTED, traces)


def _has_learnt_taint(connection: sa.Connection, adapter: str) -> bool:
    if not _descent.any_quarantine(connection):
        return False
    adapters, new = {adapter}, {adapter}
    while new:
        new = _descent.up(connection, _descent.CONTINUED, new) - adapters
        adapters |= new
    data = _descent.up(connection, _descent.TRAINED, adapters)
    learnt = _descent.up(connection, _descent.ROW, data)
    return bool(learnt & _descent.tainted(connection).traces)
