"""Settings by name, as they come from a command line or from JSON, put into a config's fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from docendo.checks import is_count, is_number, short
from docendo.errors import ConfigError
from docendo.records import Record

R = TypeVar("R", bound=Record)

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    NoneType: "null",
}


def with_settings(config: R, settings: Mapping[str, Any], *, of: str) -> R:
    """A copy of a config with other values, each of the type that its field is declared with.

    A field that holds a config itself takes a mapping: what it does not name stays as it is.

    Args:
        config: A frozen dataclass.
        settings: Values by field name.
        of: Whose settings they are, for the error.

    Raises:
        ConfigError: if there is no such field, or a value is of another type or refused by the config.

    Example:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Model(Record):
        ...     width: int = 64
        ...     layers: int = 2
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Settings(Record):
        ...     model: Model = Model(width=96)
        ...     rate: float = 0.1
        >>> with_settings(Settings(), {"model": {"layers": 3}, "rate": 1}, of="recipe 'mine'").to_json()
        {'model': {'width': 96, 'layers': 3}, 'rate': 1}
        >>> with_settings(Settings(), {"rate": "high"}, of="recipe 'mine'")
        Traceback (most recent call last):
            ...
        docendo.errors.ConfigError: rate of recipe 'mine' is 'high'; expected a number.
    """
    kind: Any = type(config)
    fields = {each.name: each for each in dataclasses.fields(kind)}
    for name in settings:
        if name not in fields:
            raise ConfigError(f"{of} has no setting {name!r}", expected=f"one of {', '.join(fields)}")
    return config.replace(
        **{
            name: _fitting(value, getattr(config, name), _hint(kind, fields[name]), f"{name} of {of}")
            for name, value in settings.items()
        }
    )


def _hint(kind: type, declared: dataclasses.Field[Any]) -> Any:
    """The type of a field, also where it is written as text and that of another is not known at run time."""
    alone = type(kind.__name__, (), {"__module__": kind.__module__, "__annotations__": {"it": declared.type}})
    try:
        return get_type_hints(alone)["it"]
    except NameError:  # imported for type checkers only: the config checks for itself
        return Any


def _fitting(value: Any, current: Any, hint: Any, name: str) -> Any:
    """The value for a field; JSON's lists become tuples, and mappings the configs they are changes of."""
    if isinstance(current, Record) and isinstance(value, Mapping):
        return with_settings(current, value, of=name)
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_is(value, each) for each in hints):
        expected = " or ".join(_words(each) for each in hints)
        raise ConfigError(f"{name} is {short(value)}", expected=expected)
    return tuple(value) if isinstance(value, list) and tuple in map(_kind, hints) else value


def _kind(hint: Any) -> Any:
    return get_origin(hint) or hint


def _is(value: Any, hint: Any) -> bool:
    kind = _kind(hint)
    if kind is Literal:
        return value in get_args(hint)
    if kind is bool or kind is NoneType or kind is str:
        return isinstance(value, kind)
    if kind is int:
        return is_count(value)
    if kind is float:
        return is_number(value)
    if kind is tuple:
        return isinstance(value, (list, tuple))
    return not isinstance(kind, type) or isinstance(value, kind)


def _words(hint: Any) -> str:
    kind = _kind(hint)
    if kind is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    return _WORDS.get(kind) or f"settings of {getattr(kind, '__name__', kind)} by name"
