"""What adapters are called: names, aliases such as `student@prod`, and the beginnings of SHA-256 sums."""

from __future__ import annotations

import re
from dataclasses import dataclass

from docendo.errors import AdapterError, ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Eight digits tell apart thousands of adapters: two of 1,000 share them once in 8,000 registries.
_SHA = re.compile(r"[0-9a-f]{8,64}")
_SHAPE = "1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a user means by a text: a name, an alias of a name, or the beginning of a sum.

    Attributes:
        name: The name, or empty.
        alias: The alias, or empty.
        prefix: At least 8 hex digits, or empty.
    """

    name: str = ""
    alias: str = ""
    prefix: str = ""


def require_name(value: object, what: str = "name") -> str:
    """Returns a name that can be used.

    Raises:
        ConfigError: if it has another shape, or could be taken for the beginning of a SHA-256 sum.

    Example:
        >>> require_name("student")
        'student'
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigError(f"the {what} is {value!r}"[:120], expected=_SHAPE)
    if _SHA.fullmatch(value):
        raise ConfigError(
            f"the {what} {value!r} looks like the beginning of a SHA-256",
            expected="a name with other letters",
        )
    return value


def parse_reference(value: object) -> Reference:
    """Reads `student`, `student@prod` or at least 8 hex digits.

    Raises:
        ConfigError: if it is none of them.

    Example:
        >>> parse_reference("student@prod").alias
        'prod'
        >>> parse_reference("0123456789ab").prefix
        '0123456789ab'
    """
    if isinstance(value, str) and _SHA.fullmatch(value):
        return Reference(prefix=value)
    name, at, alias = value.partition("@") if isinstance(value, str) else (value, "", "")
    name = require_name(name, "adapter's name")
    return Reference(name=name, alias=require_name(alias, "alias") if at else "")


def full_alias(alias: object, name: str | None) -> str:
    """An alias in full; `name` completes a bare one.

    Raises:
        ConfigError: if a part of it has another shape.
        AdapterError: if it is bare and there is no name.

    Example:
        >>> full_alias("prod", "student")
        'student@prod'
    """
    text = alias if isinstance(alias, str) and "@" in alias else f"{name or ''}@{alias}"
    head, _, tail = text.partition("@")
    if not head:
        raise AdapterError(f"the alias {alias!r} names no adapter", expected="NAME@ALIAS")
    return f"{require_name(head, 'name of the alias')}@{require_name(tail, 'alias')}"
