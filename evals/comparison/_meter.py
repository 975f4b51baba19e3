"""Meters: what engines are asked for, counted at the engine."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, get_args

from docendo.errors import ConfigError, ResumeError, StorageError
from docendo.files import write_text
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

    With a log each request is written down as well, also before its result is given out. So the log knows of
    every result that anybody has, even if the process is killed; only what the engine was at work on then is
    lost, and after a power failure what the system had not yet written to the disk.

    Args:
        engines: The engines to listen to.
        log: File of what was spent. What it holds of an earlier meter counts as spent.

    Example:
        >>> from docendo.agents import ScriptedEngine, Student
        >>> from docendo.evals import make_item
        >>> engine = ScriptedEngine(["Answer: 4"])
        >>> with Meter(engine) as meter:
        ...     _ = Student(engine).reply(make_item("What is 2 + 2?", 4).public)
        >>> meter.spent["calls"]
        1.0
    """

    def __init__(self, *engines: EngineProtocol, log: str | Path | None = None) -> None:
        if not engines:
            raise ConfigError("a meter has no engine", expected="at least one to listen to")
        self._engines = engines
        self._lock = threading.Lock()
        self._stop: list[Callable[[], None]] = []
        self._log = None if log is None else Path(log)
        self._file: BinaryIO | None = None
        self._before: dict[str, float] = {unit: 0.0 for unit in UNITS}
        self._spent = dict(self._before)

    @property
    def spent(self) -> dict[str, float]:
        """What has been spent so far, by unit, what the log held included."""
        with self._lock:
            return dict(self._spent)

    @property
    def before(self) -> dict[str, float]:
        """What of it the log held when the meter was opened; zeros without a log."""
        return dict(self._before)

    def __enter__(self) -> Self:
        """Begins to listen.

        Raises:
            ResumeError: if the log is damaged.
            StorageError: if it cannot be read or written.
        """
        if self._log is not None:
            self._before = read_log(self._log)
            self._spent = dict(self._before)
            self._keep()
            self._file = self._log.open("ab", buffering=0)
        self._stop = [engine.subscribe(self._count) for engine in dict.fromkeys(self._engines)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stop in self._stop:
            stop()
        if self._file is not None:
            self._file.close()
            self._keep()

    def _keep(self) -> None:
        """Writes the log anew, as one line that is on the disk when this returns."""
        if self._log is not None:
            write_text(self._log, _line(self.spent))

    def _count(self, event: EngineEvent) -> None:
        usage = event.usage
        used = {
            "tokens": usage.prompt_tokens + usage.generated_tokens,
            "generated tokens": usage.generated_tokens,
            "calls": 1,
            "flops": event.flops,
            "seconds": event.seconds,
        }
        with self._lock:
            self._spent = {unit: self._spent[unit] + used[unit] for unit in UNITS}
            if self._file is not None:
                # What cannot be written now is written at the end, or that raises.
                with contextlib.suppress(OSError, ValueError):
                    self._file.write(_line(used).encode())


def _line(used: Mapping[str, float]) -> str:
    return json.dumps({unit: used[unit] for unit in UNITS}) + "\n"


def read_log(path: Path) -> dict[str, float]:
    """What a meter's log holds, by unit; zeros if there is none.

    A last line without an end was cut off by a crash, before the result that it is of was given out.

    Raises:
        ResumeError: if another line is damaged.
        StorageError: if the file cannot be read.
    """
    spent: dict[str, float] = dict.fromkeys(UNITS, 0.0)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        for line in lines:
            used = json.loads(line)
            spent = {unit: spent[unit] + float(used[unit]) for unit in UNITS}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeError(
            f"cannot read {path} ({type(error).__name__}: {error})",
            expected="what a meter wrote",
            remedy=f"remove {path.parent}, so that this run begins anew",
        ) from error
    return spent
