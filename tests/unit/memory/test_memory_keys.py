"""Versioned keys: compare-and-swap, history, no lost update."""

import threading

import pytest

from docendo.errors import ConfigError, DataError, IntegrityError, VersionConflict
from docendo.memory import Blackboard
from docendo.memory.storage import _schema
from docendo.records import Author

TUTOR = Author(agent="tutor", role="tutor")
OTHER = Author(agent="other", role="tutor")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def test_versions_follow_each_other(board):
    keys = board.keys
    assert keys.read("plan") is None
    first = keys.write("plan", {"step": 1}, author=TUTOR, expected=0)
    second = keys.write("plan", {"step": 2}, author=OTHER, expected=1)
    assert (first.version, second.version) == (1, 2)
    assert keys.read("plan") == second
    assert [entry.value for entry in keys.history("plan")] == [{"step": 1}, {"step": 2}]
    assert keys.write("plan", None, author=TUTOR).version == 3
    assert keys.read("plan").value is None
    keys.write("plain_1", 1, author=TUTOR)
    keys.write("other", 1, author=TUTOR)
    assert keys.names() == ["other", "plain_1", "plan"]
    assert keys.names("pla") == ["plain_1", "plan"]
    assert keys.names("plain%") == []


def test_the_loser_gets_the_current_version(board):
    board.keys.write("plan", "a", author=TUTOR)
    for expected in (0, 2):
        with pytest.raises(
            VersionConflict, match=f"'plan' has version 1, written by 'tutor'; expected version {expected}"
        ):
            board.keys.write("plan", "b", author=OTHER, expected=expected)
    with pytest.raises(VersionConflict, match="has no version; expected version 1") as caught:
        board.keys.write("none", "b", author=OTHER, expected=1)
    assert caught.value.current is None
    assert board.keys.read("plan").value == "a"


def test_the_same_write_counts_once(board):
    first = board.keys.write("count", 1, author=TUTOR, once="run/item/0")
    board.keys.write("count", 2, author=TUTOR)
    assert board.keys.write("count", 1, author=TUTOR, once="run/item/0", expected=0) == first
    assert board.keys.read("count").value == 2


def test_boards_have_keys_of_their_own(board):
    other = Blackboard(board.database, name="other")
    board.keys.write("k", 1, author=TUTOR)
    assert other.keys.read("k") is None
    assert other.keys.write("k", 2, author=TUTOR, expected=0).version == 1


def test_no_update_is_lost(board, database_url):
    def count() -> None:
        with Blackboard.open(database_url) as mine:
            for _ in range(20):
                mine.keys.update("count", lambda old: (old or 0) + 1, author=TUTOR)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert board.keys.read("count").value == 80
    assert [entry.value for entry in board.keys.history("count")] == list(range(1, 81))
    assert board.verify().ok


def test_an_update_that_is_always_overtaken_gives_up(board):
    def change(old):
        board.keys.write("k", "theirs", author=OTHER)
        return "mine"

    with pytest.raises(VersionConflict):
        board.keys.update("k", change, author=TUTOR, attempts=3)
    assert len(board.keys.history("k")) == 3
    with pytest.raises(ConfigError, match="attempts is 0"):
        board.keys.update("k", change, author=TUTOR, attempts=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"key": ""}, DataError, "the key is empty"),
        ({"value": float("nan")}, DataError, "value is nan"),
        ({"expected": -1}, ConfigError, "expected is -1"),
        ({"author": "tutor"}, DataError, "the author is a str"),
    ],
)
def test_malformed_writes_are_refused(board, call, error, message):
    arguments = {"key": "k", "value": 1, "author": TUTOR, **call}
    with pytest.raises(error, match=message):
        board.keys.write(arguments.pop("key"), arguments.pop("value"), **arguments)
    assert board.keys.names() == []


def test_damage_is_named(board):
    board.keys.write("k", 1, author=TUTOR)
    with board.database.transaction() as connection:
        connection.execute(_schema.keys.update().values(value="2"))
    with pytest.raises(IntegrityError, match="key version 1"):
        board.keys.read("k")
    assert [damage.record for damage in board.verify().damage] == ["key version"]
