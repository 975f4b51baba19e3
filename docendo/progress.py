"""Progress that is live on a terminal and plain lines in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """What long work reports to."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts finished steps; `note` is a short text such as `loss 0.41`."""


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class _Lines:
    """One line each time a tenth is done, or ten seconds have passed."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._start = self._last = time.monotonic()
        self._shown = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        tenth = 10 * self._done // max(1, self._total)
        if tenth > self._shown or now - self._last >= 10:
            self._shown, self._last = tenth, now
            tail = f"  {note}" if note else ""
            print(
                f"{self._title}: {self._done}/{self._total}  {now - self._start:.0f} s{tail}",
                file=sys.stderr,
                flush=True,
            )


class _Bar:
    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Rich

        self._rich = Rich(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._rich.start()
        self._task = self._rich.add_task(title, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._rich.update(self._task, advance=steps)
        if note:
            self._rich.update(self._task, note=note)

    def stop(self) -> None:
        self._rich.stop()


@contextmanager
def progress(title: str, total: int, *, quiet: bool = False) -> Iterator[Progress]:
    """Yields a `Progress`: a bar on a terminal, plain lines elsewhere, nothing if `quiet`.

    Example:
        >>> with progress("work", 3, quiet=True) as bar:
        ...     for _ in range(3):
        ...         bar.advance()
    """
    if quiet:
        yield _Silent()
    elif sys.stderr.isatty():
        bar = _Bar(title, total)
        try:
            yield bar
        finally:
            bar.stop()
    else:
        yield _Lines(title, total)


def say(line: str) -> None:
    """Prints one status line on stderr, where it does not mix with `--json` output."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps progress bars and deprecation notes of the libraries off the user's terminal."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
