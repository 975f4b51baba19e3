"""What engines share that ask a model elsewhere: they queue, wait, stream, count and close alike."""

from __future__ import annotations

import asyncio
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

from docendo.agents._accounts import Accounts
from docendo.agents._dispatch import Dispatcher, Job
from docendo.agents._streams import astream, stream
from docendo.agents._templates import plain_text
from docendo.errors import AdapterError, CapabilityError
from docendo.records import (
    Capabilities,
    Chunk,
    EngineEvent,
    EventStatus,
    Feature,
    Message,
    Request,
    Result,
    ScoreRequest,
    ScoreResult,
    Usage,
)


class RemoteEngine(ABC):
    """An engine without weights: no scoring, no adapters, no pause. Subclasses say how one request is sent.

    Requests wait by priority until fewer than `max_concurrency` are on their way.
    """

    model_path = None

    def __init__(
        self,
        *,
        name: str,
        fingerprint: str,
        capabilities: Capabilities,
        max_concurrency: int,
        max_waiting: int,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """Starts the thread that sends; `close` is awaited in it at the end."""
        self.name, self.fingerprint, self.capabilities = name, fingerprint, capabilities
        self._accounts = Accounts()
        self._dispatcher = Dispatcher(concurrency=max_concurrency, waiting=max_waiting, close=close)
        self._closer = weakref.finalize(self, self._dispatcher.stop)

    @abstractmethod
    def _job(self, request: Request, put: Callable[[Chunk], None] | None = None) -> Job[Result]:
        """Checks a request and makes the job of it, which tells its chunks to `put`."""

    # --- requests --------------------------------------------------------------------------------

    def submit(self, request: Request) -> Future[Result]:
        """Queues a generation request and returns at once, unless `max_waiting` requests wait already.

        Raises:
            CapabilityError: if it needs what the engine lacks.
            ConfigError: if the prompt is empty or malformed.
            EngineClosed: if the engine is closed.
            DeadlineExceeded: if there was no place in the queue in time.
        """
        return self._submit(self._job(request))

    def generate(self, request: Request) -> Result:
        """Generates and waits; see `submit`."""
        future = self.submit(request)
        try:
            return future.result()
        finally:
            future.cancel()  # Ctrl-C while waiting must not leave it running

    async def agenerate(self, request: Request) -> Result:
        """Generates without blocking the event loop; cancelling the task cancels the request."""
        job = self._job(request)
        await self._dispatcher.room.aenter(job.timeout)
        return await asyncio.wrap_future(self._dispatch(job))

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Generates piece by piece; closing the iterator cancels the request."""
        return stream(lambda put: self._submit(self._job(request, put)))

    def astream(self, request: Request) -> AsyncIterator[Chunk]:
        """Generates piece by piece without blocking the event loop."""
        return astream(lambda put: self._submit(self._job(request, put)))

    def submit_score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Not offered.

        Raises:
            CapabilityError: always.
        """
        self._lack("score", by="scoring")

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Not offered; see `submit_score`."""
        self._lack("score", by="scoring")

    async def ascore(self, request: ScoreRequest) -> ScoreResult:
        """Not offered; see `submit_score`."""
        self._lack("score", by="scoring")

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """One line per tool and message: the model's own template is not known here."""
        return plain_text(messages, tools)

    # --- adapters --------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | Path) -> str:
        """Not offered.

        Raises:
            CapabilityError: always.
        """
        self._lack("adapters", by=f"adapter {name!r}")

    def drop_adapter(self, name: str) -> None:
        """There is none to forget.

        Raises:
            AdapterError: always.
        """
        self.adapter_hash(name)

    def adapters(self) -> dict[str, str]:
        """None."""
        return {}

    def adapter_hash(self, name: str | None) -> str | None:
        """None for the base model; there is no other.

        Raises:
            AdapterError: if a name is given.
        """
        if name is not None:
            raise AdapterError(f"adapter {name!r} is not loaded; the engine {self.name!r} has no adapters")
        return None

    # --- life ------------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not offered: what runs elsewhere cannot be stopped from here.

        Raises:
            CapabilityError: always.
        """
        self._require({"pause"}, by="pausing")
        yield

    def ledger(self) -> list[dict[str, Any]]:
        """Calls, tokens (as they were reported) and seconds by run, role and agent.

        Seconds are wall time while requests were on their way, shared equally by those that were.
        """
        return self._accounts.rows(model=self.name)

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Calls back, in the engine's thread, after each request that ends; returns what unsubscribes."""
        return self._accounts.subscribe(callback)

    def close(self) -> None:
        """Breaks off all requests, which fail with `EngineClosed`, and ends the engine's thread."""
        self._closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- for subclasses --------------------------------------------------------------------------

    def _reporter(
        self, request: Request
    ) -> Callable[[Job[Result], EventStatus, Result | None, BaseException | None], None]:
        """What turns the end of a job into an event."""
        accounts, model = self._accounts, self.name  # not self: an unused engine can be collected

        def report(
            job: Job[Result], status: EventStatus, result: Result | None, error: BaseException | None
        ) -> None:
            ended, now = time.time(), time.perf_counter()

            def at(moment: float) -> float:
                return ended - (now - moment) if moment else ended

            accounts.record(
                EngineEvent(
                    kind="generate",
                    status=status,
                    origin=request.origin,
                    model=model,
                    adapter=request.adapter,
                    sampling=request.sampling,
                    usage=result.usage if result and status == "finished" else Usage(),
                    finish_reasons=tuple(c.finish_reason for c in result.completions) if result else (),
                    submitted=at(job.submitted),
                    started=at(job.started),
                    first_token=at(job.first_token),
                    ended=ended,
                    seconds=job.seconds(),
                    error=type(error).__name__ if error else "",
                )
            )

        return report

    def _submit(self, job: Job[Result]) -> Future[Result]:
        self._dispatcher.room.enter(job.timeout)
        return self._dispatch(job)

    def _dispatch(self, job: Job[Result]) -> Future[Result]:
        try:
            self._dispatcher.submit(job)
        except BaseException:
            self._dispatcher.room.leave()
            raise
        return job.future

    def _require(self, needs: AbstractSet[Feature], *, by: str) -> None:
        self.capabilities.require(frozenset(needs), engine=self.name, by=by)

    def _lack(self, feature: Feature, *, by: str) -> NoReturn:
        raise CapabilityError(
            f"{by} needs {feature}, which the engine {self.name!r} lacks",
            expected="an engine that offers it",
            remedy="use docendo.agents.Engine, or do without",
        )
