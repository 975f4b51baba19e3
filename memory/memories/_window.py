"""The last entries that fit: what a context window keeps of a conversation."""

from __future__ import annotations

from collections.abc import Iterator

from docendo.memory.memories._budget import Entry
from docendo.memory.memories._memory import BoardMemory

_PAGE = 64


class WindowMemory(BoardMemory):
    """Returns the newest entries first and stops at the first that does not fit: a window has no holes.

    The query is ignored. Reverse the result for the order of a conversation.

    Example:
        >>> from docendo.memory import Blackboard, Budget
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> memory = WindowMemory(board)
        >>> me = Author(agent="student", role="student")
        >>> for number in range(3):
        ...     _ = memory.write(f"step {number}", author=me, key=f"run/item/{number}")
        >>> [entry.text for entry in memory.read("", Budget(characters=14))]
        ['step 2', 'step 1']
        >>> board.close()
    """

    default_kind = "message"
    gaps = False

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterator[Entry]:
        before: int | None = None
        size = _PAGE
        while True:
            # The listing has no upper end, so every page is read from the newest post: the last one
            # twice as far back. Most windows end in the first.
            posts = self.board.posts(
                channel=self.channel, kind=self.kind, run=run, item=item, limit=size, newest=True
            )
            posts.sort(key=lambda post: -post.seq)
            for post in posts:
                if before is None or post.seq < before:
                    yield Entry(post=post, text=self.text(post), score=float(post.seq))
                    before = post.seq
            if len(posts) < size:
                return
            size *= 2
