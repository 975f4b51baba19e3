"""Trust: who may raise it, what a quarantine takes out, what a release gives back, what taint lists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import AccessError, DataError
from docendo.memory import Artifacts, Blackboard, Database, TraceStore, read_traces, verify
from docendo.records import Author, Message, Trace

STUDENT = Author(agent="student", role="student", model="m1", adapter="a1")
TUTOR = Author(agent="tutor", role="tutor", model="m2")
CHECKER = Author(agent="checker", role="verifier")
ANN = Author(agent="ann", role="person")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def turn(name: str, author: Author = STUDENT, **changes: Any) -> Trace:
    messages = (Message(role="user", content="2 + 2?"),)
    fields = {"run": "r", "item": "i", "split": "train", "completion": f"text of {name}"}
    return Trace(id=name, author=author, messages=messages, **{**fields, **changes})


def put(board, key, *parents, by=STUDENT, kind="attempt", traces=()):
    ids = [parent.id for parent in parents]
    return board.post(kind, {"text": key}, author=by, key=key, run="r", parents=ids, traces=traces)


def trusts(board):
    return {post.key: post.trust for post in board.posts()}


def tidy(board):
    assert all(report.ok for report in verify(board.database))


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (STUDENT.replace(role="verifier", model="other", adapter=None), "set its own post"),
        (STUDENT.replace(agent="judge", role="verifier"), "the weights of agent 'student'"),
    ],
)
def test_who_wrote_a_post_does_not_promote_it(board, judge, why):
    post = put(board, "p")
    with pytest.raises(AccessError, match=why):
        board.trust(post.id, "verified", by=judge, reason="sure")
    assert board.objection(post.id, by=judge)
    assert board.get(post.id).trust == "unverified"


@pytest.mark.parametrize(
    "judge",
    [
        CHECKER,
        Author(agent="judge", role="verifier", model="m2"),
        Author(agent="judge", role="verifier", model="m1"),
        Author(agent="judge", role="verifier", model="m1", adapter="a2"),
    ],
)
def test_who_does_not_depend_on_the_poster_promotes(board, judge):
    post = put(board, "p")
    assert board.objection(post.id, by=judge) is None
    board.trust(post.id, "verified", by=judge, reason="right")
    assert board.get(post.id).trust == "verified"
    tidy(board)


def test_two_bases_without_an_adapter_are_the_same_weights(board):
    post = put(board, "p", by=TUTOR)
    with pytest.raises(AccessError, match="weights"):
        board.trust(post.id, "verified", by=TUTOR.replace(agent="judge"), reason="right")


@pytest.mark.parametrize("between", range(3))
def test_trust_is_not_laundered_through_posts_of_others(board, between):
    last = put(board, "hint", by=TUTOR, kind="hint")
    for number in range(between):
        last = put(board, f"b{number}", last, by=Author(agent=f"x{number}", role="x", model=f"x{number}"))
    last = put(board, "attempt", last)
    for judge in (TUTOR, TUTOR.replace(agent="judge")):
        with pytest.raises(AccessError, match="follows from hint"):
            board.trust(last.id, "verified", by=judge, reason="right")
    board.trust(last.id, "verified", by=CHECKER, reason="right")


@pytest.mark.parametrize("kind", ["task", "question", "request", "verdict"])
def test_asking_and_judging_is_no_content(board, kind):
    asked = put(board, "q", by=CHECKER, kind=kind)
    post = put(board, "p", asked)
    board.trust(post.id, "verified", by=CHECKER, reason="right")
    assert board.get(post.id).trust == "verified"


def test_trust_is_not_laundered_through_turns(board):
    traces = TraceStore(board.database)
    traces.add([turn("hint", TUTOR), turn("reply", parents=("hint",)), turn("verdict", CHECKER)])
    post = put(board, "p", traces=["reply"])
    with pytest.raises(AccessError, match="from turn hint"):
        board.trust(post.id, "verified", by=TUTOR, reason="right")
    # The weights that a turn says it was spoken with count, whatever the post was stamped with.
    other = put(board, "o", by=STUDENT.replace(agent="other", model="m9"), traces=["reply"])
    with pytest.raises(AccessError, match="weights of agent 'student'"):
        board.trust(other.id, "verified", by=STUDENT.replace(agent="judge"), reason="right")
    put(board, "v", by=CHECKER, kind="verdict", traces=["verdict"])
    traces.add([turn("second", parents=("verdict",))])
    revised = put(board, "r", traces=["second"])
    board.trust(revised.id, "verified", by=CHECKER, reason="right")


def test_a_quarantine_takes_descendants_and_what_comes_later(board):
    root = put(board, "root")
    child = put(board, "child", root, by=TUTOR)
    put(board, "grandchild", child)
    put(board, "other")
    taint = board.quarantine(root.id, by=CHECKER, reason="an order")
    assert taint.quarantined
    assert len(taint.posts) == 3
    late = put(board, "late", child)
    assert late.trust == board.get(late.id).trust == "quarantined"
    assert trusts(board) == {
        **dict.fromkeys(("root", "child", "grandchild", "late"), "quarantined"),
        "other": "unverified",
    }
    with pytest.raises(DataError, match=f"release it first: board.release\\('{root.id}'"):
        board.trust(late.id, "verified", by=CHECKER, reason="right")
    assert "quarantined" in str(board.objection(late.id, by=CHECKER))
    assert board.taint(root.id).posts == tuple(sorted([*taint.posts, late.id]))
    tidy(board)


def test_a_release_gives_back_what_was_before(board):
    root = put(board, "root")
    child = put(board, "child", root)
    board.trust(child.id, "verified", by=CHECKER, reason="right")
    board.quarantine(root.id, by=CHECKER, reason="an order")
    put(board, "late", child)
    with pytest.raises(DataError, match=f"because of post {root.id}"):
        board.release(child.id, by=ANN, reason="fine")
    assert not board.release(root.id, by=ANN, reason="a mistake").quarantined
    assert trusts(board) == {"root": "unverified", "child": "verified", "late": "unverified"}
    assert not board.release(root.id, by=ANN, reason="a mistake").quarantined
    assert board.quarantine(root.id, by=CHECKER, reason="an order").quarantined  # the same words count again
    tidy(board)


def test_a_release_keeps_what_another_quarantine_holds(board):
    one, two = put(board, "one"), put(board, "two")
    both, single = put(board, "both", one, two), put(board, "single", one)
    board.quarantine(one.id, by=CHECKER, reason="an order")
    board.quarantine(two.id, by=CHECKER, reason="another")
    board.quarantine(single.id, by=CHECKER, reason="a third")
    board.release(one.id, by=ANN, reason="fine")
    assert trusts(board) == {
        "one": "unverified",
        "two": "quarantined",
        "both": "quarantined",
        "single": "quarantined",
    }
    board.release(two.id, by=ANN, reason="fine")
    assert board.get(both.id).trust == "unverified"
    assert board.get(single.id).trust == "quarantined"
    # A post that is held from above and on its own account is held until both are over.
    child = put(board, "child", one)
    board.quarantine(one.id, by=CHECKER, reason="again")
    board.quarantine(child.id, by=CHECKER, reason="itself")
    assert board.release(child.id, by=ANN, reason="fine").quarantined
    board.release(one.id, by=ANN, reason="fine")
    assert board.get(child.id).trust == "unverified"
    tidy(board)


def test_a_model_flags_and_takes_out_nothing_of_others(board):
    post = put(board, "p")
    for level in ("quarantined", "unverified"):
        board.trust(post.id, "verified", by=CHECKER, reason="right")
        with pytest.raises(AccessError, match=r"board\.flag"):
            board.trust(post.id, level, by=TUTOR, reason="I say so")
    for reason in ("wrong", "wrong again"):
        board.flag(post.id, by=TUTOR, reason=reason)
    assert board.get(post.id).trust == "verified"
    flags = [event for event in board.trust_events(post.id) if event.level == "flagged"]
    assert [(flag.by, flag.reason) for flag in flags] == [(TUTOR, "wrong")]
    with pytest.raises(AccessError, match="a model"):
        board.release(post.id, by=TUTOR, reason="fine")
    tidy(board)


def test_a_model_withdraws_its_own_until_others_build_on_it(board):
    own, answered = put(board, "own"), put(board, "answered")
    put(board, "answer", answered, by=TUTOR)
    board.quarantine(own.id, by=STUDENT, reason="I was wrong")
    with pytest.raises(AccessError, match="others wrote or answered"):
        board.quarantine(answered.id, by=STUDENT, reason="I was wrong")
    assert trusts(board) == {"own": "quarantined", "answered": "unverified", "answer": "unverified"}


def test_who_releases_depends_on_nothing_that_is_lifted(board):
    root = put(board, "root", by=ANN)
    put(board, "child", root)
    board.quarantine(root.id, by=CHECKER, reason="an order")
    with pytest.raises(AccessError, match="written by agent 'ann'"):
        board.release(root.id, by=ANN, reason="mine is fine")
    other = put(board, "other")
    put(board, "mine", other, by=ANN)
    board.quarantine(other.id, by=CHECKER, reason="an order")
    with pytest.raises(AccessError, match="written by agent 'ann'"):
        board.release(other.id, by=ANN, reason="mine would be free")


def learnt(database: Database) -> Artifacts:
    artifacts = Artifacts(database)
    artifacts.dataset("d1", traces=["t1", "clean"])
    artifacts.adapter("a-one", dataset="d1")
    artifacts.dataset("d2", traces=["clean"])
    artifacts.adapter("a-two", dataset="d2", parent="a-one")
    artifacts.adapter("a-clean", dataset="d2")
    return artifacts


def test_taint_reaches_rows_adapters_and_what_these_said_on_all_boards(board):
    database, traces = board.database, TraceStore(board.database)
    elsewhere = Blackboard(database, name="elsewhere")
    spoken = turn("spoken", STUDENT.replace(adapter="a-two"))
    traces.add([turn("t0"), turn("t1", parents=("t0",)), turn("clean"), spoken])
    root = put(board, "root", traces=["t0"])
    follows = put(elsewhere, "follows", traces=["t1"])
    later = put(elsewhere, "later", traces=["spoken"])
    artifacts = learnt(database)
    artifacts.dataset("d3", traces=["spoken"])
    artifacts.adapter("a-three", dataset="d3")
    taint = board.quarantine(root.id, by=CHECKER, reason="an order")
    assert taint.posts == tuple(sorted([root.id, follows.id]))
    assert taint.traces == ("t0", "t1")
    assert taint.rows == (("d1", "t1"), ("d3", "spoken"))
    assert taint.adapters == ("a-one", "a-three", "a-two")
    assert (taint.spoken_posts, taint.spoken_traces) == ((later.id,), ("spoken",))
    assert elsewhere.get(follows.id).trust == "quarantined"
    assert elsewhere.get(later.id).trust == "unverified"
    assert put(elsewhere, "again", traces=["t1"]).trust == "quarantined"
    # Weights that learnt from it judge nothing.
    judge = Author(agent="judge", role="verifier", model="m9", adapter="a-two")
    with pytest.raises(AccessError, match="trained on quarantined text"):
        board.trust(put(board, "new").id, "verified", by=judge, reason="right")
    board.trust(put(board, "new").id, "verified", by=judge.replace(adapter="a-clean"), reason="right")
    assert str(taint).endswith("3 posts, 3 turns, 2 rows of 2 data sets, 3 adapters")
    board.release(root.id, by=ANN, reason="fine")
    assert elsewhere.get(follows.id).trust == "unverified"
    tidy(board)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE docendo_artifacts SET kind = 'adapter' WHERE seq = 1", "artifact 1"),
        ("DELETE FROM docendo_artifacts WHERE seq = 5", "artifact 4"),
        ("DELETE FROM docendo_descent WHERE kind = 'row'", "descent (row"),
        ("UPDATE docendo_descent SET kind = 'trained' WHERE kind = 'continued'", "descent (continued"),
        ("DELETE FROM docendo_descent WHERE kind = 'posted'", "descent (posted"),
        ("DELETE FROM docendo_descent WHERE kind = 'turn'", "descent (turn"),
        ("DELETE FROM docendo_descent WHERE kind = 'spoke'", "descent (spoke"),
    ],
)
def test_damage_to_the_lineage_is_named(board, damage, named):
    TraceStore(board.database).add([turn("t0"), turn("t1", parents=("t0",)), turn("clean")])
    put(board, "p", traces=["t1"])
    learnt(board.database)
    tidy(board)
    with board.database.transaction() as connection:
        connection.exec_driver_sql(damage)
    found = [str(entry) for report in verify(board.database) for entry in report.damage]
    assert any(named in line for line in found), found


def test_turns_have_to_be_stored_before_they_are_posted(board):
    with pytest.raises(DataError, match="turn 'nope' is not stored"):
        put(board, "p", traces=["nope"])
    with pytest.raises(DataError, match="traces is a string"):
        put(board, "p", traces="nope")


def test_traces_say_what_their_posts_are_held_to_be(board, tmp_path):
    traces = TraceStore(board.database)
    traces.add([turn(name) for name in ("good", "bad", "open")])
    traces.add([turn("silent"), turn("after", parents=("bad",)), turn("alone", run="no-board")])
    good, bad = put(board, "good", traces=["good"]), put(board, "bad", traces=["bad"])
    put(board, "open", traces=["open"])
    board.trust(good.id, "verified", by=CHECKER, reason="right")
    board.quarantine(bad.id, by=CHECKER, reason="an order")
    expected = {
        "good": "verified",
        "bad": "quarantined",
        "open": "unverified",
        "silent": "unverified",
        "after": "quarantined",
        "alone": "",
    }
    found = traces.find()
    assert {trace.id: trace.trust for trace in found} == expected
    assert traces.get("good").posts == (good.id,)
    # It travels with a file, and into another database.
    path = tmp_path / "traces.jsonl"
    traces.export_jsonl(path)
    assert read_traces(path) == found
    with TraceStore.open(":memory:") as other:
        other.add(read_traces(path))
        assert {trace.id: trace.trust for trace in other.find()} == expected
        again = put(Blackboard(other.database), "bad", traces=["bad"])
        assert (again.trust, other.get("bad").trust) == ("unverified", "quarantined")
        assert other.verify().ok
    path.write_text(path.read_text().replace('"quarantined"', '"fine"'))
    with pytest.raises(DataError, match="has the trust 'fine'"):
        read_traces(path)


# ---- properties -------------------------------------------------------------------------------------------

_AUTHORS = [
    Author(agent="a", role="x", model="m1"),
    Author(agent="b", role="x", model="m1"),
    Author(agent="c", role="x", model="m1", adapter="l"),
    Author(agent="d", role="x", model="m2"),
    Author(agent="e", role="x"),
]
_KINDS = ["attempt", "hint", "verdict", "task", "message"]
_POST = st.tuples(
    st.integers(0, len(_AUTHORS) - 1), st.integers(0, len(_KINDS) - 1), st.sets(st.integers(0, 7), max_size=3)
)


def grown(board, plan, *, traces=False):
    """A board of posts, whose parents are among the earlier ones; every third link is one of turns."""
    posts, edges = [], set()
    for number, (author, kind, wanted) in enumerate(plan):
        above = sorted(index for index in wanted if index < number)
        links = [index for index in above if not (traces and (index + number) % 3 == 0)]
        name = f"t{number}"
        turns = tuple(f"t{index}" for index in above if index not in links)
        TraceStore(board.database).add([turn(name, _AUTHORS[author], parents=turns)])
        posted = put(
            board,
            str(number),
            *(posts[index] for index in links),
            by=_AUTHORS[author],
            kind=_KINDS[kind],
            traces=[name],
        )
        posts.append(posted)
        edges |= {(index, number) for index in above}
    return posts, edges


def below(edges, start):
    found, new = {start}, {start}
    while new:
        new = {child for parent, child in edges if parent in new} - found
        found |= new
    return found


@settings(max_examples=40, deadline=None)
@given(
    plan=st.lists(_POST, min_size=1, max_size=8),
    taken=st.lists(st.integers(0, 7), max_size=4),
    data=st.data(),
)
def test_taint_is_reachability_whatever_is_taken_out_and_released(plan, taken, data):
    with Blackboard.open(":memory:") as board:
        posts, edges = grown(board, plan, traces=True)
        held: set[int] = set()
        for number in taken:
            if number >= len(posts):
                continue
            if number in held and data.draw(st.booleans()):
                board.release(posts[number].id, by=ANN, reason="fine")
                held.discard(number)
            else:
                taint = board.quarantine(posts[number].id, by=CHECKER, reason="bad")
                held.add(number)
                assert set(taint.posts) == {posts[index].id for index in below(edges, number)}
                assert set(taint.traces) == {f"t{index}" for index in below(edges, number)}
            expected = set().union(*(below(edges, source) for source in held), set())
            levels = [board.get(post.id).trust for post in posts]
            assert {i for i, level in enumerate(levels) if level == "quarantined"} == expected
            traces = TraceStore(board.database).find()
            assert {int(t.id[1:]) for t in traces if t.trust == "quarantined"} == expected
        tidy(board)


def dependent(author, posts, edges, number):
    """By the rule as it is written, on the plain graph: the author, its weights, or content above it."""
    above = {index for index in range(len(posts)) if number in below(edges, index) and index != number}
    others = [posts[index] for index in above if posts[index].kind not in ("verdict", "task")]
    return any(
        author.agent == post.author.agent
        or (author.model and (author.model, author.adapter) == (post.author.model, post.author.adapter))
        for post in [posts[number], *others]
    )


_CALL = st.tuples(
    st.sampled_from(["verified", "unverified", "quarantined", "release", "flag"]),
    st.integers(0, 7),
    st.integers(0, len(_AUTHORS) - 1),
)
_RANK = {"quarantined": 0, "unverified": 1, "verified": 2}


@settings(max_examples=60, deadline=None)
@given(plan=st.lists(_POST, min_size=1, max_size=6), calls=st.lists(_CALL, max_size=12), start=st.data())
def test_no_sequence_of_calls_by_dependent_authors_raises_trust(plan, calls, start):
    with Blackboard.open(":memory:") as board:
        posts, edges = grown(board, plan, traces=True)
        chosen = start.draw(st.integers(0, len(posts) - 1))
        if start.draw(st.booleans()):
            board.quarantine(posts[chosen].id, by=ANN, reason="bad")
        for call, target, who in calls:
            author = _AUTHORS[who]
            post = posts[target % len(posts)]
            before = [board.get(one.id).trust for one in posts]
            try:
                if call == "release":
                    board.release(post.id, by=author, reason="x")
                elif call == "flag":
                    board.flag(post.id, by=author, reason="x")
                else:
                    board.trust(post.id, call, by=author, reason="x")
            except (AccessError, DataError):
                pass
            after = [board.get(one.id).trust for one in posts]
            for number, (old, new) in enumerate(zip(before, after, strict=True)):
                if _RANK[new] > _RANK[old]:
                    assert not dependent(author, posts, edges, number)
                if _RANK[new] < _RANK[old] and author.model:
                    assert author.agent == posts[number].author.agent
        tidy(board)
