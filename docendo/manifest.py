"""Manifests: a `manifest.json` with the SHA-256 of every other file of a folder, written last.

A folder with a manifest is complete; a folder whose files differ from it is damaged and refused. The
manifest carries a checksum of its own fields too, so damage to it is noticed as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docendo.errors import IntegrityError
from docendo.files import write_json
from docendo.hashing import digest, file_sha256

MANIFEST = "manifest.json"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `facts` and the sums of all files in `folder` to its manifest; returns what was written."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != MANIFEST)
    manifest = {**facts, "files": {f.relative_to(folder).as_posix(): file_sha256(f) for f in files}}
    manifest["sha256"] = _seal(manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Reads a folder's manifest and, unless `verify` is False, checks every file against it.

    Raises:
        IntegrityError: if the manifest cannot be read, or a file is missing or has changed, naming it.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sums: dict[str, str] = dict(manifest["files"])
        if manifest["sha256"] != _seal(manifest):
            raise ValueError("its own checksum differs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is missing or damaged ({error}); publish or fetch the folder again"
        ) from error
    if verify:
        for name, expected in sums.items():
            file = folder / name
            if not file.is_file():
                raise IntegrityError(
                    f"{file} is missing though the manifest lists it; fetch the folder again"
                )
            if file_sha256(file) != expected:
                raise IntegrityError(f"{file} does not match the manifest's SHA-256; fetch the folder again")
    return manifest


def _seal(manifest: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in manifest.items() if key != "sha256"})
