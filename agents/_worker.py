"""The owner thread of a model, and the bounded queue in front of it."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import torch

from docendo.agents._jobs import Job
from docendo.agents._rows import RowLoop
from docendo.errors import DeadlineExceeded, EngineClosed

_log = logging.getLogger("docendo.engine")
_CLOSED = "the engine is closed; load it again"
#: Seconds in which an idle engine lets in callers that submit together: their threads need Python's lock,
#: which the first pass would keep. It ends when nobody has come for so long: callers that start together come
#: 0.3 to 0.7 milliseconds apart, and a step of SmolLM2-135M takes thirty of them.
HANDOVER = 0.001
#: Seconds after which the first pass begins in any case: a latecomer costs more, a pass of its own.
MOST_HANDOVER = 0.02


class Worker:
    """Runs a loop on a thread of its own.

    It holds the loop and not the engine, so that an unused engine can be collected.
    """

    def __init__(self, loop: RowLoop, *, max_queue: int) -> None:
        """Starts the thread; `max_queue` bounds the jobs that have not begun."""
        self.loop, self.max_queue = loop, max_queue
        self._condition = threading.Condition()
        self._incoming: list[Job] = []
        self._line: deque[Future[None]] = deque()
        self._queued = 0
        self._pauses = 0
        self._stepping = False
        self._closing = False
        loop.take_in = self._take_in
        loop.desk.on_left = lambda _: self._leave()
        self._thread = threading.Thread(target=self._run, name="docendo-engine", daemon=True)
        self._thread.start()

    # --- the queue -------------------------------------------------------------------------------

    def submit(self, job: Job) -> Future[Any]:
        """Queues a job and returns its future; blocks while the queue is full."""
        place = self._enter()
        try:
            place.result(None if job.deadline == math.inf else max(0.0, job.deadline - time.monotonic()))
        except FutureTimeout:
            self._give_up(place)
            raise DeadlineExceeded(f"the queue of {self.max_queue} requests stayed full") from None
        except BaseException:  # Ctrl-C while waiting: the place must not be lost
            self._give_up(place)
            raise
        self._put(job)
        return job.future

    async def asubmit(self, job: Job) -> Any:
        """Queues a job and awaits its result; cancelling the task cancels the job."""
        place = self._enter()
        left = None if job.deadline == math.inf else max(0.0, job.deadline - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await asyncio.wrap_future(place)
        except TimeoutError:
            self._give_up(place)
            raise DeadlineExceeded(f"the queue of {self.max_queue} requests stayed full") from None
        except BaseException:
            self._give_up(place)
            raise
        self._put(job)
        return await asyncio.wrap_future(job.future)

    def _enter(self) -> Future[None]:
        """A place in the queue, granted when the future is done."""
        place: Future[None] = Future()
        with self._condition:
            if self._closing:
                raise EngineClosed(_CLOSED)
            # A callback on the owner thread must not wait for itself.
            if self._queued < self.max_queue or threading.current_thread() is self._thread:
                self._queued += 1
                place.set_result(None)
            else:
                self._line.append(place)
        return place

    def _give_up(self, place: Future[None]) -> None:
        """Gives back a place that was not used."""
        if not place.cancel() and not place.cancelled() and place.exception() is None:
            self._leave()

    def _leave(self) -> None:
        """One job has left the queue: the next may come in."""
        with self._condition:
            self._queued -= 1
            while self._line and self._queued < self.max_queue:
                place = self._line.popleft()
                if place.set_running_or_notify_cancel():
                    self._queued += 1
                    place.set_result(None)

    def _put(self, job: Job) -> None:
        with self._condition:
            if self._closing:
                raise EngineClosed(_CLOSED)
            self._incoming.append(job)
            self._condition.notify_all()

    # --- life ------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Waits for the running step; no other begins before `go_on`."""
        with self._condition:
            self._pauses += 1
            if threading.current_thread() is not self._thread:
                self._condition.wait_for(lambda: not self._stepping)

    def go_on(self) -> None:
        """Ends one `pause`."""
        with self._condition:
            self._pauses -= 1
            self._condition.notify_all()

    def stop(self) -> None:
        """Ends the thread after the running step."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        with torch.inference_mode():
            while self._wait():
                try:
                    if self._pauses:
                        self.loop.expire()
                    else:
                        self.loop.step()
                    failures = 0
                except (
                    Exception
                ) as error:  # the thread must outlive a failing pass; its callers get the error
                    _log.debug("a step failed", exc_info=True)
                    failures += 1
                    # Those that wait are not to blame, unless nothing ran or it happens again and again.
                    fail = (
                        self.loop.fail_running if self.loop.running and failures < 3 else self.loop.fail_all
                    )
                    fail(error)
                finally:
                    with self._condition:
                        self._stepping = False
                        self._condition.notify_all()
        closed = EngineClosed("the engine was closed before the request finished")
        self.loop.fail_all(closed)
        with self._condition:
            for place in self._line:
                if place.set_running_or_notify_cancel():
                    place.set_exception(EngineClosed(_CLOSED))
            self._line.clear()

    def _take_in(self) -> None:
        with self._condition:
            self.loop.desk.enqueue(self._incoming)
            self._incoming.clear()

    def _wait(self) -> bool:
        """Waits for something to do and takes in what has arrived; returns whether to go on."""
        with self._condition:
            idle = not self.loop.busy
            while not self._closing:
                self._take_in()
                late = self.loop.next_deadline - time.monotonic()
                if (self.loop.busy and not self._pauses) or late <= 0:
                    break
                self._condition.wait(None if late == math.inf else late)
            if idle:
                self._let_in()
            self._take_in()
            self._stepping = not self._closing
            return self._stepping

    def _let_in(self) -> None:
        """Lets callers finish that submit at this moment, so that the first of many has no pass alone."""
        until = time.monotonic() + MOST_HANDOVER
        while not self._closing and not self._pauses and time.monotonic() < until:
            if not self._condition.wait_for(lambda: bool(self._incoming) or self._closing, HANDOVER):
                return
            self._take_in()
