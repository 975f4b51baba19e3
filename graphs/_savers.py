"""LangGraph's savers, made fit for graphs that run both ways, for several processes, and for hostile files.

Imported only when a checkpointer is asked for; `_savers_postgres` has the other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from langgraph.checkpoint.sqlite import SqliteSaver

from docendo.errors import IntegrityError, StorageError
from docendo.graphs._serializer import PlainSerializer

BUSY_SECONDS = 30.0
#: What LangGraph relies on in every checkpoint.
_FIELDS = {"id": str, "channel_values": Mapping, "channel_versions": Mapping, "versions_seen": Mapping}


class BothWays:
    """The async methods of a saver, by its own methods in threads.

    One saver then serves `invoke` and `ainvoke` and is bound to no event loop. Lists are read to their end
    before the first entry is given out: a half-read one would keep the saver's lock.
    """

    def list(self, *args: Any, **options: Any) -> Iterator[Any]:
        """Lists checkpoints, newest first."""
        found = [*super().list(*args, **options)]  # type: ignore[misc]
        return iter([self._checked(entry) for entry in found])

    def get_tuple(self, config: Any) -> Any:
        """Returns a checkpoint, or None.

        Raises:
            IntegrityError: if it holds what a checkpoint does not hold.
            StorageError: if it cannot be read.
        """
        return self._checked(super().get_tuple(config))  # type: ignore[misc]

    @staticmethod
    def _checked(found: Any) -> Any:
        """Refuses what has another shape than a checkpoint; its values were checked when they were read."""
        if found is None:
            return None
        checkpoint, metadata = found.checkpoint, found.metadata
        for name, kind in _FIELDS.items():
            if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get(name), kind):
                raise IntegrityError(
                    f"a checkpoint of thread {found.config['configurable'].get('thread_id')!r} has no "
                    f"{name!r} of its kind; restore a backup, or start the run anew"
                )
        if not isinstance(metadata, Mapping):
            raise IntegrityError("a checkpoint's metadata is not a mapping; restore a backup")
        return found

    async def aget_tuple(self, config: Any) -> Any:
        """As `get_tuple`."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """As `list`."""
        for entry in await asyncio.to_thread(self.list, *args, **options):
            yield entry

    async def aput(self, *args: Any, **options: Any) -> Any:
        """As `put`."""
        return await asyncio.to_thread(self.put, *args, **options)  # type: ignore[attr-defined]

    async def aput_writes(self, *args: Any, **options: Any) -> None:
        """As `put_writes`."""
        await asyncio.to_thread(self.put_writes, *args, **options)  # type: ignore[attr-defined]

    async def adelete_thread(self, thread_id: str) -> None:
        """As `delete_thread`."""
        await asyncio.to_thread(self.delete_thread, thread_id)  # type: ignore[attr-defined]

    async def aget_delta_channel_history(self, *, config: Any, channels: Sequence[str]) -> Any:
        """As `get_delta_channel_history`."""
        ask = self.get_delta_channel_history  # type: ignore[attr-defined]
        return await asyncio.to_thread(ask, config=config, channels=channels)


class FileSaver(BothWays, SqliteSaver):
    """LangGraph's `SqliteSaver`, whose writes are on disk when they return, and whole."""

    def __init__(self, path: str, serializer: PlainSerializer) -> None:
        """Opens a file or `:memory:`; use `checkpointer`."""
        self.path = path
        with self._explained():
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        super().__init__(connection, serde=serializer)
        try:
            with self._alone(), self._explained():
                for setting in ("synchronous=FULL", "trusted_schema=OFF", "cell_size_check=ON"):
                    connection.execute(f"PRAGMA {setting}")
                self.setup()
        except BaseException:
            connection.close()
            raise

    @contextlib.contextmanager
    def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:
        """A cursor in a transaction that an error undoes; LangGraph's own commits what came before it."""
        with self.lock, self._explained(), contextlib.closing(self.conn.cursor()) as cursor:
            try:
                yield cursor
            except BaseException:
                self.conn.rollback()
                raise
            if transaction:
                self.conn.commit()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes that make one file together fail at once: setting its mode does not wait."""
        if self.path == ":memory:":
            yield
            return
        try:
            with FileLock(f"{self.path}.lock", timeout=BUSY_SECONDS):
                yield
        except Timeout as error:
            raise StorageError(
                f"cannot open {self.path}: another process has held {self.path}.lock for {BUSY_SECONDS:.0f} s"
            ) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise IntegrityError(
                    f"{self.path} is damaged or not a database ({error}); restore a backup"
                ) from error
            raise StorageError(
                f"cannot use {self.path}: {error}; check space and permissions, then resume"
            ) from error


def open_file(path: str, serializer: PlainSerializer) -> FileSaver:
    """Opens a saver in a file, which is made with its folder if it does not exist.

    Raises:
        StorageError: if it cannot be opened.
    """
    if path != ":memory:":
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return FileSaver(path, serializer)
