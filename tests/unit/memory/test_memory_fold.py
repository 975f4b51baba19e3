"""States computed from posts: kept up to date, and thrown away when what they rest on has changed."""

import pytest

from docendo.errors import DataError
from docendo.memory import Blackboard, Channel
from docendo.memory.board._fold import Fold
from docendo.records import Author

ME = Author(agent="me", role="student")
CHECKER = Author(agent="checker", role="code")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        opened.declare(Channel(name="other"))
        yield opened


def fold_of(board):
    return Fold(
        board,
        channel="c",
        kinds=("rule", "event"),
        start=list,
        step=lambda state, post: state.append(post.body["n"]),
    )


def put(board, n, *, kind="rule", parents=(), channel="c"):
    return board.post(kind, {"n": n}, author=ME, key=f"{channel}/{n}", parents=parents, channel=channel)


def bury(board, post):
    stone = {"post": post.id, "reason": "old"}
    return board.post("tombstone", stone, author=ME, key=f"t/{post.id}", parents=[post.id], channel="c")


def test_posts_come_in_the_order_of_the_board_whatever_their_kind(board):
    fold = fold_of(board)
    assert fold() == []
    put(board, 1)
    put(board, 2, kind="event")
    put(board, 3)
    put(board, 4, channel="other")
    put(board, 5, kind="lesson")
    assert fold() == [1, 2, 3]
    put(board, 6, kind="event")
    assert fold() == fold_of(board)() == [1, 2, 3, 6]


def test_quarantine_is_followed_to_whatever_was_made_of_a_post(board):
    fold = fold_of(board)
    first = put(board, 1)
    far = board.post("lesson", {}, author=ME, key="far", parents=[first.id])
    last = put(board, 2, parents=[far.id])
    put(board, 3)
    assert fold() == [1, 2, 3]
    board.trust(far.id, "quarantined", by=CHECKER, reason="wrong")
    assert fold() == [1, 3]
    board.release(far.id, by=CHECKER, reason="right")
    board.trust(last.id, "quarantined", by=CHECKER, reason="wrong")
    assert fold() == [1, 3]
    board.release(last.id, by=CHECKER, reason="right")
    assert fold() == [1, 2, 3]


def test_evicted_posts_do_not_count_but_what_replaced_them_does(board):
    fold = fold_of(board)
    first = put(board, 1)
    put(board, 2, parents=[first.id])
    assert fold() == [1, 2]
    stone = bury(board, first)
    assert fold() == [2]
    board.trust(stone.id, "quarantined", by=CHECKER, reason="still needed")
    assert fold() == [1, 2]


def test_what_was_rolled_back_is_forgotten(board):
    fold = fold_of(board)
    put(board, 1)

    def half_done():
        with board.database.transaction():
            put(board, 2)
            assert fold() == [1, 2]
            board.get("no such post")

    with pytest.raises(DataError, match="no such post"):
        half_done()
    put(board, 3)
    put(board, 4)
    assert fold() == [1, 3, 4]
