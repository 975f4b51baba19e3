"""Entries that have the words of the query."""

from __future__ import annotations

from collections.abc import Iterator

from docendo.memory._budget import Entry
from docendo.memory._memory import BoardMemory

_PAGE = 32


class FullTextMemory(BoardMemory):
    """Recalls by BM25 over the board's full-text index. Entries without a word of the query are not recalled.

    Example:
        >>> from docendo.memory import Blackboard, Budget
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> memory = FullTextMemory(board)
        >>> me = Author(agent="teacher", role="teacher")
        >>> _ = memory.write("Carry the one to the next column.", author=me, key="carry")
        >>> _ = memory.write("Count the legs and divide by four.", author=me, key="legs")
        >>> [entry.post.key for entry in memory.read("which column next?", Budget(entries=3))]
        ['main/entry/carry']
        >>> board.close()
    """

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterator[Entry]:
        given = 0
        limit = _PAGE
        while query.strip():
            hits = self.board.search(
                query, limit=limit, channel=self.channel, kind=self.kind, run=run, item=item
            )
            for hit in hits[given:]:
                yield Entry(post=hit.post, text=self.text(hit.post), score=hit.score)
            if len(hits) < limit:
                return
            given, limit = len(hits), limit * 4
