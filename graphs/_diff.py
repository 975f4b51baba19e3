"""What differs between two runs: settings, outcomes, the first turn in which an item went another way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docendo.graphs._manage import find_run, open_run
from docendo.memory import UNSET, differences
from docendo.records import Record, Trace

#: What two outcomes are compared by; ids of posts and traces differ between any two runs.
_IDS = frozenset({"task", "attempts", "posts", "hints", "demonstrations"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDiff(Record):
    """How two runs differ.

    Attributes:
        before: Name of the first run.
        after: Name of the second run.
        config: Settings that differ: "field", "before" and "after"; an absent side is left out.
        items: Items whose outcome differs: "item", "fields" with both values, and "turn", the first turn in
            which they differ, or None.
        only_before: Items that only the first run has finished.
        only_after: Items that only the second run has finished.
        same: How many items have the same outcome in both.
        usage: Per role, calls, tokens and seconds of both.
    """

    before: str
    after: str
    config: tuple[Mapping[str, Any], ...]
    items: tuple[Mapping[str, Any], ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    same: int
    usage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def diff_runs(
    before: str, after: str, *, where: str | Path = "runs", where_after: str | Path | None = None
) -> RunDiff:
    """Compares two stored runs.

    Args:
        before: Name of the first run.
        after: Name of the second run.
        where: Where runs are, as for `list_runs`.
        where_after: Where the second one is, if not there.

    Raises:
        DataError: if one of them does not exist.
        IntegrityError: if what is stored of them is damaged.
    """
    first_source, first_row = find_run(before, where)
    second_source, second_row = find_run(after, where if where_after is None else where_after)
    with open_run(first_source, first_row) as first, open_run(second_source, second_row) as second:
        both = first.outcomes.keys() & second.outcomes.keys()
        changed = []
        for item in sorted(both):
            fields = _values(differences(_shown(first.outcomes[item]), _shown(second.outcomes[item])))
            if fields:
                turn = _first_turn(first.traces(item=item), second.traces(item=item))
                changed.append({"item": item, "fields": fields, "turn": turn})
        usage = {"before": first.usage(), "after": second.usage()}
        return RunDiff(
            before=before,
            after=after,
            config=tuple(_values(differences(first_row.config, second_row.config))),
            items=tuple(changed),
            only_before=tuple(sorted(first.outcomes.keys() - both)),
            only_after=tuple(sorted(second.outcomes.keys() - both)),
            same=len(both) - len(changed),
            usage={
                role: {side: used.get(role) for side, used in usage.items()}
                for role in sorted({*usage["before"], *usage["after"]})
            },
        )


def _shown(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome with numbers of posts and traces in place of their ids."""
    return {
        key: len(value) if key in _IDS and isinstance(value, list) else value
        for key, value in outcome.items()
        if key not in _IDS or isinstance(value, list)
    }


def _values(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in change.items() if value is not UNSET} for change in changes]


def _first_turn(before: list[Trace], after: list[Trace]) -> dict[str, Any] | None:
    """The first turn, in the order of the first run, that the second said otherwise or did not take."""
    theirs = {_place(trace): trace for trace in after}
    for trace in before:
        other = theirs.pop(_place(trace), None)
        if other is None or other.completion != trace.completion or _said(other) != _said(trace):
            return _turn(trace, other)
    return _turn(None, next(iter(theirs.values()))) if theirs else None


def _place(trace: Trace) -> tuple[str, int, int]:
    return trace.node, trace.step, trace.sample


def _said(trace: Trace) -> list[dict[str, Any]]:
    return [dict(message) for message in trace.messages]


def _turn(before: Trace | None, after: Trace | None) -> dict[str, Any]:
    trace = before or after
    known = {} if trace is None else dict(zip(("node", "step", "sample"), _place(trace), strict=True))
    known["role"] = "" if trace is None else trace.author.role
    prompts = None if before is None or after is None else _said(before) != _said(after)
    return {
        **known,
        "prompt_differs": prompts,
        "before": None if before is None else before.completion,
        "after": None if after is None else after.completion,
    }
