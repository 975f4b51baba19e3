"""Answers that are compared as mathematics."""

import threading

import pytest

from docendo.errors import ConfigError
from docendo.evals import MathScorer, make_item

SCORER = MathScorer()


def correct(gold, answer):
    return SCORER.score(make_item("What is it?", gold), answer).correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("1/2", r"\boxed{\frac12}"),
        ("x^2+2x+1", "Answer: $(x+1)^2$"),
        (r"\{1,2\}", r"\boxed{\{2,1\}}"),
        ("1000", "Answer: 1,000.0"),
        ("3", "so x is \\boxed{x=3}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"(1,2]", r"\boxed{(1,2]}"),
        ("12", r"first \boxed{7}, then \boxed{12}"),
    ],
)
def test_what_is_equal_as_mathematics_is_right(gold, answer):
    assert correct(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1000", "1005"),
        ("1/3", "0.3333"),
        (r"\frac{1}{3}", "0.333333"),
        (r"\sqrt{2}", "1.41421356"),
        ("(1,2)", "[1,2]"),
        ("x+1", "x+2"),
        ("12", r"\boxed{7}"),
        ("12", ""),
        ("12", r"\boxed{}"),
        ("12", "__import__('os').getpid()"),
    ],
)
def test_what_is_only_near_is_wrong(gold, answer):
    assert not correct(gold, answer)


@pytest.mark.parametrize(
    "answer", [r"\boxed{9^{9^{9^{9^9}}}}", r"\boxed{" + "(" * 900 + "x" + ")" * 900 + "}"]
)
def test_an_answer_that_would_take_for_ever_is_wrong_in_time(answer):
    score = MathScorer(seconds=1.0).score(make_item("What is it?", "x+1"), answer)
    assert not score.correct
    assert correct("x+1", "1+x")  # and the next one is compared


def test_an_answer_of_a_book_is_no_answer():
    score = SCORER.score(make_item("What is it?", "x+1"), "Answer: " + "x+" * 3000)
    assert score.failure == "the answer is too long"


def test_any_thread_may_score():
    found = []
    threads = [threading.Thread(target=lambda: found.append(correct("x+1", "1+x"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_a_hint_that_states_the_answer_leaks():
    item = make_item("What is 2/4?", r"\frac{1}{2}")
    assert SCORER.leaks(item, r"It is \frac{1}{2}.")
    assert SCORER.leaks(item, r"It is \boxed{0.5}.")
    assert not SCORER.leaks(item, "Divide both by two.")


def test_a_gold_that_is_no_mathematics_is_a_failure_of_scoring():
    score = SCORER.score(make_item("What is it?", "$"), "7")
    assert not score.correct
    assert score.failure
    with pytest.raises(ConfigError, match="has no reference answer"):
        SCORER.score(make_item("What is it?", None), "7")
    with pytest.raises(ConfigError, match="seconds is 0"):
        MathScorer(seconds=0)
