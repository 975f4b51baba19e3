"""One database, many stores: connections, transactions, waiting for changes.

SQLite is the default. It runs in WAL mode with `synchronous=FULL`, so a write that has returned is on
disk. PostgreSQL (psycopg 3) goes through the same SQLAlchemy Core statements and serves many machines.
Either way there is one writer at a time: numbering without gaps and hash chains need it, and a write
takes a millisecond.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from docendo.errors import ConfigError, DataError, DocendoError, IntegrityError, StorageError
from docendo.memory.storage import _changes, _schema
from docendo.memory.storage._commits import Commits
from docendo.memory.storage._engines import read_url, server_engine, server_label, sqlite_engine
from docendo.memory.storage._failures import explain, is_lost, may_pass, sqlite_code

BUSY_SECONDS = 30.0
# How long a server that was there before may be away, as it is while it restarts.
_PATIENCE_SECONDS = 10.0
# Serialises writers on PostgreSQL. Any constant does; this one is the bytes of "docendo".
_ADVISORY_LOCK = 0x646F63656E646F


#: Name of the database in a run's folder.
DATABASE = "docendo.db"


class Database:
    """A database that several stores share.

    One connection per process serves all threads in turn. It is closed before a `fork` and opened again
    on either side, because neither SQLite's locks nor a server's connection survive being inherited. A
    connection that a server closed is made again when it is next used; only the transaction that was on
    its way fails.

    Attributes:
        path: The SQLite file, or None (in memory, or a server).
        label: How errors call it: the path, or the URL without its password.
        read_only: Whether writing is refused.

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
        self._owner = 0  # the thread that is in a transaction, while one is
        self._committing = False
        self._known = False  # whether a server has answered before
        self._changes = _changes.Changes(self._source())
        self._commits = Commits(path) if path is not None else None
        _open_databases.add(self)

    @classmethod
    def open(cls, url_or_path: str | Path, *, create: bool = True, read_only: bool = False) -> Self:
        """Opens a database and creates its tables if there are none.

        Args:
            url_or_path: A file path, `:memory:`, `sqlite:///file` or `postgresql://user@host/name`, where
                the database has to exist.
            create: Whether a file that does not exist is created (with its folder), and missing tables are.
            read_only: Opens for reading alone, which also works on a read-only disk or a standby server.

        Raises:
            ConfigError: if the URL cannot be used.
            MissingExtra: if it names a server and psycopg is not installed.
            DataError: if the file does not exist and is not to be created, or holds no docendo tables.
            StorageError: if it cannot be opened, created or reached, naming the path or the server.
            IntegrityError: if the file is not a database or is damaged.
        """
        url = read_url(url_or_path)
        if url.get_backend_name() != "sqlite":
            database = cls(server_engine(url), label=server_label(url), path=None, read_only=read_only)
            database._prepare(create and not read_only)
            return database
        if url.database in (None, "", ":memory:"):
            engine = sqlite_engine(":memory:", busy_seconds=BUSY_SECONDS)
            database = cls(engine, label=":memory:", path=None)
            database._prepare(True)
            return database
        path = Path(str(url.database)).expanduser().absolute()
        if path.is_dir():
            raise DataError(f"{path} is a folder", expected="a database file")
        if (read_only or not create) and not path.exists():
            raise DataError(f"there is no database at {path}", remedy="check the path")
        if read_only:
            return cls._open_read_only(path)
        database = cls(sqlite_engine(str(path), busy_seconds=BUSY_SECONDS), label=str(path), path=path)
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
        engine = sqlite_engine(f"{path.as_uri()}?{mode}", uri=True, busy_seconds=BUSY_SECONDS)
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
        noted = self._commits.noted() if self._commits else 0
        try:
            if create and self._sqlite and not self._memory:
                self._use_wal()
            with self.transaction() if create else self.reading() as connection:
                self._require_unicode(connection)
                if sa.inspect(connection).has_table(_schema.meta.name):
                    version = connection.scalar(
                        sa.select(_schema.meta.c.value).where(_schema.meta.c.name == "schema")
                    )
                elif create:
                    version = str(_schema.SCHEMA_VERSION)
                    _schema.metadata.create_all(connection)
                    connection.execute(_schema.meta.insert().values(name="schema", value=version))
                    if self._commits:
                        self._commits.begin(connection)
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
                if self._commits:
                    self._commits.check(connection, noted)
        except DocendoError:
            self.close()
            raise

    def _require_unicode(self, connection: sa.Connection) -> None:
        if self._sqlite:
            return
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise ConfigError(
                f"the database {self.label} has the encoding {encoding}",
                expected="UTF8",
                remedy="create it with: createdb --encoding=UTF8 --template=template0",
            )

    def _use_wal(self) -> None:
        with self._lock:
            try:
                mode = self._connect().exec_driver_sql("PRAGMA journal_mode").scalar()
                if mode != "wal":
                    mode = self._connect().exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
            except (SQLAlchemyError, UnicodeDecodeError) as error:
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
        except (SQLAlchemyError, UnicodeDecodeError) as error:
            # Python cannot read SQLite's message where the message quotes a damaged schema.
            explained = self._explain(error)
            if self._depth:
                # SQLite may have rolled everything back by now, so the outer block must not commit.
                self._broken = explained
            raise explained from error

    @contextmanager
    def _outermost(self, write: bool) -> Iterator[sa.Connection]:
        connection = self._begun(write)
        self._depth, self._writing, self._broken, self._committing = 1, write, None, False
        self._owner = threading.get_ident()
        written = self._written(connection)
        try:
            yield connection
            if self._broken is not None:
                raise self._broken
            self._committing = write
            counted = 0
            if self._commits and write and self._written(connection) != written:
                counted = self._commits.bump(connection)
            self._commit(connection, write)
            self._committing = False
            if self._commits and counted:
                self._commits.note(counted)
        except BaseException as error:
            try:
                connection.exec_driver_sql("ROLLBACK")
                lost = isinstance(error, SQLAlchemyError) or self._broken is not None
            except SQLAlchemyError:
                lost = True
            if lost:
                self._disconnect()
            raise
        finally:
            self._depth, self._broken = 0, None
        if self._written(connection) != written:
            self._changes.committed(count=self._memory)

    def _written(self, connection: sa.Connection) -> int:
        """Counts the rows written so far through this connection; a server tells of them by itself."""
        driver: Any = connection.connection.driver_connection if self._sqlite else None
        return int(driver.total_changes) if driver is not None else 0

    def _commit(self, connection: sa.Connection, write: bool) -> None:
        if write and not self._sqlite:
            # Told only if something was written, and by the server only if it is committed.
            connection.exec_driver_sql(
                f"SELECT pg_notify('{_changes.CHANNEL}', '') "
                "WHERE txid_current_if_assigned() IS NOT NULL; COMMIT"
            )
        else:
            connection.exec_driver_sql("COMMIT")

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

    def _begun(self, write: bool) -> sa.Connection:
        """Returns the connection with a transaction begun; makes it anew if the server has closed it."""
        while True:
            used = self._connection is not None and not self._sqlite
            connection = self._connect()
            try:
                self._begin(connection, write)
                return connection
            except BaseException as error:
                self._disconnect()
                if not (used and isinstance(error, SQLAlchemyError) and is_lost(error)):
                    raise

    def _begin(self, connection: sa.Connection, write: bool) -> None:
        if not self._sqlite:
            # All in one message. Under "read committed" each statement sees what was committed before it:
            # with the writers' lock, that is all that was ever written.
            connection.exec_driver_sql(
                "BEGIN ISOLATION LEVEL READ COMMITTED; "
                f"SET LOCAL lock_timeout = {round(BUSY_SECONDS * 1000)}; "
                f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"
                if write
                else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            )
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
                busy = sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
                if not busy or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._new_connection(_PATIENCE_SECONDS)
        return self._connection

    def _new_connection(self, patience: float) -> sa.Connection:
        """Connects; a server that has answered before gets some seconds to come back."""
        deadline = time.monotonic() + (patience if self._known else 0.0)
        while True:
            try:
                connection = self._engine.connect()
                self._known = True
                return connection
            except (SQLAlchemyError, UnicodeDecodeError) as error:
                if self._sqlite or not may_pass(error) or time.monotonic() >= deadline:
                    raise self._explain(error) from error
            time.sleep(0.1)

    def _disconnect(self) -> None:
        """Drops the connection after a failure; an in-memory database lives in it and keeps it."""
        if self._connection is not None and not self._memory:
            connection, self._connection = self._connection, None
            with suppress(SQLAlchemyError):
                connection.close()

    def _explain(self, error: Exception) -> DocendoError:
        """Says what happened, to which database, and what to do."""
        committing, self._committing = self._committing, False
        return explain(error, self.label, busy_seconds=BUSY_SECONDS, committing=committing)

    def now(self) -> float:
        """Returns the database's clock, in seconds since 1970; a server's is the same for all machines.

        Example:
            >>> with Database.open(":memory:") as database:
            ...     database.now() > 1.7e9
            True
        """
        if self._sqlite:
            return time.time()
        with self.reading() as connection:
            query = "SELECT extract(epoch FROM clock_timestamp())::float8"
            return float(connection.exec_driver_sql(query).scalar_one())

    def mark(self) -> int:
        """Returns a mark for `wait`: take it, look at the database, then wait.

        Raises:
            StorageError: if the database cannot be used.
        """
        with self._watching():
            return self._changes.mark()

    def wait(self, mark: int, seconds: float | None = None) -> bool:
        """Waits until somebody has committed something since `mark` was taken.

        Somebody is another thread, process or machine, or this thread itself. What was committed between
        `mark` and `wait` counts, so nothing is missed; now and then the answer is True although there is
        nothing new. Each waiting thread has its own mark. Never call it inside a transaction.

        Args:
            mark: What `mark()` returned before the database was looked at.
            seconds: How long to wait at most; None waits for ever.

        Returns:
            False if nothing was committed for `seconds`.

        Raises:
            StorageError: if the database cannot be used, or is closed meanwhile.

        Example:
            >>> from docendo.memory import Database, Journal
            >>> with Database.open(":memory:") as database:
            ...     mark = database.mark()
            ...     stored = Journal(database).put("call-1", {"text": "4"})
            ...     database.wait(mark, 5.0), database.wait(database.mark(), 0.01)
            (True, False)
        """
        if self._depth and self._owner == threading.get_ident():
            raise StorageError(f"cannot wait for changes of {self.label} inside a transaction; wait outside")
        with self._watching():
            return self._changes.wait(mark, seconds)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if self._unusable:
            raise StorageError(self._unusable)
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise explain(error, self.label, busy_seconds=BUSY_SECONDS) from error
        if self._unusable:
            raise StorageError(self._unusable)

    def _source(self) -> _changes.Source:
        if self._memory:
            return _changes.MemorySource()
        if self._sqlite:
            return _changes.FileSource(self._engine.raw_connection)
        return _changes.ServerSource(lambda left: self._new_connection(min(left, _PATIENCE_SECONDS)))

    def insert_new(self, connection: sa.Connection, table: sa.Table, *rows: dict[str, Any]) -> None:
        """Inserts rows and leaves those alone whose key is stored already."""
        if not rows:
            return
        connection.execute(_insert_new(table, self._engine.dialect.name), list(rows))

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
        noted = self._commits.noted() if self._commits else 0
        try:
            with self.reading() as connection:
                if self._commits:
                    self._commits.check(connection, noted)
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
            if not self._unusable:
                self._unusable = f"cannot use {self.label}: it was closed; open it again"
            self._changes.close()
            self._engine.dispose()
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
        self._changes.before_fork()

    def _after_fork(self, *, child: bool) -> None:
        held, self._fork_lock_held = self._fork_lock_held, False
        self._changes.after_fork(child=child)
        if not child:
            if held:
                self._lock.release()
            return
        if self._connection is not None:
            # Forked in the middle of a transaction, or in memory. The handle belongs to the parent;
            # closing it here could remove the parent's log, so it is kept and never used.
            _inherited.append(self._connection)
            if not self._sqlite:
                _changes.cut(self._connection)
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


@cache
def _insert_new(table: sa.Table, dialect: str) -> Any:
    """Built once per table: building a statement takes longer than running it."""
    from sqlalchemy.dialects import postgresql, sqlite

    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return insert.on_conflict_do_nothing()
