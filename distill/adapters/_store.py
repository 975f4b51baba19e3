"""Copies of adapters under the SHA-256 of their weights: written once, checked whenever they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from docendo.distill.adapters._adapter import SETTINGS, Adapter
from docendo.errors import AdapterError, IntegrityError
from docendo.files import new_directory
from docendo.manifest import MANIFEST

OBJECTS = "objects"
#: Forms of pickle: loading them runs code.
_UNSAFE = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
#: What makes two adapters the same, beside their weights. When it was trained, and how fast, does not.
_DECIDING = ("base", "parent", "parents", "method", "config", "lineage")


def object_path(folder: Path, sha256: str) -> Path:
    """Where the copy of an adapter lies."""
    return folder / OBJECTS / sha256


def open_object(folder: Path, sha256: str) -> Adapter:
    """Opens a copy and checks every file of it.

    Raises:
        IntegrityError: if it is missing or damaged, naming the file.
    """
    path = object_path(folder, sha256)
    try:
        adapter = Adapter.open(path)
    except AdapterError as error:
        raise IntegrityError(f"{path} is missing or no adapter any more; add the adapter again") from error
    if adapter.sha256 != sha256:
        raise IntegrityError(f"{path} holds the adapter {adapter.sha256[:12]}; add the right one again")
    return adapter


def keep(folder: Path, adapter: Adapter) -> None:
    """Copies an adapter into the store; does nothing if it is there and whole, and mends it if it is not.

    Call it under the registry's lock.

    Raises:
        AdapterError: if the same weights are there with other settings or another origin.
        IntegrityError: if the adapter changed while it was copied.
        StorageError: if the store cannot be written.
    """
    target = object_path(folder, adapter.sha256)
    _sweep(target.parent)
    if target.exists():
        try:
            kept = open_object(folder, adapter.sha256)
        except IntegrityError:
            pass  # replaced below
        else:
            _require_same(kept, adapter)
            return
    names = files_of(adapter)
    with new_directory(target) as copy:
        for name in names:
            file = copy / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(adapter.path / name, file)
            file.chmod(0o444)
        if Adapter.open(copy).sha256 != adapter.sha256:
            raise IntegrityError(f"{adapter.path} changed while it was copied; add it again")


def discard(folder: Path, sha256: str) -> None:
    """Deletes a copy. Call it under the registry's lock, when the index does not name it any more."""
    path = object_path(folder, sha256)
    gone = path.with_name(f".{sha256}.gone")
    if path.exists():
        path.rename(gone)  # so that a reader finds all of it or nothing
    shutil.rmtree(gone, ignore_errors=True)


def settings_of(adapter: Adapter) -> dict[str, Any]:
    """The adapter's PEFT settings; lists in sorted order, because PEFT writes sets as they come.

    Raises:
        AdapterError: if the file is missing or no JSON object.
    """
    file = adapter.path / SETTINGS
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{file} cannot be read ({error})", remedy="train again or restore a copy"
        ) from error
    if not isinstance(plain, dict):
        raise AdapterError(f"{file} holds no settings", remedy="train again or restore a copy")
    return {
        key: sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
        for key, value in plain.items()
    }


def files_of(adapter: Adapter) -> list[str]:
    """The files to copy: those of the manifest, and the manifest itself.

    Raises:
        AdapterError: if one lies outside of the folder, or can run code when it is loaded.
    """
    names = [*adapter.manifest["files"], MANIFEST]
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise AdapterError(f"the manifest of {adapter.path} lists {name!r}, which leaves its folder")
        if path.suffix.lower() in _UNSAFE:
            raise AdapterError(
                f"{adapter.path} holds {name}, whose form can run code when it is loaded",
                expected="weights as safetensors",
                remedy="save the adapter without it",
            )
    return names


def _require_same(kept: Adapter, adapter: Adapter) -> None:
    ours, theirs = _identity(kept), _identity(adapter)
    different = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
    if different:
        raise AdapterError(
            f"the weights of {adapter.path} are registered already, with another {' and '.join(different)}",
            expected="an adapter of its own",
            remedy="remove the registered one first, or use that one",
        )


def _identity(adapter: Adapter) -> dict[str, Any]:
    facts: Mapping[str, Any] = adapter.manifest
    settings = {key: value for key, value in settings_of(adapter).items() if key != "peft_version"}
    found = {key: facts[key] for key in _DECIDING if facts.get(key) is not None}
    return {**found, "data": (facts.get("data") or {}).get("digest"), "settings": settings}


def _sweep(objects: Path) -> None:
    """Removes what killed processes left: whoever holds the lock is the only writer."""
    if objects.is_dir():
        for leftover in objects.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
