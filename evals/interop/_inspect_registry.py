"""What inspect_ai loads to know of the provider `docendo`: its entry point, which costs next to nothing."""

from __future__ import annotations

from typing import Any

from docendo.errors import MissingExtra

try:
    from inspect_ai.model import modelapi
except ModuleNotFoundError as error:
    raise MissingExtra("inspect_ai", "inspect") from error


@modelapi(name="docendo")
def docendo() -> Any:
    """The provider's class, imported when a model of it is made."""
    from docendo.evals.interop._inspect_model import DocendoAPI

    return DocendoAPI
