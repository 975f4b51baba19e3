"""What has been used, counted where it is used: at the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class LedgerEntry:
    """What one role has used. Seconds are compute seconds: a step's time is shared by its rows."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0


def ledger_rows(
    entries: dict[tuple[str, str, str | None], LedgerEntry], names: dict[str, str]
) -> list[dict[str, Any]]:
    """The ledger as JSON rows, keyed by (role, agent, adapter digest); `names` gives adapters their names."""
    rows = []
    for (role, agent, adapter), entry in sorted(entries.items(), key=lambda pair: str(pair[0])):
        rows.append(
            {
                "role": role,
                "agent": agent,
                "adapter": names.get(adapter or "", adapter),
                "calls": entry.calls,
                "prompt_tokens": entry.prompt_tokens,
                "cached_tokens": entry.cached_tokens,
                "generated_tokens": entry.generated_tokens,
                "seconds": round(entry.seconds, 3),
            }
        )
    return rows
