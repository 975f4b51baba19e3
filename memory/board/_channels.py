"""Channels: what may be posted on a part of a board, in which shape, and who may write and read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import sqlalchemy as sa

from docendo.errors import AccessError, ConfigError, DataError
from docendo.hashing import digest
from docendo.memory.storage import _schema, _text
from docendo.memory.storage._chain import CHANGED, Damage
from docendo.records import Author, Record

PostKind = Literal[
    "task",
    "attempt",
    "verdict",
    "exam",
    "hint",
    "demonstration",
    "lesson",
    "claim",
    "question",
    "answer",
    "request",
    "offer",
    "response",
    "fact",
    "event",
    "rule",
    "strategy",
    "message",
    "tombstone",
]
FieldType = Literal["string", "number", "integer", "boolean", "array", "object"]

ALL = "*"
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel(Record):
    """A typed part of a board.

    Attributes:
        name: Its name.
        kinds: The kinds of posts that it takes.
        fields: Fields that every post's body must have, with their JSON types; others are free.
        readers: Roles that may read it through a view; `"*"` is everyone.
        writers: Roles that may post on it; `"*"` is everyone.

    Example:
        >>> offers = Channel(name="offers", fields={"confidence": "number"}, readers=("main",))
        >>> offers.may_read("main"), offers.may_read("student")
        (True, False)
    """

    name: str
    kinds: tuple[str, ...] = get_args(PostKind)
    fields: Mapping[str, FieldType] = field(default_factory=dict)
    readers: tuple[str, ...] = (ALL,)
    writers: tuple[str, ...] = (ALL,)

    def __post_init__(self) -> None:
        """Checks names and types, so that a mistake fails where it is written."""
        object.__setattr__(self, "name", _text.name(self.name, "the channel's name"))
        for name in ("kinds", "readers", "writers"):
            value: object = getattr(self, name)
            if isinstance(value, str) or not value:
                raise ConfigError(
                    f"{name} of channel {self.name!r} is {value!r}",
                    expected="a tuple of names that is not empty",
                )
            object.__setattr__(self, name, tuple(_text.name(entry, name) for entry in getattr(self, name)))
        fields: object = self.fields
        if not isinstance(fields, Mapping):
            raise ConfigError(f"fields of channel {self.name!r} is {fields!r}", expected="types by name")
        cleaned = {_text.name(name, "a field's name"): kind for name, kind in fields.items()}
        object.__setattr__(self, "fields", cleaned)
        for name, kind in self.fields.items():
            if kind not in _TYPES:
                raise ConfigError(
                    f"field {name!r} of channel {self.name!r} has the type {kind!r}",
                    expected=f"one of {', '.join(_TYPES)}",
                )

    def may_read(self, role: str) -> bool:
        """Whether a role may read it."""
        return ALL in self.readers or role in self.readers

    def may_write(self, role: str) -> bool:
        """Whether a role may post on it."""
        return ALL in self.writers or role in self.writers

    def check(self, kind: str, body: Mapping[str, Any], author: Author) -> None:
        """Raises unless a post fits.

        Raises:
            DataError: if the channel does not take the kind, or a field is missing or of another type.
            AccessError: if the author's role may not post on it.
        """
        if not self.may_write(author.role):
            raise AccessError(
                f"role {author.role!r} posts on channel {self.name!r}",
                expected=f"one of the roles {', '.join(self.writers)}",
            )
        if kind not in self.kinds:
            raise DataError(
                f"the post's kind is {kind!r}",
                expected=f"one of {', '.join(self.kinds)} on channel {self.name!r}",
            )
        for name, wanted in self.fields.items():
            if name not in body:
                raise DataError(
                    f"the body of a {kind} on channel {self.name!r} has no field {name!r}",
                    expected=f"a {wanted}",
                )
            value = body[name]
            if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
                raise DataError(
                    f"body.{name} on channel {self.name!r} is a {type(value).__name__}",
                    expected=f"a {wanted}",
                )


#: The channel of a board that needs no declaration: all kinds, read and written by everyone.
MAIN = Channel(name="main")


def declare(connection: sa.Connection, board: str, channel: Channel) -> Channel:
    """Stores a channel. Declaring it again in the same words does nothing.

    Raises:
        DataError: if it is declared in other words: posts were checked by those.
    """
    stored = read(connection, board).get(channel.name)
    if stored is None:
        record = _text.encode(channel.to_json())
        row = {"board": board, "name": channel.name, "record": record}
        row["hash"] = digest(board, channel.name, record)
        connection.execute(_schema.channels.insert(), row)
        return channel
    if stored != channel:
        changed = [name for name, value in stored.to_json().items() if value != channel.to_json()[name]]
        raise DataError(
            f"channel {channel.name!r} of board {board!r} is declared with other {', '.join(changed)}",
            expected="the same declaration",
            remedy="choose another name for the new channel",
        )
    return stored


def read(connection: sa.Connection, board: str) -> dict[str, Channel]:
    """All channels of a board by name.

    Raises:
        IntegrityError: if a declaration is damaged.
    """
    table = _schema.channels
    found = {MAIN.name: MAIN}
    for row in connection.execute(sa.select(table).where(table.c.board == board).order_by(table.c.name)):
        _text.check_seal(row.hash, row.board, row.name, row.record, record=f"channel {row.name!r}")
        found[row.name] = Channel(**_text.decode(row.record))
    return found


def verify(connection: sa.Connection, board: str) -> list[Damage]:
    """Recomputes the digests of a board's channels."""
    table = _schema.channels
    return [
        Damage(record="channel", id=str(row.name), reason=CHANGED)
        for row in connection.execute(sa.select(table).where(table.c.board == board).order_by(table.c.name))
        if not _text.sealed(row.hash, row.board, row.name, row.record)
    ]
