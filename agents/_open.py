"""From the name of a model to an engine that runs it, here or on a server."""

from __future__ import annotations

import os

from docendo.agents._protocol import EngineProtocol

#: Seconds that a command waits for one answer of a server.
_PATIENCE = 600.0


def open_engine(model: str) -> EngineProtocol:
    """Loads a model, or connects to one on a server; close the engine afterwards.

    Args:
        model: A catalogue name, folder or hub id for `Engine.load`, or KIND:ADDRESS#MODEL for
            `OpenAIEngine.from_spec`, such as "vllm:http://127.0.0.1:8000/v1#Qwen/Qwen3-8B". A server that
            wants a key gets the one in the environment variable DOCENDO_API_KEY.

    Raises:
        ModelNotFound: if there is no such model here.
        ConfigError: if the name is none of these.

    Example:
        >>> engine = open_engine("llama.cpp:http://127.0.0.1:8080/v1#smollm2")
        >>> engine.name
        'smollm2'
        >>> engine.close()
    """
    if "://" in model:
        from docendo.agents._openai import OpenAIEngine

        return OpenAIEngine.from_spec(model, api_key=os.environ.get("DOCENDO_API_KEY"), timeout=_PATIENCE)
    from docendo.agents._engine import Engine

    return Engine.load(model)
