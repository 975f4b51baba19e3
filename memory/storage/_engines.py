"""From a path or a URL to a SQLAlchemy engine, for the two backends that `Database` has.

Transactions are begun and ended by `Database` itself, so engines are in autocommit mode, and they keep
no connections: a `Database` holds exactly one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from docendo.errors import ConfigError, MissingExtra

_EXPECTED = "a path, sqlite:///file or postgresql://user@host/name"
_SERVER_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
# Settings of libpq, each unless the URL has its own. Without the last four a peer that vanished (a cable,
# a firewall) would be noticed after hours.
_SERVER_DEFAULTS = {
    "application_name": "docendo",
    "connect_timeout": "10",
    "client_encoding": "utf8",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


def read_url(url_or_path: str | Path) -> sa.URL:
    """Returns the URL of a path or a URL: its driver name is `sqlite` or `postgresql+psycopg`.

    Raises:
        ConfigError: if it cannot be used.

    Example:
        >>> read_url("memory.db").drivername, read_url("postgresql://host/name").drivername
        ('sqlite', 'postgresql+psycopg')
    """
    text = str(url_or_path)
    if not text:
        raise ConfigError("the database path is empty", expected="a file path or a database URL")
    if "\x00" in text:
        raise ConfigError("the database path holds a NUL character", expected="a file path or a database URL")
    if isinstance(url_or_path, Path) or "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("the database URL cannot be read", expected=_EXPECTED) from error
    if url.drivername in _SERVER_SCHEMES:
        return url.set(drivername="postgresql+psycopg")
    backend = url.get_backend_name()
    if backend == "postgresql":
        raise ConfigError(
            f"the driver of {url.drivername} is not supported", expected="postgresql:// (psycopg 3)"
        )
    if backend != "sqlite":
        raise ConfigError(f"the database URL starts with {url.drivername}", expected=_EXPECTED)
    return url


def server_label(url: sa.URL) -> str:
    """Returns what errors call a server's database: no password, and of the options the host alone.

    Example:
        >>> server_label(read_url("postgresql://ann:secret@db.example/lab?password=secret&sslmode=require"))
        'postgresql://ann@db.example/lab'
    """
    kept = {name: value for name, value in url.query.items() if name in ("host", "port")}
    shown = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, kept)
    return shown.render_as_string(hide_password=True).replace("%2F", "/")


def server_engine(url: sa.URL) -> sa.Engine:
    """Makes the engine of a PostgreSQL database.

    Raises:
        MissingExtra: if psycopg is not installed.
        ConfigError: if the URL cannot be used.
    """
    defaults = {name: value for name, value in _SERVER_DEFAULTS.items() if name not in url.query}
    try:
        return sa.create_engine(
            url.update_query_dict(defaults),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            use_native_hstore=False,  # else each first connection asks the server for a type we never use
        )
    except ImportError as error:
        raise MissingExtra("psycopg", "postgres") from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"the database URL cannot be used ({error})", expected=_EXPECTED) from error


def sqlite_engine(target: str, *, uri: bool = False, busy_seconds: float) -> sa.Engine:
    """Makes the engine of an SQLite file, or of `:memory:`."""

    def connect() -> sqlite3.Connection:
        # Without an isolation level Python leaves transactions alone; `Database` begins and ends them.
        handle = sqlite3.connect(
            target, timeout=busy_seconds, isolation_level=None, check_same_thread=False, uri=uri
        )
        # A flipped bit can make text invalid. Read it anyway: the row's digest then names the row.
        handle.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        # Rows are small because long values are stored apart, and a commit writes whole pages: with
        # pages of 2 KiB a post takes less of the disk, and less of the log.
        for setting in (
            "page_size=2048",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "cell_size_check=ON",
        ):
            handle.execute(f"PRAGMA {setting}")
        return handle

    return sa.create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")
