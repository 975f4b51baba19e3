"""What a training was made of: digests and ids, in the manifest and, where there is one, in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docendo.distill.datasets._messages import plain
from docendo.hashing import digest
from docendo.memory import Artifacts, Database

_ORIGIN = ("trace", "traces", "posts")


def data_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """The digest of what rows teach; where they come from is no part of it."""
    return digest(
        [
            [[key, plain(row[key])] for key in sorted(row) if key not in _ORIGIN and row[key] is not None]
            for row in rows
        ]
    )


def origins(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The turns that rows were made of, and the posts that held these; empty lists where rows name none."""
    traces: dict[str, None] = {}
    posts: dict[str, None] = {}
    for row in rows:
        if isinstance(trace := row.get("trace"), str) and trace:
            traces[trace] = None
        traces.update(dict.fromkeys(row.get("traces") or ()))
        posts.update(dict.fromkeys(row.get("posts") or ()))
    return {"traces": list(traces), "posts": list(posts)}


def lineage(rows: Iterable[Mapping[str, Any]], parent: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an adapter learnt from: its rows' turns and posts, and what the manifest of its parent says."""
    older = (parent or {}).get("lineage") or {}
    made = {name: list(dict.fromkeys([*own, *older.get(name, ())])) for name, own in origins(rows).items()}
    # A parent that does not know all it learnt from cannot have children that do.
    return {**made, "unknown": older["unknown"]} if older.get("unknown") else made


def record_dataset(database: Database, rows: Sequence[Mapping[str, Any]]) -> str:
    """Records a data set and returns its digest."""
    name = data_digest(rows)
    Artifacts(database).dataset(name, **origins(rows), rows=len(rows))
    return name
