"""What has been used, counted where it is used: at the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from docendo.records import Usage


class LedgerKey(NamedTuple):
    """Whose account it is; `adapter` is a digest, or None for the base model."""

    run: str
    role: str
    agent: str
    adapter: str | None


@dataclass(slots=True)
class LedgerEntry:
    """One account. Seconds are compute seconds: a pass's time is shared by its tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def add(self, usage: Usage, seconds: float = 0.0, flops: float = 0.0) -> None:
        """Books one request."""
        self.calls += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.generated_tokens += usage.generated_tokens
        self.seconds += seconds
        self.flops += flops


def ledger_rows(
    entries: Mapping[LedgerKey, LedgerEntry], *, model: str, names: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The ledger as JSON rows; `names` gives adapter digests their names."""
    rows = []
    for key, entry in sorted(entries.items(), key=lambda pair: str(pair[0])):
        rows.append(
            {
                "run": key.run,
                "role": key.role,
                "agent": key.agent,
                "model": model,
                "adapter": (names or {}).get(key.adapter or "", key.adapter),
                "calls": entry.calls,
                "prompt_tokens": entry.prompt_tokens,
                "cached_tokens": entry.cached_tokens,
                "generated_tokens": entry.generated_tokens,
                "seconds": round(entry.seconds, 3),
                "flops": entry.flops,
            }
        )
    return rows
