"""The count of commits: a lost end is an error, everything else is not."""

import shutil

import pytest

from docendo.errors import IntegrityError
from docendo.memory import Database, Journal
from docendo.memory.storage._commits import Commits


def put(path, *keys):
    with Database.open(path) as database:
        for key in keys:
            Journal(database).put(key, {})


def cut_back(path, keep):
    """Puts an earlier state of the file in place, as a lost log does."""
    shutil.copy(keep, path)


def test_a_file_that_was_cut_back_is_refused_until_somebody_says_so(tmp_path):
    path, early = tmp_path / "memory.db", tmp_path / "early"
    put(path, "a")
    shutil.copy(path, early)
    put(path, "b", "c")
    cut_back(path, early)
    for read_only in (False, True):
        with pytest.raises(IntegrityError, match=r"memory.db has lost its end \(2 of 4 commits\)"):
            Database.open(path, read_only=read_only)
    (tmp_path / "memory.db-commits").unlink()
    put(path, "d")
    assert (tmp_path / "memory.db-commits").exists()


def test_an_open_database_notices_it_when_it_is_checked(tmp_path):
    with Database.open(tmp_path / "memory.db") as database:
        Journal(database).put("a", {})
        assert database.check() == ()
        Commits(tmp_path / "memory.db").note(9)
        assert "lost its end (2 of 9 commits)" in database.check()[0]


@pytest.mark.parametrize("harm", ["", "x", "00000000000000000999 00000000\n", "\u00e4"])
def test_a_damaged_or_missing_count_is_no_reason_to_stop(tmp_path, harm):
    path = tmp_path / "memory.db"
    put(path, "a", "b")
    (tmp_path / "memory.db-commits").write_text(harm, encoding="utf-8")
    put(path, "c")
    with Database.open(path, read_only=True) as database:
        assert database._commits.noted() == 4


def test_reading_and_empty_transactions_do_not_count(tmp_path):
    path = tmp_path / "memory.db"
    put(path, "a")
    count = (tmp_path / "memory.db-commits").read_text()
    with Database.open(path) as database:
        with database.transaction():
            pass
        Journal(database).put("a", {})
        Journal(database).get("a")
    assert (tmp_path / "memory.db-commits").read_text() == count


def test_a_count_that_cannot_be_written_stops_nothing(tmp_path):
    path = tmp_path / "memory.db"
    (tmp_path / "memory.db-commits").mkdir()
    put(path, "a", "b")
    with Journal.open(path) as journal:
        assert journal.verify().records == 2


def test_a_removed_file_with_its_count_left_is_not_begun_anew(tmp_path):
    path = tmp_path / "memory.db"
    put(path, "a")
    path.unlink()
    with pytest.raises(IntegrityError, match="lost its end"):
        Database.open(path)
