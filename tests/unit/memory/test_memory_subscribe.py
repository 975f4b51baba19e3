"""Subscriptions: every post once and in order, from any thread or process, from where one left off."""

import asyncio
import subprocess
import sys
import threading

import pytest

from docendo.errors import ConfigError, DataError
from docendo.memory import Blackboard
from docendo.records import Author

TUTOR = Author(agent="tutor", role="tutor")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def post(board, n, kind="hint"):
    return board.post(kind, {"n": n}, author=TUTOR, key=f"{kind}{n}")


def numbers(posts):
    return [entry.body["n"] for entry in posts]


def test_first_those_that_are_there_then_those_that_come(board):
    post(board, 0)
    subscription = board.subscribe(timeout=30)
    thread = threading.Thread(target=lambda: [post(board, n) for n in range(1, 20)])
    thread.start()
    seen = []
    for entry in subscription:
        seen.append(entry.body["n"])
        if len(seen) == 20:
            break
    thread.join()
    assert seen == list(range(20))


def test_posts_of_another_process_arrive(board, database_url):
    code = (
        "import sys\nfrom docendo.memory import Blackboard\nfrom docendo.records import Author\n"
        "board = Blackboard.open(sys.argv[1])\n"
        "for n in range(30): board.post('hint', {'n': n}, author=Author(agent='a', role='r'), key=str(n))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(database_url)])
    seen = []
    for entry in board.subscribe(timeout=60):
        seen.append(entry.body["n"])
        if len(seen) == 30:
            break
    assert child.wait() == 0
    assert seen == list(range(30))


def test_filters_and_the_end_of_silence(board):
    for n in range(4):
        post(board, n, kind="hint" if n % 2 else "lesson")
    assert numbers(board.subscribe(kind="lesson", timeout=0)) == [0, 2]
    assert numbers(board.subscribe(after=2, timeout=0.01)) == [2, 3]
    subscription = board.subscribe(after=4)
    assert subscription.next(0.01) is None
    post(board, 9)
    assert subscription.next(0).body == {"n": 9}
    assert subscription.position == 5


def test_a_name_goes_on_where_it_was_acknowledged(board, database_url):
    for n in range(5):
        post(board, n)
    subscription = board.subscribe(name="worker", timeout=0)
    for entry in subscription:
        if entry.body["n"] == 2:
            subscription.acknowledge(entry)
    with Blackboard.open(database_url) as again:
        assert numbers(again.subscribe(name="worker", timeout=0)) == [3, 4]
        assert numbers(again.subscribe(name="other", timeout=0)) == [0, 1, 2, 3, 4]
    subscription.acknowledge(board.posts()[0])
    assert numbers(board.subscribe(name="worker", timeout=0)) == [3, 4]
    with pytest.raises(ConfigError, match="has no name"):
        board.subscribe().acknowledge(board.posts()[0])


async def test_async_iteration(board):
    async def write():
        for n in range(5):
            await asyncio.to_thread(post, board, n)
            await asyncio.sleep(0.01)

    writer = asyncio.create_task(write())
    seen = [entry.body["n"] async for entry in board.subscribe(timeout=1.5)]
    await writer
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"after": -1}, "after is -1"), ({"timeout": -1.0}, "timeout is -1.0")]
)
def test_bad_arguments(board, arguments, message):
    with pytest.raises(DataError, match=message):
        board.subscribe(**arguments)
