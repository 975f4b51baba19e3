"""What every memory must do: write once, stay within the budget, recall alike, leave out what is dead."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import AccessError, ConfigError, DataError
from docendo.memory import (
    Blackboard,
    Budget,
    Channel,
    EpisodicMemory,
    FullTextMemory,
    KnowledgeBase,
    Memory,
    TwoStageRetriever,
    VectorMemory,
    WindowMemory,
    recall,
)
from docendo.records import Author

TEACHER = Author(agent="teacher", role="teacher")
KEEPER = Author(agent="keeper", role="code")
WORDS = ("carry", "borrow", "column", "digit", "legs", "divide")


class Hashed:
    """Bags of hashed words: cheap, and alike texts get alike vectors."""

    fingerprint = "hashed-words"

    def __init__(self):
        self.calls = 0

    def embed(self, texts):
        self.calls += len(texts)
        rows = np.zeros((len(texts), 32), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[hashlib.sha256(word.encode()).digest()[0] % 32] += 1
        return rows


class Overlap:
    """A reranker: how many words of the query a text has."""

    def rerank(self, query, texts):
        wanted = set(query.split())
        return [len(wanted & set(text.split())) for text in texts]


def two_stage(board):
    stages = {"dense": VectorMemory(board, Hashed()), "words": FullTextMemory(board)}
    return TwoStageRetriever(stages, Overlap())


MAKERS = {
    "window": lambda board: WindowMemory(board, kind="lesson"),
    "episodic": lambda board: EpisodicMemory(board, kind="lesson"),
    "episodic-dense": lambda board: EpisodicMemory(board, kind="lesson", embedder=Hashed()),
    "full-text": FullTextMemory,
    "vector": lambda board: VectorMemory(board, Hashed()),
    "two-stage": two_stage,
    "knowledge-base": KnowledgeBase,
}
every_memory = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), max_size=12)


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def filled(make, board, texts):
    memory = make(board)
    return memory, [memory.write(text, author=TEACHER, key=str(number)) for number, text in enumerate(texts)]


def told(entries):
    return [entry.text for entry in entries]


@every_memory
def test_it_is_a_memory(make, board):
    assert isinstance(make(board), Memory)


@every_memory
def test_the_same_key_writes_once(make, board):
    memory = make(board)
    first = memory.write("carry the one", author=TEACHER, key="run/item/node/0")
    again = memory.write("borrow from the left", author=TEACHER, key="run/item/node/0")
    assert again == first
    assert told(memory.read("carry borrow", Budget(entries=5))) == ["carry the one"]


def test_two_memories_may_use_the_same_key(board):
    for channel in ("one", "two"):
        WindowMemory(board, channel=channel).write(channel, author=TEACHER, key="k")
    assert told(WindowMemory(board, channel="two").read("", Budget(entries=5))) == ["two"]


def test_a_channel_may_be_declared_before(board):
    board.declare(Channel(name="lessons", writers=("teacher",)))
    memory = FullTextMemory(board, channel="lessons")
    memory.write("carry", author=TEACHER, key="k")
    with pytest.raises(AccessError):
        memory.write("carry", author=Author(agent="ann", role="student"), key="k2")


@every_memory
@given(
    texts=TEXTS,
    query=st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join),
    entries=st.none() | st.integers(0, 5),
    characters=st.none() | st.integers(0, 120),
    tokens=st.none() | st.integers(0, 20),
)
@settings(max_examples=15, deadline=None)
def test_the_budget_is_never_exceeded_and_reading_repeats(make, texts, query, entries, characters, tokens):
    if entries is characters is tokens is None:
        characters = 50
    counter = (lambda text: len(text.split())) if tokens is not None else None
    budget = Budget(entries=entries, characters=characters, tokens=tokens, counter=counter)
    with Blackboard.open(":memory:") as board:
        memory, _ = filled(make, board, texts)
        found = memory.read(query, budget)
        joined = "\n".join(told(found))
        assert entries is None or len(found) <= entries
        assert characters is None or len(joined) <= characters
        assert tokens is None or len(joined.split()) <= tokens
        assert [entry.score for entry in found] == sorted((entry.score for entry in found), reverse=True)
        assert memory.read(query, budget) == found
        # A memory that was not there when the entries were written recalls the same.
        assert make(board).read(query, budget) == found


@every_memory
@given(texts=TEXTS, data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_is_quarantined_or_evicted_is_never_returned(make, texts, data):
    with Blackboard.open(":memory:") as board:
        memory, posts = filled(make, board, texts)
        memory.read("carry digit", Budget(entries=3))  # fills what is cached
        numbers = st.integers(0, max(0, len(posts) - 1))
        bad = data.draw(st.sets(numbers) if posts else st.just(set()))
        gone = data.draw(st.sets(numbers) if posts else st.just(set()))
        for number in bad:
            board.trust(posts[number].id, "quarantined", by=KEEPER, reason="wrong")
        for number in gone:
            memory.evict(posts[number].id, by=KEEPER, reason="old")
        dead = {posts[number].id for number in bad | gone}
        for reader in (memory, make(board)):
            for query in ("carry digit", " ".join(WORDS)):
                assert not dead & {entry.post.id for entry in reader.read(query, Budget(entries=50))}
        # Nothing was deleted.
        assert all(board.get(post.id).id == post.id for post in posts)
        assert board.verify().ok


@every_memory
def test_an_eviction_is_a_post_and_can_be_undone(make, board):
    memory, (post,) = filled(make, board, ["carry the one"])
    stone = memory.evict(post.id, by=KEEPER, reason="old")
    assert (stone.kind, stone.parents, stone.author) == ("tombstone", (post.id,), KEEPER)
    assert memory.evict(post.id, by=KEEPER, reason="old") == stone
    assert memory.read("carry", Budget(entries=1)) == []
    assert memory.write("carry the one", author=TEACHER, key="0") == post, "writing again does not revive it"
    assert memory.read("carry", Budget(entries=1)) == []
    board.trust(stone.id, "quarantined", by=TEACHER, reason="it was still needed")
    assert told(memory.read("carry", Budget(entries=1))) == ["carry the one"]
    memory.evict(post.id, by=KEEPER, reason="really")
    assert memory.read("carry", Budget(entries=1)) == []


@every_memory
def test_only_entries_can_be_evicted(make, board):
    memory = make(board)
    foreign = board.post("hint", {"text": "x"}, author=TEACHER, key="hint")
    with pytest.raises(DataError, match=r"is a hint .*expected a lesson"):
        memory.evict(foreign.id, by=KEEPER, reason="old")
    with pytest.raises(DataError, match="no post"):
        memory.evict("nothing", by=KEEPER, reason="old")


@every_memory
def test_reading_can_be_limited_to_a_run_and_an_item(make, board):
    memory = make(board)
    for run in ("r1", "r2"):
        for item in ("i1", "i2"):
            memory.write(f"carry {run} {item}", author=TEACHER, key=f"{run}/{item}", run=run, item=item)
    everything = Budget(entries=9)
    assert len(memory.read("carry", everything)) == 4
    assert sorted(told(memory.read("carry", everything, run="r1"))) == ["carry r1 i1", "carry r1 i2"]
    assert told(memory.read("carry", everything, run="r2", item="i1")) == ["carry r2 i1"]
    assert memory.read("carry", everything, run="r3") == []


@every_memory
@pytest.mark.parametrize("body", ["", "  \n", {"texts": "x"}, {"text": 3}])
def test_an_entry_has_text(make, board, body):
    with pytest.raises(DataError, match=r"text is .*expected text"):
        make(board).write(body, author=TEACHER, key="k")


@every_memory
def test_tombstones_of_others_are_seen(make, board):
    memory, (first, second) = filled(make, board, ["carry the one", "carry the two"])
    assert len(memory.read("carry", Budget(entries=5))) == 2
    make(board).evict(first.id, by=KEEPER, reason="old")
    assert [entry.post.id for entry in memory.read("carry", Budget(entries=5))] == [second.id]


@every_memory
def test_a_recorded_read_is_the_same_later_and_in_the_provenance(make, board):
    memory, (first, second) = filled(make, board, ["carry the one", "carry the two"])
    reader = memory if hasattr(memory, "recalls") else memory.stages["words"]
    ask = {"budget": Budget(entries=5), "author": TEACHER, "key": "run/item/solve/0"}
    found = recall(reader, "carry", **ask)
    assert len(found) == 2
    memory.write("carry the three", author=TEACHER, key="late")
    assert recall(reader, "carry", **ask) == found
    (event,) = board.posts(kind="event")
    assert set(event.parents) == {first.id, second.id}
    board.trust(first.id, "quarantined", by=KEEPER, reason="wrong")
    assert [entry.post.id for entry in recall(reader, "carry", **ask)] == [second.id]
    # The event is no entry, not even of a memory of events.
    assert EpisodicMemory(board).read("carry", Budget(entries=5)) == []


def test_a_budget_needs_a_limit_and_a_counter():
    with pytest.raises(ConfigError, match="no limit"):
        Budget()
    with pytest.raises(ConfigError, match="counter"):
        Budget(tokens=5)
    with pytest.raises(ConfigError, match="counter"):
        Budget(entries=5, counter=len)
    with pytest.raises(ConfigError, match="characters is -1"):
        Budget(characters=-1)


def test_tokens_are_counted_over_the_joined_text(board):
    memory, _ = filled(WindowMemory, board, ["a", "b"])
    # A counter for which the whole costs more than its parts.
    budget = Budget(tokens=2, counter=lambda text: 1 if "\n" not in text else 3)
    assert told(memory.read("", budget)) == ["b"]


def test_an_entry_that_does_not_fit_is_passed_over_but_ends_a_window(board):
    texts = ["carry", "carry " * 30, "carry it"]
    filled(FullTextMemory, board, texts)
    assert sorted(told(FullTextMemory(board).read("carry", Budget(characters=20)))) == ["carry", "carry it"]
    assert told(WindowMemory(board, kind="lesson").read("", Budget(characters=20))) == ["carry it"]


def test_a_window_goes_back_over_many_pages(board):
    memory, _ = filled(WindowMemory, board, [f"step {number}" for number in range(300)])
    found = told(memory.read("", Budget(entries=250)))
    assert found == [f"step {number}" for number in range(299, 49, -1)]


def test_full_text_goes_back_over_many_pages(board):
    memory, posts = filled(FullTextMemory, board, [f"carry {number}" for number in range(200)])
    for post in posts[:150]:
        memory.evict(post.id, by=KEEPER, reason="old")
    assert len(memory.read("carry", Budget(entries=200))) == 50


def test_a_memory_reads_posts_that_others_made(board):
    board.post("hint", {"text": "carry the one"}, author=TEACHER, key="h")
    board.post("hint", {"advice": "borrow"}, author=TEACHER, key="h2")
    assert told(WindowMemory(board, kind="hint").read("", Budget(entries=5))) == [
        '{"advice":"borrow"}',
        "carry the one",
    ]
