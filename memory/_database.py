"""One database, many stores: connections, transactions, and errors that name the file.

SQLite is the default. It runs in WAL mode with `synchronous=FULL`, so a write that has returned is on
disk. PostgreSQL goes through the same SQLAlchemy Core statements. Either way there is one writer at a
time: numbering without gaps and hash chains need it, and a write takes a millisecond.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from docendo.errors import ConfigError, DataError, DocendoError, IntegrityError, StorageError
from docendo.memory import _schema

BUSY_SECONDS = 30.0
# Serialises writers on PostgreSQL. Any constant does; this one is the bytes of "docendo".
_ADVISORY_LOCK = 0x646F63656E646F


#: Name of the database in a run's folder.
DATABASE = "docendo.db"


class Database:
    """A database that several stores share.

    One connection per process serves all threads in turn. It is closed before a `fork` and opened again
    on either side, because SQLite's locks do not survive being inherited.

    Attributes:
        path: The SQLite file, or None (in memory, or a server).
        label: How errors call it: the path, or the URL without its password.

    Example:
        >>> from docendo.memory import Blackboard, Database, Journal
        >>> with Database.open(":memory:") as database:
        ...     board, journal = Blackboard(database), Journal(database)
        ...     with database.transaction():  # both or neither
        ...         stored = journal.put("call-1", {"text": "4"})
    """

    def __init__(self, engine: sa.Engine, *, label: str, path: Path | None, read_only: bool = False) -> None:
        """Wraps an engine; use `Database.open`."""
        self.label = label
        self.path = path
        self.read_only = read_only
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        self._memory = self._sqlite and path is None
        # Re-entrant, and held for the length of a transaction: threads take turns here instead of
        # polling for SQLite's lock, and the fields below belong to the thread that holds it.
        self._lock = threading.RLock()
        self._connection: sa.Connection | None = None
        self._depth = 0
        self._writing = False
        self._broken: DocendoError | None = None
        self._unusable = ""
        self._fork_lock_held = False
        _open_databases.add(self)

    @classmethod
    def open(cls, url_or_path: str | Path, *, create: bool = True, read_only: bool = False) -> Self:
        """Opens a database and creates its tables if there are none.

        Args:
            url_or_path: A file path, `:memory:`, `sqlite:///file` or `postgresql+psycopg://...`.
            create: Whether a file that does not exist is created (with its folder).
            read_only: Opens for reading alone, which also works on a read-only disk.

        Raises:
            ConfigError: if the URL cannot be used.
            DataError: if the file does not exist and is not to be created, or holds no docendo tables.
            StorageError: if it cannot be opened or created, naming the path.
            IntegrityError: if the file is not a database or is damaged.
        """
        url = _url(url_or_path)
        if url.get_backend_name() != "sqlite":
            database = cls(_server_engine(url), label=url.render_as_string(hide_password=True), path=None)
            database._prepare(create)
            return database
        if url.database in (None, "", ":memory:"):
            database = cls(_sqlite_engine(":memory:"), label=":memory:", path=None)
            database._prepare(True)
            return database
        path = Path(str(url.database)).expanduser().absolute()
        if path.is_dir():
            raise DataError(f"{path} is a folder", expected="a database file")
        if (read_only or not create) and not path.exists():
            raise DataError(f"there is no database at {path}", remedy="check the path")
        if read_only:
            return cls._open_read_only(path)
        database = cls(_sqlite_engine(str(path)), label=str(path), path=path)
        # Two processes that create one file together fail with "database is locked" at once, because
        # switching to WAL is outside the busy timeout. Hence a lock file around it.
        with database._created_alone():
            database._prepare(True)
        return database

    @classmethod
    def _open_read_only(cls, path: Path) -> Self:
        log = path.with_name(path.name + "-wal")
        # A WAL database needs a writable folder even for reading, unless SQLite is told that nobody
        # writes. That is true where the folder is read-only, and safe only without a pending log.
        frozen = not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
        mode = "immutable=1" if frozen else "mode=ro"
        engine = _sqlite_engine(f"{path.as_uri()}?{mode}", uri=True)
        database = cls(engine, label=str(path), path=path, read_only=True)
        database._prepare(False)
        return database

    @contextmanager
    def _created_alone(self) -> Iterator[None]:
        if self.path is None:
            yield
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{self.path}.lock", timeout=BUSY_SECONDS)
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"cannot open {self.path}: another process has held {self.path}.lock for {BUSY_SECONDS:.0f} s"
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; make the folder writable"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _prepare(self, create: bool) -> None:
        """Sets WAL mode, creates missing tables, checks the schema version. Closes itself on failure."""
        try:
            if create and self._sqlite and not self._memory:
                self._use_wal()
            with self.transaction() if create else self.reading() as connection:
                if sa.inspect(connection).has_table(_schema.meta.name):
                    version = connection.scalar(
                        sa.select(_schema.meta.c.value).where(_schema.meta.c.name == "schema")
                    )
                elif create:
                    version = str(_schema.SCHEMA_VERSION)
                    _schema.metadata.create_all(connection)
                    connection.execute(_schema.meta.insert().values(name="schema", value=version))
                else:
                    raise DataError(
                        f"{self.label} holds no docendo tables", expected="a database made by docendo"
                    )
                if version != str(_schema.SCHEMA_VERSION):
                    raise DataError(
                        f"{self.label} has schema version {version}",
                        expected=f"version {_schema.SCHEMA_VERSION}",
                        remedy="use the docendo version that wrote it, or another file",
                    )
        except DocendoError:
            self.close()
            raise

    def _use_wal(self) -> None:
        with self._lock:
            try:
                mode = self._connect().exec_driver_sql("PRAGMA journal_mode").scalar()
                if mode != "wal":
                    mode = self._connect().exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
            except SQLAlchemyError as error:
                raise self._explain(error) from error
        if mode != "wal":
            raise StorageError(
                f"cannot use {self.label}: SQLite has no write-ahead log there; choose a local disk"
            )

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Begins a write transaction: it commits at the end of the block and rolls back on an error.

        Blocks nest within a thread, so several stores can write together: an inner block that fails is
        undone by itself, and nothing is on disk before the outermost block ends. Other threads and
        processes wait, so keep blocks short and never `await` inside one.

        Raises:
            StorageError: if the disk is full, the file read-only or locked for long, naming the path.
            IntegrityError: if the database is damaged.
        """
        with self._lock, self._scope(write=True) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Begins a read transaction: all reads in the block see one state of the database.

        Inside `transaction()` it sees what that has written so far.
        """
        with self._lock, self._scope(write=False) as connection:
            yield connection

    @contextmanager
    def _scope(self, *, write: bool) -> Iterator[sa.Connection]:
        if self._unusable:
            raise StorageError(self._unusable)
        if self._depth and self._broken is not None:
            raise self._broken
        if write and self.read_only:
            raise StorageError(
                f"cannot write {self.label}: it was opened read-only; open it without read_only=True"
            )
        if self._depth and write and not self._writing:
            raise StorageError(f"cannot write {self.label} inside reading(); use transaction() around both")
        try:
            with self._nested(write) if self._depth else self._outermost(write) as connection:
                yield connection
        except SQLAlchemyError as error:
            explained = self._explain(error)
            if self._depth:
                # SQLite may have rolled everything back by now, so the outer block must not commit.
                self._broken = explained
            raise explained from error

    @contextmanager
    def _outermost(self, write: bool) -> Iterator[sa.Connection]:
        connection = self._connect()
        self._begin(connection, write)
        self._depth, self._writing, self._broken = 1, write, None
        try:
            yield connection
            if self._broken is not None:
                raise self._broken
            connection.exec_driver_sql("COMMIT")
        except BaseException as error:
            with suppress(SQLAlchemyError):
                connection.exec_driver_sql("ROLLBACK")
            if isinstance(error, SQLAlchemyError) or self._broken is not None:
                self._disconnect()
            raise
        finally:
            self._depth, self._broken = 0, None

    @contextmanager
    def _nested(self, write: bool) -> Iterator[sa.Connection]:
        connection = self._connect()
        if not write:
            yield connection
            return
        point = f"docendo_{self._depth}"
        connection.exec_driver_sql(f"SAVEPOINT {point}")
        self._depth += 1
        try:
            yield connection
            connection.exec_driver_sql(f"RELEASE SAVEPOINT {point}")
        except BaseException:
            with suppress(SQLAlchemyError):
                connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {point}")
                connection.exec_driver_sql(f"RELEASE SAVEPOINT {point}")
            raise
        finally:
            self._depth -= 1

    def _begin(self, connection: sa.Connection, write: bool) -> None:
        if not self._sqlite:
            connection.exec_driver_sql(
                "BEGIN" if write else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            )
            if write:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            return
        # A deferred transaction that starts to write after reading fails at once if another process
        # wrote in between, so writers take the lock first. The busy timeout does not cover the moment
        # in which another process removes or recovers the log; nothing has happened yet, so try again.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
                return
            except DBAPIError as error:
                busy = _sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
                if not busy or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            try:
                self._connection = self._engine.connect()
            except SQLAlchemyError as error:
                raise self._explain(error) from error
        return self._connection

    def _disconnect(self) -> None:
        """Drops the connection after a failure; an in-memory database lives in it and keeps it."""
        if self._connection is not None and not self._memory:
            connection, self._connection = self._connection, None
            with suppress(SQLAlchemyError):
                connection.close()

    def _explain(self, error: SQLAlchemyError) -> DocendoError:
        """Says what happened, to which file, and what to do."""
        code = _sqlite_code(error)
        reason = str(getattr(error, "orig", None) or error).split("\n", maxsplit=1)[0]
        if code == sqlite3.SQLITE_FULL:
            return StorageError(f"cannot write {self.label}: the disk is full; free space and resume")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return StorageError(
                f"cannot write {self.label}: it is read-only; make the file and its folder writable"
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
            return StorageError(
                f"cannot use {self.label}: another process has kept it locked for {BUSY_SECONDS:.0f} s; "
                "end that process and resume"
            )
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            return StorageError(
                f"cannot use {self.label}: {reason}; check free space, file size limits and permissions, "
                "then resume"
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return IntegrityError(f"{self.label} is damaged or not a database ({reason}); restore a backup")
        if isinstance(error, sa.exc.IntegrityError):
            return IntegrityError(
                f"{self.label} refused a row ({reason}); check it with `docendo board verify`"
            )
        return StorageError(f"cannot use {self.label}: {reason}")

    def insert_new(self, connection: sa.Connection, table: sa.Table, *rows: dict[str, Any]) -> None:
        """Inserts rows and leaves those alone whose key is stored already."""
        if not rows:
            return
        from sqlalchemy.dialects import postgresql, sqlite

        insert = sqlite.insert(table) if self._sqlite else postgresql.insert(table)
        connection.execute(insert.on_conflict_do_nothing(), list(rows))

    @property
    def writable(self) -> bool:
        """Whether this thread could begin `transaction()` now: not read-only, nor inside `reading()`."""
        with self._lock:
            return not self.read_only and (not self._depth or self._writing)

    def check(self) -> tuple[str, ...]:
        """Returns what the database itself says is wrong with it: nothing if its structure is sound.

        SQLite walks all pages and compares every index with its table. It does not see a changed value;
        the digests of the rows do (`Blackboard.verify`).
        """
        if not self._sqlite:
            return ()
        try:
            with self.reading() as connection:
                lines = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(20)")]
        except IntegrityError as error:
            return (str(error),)
        return tuple(line for line in lines if line != "ok")

    def close(self) -> None:
        """Closes the connection. Closing twice does nothing; using it afterwards is a StorageError."""
        with self._lock:
            if self._depth:
                raise StorageError(f"cannot close {self.label} inside a transaction")
            if self._connection is not None:
                with suppress(SQLAlchemyError):
                    self._connection.close()
                self._connection = None
            self._engine.dispose()
            if not self._unusable:
                self._unusable = f"cannot use {self.label}: it was closed; open it again"
        _open_databases.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Database({self.label!r})"

    def _before_fork(self) -> None:
        self._fork_lock_held = self._lock.acquire(timeout=BUSY_SECONDS)
        if self._fork_lock_held and not self._depth:
            self._disconnect()

    def _after_fork(self, *, child: bool) -> None:
        held, self._fork_lock_held = self._fork_lock_held, False
        if not child:
            if held:
                self._lock.release()
            return
        if self._connection is not None:
            # Forked in the middle of a transaction, or in memory. The handle belongs to the parent;
            # closing it here could remove the parent's log, so it is kept and never used.
            _inherited.append(self._connection)
            self._connection, self._depth = None, 0
            self._unusable = (
                f"cannot use {self.label}: the process was forked while it was in use; open it again"
            )
        self._lock = threading.RLock()


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking: list[Database] = []
_inherited: list[sa.Connection] = []


def _before_fork() -> None:
    _forking.extend(sorted(_open_databases, key=id))
    for database in _forking:
        database._before_fork()


def _after_fork(*, child: bool) -> None:
    for database in _forking:
        database._after_fork(child=child)
    _forking.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=lambda: _after_fork(child=False),
    after_in_child=lambda: _after_fork(child=True),
)


def _url(url_or_path: str | Path) -> sa.URL:
    text = str(url_or_path)
    if not text:
        raise ConfigError("the database path is empty", expected="a file path or a database URL")
    if "\x00" in text:
        raise ConfigError("the database path holds a NUL character", expected="a file path or a database URL")
    if isinstance(url_or_path, Path) or "://" not in text:
        return sa.URL.create("sqlite", database=text)
    expected = "a path, sqlite:///file or postgresql+psycopg://user@host/name"
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("the database URL cannot be read", expected=expected) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"the database URL starts with {url.drivername}", expected=expected)
    return url


def _server_engine(url: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    except (ImportError, NoSuchModuleError) as error:
        raise ConfigError(
            f"the driver of {url.drivername} is not installed ({error})",
            remedy="install it, for example: pip install 'psycopg[binary]'",
        ) from error


def _sqlite_engine(target: str, *, uri: bool = False) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        # Without an isolation level Python leaves transactions alone; `Database` begins and ends them.
        handle = sqlite3.connect(
            target, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
        )
        # A flipped bit can make text invalid. Read it anyway: the row's digest then names the row.
        handle.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        for setting in ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF", "cell_size_check=ON"):
            handle.execute(f"PRAGMA {setting}")
        return handle

    return sa.create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def _sqlite_code(error: SQLAlchemyError) -> int:
    """Returns SQLite's primary result code, or 0."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return int(code) & 0xFF
