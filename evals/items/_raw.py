"""Questions as sources give them, before they belong to a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docendo.records import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One question before it belongs to a split.

    Attributes:
        item: The item, its split still open.
        where: Where it was read, for error messages.
    """

    item: Item
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A stream of questions.

    Attributes:
        name: Task name.
        config: What the stream depends on, as JSON.
        stream: Opens the stream for a seed; None is a draw that gave nothing.
        endless: Whether the stream repeats itself for ever and so must be given up at some point.
    """

    name: str
    config: Mapping[str, Any]
    stream: Callable[[int], Iterator[Raw | None]]
    endless: bool = False
