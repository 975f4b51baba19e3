"""Whether what a comparison says is enough to promote an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docendo.errors import AdapterError, ConfigError
from docendo.records import Record

_EXPECTED = 'a mapping with "verdict" and "reason", as docendo.evals.compare(before, after) returns it'
_REMEDY = "evaluate the incumbent and this adapter, compare the two, or force it with a reason"


def plain_verdict(verdict: Mapping[str, Any] | Record | None) -> dict[str, Any] | None:
    """A verdict as JSON values.

    Raises:
        ConfigError: if it is something else, or holds what JSON has no form for.
    """
    if verdict is None:
        return None
    plain = verdict.to_json() if isinstance(verdict, Record) else verdict
    if not isinstance(plain, Mapping):
        raise ConfigError(f"the verdict is {verdict!r}"[:120], expected=_EXPECTED)
    try:
        found = json.loads(json.dumps(dict(plain), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the verdict cannot be written as JSON ({error})", expected="JSON values"
        ) from None
    return dict(found)


def objection(
    verdict: Mapping[str, Any] | None, sha256: str, *, base: str, alias: str = "", now: str | None = None
) -> str | None:
    """Why a verdict is not enough to promote an adapter, or None if it is.

    It has to be about these weights: a comparison of any two evaluations says "better" of something.

    Args:
        verdict: The verdict of a gate or of a comparison. It names what was measured: "adapter" and
            "incumbent", or the "after_adapter" and "before_adapter" of a comparison, None being the base
            model; and the base models, where it knows them.
        sha256: The adapter.
        base: Fingerprint of its base model.
        alias: What is to point to it.
        now: The adapter that the alias points to, or None if it points nowhere.

    Example:
        >>> objection({"verdict": "no effect shown", "reason": "the interval holds 0"}, "a1", base="b1")
        "the verdict is 'no effect shown': the interval holds 0"
        >>> said = {"verdict": "better", "reason": "12 of 200 items more"}
        >>> objection(said, "a1", base="b1")
        'the verdict does not say which adapter was measured'
        >>> objection({**said, "adapter": "a1", "incumbent": None}, "a1", base="b1") is None
        True
    """
    if not verdict:
        return "there is no verdict"
    said, reason = verdict.get("verdict"), verdict.get("reason")
    if not isinstance(said, str) or not said.strip():
        return "the evidence holds no verdict"
    if said != "better":
        return f"the verdict is {said!r}" + (f": {reason}" if reason else "")
    if not isinstance(reason, str) or not reason.strip():
        return "the verdict 'better' has no reason"
    # A gate's verdict holds the comparison that it goes by.
    inner = verdict.get("comparison")
    return _misplaced(
        {**(inner if isinstance(inner, Mapping) else {}), **verdict},
        sha256,
        base=base,
        alias=alias,
        now=now,
    )


def _misplaced(
    found: Mapping[str, Any], sha256: str, *, base: str, alias: str, now: str | None
) -> str | None:
    """Why what was measured is not what is to be promoted, and over what it is to be promoted."""
    about = [found[key] for key in ("adapter", "after_adapter") if found.get(key) is not None]
    if not about:
        return "the verdict does not say which adapter was measured"
    if other := [one for one in about if one != sha256]:
        return f"the verdict is about adapter {str(other[0])[:12]}"
    for side in ("before", "after"):
        model = found.get(f"{side}_model")
        if model and model != base:
            return f"{side!r} was measured on the base model {str(model)[:12]}, and its own is {base[:12]}"
    if "incumbent" in found:
        over = found["incumbent"]
    elif found.get("before_model") or found.get("before_adapter"):
        over = found.get("before_adapter")
    else:
        return "the verdict does not say what the adapter was compared with"
    if over == sha256:
        return "the verdict compares the adapter with itself"
    if now not in (None, sha256, over):
        who = "the base model" if over is None else str(over)[:12]
        return f"the verdict is on a win over {who}, and {alias} points to {str(now)[:12]}"
    return None


def require_evidence(
    verdict: Mapping[str, Any] | None,
    sha256: str,
    *,
    base: str,
    name: str,
    alias: str,
    now: str | None,
    force: bool,
    reason: str,
) -> bool:
    """Checks a promotion; returns whether it was forced, which nothing is that has evidence.

    The arguments are those of `objection`, and `name` is what the user calls the adapter.

    Raises:
        ConfigError: if it is forced without a reason.
        AdapterError: if it is not forced and the evidence is not enough.
    """
    if not isinstance(reason, str):
        raise ConfigError(f"reason is {reason!r}", expected="a text")
    if force and not reason.strip():
        raise ConfigError("force=True has no reason", expected="the reason, which is kept in the history")
    why = objection(verdict, sha256, base=base, alias=alias, now=now)
    if why and not force:
        raise AdapterError(
            f"{name!r} is not promoted, because {why}", expected='the verdict "better"', remedy=_REMEDY
        )
    return bool(why)
