"""A full disk, a read-only file: a clear error that names the path, no damage, and work goes on after."""

import os
import resource
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from docendo.errors import StorageError
from docendo.memory import Blackboard, Database, Journal, verify
from docendo.records import Author

pytestmark = pytest.mark.slow

AUTHOR = Author(agent="student", role="student")
NOBODY = 65534


def in_child(work: Callable[[], None]) -> None:
    """Runs `work` in a process of its own; an exception there fails the test here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-4000:])
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as handle:
        message = handle.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, message


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


@pytest.mark.parametrize("kilobytes", [120, 150, 200, 333, 512, 801])
def test_a_file_size_limit(tmp_path, kilobytes):
    path, log = tmp_path / "memory.db", tmp_path / "log"
    Database.open(path).close()

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))
        fill(path, log)

    in_child(work)
    assert check_after(path, log) > 0


@pytest.mark.parametrize("kilobytes", [0, 1, 5, 30, 90])
def test_a_limit_while_the_file_is_made_leaves_nothing_that_hinders(tmp_path, kilobytes):
    path = tmp_path / "memory.db"

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))
        with pytest.raises(StorageError, match=r"memory\.db"):
            Database.open(path)

    in_child(work)
    with Journal.open(path) as journal:
        journal.put("k", {})
        assert all(report.ok for report in verify(journal.database))


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


def test_a_full_tmpfs(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True)
    if mount.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        ballast, path, log = place / "ballast", place / "memory.db", tmp_path / "log"
        ballast.write_bytes(b"x" * 300_000)
        in_child(lambda: fill(path, log))
        ballast.unlink()
        assert check_after(path, log) > 50
    finally:
        subprocess.run(["umount", place], check=True)


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
    assert [entry.name for entry in shared_folder.iterdir()] == ["memory.db"]


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
