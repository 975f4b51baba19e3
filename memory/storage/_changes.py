"""Waiting for a commit of anybody: other threads, other processes, other machines.

A counter per `Database` goes up when there is evidence of a commit, and whoever waits compares it with the
value he saw before. One of the waiting threads at a time watches the database; the others sleep until it
tells them. SQLite is asked for `PRAGMA data_version`, which costs 4 microseconds and no lock; a PostgreSQL
server notifies a connection of its own.

No wake-up is lost: the counter is read before the database is looked at, and it goes up whenever the watch
begins (anew), because what was committed until then is unknown.
"""

from __future__ import annotations

import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from docendo.errors import DocendoError

#: The channel on which PostgreSQL tells of commits.
CHANNEL = "docendo_commits"
# A waiter looks at an SQLite file this often at first, and slower the longer nothing happens.
# Measured on one core: every 2 ms takes 2.8 % of it, every 25 ms takes 0.6 %.
_SHORTEST, _LONGEST = 0.002, 0.025
# A thread that watches a server's socket is not told that the database was closed; it looks this often.
_GLANCE = 0.5
_FORK_SECONDS = 30.0


class Source:
    """How commits of a kind of database are noticed. Only one thread at a time looks and sleeps."""

    def look(self, patience: float) -> bool:
        """Whether something may have been committed since the last look; the first one says yes.

        Args:
            patience: For how many seconds to try, where a server is away.
        """
        return False

    def sleep(self, condition: threading.Condition, seconds: float, waited: float) -> None:
        """Sleeps until it is worth looking again, for `seconds` at most."""
        with condition:
            condition.wait(min(seconds, _GLANCE))

    def close(self) -> None:
        """Gives up what it holds."""

    def before_fork(self) -> None:
        """Gives up what must not be inherited."""

    def after_fork(self, *, child: bool) -> None:
        """Goes on; the child makes what it inherited unusable, without touching the parent's."""


class Changes:
    """Counts commits for all threads of a `Database`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._condition = threading.Condition()
        self._count = 0
        self._watched = False  # by a thread, which alone may use the source
        self._closed = False

    def mark(self) -> int:
        """Returns the counter, up to date unless another thread is watching: then that one moves it."""
        with self._condition:
            if self._watched or self._closed:
                return self._count
            self._watched = True
        try:
            self._look(0.0)
        finally:
            self._leave()
        return self._count

    def wait(self, mark: int, seconds: float | None) -> bool:
        """Waits until the counter is no longer `mark`; False if it still is after `seconds`."""
        begun = time.monotonic()
        end = None if seconds is None else begun + seconds
        while True:
            with self._condition:
                while self._watched and self._count == mark and not self._closed and _left(end) > 0:
                    self._condition.wait(_left(end))
                if self._count != mark or self._closed:
                    return True
                if self._watched:
                    return False
                self._watched = True
            try:
                self._watch(mark, begun, end)
            finally:
                self._leave()
            if self._count == mark and not self._closed:
                return False

    def _watch(self, mark: int, begun: float, end: float | None) -> None:
        while True:
            self._look(_left(end))
            left = _left(end)
            if self._count != mark or self._closed or left <= 0:
                return
            self._source.sleep(self._condition, left, time.monotonic() - begun)

    def _look(self, patience: float) -> None:
        if self._source.look(patience):
            self.committed(count=True)

    def committed(self, *, count: bool) -> None:
        """Wakes those who wait: to look, or with `count` because it is known that something was committed."""
        with self._condition:
            self._count += count
            self._condition.notify_all()

    def _leave(self) -> None:
        """Lets another thread watch."""
        with self._condition:
            self._watched = False
            self._condition.notify_all()
            if self._closed:
                self._source.close()

    def close(self) -> None:
        """Wakes everybody for good. A thread that watches closes the source itself when it notices."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            if not self._watched:
                self._source.close()

    def before_fork(self) -> None:
        """Lets the source get ready."""
        self._source.before_fork()

    def after_fork(self, *, child: bool) -> None:
        """Starts afresh in the child, where the thread that watched is not."""
        self._source.after_fork(child=child)
        if child:
            self._condition = threading.Condition()
            self._watched = False
            self._count += 1


def _left(end: float | None) -> float:
    """Seconds until `end`; without one, a day, because a lock takes no more than some weeks."""
    return 86_400.0 if end is None else max(0.0, end - time.monotonic())


class MemorySource(Source):
    """SQLite in memory: nobody else can commit, and own commits are counted as they happen."""


class FileSource(Source):
    """An SQLite file, watched through a connection of its own that is never in a transaction.

    `PRAGMA data_version` tells of commits of other connections, so this one learns of those of this process
    as well.
    """

    def __init__(self, connect: Callable[[], sa.PoolProxiedConnection]) -> None:
        self._connect = connect
        self._handle: sa.PoolProxiedConnection | None = None
        self._cursor: Any = None
        self._version: int | None = None
        # Held while the connection is used, so that a fork can find it closed.
        self._lock = threading.Lock()
        self._held = False

    def look(self, patience: float) -> bool:
        """Compares the file's version with the last one."""
        with self._lock:
            if self._handle is None:
                self._handle, self._version = self._connect(), None
                self._cursor = self._handle.cursor()
            try:
                (version,) = self._cursor.execute("PRAGMA data_version").fetchone()
            except sqlite3.OperationalError as error:
                # Another process removes or recovers the log at this moment; the next look will tell.
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL):
                    return False
                raise
            before, self._version = self._version, int(version)
            return before != self._version

    def sleep(self, condition: threading.Condition, seconds: float, waited: float) -> None:
        """Sleeps until this process commits or a while has passed."""
        pause = min(_LONGEST, _SHORTEST + waited / 20, seconds)
        with condition:
            condition.wait(pause)

    def close(self) -> None:
        """Closes the connection; the next look opens another."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._handle is not None:
            with suppress(SQLAlchemyError, sqlite3.Error):
                self._handle.close()
            self._handle = self._cursor = None

    def before_fork(self) -> None:
        """Closes the connection: SQLite's must not be inherited."""
        self._held = self._lock.acquire(timeout=_FORK_SECONDS)
        if self._held:
            self._drop()

    def after_fork(self, *, child: bool) -> None:
        """Lets the next look open another."""
        if child:
            self._lock = threading.Lock()
        elif self._held:
            self._lock.release()
        self._held = False


class ServerSource(Source):
    """A PostgreSQL database that notifies a connection of its own.

    Args:
        connect: Makes a connection, and tries again for so many seconds if the server is away.
    """

    def __init__(self, connect: Callable[[float], sa.Connection]) -> None:
        self._connect = connect
        self._connection: sa.Connection | None = None
        self._driver: Any = None
        self._seen = False

    def look(self, patience: float) -> bool:
        """Asks the server, so that what it has to tell has arrived; connects if there is no connection."""
        if self._driver is not None:
            self._seen = False
            try:
                # An answer brings all notices with it that were there before. Those that came behind it
                # may have been read from the socket already, where `sleep` would not see them.
                self._driver.execute("SELECT 1")
                self._driver.pgconn.consume_input()
                while self._driver.pgconn.notifies() is not None:
                    self._seen = True
            except self._error:
                self.close()
        if self._driver is not None:
            return self._seen
        self._open(patience)
        return True

    def _open(self, patience: float) -> None:
        connection = self._connect(patience)
        driver: Any = connection.connection.driver_connection
        try:
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        except SQLAlchemyError:
            connection.close()
            raise
        driver.add_notify_handler(self._notice)
        self._connection, self._driver = connection, driver

    @property
    def _error(self) -> type[Exception]:
        import psycopg

        return psycopg.Error

    def _notice(self, _: object) -> None:
        self._seen = True

    def sleep(self, condition: threading.Condition, seconds: float, waited: float) -> None:
        """Sleeps until the server sends something."""
        if self._driver is None:
            return
        watch = select.poll()
        watch.register(self._driver.fileno(), select.POLLIN)
        watch.poll(1000 * min(seconds, _GLANCE))

    def close(self) -> None:
        """Closes the connection; the next look makes another."""
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def after_fork(self, *, child: bool) -> None:
        """Cuts the child's connection off; a thread of the parent may be waiting at its own."""
        if child:
            connection, self._connection, self._driver = self._connection, None, None
            if connection is not None:
                cut(connection)


_inherited: list[sa.Connection] = []


def cut(connection: sa.Connection) -> None:
    """Takes the socket away from an inherited server connection, and keeps the rest for ever.

    Closing it, or rolling back when it is collected, would send words into the parent's conversation.
    """
    _inherited.append(connection)
    with suppress(DocendoError, SQLAlchemyError, OSError, AttributeError, ValueError):
        driver: Any = connection.connection.driver_connection
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, driver.fileno(), inheritable=False)
        os.close(nowhere)
