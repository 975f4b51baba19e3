"""What became of one item: posts, turns and changes of trust of all agents, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._posts import Post
from docendo.memory.runs._streams import stream_posts
from docendo.memory.runs._traces import TraceStore
from docendo.memory.storage import _schema, _text
from docendo.memory.storage._chain import Chain
from docendo.records import Author, Record, Trace

_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry(Record):
    """One thing that happened to an item.

    Attributes:
        what: What it is; a verdict is a post.
        author: Who did it.
        created: When, in seconds since 1970; None for turns, which stand before what they led to.
        post: The post, or the one whose trust changed.
        turn: The turn, if it is one.
        level: The new trust, or empty.
        reason: Why the trust changed, or empty.
    """

    what: Literal["post", "turn", "trust"]
    author: Author
    created: float | None = None
    post: Post | None = None
    turn: Trace | None = None
    level: str = ""
    reason: str = ""


def timeline(board: Blackboard, item: str, *, run: str | None = None) -> list[TimelineEntry]:
    """Returns all that happened to an item, in order.

    A turn has no time of its own: it stands before the post that it led to, and where there is none, in the
    order in which turns were stored.

    Args:
        board: The board.
        item: The item's id.
        run: Only of this run.

    Raises:
        IntegrityError: if a record is damaged, naming it.

    Example:
        >>> from docendo.memory import Blackboard, timeline
        >>> from docendo.records import Author
        >>> student, tutor = Author(agent="s", role="student"), Author(agent="t", role="tutor")
        >>> with Blackboard.open(":memory:") as board:
        ...     post = board.post("attempt", {"text": "5"}, author=student, key="1", item="i1")
        ...     board.trust(post.id, "quarantined", by=tutor, reason="wrong")
        ...     [(entry.what, entry.author.agent, entry.level) for entry in timeline(board, "i1")]
        [('post', 's', ''), ('trust', 't', 'quarantined')]
    """
    posts = list(stream_posts(board, item=item, run=run))
    turns = TraceStore(board.database).find(item=item, run=run)
    return list(_merged(_with_turns(posts, turns), _changes(board, posts)))


def _with_turns(posts: Sequence[Post], turns: Sequence[Trace]) -> Iterator[TimelineEntry]:
    """Each turn before the post that it led to; one that led to none before the next turn that did."""
    place = {post_id: number for number, post_id in enumerate(_led_to(posts, turns))}
    waiting = list(turns)
    for post in posts:
        if post.id in place:
            upto = place[post.id] + 1 - (len(turns) - len(waiting))
            for turn in waiting[: max(upto, 0)]:
                yield TimelineEntry(what="turn", author=turn.author, turn=turn)
            waiting = waiting[max(upto, 0) :]
        yield TimelineEntry(what="post", author=post.author, created=post.created, post=post)
    for turn in waiting:
        yield TimelineEntry(what="turn", author=turn.author, turn=turn)


def _led_to(posts: Sequence[Post], turns: Iterable[Trace]) -> Iterator[str]:
    """For each turn the post that holds its text, or that the same step of the same node wrote, or ""."""
    named: dict[str, str] = {}
    steps: dict[str, str] = {}
    for post in posts:
        trace = post.body.get("trace")
        for name in (*getattr(post, "traces", ()), trace):
            if isinstance(name, str):
                named.setdefault(name, post.id)
        steps.setdefault(post.key.rpartition("/")[0], post.id)
    for turn in turns:
        step = f"{turn.run}/{turn.item}/{turn.node}/{turn.step}"
        yield named.get(turn.id) or steps.get(step, "")


def _changes(board: Blackboard, posts: Sequence[Post]) -> list[TimelineEntry]:
    table, chain = _schema.trust, Chain(_schema.trust, board.name, record="trust event")
    known: Mapping[str, Post] = {post.id: post for post in posts}
    ids = list(known)
    rows: list[sa.Row[Any]] = []
    with board.database.reading() as connection:
        for start in range(0, len(ids), _AT_ONCE):
            some = table.c.post.in_(ids[start : start + _AT_ONCE])
            rows += connection.execute(sa.select(table).where(table.c.board == board.name, some)).all()
    for row in rows:
        chain.check(row._mapping)
    return [_change(row, known[row.post]) for row in sorted(rows, key=lambda row: row.seq)]


def _change(row: Any, post: Post) -> TimelineEntry:
    return TimelineEntry(
        what="trust",
        author=Author(**_text.decode(row.author)),
        created=row.created,
        post=post,
        level=row.level,
        reason=row.reason,
    )


def _merged(entries: Iterable[TimelineEntry], changes: Sequence[TimelineEntry]) -> Iterator[TimelineEntry]:
    """Changes of trust by their time, and never before the post that they are about."""
    waiting, seen = list(changes), set[str]()

    def due(before: float) -> Iterator[TimelineEntry]:
        while waiting and (waiting[0].created or 0.0) < before:
            post = waiting[0].post
            if post is not None and post.id not in seen:
                return
            yield waiting.pop(0)

    held: list[TimelineEntry] = []
    for entry in entries:
        if entry.post is None or entry.created is None:
            held.append(entry)
            continue
        # Turns stay with the post that they led to.
        yield from due(entry.created)
        yield from held
        held = []
        yield entry
        seen.add(entry.post.id)
    yield from waiting
    yield from held
