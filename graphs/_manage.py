"""Runs as things of their own: which there are, what became of them, where they are kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docendo.agents import RunContext
from docendo.errors import DataError, DocendoError
from docendo.graphs._run import Run
from docendo.memory import DATABASE, Database, RunRow, RunStore
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo(Record):
    """A run, as a list shows it.

    Attributes:
        run: Its name.
        graph: The graph's name or the recipe's id, "" if neither is known.
        status: As `RunRow.status`; "unreadable" where the database cannot be read.
        done: Items with an answer.
        failed: Items whose model failed.
        total: Items it was started with, or None if that is not known, as of a recipe.
        started: When it was started first, in seconds since 1970.
        seconds: Wall seconds that processes have worked on it.
        tokens: Tokens of prompts and answers.
        parent: The run that it was forked from, or "".
        holder: The process that works on it, or "".
        folder: Where its files are, or "" if it has none.
        database: Where it is stored: a path, or a URL without its password.
        problem: Why it is unreadable, or "".
    """

    run: str
    graph: str = ""
    status: str
    done: int = 0
    failed: int = 0
    total: int | None = None
    started: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    parent: str = ""
    holder: str = ""
    folder: str = ""
    database: str
    problem: str = ""


def list_runs(where: str | Path = "runs", *, pruned: bool = False) -> list[RunInfo]:
    """Lists the runs below a folder, or in one database, oldest first. Nothing is written.

    Args:
        where: A folder of run folders, one run folder, a database file, or a database URL.
        pruned: Also those of which only posts are left.

    Raises:
        DataError: if there is nothing at `where`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     list_runs(folder)
        []
    """
    found: list[RunInfo] = []
    for source in databases(where):
        try:
            with opened(source) as database:
                rows = RunStore(database).list()
                found += [_info(database, row) for row in rows if pruned or row.status != "pruned"]
        except DocendoError as error:
            if not isinstance(source, Path) or source.parent.parent != Path(where):
                raise
            # One damaged run must not hide the others.
            found.append(
                RunInfo(
                    run=source.parent.name,
                    status="unreadable",
                    folder=str(source.parent),
                    database=str(source),
                    problem=str(error),
                )
            )
    return sorted(found, key=lambda info: (info.started, info.run))


def databases(where: str | Path) -> list[str | Path]:
    """The databases that hold the runs at `where`.

    Raises:
        DataError: if there is nothing there.
    """
    if "://" in str(where):
        return [str(where)]
    path = Path(where)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(
            f"there is nothing at {path}", expected="a folder of runs, a database file or a database URL"
        )
    own = path / DATABASE
    if own.is_file():
        return [own]
    # Folders whose name starts with a dot are on their way in or out.
    below = [entry for entry in sorted(path.glob(f"*/{DATABASE}")) if not entry.parent.name.startswith(".")]
    return [*below, *(entry for entry in sorted(path.glob("*.db")) if _is_ours(entry))]


def _is_ours(path: Path) -> bool:
    """Whether a file beside the run folders is a docendo database, such as one that runs share."""
    try:
        Database.open(path, read_only=True).close()
    except DataError:
        return False
    except DocendoError:
        return True  # damaged: whoever opens it next says so
    return True


@contextmanager
def opened(source: str | Path, *, write: bool = False) -> Iterator[Database]:
    """Opens a database that exists; for reading alone unless it is to be written."""
    if isinstance(source, Path):
        with Database.open(source, create=False, read_only=not write) as database:
            yield database
    else:
        with Database.open(source, create=False) as database:
            yield database


def find_run(name: str, where: str | Path = "runs") -> tuple[str | Path, RunRow]:
    """Finds a run by its name; returns the database that holds it and its row.

    Raises:
        DataError: if there is none, or more than one.
    """
    held: list[tuple[str | Path, RunRow]] = []
    names: list[str] = []
    for source in databases(where):
        # In a folder of runs, the one whose folder has the name needs no look at the others.
        if isinstance(source, Path) and source.name == DATABASE and source.parent.name == name:
            with opened(source) as database:
                rows = RunStore(database).list()
                mine = [row for row in rows if row.run == name]
            if mine:
                return source, mine[0]
    for info in list_runs(where):
        names.append(info.run)
        if info.run == name and info.status != "unreadable":
            source = str(where) if "://" in str(where) else Path(info.database)
            with opened(source) as database:
                held.append((source, RunStore(database).get(name)))
    if len(held) == 1:
        return held[0]
    if held:
        places = ", ".join(str(source) for source, _ in held)
        raise DataError(
            f"{len(held)} runs are named {name!r} ({places})", remedy="name the database with --in"
        )
    known = ", ".join(names[-8:]) or "none"
    raise DataError(f"there is no run {name!r} at {where}", expected=f"one of those there are: {known}")


@contextmanager
def open_run(source: str | Path, row: RunRow) -> Iterator[Run]:
    """Opens a stored run for reading."""
    with opened(source) as database:
        folder = _folder(source, row)
        outcomes = RunStore(database).finished(row.run)
        yield Run(RunContext((), database, run=row.run), folder, outcomes, row.seconds, owner=False)


def describe_run(name: str, where: str | Path = "runs") -> dict[str, Any]:
    """What is known of a run, as JSON: configuration, outcomes, failures, usage, files.

    Raises:
        DataError: if there is no such run.
        IntegrityError: if what is stored of it is damaged.
    """
    source, row = find_run(name, where)
    with open_run(source, row) as stored:
        info = _info(stored.board.database, row)
        outcomes = stored.outcomes.values()
        folder = stored.folder
        return {
            **info.to_json(),
            "outcomes": dict(Counter(str(outcome.get("status")) for outcome in outcomes)),
            "solved": sum(bool(outcome.get("solved")) for outcome in outcomes),
            "failures": dict(Counter(str(o.get("error")) for o in outcomes if o.get("status") == "failed")),
            "usage": stored.usage(),
            "posts": stored.board.count(run=name),
            "traces": len(stored.traces()),
            "files": sorted(str(f) for f in folder.iterdir() if f.is_file()) if folder.is_dir() else [],
            "origin": dict(row.origin),
            "config": dict(row.config),
        }


def _info(database: Database, row: RunRow) -> RunInfo:
    outcomes = RunStore(database).finished(row.run).values()
    failed = sum(outcome.get("status") == "failed" for outcome in outcomes)
    items = row.config.get("items")
    launch = row.origin.get("launch")
    parent = row.origin.get("parent")
    folder = _folder(database.path or database.label, row)
    return RunInfo(
        run=row.run,
        graph=str(row.config.get("graph") or (launch or {}).get("what") or ""),
        status=row.status,
        done=len(outcomes) - failed,
        failed=failed,
        total=items.get("count") if isinstance(items, dict) else None,
        started=row.created,
        seconds=round(row.seconds, 3),
        tokens=_tokens(database, row, folder),
        parent=str((parent or {}).get("run", "")),
        holder=row.holder,
        folder=str(folder) if folder.is_dir() else "",
        database=database.label,
    )


def _folder(source: str | Path, row: RunRow) -> Path:
    """A run's folder: the one its database lies in, if it was moved, or the one it was started in."""
    if isinstance(source, Path) and source.name == DATABASE and source.parent.name == row.run:
        return source.parent
    return Path(str(row.origin.get("folder") or f"no folder of {row.run}"))


def _tokens(database: Database, row: RunRow, folder: Path) -> int:
    """From the summary of a finished run; else counted in its traces, which takes longer."""
    if row.status == "finished":
        try:
            usage = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["usage"]
            return sum(int(u["prompt_tokens"]) + int(u["generated_tokens"]) for u in usage.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
    used = Run(RunContext((), database, run=row.run), folder, {}, 0.0, owner=False).usage()
    return sum(u["prompt_tokens"] + u["generated_tokens"] for u in used.values())
