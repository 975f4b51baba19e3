"""Askers and workers are killed with SIGKILL at random moments: no request is lost and none answered twice.

SIGKILL is not power loss: the page cache survives it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from docendo.agents import Worker, volunteers
from docendo.memory import Blackboard, Requests
from docendo.memory.requests import _claims
from docendo.records import Author

pytestmark = pytest.mark.slow

REQUESTS = 40
KILLS = 25
LEASE = 0.5
MAIN = Author(agent="main", role="main")


def asker(url: str, release: Path) -> None:
    """Asks everything, then collects everything; run again it asks nothing anew."""
    with Blackboard.open(url) as board:
        requests = Requests(board, askers=("main",))
        asked = []
        for number in range(REQUESTS):
            while number == REQUESTS - 1 and not release.exists():
                time.sleep(0.01)  # a fast machine must not be done before the killer is
            rules = {"places": 2, "deadline": 120.0, "patience": 0.2}
            asked.append(requests.ask(f"{number}?", author=MAIN, key=str(number), **rules))
            time.sleep(0.02)
        for request in asked:
            requests.collect(request, reader=MAIN, wait=None, quorum=1)


def worker(url: str, name: str) -> None:
    """Serves two volunteers; those of all workers have the same names."""

    def slow(request: object) -> str:
        time.sleep(0.05)
        return f"{name} {os.getpid()}"

    who = [volunteers(confidence=lambda request: 0.9, name=each)(slow) for each in ("a", "b")]
    with Blackboard.open(url) as board:
        asyncio.run(Worker(board, who, name=name, lease=LEASE).run())


def start(url: str, name: str, release: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        asker(url, release) if name == "asker" else worker(url, name)
        os._exit(0)
    except BaseException as error:
        print(f"{name}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def test_killed_askers_and_workers(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine three leases of one request may lapse, after which it would rightly be left alone.
    monkeypatch.setattr(_claims, "ATTEMPTS", KILLS + 1)
    moments, hits, release = random.Random(5), 0, tmp_path / "release"
    with Blackboard.open(database_url):
        pass  # not created by several at once: that is another test's matter
    names = ["asker", "one", "two", "three"]
    running = {name: start(database_url, name, release) for name in names}
    try:
        end = time.monotonic() + 200
        while "asker" in running:
            assert time.monotonic() < end, "the asker does not come to an end"
            time.sleep(moments.uniform(0.02, 0.3))
            if hits < KILLS:
                name = moments.choice(list(running))
                os.kill(running[name], signal.SIGKILL)
                hits += 1
            else:
                release.touch()
            for name, child in list(running.items()):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    del running[name]
                    if os.WIFSIGNALED(status):
                        running[name] = start(database_url, name, release)
                    else:
                        assert name == "asker", f"{name} ended"
                        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        for child in running.values():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert hits == KILLS
    with Blackboard.open(database_url) as board:
        requests = Requests(board)
        asked = list(requests.posted())
        assert sorted(int(request.text[:-1]) for request in asked) == list(range(REQUESTS))
        for request in asked:
            outcome = requests.collect(request, reader=MAIN)
            assert outcome.state == "answered"
            used = [response for response in requests.responses(request, reader=MAIN) if not response.late]
            assert len(used) <= 2
            assert len({response.volunteer for response in used}) == len(used)
            assert {response.post for response in outcome.responses} == {response.post for response in used}
        assert board.verify().ok
