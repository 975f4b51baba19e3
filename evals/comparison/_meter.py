"""Meters: what engines are asked for, counted at the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, get_args

from docendo.errors import ConfigError
from docendo.records import EngineEvent

if TYPE_CHECKING:
    from docendo.agents import EngineProtocol

#: What a budget is counted in. Tokens are those read and those written; seconds are compute seconds.
Unit = Literal["tokens", "generated tokens", "calls", "flops", "seconds"]
UNITS: tuple[Unit, ...] = get_args(Unit)


class Meter:
    """Counts what engines do between `with` and its end, whoever asks them.

    It hears of each request from the engine's own ledger, before its result is given out, so nothing that
    an arm does on these engines can go uncounted. Requests of others at the same time are counted as well.

    Args:
        engines: The engines to listen to.

    Example:
        >>> from docendo.agents import ScriptedEngine, Student
        >>> from docendo.evals import make_item
        >>> engine = ScriptedEngine(["Answer: 4"])
        >>> with Meter(engine) as meter:
        ...     _ = Student(engine).reply(make_item("What is 2 + 2?", 4).public)
        >>> meter.spent["calls"]
        1.0
    """

    def __init__(self, *engines: EngineProtocol) -> None:
        if not engines:
            raise ConfigError("a meter has no engine", expected="at least one to listen to")
        self._engines = engines
        self._lock = threading.Lock()
        self._stop: list[Callable[[], None]] = []
        self._spent: dict[str, float] = dict.fromkeys(UNITS, 0.0)

    @property
    def spent(self) -> dict[str, float]:
        """What has been spent so far, by unit."""
        with self._lock:
            return dict(self._spent)

    def __enter__(self) -> Self:
        self._stop = [engine.subscribe(self._count) for engine in dict.fromkeys(self._engines)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stop in self._stop:
            stop()

    def _count(self, event: EngineEvent) -> None:
        usage = event.usage
        with self._lock:
            self._spent["tokens"] += usage.prompt_tokens + usage.generated_tokens
            self._spent["generated tokens"] += usage.generated_tokens
            self._spent["calls"] += 1
            self._spent["flops"] += event.flops
            self._spent["seconds"] += event.seconds
