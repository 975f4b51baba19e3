"""The engine and the adapter that another harness's model runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docendo.agents import EngineProtocol


def opened(model: str, **options: Any) -> EngineProtocol:
    """Loads a model by name with arguments of `Engine.load`, or connects to one on a server."""
    from docendo.agents import Engine, open_engine

    return open_engine(model) if "://" in model else Engine.load(model, **options)


def loaded(engine: EngineProtocol, adapter: str | Path | None) -> str | None:
    """The name of an adapter, which is loaded if it is a folder."""
    if adapter is None:
        return None
    # Loaded under its path: its last part may be the name of another.
    name = str(adapter)
    if name not in engine.adapters():
        engine.load_adapter(name, adapter)
    return name
