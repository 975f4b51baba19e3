"""Bayesian knowledge tracing, and the tracker that lives on a board."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError
from docendo.memory import Blackboard
from docendo.memory.memories._mastery import MasteryTracker
from docendo.memory.memories._tracing import Tracing
from docendo.records import Author

TUTOR = Author(agent="tutor", role="tutor")
CHECKER = Author(agent="checker", role="code")
share = st.floats(0, 1)
skills = st.builds(Tracing, prior=share, learn=share, slip=st.floats(0, 0.49), guess=st.floats(0, 0.49))


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


def enumerated(skill, answers):
    """P(known at the end | answers) and P(answers), summed over all courses of the hidden state."""
    total = known = 0.0
    # The step at which the skill becomes known: 0 from the beginning, n + 1 not at all.
    for moment in range(len(answers) + 2):
        chance = skill.prior if moment == 0 else (1 - skill.prior)
        if moment > 0:
            chance *= (1 - skill.learn) ** (min(moment, len(answers) + 1) - 1)
            chance *= skill.learn if moment <= len(answers) else 1.0
        for step, right in enumerate(answers):
            good = (1 - skill.slip) if step >= moment else skill.guess
            chance *= good if right else 1 - good
        total += chance
        known += chance if moment <= len(answers) else 0.0
    return known / total, total


@pytest.mark.parametrize("answers", list(itertools.product([True, False], repeat=4)))
def test_tracing_is_the_exact_posterior(answers):
    skill = Tracing(prior=0.3, learn=0.2, slip=0.1, guess=0.25)
    assert skill.trace(answers)[-1] == pytest.approx(enumerated(skill, answers)[0])


@given(skills, st.lists(st.booleans(), max_size=20))
def test_mastery_stays_a_probability(skill, answers):
    for value in skill.trace(answers):
        assert 0 <= value <= 1
        assert 0 <= skill.predict(value) <= 1


@given(skills, share)
def test_a_right_answer_never_speaks_against_mastery(skill, mastery):
    assert skill.posterior(mastery, True) >= mastery - 1e-12
    assert skill.posterior(mastery, False) <= mastery + 1e-12


def test_parameters_that_made_the_answers_are_found_again():
    true = Tracing(prior=0.3, learn=0.15, slip=0.1, guess=0.2)
    draw = random.Random(1)
    rows = []
    for _ in range(600):
        known, row = draw.random() < true.prior, []
        for _ in range(12):
            row.append(draw.random() < ((1 - true.slip) if known else true.guess))
            known = known or draw.random() < true.learn
        rows.append(row)
    found = Tracing.fit(rows)
    for name in ("prior", "learn", "slip", "guess"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), abs=0.1), name
    # The fit is at least as likely as the truth, up to the grid.
    worse = Tracing(prior=0.8, learn=0.01, slip=0.3, guess=0.4)
    assert _log(found, rows) > _log(worse, rows)


def _log(skill, rows):
    import math

    return sum(math.log(enumerated(skill, row)[1]) for row in rows)


def test_impossible_parameters_are_errors():
    with pytest.raises(ConfigError, match=r"slip is 1\.2"):
        Tracing(slip=1.2)
    with pytest.raises(ConfigError, match=r"slip \+ guess is 1"):
        Tracing(slip=0.5, guess=0.5)
    with pytest.raises(DataError, match="no answers to fit"):
        Tracing.fit([[]])


def answer(tracker, *rights, concept="sums", learner="ann"):
    for right in rights:
        number = len(tracker.board.posts())
        tracker.answered(learner, concept, right, author=TUTOR, key=str(number))


def test_mastery_is_rebuilt_from_the_board(board):
    tracker = MasteryTracker(board)
    answer(tracker, True, False, True)
    again = MasteryTracker(board)
    assert again.of("ann", "sums") == tracker.of("ann", "sums")
    assert again.of("ann", "sums").value == pytest.approx(Tracing().trace([True, False, True])[-1])
    assert again.of("bob", "sums").value == Tracing().prior


def test_what_is_believed_of_one_learner_is_not_of_another(board):
    tracker = MasteryTracker(board)
    for number, (learner, concept) in enumerate([("ann", "sums"), ("bob", "products"), ("ann", "products")]):
        tracker.answered(learner, concept, True, author=TUTOR, key=str(number))
    for learner, concepts in (("ann", {"sums", "products"}), ("bob", {"products"})):
        assert tracker.mastery(learner) == {
            concept: tracker.of(learner, concept).value for concept in sorted(concepts)
        }


def test_what_was_believed_after_the_first_answers_is_found_again(board):
    tracker = MasteryTracker(board, prerequisites={"products": ["sums"]}, blame=0.5)
    answer(tracker, True, False)
    first = [post.id for post in board.posts(channel="main")]
    before = tracker.mastery("ann")
    answer(tracker, False, concept="products")
    assert tracker.mastery("ann", answers=first) == before
    assert tracker.mastery("ann").keys() == {"sums", "products"}
    assert tracker.mastery("ann", answers=[]) == tracker.mastery("bob") == {}
    board.trust(first[1], "quarantined", by=CHECKER, reason="not hers")
    assert tracker.mastery("ann", answers=first)["sums"] == pytest.approx(Tracing().trace([True])[-1])


def test_the_same_key_counts_once(board):
    tracker = MasteryTracker(board)
    first = tracker.answered("ann", "sums", True, author=TUTOR, key="k")
    assert tracker.answered("ann", "sums", True, author=TUTOR, key="k") == first
    assert first.right == 1


def test_quarantined_answers_take_no_effect_and_come_back(board):
    tracker = MasteryTracker(board)
    answer(tracker, True, True, False)
    whole = tracker.of("ann", "sums")
    board.trust(whole.evidence[-1], "quarantined", by=CHECKER, reason="not hers")
    assert tracker.of("ann", "sums").value == pytest.approx(Tracing().trace([True, True])[-1])
    assert tracker.of("ann", "sums").evidence == whole.evidence[:-1]
    board.release(whole.evidence[-1], by=CHECKER, reason="hers after all")
    assert tracker.of("ann", "sums").replace(evidence=()) == whole.replace(evidence=())


def test_a_quarantined_source_takes_its_answers_with_it(board):
    tracker = MasteryTracker(board)
    exam = board.post("task", {}, author=TUTOR, key="exam")
    tracker.answered("ann", "sums", True, author=TUTOR, key="1", parents=(exam.id,))
    board.trust(exam.id, "quarantined", by=CHECKER, reason="leaked")
    assert tracker.of("ann", "sums").evidence == ()


def test_blame_reaches_prerequisites_of_wrong_answers_alone(board):
    tracker = MasteryTracker(board, prerequisites={"products": ["sums"]}, blame=0.5)
    prior = Tracing().prior
    answer(tracker, True, concept="products")
    assert tracker.of("ann", "sums").value == prior
    answer(tracker, False, concept="products")
    expected = (prior + Tracing().posterior(prior, False)) / 2
    assert tracker.of("ann", "sums").value == pytest.approx(expected)
    assert tracker.of("ann", "sums").right == tracker.of("ann", "sums").wrong == 0
    with pytest.raises(ConfigError, match="blame is 2"):
        MasteryTracker(board, blame=2)


def test_weak_concepts_come_with_their_evidence(board):
    tracker = MasteryTracker(board, tracing={"sums": Tracing(prior=0.5)})
    answer(tracker, True, True, True)
    answer(tracker, False, concept="products")
    weak = tracker.weak("ann", ["sums", "products", "powers"])
    assert [one.concept for one in weak] == ["products", "powers"]
    assert weak[0].text.startswith("products: 0 right, 1 wrong, mastery 0.1")
    assert board.get(weak[0].evidence[0]).body["concept"] == "products"
    assert tracker.mastery("ann").keys() == {"sums", "products"}
    assert tracker.predict("ann", "sums") > tracker.predict("ann", "products")
