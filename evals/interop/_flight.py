"""Many requests at an engine at once, each answered on the thread that asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from docendo.agents import EngineProtocol
from docendo.errors import DataError, InfrastructureError, ModelFailure, UserError
from docendo.records import Request, ScoreRequest

#: Requests at an engine at once: what one admission of `Engine` looks at. More would only let what follows
#: from an answer come after its stored beginning has been dropped.
MOST = 256

Start = Callable[[], None]


class Flight:
    """Keeps a number of requests at an engine; their answers may ask for more.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> texts = []
        >>> flight = Flight(ScriptedEngine(["Four."]))
        >>> ask = lambda: flight.ask(
        ...     Request(prompt="2 + 2?"), lambda result: texts.append(result.text), about="item 1"
        ... )
        >>> flight.run([ask])
        >>> texts
        ['Four.']
    """

    def __init__(self, engine: EngineProtocol, *, most: int = MOST) -> None:
        """Prepares for at most `most` requests at a time that no answer has led to."""
        self._engine, self._most = engine, most
        self._open: dict[Future[Any], tuple[Callable[[Any], None], str]] = {}
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()

    def ask(self, request: Request | ScoreRequest, done: Callable[[Any], None], *, about: str) -> None:
        """Submits a request.

        Args:
            request: What is asked.
            done: Called with the result, on the thread that runs.
            about: What errors say it was for.
        """
        submit: Callable[[Any], Future[Any]] = (
            self._engine.submit if isinstance(request, Request) else self._engine.submit_score
        )
        try:
            future = submit(request)
        except Exception as error:
            raise _named(error, about) from error
        self._open[future] = done, about
        future.add_done_callback(self._ended.put)

    def run(self, starts: Iterable[Start]) -> None:
        """Calls `starts`, which ask, as places become free, and returns when all is answered.

        The first error ends the run; what is still open is cancelled.

        Raises:
            DataError: if a request cannot be used; it says which.
            ModelFailure: if the model failed on one.
            InfrastructureError: if the machine did.
        """
        waiting = iter(starts)
        left = True
        try:
            while left or self._open:
                while left and len(self._open) < self._most:
                    start = next(waiting, None)
                    left = start is not None
                    if start is not None:
                        start()
                if self._open:
                    self._take(self._ended.get())
        finally:
            for future in self._open:
                future.cancel()

    def _take(self, future: Future[Any]) -> None:
        done, about = self._open.pop(future)
        try:
            result = future.result()
        except Exception as error:
            raise _named(error, about) from error
        done(result)


def _named(error: Exception, about: str) -> Exception:
    """The error, saying what it was about; its kind still says who is to blame."""
    if isinstance(error, UserError):
        return DataError(f"{about}: {error.seen}", expected=error.expected, remedy=error.remedy)
    if isinstance(error, ModelFailure):
        return ModelFailure(f"{about}: {error}")
    return InfrastructureError(f"{about}: {error or type(error).__name__}")
