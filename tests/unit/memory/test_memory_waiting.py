"""Waiting for commits: of this thread, of others, of other processes; nothing is missed."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from docendo.errors import StorageError
from docendo.memory import Database, Journal

WRITER = (
    "import sys\nfrom docendo.memory import Journal\njournal = Journal.open(sys.argv[1])\n"
    "for line in sys.stdin:\n    journal.put(line.strip(), {})\n    print('done', flush=True)\n"
)


@pytest.fixture
def database(database_url):
    with Database.open(database_url) as opened:
        opened.mark()  # the first one begins to watch
        yield opened


@pytest.fixture
def writer(database, database_url):
    """Stores a journal entry from another process, and returns when it is committed."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", WRITER, database_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def put(key):
        process.stdin.write(f"{key}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    with process:
        put("warm-up")
        settle(database)
        yield put
        process.stdin.close()
        assert process.wait(30) == 0


def settle(database):
    while database.wait(database.mark(), 0.05):
        pass


def test_nothing_happens(database):
    settle(database)
    begun = time.monotonic()
    assert database.wait(database.mark(), 0.2) is False
    assert 0.2 <= time.monotonic() - begun < 2
    assert database.wait(database.mark(), 0) is False


def test_what_stores_nothing_wakes_nobody(database):
    Journal(database).put("k", {})
    settle(database)
    mark = database.mark()
    Journal(database).put("k", {})
    with pytest.raises(ZeroDivisionError), database.transaction():  # noqa: PT012 - the block is what is tested
        Journal(database).put("l", {})
        raise ZeroDivisionError
    with database.reading():
        pass
    assert database.wait(mark, 0.2) is False


def test_an_own_commit_counts(database):
    settle(database)
    mark = database.mark()
    Journal(database).put("k", {})
    assert database.wait(mark, 5.0)
    assert database.wait(mark, 0)  # as often as it is asked
    settle(database)
    assert database.wait(database.mark(), 0.05) is False


def test_a_commit_of_another_process_between_mark_and_wait_counts(database, writer):
    for index in range(20):
        mark = database.mark()
        writer(f"k{index}")
        assert Journal(database).get(f"k{index}") == {}
        assert database.wait(mark, 5.0)
        settle(database)


def test_a_commit_of_another_process_ends_a_wait(database, writer):
    with ThreadPoolExecutor() as pool:
        slowest = 0.0
        for index in range(5):
            woken = pool.submit(database.wait, database.mark(), 20.0)
            time.sleep(0.2)
            assert not woken.done()
            writer(f"k{index}")
            begun = time.monotonic()
            assert woken.result(5)
            slowest = max(slowest, time.monotonic() - begun)
            settle(database)
    assert slowest < 2


def test_no_wake_up_is_lost(database, database_url):
    """One writes as fast as it can, many read, wait and read: nobody waits although there is news."""
    count, readers, late = 150, 4, []

    def read():
        journal = Journal(database)
        seen = 0
        while seen < count:
            mark = database.mark()
            before = seen
            while seen < count and journal.get(f"k{seen}") is not None:
                seen += 1
            if seen == before and not database.wait(mark, 20.0):
                late.append(seen)
                return

    threads = [threading.Thread(target=read) for _ in range(readers)]
    for thread in threads:
        thread.start()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", WRITER, database_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        process.stdin.write("".join(f"k{index}\n" for index in range(count)))
        process.stdin.close()
    for thread in threads:
        thread.join()
    assert process.returncode == 0
    assert late == []


def test_each_thread_has_its_own_mark(database):
    settle(database)
    old = database.mark()
    Journal(database).put("k", {})
    settle(database)
    new = database.mark()
    with ThreadPoolExecutor(8) as pool:
        first = [pool.submit(database.wait, old, 5.0) for _ in range(3)]
        second = [pool.submit(database.wait, new, 20.0) for _ in range(5)]
        assert all(woken.result(5) for woken in first)
        time.sleep(0.2)
        assert not any(woken.done() for woken in second)
        Journal(database).put("l", {})
        assert all(woken.result(5) for woken in second)


def test_when_one_thread_gives_up_another_watches_on(database):
    settle(database)
    mark = database.mark()
    with ThreadPoolExecutor() as pool:
        short = pool.submit(database.wait, mark, 0.2)
        time.sleep(0.05)
        long = pool.submit(database.wait, mark, 20.0)
        assert short.result(5) is False
        Journal(database).put("k", {})
        assert long.result(5)


def test_waiting_does_not_block_others(database):
    settle(database)
    with ThreadPoolExecutor() as pool:
        woken = pool.submit(database.wait, database.mark(), 20.0)
        time.sleep(0.1)
        begun = time.monotonic()
        Journal(database).get("k")
        assert time.monotonic() - begun < 5
        Journal(database).put("k", {})
        assert woken.result(5)


def test_closing_ends_a_wait(database):
    settle(database)
    with ThreadPoolExecutor() as pool:
        woken = [pool.submit(database.wait, database.mark(), None) for _ in range(3)]
        time.sleep(0.1)
        database.close()
        for waiting in woken:
            with pytest.raises(StorageError, match="was closed"):
                waiting.result(5)
    with pytest.raises(StorageError, match="was closed"):
        database.mark()


def test_waiting_inside_a_transaction_is_refused(database):
    mark = database.mark()
    with pytest.raises(StorageError, match="inside a transaction"), database.transaction():
        database.wait(mark, 1.0)
    with pytest.raises(StorageError, match="inside a transaction"), database.reading():
        database.wait(mark, 1.0)


def test_in_memory_other_threads_are_told():
    with Database.open(":memory:") as database, ThreadPoolExecutor() as pool:
        woken = pool.submit(database.wait, database.mark(), 20.0)
        time.sleep(0.05)
        Journal(database).put("k", {})
        assert woken.result(5)
        assert database.wait(database.mark(), 0.05) is False


def test_the_clock_is_a_clock(database):
    first = database.now()
    assert first <= database.now()
    assert abs(first - time.time()) < 5
