"""What a merged adapter descends from: the union of what its parts do, and nothing tainted unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from docendo.distill.adapters._adapter import WEIGHTS, Adapter
from docendo.errors import AdapterError
from docendo.memory import Artifacts, Blackboard, Database, Taint


def require_clean(adapters: Sequence[Adapter], taints: Iterable[Taint], database: Database | None) -> None:
    """Refuses adapters that learnt from what is tainted.

    Args:
        adapters: The adapters.
        taints: What may not have been learnt from, whether it is quarantined or not.
        database: Where to look for quarantined posts, on all boards.

    Raises:
        AdapterError: if one did, or says so little of its origin that it cannot be ruled out.
    """
    for taint in [*taints, *(_quarantined(database) if database is not None else ())]:
        for adapter in adapters:
            if adapter.descends_from(taint):
                raise AdapterError(
                    f"adapter {adapter.name!r} learnt from what post {taint.post} led to",
                    expected="adapters that did not",
                    remedy="train it again without, or leave it out",
                )


def merged_lineage(adapters: Sequence[Adapter], *, unknown: bool) -> dict[str, list[str]]:
    """The union of the adapters' turns and posts, in sorted order.

    Args:
        adapters: The adapters.
        unknown: Whether some may name no turns where others do. Their SHA-256 are kept under "unknown", so
            that `Adapter.descends_from` never takes the union for all of it.

    Raises:
        AdapterError: if some do not and `unknown` is False.
    """
    found = [adapter.manifest.get("lineage") or {} for adapter in adapters]
    silent = sorted(
        adapter.sha256
        for adapter, one in zip(adapters, found, strict=True)
        if not one.get("traces") or one.get("unknown")
    )
    mixed = silent and any(one.get("traces") for one in found)
    if mixed and not unknown:
        name = next(adapter.name for adapter in adapters if adapter.sha256 == silent[0])
        raise AdapterError(
            f"adapter {name!r} does not name all turns that it learnt from, and others do",
            expected="adapters whose origin is known",
            remedy="merge them with unknown_lineage=True, which the merged adapter will say",
        )
    union = {key: sorted({one for each in found for one in each.get(key, ())}) for key in ("traces", "posts")}
    return {**union, "unknown": silent} if mixed else union


def record_merge(database: Database | None, adapters: Sequence[Adapter], manifest: dict[str, Any]) -> None:
    """Records that an adapter descends from others, so that `Blackboard.taint` finds it."""
    if database is None:
        return
    artifacts = Artifacts(database)
    with database.transaction():
        for adapter in adapters:
            artifacts.adapter(
                manifest["files"][WEIGHTS],
                dataset=adapter.manifest["data"]["digest"],
                parent=adapter.sha256,
                name=manifest["name"],
                base=adapter.base,
            )


def _quarantined(database: Database) -> list[Taint]:
    """What descends from posts that are quarantined now, on every board."""
    found = []
    for name in Blackboard.names(database):
        board = Blackboard(database, name=name)
        found += [board.taint(post.id) for post in board.posts(trust="quarantined")]
    return found
