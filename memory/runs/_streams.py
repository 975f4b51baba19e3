"""Posts and traces one after another, for boards that are larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._posts import Post
from docendo.memory.runs._traces import TraceStore
from docendo.memory.storage import _schema, _text
from docendo.records import Trace

_AT_ONCE = 500


def stream_posts(
    board: Blackboard, *, after: int = 0, since: float | None = None, limit: int | None = None, **filters: Any
) -> Iterator[Post]:
    """Yields posts in sequence order, as `Blackboard.posts` returns them, of which only some are in memory.

    Args:
        board: The board.
        after: Only posts with a sequence number above this.
        since: Only posts written at this time or later, in seconds since 1970.
        limit: At most this many.
        **filters: Those of `Blackboard.posts`: kind, run, item, channel, agent, trust.

    Raises:
        DataError: if a filter has a value that no post can have.
        IntegrityError: if a post is damaged, after those before it.

    Example:
        >>> from docendo.memory import Blackboard, stream_posts
        >>> from docendo.records import Author
        >>> with Blackboard.open(":memory:") as board:
        ...     for n in range(3):
        ...         _ = board.post("hint", {"n": n}, author=Author(agent="tutor", role="tutor"), key=str(n))
        ...     [post.body["n"] for post in stream_posts(board, after=1)]
        [1, 2]
    """
    if since is not None:
        after = max(after, _before(board, since))
    left = limit
    while left is None or left > 0:
        size = _AT_ONCE if left is None else min(left, _AT_ONCE)
        posts = board.posts(after=after, limit=size, **filters)
        for post in posts:
            # Clocks of several machines may differ, so a later post may say an earlier time.
            if since is None or post.created >= since:
                yield post
                left = None if left is None else left - 1
        if len(posts) < size:
            return
        after = posts[-1].seq


def _before(board: Blackboard, since: float) -> int:
    """The sequence number before that of the first post written since then."""
    table = _schema.posts
    here = (table.c.board == board.name, table.c.created >= since)
    with board.database.reading() as connection:
        first = connection.scalar(sa.select(sa.func.min(table.c.seq)).where(*here))
        if first is None:
            first = (connection.scalar(sa.select(sa.func.max(table.c.seq)).where(here[0])) or 0) + 1
    return int(first) - 1


def stream_traces(
    store: TraceStore, *, run: str | None = None, item: str | None = None, limit: int | None = None
) -> Iterator[Trace]:
    """Yields traces in the order in which they were stored, of which only some are in memory.

    Args:
        store: The store.
        run: Only of this run.
        item: Only about this item.
        limit: At most this many.

    Raises:
        IntegrityError: if a trace is damaged, after those before it.

    Example:
        >>> from docendo.memory import TraceStore, stream_traces
        >>> with TraceStore.open(":memory:") as store:
        ...     list(stream_traces(store))
        []
    """
    table, last, left = _schema.traces, 0, limit
    wanted = ((table.c.run, run), (table.c.item, item))
    where = [column == _text.clean(value) for column, value in wanted if value is not None]
    while left is None or left > 0:
        size = _AT_ONCE if left is None else min(left, _AT_ONCE)
        query = sa.select(table.c.seq).where(table.c.seq > last, *where).order_by(table.c.seq).limit(size)
        with store.database.reading() as connection:
            numbers = list(connection.scalars(query))
        if not numbers:
            return
        last = numbers[-1]
        yield from store._select(table.c.seq.in_(numbers))
        left = None if left is None else left - len(numbers)
