"""How turns follow from each other: which parents are there, and an order with parents before children."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from docendo.errors import DataError
from docendo.records import Trace


def by_id(traces: Iterable[Trace]) -> dict[str, Trace]:
    """Traces by id, in an order that does not depend on the given one.

    Raises:
        DataError: if two different ones have one id.
    """
    given: dict[str, Trace] = {}
    for trace in traces:
        if given.setdefault(trace.id, trace) != trace:
            raise DataError(f"two different traces have the id {trace.id!r}", expected="one trace per id")
    return {trace.id: trace for trace in sorted(given.values(), key=_place)}


def known_parents(given: Mapping[str, Trace]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The parents of each turn that are of its run and item, and the ids of those that are not there."""
    parents: dict[str, tuple[str, ...]] = {}
    missing: dict[str, None] = {}
    for trace in given.values():
        there = []
        for name in dict.fromkeys(trace.parents):
            parent = given.get(name)
            if parent is not None and (parent.run, parent.item) == (trace.run, trace.item):
                there.append(name)
            else:
                missing[name] = None
        parents[trace.id] = tuple(there)
    return parents, tuple(missing)


def in_order(given: Mapping[str, Trace], parents: Mapping[str, tuple[str, ...]]) -> dict[str, Trace]:
    """The turns, parents before children; among those that could come next the first by place.

    Raises:
        DataError: if some answer to each other in a circle.
    """
    children: dict[str, list[str]] = {name: [] for name in given}
    waiting = {}
    for name, above in parents.items():
        waiting[name] = len(above)
        for parent in above:
            children[parent].append(name)
    ready = [_place(given[name]) for name, count in waiting.items() if not count]
    heapq.heapify(ready)
    found: dict[str, Trace] = {}
    while ready:
        name = heapq.heappop(ready)[-1]
        found[name] = given[name]
        for child in children[name]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, _place(given[child]))
    if len(found) < len(given):
        circle = sorted(set(given) - set(found))[:3]
        raise DataError(
            f"traces answer to each other in a circle (among them {', '.join(circle)})",
            expected="turns that answer to earlier ones",
        )
    return found


def _place(trace: Trace) -> tuple[Any, ...]:
    return trace.run, trace.item, trace.node, trace.step, trace.sample, trace.id
