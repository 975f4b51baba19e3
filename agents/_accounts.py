"""What an engine tells about its requests: rows of a ledger, and events for who listens."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from docendo.agents._ledger import LedgerEntry, LedgerKey, ledger_rows
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
        >>> accounts.rows(model="m")[0]["prompt_tokens"]
        3
    """

    def __init__(self) -> None:
        """Starts with an empty ledger and no listener."""
        self._lock = threading.Lock()
        self._entries: dict[LedgerKey, LedgerEntry] = defaultdict(LedgerEntry)
        self._listeners: list[Callable[[EngineEvent], None]] = []

    def record(self, event: EngineEvent, *, adapter: str | None = None) -> None:
        """Books a request that was begun, however it ended, and calls the listeners in this thread.

        Args:
            event: The request.
            adapter: Digest of its adapter.
        """
        with self._lock:
            if event.status == "finished" or event.started < event.ended:
                key = LedgerKey(event.origin.run, event.origin.role, event.origin.agent, adapter)
                self._entries[key].add(event.usage, event.seconds, event.flops)
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

    def rows(self, *, model: str, names: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """The ledger as JSON rows; `names` gives adapter digests their names."""
        with self._lock:
            return ledger_rows(self._entries, model=model, names=names)
