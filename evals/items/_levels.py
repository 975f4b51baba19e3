"""Levels of difficulty: reasoning_gym's curricula, resolved into plain settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docendo.checks import is_count
from docendo.errors import ConfigError


def level_settings(name: str, level: int | None, levels: Mapping[str, int] | None) -> dict[str, Any]:
    """The settings that levels stand for; ranges go from the easiest level to the one that is asked for.

    Args:
        name: Name of a generator of reasoning_gym.
        level: The level of all attributes, from 0; attributes with fewer levels stay at their last.
        levels: Levels of single attributes, such as `{"num_terms": 2}`.

    Raises:
        ConfigError: if the generator has no curriculum, no such attribute, or not so many levels.

    Example:
        >>> level_settings("chain_sum", 1, {"num_digits": 0})
        {'min_terms': 2, 'max_terms': 3, 'min_digits': 1, 'max_digits': 1}
    """
    given: object = levels
    if not (given is None or isinstance(given, Mapping)):
        raise ConfigError(f"levels is {given!r}", expected='levels of attributes, such as {"num_terms": 2}')
    if level is None and not levels:
        return {}
    curriculum = _curriculum(name)
    found = attributes(name)
    if level is not None:
        most = max(found.values(), default=0)
        _check(f"level of reasoning_gym:{name}", level, most)
        for attribute, last in found.items():
            curriculum.set_attr_level(attribute, min(level, last))
    for attribute, wanted in (levels or {}).items():
        if attribute not in found:
            raise ConfigError(
                f"reasoning_gym:{name} has no attribute {attribute!r}", expected=f"one of {', '.join(found)}"
            )
        _check(f"level of {attribute!r} of reasoning_gym:{name}", wanted, found[attribute])
        curriculum.set_attr_level(attribute, wanted)
    made = curriculum.generate_configuration()
    names = [
        field
        for attribute in curriculum.attributes.values()
        for field in (
            getattr(attribute, "lower_field_name", None),
            getattr(attribute, "upper_field_name", None),
            getattr(attribute, "field_name", None),
        )
        if field
    ]
    return {field: getattr(made, field) for field in names}


def attributes(name: str) -> dict[str, int]:
    """The attributes of a generator's curriculum, each with its last level.

    Example:
        >>> attributes("chain_sum")
        {'num_terms': 10, 'num_digits': 9}
    """
    return {key: len(each.levels) - 1 for key, each in _curriculum(name).attributes.items()}


def has_levels(name: str) -> bool:
    """Whether a generator has a curriculum."""
    from reasoning_gym.factory import CURRICULA

    return name in CURRICULA


def _curriculum(name: str) -> Any:
    from reasoning_gym.factory import create_curriculum

    if not has_levels(name):
        raise ConfigError(f"reasoning_gym:{name} has no levels", remedy="give its settings one by one")
    return create_curriculum(name)


def _check(what: str, level: object, most: int) -> None:
    if not is_count(level) or not 0 <= level <= most:
        raise ConfigError(f"the {what} is {level!r}", expected=f"0 to {most}")
