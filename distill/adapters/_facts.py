"""What the manifests of adapters say, in one place: they differ by method and by age."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def parents_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """SHA-256 of the adapters that this one was trained on from, or merged from.

    Example:
        >>> parents_of({"parent": "a1"}), parents_of({"parent": None, "parents": ["a1", "b2"]})
        (('a1',), ('a1', 'b2'))
    """
    one = facts.get("parent")
    return tuple(dict.fromkeys([*([one] if one else []), *(facts.get("parents") or ())]))


def method_of(facts: Mapping[str, Any]) -> str:
    """The name of the training method or "merge"; empty if the manifest does not say."""
    return str((facts.get("method") or {}).get("name") or "")


def objective_of(facts: Mapping[str, Any]) -> str:
    """What was minimised, as a sum of terms, or how adapters were merged; empty if it does not say.

    Example:
        >>> objective_of({"method": {"objective": [{"name": "kl", "weight": 0.5, "beta": 0.1}]}})
        '0.5 kl(beta=0.1)'
    """
    method = facts.get("method") or {}
    if method.get("combination"):
        return str(method["combination"])
    terms = method.get("objective")
    if isinstance(terms, (list, tuple)) and all(
        isinstance(term, Mapping) and "name" in term for term in terms
    ):
        return " + ".join(_term(term) for term in terms)
    # Preference losses are named by a text or a list of texts.
    loss = terms or method.get("loss") or method.get("loss_type") or ""
    return " + ".join(map(str, loss)) if isinstance(loss, (list, tuple)) else str(loss)


def _term(term: Mapping[str, Any]) -> str:
    weight = term.get("weight", 1)
    settings = ", ".join(f"{key}={value}" for key, value in term.items() if key not in ("name", "weight"))
    factor = "" if weight == 1 else f"{weight:g} "
    return f"{factor}{term['name']}" + (f"({settings})" if settings else "")


def seed_of(facts: Mapping[str, Any]) -> int | None:
    """The seed of the training, if there was one."""
    return (facts.get("config") or {}).get("seed")
