"""What can be read from a registry of adapters, without a lock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from docendo.distill.adapters._adapter import Adapter
from docendo.distill.adapters._index import Index, Promotion
from docendo.distill.adapters._lineage import (
    Lineage,
    Registered,
    latest_verdict,
    list_adapters,
    trace_lineage,
)
from docendo.distill.adapters._names import Reference, full_alias, parse_reference
from docendo.distill.adapters._store import open_object
from docendo.errors import AdapterError, SilentNoOp

if TYPE_CHECKING:
    from docendo.agents import EngineProtocol
    from docendo.distill.adapters._diff import AdapterDiff


class RegistryReader:
    """The half of `AdapterRegistry` that changes nothing on disk."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def resolve(self, ref: str) -> str:
        """The SHA-256 of the adapter that a text names.

        Raises:
            ConfigError: if the text is no name, alias or SHA-256.
            AdapterError: if there is no such adapter, or several begin with these digits.
        """
        return self._find(Index.read(self.folder), parse_reference(ref), str(ref))

    def get(self, ref: str) -> Adapter:
        """Opens an adapter after checking every file; called by its registered name.

        Raises:
            AdapterError: if there is no such adapter.
            IntegrityError: if a file is missing or damaged, naming it.
        """
        index, reference = Index.read(self.folder), parse_reference(ref)
        sha256 = self._find(index, reference, str(ref))
        return self._open(sha256, reference.name or index.names_of(sha256)[0])

    def list(self) -> tuple[Registered, ...]:
        """Every adapter under every name; names in sorted order, the versions of one as they were added."""
        return list_adapters(self.folder, Index.read(self.folder))

    def lineage(self, ref: str) -> Lineage:
        """An adapter and all that it descends from: data, objectives, seeds, metrics, verdicts."""
        index = Index.read(self.folder)
        return trace_lineage(self.folder, index, self._find(index, parse_reference(ref), str(ref)))

    def history(self, alias: str) -> tuple[Promotion, ...]:
        """All moves of an alias such as `student@prod`, oldest first; empty if it never pointed anywhere."""
        return Index.read(self.folder).aliases.get(full_alias(alias, None), ())

    def serve(self, engine: EngineProtocol, ref: str, *, as_: str | None = None) -> Adapter:
        """Loads an adapter into a running engine, which swaps it between two steps and drops no request.

        Args:
            engine: The engine.
            ref: The adapter.
            as_: Name in the engine; the registered name by default.

        Returns:
            The adapter that is served.

        Raises:
            AdapterError: if it was made for another base model.
            IntegrityError: if it is damaged.
            SilentNoOp: if the engine serves other weights than those that are registered.
        """
        adapter = self.get(ref)
        if fingerprint := getattr(engine, "fingerprint", None):
            adapter.require_base(fingerprint)
        serve_adapter(engine, adapter, as_ or adapter.name)
        return adapter

    def diff(self, before: str, after: str) -> AdapterDiff:
        """Compares two registered adapters; see `diff_adapters`."""
        from docendo.distill.adapters._diff import diff_adapters

        return diff_adapters(self.get(before), self.get(after))

    def export(
        self,
        ref: str,
        folder: str | Path,
        *,
        format: Literal["peft", "merged"] = "peft",
        model: str | Path | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> Path:
        """Writes an adapter, or the base model with it merged in; see `export_adapter`.

        The model card states the verdict of the adapter's latest promotion.
        """
        from docendo.distill.adapters._export import export_adapter

        verdict = latest_verdict(Index.read(self.folder), self.resolve(ref))
        return export_adapter(self.get(ref), folder, format=format, model=model, dtype=dtype, verdict=verdict)

    def _find(self, index: Index, reference: Reference, ref: str) -> str:
        if reference.prefix:
            found = [sha256 for sha256 in index.adapters if sha256.startswith(reference.prefix)]
            if len(found) > 1:
                raise AdapterError(f"{len(found)} adapters begin with {ref}", remedy="write more digits")
        elif reference.alias:
            found = list(index.stack(ref)[-1:])
        else:
            found = [one.sha256 for one in index.names.get(reference.name, ())][-1:]
        if not found:
            there = ", ".join(sorted([*index.names, *index.aliases])) or "none"
            raise AdapterError(
                f"there is no adapter {ref!r} in {self.folder}", expected=f"one of those there ({there})"
            )
        return found[0]

    def _open(self, sha256: str, name: str) -> Adapter:
        return replace(open_object(self.folder, sha256), name=name)


def serve_adapter(engine: EngineProtocol, adapter: Adapter, name: str) -> None:
    """Loads an adapter into an engine under a name, which nothing else is left under.

    Raises:
        SilentNoOp: if the engine serves other weights; the name is gone then, so that requests to it fail
            and are not answered by them.
    """
    loaded = engine.load_adapter(name, adapter.path)
    served = engine.adapters().get(name)
    if loaded == served == adapter.sha256:
        return
    if served is not None:
        engine.drop_adapter(name)
    raise SilentNoOp(
        f"The engine serves {(served or loaded)[:12]} as {name!r}, not {adapter.sha256[:12]}, which was to "
        "be loaded; it was dropped. Load it again."
    )
