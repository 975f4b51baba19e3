"""A state that is computed from the posts of a channel and kept up to date with them.

The board is the only place where anything is kept: a state can be thrown away and computed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import sqlalchemy as sa

from docendo.memory import _schema
from docendo.memory._blackboard import Blackboard
from docendo.memory._channels import Channel, PostKind
from docendo.memory._posts import Post

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
        self._events = -1  # of trust, when the state was begun
        self._reset()

    def __call__(self) -> State:
        """The state now. It is the caller's to read, not to change."""
        with self._lock:
            # Read before the posts: an event in between is seen at the next look.
            events = self._trust_events()
            stones = self._new("tombstone", self._stones_seen)
            if events != self._events or stones or self._undone():
                self._reset()
                self._events = events
                for stone in self._new("tombstone", 0):
                    self._stones_seen = stone.seq
                    if stone.trust != "quarantined":
                        self._evicted.add(str(stone.body["post"]))
            posts = [post for kind in self._kinds for post in self._new(kind, self._seen)]
            for post in sorted(posts, key=lambda post: post.seq):
                self._seen, self._last = post.seq, post.hash
                if post.id not in self._evicted and not self._tainted(post):
                    self._step(self._state, post)
            return self._state

    def _reset(self) -> None:
        self._state: State = self._start()
        self._seen = self._stones_seen = 0
        self._last = ""
        self._evicted: set[str] = set()
        self._taint: dict[str, bool] = {}

    def _undone(self) -> bool:
        """Whether the last post was part of a transaction that did not succeed, so that it is not there."""
        if not self._seen:
            return False
        last = self._board.posts(channel=self._channel, after=self._seen - 1, limit=1)
        return not last or last[0].hash != self._last

    def _new(self, kind: PostKind, after: int) -> list[Post]:
        return self._board.posts(channel=self._channel, kind=kind, after=after)

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

    def _trust_events(self) -> int:
        column, board = _schema.trust.c.seq, _schema.trust.c.board
        with self._board.database.reading() as connection:
            return connection.scalar(sa.select(sa.func.max(column)).where(board == self._board.name)) or 0
