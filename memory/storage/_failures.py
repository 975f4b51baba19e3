"""What a database error means: which of docendo's errors it is, what happened, and what to do."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from docendo.errors import ConfigError, DataError, DocendoError, IntegrityError, StorageError

# Classes and codes are in appendix A of PostgreSQL's manual. Each message begins with "cannot use <label>: ".
_SERVER_CODES = {
    "25006": "it is read-only; connect to the primary server as a role that may write",
    "25P03": "the server ended a transaction that did nothing for long; resume, and keep transactions short",
    "40001": "another process changed the same rows; try again",
    "40P01": "another process waits for this one and the other way round; try again",
    "42501": "the role lacks a permission ({reason}); grant it",
    "42P01": "a table is missing ({reason}); it was dropped by somebody: restore a backup",
    "53100": "the server's disk is full; free space there and resume",
    "53200": "the server is out of memory; resume later",
    "53300": "the server has no free connections; close some, or raise max_connections",
    "57014": "the server stopped a statement that took too long ({reason}); resume, or raise its timeout",
    "58030": "the server cannot read or write its files ({reason}); look at its disk and resume",
}
# A refused connection comes without a code, as text in the server's language. These are English; in any
# other language the error still says what the server said.
_SERVER_REFUSALS = {
    "password authentication failed": "the server refused user and password; check them in the URL",
    "no password supplied": "the server asks for a password; put it into the URL, PGPASSWORD or ~/.pgpass",
    "no pg_hba.conf entry": "the server takes no connections from here ({reason}); allow them in pg_hba.conf",
    "starting up": "the server is starting; try again in a moment",
    "shutting down": "the server is shutting down; start it again and resume",
    "too many clients": "the server has no free connections; close some, or raise max_connections",
    "remaining connection slots": "the server has no free connections; close some, or raise max_connections",
}


def explain(error: Exception, label: str, *, busy_seconds: float, committing: bool = False) -> DocendoError:
    """Returns docendo's error for one of SQLAlchemy, sqlite3 or psycopg.

    Args:
        label: What the database is called.
        busy_seconds: How long was waited for a lock.
        committing: Whether it happened while a transaction was being committed.
    """
    origin = getattr(error, "orig", None) or error
    reason = str(origin).split("\n", maxsplit=1)[0]
    found = _sqlite(sqlite_code(error), label, reason, busy_seconds)
    if found is None and hasattr(origin, "sqlstate"):
        found = _server(error, label, reason, busy_seconds, committing)
    if found is not None:
        return found
    if isinstance(error, UnicodeDecodeError):
        return IntegrityError(f"{label} is damaged (its schema is not UTF-8); restore a backup")
    if isinstance(error, sa.exc.IntegrityError):
        return IntegrityError(f"{label} refused a row ({reason}); check it with `docendo board verify`")
    return StorageError(f"cannot use {label}: {reason}")


def sqlite_code(error: Exception) -> int:
    """Returns SQLite's primary result code, or 0."""
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    return int(code or 0) & 0xFF


def is_lost(error: Exception) -> bool:
    """Whether a server's connection is gone, rather than one statement refused."""
    if getattr(error, "connection_invalidated", False):
        return True
    code = getattr(getattr(error, "orig", None) or error, "sqlstate", "") or ""
    return code[:2] == "08" or code in ("57P01", "57P02", "57P03", "57P05", "25P03")


def may_pass(error: Exception) -> bool:
    """Whether a connection that was refused may work in a moment: the server is away or is starting."""
    text = str(getattr(error, "orig", None) or error)
    lasting = ("authentication", "does not exist", "pg_hba.conf", "no password", "certificate")
    return not any(word in text for word in lasting)


def _sqlite(code: int, label: str, reason: str, busy_seconds: float) -> DocendoError | None:
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"cannot write {label}: the disk is full; free space and resume")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageError(f"cannot write {label}: it is read-only; make the file and its folder writable")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return _locked(label, busy_seconds)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return StorageError(
            f"cannot use {label}: {reason}; check free space, file size limits and permissions, then resume"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return IntegrityError(f"{label} is damaged or not a database ({reason}); restore a backup")
    return None


def _locked(label: str, busy_seconds: float) -> StorageError:
    return StorageError(
        f"cannot use {label}: another process has kept it locked for {busy_seconds:.0f} s; "
        "end that process and resume"
    )


def _server(
    error: Exception, label: str, reason: str, busy_seconds: float, committing: bool
) -> DocendoError | None:
    code = str(getattr(getattr(error, "orig", None) or error, "sqlstate", None) or "")
    if code == "55P03":
        return _locked(label, busy_seconds)
    if is_lost(error):
        unknown = (
            "whether the last write was stored is not known, so write it again (it is stored once)"
            if committing
            else "nothing of the last transaction was stored; resume"
        )
        return StorageError(f"cannot use {label}: the connection was lost ({reason}); {unknown}")
    if code in _SERVER_CODES:
        return StorageError(f"cannot use {label}: {_SERVER_CODES[code].format(reason=reason)}")
    if code in ("XX001", "XX002"):
        return IntegrityError(f"{label} is damaged ({reason}); restore a backup")
    if code == "54000":
        return DataError(f"{label} cannot index a name or key of this length ({reason})", expected="less")
    if code[:2] == "22" or (not code and isinstance(error, sa.exc.DataError)):
        return DataError(f"{label} cannot store a value ({reason})", expected="text without NUL characters")
    return None if code else _refused(str(getattr(error, "orig", None) or error), label, reason)


def _refused(text: str, label: str, reason: str) -> DocendoError | None:
    """The error of a connection that was not made. libpq tries all addresses; the first says enough."""
    if 'database "' in text and "does not exist" in text:
        return DataError(f"there is no database at {label}", remedy="create it (createdb), or check the name")
    if 'role "' in text and "does not exist" in text:
        return ConfigError(f"cannot use {label}: the server does not know the user", remedy="check the URL")
    for said, meaning in _SERVER_REFUSALS.items():
        if said in text:
            return StorageError(f"cannot use {label}: {meaning.format(reason=reason)}")
    if "connection" in text:
        return StorageError(
            f"cannot reach {label} ({reason}); check that the server runs and that host and port are right"
        )
    return None
