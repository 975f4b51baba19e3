"""Blackboard: keys, order, provenance, trust, the hash chain."""

import dataclasses

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import AccessError, DataError, IntegrityError, StorageError
from docendo.hashing import digest
from docendo.memory import MAX_BODY_BYTES, Blackboard, Database
from docendo.memory.storage import _schema
from docendo.records import Author

STUDENT = Author(agent="student", role="student", model="m1", adapter="a1")
CHECKER = Author(agent="checker", role="verifier")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


@pytest.fixture
def file_board(tmp_path):
    with Blackboard.open(tmp_path / "memory.db") as opened:
        yield opened


def filled(board, count=5):
    parent = ()
    for index in range(count):
        post = board.post("attempt", {"text": str(index)}, author=STUDENT, key=f"k{index}", parents=parent)
        parent = (post.id,)
    return board.posts()


def sql(board, statement, *parameters):
    """Changes the database behind the board's back, as a defect or an attacker would."""
    if board.database.path is None:
        statement = statement.replace("?", "%s")
    with board.database.transaction() as connection:
        return connection.exec_driver_sql(statement, parameters)


def test_a_post_is_returned_as_it_is_stored(board):
    task = board.post("task", {"question": "2 + 2?"}, author=CHECKER, key="t")
    post = board.post(
        "attempt",
        {"text": "four", "n": 1, "x": 0.5, "list": (1, None, True)},
        author=STUDENT,
        key="r/i/attempt/0",
        run="r",
        item="i",
        parents=[task.id, task.id],
    )
    assert post == board.get(post.id) == board.posts()[1]
    assert (post.seq, post.board, post.kind, post.run, post.item) == (2, "main", "attempt", "r", "i")
    assert post.author == STUDENT
    assert post.body == {"text": "four", "n": 1, "x": 0.5, "list": [1, None, True]}
    assert post.parents == (task.id,)
    assert post.trust == "unverified"
    assert post.id == digest("main", "r/i/attempt/0")[:16]


def test_the_same_key_returns_the_stored_post(board):
    first = board.post("attempt", {"text": "first"}, author=STUDENT, key="k")
    again = board.post("hint", {"text": "second"}, author=CHECKER, key="k", parents=[first.id])
    assert again == first
    assert len(board.posts()) == 1


def test_posts_survive_reopening(board, database_url):
    posts = filled(board)
    board.close()
    with Blackboard.open(database_url) as reopened:
        assert reopened.posts() == posts
        assert reopened.post("attempt", {}, author=STUDENT, key="new").seq == 6
        assert reopened.verify().ok


def test_filters_and_paging(board):
    for index in range(6):
        kind = "hint" if index % 2 else "attempt"
        board.post(kind, {}, author=STUDENT, key=f"{index}", run=f"r{index // 3}", item=f"i{index % 3}")
    assert [post.seq for post in board.posts(kind="hint")] == [2, 4, 6]
    assert [post.seq for post in board.posts(run="r1")] == [4, 5, 6]
    assert [post.seq for post in board.posts(item="i0")] == [1, 4]
    assert [post.seq for post in board.posts(run="r0", kind="attempt")] == [1, 3]
    assert [post.seq for post in board.posts(after=2, limit=2)] == [3, 4]
    assert board.posts(after=6) == board.posts(run="") == board.posts(limit=0) == []


def test_boards_of_one_database_are_separate(board):
    other = Blackboard(board.database, name="other")
    mine = board.post("attempt", {}, author=STUDENT, key="k")
    theirs = other.post("attempt", {"x": 1}, author=STUDENT, key="k")
    assert mine.id != theirs.id
    assert mine.seq == theirs.seq == 1
    assert Blackboard.names(board.database) == ("main", "other")
    with pytest.raises(DataError, match="no post"):
        board.get(theirs.id)
    with pytest.raises(DataError, match="is not on board 'main'"):
        board.post("hint", {}, author=STUDENT, key="h", parents=[theirs.id])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rumour"}, "kind is 'rumour'; expected one of task, attempt"),
        ({"key": ""}, "the post's key is empty"),
        ({"key": 7}, "the post's key is 7"),
        ({"parents": ["0" * 16]}, "the parent '0000000000000000' is not on board 'main'"),
        ({"parents": "0" * 16}, "parents is a string"),
        ({"author": "student"}, "the author is a str"),
        ({"author": Author(agent="", role="student")}, "author.agent is empty"),
        ({"run": None}, "run is None"),
        ({"body": "text"}, "body is a str"),
        ({"body": {"a": {"b": [0, float("nan")]}}}, r"body.a.b\[1\] is nan; expected a finite number"),
        ({"body": {"a": {1: 2}}}, "body.a has the key 1"),
        ({"body": {"a": {1, 2}}}, "body.a is a set"),
        ({"body": {"a": b"x"}}, "body.a is a bytes"),
        ({"body": {"text": "x" * MAX_BODY_BYTES}}, f"expected at most {MAX_BODY_BYTES}"),
    ],
)
def test_malformed_posts_are_refused_and_store_nothing(board, change, message):
    arguments = {"kind": "attempt", "body": {}, "author": STUDENT, "key": "k", **change}
    with pytest.raises(DataError, match=message):
        board.post(arguments.pop("kind"), arguments.pop("body"), **arguments)
    assert board.posts() == []
    assert board.post("attempt", {}, author=STUDENT, key="k").seq == 1


def test_endless_nesting_is_refused(board):
    body = {}
    body["self"] = body
    with pytest.raises(DataError, match="nested too deeply"):
        board.post("attempt", body, author=STUDENT, key="k")


def test_a_body_of_exactly_one_mebibyte_fits(board):
    text = "x" * (MAX_BODY_BYTES - len('{"text":""}'))
    assert board.post("attempt", {"text": text}, author=STUDENT, key="k").body["text"] == text
    with pytest.raises(DataError, match="has 1048577 bytes"):
        board.post("attempt", {"text": text + "x"}, author=STUDENT, key="l")


def test_only_what_cannot_be_stored_is_escaped(board):
    text = "é 漢字 \U0001f600 \ufeff \u202e \\x00 <|im_start|>\r\n\t"
    body = {"kept": text, "nul": "a\x00b", "lone": "a\ud800b", "k\x00": ["\udfff"]}
    post = board.post("attempt", body, author=STUDENT, key="k\x00", item="i\ud800")
    assert post.body == {"kept": text, "nul": "a\\x00b", "lone": "a\\ud800b", "k\\x00": ["\\udfff"]}
    assert (post.key, post.item) == ("k\\x00", "i\\ud800")
    assert board.posts(item="i\ud800") == [post] == [board.get(post.id)]
    assert board.verify().ok


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
keys = st.text(st.sampled_from("ab/漢"), min_size=1, max_size=2)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(keys, st.dictionaries(text, json_values, max_size=3)), max_size=5))
def test_any_json_body_is_kept(entries):
    with Blackboard.open(":memory:") as board:
        first = {}
        for key, body in entries:
            assert board.post("lesson", body, author=STUDENT, key=key).body == first.setdefault(key, body)
        assert {post.key: post.body for post in board.posts()} == first
        assert [post.seq for post in board.posts()] == list(range(1, len(first) + 1))
        assert board.verify().ok


def test_unknown_posts_are_named(board):
    with pytest.raises(DataError, match="no post 'nope'"):
        board.get("nope")
    with pytest.raises(DataError, match="no post 'nope'"):
        board.trust("nope", "verified", by=CHECKER, reason="")
    with pytest.raises(DataError, match="kind is 'nope'"):
        board.posts(kind="nope")
    with pytest.raises(DataError, match="limit is -1"):
        board.posts(limit=-1)
    with pytest.raises(DataError, match="name is empty"):
        Blackboard(board.database, name="")


def test_trust_follows_the_latest_event(board):
    first, second = filled(board, 2)
    board.trust(first.id, "verified", by=CHECKER, reason="exact match")
    assert [post.trust for post in board.posts()] == ["verified", "unverified"]
    board.trust(second.id, "verified", by=CHECKER, reason="exact match")
    board.trust(second.id, "quarantined", by=CHECKER, reason="copied")
    assert [post.trust for post in board.posts()] == ["verified", "quarantined"]
    assert board.get(second.id).trust == "quarantined"
    assert board.verify().records == 5
    assert board.verify().ok


def test_the_same_event_again_does_not_undo_a_later_one(board):
    (post,) = filled(board, 1)
    for _ in range(2):
        board.trust(post.id, "verified", by=CHECKER, reason="exact match")
    board.trust(post.id, "quarantined", by=CHECKER, reason="copied")
    board.trust(post.id, "verified", by=CHECKER, reason="exact match")  # a node that runs again
    assert board.get(post.id).trust == "quarantined"
    with pytest.raises(DataError, match="is quarantined"):
        board.trust(post.id, "verified", by=CHECKER, reason="checked by hand")
    board.release(post.id, by=CHECKER, reason="checked by hand")
    assert board.get(post.id).trust == "verified"
    assert board.verify().records == 1 + 3


def test_nobody_promotes_its_own_post(board):
    (post,) = filled(board, 1)
    disguised = dataclasses.replace(STUDENT, role="verifier", model="other", adapter=None)
    for author in (STUDENT, disguised):
        with pytest.raises(AccessError, match="agent 'student' set its own post"):
            board.trust(post.id, "verified", by=author, reason="I am sure")
    assert board.get(post.id).trust == "unverified"
    board.trust(post.id, "quarantined", by=STUDENT, reason="I was wrong")
    with pytest.raises(AccessError, match="from quarantined to unverified"):
        board.trust(post.id, "unverified", by=STUDENT, reason="I was right")


def test_an_unknown_level_is_refused(board):
    (post,) = filled(board, 1)
    with pytest.raises(DataError, match="trust level is 'sure'"):
        board.trust(post.id, "sure", by=CHECKER, reason="")


def test_digest_ignores_order_and_time_and_sees_content(tmp_path):
    def digest_of(*entries, trust=False):
        with Blackboard.open(":memory:") as board:
            for key, text, author in entries:
                post = board.post("attempt", {"text": text}, author=author, key=key)
                if trust:
                    board.trust(post.id, "quarantined", by=CHECKER, reason="")
            return board.digest()

    base = digest_of(("a", "1", STUDENT), ("b", "2", STUDENT))
    assert base == digest_of(("b", "2", STUDENT), ("a", "1", STUDENT), ("a", "3", STUDENT))
    assert base == digest_of(("a", "1", STUDENT), ("b", "2", STUDENT), trust=True)
    assert base != digest_of(("a", "1", STUDENT))
    assert base != digest_of(("a", "1", STUDENT), ("b", "3", STUDENT))
    assert base != digest_of(("a", "1", STUDENT), ("c", "2", STUDENT))
    assert base != digest_of(("a", "1", STUDENT), ("b", "2", CHECKER))


@pytest.mark.parametrize(
    ("statement", "seq", "reason"),
    [
        ('UPDATE docendo_posts SET body = \'{"text":"9"}\' WHERE seq = 3', 3, "does not match its hash"),
        ("UPDATE docendo_posts SET process = 'elsewhere' WHERE seq = 3", 3, "hash"),
        ("UPDATE docendo_posts SET kind = 'lesson' WHERE seq = 3", 3, "does not match its hash"),
        ("UPDATE docendo_posts SET created = created + 1 WHERE seq = 3", 3, "does not match its hash"),
        ("UPDATE docendo_posts SET hash = previous WHERE seq = 3", 3, "does not match its hash"),
        ("UPDATE docendo_posts SET parents = '[]' WHERE seq = 5", 5, "does not match its hash"),
        ("UPDATE docendo_posts SET seq = 77 WHERE seq = 5", 5, "is missing, up to 76"),
        ("UPDATE docendo_posts SET board = 'elsewhere' WHERE seq = 3", 3, "is missing"),
        ("DELETE FROM docendo_posts WHERE seq = 3", 3, "is missing"),
        ("DELETE FROM docendo_posts WHERE seq = 1", 1, "is missing"),
        ("DELETE FROM docendo_posts WHERE seq = 5", 4, "is the last one found, but 5 were written"),
        ("DELETE FROM docendo_posts", 0, "is the last one found, but 5 were written"),
        ("DELETE FROM docendo_heads", 5, "the end of the chain is not recorded"),
        ("UPDATE docendo_heads SET hash = 'x'", 5, "differs from the recorded end"),
    ],
)
def test_verify_names_the_damaged_record(board, statement, seq, reason):
    check_damage(board, statement, seq, reason)


@pytest.mark.parametrize("value", ["key = CAST('x' AS BLOB)", "body = CAST(x'22ff22' AS TEXT)"])
def test_verify_names_a_record_of_another_type(file_board, value):
    """SQLite takes anything anywhere; a server refuses it."""
    check_damage(file_board, f"UPDATE docendo_posts SET {value} WHERE seq = 3", 3, "does not match its hash")


def check_damage(board, statement, seq, reason):
    ids = {post.seq: post.id for post in filled(board)}
    assert board.verify().ok
    sql(board, statement)
    report = board.verify()
    assert not report.ok
    first = report.damage[0]
    assert first.seq == seq
    assert reason in first.reason
    if "hash" in reason and "UPDATE docendo_posts" in statement:
        assert first.id == ids[seq]
        with pytest.raises(IntegrityError, match=rf"post {seq} \({ids[seq]}\)"):
            board.get(ids[seq])
        with pytest.raises(IntegrityError, match=f"post {seq} "):
            board.posts()
    with pytest.raises(IntegrityError, match="board 'main' is damaged: post"):
        report.raise_for_damage()


def test_a_rewritten_row_breaks_the_chain_behind_it(board):
    """A row whose own hash was recomputed is consistent in itself; the next one tells on it."""
    filled(board)
    with board.database.transaction() as connection:
        row = connection.execute(sa.select(_schema.posts).where(_schema.posts.c.seq == 3)).mappings().one()
        forged = {**row, "body": '{"text":"forged"}'}
        seal = digest(*(value for name, value in forged.items() if name not in ("hash", "number")))
        change = _schema.posts.update().where(_schema.posts.c.seq == 3)
        connection.execute(change.values(body=forged["body"], hash=seal))
    report = board.verify()
    assert [(damage.seq, damage.reason) for damage in report.damage] == [
        (4, "does not follow from the record before it")
    ]


def test_the_head_tells_rewritten_history_from_the_old_one(board):
    filled(board, 2)
    noted = board.verify().head
    assert noted == board.posts()[-1].hash
    filled(board, 3)
    assert board.verify().head != noted
    assert board.posts()[1].hash == noted


def test_trust_events_are_chained_too(board):
    for post in filled(board, 3):
        board.trust(post.id, "verified", by=CHECKER, reason="good")
    sql(board, "UPDATE docendo_trust SET level = 'unverified' WHERE seq = 2")
    assert "trust event 2" in str(board.verify().damage[0])
    with pytest.raises(IntegrityError, match="trust event 2"):
        board.posts()
    sql(board, "DELETE FROM docendo_trust WHERE seq >= 2")
    assert "is the last one found, but 3 were written" in str(board.verify())


def test_nothing_is_linked_to_a_damaged_end(board):
    filled(board, 2)
    sql(board, "DELETE FROM docendo_posts WHERE seq = 2")
    with pytest.raises(IntegrityError, match="damaged at its end"):
        board.post("attempt", {}, author=STUDENT, key="new")


def test_verify_finds_rows_that_an_index_hides(file_board):
    for index in range(5):
        file_board.post("attempt", {}, author=STUDENT, key=f"{index}", run=f"run-{index}")
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'docendo_posts_by_item'"
    page = sql(file_board, query).scalar()
    size = sql(file_board, "PRAGMA page_size").scalar()
    file_board.close()
    path = file_board.database.path
    data = bytearray(path.read_bytes())
    place = data.index(b"run-3", (page - 1) * size, page * size)
    data[place + 4] ^= 1
    path.write_bytes(data)
    with Blackboard.open(path) as damaged:
        assert len(damaged.posts()) == 5
        assert damaged.posts(run="run-3", item="") == []  # silently lost, which is why verify() exists
        found = damaged.verify().damage
        assert found
        assert {damage.record for damage in found} == {"database"}
        assert "docendo_posts_by_item" in found[0].reason


def test_a_report_reads_well(board):
    filled(board, 2)
    assert str(board.verify()) == "board 'main': 2 records, ok"
    sql(board, "UPDATE docendo_posts SET item = 'x' WHERE seq = 2")
    lines = str(board.verify()).splitlines()
    assert lines[0] == "board 'main': 2 records, 1 damaged"
    assert lines[1].startswith("  post 2 (")
    assert board.verify().to_json()["damage"][0]["seq"] == 2


def test_stores_share_one_database(database_url):
    with Database.open(database_url) as database, Blackboard(database) as board:
        board.post("task", {}, author=CHECKER, key="k")
        board.close()
        with pytest.raises(StorageError, match="closed"):
            Blackboard(database).posts()
