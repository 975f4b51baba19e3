"""The library of strategies: retrieval, audit, leaks, the shuffled control, and how it is filled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.errors import AccessError, ConfigError, DataError, LeakError
from docendo.memory import Blackboard, Budget
from docendo.memory.memories._distiller import Scenario, StrategyDistiller
from docendo.memory.memories._similarity import similarities
from docendo.memory.memories._strategies import ShuffledLibrary, StrategyLibrary, leaked
from docendo.records import Author

TEACHER = Author(agent="teacher", role="teacher")
PERSON = Author(agent="ann", role="person")
ONE = Budget(entries=1)
ENTRIES = {
    "sorting a list of numbers": "Move the smallest one to the front.",
    "adding with a carry": "Write the carry above the next column.",
    "a word written backwards": "Begin at its last letter.",
}


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


@pytest.fixture
def library(board):
    made = StrategyLibrary(board)
    for scenario, text in ENTRIES.items():
        made.add(scenario, text, author=TEACHER, key=scenario)
    return made


def first(library, query):
    return [entry.text for entry in library.read(query, ONE)]


def test_the_nearest_scenario_is_found_and_nothing_for_what_is_like_none(library):
    assert first(library, "please do the sorting of numbers 3 1 2") == ["Move the smallest one to the front."]
    assert first(library, "an addition, adding, carry") == ["Write the carry above the next column."]
    assert first(library, "zzz") == []


def test_the_library_is_rebuilt_from_the_board(board, library):
    again = StrategyLibrary(board)
    assert again.strategies() == library.strategies()
    again.add("sorting a list of numbers", "other", author=TEACHER, key="sorting a list of numbers")
    assert len(again.strategies()) == 3


def test_an_embedding_replaces_words(board, library):
    other = StrategyLibrary(board, embed=lambda texts: [[float("w" in text), 1e-3] for text in texts])
    assert first(other, "w") == ["Write the carry above the next column."]
    wrong = StrategyLibrary(board, embed=lambda texts: [[1.0]])
    with pytest.raises(DataError, match="1 vectors for 4 texts"):
        first(wrong, "w")


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=5))
def test_similarity_is_between_nothing_and_the_same(query, texts):
    scores = similarities(query, [*texts, query])
    assert all(0 <= score <= 1 + 1e-9 for score in scores)
    assert scores[-1] == pytest.approx(max(scores))


def test_results_decide_between_scenarios_that_are_equally_alike(board):
    library = StrategyLibrary(board)
    posts = [library.add("the same", f"way {n}", author=TEACHER, key=f"{n}") for n in range(2)]
    assert first(library, "the same") == ["way 0"]
    for key in ("a", "a", "b"):
        library.played(posts[1].id, 1.0, author=PERSON, key=key)
    assert first(library, "the same") == ["way 1"]
    assert [(s.plays, s.gained) for s in library.strategies()] == [(0, 0.0), (2, 1.0)]


def test_audit(board, library):
    ids = [strategy.post for strategy in library.strategies()]
    strict = StrategyLibrary(board, audited=True)
    assert strict.strategies() == []
    library.audit(ids[0], by=PERSON, approved=True, reason="read it")
    library.audit(ids[1], by=PERSON, approved=False, reason="misleading")
    assert [s.post for s in strict.strategies()] == ids[:1]
    assert [s.audited for s in library.strategies()] == [True, False]
    assert first(library, "adding with carry") == []
    with pytest.raises(AccessError):
        library.audit(ids[2], by=TEACHER, approved=True, reason="mine")
    library.audit(ids[1], by=PERSON, approved=True, reason="read it again")
    assert [s.post for s in strict.strategies()] == ids[:2]


@pytest.mark.parametrize(
    ("text", "answer", "share"),
    [
        ("It is 42.", "42", 1.0),
        ("It is 421.", "42", 0.0),
        ("the cat sat on it", "the cat sat down", 0.5),
        ("The Cat sat DOWN!", "the cat sat down", 1.0),
        ("anything", "", 0.0),
        ("", "42", 0.0),
    ],
)
def test_leaks_are_measured_in_ngrams(text, answer, share):
    assert leaked(text, answer) == share


def test_a_strategy_that_gives_the_answer_away_is_refused(board):
    library = StrategyLibrary(board)
    with pytest.raises(LeakError, match="repeats an answer"):
        library.add("a sum", "Say 42.", author=TEACHER, key="k", gold=["41", "42"])
    assert board.posts() == []


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_library_has_the_same_texts_at_other_scenarios(library, seed):
    shuffled = ShuffledLibrary(library, seed=seed)
    wrong = {scenario: first(shuffled, scenario)[0] for scenario in ENTRIES}
    assert sorted(wrong.values()) == sorted(ENTRIES.values())
    assert all(wrong[scenario] != ENTRIES[scenario] for scenario in ENTRIES)
    assert {s: first(ShuffledLibrary(library, seed=seed), s)[0] for s in ENTRIES} == wrong


def test_one_strategy_cannot_be_shuffled(board):
    library = StrategyLibrary(board)
    library.add("a", "b", author=TEACHER, key="k")
    with pytest.raises(ConfigError, match="has 1 strategies"):
        first(ShuffledLibrary(library, seed=0), "a")


def test_entries_need_scenario_and_text(board):
    library = StrategyLibrary(board)
    for body, message in [
        ({"text": "x"}, "scenario is None"),
        ({"scenario": "x", "text": " "}, "text is ' '"),
    ]:
        with pytest.raises(DataError, match=message):
            library.write(body, author=TEACHER, key="k")


class Lesson:
    """A student that does what its strategy says, and a teacher that needs some tries to say it."""

    def __init__(self, *attempts, good="right"):
        self.attempts, self.good, self.calls = list(attempts), good, []

    def distiller(self, library, **options):
        return StrategyDistiller(
            library,
            student=self.student,
            teacher=lambda text: self.good,
            writer=self.write,
            judge=lambda scenario, reply: {"right": 1.0, "nearly": 0.5}.get(reply, 0.0),
            author=TEACHER,
            **options,
        )

    def student(self, text, strategies):
        self.calls.append(strategies)
        return strategies[0] if strategies else "wrong"

    def write(self, case):
        assert [text for text, _ in case.rejected] == self.attempts[: len(case.rejected)]
        return self.attempts[len(case.rejected)]


CASE = Scenario(id="1", text="a hard question", gold=("secret",))


@pytest.mark.parametrize(
    ("attempts", "kept", "tries"),
    [
        (["right"], "right", 1),
        (["bad", "nearly", "right"], "right", 3),
        (["bad", "nearly", "bad"], "nearly", 3),
        (["bad", "bad", "bad"], None, 3),
    ],
)
def test_a_strategy_is_revised_until_it_is_good_or_the_tries_are_used_up(board, attempts, kept, tries):
    library = StrategyLibrary(board)
    posts = Lesson(*attempts).distiller(library, tries=3).fit([CASE])
    assert [post.body["text"] for post in posts] == ([kept] if kept else [])
    (event,) = board.posts(kind="event")
    assert (event.body["tries"], event.body["before"], event.body["teacher"]) == (tries, 0.0, 1.0)


def test_nothing_is_learnt_from_a_teacher_that_is_no_better(board):
    library = StrategyLibrary(board)
    lesson = Lesson("right", good="wrong")
    assert lesson.distiller(library).fit([CASE]) == []
    assert lesson.calls == [()]


def test_a_finished_scenario_is_not_worked_on_again(board):
    lesson = Lesson("right")
    lesson.distiller(StrategyLibrary(board)).fit([CASE])
    calls, before = len(lesson.calls), board.digest()
    assert lesson.distiller(StrategyLibrary(board)).fit([CASE]) == []
    assert (len(lesson.calls), board.digest()) == (calls, before)


def test_what_the_library_holds_is_tried_before_the_teacher_writes(board):
    lesson = Lesson("right")
    more = [CASE, Scenario(id="2", text="another hard question")]
    assert len(lesson.distiller(StrategyLibrary(board)).fit(more)) == 1
    assert lesson.calls[-1] == ("right",)


def test_a_leaking_strategy_is_not_kept_and_the_rest_goes_on(board):
    lesson = Lesson("secret")
    lesson.student = lambda text, strategies: "right" if strategies else "wrong"
    assert lesson.distiller(StrategyLibrary(board)).fit([CASE]) == []
    assert board.posts(kind="event")[0].body["leak"] is True
