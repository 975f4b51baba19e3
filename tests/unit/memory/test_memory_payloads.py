"""Values in parts: no loss, no copies, no silent damage; links between posts; prompts as chains."""

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import IntegrityError
from docendo.memory import Blackboard, Database, Journal, TraceStore, verify
from docendo.memory.storage import _payloads, _schema
from docendo.records import Author, Trace

STUDENT = Author(agent="student", role="student", model="m" * 64)
LONG = "An answer that is long enough to be kept apart. " * 8
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=40)
        | st.dictionaries(st.text() | st.sampled_from(["\x7f", "\x7f\x7f"]), inner, max_size=6)
    ),
    max_leaves=60,
)


def count(database, table):
    with database.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table))


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_values_come_back_as_they_were(values):
    with Database.open(":memory:") as database:
        with database.transaction() as connection:
            texts = [_payloads.store(database, connection, value, whole=True) for value in values]
            assert _payloads.load(connection, texts) == values
            intact, damage = _payloads.verify(connection)
        assert not damage
        assert {name for text in texts for name in _payloads.references(text)} <= intact


def test_one_answer_in_three_places_is_stored_once(database_url):
    with Database.open(database_url) as database:
        board, journal, traces = Blackboard(database), Journal(database), TraceStore(database)
        board.post("attempt", {"text": LONG}, author=STUDENT, key="1")
        once = count(database, _schema.payloads)
        journal.put("call", {"completions": [{"text": LONG}]})
        message = {"role": "assistant", "content": LONG}
        traces.add([Trace(id="t", run="r", item="i", author=STUDENT, messages=(message,), completion=LONG)])
        assert count(database, _schema.payloads) == once
        assert journal.get("call") == {"completions": [{"text": LONG}]}
        assert traces.get("t").completion == traces.get("t").messages[0]["content"] == LONG


def test_a_conversation_costs_its_messages_not_their_square(database_url):
    with TraceStore.open(database_url) as store:
        said = []
        for turn in range(30):
            said.append({"role": "user", "content": f"{turn} {LONG}"})
            store.add(
                [
                    Trace(
                        id=f"t{turn}",
                        run="r",
                        item="i",
                        author=STUDENT,
                        messages=tuple(said),
                        completion="ok",
                    )
                ]
            )
        assert count(store.database, _schema.prompts) == 30
        assert [len(trace.messages) for trace in store.find()] == list(range(1, 31))
        assert list(store.get("t29").messages) == said
        assert store.verify().ok


@pytest.mark.parametrize("mark", ["\x7f", "\x7f\x7f", "\x7f\x7f\x7f"])
def test_the_mark_of_a_reference_cannot_be_forged(database_url, mark):
    forged = {mark: "A" * 43, "v": [{mark: "A" * 43}, {mark: "long " * 50}]}
    with Database.open(database_url) as database:
        Journal(database).put("k", forged)
        assert Journal(database).get("k") == forged
        post = Blackboard(database).post("hint", forged, author=STUDENT, key="1")
        assert Blackboard(database).get(post.id).body == forged
        assert all(report.ok for report in verify(database))


@pytest.mark.parametrize("harm", ["changed", "deleted"])
def test_a_damaged_payload_is_named_where_it_is_read(database_url, harm):
    with Database.open(database_url) as database:
        board, journal = Blackboard(database), Journal(database)
        post = board.post("attempt", {"text": LONG}, author=STUDENT, key="1")
        journal.put("call", {"text": LONG})
        with database.transaction() as connection:
            table = _schema.payloads
            connection.execute(table.update().values(data=b't"no"') if harm == "changed" else table.delete())
        for read in (
            lambda: board.get(post.id),
            board.posts,
            lambda: board.post("attempt", {"text": "x"}, author=STUDENT, key="1"),
            lambda: journal.get("call"),
            board.digest,
        ):
            with pytest.raises(IntegrityError, match="payload"):
                read()
        assert any(damage.record == "post" for damage in board.verify().damage)
        assert any(damage.record == "journal entry" for damage in journal.verify().damage)


def test_relations_of_posts(database_url):
    with Blackboard.open(database_url) as board:
        made = {}
        for name, parents in (("a", ""), ("b", "a"), ("c", "a"), ("d", "bc"), ("e", "d"), ("f", "")):
            ids = [made[parent].id for parent in parents]
            made[name] = board.post("claim", {"n": name}, author=STUDENT, key=name, parents=ids)
        named = {post.id: name for name, post in made.items()}

        def names(posts):
            return "".join(named[post.id] for post in posts)

        assert names(board.children(made["a"].id)) == "bc"
        assert names(board.descendants(made["a"].id)) == "bcde"
        assert names(board.ancestors(made["e"].id)) == "abcd"
        assert names(board.ancestors(made["f"].id)) == names(board.descendants(made["e"].id)) == ""
        assert board.verify().ok
        with board.database.transaction() as connection:
            connection.execute(_schema.links.delete().where(_schema.links.c.child == made["d"].id))
        assert {damage.record for damage in board.verify().damage} == {"link"}
