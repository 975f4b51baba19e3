"""Vectors on disk, the parts of an episode's score, fusion of rankings, and the guard of lessons."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError, IntegrityError, LeakError
from docendo.memory import (
    Blackboard,
    Budget,
    CalibratedFusion,
    EpisodicMemory,
    EpisodicWeights,
    FullTextMemory,
    Judged,
    KnowledgeBase,
    Platt,
    ReciprocalRank,
    TwoStageRetriever,
    VectorMemory,
    WindowMemory,
    ndcg,
)
from docendo.records import Author

TEACHER = Author(agent="teacher", role="teacher")


class Letters:
    """Counts of letters; counts the texts that it was given, too."""

    def __init__(self, fingerprint="letters", size=26):
        self.fingerprint, self.size, self.seen = fingerprint, size, []

    def embed(self, texts):
        self.seen += texts
        return [[text.count(chr(97 + number)) for number in range(self.size)] for text in texts]


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def write(memory, *texts):
    return [memory.write(text, author=TEACHER, key=text[:40]) for text in texts]


# --- vectors ---------------------------------------------------------------------------------------


def test_a_text_is_embedded_once_whoever_reads(board, database_url):
    embedder = Letters()
    memory = VectorMemory(board, embedder)
    write(memory, "banana", "cherry")
    memory.read("a", Budget(entries=1))
    assert embedder.seen == ["banana", "cherry", "a"]
    write(memory, "damson")
    found = memory.read("a", Budget(entries=3))
    assert embedder.seen == ["banana", "cherry", "a", "damson", "a"]
    other = Letters()
    with Blackboard.open(database_url) as again:
        assert [entry.score for entry in VectorMemory(again, other).read("a", Budget(entries=3))] == [
            entry.score for entry in found
        ]
    assert other.seen == ["a"], "the vectors were read from the database"
    another = Letters("other-letters")
    VectorMemory(board, another).read("a", Budget(entries=1))
    assert len(another.seen) == 4, "another embedder has vectors of its own"


def test_cosine_is_exact(board):
    memory = VectorMemory(board, Letters())
    write(memory, "ab", "aab", "c")
    found = {entry.text: entry.score for entry in memory.read("a", Budget(entries=3))}
    assert found == pytest.approx({"ab": 1 / math.sqrt(2), "aab": 2 / math.sqrt(5), "c": 0.0}, abs=1e-5)


def test_a_damaged_vector_is_an_error(board):
    memory = VectorMemory(board, Letters())
    (post,) = write(memory, "banana")
    memory.read("a", Budget(entries=1))
    with board.database.transaction() as connection:
        connection.execute(sa.text("UPDATE docendo_vectors SET vector = :zeros"), {"zeros": bytes(104)})
    with pytest.raises(IntegrityError, match=post.id):
        VectorMemory(board, Letters()).read("a", Budget(entries=1))


def test_a_vector_of_another_length_is_an_error(board):
    memory = VectorMemory(board, Letters())
    write(memory, "banana")
    memory.read("a", Budget(entries=1))
    memory.index.embedder.size = 5
    write(memory, "cherry")
    with pytest.raises(DataError, match="5 numbers and others 26"):
        memory.read("a", Budget(entries=1))


@pytest.mark.parametrize("rows", [[[1.0, math.nan]], [[1.0]] * 2, [1.0]])
def test_an_embedder_that_misbehaves_is_an_error(board, rows):
    embedder = Letters()
    memory = VectorMemory(board, embedder)
    write(memory, "banana")
    embedder.embed = lambda texts: rows
    with pytest.raises(DataError, match=r"embedder .*shape"):
        memory.read("a", Budget(entries=1))


def test_a_text_without_a_vector_is_like_nothing(board):
    memory = VectorMemory(board, Letters())
    write(memory, "123", "a")
    assert [(entry.text, entry.score) for entry in memory.read("a", Budget(entries=2))] == [
        ("a", 1.0),
        ("123", 0.0),
    ]


def test_many_entries_are_taken_in_by_batches(board):
    memory = VectorMemory(board, Letters())
    texts = [f"{number:03} {'abcdefghij'[number % 10]}" for number in range(600)]
    write(memory, *texts)
    found = memory.read("d", Budget(entries=60))
    assert [entry.text for entry in found] == texts[3::10]


# --- episodes --------------------------------------------------------------------------------------


def episodes(board, **options):
    memory = EpisodicMemory(board, **options)
    for number, (text, importance) in enumerate(
        [("fell into the river", 9), ("ate an apple", 1), ("slept", 5), ("saw the river", 2)]
    ):
        memory.write({"text": text, "importance": importance}, author=TEACHER, key=str(number))
    return memory


def test_the_parts_of_an_episode_are_scaled_and_added(board):
    found = {entry.text: entry for entry in episodes(board).read("river", Budget(entries=4))}
    assert found["fell into the river"].parts["importance"] == 1.0
    assert found["ate an apple"].parts["importance"] == 0.0
    assert found["slept"].parts["importance"] == 0.5
    assert found["saw the river"].parts["recency"] == 1.0
    assert found["fell into the river"].parts["recency"] == 0.0
    assert found["saw the river"].parts["relevance"] == 1.0, "the shorter text with the word"
    assert found["ate an apple"].parts["relevance"] == 0.0
    for entry in found.values():
        assert entry.score == pytest.approx(sum(entry.parts.values()))


@pytest.mark.parametrize(
    ("weights", "first"),
    [
        (EpisodicWeights(relevance=0, importance=0), "saw the river"),
        (EpisodicWeights(relevance=0, recency=0), "fell into the river"),
        (EpisodicWeights(importance=0, recency=0), "saw the river"),
    ],
)
def test_weights_choose_the_part(board, weights, first):
    assert episodes(board, weights=weights).read("river", Budget(entries=1))[0].text == first


def test_ages_may_be_hours(board):
    by_hours = episodes(board, weights=EpisodicWeights(ages="hours"))
    by_number = EpisodicMemory(board)
    for memory in (by_hours, by_number):
        newest = memory.read("", Budget(entries=4))
        recencies = {entry.post.seq: entry.parts["recency"] for entry in newest}
        assert recencies[1] == 0.0
        assert recencies[4] == 1.0
        assert list(dict(sorted(recencies.items())).values()) == sorted(recencies.values())


@pytest.mark.parametrize(
    "body",
    [
        {"text": "x", "importance": 0},
        {"text": "x", "importance": 11},
        {"text": "x", "importance": True},
        {"text": "x", "importance": "9"},
        {"text": "x", "outcome": ["fell"]},
    ],
)
def test_a_malformed_episode_is_an_error(board, body):
    with pytest.raises(DataError, match="the episode's"):
        EpisodicMemory(board).write(body, author=TEACHER, key="k")


@pytest.mark.parametrize("bad", [{"decay": 0}, {"decay": 1.5}, {"recency": -1}, {"ages": "days"}])
def test_weights_are_checked(bad):
    with pytest.raises(ConfigError):
        EpisodicWeights(**bad)


# --- fusion ----------------------------------------------------------------------------------------

SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-5, 5), max_size=8)


@given(st.dictionaries(st.sampled_from(["x", "y"]), SCORES, min_size=1))
def test_reciprocal_ranks_depend_on_ranks_alone(rankings):
    fusion = ReciprocalRank()
    fused = fusion.fuse(rankings)
    assert set(fused) == {one for scores in rankings.values() for one in scores}
    # Ranks, and with them the fused scores, survive any growing function that keeps values apart.
    halved = {name: {one: score / 2 for one, score in scores.items()} for name, scores in rankings.items()}
    apart = all(
        len(set(a.values())) == len(set(b.values()))
        for a, b in zip(rankings.values(), halved.values(), strict=True)
    )
    if apart:
        assert fusion.fuse(halved) == pytest.approx(fused)


def test_reciprocal_ranks_by_hand():
    fused = ReciprocalRank(k=1).fuse({"x": {"a": 3.0, "b": 2.0, "c": 2.0}, "y": {"c": 9.0}})
    assert fused == pytest.approx({"a": 1 / 2, "b": 1 / 3, "c": 1 / 3 + 1 / 2})


@given(
    slope=st.floats(0.5, 4),
    offset=st.floats(-2, 2),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 999),
)
@settings(max_examples=30, deadline=None)
def test_platt_finds_the_curve_that_made_the_labels(slope, offset, scale, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=20_000)
    relevant = generator.random(20_000) < 1 / (1 + np.exp(-(slope * x + offset)))
    platt = Platt.fit((x * scale).tolist(), relevant.tolist())
    assert platt.slope * scale == pytest.approx(slope, abs=0.35)
    assert platt.offset == pytest.approx(offset, abs=0.3)


def test_platt_is_finite_where_scores_separate_perfectly():
    platt = Platt.fit([0.0] * 50 + [1.0] * 50, [False] * 50 + [True] * 50)
    # Platt's targets: (50 + 1) / (50 + 2) for the relevant ones.
    assert platt(1.0) == pytest.approx(51 / 52, abs=1e-3)
    assert platt(0.0) == pytest.approx(1 / 52, abs=1e-3)


def test_platt_of_constant_scores_is_the_share():
    platt = Platt.fit([2.0] * 10, [True] * 5 + [False] * 5)
    assert platt(2.0) == pytest.approx(0.5, abs=1e-6)
    # One of three (Laplace): all relevant, or none.
    assert Platt.fit([1.0], [True])(7.0) == pytest.approx(2 / 3)
    assert Platt.fit([1.0], [False])(7.0) == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="0 scores and 0 labels"):
        Platt.fit([], [])
    with pytest.raises(DataError, match="2 scores and 1 labels"):
        Platt.fit([1.0, 2.0], [True])


def judged(good, noise, seed):
    """Queries with one ranking that knows, at two scales, and one that guesses."""
    generator = random.Random(seed)
    found = []
    for _ in range(40):
        ids = [f"{number}" for number in range(12)]
        relevant = frozenset(generator.sample(ids, 2))
        knows = {one: good * (one in relevant) + noise * generator.gauss(0, 1) for one in ids}
        guesses = {one: 1000 * generator.gauss(0, 1) for one in ids}
        found.append(Judged(rankings={"knows": knows, "guesses": guesses}, relevant=relevant))
    return found


def test_calibration_trusts_the_ranking_that_knows():
    fusion = CalibratedFusion.fit(judged(2.0, 1.0, seed=1))
    assert fusion.calibrations["knows"].slope > 20 * abs(fusion.calibrations["guesses"].slope)
    assert sum(fusion.weights.values()) == pytest.approx(1)
    fresh = judged(2.0, 1.0, seed=2)

    def quality(fuse):
        total = 0.0
        for query in fresh:
            fused = fuse(query.rankings)
            total += ndcg(sorted(fused, key=lambda one: -fused[one]), query.relevant)
        return total / len(fresh)

    assert quality(fusion.fuse) > quality(ReciprocalRank().fuse) + 0.05
    assert quality(fusion.fuse) > quality(lambda rankings: rankings["guesses"]) + 0.2


def test_calibration_is_for_its_own_rankings():
    fusion = CalibratedFusion.fit(judged(2.0, 1.0, seed=1))
    with pytest.raises(DataError, match=r"rankings are knows; expected guesses, knows"):
        fusion.fuse({"knows": {"a": 1.0}})
    with pytest.raises(DataError, match="same ones in each query"):
        CalibratedFusion.fit([Judged(rankings={"a": {}}, relevant=frozenset()), *judged(1, 1, 0)])
    with pytest.raises(DataError, match="no ranking has found"):
        CalibratedFusion.fit([Judged(rankings={"a": {"x": 1.0}}, relevant=frozenset("y"))])


def test_ndcg_by_hand():
    assert ndcg(["x", "a", "y", "b"], frozenset("ab")) == pytest.approx(
        (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    )
    assert ndcg(["x"] * 10 + ["a"], frozenset("a")) == 0.0
    assert ndcg(["a"], frozenset()) == 0.0


# --- two stages ------------------------------------------------------------------------------------


class Last:
    """Prefers what was written last, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def rerank(self, query, texts):
        self.asked.append((query, list(texts)))
        return range(len(texts))


def test_the_reranker_sees_each_candidate_once(board):
    reranker = Last()
    stages = {"dense": VectorMemory(board, Letters()), "words": FullTextMemory(board)}
    retriever = TwoStageRetriever(stages, reranker, candidates=2)
    posts = write(retriever, "banana one", "cherry two", "banana three")
    found = retriever.read("banana", Budget(entries=3))
    ((query, texts),) = reranker.asked
    assert query == "banana"
    assert texts == ["banana one", "banana three"]
    assert {entry.post.id for entry in found} == {posts[0].id, posts[2].id}
    assert set(found[0].parts) == {"dense", "words", "rerank"}


def test_the_reranker_alone_may_decide(board):
    retriever = TwoStageRetriever({"words": FullTextMemory(board)}, Last(), rerank_only=True)
    write(retriever, "carry", "carry on", "carry over")
    assert [entry.text for entry in retriever.read("carry", Budget(entries=2))] == ["carry over", "carry on"]


def test_what_is_quarantined_while_the_reranker_works_is_left_out(board):
    class Slow(Last):
        def rerank(self, query, texts):
            board.trust(first.id, "quarantined", by=Author(agent="k", role="code"), reason="wrong")
            return super().rerank(query, texts)

    retriever = TwoStageRetriever({"words": FullTextMemory(board)}, Slow())
    first, second = write(retriever, "carry", "carry on")
    assert [entry.post.id for entry in retriever.read("carry", Budget(entries=2))] == [second.id]


def test_judged_queries_make_a_calibrated_retriever(board):
    stages = {"dense": VectorMemory(board, Letters()), "words": FullTextMemory(board)}
    plain = TwoStageRetriever(stages)
    posts = write(plain, "carry ones", "borrow tens", "count legs", "divide by four")
    known = [plain.judged(post.body["text"].split()[1], [post.id]) for post in posts]
    assert set(known[0].rankings) == {"dense", "words"}
    fused = TwoStageRetriever(stages, fusion=CalibratedFusion.fit(known))
    assert fused.read("ones", Budget(entries=1))[0].post.id == posts[0].id
    assert fused.read("nothing like it", Budget(entries=9)), "what only one ranking knows is kept"


def test_stages_must_belong_together(board):
    words = FullTextMemory(board)
    with pytest.raises(ConfigError, match="none"):
        TwoStageRetriever({})
    with pytest.raises(ConfigError, match="none called 'rerank'"):
        TwoStageRetriever({"rerank": words})
    with pytest.raises(ConfigError, match="different boards"):
        TwoStageRetriever({"words": words, "window": WindowMemory(board)})
    with pytest.raises(ConfigError, match="without a reranker"):
        TwoStageRetriever({"words": words}, rerank_only=True)


# --- lessons ---------------------------------------------------------------------------------------

LONG = "A farmer has 12 cows and 7 hens. How many legs do they have together?"


@pytest.mark.parametrize(
    "lesson",
    [
        "What is 17 + 5? It is 22.",
        "Remember: what IS 17 + 5 ... twenty-two",
        "If a farmer has 12 cows and 7 hens you count 62 legs.",
        {"text": "Legs.", "example": {"question": ["how many legs do they have together", LONG]}},
    ],
)
def test_a_lesson_must_not_repeat_a_held_out_question(board, lesson):
    base = KnowledgeBase(board, held_out=["What is 17 + 5?", LONG])
    with pytest.raises(LeakError, match="repeats a held-out question"):
        base.write(lesson, author=TEACHER, key="leak")
    assert board.posts() == []


@pytest.mark.parametrize(
    "lesson", ["What is 17 - 5? It is 12.", "A farmer has 12 cows.", "Count legs: 4 per cow."]
)
def test_a_lesson_may_share_words(board, lesson):
    base = KnowledgeBase(board, held_out=["What is 17 + 5?", LONG, ""])
    base.write(lesson, author=TEACHER, key="fine")
    assert base.read(lesson, Budget(entries=1))[0].text == lesson
