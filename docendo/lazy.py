"""Public names that are imported when they are first used, so that importing a package stays fast."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns a package's `__getattr__` and `__dir__` (PEP 562) for names that live in other modules.

    Args:
        package: The package's `__name__`.
        modules: Public name to the module that defines it; "module:" stands for the module itself.
    """

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path, whole, _ = modules[name].partition(":")
        module = importlib.import_module(path)
        return module if whole else getattr(module, name)

    return getattr_, lambda: sorted(modules)
