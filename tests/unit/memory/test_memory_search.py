"""Full-text search: the same answers on both databases, bounded work, an index that cannot lie unnoticed."""

import math
from collections import Counter

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import DataError
from docendo.memory import Blackboard, Channel, Database
from docendo.memory.board import _search
from docendo.records import Author

TUTOR = Author(agent="tutor", role="tutor")
TEXTS = (
    "Carry the one when a sum exceeds nine.",
    "Check the units of every quantity before adding.",
    "The units digit repeats with period four.",
    "Überprüfe die Einheiten!",
    "nothing in common",
)


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def fill(board, texts=TEXTS, **where):
    return [
        board.post("lesson", {"text": text}, author=TUTOR, key=f"{where} {n}", **where)
        for n, text in enumerate(texts)
    ]


def found(board, query, **filters):
    return [hit.post.body["text"] for hit in board.search(query, **filters)]


def test_any_word_matches_and_more_words_rank_higher(board):
    fill(board)
    assert found(board, "units digit") == [TEXTS[2], TEXTS[1]]
    assert found(board, "ÜBERPRÜFE, bitte!") == [TEXTS[3]]
    assert found(board, "absent") == []
    assert found(board, "units", limit=1) in ([TEXTS[1]], [TEXTS[2]])


def test_scores_are_bm25(board):
    fill(board)
    words = [_search.words(text) for text in TEXTS]
    mean = sum(map(len, words[1:3])) / 2
    for hit in board.search("units"):
        mine = _search.words(hit.post.body["text"])
        weight = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5))
        count = Counter(mine)["units"]
        expected = weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(mine) / mean))
        assert hit.score == pytest.approx(expected)


def test_filters(board):
    board.declare(Channel(name="notes", kinds=("fact", "lesson")))
    fill(board, TEXTS[:2], run="r1", item="i1")
    fill(board, TEXTS[2:], run="r2", item="i2", channel="notes")
    post = board.post("fact", {"text": "units again"}, author=TUTOR, key="f", channel="notes")
    other = Blackboard(board.database, name="other")
    fill(other, ["units elsewhere"])
    assert found(board, "units", run="r1") == [TEXTS[1]]
    assert found(board, "units", item="i2") == [TEXTS[2]]
    assert found(board, "units", channel="notes", kind="fact") == ["units again"]
    assert found(other, "units") == ["units elsewhere"]
    board.trust(post.id, "verified", by=Author(agent="checker", role="code"), reason="seen")
    assert found(board, "units", trust="verified") == ["units again"]


def test_words_of_a_text_cannot_pass_for_a_place(board):
    place = _search.scope(board="other")[0]
    fill(board, [f"units {place}"])
    other = Blackboard(board.database, name="other")
    assert found(other, "units") == []


def test_a_reader_finds_what_nobody_has_indexed(tmp_path):
    path = tmp_path / "memory.db"
    with Blackboard.open(path) as board:
        fill(board, TEXTS[:2])
        assert found(board, "units") == [TEXTS[1]]
        fill(board, TEXTS[2:], run="late")
    with Blackboard.open(path, read_only=True) as reader:
        assert sorted(found(reader, "units")) == sorted([TEXTS[1], TEXTS[2]])
        assert found(reader, "units", run="late") == [TEXTS[2]]


def test_search_inside_a_reading_block(board):
    fill(board)
    with board.database.reading():
        assert found(board, "carry") == [TEXTS[0]]


def test_a_common_word_costs_no_more_than_its_newest_posts(board, monkeypatch):
    monkeypatch.setattr(_search, "POSTINGS", 4)
    with board.database.transaction():
        fill(board, [f"common {'rare' if n == 3 else n}" for n in range(40)])
    assert found(board, "common rare", limit=3)[0] == "common rare"
    assert len(found(board, "common", limit=50)) == 4


@pytest.mark.parametrize(
    ("query", "arguments", "message"),
    [
        ("", {}, "has no words"),
        ("?!", {}, "has no words"),
        ("x", {"limit": 0}, "limit is 0"),
        ("x", {"kind": "poem"}, "kind is 'poem'"),
        ("x", {"trust": "good"}, "trust level is 'good'"),
    ],
)
def test_bad_queries(board, query, arguments, message):
    with pytest.raises(DataError, match=message):
        board.search(query, **arguments)


@pytest.mark.parametrize(
    "query",
    [
        "a'b",
        'say "units"',
        "units OR absent",
        "units*",
        "NEAR(units)",
        "^units",
        "units) & !x",
        "-units",
        "units\x00",
    ],
)
def test_syntax_of_the_index_is_only_words(board, query):
    fill(board)
    wanted = set(_search.words(query))
    assert sorted(found(board, query)) == sorted(text for text in TEXTS if wanted & set(_search.words(text)))


def test_an_index_that_lost_a_post_is_reported_and_mended(board):
    fill(board)
    board.search("units")
    assert board.verify().ok
    with board.database.transaction() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("DELETE FROM docendo_search WHERE number = 2")
        else:
            terms = " ".join(["bmain"])
            connection.execute(
                sa.text("INSERT INTO docendo_search(rowid, terms) VALUES (77, :terms)"), {"terms": terms}
            )
    assert [damage.record for damage in board.verify().damage] == ["search index"]
    assert board.reindex() == 5
    assert board.verify().ok
    assert found(board, "units digit") == [TEXTS[2], TEXTS[1]]


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=8), st.text(min_size=1, max_size=12))
def test_what_has_a_word_is_found(texts, query):
    with Database.open(":memory:") as database:
        board = Blackboard(database)
        fill(board, texts)
        wanted = set(_search.words(query))
        if not wanted:
            return
        stored = [post.body["text"] for post in board.posts()]
        expected = sorted(text for text in stored if wanted & set(_search.words(text)))
        assert sorted(found(board, query, limit=50)) == expected
        assert board.verify().ok
