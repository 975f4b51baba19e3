"""The registry of adapters: a folder that several processes may use at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.distill.adapters._adapter import Adapter, opened
from docendo.distill.adapters._evidence import plain_verdict, require_evidence
from docendo.distill.adapters._index import INDEX, Index, Promotion, Version, locked
from docendo.distill.adapters._lineage import require_unused
from docendo.distill.adapters._names import full_alias, parse_reference, require_name
from docendo.distill.adapters._reading import RegistryReader
from docendo.distill.adapters._store import OBJECTS, discard, keep
from docendo.errors import AdapterError
from docendo.records import Record

if TYPE_CHECKING:
    from docendo.memory import Database, Taint


class AdapterRegistry(RegistryReader):
    """Adapters by name on disk: copies that never change, aliases that move, and the record of every move.

    An adapter is kept once, under the SHA-256 of its weights, and checked against its manifest whenever it is
    read. A text names one: `student` is the newest under that name, `student@prod` what the alias points to,
    and at least 8 digits of a SHA-256 the adapter itself.

    Changes are made under a lock and appear by one rename, so a reader needs none and sees all of a change or
    nothing, also after a crash. The folder holds `registry.json` (names and aliases) and the adapters as PEFT
    folders, `objects/SHA256/`.

    Args:
        folder: Folder of the registry; made with the first adapter.

    Example:
        >>> registry = AdapterRegistry("registry")
        >>> registry.list()
        ()
        >>> registry.add("runs/round-1/adapter", "student")  # doctest: +SKIP
        >>> registry.promote("student", "prod", verdict=compare(before, after))  # doctest: +SKIP
        >>> registry.serve(engine, "student@prod", as_="student")  # doctest: +SKIP
    """

    def add(self, adapter: str | Path | Adapter, name: str) -> Adapter:
        """Keeps a copy of an adapter and makes it the newest under a name. Adding it again changes nothing.

        Args:
            adapter: An adapter, or its folder.
            name: Its name: letters, digits, dots, dashes and underscores.

        Returns:
            The copy in the registry.

        Raises:
            AdapterError: if the folder is no adapter, or the same weights are there with another origin.
            IntegrityError: if it does not match its manifest.
            StorageError: if the registry cannot be written.
        """
        require_name(name)
        given = opened(adapter)
        self._require_own_folder()
        with locked(self.folder):
            index = Index.read(self.folder)
            keep(self.folder, given)
            changed = index.with_version(name, Version(sha256=given.sha256, added=_now()))
            if changed is not index:
                changed.write(self.folder)
        return self._open(given.sha256, name)

    def fork(self, ref: str, new: str) -> Adapter:
        """Starts a new name with an adapter that is registered.

        Raises:
            AdapterError: if there is no such adapter, or the new name is taken.
        """
        require_name(new)
        with locked(self.folder):
            index, reference = Index.read(self.folder), parse_reference(ref)
            sha256 = self._find(index, reference, ref)
            if new in index.names:
                raise AdapterError(f"the name {new!r} is taken", remedy="choose another")
            origin = {"name": reference.name or index.names_of(sha256)[0], "sha256": sha256}
            changed = index.with_version(new, Version(sha256=sha256, added=_now()))
            replace(changed, forks={**index.forks, new: origin}).write(self.folder)
        return self._open(sha256, new)

    def promote(
        self,
        ref: str,
        alias: str,
        *,
        verdict: Mapping[str, Any] | Record | None = None,
        force: bool = False,
        reason: str = "",
    ) -> Promotion:
        """Points an alias to an adapter, if there is evidence that it is better.

        Args:
            ref: The adapter.
            alias: `prod`, or `student@prod` where the adapter has several names.
            verdict: What a comparison said: a `PairedComparison` of two evaluations of agents, or a mapping
                with "verdict" ("better"), "reason", "adapter" (this one's SHA-256) and "incumbent" (that of
                what it was compared with, None being the base model). It is kept. What was measured has to be
                this adapter, on its base model, and what it beat has to be what the alias points to, unless
                it points nowhere.
            force: Promote it without such evidence.
            reason: Why; required with `force`.

        Returns:
            The move. Promoting what the alias points to, with the same evidence, records nothing.

        Raises:
            AdapterError: if the evidence is not enough, saying why, or the adapter lacks the alias's name.
        """
        plain = plain_verdict(verdict)
        with locked(self.folder):
            index, reference = Index.read(self.folder), parse_reference(ref)
            sha256 = self._find(index, reference, ref)
            full = full_alias(alias, reference.name or _only(index.names_of(sha256), sha256, alias))
            name = full.partition("@")[0]
            if name not in index.names_of(sha256):
                raise AdapterError(
                    f"adapter {sha256[:12]} is not registered as {name!r}", remedy=f"add it as {name!r} first"
                )
            base = self._open(sha256, name).base
            now = next(reversed(index.stack(full)), None)
            forced = require_evidence(
                plain, sha256, base=base, name=ref, alias=full, now=now, force=force, reason=reason
            )
            move = Promotion(
                alias=full,
                sha256=sha256,
                action="promote",
                at=_now(),
                verdict=plain,
                forced=forced,
                reason=reason,
            )
            older = index.aliases.get(full, ())
            if older and older[-1].replace(at=move.at) == move:
                return older[-1]
            replace(index, aliases={**index.aliases, full: (*older, move)}).write(self.folder)
        return move

    def rollback(self, alias: str, *, reason: str = "") -> Promotion:
        """Points an alias such as `student@prod` back to what it pointed to before. The history is kept.

        Raises:
            AdapterError: if there is nothing to go back to.
            IntegrityError: if that adapter is damaged.
        """
        full = full_alias(alias, None)
        with locked(self.folder):
            index = Index.read(self.folder)
            stack = index.stack(full)
            if len(stack) < 2:
                seen = f"{full} points to its first adapter" if stack else f"there is no alias {full}"
                raise AdapterError(seen, expected="one that was promoted before")
            self._open(stack[-2], full.partition("@")[0])
            move = Promotion(alias=full, sha256=stack[-2], action="rollback", at=_now(), reason=reason)
            moves = (*index.aliases[full], move)
            replace(index, aliases={**index.aliases, full: moves}).write(self.folder)
        return move

    def remove(self, ref: str) -> str:
        """Forgets an adapter and deletes the copy once no name has it; returns its SHA-256.

        Args:
            ref: A name that has one adapter, which then loses this name alone, or a SHA-256, which then loses
                all its names.

        Raises:
            AdapterError: if an alias points to it or can be rolled back to it, another adapter descends from
                it, or the name has several.
        """
        with locked(self.folder):
            index, reference = Index.read(self.folder), parse_reference(ref)
            sha256 = self._find(index, reference, ref)
            if not reference.alias and len(index.names.get(reference.name, ())) > 1:
                raise AdapterError(
                    f"{ref!r} has {len(index.names[reference.name])} adapters", expected="the SHA-256 of one"
                )
            names = (reference.name,) if reference.name else index.names_of(sha256)
            last = set(names) >= set(index.names_of(sha256))
            require_unused(self.folder, index, sha256, last=last, names=names)
            index.without(sha256, names).write(self.folder)
            if last:
                discard(self.folder, sha256)
        return sha256

    def merge(
        self,
        refs: Sequence[str],
        *,
        name: str,
        weights: Sequence[float] | None = None,
        method: str = "cat",
        rank: int | None = None,
        density: float | None = None,
        seed: int = 0,
        taint: Iterable[Taint] = (),
        unknown_lineage: bool = False,
        database: Database | None = None,
    ) -> Adapter:
        """Merges registered adapters and adds the result under `name`; arguments as in `merge_adapters`."""
        from docendo.distill.adapters._merge import merge_adapters

        require_name(name)
        with tempfile.TemporaryDirectory() as scratch:
            merged = merge_adapters(
                [self.get(ref) for ref in refs],
                output=Path(scratch) / name,
                weights=weights,
                method=method,
                rank=rank,
                density=density,
                seed=seed,
                taint=taint,
                unknown_lineage=unknown_lineage,
                database=database,
            )
            return self.add(merged, name)

    def _require_own_folder(self) -> None:
        """Refuses to become a registry among files of other kinds."""
        if not self.folder.exists() or (self.folder / INDEX).is_file():
            return
        if not self.folder.is_dir():
            raise AdapterError(f"{self.folder} is a file", expected="a folder for the registry")
        # A registry whose first writer was killed holds these and no index yet.
        others = sorted(file.name for file in self.folder.iterdir() if file.name not in (OBJECTS, ".lock"))
        others = [name for name in others if not name.startswith(f".{INDEX}.")]
        if others:
            raise AdapterError(
                f"{self.folder} is no registry and holds {others[0]!r}", expected="an empty or a new folder"
            )


def _only(names: tuple[str, ...], sha256: str, alias: str) -> str | None:
    """The one name of an adapter; None if the alias says which."""
    if isinstance(alias, str) and "@" in alias:
        return None
    if len(names) > 1:
        raise AdapterError(
            f"adapter {sha256[:12]} has the names {', '.join(names)}", expected="NAME@ALIAS as the alias"
        )
    return names[0]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
