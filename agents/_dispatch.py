"""A thread with an event loop that sends requests to a server: so many at once, the others wait in order.

An engine that asks a server has nothing to compute, but much to wait for: this is the waiting, apart from
what is sent. Waiting is bounded: when `waiting` requests wait, the next caller does.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from docendo.errors import DeadlineExceeded, EngineClosed
from docendo.records import EventStatus

T = TypeVar("T")


def closed() -> EngineClosed:
    """The error of requests that a closed engine gets."""
    return EngineClosed("the engine is closed; make it again")


def late(timeout: float) -> DeadlineExceeded:
    """The error of requests that took too long."""
    return DeadlineExceeded(f"the request was not finished within its timeout of {timeout:g} s")


class Room:
    """Counts who may wait; the others queue here, in a thread or in an event loop."""

    def __init__(self, size: int) -> None:
        """Has room for `size` requests."""
        self._lock = threading.Lock()
        self._free = size
        self._queue: deque[Future[None]] = deque()
        self._closed = False

    def enter(self, timeout: float | None) -> None:
        """Takes a place, blocking until there is one."""
        turn = self._turn()
        try:
            turn.result(timeout)
        except TimeoutError:
            self._give_up(turn)
            raise late(timeout or 0.0) from None
        except KeyboardInterrupt:
            self._give_up(turn)
            raise

    async def aenter(self, timeout: float | None) -> None:
        """Takes a place without blocking the event loop."""
        turn = self._turn()
        if turn.done():
            return turn.result()
        try:
            await asyncio.wait_for(asyncio.wrap_future(turn), timeout)
        except TimeoutError:
            self._give_up(turn)
            raise late(timeout or 0.0) from None
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def leave(self) -> None:
        """Gives a place back, to the first in the queue."""
        with self._lock:
            while self._queue:
                turn = self._queue.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._free += 1

    def close(self) -> None:
        """Sends everybody away."""
        with self._lock:
            self._closed = True
            for turn in self._queue:
                if turn.set_running_or_notify_cancel():
                    turn.set_exception(closed())
            self._queue.clear()

    def _turn(self) -> Future[None]:
        turn: Future[None] = Future()
        with self._lock:
            if self._closed:
                turn.set_exception(closed())
            elif self._free:
                self._free -= 1
                turn.set_result(None)
            else:
                self._queue.append(turn)
        return turn

    def _give_up(self, turn: Future[None]) -> None:
        # It may have been called up in the same moment; then the place goes to the next.
        if not turn.cancel() and turn.exception() is None:
            self.leave()


class _Clock:
    """Shares wall time equally among the running requests, so that their seconds add up to it."""

    def __init__(self) -> None:
        self.running = 0
        self._share = 0.0
        self._last = time.perf_counter()

    def read(self) -> float:
        now = time.perf_counter()
        if self.running:
            self._share += (now - self._last) / self.running
        self._last = now
        return self._share

    def change(self, by: int) -> None:
        self.read()
        self.running += by


@dataclass(slots=True, eq=False, kw_only=True)
class Job(Generic[T]):
    """A request on its way. Times are those of `time.perf_counter`; 0 means not yet.

    `timeout` counts from submission, `patience` from when it is sent.
    """

    work: Callable[[Job[T]], Coroutine[Any, Any, T]]
    report: Callable[[Job[T], EventStatus, T | None, BaseException | None], None]
    priority: int = 0
    timeout: float | None = None
    patience: float | None = None
    future: Future[T] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    first_token: float = 0.0
    task: asyncio.Task[T] | None = None
    _clock: _Clock | None = None
    _start_share: float = 0.0
    _entry: tuple[int, int, Job[T]] | None = None
    _timers: list[asyncio.TimerHandle] = field(default_factory=list)
    _expired: DeadlineExceeded | None = None
    _ended: bool = False

    def seconds(self) -> float:
        """Seconds of the server's time so far, shared with the requests that run beside it."""
        return self._clock.read() - self._start_share if self._clock else 0.0


class Dispatcher:
    """Runs jobs in a thread of its own. It knows no engine, so that an unused engine can be collected."""

    def __init__(self, *, concurrency: int, waiting: int, close: Callable[[], Awaitable[None]]) -> None:
        """Starts the thread; `close` is awaited in it at the end."""
        self.room = Room(concurrency + waiting)
        self._concurrency = concurrency
        self._close = close
        self._clock = _Clock()
        self._queue: list[tuple[int, int, Job[Any]]] = []
        self._running: set[Job[Any]] = set()
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._closing = False
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main()), name="docendo-server", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def submit(self, job: Job[Any]) -> None:
        """Queues a job that has a place in `room`."""
        with self._lock:
            if self._closing:
                raise closed()
            self._loop.call_soon_threadsafe(self._enqueue, job)
        job.future.add_done_callback(partial(self._on_done, job))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the thread, beside the queue, and waits for it."""
        with self._lock:
            if self._closing:
                work.close()
                raise closed()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def stop(self) -> None:
        """Ends the thread; jobs that run or wait fail with `EngineClosed`."""
        with self._lock:
            first, self._closing = not self._closing, True
        if first:
            self._loop.call_soon_threadsafe(self._stopping.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._ready.set()
        await self._stopping.wait()
        self.room.close()
        for _, _, job in list(self._queue):
            self._end(job, None, closed())
        self._queue.clear()
        tasks = [job.task for job in self._running if job.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close()

    # --- in the thread ---------------------------------------------------------------------------

    def _enqueue(self, job: Job[Any]) -> None:
        if self._stopping.is_set():
            self._end(job, None, closed())
            return
        if job.timeout is not None:
            left = job.submitted + job.timeout - time.perf_counter()
            self._alarm(job, max(0.0, left), late(job.timeout))
        job._entry = (job.priority, next(self._order), job)
        heapq.heappush(self._queue, job._entry)
        self._pump()

    def _pump(self) -> None:
        while self._queue and len(self._running) < self._concurrency and not self._stopping.is_set():
            job = heapq.heappop(self._queue)[2]
            self._clock.change(+1)
            job._clock, job._start_share = self._clock, self._clock.read()
            job.started = time.perf_counter()
            if job.patience is not None:
                error = DeadlineExceeded(f"the server did not answer within {job.patience:g} s")
                self._alarm(job, job.patience, error)
            job.task = self._loop.create_task(job.work(job))
            self._running.add(job)
            job.task.add_done_callback(partial(self._finish, job))

    def _finish(self, job: Job[Any], task: asyncio.Task[Any]) -> None:
        result: Any = None
        error: BaseException | None = None
        if task.cancelled():
            if job._expired:
                error = job._expired
            elif not job.future.cancelled():
                error = closed()
        elif (failure := task.exception()) is not None:
            error = failure
        else:
            result = task.result()
        self._end(job, result, error)
        self._running.discard(job)
        self._clock.change(-1)
        self._pump()

    def _on_done(self, job: Job[Any], future: Future[Any]) -> None:
        if future.cancelled():
            try:
                self._loop.call_soon_threadsafe(self._drop, job, None)
            except RuntimeError:  # the loop is closed, and with it every connection
                return

    def _alarm(self, job: Job[Any], seconds: float, error: DeadlineExceeded) -> None:
        def ring() -> None:
            job._expired = error
            self._drop(job, error)

        job._timers.append(self._loop.call_later(seconds, ring))

    def _drop(self, job: Job[Any], error: DeadlineExceeded | None) -> None:
        if job._ended:
            return
        if job.task is not None:
            job.task.cancel()
        else:
            if job._entry in self._queue:
                self._queue.remove(job._entry)
                heapq.heapify(self._queue)
            self._end(job, None, error)

    def _end(self, job: Job[Any], result: Any, error: BaseException | None) -> None:
        if job._ended:
            return
        job._ended = True
        for timer in job._timers:
            timer.cancel()
        # From here on it cannot be cancelled, so that what is counted is what the caller sees.
        kept = job.future.set_running_or_notify_cancel()
        status: EventStatus = "cancelled" if not kept else "failed" if error else "finished"
        job.report(job, status, result, error)
        # Futures keep their callbacks, and these the job: without this it would keep the engine.
        del job.work, job.report
        job.task = None
        self.room.leave()
        if not kept:
            return
        if error:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
