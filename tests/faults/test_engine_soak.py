"""Ten thousand tiny requests, many given up half-way: nothing stays behind, and the queue keeps its bound."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from docendo.agents import Engine
from docendo.errors import DeadlineExceeded
from docendo.records import EngineEvent, Request, SamplingParams, ScoreRequest

pytestmark = pytest.mark.slow

REQUESTS = 10_000
BOUND = 256
THREADS = 4
LOOPS = 2
#: Growth over the second half, in MB: a leak of 1 KB a request would be 5.
GROWTH = 24


def resident() -> float:
    """Resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class Load:
    """What the callers share: how many have been asked for, and how they ended."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = threading.Lock()
        self.left = REQUESTS
        self.ends: Counter[str] = Counter()
        self.futures: list[Future[Any]] = []
        self.errors: list[BaseException] = []

    def take(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def ended(self, how: str) -> None:
        with self.lock:
            self.ends[how] += 1


def ask(draws: random.Random, *, late: bool = False) -> Request:
    beginning = draws.choice([(), tuple(range(20, 60)), tuple(range(90, 120))])
    return Request(
        prompt=(*beginning, *(draws.randrange(10, 250) for _ in range(draws.randint(1, 8)))),
        sampling=SamplingParams(
            max_tokens=draws.randint(1, 4), temperature=draws.choice((0.0, 1.0)), n=draws.choice((1, 1, 1, 3))
        ),
        priority=draws.randint(0, 2),
        timeout=draws.uniform(0.0005, 0.05) if late else None,
    )


def settle(load: Load, future: Future[Any]) -> None:
    try:
        future.result(30)
        load.ended("finished")
    except CancelledError:
        load.ended("cancelled")
    except DeadlineExceeded:
        load.ended("late")


def as_thread(load: Load, number: int) -> None:
    draws, engine = random.Random(number), load.engine
    pending: list[Future[Any]] = []
    while load.take():
        how = draws.random()
        try:
            if how < 0.1:
                stream = engine.stream(ask(draws))
                next(stream)
                stream.close()  # type: ignore[attr-defined]
                load.ended("closed")
                continue
            if how < 0.2:
                pending.append(engine.submit_score(ScoreRequest(prompt=(5, 6), completion=(7, 8))))
            else:
                pending.append(engine.submit(ask(draws, late=how < 0.35)))
        except DeadlineExceeded:
            load.ended("late")
            continue
        load.futures.append(pending[-1])
        if how > 0.8:
            pending[draws.randrange(len(pending))].cancel()
        while len(pending) > 120:
            settle(load, pending.pop(0))
    for future in pending:
        settle(load, future)


async def one_of_a_loop(load: Load, draws: random.Random) -> None:
    engine, how = load.engine, draws.random()
    try:
        if how < 0.1:
            chunks = engine.astream(ask(draws))
            await anext(chunks)
            await chunks.aclose()  # type: ignore[attr-defined]
            load.ended("closed")
        elif how < 0.4:
            task = asyncio.create_task(engine.agenerate(ask(draws)))
            await asyncio.sleep(draws.uniform(0, 0.02))
            task.cancel()
            try:
                await task
                load.ended("finished")
            except asyncio.CancelledError:
                load.ended("cancelled")
        else:
            await engine.agenerate(ask(draws, late=how < 0.55))
            load.ended("finished")
    except DeadlineExceeded:
        load.ended("late")


async def as_loop(load: Load, number: int) -> None:
    draws = random.Random(1000 + number)

    async def some() -> None:
        while load.take():
            await one_of_a_loop(load, draws)

    await asyncio.gather(*(some() for _ in range(80)))


@pytest.mark.timeout(120)
def test_ten_thousand_requests_leave_nothing_behind(tiny_model_dir: Path) -> None:
    gc.collect()
    threads_before = set(threading.enumerate())
    engine = Engine.load(
        tiny_model_dir, dtype="float32", device="cpu", max_queue=BOUND, max_rows=32, prefix_tokens=1024
    )
    worker = engine._worker
    load = Load(engine)
    events: Counter[str] = Counter()
    engine.subscribe(lambda event: events.update([event.status]))
    most = [0]
    over = threading.Event()
    memory: list[tuple[int, float]] = []

    def observe() -> None:
        while not over.wait(0.002):
            most[0] = max(most[0], worker._queued)
            assert_bound(worker)
            if not memory or memory[-1][0] - load.left >= 250:
                memory.append((load.left, resident()))

    def assert_bound(worker: Any) -> None:
        if len(worker.loop.desk.waiting) + len(worker._incoming) > BOUND + 32:  # begun ones may come back
            load.errors.append(AssertionError(f"{len(worker.loop.desk.waiting)} requests wait"))

    # Every change of the count is seen, not only what the observer happens to meet.
    original = worker._enter

    def enter() -> Any:
        place = original()
        most[0] = max(most[0], worker._queued)
        return place

    worker._enter = enter  # type: ignore[method-assign]

    def guarded(call: Any) -> None:
        try:
            call()
        except BaseException as error:
            load.errors.append(error)

    callers = [
        threading.Thread(target=guarded, args=(lambda n=n: as_thread(load, n),)) for n in range(THREADS)
    ] + [
        threading.Thread(target=guarded, args=(lambda n=n: asyncio.run(as_loop(load, n)),))
        for n in range(LOOPS)
    ]
    observer = threading.Thread(target=observe)
    observer.start()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(100)
    over.set()
    observer.join()
    assert not any(caller.is_alive() for caller in callers), f"stuck with {load.left} to go: {load.ends}"
    assert not load.errors, load.errors[:3]

    deadline = time.monotonic() + 10
    while (worker.loop.busy or worker._incoming) and time.monotonic() < deadline:
        time.sleep(0.005)
    loop = worker.loop
    assert (loop.rows, loop.desk.waiting, worker._incoming) == ([], [], [])
    assert (worker._queued, len(worker._line)) == (0, 0)
    assert all(future.done() for future in load.futures)
    assert most[0] <= BOUND
    assert most[0] > BOUND // 2, "the queue was never full enough for this test"
    assert sum(load.ends.values()) == REQUESTS
    assert all(load.ends[how] > 50 for how in ("finished", "cancelled", "late", "closed")), load.ends
    assert set(events) == {"finished", "cancelled", "failed"}
    calls = sum(row["calls"] for row in engine.ledger())
    assert REQUESTS // 2 < calls <= sum(events.values()) <= REQUESTS

    assert engine.generate(Request(prompt=(5, 6, 7), sampling=SamplingParams(max_tokens=2))).completions
    engine.close()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - threads_before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads_before

    half = [megabytes for left, megabytes in memory if left < REQUESTS // 2]
    assert len(half) > 10
    first, last = sorted(half[:5])[2], sorted(half[-5:])[2]
    assert last - first < GROWTH, f"grew from {first:.0f} to {last:.0f} MB: {memory}"


def test_an_event_says_how_each_ended(tiny_model_dir: Path) -> None:
    """Each request that an engine took is booked once."""
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu", max_rows=4) as engine:
        seen: list[EngineEvent] = []
        engine.subscribe(seen.append)
        draws = random.Random(0)
        futures = [engine.submit(ask(draws, late=number % 3 == 0)) for number in range(300)]
        for future in draws.sample(futures, 100):
            future.cancel()
        for future in futures:
            with contextlib.suppress(CancelledError, DeadlineExceeded):
                future.result(30)
        deadline = time.monotonic() + 10
        while len(seen) < len(futures) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(seen) == len(futures)
        assert Counter(event.status for event in seen)["failed"] <= 100
