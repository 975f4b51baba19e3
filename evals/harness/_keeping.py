"""Where the answers of an evaluation are kept as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from docendo.checks import short
from docendo.errors import ConfigError
from docendo.evals.harness._replies import Reply
from docendo.records import Trace

if TYPE_CHECKING:
    from docendo.memory import Database


class JournalLike(Protocol):
    """What resuming needs of `docendo.memory.Journal`."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Returns what was stored under the key, or None."""

    def put(self, key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stores a value unless the key has one; returns what is stored."""


class Keeper:
    """Keeps replies in a journal, if there is one, and in a folder their turns as well.

    Attributes:
        keeps: Whether anything is kept.
        database: That of the folder, or None.
    """

    def __init__(self, journal: JournalLike | None, database: Database | None = None) -> None:
        self._journal, self.database = journal, database
        self.keeps = journal is not None

    @classmethod
    @contextmanager
    def open(cls, folder: Path | None, journal: JournalLike | None) -> Iterator[Keeper]:
        """A keeper of the folder or of the journal, which stays open.

        Raises:
            ConfigError: if both are given, or the journal is none.
        """
        if folder is None:
            if journal is not None and not (hasattr(journal, "get") and hasattr(journal, "put")):
                raise ConfigError(f"journal is {short(journal)}", expected="a docendo.memory.Journal")
            yield cls(journal)
            return
        if journal is not None:
            raise ConfigError("journal and folder were both given", remedy="pass one of them")
        from docendo.memory import DATABASE, Journal

        with Journal.open(folder / DATABASE) as own:
            yield cls(own, own.database)

    def get(self, key: str | None) -> Reply | None:
        """The reply that is stored under a key."""
        stored = self._journal.get(key) if self._journal is not None and key is not None else None
        return None if stored is None else Reply.from_json(stored)

    def put(self, key: str | None, reply: Reply, turns: Sequence[Trace]) -> Reply:
        """Stores a reply and its turns; returns what is stored: the first reply of a key stays.

        Both or neither, whenever the process is killed: an answer that was drawn without a seed never comes
        again, and turns whose answer was lost would stand in the way of those of the next one. A failure is
        not kept: the next call tries the item again.
        """
        if self._journal is None or key is None or reply.failure is not None:
            return reply
        given = reply.to_json()
        if self.database is None:
            return Reply.from_json(self._journal.put(key, given))
        from docendo.memory import TraceStore

        with self.database.transaction():
            stored = self._journal.put(key, given)
            if stored == given:  # else another process was first, and the turns are its own
                TraceStore(self.database).add(turns)
        return Reply.from_json(stored)
