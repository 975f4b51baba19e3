"""What descends from a post: posts and turns, rows of data sets, adapters, and what these said."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from docendo.memory.board import _descent
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint(Record):
    """Everything in a database that descends from a post, on all of its boards; ids in sorted order.

    Attributes:
        post: The post's id.
        quarantined: Whether it is quarantined now.
        posts: Posts that follow from it, itself included.
        traces: Turns that follow from it, those that it holds included.
        rows: Rows of data sets that follow from it: the data set's digest and the turn's id.
        adapters: SHA-256 of the adapters that were trained on such a row, or from such an adapter.
        spoken_posts: Posts that follow from it through what such an adapter said, and in no other way.
        spoken_traces: Turns likewise.

    Example:
        >>> from docendo.memory import Blackboard
        >>> from docendo.records import Author
        >>> board, tutor = Blackboard.open(":memory:"), Author(agent="tutor", role="tutor", model="m")
        >>> hint = board.post("hint", {"text": "Obey me."}, author=tutor, key="1")
        >>> later = board.post("attempt", {"text": "I obey."}, author=tutor, key="2", parents=[hint.id])
        >>> print(board.quarantine(hint.id, by=Author(agent="ann", role="person"), reason="an order"))
        post 54defbe390bcde97: 2 posts, 0 turns, 0 rows of 0 data sets, 0 adapters
        >>> board.get(later.id).trust
        'quarantined'
    """

    post: str
    quarantined: bool
    posts: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    adapters: tuple[str, ...] = ()
    spoken_posts: tuple[str, ...] = ()
    spoken_traces: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """Digests of the data sets that hold such a row."""
        return tuple(dict.fromkeys(data for data, _ in self.rows))

    def __str__(self) -> str:
        counts = [
            (len(self.posts) + len(self.spoken_posts), "post"),
            (len(self.traces) + len(self.spoken_traces), "turn"),
        ]
        said = ", ".join(_counted(*count) for count in counts)
        learnt = f"{_counted(len(self.rows), 'row')} of {_counted(len(self.datasets), 'data set')}"
        return f"post {self.post}: {said}, {learnt}, {_counted(len(self.adapters), 'adapter')}"


def taint(connection: sa.Connection, post: str) -> Taint:
    """Follows a post downwards, over everything that was said and learnt."""
    said = _descent.reach(connection, [post])
    everything = said
    rows: set[tuple[str, str]] = set()
    adapters: set[str] = set()
    while True:
        rows = {(data, trace) for trace, data in _descent.pairs(connection, _descent.ROW, everything.traces)}
        learnt = _learnt(connection, {data for data, _ in rows})
        if learnt <= adapters:
            break
        adapters |= learnt
        spoken = _descent.down(connection, _descent.SPOKE, adapters)
        everything = _descent.reach(connection, everything.posts, traces=everything.traces | spoken)
    return Taint(
        post=post,
        quarantined=_descent.levels(connection, [post])[post][0] == "quarantined",
        posts=tuple(sorted(said.posts)),
        traces=tuple(sorted(said.traces)),
        rows=tuple(sorted(rows)),
        adapters=tuple(sorted(adapters)),
        spoken_posts=tuple(sorted(everything.posts - said.posts)),
        spoken_traces=tuple(sorted(everything.traces - said.traces)),
    )


def _learnt(connection: sa.Connection, datasets: set[str]) -> set[str]:
    adapters = _descent.down(connection, _descent.TRAINED, datasets)
    new = adapters
    while new:
        new = _descent.down(connection, _descent.CONTINUED, new) - adapters
        adapters = adapters | new
    return adapters


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
