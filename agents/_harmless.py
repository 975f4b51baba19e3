"""What a model folder may not ask for: code or files from elsewhere. Checked before a library reads it.

Security boundary. Covered: pickled weights behind an index, kernels of others named in a configuration.
Python files in the folder are never run, because the loaders are told not to (`trust_remote_code=False`;
without it transformers asks at the terminal). Not covered: what the weights make a model say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docendo.errors import ConfigError


def refuse_code(folder: Path) -> None:
    """Refuses a model folder whose JSON files lead to code or to files elsewhere.

    Raises:
        ConfigError: naming the file and the entry.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        for weight, file in _entries(_read(index).get("weight_map")):
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise ConfigError(
                    f"{index} says that {weight} is in {file!r}",
                    expected="a *.safetensors file of the same folder",
                    remedy="fetch the model again, or convert it to safetensors",
                )
    for file in (folder / "config.json", folder / "generation_config.json"):
        for name, value in _entries(_read(file) if file.is_file() else {}):
            # transformers fetches what is written as "owner/name" and runs it.
            if name.strip("_").startswith("attn_implementation") and isinstance(value, str) and "/" in value:
                raise ConfigError(
                    f"{file} names the kernel {value!r} in {name}",
                    expected="an attention of transformers, such as sdpa or eager",
                    remedy="remove the entry",
                )


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; nothing where it cannot be read, which the loader reports better."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _entries(value: object) -> Iterator[tuple[str, Any]]:
    """All names and values of nested objects; parts of a model have configurations of their own."""
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            yield from entry.items()
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
