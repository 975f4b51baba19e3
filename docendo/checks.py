"""Checks of what a user gives, so that a wrong type is one clear line and not an error of Python's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from docendo.errors import ConfigError, DataError, UserError

T = TypeVar("T")

#: The largest count by default: up to here a float holds every whole number.
MOST = 2**53


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number (True and False are not).

    Example:
        >>> is_count(3), is_count(3.0), is_count(True), is_count("3")
        (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number that a float can hold (True and False are not).

    Example:
        >>> is_number(0.5), is_number(3), is_number(float("nan")), is_number("0.5"), is_number(10**400)
        (True, True, False, False, False)
    """
    given: object = value
    try:
        return isinstance(value, Real) and not isinstance(given, bool) and math.isfinite(value)
    except OverflowError:
        return False


def short(value: object) -> str:
    """A value as it is shown in an error.

    Example:
        >>> short("x" * 100)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    try:
        shown = repr(value)
    except ValueError:  # a number of too many digits
        return f"a {type(value).__name__} that cannot be shown"
    shown = " ".join(shown.split())
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def check_count(name: str, value: object, least: int, most: int = MOST) -> None:
    """Refuses what is no whole number, too small or too large.

    Raises:
        ConfigError: naming it.

    Example:
        >>> check_count("seeds", 1, 2)
        Traceback (most recent call last):
            ...
        docendo.errors.ConfigError: seeds is 1; expected a whole number, at least 2.
    """
    if not is_count(value) or not least <= value <= most:
        limits = f"at least {least}" if not is_count(value) or value < least else f"at most {most:,}"
        raise ConfigError(f"{name} is {short(value)}", expected=f"a whole number, {limits}")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Refuses what is of another type.

    Raises:
        ConfigError: naming it.

    Example:
        >>> check_kind("metric", 3, str, "the name of a metric")
        Traceback (most recent call last):
            ...
        docendo.errors.ConfigError: metric is 3; expected the name of a metric.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is {short(value)}", expected=expected)


def entries(
    name: str,
    values: Iterable[T],
    kind: Any = object,
    expected: str = "a sequence",
    error: type[UserError] = DataError,
) -> list[T]:
    """What a sequence holds, or whatever else can be gone through, as a list.

    Args:
        name: What the values are, for the error.
        values: The sequence.
        kind: The type, or types, of each entry.
        expected: What they should be, for the error.
        error: `ConfigError` of settings.

    Raises:
        DataError: if it is text or no sequence, or an entry is of another type.

    Example:
        >>> entries("tasks", ("a", "b"), str)
        ['a', 'b']
        >>> entries("tasks", ["a", 3], str, "names of tasks")
        Traceback (most recent call last):
            ...
        docendo.errors.DataError: tasks[1] is 3; expected names of tasks.
    """
    given: object = values
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise error(f"{name} is {short(given)}", expected=expected)
    found = list(values)
    for place, entry in enumerate(found):
        if not isinstance(entry, kind):
            raise error(f"{name}[{place}] is {short(entry)}", expected=expected)
    return found


def given_path(name: str, value: object) -> Path:
    """A path that a file can have.

    Raises:
        ConfigError: if it is of another type, empty, or holds what no file name can.

    Example:
        >>> given_path("folder", "runs/a").name
        'a'
        >>> given_path("folder", 3)
        Traceback (most recent call last):
            ...
        docendo.errors.ConfigError: folder is 3; expected a path.
    """
    if isinstance(value, (str, Path)) and str(value) and "\x00" not in str(value):
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            pass
        else:
            return Path(value)
    raise ConfigError(f"{name} is {short(value)}", expected="a path")
