"""Entries that have the words of the query."""

from __future__ import annotations

import math
from collections.abc import Iterator

from docendo.memory.board._search import words
from docendo.memory.memories._budget import Entry
from docendo.memory.memories._memory import BoardMemory

#: Hits asked for at first, and if these do not do, because many of them are evicted or too long.
_FEW, _MANY = 64, 1024


class FullTextMemory(BoardMemory):
    """Recalls by BM25 over the board's full-text index. Entries without a word of the query are not recalled.

    Of a word that very many posts have, the board looks at the newest ones only; see `Blackboard.search`.

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
        if not words(query):
            return
        given: set[str] = set()
        worst = math.inf
        for limit in (_FEW, _MANY):
            hits = self.board.search(
                query, limit=limit, channel=self.channel, kind=self.kind, run=run, item=item
            )
            for hit in sorted(hits, key=lambda hit: (-hit.score, hit.post.seq)):
                if hit.post.id not in given:
                    given.add(hit.post.id)
                    # Scores depend a little on how many hits are compared; the order of the few stands.
                    worst = min(worst, hit.score)
                    yield Entry(post=hit.post, text=self.text(hit.post), score=worst)
            if len(hits) < limit:
                return
