"""Python files that a user names on the command line: loaded as modules of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from docendo.errors import ConfigError, DocendoError
from docendo.hashing import digest


def load_file(path: str | Path, *, prefix: str, expected: str = "a Python file") -> ModuleType:
    """Runs a Python file and returns it as a module.

    What it prints goes to stderr, because stdout is for what a command answers. A file that fails leaves no
    half-made module behind.

    Args:
        path: The file.
        prefix: Beginning of the module's name, so that `json.py` does not take the place of Python's. Two
            files of one name are two modules.
        expected: What the user should have named, for the error.

    Raises:
        ConfigError: if it is no file, no Python, or fails; the message names the line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "json.py"
        >>> _ = path.write_text("answer = 42")
        >>> module = load_file(path, prefix="own")
        >>> module.__name__, module.answer
        ('own_json', 42)
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"there is no file {str(path)!r}", expected=expected)
    name = _module_name(file, prefix)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file", expected=expected)
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        if isinstance(error, DocendoError) or not isinstance(error, (Exception, SystemExit)):
            raise
        raise _refusal(file, spec.origin, error) from error
    return module


def load_named(what: str, *, prefix: str, expected: str) -> Any:
    """Loads `FILE.py:NAME`, also a file that another call has loaded: then it is run once.

    Args:
        what: The file and a name in it.
        prefix: As for `load_file`.
        expected: What the user should have named, for the error.

    Raises:
        ConfigError: as `load_file`, or if the file has no such name.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.py"
        >>> _ = path.write_text("answer = 42")
        >>> load_named(f"{path}:answer", prefix="own", expected="FILE.py:NAME of a number")
        42
    """
    path, _, name = what.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path or what!r}", expected=expected)
    known = sys.modules.get(_module_name(Path(path), prefix))
    module = known or load_file(path, prefix=prefix, expected=expected)
    if not hasattr(module, name):
        raise ConfigError(f"{path} has no {name!r}", expected=expected)
    return getattr(module, name)


def _module_name(file: Path, prefix: str) -> str:
    name = f"{prefix}_{file.stem}"
    known = getattr(sys.modules.get(name), "__file__", None)
    if known is None or Path(known).resolve() == file.resolve():
        return name
    return f"{name}_{digest(str(file.resolve()))[:8]}"


def _refusal(file: Path, origin: str | None, error: BaseException) -> ConfigError:
    if isinstance(error, SyntaxError):
        lines = [error.lineno] if error.filename == origin else []
        what = f"{error.msg} in {error.filename}" if error.filename != origin else error.msg
        what = f"it is no Python: {what}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == origin]
        what = f"{type(error).__name__}: {error}"
    where = f"{file}, line {lines[-1]}" if lines else str(file)
    return ConfigError(f"cannot load {where}: {what}", remedy=f"python {file} shows the whole traceback")
