"""What answers are judged by, as JSON: another scorer or another gold answer is another measurement."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from docendo.evals.items._scorer import ExactScorer
from docendo.evals.items._tasks import only_answer, reference
from docendo.hashing import canonical_json, digest
from docendo.records import Item
from docendo.scoring import Scorer

# Reads gold answers of whatever type.
_KEY = ExactScorer()
#: What is longer is named by its digest.
_LONGEST = 200


def key_digest(items: Iterable[Item]) -> str:
    """Digest of questions and gold answers, whatever their order; an answer that is not unique is left out.

    Example:
        >>> from docendo.evals import make_item
        >>> key_digest([make_item("2 + 2", 4)]) == key_digest([make_item("2 + 2", 5)])
        False
    """
    return digest("key", sorted((item.id, item.public.question, _gold(item)) for item in items))


def scorer_identity(scorer: Scorer) -> dict[str, Any]:
    """What makes a scorer judge as it does: its kind, its name and its settings.

    Example:
        >>> scorer_identity(ExactScorer(ignore_case=True))
        {'scorer': 'exact-ignore-case', 'kind': 'ExactScorer', 'ignore_case': True}
    """
    return {"scorer": scorer.name, "kind": type(scorer).__qualname__, **settings_of(scorer)}


def settings_of(thing: object) -> dict[str, Any]:
    """The settings of a scorer or a reward: its attributes, but for its name and those that begin with `_`.

    Of what JSON has no form for the type is taken, so two that differ in nothing else look alike.
    """
    if is_dataclass(thing):
        found = {field.name: getattr(thing, field.name) for field in fields(thing)}
    else:
        found = getattr(thing, "__dict__", {})
    public = {key: value for key, value in sorted(found.items()) if key != "name" and key[0] != "_"}
    return {key: _brief(_plain(value)) for key, value in public.items()}


def _gold(item: Item) -> Any:
    """The gold as JSON; empty where it has no such form, or is not the only one."""
    unique = only_answer(item)
    if unique is not None or reference(item) is not None:
        return canonical_json(unique)
    try:
        return canonical_json(_KEY.open(item))
    except (TypeError, ValueError):
        return ""


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Scorer):
        return scorer_identity(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return type(value).__qualname__


def _brief(value: Any) -> Any:
    return value if len(canonical_json(value)) <= _LONGEST else digest(value)
