"""Database: opening, transactions, threads, forks, and errors that name the file."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from docendo.errors import ConfigError, DataError, IntegrityError, StorageError
from docendo.memory import Blackboard, Database, Journal
from docendo.records import Author

AUTHOR = Author(agent="student", role="student")


def pragma(database: Database, name: str) -> object:
    with database.reading() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


@pytest.fixture
def database(tmp_path):
    with Database.open(tmp_path / "memory.db") as opened:
        yield opened


def test_a_file_is_durable_by_default(database):
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "synchronous") == 2  # FULL
    assert pragma(database, "busy_timeout") == 30_000


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
def test_paths_and_urls_name_the_same_file(tmp_path, form):
    path = tmp_path / "new" / "folder" / "memory.db"
    with Journal.open(form.format(path)) as journal:
        journal.put("k", {"v": 1})
        assert journal.database.path == path
    with Journal.open(path) as journal:
        assert journal.get("k") == {"v": 1}


def test_stores_commit_together_or_not_at_all(database):
    board, journal = Blackboard(database), Journal(database)
    with pytest.raises(ZeroDivisionError), database.transaction():  # noqa: PT012 - the block is what is tested
        board.post("attempt", {}, author=AUTHOR, key="a")
        journal.put("call", {"v": 1})
        raise ZeroDivisionError
    assert board.posts() == []
    assert journal.get("call") is None
    with database.transaction():
        board.post("attempt", {}, author=AUTHOR, key="a")
        journal.put("call", {"v": 1})
    assert len(board.posts()) == 1
    assert journal.get("call") == {"v": 1}


def test_an_inner_block_that_fails_is_undone_alone(database):
    journal = Journal(database)
    with database.transaction():
        journal.put("kept", {})
        with pytest.raises(ZeroDivisionError), database.transaction():  # noqa: PT012 - the block is what is tested
            journal.put("undone", {})
            raise ZeroDivisionError
        assert journal.get("undone") is None
        journal.put("kept too", {})
    assert journal.get("kept") == journal.get("kept too") == {}
    assert journal.get("undone") is None


def test_a_database_error_in_an_inner_block_dooms_the_outer_one(database):
    journal = Journal(database)
    with pytest.raises(StorageError), database.transaction():  # noqa: PT012 - the block is what is tested
        journal.put("lost", {})
        with pytest.raises(StorageError), database.transaction() as connection:
            connection.exec_driver_sql("SELECT * FROM no_such_table")
        with pytest.raises(StorageError):
            journal.put("refused", {})
    assert journal.get("lost") is None
    assert journal.get("refused") is None
    assert journal.put("works again", {"v": 1}) == {"v": 1}


def test_nothing_is_visible_outside_before_the_outermost_block_ends(database):
    with Journal.open(database.path) as other:
        with database.transaction():
            Journal(database).put("k", {"v": 1})
            assert other.get("k") is None
        assert other.get("k") == {"v": 1}


def test_many_threads_post_without_gaps(database):
    board = Blackboard(database)
    errors = []

    def work(name):
        try:
            for index in range(15):
                board.post("attempt", {"n": index}, author=AUTHOR, key=f"{name}/{index}")
                board.post("attempt", {"n": index}, author=AUTHOR, key=f"shared/{index}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [post.seq for post in board.posts()] == list(range(1, 6 * 15 + 15 + 1))
    assert board.verify().ok


def test_another_thread_does_not_join_a_transaction(database):
    journal, order = Journal(database), []

    def other():
        journal.put("other", {})
        order.append("other")

    thread = threading.Thread(target=other)
    with database.transaction():
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_writing_inside_reading_is_refused(database):
    with pytest.raises(StorageError, match=r"inside reading\(\)"), database.reading():
        Journal(database).put("k", {})


def test_a_reader_sees_one_state(database):
    with Journal.open(database.path) as other, database.reading():
        assert Journal(database).get("k") is None
        other.put("k", {})
        assert Journal(database).get("k") is None
    assert Journal(database).get("k") == {}


def test_closed_is_closed(database):
    database.close()
    database.close()
    with pytest.raises(StorageError, match="was closed"):
        Journal(database).get("k")


def test_closing_inside_a_transaction_is_refused(database):
    with pytest.raises(StorageError, match="inside a transaction"), database.transaction():
        database.close()
    assert Journal(database).get("k") is None


def test_a_fork_inherits_no_handle(database):
    """The child may use the same object: it opens a handle of its own."""
    board = Blackboard(database)
    board.post("attempt", {}, author=AUTHOR, key="before")
    child = os.fork()
    if child == 0:
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd_exists(fd)]
        inherited = [link for link in links if "memory.db" in link]
        try:
            board.post("attempt", {}, author=AUTHOR, key="child")
            os._exit(1 if inherited else 0)
        except BaseException:
            os._exit(2)
    for index in range(5):
        board.post("attempt", {}, author=AUTHOR, key=f"parent/{index}")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {post.key for post in board.posts()} == {"before", "child", *(f"parent/{i}" for i in range(5))}
    assert board.verify().ok


def fd_exists(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_fork_inside_a_transaction_is_refused_in_the_child(database):
    journal = Journal(database)
    with database.transaction():
        journal.put("parent", {})
        child = os.fork()
        if child == 0:
            try:
                journal.put("child", {})
                os._exit(1)
            except StorageError as error:
                os._exit(0 if "forked" in str(error) else 2)
            except BaseException:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert journal.get("parent") == {}
    assert journal.get("child") is None


def test_in_memory_databases_are_separate():
    with Journal.open(":memory:") as first, Journal.open("sqlite://") as second:
        first.put("k", {})
        assert second.get("k") is None


def test_read_only_reads_and_refuses_to_write(tmp_path):
    path = tmp_path / "memory.db"
    with Journal.open(path) as journal:
        journal.put("k", {"v": 1})
    with Journal.open(path, read_only=True) as journal:
        assert journal.get("k") == {"v": 1}
        with pytest.raises(StorageError, match="opened read-only"):
            journal.put("other", {})


def test_read_only_sees_what_an_open_writer_has_committed(database):
    Journal(database).put("k", {"v": 1})
    with Journal.open(database.path, read_only=True) as reader:
        assert reader.get("k") == {"v": 1}
        Journal(database).put("l", {"v": 2})
        assert reader.get("l") == {"v": 2}


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
def test_a_missing_file_is_not_made(tmp_path, options):
    path = tmp_path / "absent.db"
    with pytest.raises(DataError, match=r"there is no database at .*absent\.db"):
        Database.open(path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        Database.open(tmp_path)


@pytest.mark.parametrize("read_only", [False, True])
def test_another_file_is_refused_and_left_alone(tmp_path, read_only):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, not a database\n" * 50)
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match=r"notes\.txt"):
        Database.open(path, read_only=read_only)
    assert path.read_bytes() == before


def test_another_sqlite_file_is_not_read_as_a_board(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(DataError, match="holds no docendo tables"):
        Database.open(path, read_only=True)
    with Journal.open(path) as journal:  # opened for writing, the file is shared
        journal.put("k", {})
        with journal.database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM mine").scalar() == 0


def test_a_newer_schema_is_refused(database):
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE docendo_meta SET value = '99'")
    with pytest.raises(DataError, match="schema version 99; expected version 3"):
        Database.open(database.path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is empty"),
        ("a\x00b", "NUL"),
        ("mysql://host/name", "starts with mysql"),
        ("postgresql+nodriver://host/name", "driver of postgresql"),
        ("://", "cannot be read"),
    ],
)
def test_unusable_urls(url, message):
    with pytest.raises(ConfigError, match=message):
        Database.open(url)


def test_a_password_is_never_shown():
    with pytest.raises((ConfigError, StorageError)) as caught:
        Database.open("postgresql+psycopg://user:hunter2@127.0.0.1:1/name")
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file/memory\.db"):
        Database.open(tmp_path / "file" / "memory.db")


def test_a_lock_held_too_long_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("docendo.memory.storage._database.BUSY_SECONDS", 0.2)
    with Journal.open(tmp_path / "memory.db") as first, Journal.open(tmp_path / "memory.db") as second:
        with first.database.transaction(), pytest.raises(StorageError, match=r"memory\.db: another process"):
            second.put("k", {})
        second.put("k", {})


def test_importing_memory_needs_no_torch():
    code = "import sys, docendo.memory; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_files_are_no_more_open_than_others(tmp_path):
    Database.open(tmp_path / "memory.db").close()
    (tmp_path / "reference").touch()
    expected = stat.S_IMODE(os.stat(tmp_path / "reference").st_mode)
    assert stat.S_IMODE(os.stat(Path(tmp_path / "memory.db")).st_mode) & ~expected == 0
