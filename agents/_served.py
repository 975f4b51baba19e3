"""Adapters on a server: LoRA by model name, as vLLM and SGLang serve them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from docendo.agents._servers import Server
from docendo.errors import AdapterError
from docendo.hashing import digest, file_sha256

#: Digits of a digest in the name that the server knows an adapter by.
_DIGITS = 12


class _Entry(NamedTuple):
    served: str
    sha256: str
    loaded: str | None  # its name where the server was told to load it, or None


class ServedAdapters:
    """Our names of adapters, and what the server calls them."""

    def __init__(
        self,
        server: Server,
        base_url: str,
        *,
        model: str,
        given: Mapping[str, str],
        command: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """Begins with those that the server already has; `command` posts to the server."""
        self._server, self._model, self._command = server, model, command
        self._entries = {
            name: _Entry(served, digest("served", base_url.rstrip("/"), served), None)
            for name, served in given.items()
        }

    def hashes(self) -> dict[str, str]:
        """Names and digests."""
        return {name: entry.sha256 for name, entry in self._entries.items()}

    def find(self, name: str | None) -> tuple[str, str | None]:
        """The model name to ask for, and the adapter's digest; for None those of the base model."""
        if name is None:
            return self._model, None
        entry = self._entry(name)
        return entry.served, entry.sha256

    def load(self, name: str, path: Path) -> str:
        """Lets the server load a folder under a name, or swap it."""
        weights = path / "adapter_model.safetensors"
        if not weights.is_file():
            raise AdapterError(f"{path} holds no adapter_model.safetensors", expected="a PEFT adapter folder")
        sha256 = file_sha256(weights)
        # Named by content: the server may still be busy with older weights of this name, and caches by name.
        loaded = f"{name}-{sha256[:_DIGITS]}"
        before = self._entries.get(name)
        if before is None or before.loaded != loaded:
            self._command(self._server.load or "", {"lora_name": loaded, "lora_path": str(path.absolute())})
            served = f"{self._model}:{loaded}" if self._server.adapter_prefix else loaded
            self._entries[name] = _Entry(served, sha256, loaded)
            self._unload(before)
        return sha256

    def drop(self, name: str) -> None:
        """Forgets a name; the server unloads what it was told to load."""
        entry = self._entry(name)
        del self._entries[name]
        self._unload(entry)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            known = ", ".join(sorted(self._entries)) or "none"
            raise AdapterError(
                f"adapter {name!r} is not loaded (loaded: {known})",
                remedy="name it in adapters=, or call load_adapter",
            )
        return self._entries[name]

    def _unload(self, entry: _Entry | None) -> None:
        # What the server had before stays: others may use it.
        if entry and entry.loaded and self._server.unload:
            self._command(self._server.unload, {"lora_name": entry.loaded})
