"""Causal statements: forms, evidence, promotion and demotion, what survives and what quarantine undoes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError
from docendo.memory import Blackboard, Budget
from docendo.memory.memories._causal import CausalMemory
from docendo.memory.memories._causal_text import CausalStatement, TrialStep, count, mentioned, reward_in_words
from docendo.records import Author

ME = Author(agent="digger", role="student")
CHECKER = Author(agent="checker", role="code")
SPADE, HAT = "having a spade", "having a hat"


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def dig(success, *conditions, seen=""):
    return TrialStep(action="dig", success=success, conditions=conditions, observation=seen)


def texts(memory, **budget):
    return [entry.text for entry in memory.read("dig", Budget(**(budget or {"entries": 9})))]


word = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=8)
phrase = st.lists(word, min_size=1, max_size=3).map(" ".join)


@given(
    phrase,
    st.sampled_from(["necessary", "contributes", "no effect"]),
    phrase,
    st.sampled_from(["may", "should"]),
)
def test_every_statement_can_be_read_back(cause, relation, effect, strength):
    one = CausalStatement(cause=cause, relation=relation, effect=effect, strength=strength)
    assert CausalStatement.parse(f"- {one.text}.") == CausalStatement.parse(f"12) {one.text}") == one


def test_lines_that_are_no_statement_are_passed_over():
    text = "Here is what I learnt:\n* a spade should be necessary to dig\nDig deeper!\nmay contribute to"
    assert [one.text for one in CausalStatement.read(text)] == ["a spade should be necessary to dig"]
    assert CausalStatement.read("") == []


@pytest.mark.parametrize(
    ("steps", "relation", "support", "contradict"),
    [
        ([dig(True, SPADE)], None, 0, 0),
        ([dig(False)], None, 0, 0),
        ([dig(False), dig(True, SPADE)], "necessary", 1, 0),
        ([dig(True, SPADE), dig(False)], "necessary", 1, 0),
        ([dig(False), dig(True, SPADE), dig(False), dig(True, SPADE)], "necessary", 3, 0),
        ([dig(False), dig(True, SPADE), dig(True)], "necessary", 1, 1),
        ([dig(False, SPADE)], "no effect", 1, 0),
        ([dig(False, SPADE), dig(True)], "no effect", 2, 0),
        ([dig(True), dig(False, SPADE), dig(True)], "no effect", 2, 0),
        ([dig(True, SPADE), dig(False, SPADE)], "no effect", 1, 1),
    ],
)
def test_what_attempts_say_about_a_condition(steps, relation, support, contradict):
    beliefs = count([steps])
    held = {key[1]: belief for key, belief in beliefs.items() if key[0] == SPADE and belief.support}
    if relation is None:
        assert held == {}
    else:
        assert (held[relation].support, held[relation].contradict) == (support, contradict)


def test_failures_alone_do_not_make_it_sure_that_a_condition_is_of_no_effect(board):
    memory = CausalMemory(board)
    memory.update([dig(False, SPADE)] * 3, reward=0, author=ME, key="1")
    assert texts(memory) == [f"{SPADE} may not contribute to dig"]
    memory.update([dig(True)], reward=0, author=ME, key="2")
    assert texts(memory) == [f"{SPADE} does not contribute to dig"]


steps = st.lists(
    st.builds(
        TrialStep,
        action=st.sampled_from(["dig", "swim"]),
        success=st.booleans(),
        conditions=st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    ),
    max_size=12,
)


@given(st.lists(steps, max_size=3))
def test_necessity_is_never_believed_of_what_was_absent_at_most_successes(trials):
    for (cause, relation, action), belief in count(trials).items():
        tried = [s for trial in trials for s in trial if s.action == action]
        without = [s.success for s in tried if cause not in s.conditions]
        having = [s.success for s in tried if cause in s.conditions]
        if relation == "necessary":
            assert belief.contradict == sum(without)
            if belief.support:
                assert any(having)
                assert not all(without)
        assert belief.streak <= belief.support <= len(tried)


def test_mentions_support_and_the_opposite_contradicts():
    needs = CausalStatement(cause="A spade", relation="necessary", effect="dig")
    not_so = CausalStatement(cause="a  spade", relation="no effect", effect="Dig")
    beliefs = mentioned([[needs, needs], [needs], [not_so], [needs]])
    assert beliefs["a spade", "necessary", "dig"].support == 3
    assert beliefs["a spade", "necessary", "dig"].contradict == 1
    assert beliefs["a spade", "necessary", "dig"].streak == 1
    assert (beliefs["a spade", "no effect", "dig"].support, beliefs["a spade", "no effect", "dig"].held) == (
        1,
        False,
    )


def test_may_becomes_should_and_is_demoted_by_a_contradiction(board):
    memory = CausalMemory(board)
    course = [[dig(False)], [dig(True, SPADE)], [dig(True, SPADE)], [dig(True)], [dig(True, SPADE)]]
    seen = []
    for number, trial in enumerate(course):
        memory.update(trial, reward=0, author=ME, key=str(number))
        seen.append(texts(memory))
    may, should = f"{SPADE} may be necessary to dig", f"{SPADE} should be necessary to dig"
    assert seen == [[], [may], [should], [may], [may]]
    memory.update([dig(True)], reward=0, author=ME, key="5")
    memory.update([dig(True)], reward=0, author=ME, key="6")
    assert texts(memory) == []  # as much against it as for it


def test_levels_are_marked_and_counted_ones_go_first(board):
    memory = CausalMemory(board)
    written = f"{SPADE} may be necessary to dig\n{HAT} may contribute to dig\nnonsense"
    found = memory.update([dig(False), dig(True, SPADE)], reward=50, author=ME, key="1", statements=written)
    assert {(one.cause, one.level) for one in found} == {(SPADE, "statistics"), (HAT, "model")}
    alone = CausalMemory(board, levels=("model",))
    assert {(one.cause, one.level) for one in alone.statements()} == {(SPADE, "model"), (HAT, "model")}
    assert {post.body["level"] for post in memory.entries()} == {"statistics", "model"}


def test_everything_is_rebuilt_from_the_board(board):
    memory = CausalMemory(board, environment="garden")
    for number, trial in enumerate([[dig(False)], [dig(True, SPADE)]]):
        memory.update(trial, reward=0, author=ME, key=str(number))
    before = board.digest()
    again = CausalMemory(board, environment="garden")
    assert again.update([dig(True, SPADE)], reward=0, author=ME, key="1") == memory.statements()
    assert board.digest() == before
    assert texts(again) == texts(memory)


def test_a_trial_without_its_statements_is_completed_when_it_is_written_again(board, monkeypatch):
    memory = CausalMemory(board)
    memory.update([dig(False)], reward=0, author=ME, key="0")
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_counted", lambda trials: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            memory.update([dig(True, SPADE)], reward=0, author=ME, key="1")
    assert texts(memory) == []
    CausalMemory(board).update([dig(True, SPADE)], reward=0, author=ME, key="1")
    assert texts(memory) == [f"{SPADE} may be necessary to dig"]


def test_a_quarantined_trial_takes_its_evidence_and_statements_with_it(board):
    memory = CausalMemory(board)
    for number, trial in enumerate([[dig(False)], [dig(True, SPADE)], [dig(True, SPADE)]]):
        memory.update(trial, reward=0, author=ME, key=str(number), statements=f"{HAT} may contribute to dig")
    assert len(texts(memory)) == 2
    first, second, third = (trial.post for trial in memory.trials())
    board.trust(third, "quarantined", by=CHECKER, reason="made up")
    assert f"{SPADE} may be necessary to dig" in texts(memory)
    board.trust(first, "quarantined", by=CHECKER, reason="made up")
    assert texts(memory) == [f"{HAT} may contribute to dig"]
    board.trust(second, "quarantined", by=CHECKER, reason="made up")
    assert texts(memory) == memory.statements() == []


def test_another_environment_is_meta_memory_until_the_window_is_full(board):
    for place in ("north", "south"):
        there = CausalMemory(board, environment=place)
        there.update([dig(False), dig(True, SPADE)], reward=80, author=ME, key=place)
    memory = CausalMemory(board, environment="here", window=2)
    assert memory.statements() == []
    (general,) = memory.meta()
    assert (general.text, general.support) == (f"{SPADE} should be necessary to dig", 2)
    assert texts(memory) == [general.text]
    memory.update([dig(True)], reward=0, author=ME, key="a")
    assert texts(memory) == [general.text]
    memory.update([dig(True)], reward=0, author=ME, key="b")
    assert texts(memory) == []


def test_environments_that_disagree_cancel_out(board):
    CausalMemory(board, environment="north").update(
        [dig(False), dig(True, SPADE)], reward=80, author=ME, key="n"
    )
    CausalMemory(board, environment="south").update(
        [dig(True), dig(False, SPADE)], reward=80, author=ME, key="s"
    )
    assert CausalMemory(board, environment="here").meta() == []


def test_what_is_too_long_goes_in_a_fixed_order(board):
    CausalMemory(board, environment="north").update(
        [dig(False), dig(True, SPADE)], reward=80, author=ME, key="n"
    )
    memory = CausalMemory(board, environment="here")
    for number in range(2):
        memory.update(
            [], reward=10, author=ME, key=str(number), statements=f"rain{number} may contribute to dig"
        )
    last = [dig(False, seen="It is hard. Too hard for hands."), dig(True, SPADE, seen="It works. At last.")]
    signs = ("Learnt elsewhere", "rain0", "rain1", "Too hard", "It is hard", "It works")
    shown = []
    for size in range(330, 0, -3):
        try:
            text = memory.context(last, reward=100, budget=Budget(characters=size))
        except ConfigError:
            break
        assert len(text) <= size
        assert "The last trial did the whole task:" in text
        shown.append(tuple(sign in text for sign in signs))
    kept = [sum(row) for row, _ in itertools.groupby(shown)]
    assert kept == [6, 5, 4, 3, 2, 1, 0]
    # Each thing that goes is the next in the list.
    assert all(row == tuple(sorted(row)) for row in shown)


def test_rewards_have_words():
    assert len({reward_in_words(score) for score in (-1, 10, 40, 80, 95, 100)}) == 6


def test_written_entries_must_be_statements(board):
    memory = CausalMemory(board)
    post = memory.write("a spade may be necessary to dig", author=ME, key="k")
    assert memory.text(post) == "a spade may be necessary to dig"
    for body, message in [
        ("dig!", "is no causal statement"),
        ({"cause": "x"}, "lacks relation, effect"),
        ({"cause": "x", "relation": "why", "effect": "y"}, "relation is 'why'"),
        ({"cause": " ", "relation": "necessary", "effect": "y"}, "lacks a cause"),
    ]:
        with pytest.raises(DataError, match=message):
            memory.write(body, author=ME, key="bad")
    with pytest.raises(ConfigError, match="window is 0"):
        CausalMemory(board, window=0)
