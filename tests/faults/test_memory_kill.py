"""Two processes write one database and are killed at random moments: nothing is lost, nothing is there twice.

SIGKILL is not power loss: the page cache survives it.
"""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from docendo.errors import DocendoError
from docendo.memory import Blackboard, Database, Journal, RunStore
from docendo.records import Author

pytestmark = pytest.mark.slow

STEPS = 200
KILLS = 20
RUN = "run"


def write(path: Path, name: str, done: int, acknowledged: int, *, broken: bool) -> None:
    """Goes through all steps from a few before the last acknowledged one, as a resumed run would."""
    with Database.open(path) as database:
        board, journal, runs = Blackboard(database), Journal(database), RunStore(database)
        runs.start(RUN, {}, resume=True)
        author = Author(agent=name, role="student")
        for step in range(max(0, done - 2), STEPS):
            # Half of the keys are shared: both processes want to post them.
            key = f"{'both' if step % 2 else name}/{step}"
            posted = f"{key}/{uuid.uuid4()}" if broken else key
            with database.transaction():
                post = board.post("attempt", {"text": uuid.uuid4().hex}, author=author, key=posted)
                journal.put(key, {"post": post.id})
                runs.finish_item(RUN, key, {"post": post.id})
            os.write(acknowledged, f"{step} {post.key} {post.hash}\n".encode())
            while step == STEPS - 2 and not path.with_suffix(".release").exists():
                time.sleep(0.001)  # a fast machine must not finish before the killer has


def start(path: Path, name: str, log: Path, *, broken: bool) -> int:
    done = len({line.split()[0] for line in lines(log)})
    child = os.fork()
    if child:
        return child
    try:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        write(path, name, done, handle, broken=broken)
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{name}: {error!r}\n".encode())
        os._exit(1)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def check(path: Path, logs: list[Path]) -> list[str]:
    """Returns what is wrong with the finished ledger."""
    problems = []
    with Database.open(path) as database:
        board, runs = Blackboard(database), RunStore(database)
        posts = board.posts()
        report = board.verify()
        if not report.ok:
            problems.append(str(report))
        if [post.seq for post in posts] != list(range(1, len(posts) + 1)):
            problems.append("gaps")
        expected = {f"{name.stem}/{step}" for name in logs for step in range(0, STEPS, 2)}
        expected |= {f"both/{step}" for step in range(1, STEPS, 2)}
        if len(posts) != len(expected):
            problems.append(f"{len(posts)} posts, expected {len(expected)}")
        if {post.key for post in posts} != expected:
            problems.append("other keys")
        hashes = {post.key: post.hash for post in posts}
        for log in logs:
            for line in lines(log):
                _, key, acknowledged = line.split()
                if hashes.get(key) != acknowledged:
                    problems.append(f"acknowledged {key} lost or changed")
        outcomes = runs.finished(RUN)
        if {key: {"post": post.id} for key, post in ((p.key, p) for p in posts)} != outcomes:
            problems.append("posts and outcomes differ")
        if Journal(database).verify().records != len(outcomes):
            problems.append("journal and outcomes differ")
    return problems


def hammer(tmp_path: Path, *, kills: int, broken: bool) -> tuple[list[str], int]:
    """Runs two writers, a reader and the killer; returns the problems and the kills that hit."""
    path, moments, hits = tmp_path / "memory.db", random.Random(7), 0
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    children = {start(path, log.stem, log, broken=broken): log for log in logs}
    problems, seen = [], 0
    while children:
        time.sleep(moments.uniform(0.005, 0.06))
        if hits >= kills:
            path.with_suffix(".release").touch()
        else:
            victim = moments.choice(list(children))
            os.kill(victim, signal.SIGKILL)
        for child in list(children):
            pid, status = os.waitpid(child, os.WNOHANG if hits >= kills or child != victim else 0)
            if not pid:
                continue
            log = children.pop(child)
            if os.WIFSIGNALED(status):
                hits += 1
                children[start(path, log.stem, log, broken=broken)] = log
            elif os.waitstatus_to_exitcode(status):
                problems.append(f"{log.stem} failed")
        if path.exists() and hits % 4 == 0:
            try:
                with Blackboard.open(path, read_only=True) as reader:
                    report = reader.verify()
            except DocendoError as error:
                if "no docendo tables" not in str(error):
                    problems.append(f"reader: {error}")
            else:
                if not report.ok or report.records < seen:
                    problems.append(f"reader: {report}")
                seen = report.records
    return problems + check(path, logs), hits


def test_two_killed_writers_lose_and_repeat_nothing(tmp_path):
    problems, hits = hammer(tmp_path, kills=KILLS, broken=False)
    assert problems == []
    assert hits >= KILLS


def test_the_check_catches_writers_without_idempotency_keys(tmp_path):
    problems, hits = hammer(tmp_path, kills=4, broken=True)
    assert hits >= 1
    assert any("posts, expected" in problem for problem in problems)


def test_many_processes_create_one_file_together(tmp_path):
    code = (
        "import sys, time\nfrom docendo.memory import Journal\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "Journal.open(sys.argv[1]).put(sys.argv[3], {})\n"
    )
    path, begin = tmp_path / "memory.db", str(time.time() + 3)
    command = [sys.executable, "-c", code, str(path), begin]
    children = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE) for i in range(6)]
    errors = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0] * 6, errors
    with Journal.open(path) as journal:
        assert journal.verify().records == 6


def test_forked_processes_create_one_file_together(tmp_path):
    for attempt in range(10):
        path, begin, children = tmp_path / f"{attempt}.db", time.time() + 0.05, []
        for index in range(4):
            child = os.fork()
            if child == 0:
                try:
                    time.sleep(max(0, begin - time.time()))
                    Journal.open(path).put(str(index), {})
                    os._exit(0)
                except BaseException as error:
                    os.write(2, f"{error!r}\n".encode())
                    os._exit(1)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
        with Journal.open(path) as journal:
            assert journal.verify().records == 4
