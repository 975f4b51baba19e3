"""What filters and match conditions of LangGraph's stores mean."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from docendo.hashing import canonical_json

if TYPE_CHECKING:
    from langgraph.store.base import MatchCondition

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def accepts(value: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    """Whether a value has all fields that a filter asks for.

    Example:
        >>> accepts({"kind": "note", "year": 2024}, {"kind": "note", "year": {"$gte": 2020}})
        True

    Raises:
        ValueError: if the filter has an operator that is none.
    """
    return all(_accepts(value.get(name), wanted) for name, wanted in condition.items())


def _accepts(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(str(name).startswith("$") for name in wanted):
            return all(_compare(value, name, limit) for name, limit in wanted.items())
        return isinstance(value, Mapping) and accepts(value, wanted)
    if isinstance(wanted, (list, tuple)):
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(wanted)
            and all(map(_accepts, value, wanted))
        )
    return bool(value == wanted)


def _compare(value: Any, name: str, limit: Any) -> bool:
    if name == "$eq":
        return bool(value == limit)
    if name == "$ne":
        return bool(value != limit)
    if name not in _ORDERS:
        raise ValueError(f"the filter has the operator {name!r}; expected $eq, $ne, {', '.join(_ORDERS)}")
    try:
        return _ORDERS[name](float(value), float(limit))
    except (TypeError, ValueError):
        # Dates, for example. A field that is missing is neither more nor less than anything.
        return isinstance(value, str) and isinstance(limit, str) and _ORDERS[name](value, limit)


def holding(condition: Mapping[str, Any]) -> list[str]:
    r"""Returns texts that the canonical JSON of every accepted value holds, for the database to look for.

    Example:
        >>> holding({"kind": "note", "year": {"$gte": 2020}, "tag": {"$eq": "a\tb"}})
        ['"kind":"note"', '"tag":"a\\tb"']
    """
    found = []
    for name, wanted in condition.items():
        if isinstance(wanted, Mapping) and isinstance(wanted.get("$eq"), str):
            wanted = wanted["$eq"]
        if isinstance(wanted, str):
            found.append(f"{json.dumps(name, ensure_ascii=False)}:{canonical_json(wanted)}")
    return found


def matches(namespace: Sequence[str], condition: MatchCondition) -> bool:
    """Whether a namespace begins or ends with a path; `*` in the path stands for any label.

    Raises:
        ValueError: if the condition is neither on the beginning nor on the end.
    """
    path = condition.path
    if condition.match_type not in ("prefix", "suffix"):
        raise ValueError(f"the match type is {condition.match_type!r}; expected prefix or suffix")
    if len(namespace) < len(path):
        return False
    part = (
        namespace[: len(path)]
        if condition.match_type == "prefix"
        else namespace[len(namespace) - len(path) :]
    )
    return all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))
