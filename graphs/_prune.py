"""Deleting runs: a folder is renamed and then deleted, a shared database is changed in one transaction."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from docendo.errors import ConfigError, ResumeError, StorageError
from docendo.files import sync_directory
from docendo.graphs._manage import RunInfo, find_run, list_runs, opened
from docendo.hashing import digest
from docendo.memory import DATABASE, Removed, RunStore, prune
from docendo.records import Record, Trace

#: How a folder is called between its renaming and its end; the next pruning finishes what a kill left.
_DOOMED = ".pruned-"
#: What a run writes into its folder; one with other files in it is left alone.
_FILES = frozenset({"config.json", "items.jsonl", "summary.json", "report.html"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned(Record):
    """A run that was pruned, or would be.

    Attributes:
        run: Its name.
        status: What it was.
        folder: The folder that goes with everything in it, or "".
        bytes: How large that is.
        database: The database, where others have runs too and it stays, or "".
        removed: What is taken out of that database, and how many posts stay.
    """

    run: str
    status: str
    folder: str = ""
    bytes: int = 0
    database: str = ""
    removed: Removed | None = None


def prune_runs(
    where: str | Path = "runs",
    *,
    names: Collection[str] = (),
    status: Collection[str] = (),
    older_than: float | None = None,
    keep: int | None = None,
    dry: bool = True,
) -> list[Pruned]:
    """Deletes runs for good; by default only says which.

    A run whose database lies in its folder goes with the folder. From a database that several runs share
    its outcomes, traces and calls are taken; its posts stay, because a board is one chain, and so does its
    name. Runs that a living process works on are left alone.

    Args:
        where: As for `list_runs`.
        names: Only these runs; without it, all that the other conditions fit.
        status: Only with one of these statuses.
        older_than: Only those started more than so many seconds ago.
        keep: Leave the newest so many alone, of those that the other conditions fit.
        dry: Change nothing.

    Raises:
        ConfigError: if there is no condition.
        DataError: if a named run does not exist.
        ResumeError: if a named run is running.
        StorageError: if a folder cannot be deleted.
    """
    if not names and not status and older_than is None and keep is None:
        raise ConfigError("nothing says which runs to prune", expected="names, a status, an age or a number")
    if keep is not None and keep < 0:
        raise ConfigError(f"keep is {keep}", expected="0 or more")
    found = list_runs(where)
    for name in names:
        if name not in {info.run for info in found}:
            find_run(name, where)  # says which there are
    if not dry:
        _finish_earlier(where)
    chosen = [info for info in found if _fits(info, names, status, older_than)]
    if keep is not None:
        chosen = chosen[: max(0, len(chosen) - keep)]
    pruned = []
    gone: set[str] = set()
    for info in chosen:
        if info.database in gone:
            continue  # went with the folder of another
        done = _folder(info, found, dry) if _owns_folder(info) else _rows(info, where, dry)
        gone |= {info.database} if done.folder and not done.database else set()
        pruned.append(done)
    return pruned


def _fits(info: RunInfo, names: Collection[str], status: Collection[str], older_than: float | None) -> bool:
    if names and info.run not in names:
        return False
    if status and info.status not in status:
        return False
    if older_than is not None and not (info.started and time.time() - info.started > older_than):
        return False
    if info.status == "running":
        if names:
            raise ResumeError(
                f"run {info.run!r} is running in {info.holder}", remedy="end that process before pruning it"
            )
        return False
    return True


def _owns_folder(info: RunInfo) -> bool:
    """Whether the database lies in the run's own folder, so that both go together."""
    path = Path(info.database)
    return "://" not in info.database and path.name == DATABASE and path.parent.name == info.run


def _folder(info: RunInfo, found: Sequence[RunInfo], dry: bool) -> Pruned:
    folder = Path(info.database).parent
    for other in found:
        if other.database == info.database and other.status == "running":
            raise ResumeError(
                f"run {other.run!r} in {folder} is running in {other.holder}",
                remedy="end that process before pruning it",
            )
    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
    done = Pruned(run=info.run, status=info.status, folder=str(folder), bytes=size)
    if not dry:
        if info.status != "unreadable":
            _claim(info)
        _delete(folder)
    return done


def _claim(info: RunInfo) -> None:
    """Takes the runs in a folder, so that no other process goes on with one while it is being deleted."""
    with opened(Path(info.database), write=True) as database, database.transaction():
        runs = RunStore(database)
        for row in runs.list():
            runs.claim(row.run)


def _rows(info: RunInfo, where: str | Path, dry: bool) -> Pruned:
    source = str(where) if "://" in str(where) else Path(info.database)
    with opened(source, write=not dry) as database:
        removed = prune(database, info.run, call_key=_call_key, dry=dry)
    folder = Path(info.folder) if info.folder and _is_run_folder(Path(info.folder), info.run) else None
    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) if folder else 0
    if folder is not None and not dry:
        _delete(folder)
    return Pruned(
        run=info.run,
        status=info.status,
        folder=str(folder or ""),
        bytes=size,
        database=info.database,
        removed=removed,
    )


def _call_key(trace: Trace) -> str:
    """The journal's key of the call that a trace came from, as `RunContext.ask` makes it."""
    author = trace.author
    return digest("generate", author.model, author.adapter, list(trace.messages), trace.sampling)


def _is_run_folder(folder: Path, run: str) -> bool:
    """Whether a folder is a run's and nothing else: what a stored path points to is not trusted blindly."""
    return folder.name == run and folder.is_dir() and {file.name for file in folder.iterdir()} <= _FILES


def _delete(folder: Path) -> None:
    """Renames and then deletes, so that a run is there whole or not at all."""
    doomed = folder.parent / f"{_DOOMED}{folder.name}-{uuid.uuid4().hex[:8]}"
    try:
        os.rename(folder, doomed)
        sync_directory(folder.parent)
        shutil.rmtree(doomed)
    except OSError as error:
        raise StorageError(
            f"cannot delete {folder}: {error.strerror or error}; make its folder writable and prune again"
        ) from error


def _finish_earlier(where: str | Path) -> None:
    """Deletes folders that an earlier pruning had renamed when it was killed."""
    if "://" in str(where) or not Path(where).is_dir():
        return
    for doomed in Path(where).glob(f"{_DOOMED}*"):
        try:
            shutil.rmtree(doomed)
        except FileNotFoundError:
            continue  # another process does the same
        except OSError as error:
            raise StorageError(
                f"cannot delete {doomed}: {error.strerror or error}; make its folder writable"
            ) from error
