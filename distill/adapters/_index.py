"""The registry's one file: which adapters have which names, and where aliases point and pointed to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from docendo.errors import AdapterError, IntegrityError, StorageError
from docendo.files import write_json
from docendo.hashing import digest
from docendo.records import Record

INDEX = "registry.json"
_KIND = "adapter registry"
_FORMAT = 1
#: How long a writer waits for another one; copying an adapter takes well under a second.
BUSY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(Record):
    """An adapter under a name.

    Attributes:
        sha256: SHA-256 of its weights.
        added: When it was added, in UTC.
    """

    sha256: str
    added: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion(Record):
    """One move of an alias, as recorded.

    Attributes:
        alias: The alias, such as `student@prod`.
        sha256: The adapter that it points to from then on.
        action: "promote" or "rollback".
        at: When, in UTC.
        verdict: The evidence: what the comparison said, as JSON values; None if there was none.
        forced: Whether it was promoted without evidence that it is better.
        reason: Why it was forced or rolled back.
    """

    alias: str
    sha256: str
    action: Literal["promote", "rollback"]
    at: str
    verdict: Mapping[str, Any] | None = None
    forced: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What the file says. Immutable: a change makes a new one, which replaces the file.

    Attributes:
        names: Versions by name, oldest first.
        forks: What a name was forked from: the other name and the SHA-256.
        aliases: All moves of each alias, oldest first.
    """

    names: Mapping[str, tuple[Version, ...]] = field(default_factory=dict)
    forks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    aliases: Mapping[str, tuple[Promotion, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the index of a registry; an empty one if there is none yet.

        Raises:
            AdapterError: if the registry is no folder.
            IntegrityError: if the file is damaged.
        """
        file = folder / INDEX
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except NotADirectoryError:
            raise _no_folder(folder) from None
        except (OSError, ValueError) as error:
            raise _damaged(file, error) from error
        try:
            seal = plain.pop("sha256")
            if (plain["kind"], plain["format"]) != (_KIND, _FORMAT):
                raise ValueError(f"it holds {plain['kind']!r} of format {plain['format']!r}")
            if seal != digest(plain):
                raise ValueError("its own checksum differs")
            return cls(
                names={
                    name: tuple(Version(**one) for one in versions)
                    for name, versions in plain["names"].items()
                },
                forks=plain["forks"],
                aliases={
                    alias: tuple(Promotion(**one) for one in moves)
                    for alias, moves in plain["aliases"].items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(file, error) from error

    def write(self, folder: Path) -> None:
        """Replaces the file atomically, with a checksum of its own."""
        plain = {
            "kind": _KIND,
            "format": _FORMAT,
            "names": {
                name: [one.to_json() for one in versions] for name, versions in sorted(self.names.items())
            },
            "forks": dict(sorted(self.forks.items())),
            "aliases": {
                alias: [one.to_json() for one in moves] for alias, moves in sorted(self.aliases.items())
            },
        }
        write_json(folder / INDEX, {**plain, "sha256": digest(plain)})

    @property
    def adapters(self) -> tuple[str, ...]:
        """SHA-256 of every adapter that has a name, once each."""
        return tuple(dict.fromkeys(one.sha256 for versions in self.names.values() for one in versions))

    def names_of(self, sha256: str) -> tuple[str, ...]:
        """The names that an adapter has."""
        return tuple(
            name for name, versions in self.names.items() if any(one.sha256 == sha256 for one in versions)
        )

    def with_version(self, name: str, version: Version) -> Self:
        """With one more version of a name; one that the name has already keeps its place."""
        older = self.names.get(name, ())
        if any(one.sha256 == version.sha256 for one in older):
            return self
        return replace(self, names={**self.names, name: (*older, version)})

    def without(self, sha256: str, names: tuple[str, ...]) -> Self:
        """Without an adapter under some names; a name that has no other goes as well."""
        left = {
            name: tuple(one for one in versions if name not in names or one.sha256 != sha256)
            for name, versions in self.names.items()
        }
        return replace(
            self,
            names={name: versions for name, versions in left.items() if versions},
            forks={name: fork for name, fork in self.forks.items() if left[name]},
        )

    def stack(self, alias: str) -> tuple[str, ...]:
        """Where an alias can go back to, oldest first; the last is where it points now."""
        found: list[str] = []
        for move in self.aliases.get(alias, ()):
            if move.action == "rollback":
                found.pop()
            elif not found or found[-1] != move.sha256:
                found.append(move.sha256)
        return tuple(found)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one writer at a time change a registry, among threads and processes.

    Raises:
        AdapterError: if the registry is no folder.
        StorageError: if the folder cannot be written, or another writer holds it for too long.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The lock file stays: removing one that another process has just opened would let two in.
        lock = FileLock(folder / ".lock", timeout=BUSY_SECONDS)
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"another process has been writing {folder} for {BUSY_SECONDS:g} s; wait for it or stop it"
        ) from error
    except FileExistsError:
        raise _no_folder(folder) from None
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}; choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _no_folder(folder: Path) -> AdapterError:
    return AdapterError(f"{folder} is a file", expected="the folder of a registry")


def _damaged(file: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{file} is damaged ({error}); restore a copy of it, the adapters are beside it")
