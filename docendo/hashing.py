"""Content addresses: canonical JSON, SHA-256, and seeds derived from names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Returns one fixed text for a JSON value: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: if the value holds NaN or infinity.
        TypeError: if the value holds something that JSON has no form for.

    Example:
        >>> canonical_json({"b": 1, "a": [True, None]})
        '{"a":[true,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(*parts: Any) -> str:
    """Returns the SHA-256 (64 hex digits) of the canonical JSON of `parts`.

    Lone surrogates, which model output can hold, are hashed rather than refused.
    """
    return hashlib.sha256(canonical_json(list(parts)).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def derive_seed(*parts: Any) -> int:
    """Returns a seed in [0, 2**63) that depends on `parts` alone.

    Seeds are derived from names (run seed, item, node, step), never drawn from a global generator,
    so a resumed or reordered run samples the same values.
    """
    return int(digest("seed", *parts)[:16], 16) >> 1
