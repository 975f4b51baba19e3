"""Channels: typed, declared once, with rights by role."""

import pytest

from docendo.errors import AccessError, ConfigError, DataError, IntegrityError
from docendo.memory import Blackboard, Channel
from docendo.memory.storage import _schema
from docendo.records import Author

MAIN = Author(agent="main", role="main")
HELPER = Author(agent="helper-1", role="helper")
OFFERS = Channel(
    name="offers", kinds=("offer",), fields={"confidence": "number"}, readers=("main",), writers=("helper",)
)


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def test_a_declared_channel_is_there_for_other_processes(board, database_url):
    assert board.declare(OFFERS) == OFFERS == board.declare(OFFERS)
    with Blackboard.open(database_url) as other:
        assert other.channels()["offers"] == OFFERS
        post = other.post("offer", {"confidence": 1}, author=HELPER, key="1", channel="offers")
    assert board.posts(channel="offers") == [post]
    assert board.posts(channel="main") == []
    assert board.posts(channel="offers", kind="offer", newest=True, limit=1) == [post]


def test_names_are_stored_as_they_are_looked_for(board):
    board.declare(Channel(name="odd\x00", fields={"n\ud800": "number"}))
    post = board.post("offer", {"n\ud800": 1}, author=HELPER, key="1", channel="odd\x00")
    assert board.posts(channel="odd\x00") == [post]


def test_another_declaration_of_the_same_name_is_refused(board):
    board.declare(OFFERS)
    with pytest.raises(DataError, match="'offers' of board 'main' is declared with other readers"):
        board.declare(OFFERS.replace(readers=("main", "judge")))
    with pytest.raises(DataError, match="'main' of board 'main' is declared with other readers"):
        board.declare(Channel(name="main", readers=("judge",)))


@pytest.mark.parametrize(
    ("kind", "body", "author", "error", "message"),
    [
        ("offer", {"confidence": 0.5}, MAIN, AccessError, "role 'main' posts on channel 'offers'"),
        ("hint", {"confidence": 0.5}, HELPER, DataError, "kind is 'hint'; expected one of offer"),
        ("offer", {}, HELPER, DataError, "has no field 'confidence'; expected a number"),
        ("offer", {"confidence": "high"}, HELPER, DataError, "body.confidence on channel 'offers' is a str"),
        ("offer", {"confidence": True}, HELPER, DataError, "is a bool; expected a number"),
    ],
)
def test_posts_that_do_not_fit_are_refused(board, kind, body, author, error, message):
    board.declare(OFFERS)
    with pytest.raises(error, match=message):
        board.post(kind, body, author=author, key="1", channel="offers")
    assert board.posts() == []


@pytest.mark.parametrize(
    "use",
    [
        lambda board: board.post("hint", {}, author=MAIN, key="1", channel="nowhere"),
        lambda board: board.posts(channel="nowhere"),
        lambda board: board.search("word", channel="nowhere"),
        lambda board: list(board.subscribe(channel="nowhere", timeout=0)),
    ],
)
def test_an_unknown_channel_is_named(board, use):
    with pytest.raises(DataError, match="has no channel 'nowhere'"):
        use(board)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": "offer"}, "kinds of channel 'c' is 'offer'"),
        ({"readers": ()}, "readers of channel 'c' is"),
        ({"fields": {"x": "float"}}, "field 'x' of channel 'c' has the type 'float'"),
    ],
)
def test_a_malformed_channel_is_refused_where_it_is_written(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Channel(name="c", **arguments)


def test_kinds_of_ones_own(board):
    board.declare(Channel(name="lab", kinds=("measurement",)))
    board.post("measurement", {"volts": 3}, author=MAIN, key="1", channel="lab")
    assert [post.kind for post in board.posts(kind="measurement")] == ["measurement"]
    with pytest.raises(DataError, match="kind is 'measurment'"):
        board.posts(kind="measurment")


def test_a_damaged_declaration_is_named(board):
    board.declare(OFFERS)
    with board.database.transaction() as connection:
        connection.execute(_schema.channels.update().values(record="{}"))
    assert [damage.record for damage in board.verify().damage] == ["channel"]
    with pytest.raises(IntegrityError, match="channel 'offers'"):
        board.channels()
