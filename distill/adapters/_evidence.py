"""Whether what a comparison says is enough to promote an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docendo.errors import AdapterError, ConfigError
from docendo.records import Record

_EXPECTED = 'a mapping with "verdict" and "reason", as docendo.evals.compare(before, after) returns it'
_REMEDY = "compare before and after, or force it with a reason"


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
    verdict: Mapping[str, Any] | None, sha256: str, *, alias: str = "", now: str | None = None
) -> str | None:
    """Why a verdict is not enough to promote an adapter, or None if it is.

    Args:
        verdict: The verdict. If it names an "adapter" or an "incumbent", these must be the ones.
        sha256: The adapter.
        alias: What is to point to it.
        now: The adapter that the alias points to, or None if it points nowhere.

    Example:
        >>> objection({"verdict": "no effect shown", "reason": "the interval holds 0"}, "a1")
        "the verdict is 'no effect shown': the interval holds 0"
        >>> objection({"verdict": "better", "reason": "12 of 200 items more"}, "a1") is None
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
    about = verdict.get("adapter")
    if about is not None and not (isinstance(about, str) and len(about) >= 8 and sha256.startswith(about)):
        return f"the verdict is about adapter {str(about)[:12]}"
    if "incumbent" in verdict and now not in (None, sha256, over := verdict["incumbent"]):
        who = "the base model" if over is None else str(over)[:12]
        return f"the verdict is on a win over {who}, and {alias} points to {str(now)[:12]}"
    return None


def require_evidence(
    verdict: Mapping[str, Any] | None,
    sha256: str,
    *,
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
    why = objection(verdict, sha256, alias=alias, now=now)
    if why and not force:
        raise AdapterError(
            f"{name!r} is not promoted, because {why}", expected='the verdict "better"', remedy=_REMEDY
        )
    return bool(why)
