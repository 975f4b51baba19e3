"""R6: A full or read-only disk is a clear error that names the path, damages nothing, and work goes on after.

`_small_disk.py` does the work, in a process of its own: a run of agents, and the save of an adapter over an
older one, with room for a growing part of what they write.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_bars import in_child

from docendo.errors import StorageError
from docendo.memory import Blackboard, Database, Journal, verify
from docendo.records import Author

pytestmark = pytest.mark.slow

AUTHOR = Author(agent="student", role="student")
NOBODY = 65534
WAYS = {
    "tmpfs": "on a full file system",
    "limit": "under a limit on file sizes",
    "read-only": "on a read-only file system",
}


def on_small_disk(bar: Any, folder: Path, jobs: list[dict[str, Any]], model: Path | str = "") -> None:
    """Has jobs done on too little room, and reports them to the bar."""
    order = {"folder": str(folder), "model": str(model), "jobs": jobs}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_small_disk.py")), json.dumps(order)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    missed, unavailable = [], ""
    for job, found in zip(jobs, json.loads(done.stdout.splitlines()[-1]), strict=True):
        name = f"a {job['what']}, {WAYS[job['way']]}"
        counts = {
            "cases": found["points"],
            "failed": [line.replace(str(folder), "") for line in found["failed"]],
            "reached": {"failures": found["reached"]},
        }
        if "unavailable" in found:
            unavailable = f"{name}: no file system can be mounted here ({found['unavailable']})"
        elif job["what"].startswith("unsafe"):
            bar.broken("a save straight into the folder of the older adapter", **counts)
        else:
            try:
                bar.part(name, needed=job["points"], **counts)
            except AssertionError as error:  # the others are measured as well
                missed.append(error)
            assert found["reached"] == job["points"], f"{name}: some points failed to fail"
    if missed:
        raise missed[0]
    if unavailable:
        pytest.skip(unavailable)


def test_a_run_without_room(bar: Any, tmp_path: Path) -> None:
    points = {
        "tmpfs": bar.size(20, short=3),
        "limit": bar.size(10, short=2),
        "read-only": bar.size(6, short=2),
    }
    on_small_disk(bar, tmp_path, [{"what": "run", "way": way, "points": n} for way, n in points.items()])


def test_a_save_without_room(bar: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    points = {
        "tmpfs": bar.size(20, short=1),
        "limit": bar.size(5, short=1),
        "read-only": bar.size(2, short=1),
    }
    jobs: list[dict[str, Any]] = [{"what": "save", "way": way, "points": n} for way, n in points.items()]
    jobs.append({"what": "unsafe save", "way": "limit", "points": bar.size(4, short=1)})
    on_small_disk(bar, tmp_path, jobs, tiny_model_dir)


# --- the database alone ---------------------------------------------------------------------------


def flood(board: Blackboard) -> None:
    for index in range(1000):
        board.post("attempt", {"text": "y" * 5000}, author=AUTHOR, key=f"flood/{index}")


def fill(path: Path, log: Path) -> None:
    """Posts until the disk is full, noting what was acknowledged."""
    with Blackboard.open(path) as board, log.open("a") as acknowledged:
        for index in range(100_000):
            try:
                post = board.post("attempt", {"text": "x" * 900}, author=AUTHOR, key=str(index))
            except StorageError as error:
                if str(path) not in str(error):
                    raise
                # Still usable for reading. Reopening may have freed the log; further posts fail as clearly.
                if len(board.posts()) < index:
                    raise ValueError("acknowledged posts are gone") from error
                with pytest.raises(StorageError):
                    flood(board)
                return
            # Outside the limited file system, and never limited itself: one short line.
            os.write(acknowledged.fileno(), f"{post.key} {post.hash}\n".encode())
    raise ValueError("the disk never became full")


def check_after(path: Path, log: Path) -> int:
    """Everything acknowledged is there, nothing is damaged, and the next post works."""
    with Blackboard.open(path) as board:
        hashes = {post.key: post.hash for post in board.posts()}
        acknowledged = dict(line.split() for line in log.read_text().splitlines())
        assert acknowledged.items() <= hashes.items()
        assert all(report.ok for report in verify(board.database))
        number = board.post("attempt", {"text": "after"}, author=AUTHOR, key="after").seq
        assert number == len(hashes) + 1
    return len(acknowledged)


def problem(work: Callable[[], object]) -> str:
    """What `work`, in a process of its own, ended with; "" if nothing went wrong."""
    try:
        in_child(work)
    except AssertionError as error:
        return str(error).strip().rpartition("\n")[2]
    return ""


def limit(kilobytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))


def test_posts_until_a_file_is_full(bar: Any, tmp_path: Path) -> None:
    failed, sizes = [], (120, 150, 200, 333, 512, 801)
    for kilobytes in sizes:
        path, log = tmp_path / f"{kilobytes}.db", tmp_path / f"{kilobytes}.log"
        Database.open(path).close()

        def work(path: Path = path, log: Path = log, kilobytes: int = kilobytes) -> None:
            limit(kilobytes)
            fill(path, log)

        found = problem(work)
        failed += [f"{kilobytes} kB: {found}"] if found else []
        assert check_after(path, log) > 0
    bar.part("posts until the database has no room", cases=len(sizes), failed=failed)


def test_a_limit_while_the_file_is_made_leaves_nothing_that_hinders(bar: Any, tmp_path: Path) -> None:
    with Database.open(tmp_path / "whole.db"):
        most = max(file.stat().st_size for file in tmp_path.iterdir() if not file.name.endswith("-shm"))
    failed, sizes = [], [int(most * share / 1024) for share in (0, 0.02, 0.1, 0.5, 0.9)]
    for kilobytes in sizes:
        path = tmp_path / f"{kilobytes}.db"

        def work(path: Path = path, kilobytes: int = kilobytes) -> None:
            limit(kilobytes)
            with pytest.raises(StorageError, match=path.name):
                Database.open(path)

        found = problem(work)
        failed += [f"{kilobytes} kB: {found}"] if found else []
        with Journal.open(path) as journal:
            journal.put("k", {})
            assert all(report.ok for report in verify(journal.database))
    bar.part("a database that is made without room", cases=len(sizes), failed=failed)


def test_a_transaction_that_hits_the_limit_leaves_no_part(tmp_path):
    path = tmp_path / "memory.db"
    Database.open(path).close()

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, 300 * 1024))
        # Opening needs little space; one transaction larger than the limit does not fit.
        with Database.open(path) as database, pytest.raises(StorageError), database.transaction():
            flood(Blackboard(database))

    in_child(work)
    with Blackboard.open(path) as board:
        assert board.posts() == []
        assert board.verify().ok


@pytest.fixture
def shared_folder():
    """A folder that another user can reach; pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_ordinary_user(work: Callable[[], None]) -> None:
    """Runs `work` without root's right to write everywhere."""

    def without_root():
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()

    in_child(without_root)


def filled(path: Path, key: str = "k") -> None:
    with Blackboard.open(path) as board:
        board.post("attempt", {"text": "x"}, author=AUTHOR, key=key)


def test_a_read_only_folder(shared_folder):
    path = shared_folder / "memory.db"
    filled(path)
    (shared_folder / "memory.db.lock").unlink(missing_ok=True)
    path.chmod(0o444)
    shared_folder.chmod(0o555)

    def work():
        with pytest.raises(StorageError, match=r"cannot write .*memory\.db"):
            Blackboard.open(path)
        with pytest.raises(StorageError, match=r"cannot write .*new\.db"):
            Blackboard.open(shared_folder / "new.db")
        with Blackboard.open(path, read_only=True) as board:
            assert len(board.posts()) == 1
            assert board.verify().ok

    as_ordinary_user(work)
    assert {entry.name for entry in shared_folder.iterdir()} == {"memory.db", "memory.db-commits"}


def test_a_read_only_file(shared_folder):
    path = shared_folder / "memory.db"
    filled(path)
    (shared_folder / "memory.db.lock").unlink(missing_ok=True)
    path.chmod(0o444)
    shared_folder.chmod(0o777)

    def work():
        with pytest.raises(StorageError, match=r"cannot write .*memory\.db: it is read-only"):
            filled(path, "another")
        with Blackboard.open(path, read_only=True) as board:
            assert len(board.posts()) == 1

    as_ordinary_user(work)


def test_a_file_that_becomes_unreadable(shared_folder):
    path = shared_folder / "memory.db"
    filled(path)
    path.chmod(0o000)

    def work():
        with pytest.raises(StorageError, match=r"memory\.db"):
            Blackboard.open(path, read_only=True)

    as_ordinary_user(work)
