"""Chat messages in rows: what tables add to them, and which of them are learnt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from docendo.records import Message


def plain(value: Any) -> Any:
    """A message, tool or row without the keys that a table filled up with None."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def learnt(message: Mapping[str, Any]) -> bool:
    """Whether a message of a completion is learnt: an assistant's, unless it says `"learn": false`."""
    return message.get("role") == "assistant" and message.get("learn") is not False


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as a row holds them: copies without empty keys."""
    return [plain(message) for message in messages]


def said(text: str) -> list[dict[str, Any]]:
    """An answer as a completion: one assistant message."""
    return [{"role": "assistant", "content": text}]


def answer_of(completion: Any) -> str:
    """The text of a completion: its own, or that of its last message."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def texts(value: Any) -> Iterator[str]:
    """All texts in a value, however nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts(list(value.values()))
    elif isinstance(value, Iterable):
        for entry in value:
            yield from texts(entry)
