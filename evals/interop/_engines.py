"""The engine and the adapter that another harness's model runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docendo.agents import EngineProtocol


@contextmanager
def opened(model: str, engine: EngineProtocol | None, **options: Any) -> Iterator[EngineProtocol]:
    """The engine that is given, else one of that name, which is closed if the block fails.

    Args:
        model: Name, folder or hub id, or KIND:ADDRESS#MODEL of a server.
        engine: An engine of the caller's, which stays open.
        **options: Arguments of `Engine.load`.
    """
    if engine is not None:
        yield engine
        return
    from docendo.agents import Engine, open_engine

    own: EngineProtocol = open_engine(model) if "://" in model else Engine.load(model, **options)
    try:
        yield own
    except BaseException:
        own.close()
        raise


def loaded(engine: EngineProtocol, adapter: str | Path | None) -> str | None:
    """The name of an adapter, which is loaded if it is a folder."""
    if adapter is None:
        return None
    # Loaded under its path: its last part may be the name of another.
    name = str(adapter)
    if name not in engine.adapters():
        engine.load_adapter(name, adapter)
    return name
