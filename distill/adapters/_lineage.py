"""What registered adapters are and descend from, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docendo.distill.adapters._facts import method_of, objective_of, parents_of, seed_of
from docendo.distill.adapters._index import Index, Promotion
from docendo.distill.adapters._store import object_path, open_object
from docendo.errors import AdapterError, DocendoError, IntegrityError
from docendo.manifest import read_manifest
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered(Record):
    """An adapter under one of its names, as `AdapterRegistry.list` shows it.

    Attributes:
        name: The name.
        sha256: SHA-256 of its weights.
        added: When it was added under the name, in UTC.
        newest: Whether the name alone stands for it.
        aliases: Aliases of the name that point to it.
        base: Name of the base model.
        method: How it was made, such as "sft" or "merge".
        objective: What was minimised, or how adapters were combined.
        parents: SHA-256 of the adapters that it was made from.
        metrics: Numbers of its training.
        problem: What is wrong with its files; empty if nothing is.
    """

    name: str
    sha256: str
    added: str
    newest: bool
    aliases: tuple[str, ...] = ()
    base: str = ""
    method: str = ""
    objective: str = ""
    parents: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor(Record):
    """One adapter of a lineage. Of one that is not registered only the SHA-256 is known.

    Attributes:
        sha256: SHA-256 of its weights.
        registered: Whether the registry has it.
        names: Its names in the registry.
        parents: SHA-256 of the adapters that it was made from; empty if it was trained on the base itself.
        data: Digest of the data that it learnt from.
        method: How it was made.
        objective: What was minimised, or how adapters were combined.
        seed: Seed of the training, or None.
        metrics: Numbers of its training.
        verdict: The evidence of its latest promotion, or None.
        created: When it was made.
    """

    sha256: str
    registered: bool = False
    names: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    data: str = ""
    method: str = ""
    objective: str = ""
    seed: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    created: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage(Record):
    """An adapter and all that it descends from.

    Attributes:
        base: Name and fingerprint of the base model.
        adapters: The adapter, its parents, theirs, and so on; each once.
        turns: Number of recorded turns that it learnt from, over all of them.
        posts: Number of posts that held these.
    """

    base: Mapping[str, str]
    adapters: tuple[Ancestor, ...]
    turns: int = 0
    posts: int = 0

    @property
    def complete(self) -> bool:
        """Whether every adapter down to the base is registered."""
        return all(one.registered for one in self.adapters)

    def __str__(self) -> str:
        lines = []
        for one in self.adapters:
            name = f"{'/'.join(one.names)} " if one.names else ""
            known = [one.method, one.objective, f"data {one.data[:12]}" if one.data else ""]
            if one.seed is not None:
                known.append(f"seed {one.seed}")
            if one.verdict:
                known.append(str(one.verdict.get("verdict")))
            about = ", ".join(filter(None, known)) if one.registered else "not in the registry"
            parents = f" from {', '.join(parent[:12] for parent in one.parents)}" if one.parents else ""
            lines.append(f"{name}{one.sha256[:12]}{parents}: {about}")
        return "\n".join([*lines, f"base {self.base['name']} {self.base['fingerprint'][:12]}"])


def trace_lineage(folder: Path, index: Index, sha256: str) -> Lineage:
    """Follows an adapter up to the base, breadth first."""
    first = open_object(folder, sha256)
    known, found, waiting = set(index.adapters), dict[str, Ancestor](), [sha256]
    while waiting:
        current = waiting.pop(0)
        if current in found:
            continue
        if current not in known:
            found[current] = Ancestor(sha256=current)
            continue
        facts = first.manifest if current == sha256 else open_object(folder, current).manifest
        parents = parents_of(facts)
        found[current] = Ancestor(
            sha256=current,
            registered=True,
            names=index.names_of(current),
            parents=parents,
            data=str((facts.get("data") or {}).get("digest") or ""),
            method=method_of(facts),
            objective=objective_of(facts),
            seed=seed_of(facts),
            metrics=dict(facts["metrics"]),
            verdict=latest_verdict(index, current),
            created=str(facts.get("created") or ""),
        )
        waiting += parents
    learnt = first.manifest.get("lineage") or {}
    return Lineage(
        base=dict(first.manifest["base"]),
        adapters=tuple(found.values()),
        turns=len(learnt.get("traces") or ()),
        posts=len(learnt.get("posts") or ()),
    )


def latest_verdict(index: Index, sha256: str) -> Mapping[str, Any] | None:
    """The evidence of an adapter's latest promotion under any alias, or None."""
    found: list[Promotion] = [
        move
        for moves in index.aliases.values()
        for move in moves
        if move.sha256 == sha256 and move.action == "promote" and move.verdict
    ]
    return max(found, key=lambda move: move.at).verdict if found else None


def list_adapters(folder: Path, index: Index) -> tuple[Registered, ...]:
    """Every adapter under every name. A damaged one is listed with what is wrong."""
    now = {alias: index.stack(alias)[-1] for alias in index.aliases}
    rows = []
    for name, versions in index.names.items():
        for version in versions:
            here = tuple(
                alias
                for alias, sha256 in now.items()
                if sha256 == version.sha256 and alias.partition("@")[0] == name
            )
            row = Registered(
                name=name,
                sha256=version.sha256,
                added=version.added,
                newest=version == versions[-1],
                aliases=here,
            )
            rows.append(_described(folder, row))
    return tuple(rows)


def _described(folder: Path, row: Registered) -> Registered:
    try:
        facts = open_object(folder, row.sha256).manifest
    except DocendoError as error:
        return row.replace(problem=str(error))
    return row.replace(
        base=facts["base"]["name"],
        method=method_of(facts),
        objective=objective_of(facts),
        parents=parents_of(facts),
        metrics=dict(facts["metrics"]),
    )


def require_unused(folder: Path, index: Index, sha256: str, *, last: bool, names: tuple[str, ...]) -> None:
    """Refuses to remove what something else points to.

    Args:
        folder: The registry.
        index: Its index.
        sha256: The adapter.
        last: Whether no name would be left.
        names: The names that it would lose.

    Raises:
        AdapterError: if an alias of these names points to it or could go back to it, or, where it is deleted,
            another adapter descends from it.
    """
    for alias in index.aliases:
        stack = index.stack(alias)
        if sha256 in stack and alias.partition("@")[0] in names:
            how = "points" if stack[-1] == sha256 else "can be rolled back"
            raise AdapterError(
                f"adapter {sha256[:12]} is not removed, because {alias} {how} to it",
                remedy="promote others until it is not needed" if how == "points" else "keep it",
            )
    if not last:
        return
    for other in index.adapters:
        if other != sha256 and sha256 in _parents(folder, other):
            raise AdapterError(
                f"adapter {sha256[:12]} is not removed, because {index.names_of(other)[0]!r} ({other[:12]}) "
                "descends from it",
                remedy="remove that one first",
            )


def _parents(folder: Path, sha256: str) -> tuple[str, ...]:
    """The parents by the manifest alone, whose own checksum is checked: the weights do not matter here."""
    try:
        return parents_of(read_manifest(object_path(folder, sha256), verify=False))
    except IntegrityError:
        return ()
