"""Turning values into the text that is stored, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from docendo.errors import DataError, IntegrityError
from docendo.hashing import canonical_json, digest
from docendo.records import Author

MAX_DEPTH = 64


def clean(text: str) -> str:
    r"""Makes text storable everywhere: lone surrogates and NUL become visible escapes, the rest stays.

    Example:
        >>> clean("a\x00b")
        'a\\x00b'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def plain(value: Any, where: str, *, cleaned: bool = False, depth: int = 0) -> Any:
    """Returns a copy of `value` that consists of plain JSON types alone.

    Args:
        where: What the value is called in an error message; grows into a path such as `body.scores[2]`.
        cleaned: Whether text goes through `clean`.

    Raises:
        DataError: if the value holds something that JSON has no form for, naming its path.
    """
    if depth > MAX_DEPTH:
        raise DataError(f"{where[:80]}... is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value) if cleaned else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where} is {value}", expected="a finite number")
        return float(value)
    if isinstance(value, Mapping):
        result = {}
        for key, entry in value.items():
            if not isinstance(key, str):
                raise DataError(f"{where} has the key {key!r}", expected="keys that are strings")
            name = clean(key) if cleaned else key
            result[name] = plain(entry, f"{where}.{name}", cleaned=cleaned, depth=depth + 1)
        return result
    if isinstance(value, (list, tuple)):
        return [
            plain(entry, f"{where}[{index}]", cleaned=cleaned, depth=depth + 1)
            for index, entry in enumerate(value)
        ]
    raise DataError(
        f"{where} is a {type(value).__name__}",
        expected="a JSON value (None, bool, int, float, str, list, dict)",
    )


def mapping(value: Any, where: str, *, cleaned: bool = False) -> dict[str, Any]:
    """Returns `plain(value)`, which must be a mapping.

    Raises:
        DataError: if `value` is not a mapping or holds something that JSON has no form for.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is a {type(value).__name__}", expected="a mapping with string keys")
    result: dict[str, Any] = plain(value, where, cleaned=cleaned)
    return result


def encode(value: Any) -> str:
    """Returns canonical JSON that any database takes: lone surrogates become JSON escapes, without loss."""
    return canonical_json(value).encode("utf-8", "backslashreplace").decode("utf-8")


def decode(text: str) -> Any:
    """Reads what `encode` wrote."""
    return json.loads(text)


def encode_list(values: Sequence[Any]) -> str:
    """A list as `encode` writes it, without its brackets: most lists in rows are empty or short."""
    return encode(list(values))[1:-1]


def decode_list(text: str) -> tuple[Any, ...]:
    """Reads what `encode_list` wrote."""
    return tuple(json.loads(f"[{text}]"))


def name(value: str, where: str, *, empty: bool = False) -> str:
    """Returns a cleaned identifier.

    Raises:
        DataError: if it is not text, or empty where it may not be.
    """
    if not isinstance(value, str):
        raise DataError(f"{where} is {value!r}", expected="a string")
    if not value and not empty:
        raise DataError(f"{where} is empty", expected="a name")
    return clean(value)


def require_author(value: Author) -> Author:
    """Returns an author as given.

    Raises:
        DataError: if it is no author, or has no name, or a field that is no text.
    """
    if not isinstance(value, Author):
        raise DataError(f"the author is a {type(value).__name__}", expected="a docendo.records.Author")
    name(value.agent, "author.agent")
    name(value.role, "author.role", empty=True)
    name(value.model, "author.model", empty=True)
    if value.adapter is not None:
        name(value.adapter, "author.adapter", empty=True)
    return value


def author(value: Author) -> str:
    """Returns an author as stored text.

    Raises:
        DataError: if it is no author, or has no name.
    """
    return encode(mapping(require_author(value).to_json(), "author", cleaned=True))


def check_seal(expected: Any, *parts: Any, record: str) -> None:
    """Compares a stored digest with the digest of what was read.

    Raises:
        IntegrityError: if they differ, naming the record.
    """
    if not sealed(expected, *parts):
        raise IntegrityError(
            f"{record} does not match its checksum: it was damaged after it was written; restore a backup"
        )


def sealed(expected: Any, *parts: Any) -> bool:
    """Whether a stored digest matches. A damaged row can hold any type, hence the caught errors."""
    try:
        return digest(*parts) == expected
    except (TypeError, ValueError):
        return False
