"""What all memories share: write, read within a budget, evict.

A memory is a view of one channel of a blackboard. An entry is a post, so it has an author, a trust and
parents, survives a crash, and can be followed to whatever was made of it. Nothing is ever deleted: an
evicted entry has a tombstone, a post that says who evicted it and why.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from docendo.errors import DataError
from docendo.hashing import digest
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._channels import Channel, PostKind
from docendo.memory.board._posts import Post
from docendo.memory.memories._budget import Budget, Entry
from docendo.memory.storage import _text
from docendo.records import JSON, Author


@runtime_checkable
class Memory(Protocol):
    """What every memory offers, whatever its order of recall."""

    def write(
        self,
        body: str | Mapping[str, JSON],
        *,
        author: Author,
        key: str,
        run: str = "",
        item: str = "",
        parents: Sequence[str] = (),
    ) -> Post:
        """Stores an entry, or returns the one that was written with this key already."""

    def read(
        self, query: str, budget: Budget, *, run: str | None = None, item: str | None = None
    ) -> list[Entry]:
        """Returns entries for a query, best first, as many as the budget holds."""

    def evict(self, post_id: str, *, by: Author, reason: str) -> Post:
        """Takes an entry out of what is read, by a post that says so."""


class BoardMemory(ABC):
    """The base of memories that keep their entries in one channel: all but the order of recall.

    A sub-class says in `_ranked` which entries come first. What was evicted or quarantined is left out
    here, in one place, by looking at the board anew: what a sub-class has cached cannot bring it back.

    A channel that is not there yet is declared, open to everyone; declare it before to say who may write.

    Attributes:
        board: The blackboard.
        channel: The channel of the entries and their tombstones.
        kind: The kind of the posts that are entries.
    """

    #: Kind of the posts unless the caller names another.
    default_kind: PostKind = "lesson"
    #: Whether entries that do not fit are passed over for shorter ones further down.
    gaps: bool = True

    def __init__(self, board: Blackboard, *, channel: str = "main", kind: PostKind | None = None) -> None:
        self.board = board
        self.channel = _text.name(channel, "the memory's channel")
        self.kind = kind or self.default_kind
        if self.channel not in board.channels():
            board.declare(Channel(name=self.channel))
        self._lock = threading.Lock()
        self._tombstones: dict[str, list[str]] = {}
        self._tombstones_seen = 0

    @property
    def recalls(self) -> str:
        """What the keys of recorded reads begin with; they are no entries, whatever their kind."""
        return f"{self.channel}/recall/"

    def write(
        self,
        body: str | Mapping[str, JSON],
        *,
        author: Author,
        key: str,
        run: str = "",
        item: str = "",
        parents: Sequence[str] = (),
    ) -> Post:
        """Stores an entry, or returns the one that was written with this key already.

        Args:
            body: The entry's text, or a mapping with what this memory asks for.
            author: Who writes it: known to the calling code, never read from model text.
            key: Idempotency key within this channel, for example `run/item/node/step`. Writing an evicted
                entry's key again does not bring it back.
            run: Run id.
            item: Item id.
            parents: Ids of the posts that it was made from.

        Raises:
            DataError: if the body lacks something, or an argument is malformed.
        """
        whole = self._checked({"text": body} if isinstance(body, str) else body)
        return self.board.post(
            self.kind,
            whole,
            author=author,
            key=f"{self.channel}/entry/{_text.name(key, 'the key of an entry')}",
            run=run,
            item=item,
            parents=parents,
            channel=self.channel,
        )

    def read(
        self, query: str, budget: Budget, *, run: str | None = None, item: str | None = None
    ) -> list[Entry]:
        """Returns entries for a query, best first, as many as the budget holds.

        The same board, query and budget give the same entries: equal scores go to the older post. Entries
        are whole; one that does not fit is passed over.

        Args:
            query: What is wanted; may be empty where the order does not depend on it.
            budget: What the texts may take.
            run: Only entries of this run.
            item: Only entries of this item.
        """
        self._bury()
        ranked = self._ranked(query, run=run, item=item)
        return budget.fill(self._alive(ranked), gaps=self.gaps)

    def living(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Leaves out of entries that were read earlier what has been evicted or quarantined since."""
        self._bury()
        return self._alive(entries)

    def evict(self, post_id: str, *, by: Author, reason: str) -> Post:
        """Takes an entry out of what is read, by a post that says so, and returns that post.

        Nothing is deleted, and it can be undone: a tombstone that is quarantined does not count.

        Raises:
            DataError: if the post is unknown or no entry of this memory.
        """
        entry = self.board.get(post_id)
        if entry.channel != self.channel or entry.kind != self.kind:
            raise DataError(
                f"post {post_id} is a {entry.kind} of channel {entry.channel!r}",
                expected=f"a {self.kind} of channel {self.channel!r}",
            )
        return self.board.post(
            "tombstone",
            {"post": post_id, "reason": reason},
            author=by,
            key=f"{self.channel}/tombstone/{digest(post_id, by.to_json(), reason)[:16]}",
            run=entry.run,
            item=entry.item,
            parents=(post_id,),
            channel=self.channel,
        )

    def entries(self, *, run: str | None = None, item: str | None = None) -> list[Post]:
        """All entries that can be read, the oldest first."""
        self._bury()
        posts = self.board.posts(channel=self.channel, kind=self.kind, run=run, item=item)
        return [post for post in posts if self._readable(post)]

    def text(self, post: Post) -> str:
        """The entry as it goes into a prompt, and as it is counted: by default its `text`, else all of it."""
        text = post.body.get("text")
        return text if isinstance(text, str) else _text.encode(post.body)

    @abstractmethod
    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterable[Entry]:
        """Entries, best first, lazily where that saves work; evicted and quarantined ones may be there."""

    def _checked(self, body: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """What is stored for a body that was written; raises `DataError` if it lacks something."""
        text = body.get("text")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"the entry's text is {text!r}", expected="text that is not empty")
        return body

    def _alive(self, ranked: Iterable[Entry]) -> Iterator[Entry]:
        for entry in ranked:
            # Trust may have changed since the entry was ranked, or cached.
            post = self.board.get(entry.post.id)
            if self._readable(post):
                yield entry.replace(post=post)

    def _readable(self, post: Post) -> bool:
        if post.trust == "quarantined" or post.key.startswith(self.recalls):
            return False
        return not self._evicted(post.id)

    def _bury(self) -> None:
        """Reads the tombstones that are new since the last look."""
        with self._lock:
            # Read first: what is posted between the two looks is seen again at the next read.
            newest = self.board.posts(newest=True, limit=1)
            for stone in self.board.posts(
                channel=self.channel, kind="tombstone", after=self._tombstones_seen
            ):
                stones = self._tombstones.setdefault(str(stone.body["post"]), [])
                if stone.id not in stones:
                    stones.append(stone.id)
            # Where nothing was evicted, the next read need not look through the whole board again.
            self._tombstones_seen = newest[0].seq if newest else 0

    def _evicted(self, post_id: str) -> bool:
        stones = self._tombstones.get(post_id, ())
        return any(self.board.get(stone).trust != "quarantined" for stone in stones)
