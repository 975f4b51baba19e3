"""Entries whose meaning is near to the query's, by their embeddings."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._channels import PostKind
from docendo.memory.board._posts import Post
from docendo.memory.board._vectors import Embedder, VectorIndex
from docendo.memory.memories._budget import Entry
from docendo.memory.memories._memory import BoardMemory


class VectorMemory(BoardMemory):
    """Recalls by cosine similarity of embeddings.

    A read costs time in proportion to the entries: see the note to A4D in docs/studies.md for how much. The
    vectors of all entries are held in memory, 1.5 KB each for 384 numbers.

    Example:
        >>> import numpy as np
        >>> from docendo.memory import Blackboard, Budget
        >>> from docendo.records import Author
        >>> class Letters:
        ...     fingerprint = "letters"
        ...     def embed(self, texts):
        ...         return np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        >>> board = Blackboard.open(":memory:")
        >>> memory = VectorMemory(board, Letters())
        >>> me = Author(agent="teacher", role="teacher")
        >>> for text in ("banana", "cherry"):
        ...     _ = memory.write(text, author=me, key=text)
        >>> [entry.text for entry in memory.read("bandana", Budget(entries=1))]
        ['banana']
        >>> board.close()
    """

    def __init__(
        self, board: Blackboard, embedder: Embedder, *, channel: str = "main", kind: PostKind | None = None
    ) -> None:
        super().__init__(board, channel=channel, kind=kind)
        self.index = VectorIndex(board.database, embedder)
        self._posts: list[Post] = []
        self._reading = threading.Lock()

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterator[Entry]:
        import numpy as np

        with self._reading:
            self._catch_up()
            count = len(self._posts)
        if not count or not query.strip():
            return
        # In the order of the posts; there may be more by now.
        scores = self.index.similarities(query)[:count]
        for number in np.argsort(-scores, kind="stable"):
            post = self._posts[number]
            if (run is None or post.run == run) and (item is None or post.item == item):
                yield Entry(post=post, text=self.text(post), score=float(scores[number]))

    def _catch_up(self) -> None:
        """Takes in the entries that are new since the last read."""
        after = self._posts[-1].seq if self._posts else 0
        # Quarantined ones as well: they may be trusted again, and what is read is looked at anew anyway.
        new = [
            post
            for post in self.board.posts(channel=self.channel, kind=self.kind, after=after)
            if not post.key.startswith(self.recalls)
        ]
        self.index.add([(post.id, self.text(post)) for post in new])
        self._posts += new
