"""Subscriptions: posts as they come, from whatever thread, process or machine."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, DataError
from docendo.records import Author

if TYPE_CHECKING:
    from docendo.memory.board._blackboard import Blackboard
    from docendo.memory.board._posts import Post

_AT_ONCE = 500


class Subscription:
    """Posts of a board in sequence order, first those that are there, then new ones: `board.subscribe`.

    Iterate over it with `for` or `async for`, or call `next`. A subscription with a name remembers on the
    board how far it was acknowledged, so that a process that was killed goes on there: a post is seen again
    unless it was acknowledged. Two processes with one name share the position, not the work; to share
    work, claim it.

    Example:
        >>> from docendo.memory import Blackboard
        >>> from docendo.records import Author
        >>> board, tutor = Blackboard.open(":memory:"), Author(agent="tutor", role="tutor")
        >>> _ = board.post("hint", {"text": "Carry the one."}, author=tutor, key="1")
        >>> [post.body["text"] for post in board.subscribe(timeout=0)]
        ['Carry the one.']
    """

    def __init__(
        self, board: Blackboard, *, after: int, name: str, timeout: float | None, **filters: Any
    ) -> None:
        """Made by `Blackboard.subscribe`."""
        self._board, self._timeout, self._filters = board, timeout, filters
        self._key = f"subscription/{name}" if name else ""
        self._waiting: deque[Post] = deque()
        if self._key:
            seen = board.keys.read(self._key)
            after = max(after, 0 if seen is None else int(seen.value))
        self.position = after

    def next(self, timeout: float | None = None) -> Post | None:
        """Returns the next post, or None if none came for `timeout` seconds (None waits for ever).

        Raises:
            IntegrityError: if the post is damaged.
            StorageError: if the database cannot be used.
        """
        database = self._board.database
        end = None if timeout is None else time.monotonic() + timeout
        while not self._waiting:
            mark = database.mark()
            self._waiting.extend(self._board.posts(after=self.position, limit=_AT_ONCE, **self._filters))
            if self._waiting:
                break
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return None
            database.wait(mark, left)
        post = self._waiting.popleft()
        self.position = post.seq
        return post

    def acknowledge(self, post: Post) -> None:
        """Notes on the board that this post, and all before it, need not be seen again.

        Raises:
            ConfigError: if the subscription has no name.
        """
        if not self._key:
            raise ConfigError("the subscription has no name", remedy="subscribe with name=... to acknowledge")
        author = Author(agent=self._key, role="subscriber")
        seen = self._board.keys.read(self._key)
        if seen is None or post.seq > int(seen.value):
            self._board.keys.write(self._key, post.seq, author=author)

    def __iter__(self) -> Iterator[Post]:
        while (post := self.next(self._timeout)) is not None:
            yield post

    async def __aiter__(self) -> AsyncIterator[Post]:
        while True:
            # In pieces, so that a cancelled task does not leave a thread that waits for ever.
            deadline = None if self._timeout is None else time.monotonic() + self._timeout
            post = None
            while post is None:
                left = 1.0 if deadline is None else min(deadline - time.monotonic(), 1.0)
                if left < 0:
                    return
                post = await asyncio.to_thread(self.next, left)
                if post is None and deadline is not None and time.monotonic() >= deadline:
                    return
            yield post


def subscribe(
    board: Blackboard, *, after: int, name: str, timeout: float | None, **filters: Any
) -> Subscription:
    """Checks the arguments of `Blackboard.subscribe`."""
    if not is_count(after) or after < 0:
        raise DataError(f"after is {after!r}", expected="a sequence number, 0 for the beginning")
    if timeout is not None and not (is_number(timeout) and timeout >= 0):
        raise DataError(f"timeout is {timeout!r}", expected="seconds, 0 or more, or None to wait for ever")
    return Subscription(board, after=after, name=name, timeout=timeout, **filters)
