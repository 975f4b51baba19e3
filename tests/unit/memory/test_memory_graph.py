"""The graph memory: merging, age, what is around a goal, what to do next, and what others say."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError
from docendo.memory import Blackboard, Budget
from docendo.memory.memories._graph import GraphMemory
from docendo.memory.memories._messages import MessageBoard, StructuredMessage
from docendo.memory.memories._planner import PathPlanner
from docendo.records import Author

ANN = Author(agent="ann", role="student")
BOB = Author(agent="bob", role="student")
CHECKER = Author(agent="checker", role="code")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


@pytest.fixture
def graph(board):
    return GraphMemory(board, owner=ANN)


def chain(graph, *texts):
    """Goals, each of which needs the one before it."""
    nodes = [graph.add("goal", text, at=0, id=text, status="need") for text in texts]
    for before, after in itertools.pairwise(nodes):
        graph.link(before.id, "prerequisite", after.id, at=0)
    return nodes


def test_duplicates_are_merged(graph):
    first = graph.add("fact", "Iron is north", at=1, fields={"place": "north"})
    again = graph.add("fact", "iron  is north", at=3, fields={"amount": 2})
    assert first.id == again.id
    assert len(graph.nodes()) == 1
    assert (again.at, again.fields) == (3, {"place": "north", "amount": 2})


observations = st.permutations(
    [(1, "ann", "old"), (2, "bob", "heard"), (2, "ann", "seen"), (3, "bob", "new"), (3, "eve", "newer")]
)


@settings(deadline=None, max_examples=40)
@given(observations, st.integers(1, 5))
def test_newer_wins_and_own_beats_hearsay_whatever_the_order_of_arrival(order, size):
    with Blackboard.open(":memory:") as board:
        graph = GraphMemory(board, owner=ANN)
        for at, source, text in order[:size]:
            graph.add("fact", text, at=at, id="x", source=source)
        held = graph.node("x")
        newest = max(at for at, _, _ in order[:size])
        latest = [source for at, source, _ in order[:size] if at == newest]
        assert held.at == newest
        assert held.source == ("ann" if "ann" in latest else latest[-1])


def test_the_graph_is_rebuilt_from_the_board(board, graph):
    chain(graph, "wood", "table")
    graph.set_status("wood", "done", at=2)
    before = board.digest()
    again = GraphMemory(board, owner=ANN)
    chain(again, "wood", "table")
    assert (again.nodes(), again.edges()) == (graph.nodes(), graph.edges())
    assert board.digest() == before
    assert again.node("wood").status == "done"


def test_memories_of_two_owners_do_not_mix(board, graph):
    graph.add("fact", "iron is north", at=1)
    assert GraphMemory(board, owner=BOB).nodes() == []


def test_stale_facts_are_not_read_but_goals_stay(board):
    graph = GraphMemory(board, owner=ANN, half_life=2.0, floor=0.25)
    graph.add("fact", "a wolf is near", at=0, id="wolf")
    graph.add("goal", "flee", at=0, id="flee")
    graph.link("wolf", "about", "flee", at=0)
    assert {node.id for node in graph.nodes()} == {"wolf", "flee"}
    graph.add("fact", "it rains", at=4, id="rain")
    assert {node.id for node in graph.nodes()} == {"wolf", "flee", "rain"}
    graph.add("fact", "it snows", at=4.1, id="snow")
    assert {node.id for node in graph.nodes()} == {"flee", "rain", "snow"}
    assert [node.id for node in graph.subgraph("flee").nodes] == ["flee"]


def test_a_subgraph_is_what_is_near_newest_first_and_within_the_budget(graph):
    chain(graph, "a", "b", "c", "d")
    graph.add("fact", "a is here", at=5, id="here")
    graph.link("here", "about", "c", at=5)
    assert [node.id for node in graph.subgraph("d", hops=1).nodes] == ["d", "c"]
    assert [node.id for node in graph.subgraph("d", hops=2).nodes] == ["here", "d", "c", "b"]
    small = graph.subgraph("d", hops=2, budget=Budget(entries=2))
    assert [node.id for node in small.nodes] == ["here", "d"]
    assert small.text == "fact a is here\ngoal d (need)"
    assert small.edges == ()
    assert [edge.type for edge in graph.subgraph("b", hops=1).edges] == ["prerequisite", "prerequisite"]
    assert [entry.text for entry in graph.read("where is a", Budget(entries=1))] == ["fact a is here"]


def test_the_next_goal_is_one_whose_prerequisites_are_done(graph):
    chain(graph, "wood", "plank", "table")
    graph.add("goal", "nails", at=0, id="nails", status="need")
    graph.link("nails", "part of", "table", at=0)
    done = []
    while (goal := graph.next_goal("table")) is not None:
        done.append(goal.id)
        graph.set_status(goal.id, "done", at=len(done))
    assert done == ["nails", "wood", "plank", "table"]


def test_what_is_in_progress_goes_first_and_what_is_blocked_waits(graph):
    chain(graph, "wood", "table")
    chain(graph, "ore", "nails")
    graph.link("nails", "prerequisite", "table", at=0)
    assert graph.next_goal("table").id == "wood"
    graph.set_status("ore", "in progress", at=1)
    assert graph.next_goal("table").id == "ore"
    graph.set_status("ore", "blocked", at=2)
    assert graph.next_goal("table").id == "wood"
    graph.set_status("wood", "blocked", at=3)
    assert graph.next_goal("table") is None


def test_links_can_be_taken_away_and_circles_end(graph):
    chain(graph, "a", "b")
    graph.link("b", "prerequisite", "a", at=1)
    assert graph.next_goal("b") is None
    graph.link("b", "prerequisite", "a", at=2, weight=0)
    assert graph.next_goal("b").id == "a"
    assert len(graph.edges()) == 1


def test_a_quarantined_or_evicted_observation_gives_way_to_the_one_before(board, graph):
    graph.add("fact", "iron is north", at=1, id="iron")
    wrong = graph.add("fact", "iron is south", at=2, id="iron")
    board.trust(wrong.post, "quarantined", by=CHECKER, reason="no")
    assert graph.node("iron").text == "iron is north"
    graph.evict(graph.node("iron").post, by=ANN, reason="mined")
    assert graph.get("iron") is None
    graph.add("fact", "coal is east", at=3, id="coal")
    graph.add("fact", "coal is west", at=4, id="coal")
    graph.forget("coal", by=ANN, reason="mined")
    assert graph.nodes() == []
    assert graph.read("coal", Budget(entries=3)) == []


def test_messages_are_sent_only_when_something_relevant_has_changed(board):
    said = MessageBoard(board)
    one = StructuredMessage(sender="bob", at=1, task="dig", has={"wood": 1, "sand": 5}, location="cave")
    first = said.say(one, author=BOB, relevant={"wood"})
    assert first.body["text"] == "bob: task dig; has wood 1; location cave"
    assert said.say(one.replace(at=2, location="hut"), author=BOB, relevant={"wood"}) is None
    assert said.say(one.replace(at=3, has={"wood": 1, "sand": 9}), author=BOB, relevant={"wood"}) is None
    used = said.say(one.replace(at=4, has={}), author=BOB, relevant={"wood"})
    assert used.body["has"] == {"wood": 0}
    assert MessageBoard(board).say(one.replace(at=5, has={}), author=BOB, relevant={"wood"}) is None
    assert [post.seq for post in said.heard("ann", after=first.seq)] == [used.seq]
    assert said.heard("bob") == []
    with pytest.raises(DataError, match="sender is 'bob'"):
        said.say(one, author=ANN)


def test_a_message_is_hearsay_with_its_time_and_can_be_taken_back(board, graph):
    graph.add("fact", "iron is at hill", at=5, id="found/iron", fields={"place": "hill"})
    said = MessageBoard(board)
    post = said.say(
        StructuredMessage(sender="bob", at=4, task="chop wood", found={"iron": "cave", "coal": "hut"}),
        author=BOB,
    )
    assert {node.source for node in graph.merge(post)} == {"ann", "bob"}
    assert graph.node("found/iron").fields["place"] == "hill"  # older than what she saw
    assert graph.node("found/coal").fields["place"] == "hut"
    assert graph.node("task/bob").status == "in progress"
    assert graph.read("coal", Budget(entries=1))[0].text == "fact coal is at hut [bob]"
    assert GraphMemory(board, owner=BOB).merge(post) == []
    board.trust(post.id, "quarantined", by=CHECKER, reason="a lie")
    assert [node.id for node in graph.nodes()] == ["found/iron"]


def test_a_message_in_a_post_without_sender_is_refused(board, graph):
    post = board.post("message", {"text": "hello"}, author=BOB, key="k")
    with pytest.raises(DataError, match="no sender"):
        graph.merge(post)


def test_concepts_are_what_paths_are_planned_over(graph):
    for name in ("add", "multiply"):
        graph.add("concept", name, at=0, id=name)
    graph.link("add", "prerequisite", "multiply", at=0)
    graph.add("exercise", "2 + 2", at=0, id="e1")
    graph.link("e1", "tests", "add", at=0)
    assert graph.prerequisites() == {"add": (), "multiply": ("add",)}
    assert PathPlanner().plan(graph.prerequisites(), mastery={}).steps == ("add", "multiply")
    assert [edge.origin for edge in graph.edges("tests", target="add")] == ["e1"]


def test_written_entries_are_checked(graph):
    post = graph.write("it rains", author=ANN, key="k")
    assert graph.text(post) == "fact it rains"
    good = {"node": "x", "type": "fact", "text": "y", "at": 1}
    for change, message in [
        ({"type": "rumour"}, "type is 'rumour'"),
        ({"status": "lost"}, "status is 'lost'"),
        ({"at": "now"}, "at is 'now'"),
        ({"at": True}, "at is True"),
        ({"text": " "}, "text is ' '"),
        ({"edge": "likes", "from": "a", "to": "b"}, "edge is 'likes'"),
        ({"edge": "about", "from": "a", "to": ""}, "to is ''"),
    ]:
        with pytest.raises(DataError, match=message):
            graph.write({**good, **change}, author=ANN, key="bad")
    with pytest.raises(DataError, match="neither node nor edge"):
        graph.write({}, author=ANN, key="bad")
    with pytest.raises(DataError, match="no node 'z'"):
        graph.link("z", "about", "z", at=0)
    for options, message in [({"half_life": 0}, "half_life is 0"), ({"floor": 2}, "floor is 2")]:
        with pytest.raises(ConfigError, match=message):
            GraphMemory(graph.board, owner=ANN, **options)
