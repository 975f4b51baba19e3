"""LangGraph's `PostgresSaver` for `checkpointer`; imported only when a server is asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from docendo.errors import StorageError
from docendo.graphs._savers import BothWays
from docendo.graphs._serializer import PlainSerializer

_MOST_CONNECTIONS = 4
_SECONDS = 30.0
# Serialises those who make the tables. Any constant does; this one is the bytes of "docpoint".
_LOCK = 0x646F63706F696E74


class ServerSaver(BothWays, PostgresSaver):
    """LangGraph's `PostgresSaver` on a pool that replaces broken connections."""

    def __init__(self, url: str, label: str, serializer: PlainSerializer) -> None:
        """Opens the pool, makes the tables; use `checkpointer`. `label` is the URL without its password."""
        self.label = label
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        self.pool: Any = ConnectionPool(
            url,
            min_size=1,
            max_size=_MOST_CONNECTIONS,
            kwargs=options,
            check=ConnectionPool.check_connection,
            timeout=_SECONDS,
            open=False,
        )
        super().__init__(self.pool, serde=serializer)
        try:
            with self._explained():
                # Asked once directly: a pool goes on trying where the answer will stay the same.
                psycopg.connect(url, connect_timeout=int(_SECONDS)).close()
                self.pool.open(wait=True, timeout=_SECONDS)
                with self.pool.connection() as connection:
                    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
                    try:
                        PostgresSaver(connection).setup()
                    finally:
                        connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        except BaseException:
            self.pool.close()
            raise

    @contextlib.contextmanager
    def _cursor(self, *, pipeline: bool = False) -> Iterator[Any]:
        with self._explained(), super()._cursor(pipeline=pipeline) as cursor:
            yield cursor

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, PoolTimeout) as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            raise StorageError(f"cannot use {self.label}: {reason}; check the server, then resume") from error

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As `prune`."""
        await asyncio.to_thread(self.prune, thread_ids, strategy=strategy)


def open_server(url: str, label: str, serializer: PlainSerializer) -> ServerSaver:
    """Opens a saver on a server and makes its tables if there are none.

    Raises:
        StorageError: if the server cannot be reached or refuses.
    """
    return ServerSaver(url, label, serializer)
