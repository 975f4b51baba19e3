"""A PostgreSQL server that tests start, stop, kill and throw away.

It listens on a Unix socket in a folder of its own, where everybody is let in, and on a loopback port, where
a password is asked for. `tests/conftest.py` loads this file.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

USER = "docendo"


def programs() -> Path | None:
    """The folder of the server's programs, the newest version first; None if there is none."""
    in_path = shutil.which("initdb")
    found = [Path(in_path).resolve().parent] if in_path else []
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found += [
        file.parent for file in sorted(installed, key=lambda file: float(file.parents[1].name), reverse=True)
    ]
    return next((folder for folder in found if (folder / "postgres").exists()), None)


class Cluster:
    """A cluster in a temporary folder, with the server stopped until `start`."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder
        # Not below pytest's folder: that one is closed to the user that the server runs as, and a path to
        # a socket may be no longer than about 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="docendo-pg-"))
        self.port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._identity = _not_root()
        if self._identity:
            shutil.chown(self.folder, self._identity["user"], self._identity["group"])
        self._log = (self.folder / "server.log").open("ab")
        try:
            self._initialise()
        except BaseException:
            self.remove()
            raise

    def _initialise(self) -> None:
        options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", f"--username={USER}"]
        # A natural language's order of words, as most servers have: "a" before "B".
        wordy = ["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]
        for locale in (wordy, ["--locale=C.UTF-8"], ["--locale=C"]):
            done = self._run("initdb", *options, *locale, f"--pgdata={self.folder / 'data'}")
            if done.returncode == 0:
                return
        raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.programs / program), *arguments],
            **self._surroundings(),
            capture_output=True,
            text=True,
            check=False,
        )

    def _surroundings(self) -> dict[str, Any]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))
        }
        return {"env": {**kept, "LC_ALL": "C"}, "cwd": self.folder, **self._identity}

    def start(self, **settings: object) -> None:
        """Starts the server and waits until it answers; `settings` are those of postgresql.conf."""
        given = {
            "unix_socket_directories": self.folder,
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            # Tests kill processes, not the machine: what was written survives in the page cache.
            "fsync": "off",
            "autovacuum": "off",
        }
        options = [
            text for name, value in {**given, **settings}.items() for text in ("-c", f"{name}={value}")
        ]
        self._server = subprocess.Popen(
            [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options],
            **self._surroundings(),
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C in the terminal is pytest's
        )
        # No sleeping: the server says by itself when it is ready.
        ready = ["-h", str(self.folder), "-p", str(self.port), "-U", USER, "-d", "postgres", "-t", "1"]
        for _ in range(600):
            if self._run("pg_isready", *ready).returncode == 0:
                return
            if self._server.poll() is not None:
                break
            try:
                self._server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._server is not None and self._server.poll() is None

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT ends connections and shuts down, SIGQUIT stops it as a crash would."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(60)
            self._server = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops and starts the server."""
        self.stop(how)
        self.start()

    def remove(self) -> None:
        """Stops the server and deletes the cluster."""
        self.stop(signal.SIGQUIT)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """The URL of a database, through the socket."""
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={self.port}"

    def network_url(self, database: str, *, user: str, password: str) -> str:
        """The URL of a database, through the loopback port."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"


class Databases:
    """Makes and drops databases on a server, through a connection of its own to the database `postgres`."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("+psycopg", "", 1)
        self._made: list[str] = []
        self._free: list[str] = []

    def execute(self, *statements: str) -> list[Any]:
        """Runs statements as the administrator and returns the rows of the last one."""
        import psycopg

        with psycopg.connect(self._url, autocommit=True, application_name="docendo tests") as connection:
            rows: list[Any] = []
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[arg-type]
                rows = cursor.fetchall() if cursor.description else []
            return rows

    def create(self, options: str = "") -> str:
        """Makes an empty database and returns its name."""
        name = f"docendo_test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} {options}")
        self._made.append(name)
        return name

    def empty(self) -> str:
        """Returns the name of an empty database: one that was given back, or a new one."""
        return self._free.pop() if self._free else self.create()

    def give_back(self, name: str) -> None:
        """Closes all connections to a database and empties it.

        Dropping it instead would make the server write everything to disk, which takes a second.
        """
        self.execute(
            f"ALTER DATABASE {name} RESET ALL",
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        emptied = Databases(renamed(self._url, name))
        emptied.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        self._free.append(name)

    def drop_all(self) -> None:
        """Drops all databases made here, whoever is connected to them."""
        self.execute(*(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in self._made))
        self._made, self._free = [], []


def renamed(url: str, database: str) -> str:
    """A URL with another database's name in it."""
    return re.sub(r"^([a-z+]+://[^/]*/)[^?]*", rf"\g<1>{database}", url)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _not_root() -> dict[str, Any]:
    """What makes a process run as somebody else; PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")
