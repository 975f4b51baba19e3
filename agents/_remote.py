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
from typing import Any, Self, TypeVar

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
    SamplingParams,
    ScoreRequest,
    ScoreResult,
    Usage,
)

T = TypeVar("T", Result, ScoreResult)


class RemoteEngine(ABC):
    """An engine without weights: by itself no scoring, no adapters, no pause.

    Subclasses say how a request is sent (`_job`), and how one is scored (`_score_job`) if they can.

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

    def _score_job(self, request: ScoreRequest) -> Job[ScoreResult]:
        """Checks a scoring request and makes the job of it; here it is refused."""
        raise CapabilityError.lacking({"score"}, engine=self.name, by="scoring")

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
        return self._wait(self.submit(request))

    async def agenerate(self, request: Request) -> Result:
        """Generates without blocking the event loop; cancelling the task cancels the request."""
        return await self._asubmit(self._job(request))

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Generates piece by piece; closing the iterator cancels the request."""
        return stream(lambda put: self._submit(self._job(request, put)))

    def astream(self, request: Request) -> AsyncIterator[Chunk]:
        """Generates piece by piece without blocking the event loop."""
        return astream(lambda put: self._submit(self._job(request, put)))

    def submit_score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Queues a scoring request; see `submit`.

        Raises:
            CapabilityError: if the engine cannot score.
        """
        return self._submit(self._score_job(request))

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Scores and waits; see `submit_score`."""
        return self._wait(self.submit_score(request))

    async def ascore(self, request: ScoreRequest) -> ScoreResult:
        """Scores without blocking the event loop; see `submit_score`."""
        return await self._asubmit(self._score_job(request))

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """One line per tool and message: the model's own template is not known here."""
        return plain_text(messages, tools)

    # --- adapters --------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | Path) -> str:
        """Not offered.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError.lacking({"adapters"}, engine=self.name, by=f"adapter {name!r}")

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
        """Calls, tokens (as they were reported) and seconds by run, role, agent and adapter.

        What a request that was broken off has used is not told: only its seconds are counted. Seconds are
        wall time while requests were on their way, shared equally by those that were.
        """
        names = {sha256: name for name, sha256 in self.adapters().items()}
        return self._accounts.rows(model=self.name, names=names)

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
        self, request: Request | ScoreRequest
    ) -> Callable[[Job[Any], EventStatus, Any, BaseException | None], None]:
        """What turns the end of a job into an event."""
        # Not self: an unused engine can be collected.
        accounts, model, adapter = self._accounts, self.name, self.adapter_hash(request.adapter)

        def report(job: Job[Any], status: EventStatus, result: Any, error: BaseException | None) -> None:
            ended, now = time.time(), time.perf_counter()

            def at(moment: float) -> float:
                return ended - (now - moment) if moment else ended

            completions = result.completions if isinstance(result, Result) else ()
            accounts.record(
                EngineEvent(
                    kind="generate" if isinstance(request, Request) else "score",
                    status=status,
                    origin=request.origin,
                    model=model,
                    adapter=request.adapter,
                    sampling=request.sampling if isinstance(request, Request) else SamplingParams(),
                    usage=result.usage if result and status == "finished" else Usage(),
                    finish_reasons=tuple(completion.finish_reason for completion in completions),
                    submitted=at(job.submitted),
                    started=at(job.started),
                    first_token=at(job.first_token),
                    ended=ended,
                    seconds=job.seconds(),
                    error=type(error).__name__ if error else "",
                    prompt=request.prompt,
                    texts=tuple(completion.text for completion in completions),
                ),
                adapter=adapter,
            )

        return report

    def _submit(self, job: Job[T]) -> Future[T]:
        self._dispatcher.room.enter(job.timeout)
        return self._dispatch(job)

    async def _asubmit(self, job: Job[T]) -> T:
        await self._dispatcher.room.aenter(job.timeout)
        return await asyncio.wrap_future(self._dispatch(job))

    def _dispatch(self, job: Job[T]) -> Future[T]:
        try:
            self._dispatcher.submit(job)
        except BaseException:
            self._dispatcher.room.leave()
            raise
        return job.future

    @staticmethod
    def _wait(future: Future[T]) -> T:
        try:
            return future.result()
        finally:
            future.cancel()  # Ctrl-C while waiting must not leave it running

    def _require(self, needs: AbstractSet[Feature], *, by: str) -> None:
        self.capabilities.require(frozenset(needs), engine=self.name, by=by)
