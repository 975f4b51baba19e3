"""What an engine tells about its finished requests: rows of a ledger, and events for who listens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from docendo.agents._ledger import LedgerEntry, ledger_rows
from docendo.records import EngineEvent

_log = logging.getLogger(__name__)


class Accounts:
    """Counts requests from their events, so that ledger and telemetry cannot disagree.

    Example:
        >>> from docendo.records import Origin, Usage
        >>> accounts = Accounts()
        >>> origin = Origin(role="student", agent="ann")
        >>> usage = Usage(prompt_tokens=3, generated_tokens=1)
        >>> accounts.record(
        ...     EngineEvent(kind="generate", status="finished", origin=origin, model="m", usage=usage)
        ... )
        >>> accounts.rows()[0]["prompt_tokens"]
        3
    """

    def __init__(self) -> None:
        """Starts with an empty ledger and no listener."""
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str, str | None], LedgerEntry] = {}
        self._listeners: list[Callable[[EngineEvent], None]] = []

    def record(self, event: EngineEvent) -> None:
        """Adds a request to the ledger if it finished, and calls the listeners in this thread."""
        with self._lock:
            if event.status == "finished":
                key = (event.origin.role, event.origin.agent, event.adapter)
                entry = self._entries.setdefault(key, LedgerEntry())
                entry.calls += 1
                entry.prompt_tokens += event.usage.prompt_tokens
                entry.cached_tokens += event.usage.cached_tokens
                entry.generated_tokens += event.usage.generated_tokens
                entry.seconds += event.seconds
            listeners = tuple(self._listeners)
        for listener in listeners:
            try:
                listener(event)
            except Exception:  # telemetry that fails must not fail the request that it is told of
                _log.warning("a listener to engine events failed", exc_info=True)

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Adds a listener; returns what removes it (once; later calls do nothing)."""

        def listen(event: EngineEvent) -> None:
            callback(event)

        with self._lock:
            self._listeners.append(listen)

        def unsubscribe() -> None:
            with self._lock:
                if listen in self._listeners:
                    self._listeners.remove(listen)

        return unsubscribe

    def rows(self) -> list[dict[str, Any]]:
        """The ledger as JSON rows."""
        with self._lock:
            return ledger_rows(self._entries, {})
