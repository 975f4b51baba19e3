"""A state that is computed from the posts of a channel and kept up to date with them.

The board is the only place where anything is kept: a state can be thrown away and computed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import sqlalchemy as sa

from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._channels import Channel, PostKind
from docendo.memory.board._posts import Post
from docendo.memory.storage import _schema

State = TypeVar("State")


class Fold(Generic[State]):
    """The state after all posts that count, in the order of the board.

    A post does not count while it is quarantined, or while one that it was made from is (at any remove),
    or while it is evicted. New posts are added to the state; when trust has changed or something
    was evicted, the state is computed anew.

    Args:
        board: Where the posts are.
        channel: Their channel; declared open to all if the board does not have it.
        kinds: Their kinds.
        start: Makes the state before any post.
        step: Adds a post to the state.
    """

    def __init__(
        self,
        board: Blackboard,
        *,
        channel: str,
        kinds: Sequence[PostKind],
        start: Callable[[], State],
        step: Callable[[State, Post], None],
    ) -> None:
        if channel not in board.channels():
            board.declare(Channel(name=channel))
        self._board, self._channel, self._kinds = board, channel, tuple(kinds)
        self._start, self._step = start, step
        self._lock = threading.RLock()
        # Built once: building a statement takes longer than running it.
        names, heads = self._chains(), _schema.heads.c
        self._heads_query = sa.select(heads.chain, heads.hash).where(heads.chain.in_(names))
        self._seen_heads = ("", "")
        self._reset()

    def __call__(self) -> State:
        """The state now. It is the caller's to read, not to change."""
        with self._lock:
            # Read before the posts: what is written in between is seen at the next look.
            heads = self._heads()
            if heads == self._seen_heads:
                return self._state
            if heads[1] != self._seen_heads[1] or not self._catch_up():
                self._reset()
                self._catch_up()
            self._seen_heads = heads
            return self._state

    def _reset(self) -> None:
        self._state: State = self._start()
        self._last: Post | None = None
        self._evicted: set[str] = set()
        self._taint: dict[str, bool] = {}

    def _catch_up(self) -> bool:
        """Adds the posts since the last look; returns whether that is enough to be up to date."""
        last = self._last
        posts = self._board.posts(channel=self._channel, after=last.seq - 1 if last else 0)
        if last is not None:
            # A post of a transaction that did not succeed is not there any more.
            if not posts or posts[0].hash != last.hash:
                return False
            posts = posts[1:]
        stones = [post for post in posts if post.kind == "tombstone" and post.trust != "quarantined"]
        if stones and last is not None:
            return False
        self._evicted.update(str(stone.body["post"]) for stone in stones)
        for post in posts:
            self._last = post
            if post.kind in self._kinds and post.id not in self._evicted and not self._tainted(post):
                self._step(self._state, post)
        return True

    def _tainted(self, post: Post) -> bool:
        """Whether the post or something it was made from is quarantined. Ancestors have lower numbers."""
        waiting = [post]
        while waiting:
            one = waiting[-1]
            unknown = [parent for parent in one.parents if parent not in self._taint]
            if unknown and one.trust != "quarantined":
                waiting.extend(self._board.get(parent) for parent in unknown)
                continue
            waiting.pop()
            self._taint[one.id] = one.trust == "quarantined" or any(
                self._taint[parent] for parent in one.parents
            )
        return self._taint[post.id]

    def _heads(self) -> tuple[str, str]:
        """The ends of the board's chains of posts and of trust events: they tell whether anything is new."""
        posts, trust = self._chains()
        with self._board.database.reading() as connection:
            found = {row.chain: str(row.hash) for row in connection.execute(self._heads_query)}
        return found.get(posts, ""), found.get(trust, "")

    def _chains(self) -> tuple[str, str]:
        posts, trust = (f"{table.name}:{self._board.name}" for table in (_schema.posts, _schema.trust))
        return posts, trust
