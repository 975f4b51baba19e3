"""Where a run came from: what started it, its folder, its parent. Kept with it, compared with nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_launched: ContextVar[tuple[str, Mapping[str, Any]] | None] = ContextVar("docendo_launched", default=None)


@contextmanager
def launched(run: str, origin: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, a run that is started under this name keeps `origin`.

    The command line says so what it was called with, past recipes, which know nothing of it.

    Example:
        >>> from docendo.memory import RunStore, launched
        >>> with RunStore.open(":memory:") as runs, launched("demo", {"launch": {"what": "my-recipe"}}):
        ...     runs.start("demo", {}, resume=False).origin
        {'launch': {'what': 'my-recipe'}}
    """
    token = _launched.set((run, origin))
    try:
        yield
    finally:
        _launched.reset(token)


def origin_of(run: str) -> dict[str, Any]:
    """What `launched` says of a run of this name."""
    given = _launched.get()
    return dict(given[1]) if given is not None and given[0] == run else {}
