import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError
from docendo.evals import ExactScorer, make_item, read_answer
from docendo.evals.items._judge import is_plain
from docendo.evals.items._scorer import Answer
from docendo.records import Gold, Item, PublicItem

SCORER = ExactScorer()


def chain(expression, answer):
    return make_item(f"State the final answer to the following arithmetic problem: {expression} =", answer)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("-29", True),
        ("38 - 57 = -19\n-19 - 10 = -29\nAnswer: -29", True),
        ("**Answer:** -29.", True),
        ("Final answer: -29.0", True),
        ("The answer is −29", True),
        ("Answer: 38 - 57 - 10 = -29", True),
        ("It is -29", True),
        ("answer: -29 apples", True),
        ("Answer: 12\nAnswer: -29", True),
        ("Answer:\n-29", True),
        ("", False),
        ("Answer:", False),
        ("29", False),
        ("-29.01", False),
        ("-290", False),
        ("-29 or 5", False),
        ("Answer: 5\nI first thought of -29", False),
        ("-29 -28 -27 -26 -25", False),
        ("-2 9", False),
        ("minus twenty-nine", False),
    ],
)
def test_a_numeric_answer_is_read_and_compared_as_a_number(text, right):
    assert SCORER.score(chain("38 - 57 - 10", "-29"), text).correct is right


def test_a_thousandth_off_is_wrong():
    item = make_item("How much?", 1000)
    assert SCORER.score(item, "1,000.00").correct
    assert not SCORER.score(item, "1000.001").correct
    assert not SCORER.score(item, "1005").correct


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Paris", True),
        ("Answer: **Paris**.\nIt lies on the Seine.", True),
        ("**Answer: Paris**", True),
        ("Answer: __Paris__", True),
        ('"Paris"', True),
        ("`Paris`", True),
        ("paris", False),
        ("Paris, France", False),
        ("I say Paris", False),
        ("Par is", False),
    ],
)
def test_a_text_is_compared_exactly(text, right):
    assert SCORER.score(make_item("Capital of France?", "Paris"), text).correct is right


def test_case_can_be_ignored_by_choice_and_shows_in_the_name():
    scorer = ExactScorer(ignore_case=True)
    assert scorer.score(make_item("Capital?", "Paris"), "PARIS").correct
    assert scorer.name != SCORER.name


def test_a_grid_is_read_beyond_its_first_line():
    item = make_item("Fill the grid.", "1 2\n2 1")
    assert SCORER.score(item, "Answer:\n1  2\n2 1\n").correct
    assert not SCORER.score(item, "Answer:\n1 2").correct


def test_choices_are_shown_and_answered_by_letter_or_text():
    item = make_item("Which is a fruit?", "apple", choices=["stone", "apple"])
    assert item.public.question.endswith("A. stone\nB. apple")
    for text in ("B", "Answer: B", "(B)", "B. apple", "apple"):
        assert SCORER.score(item, text).correct, text
    for text in ("A", "AB", "A or B", "stone"):
        assert not SCORER.score(item, text).correct, text


def test_an_answer_that_is_no_choice_is_refused():
    with pytest.raises(DataError, match="names 0 of the choices"):
        make_item("Which?", "pear", choices=["stone", "apple"])


@pytest.mark.parametrize(("question", "answer"), [(" ", "1"), ("Which?", "  ")])
def test_empty_fields_are_refused(question, answer):
    with pytest.raises(DataError, match="is empty"):
        make_item(question, answer)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"answer": 3, "choices": [3, 4]}, "a choice is 3; expected text"),
        ({"answer": "A", "choices": [None, "x"]}, "a choice is None; expected text"),
        ({"answer": "A", "choices": 3}, "choices is 3; expected a sequence of texts"),
        ({"answer": "A", "choices": {"x": 1, "y": 2}}, "choices is {'x': 1, 'y': 2}; expected a sequence"),
        ({"answer": "A", "choices": ["x", "x"]}, "'x', 'x'; expected each once"),
        ({"answer": "A", "choices": ["x", "\ud800"]}, "a choice has half a character"),
        ({"answer": 10**5000}, "answer is a number of too many digits"),
        ({"answer": [10**5000]}, "answer is a list that cannot be shown"),
        ({"answer": float("nan")}, "answer is nan"),
        ({"answer": "\ud800"}, "answer has half a character"),
        ({"answer": 1, "task": 3}, "task is 3; expected text"),
    ],
)
def test_what_no_item_can_be_made_of_is_one_clear_line(given, message):
    with pytest.raises(DataError) as error:
        make_item("Which?", **given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_answer_of_many_digits_is_compared_digit_by_digit():
    item = make_item("How many?", 10**400)
    assert SCORER.score(item, f"Answer: {10**400}").correct
    assert not SCORER.score(item, f"Answer: {10**400 + 1}").correct


def judged(judge, text="a"):
    return Item(public=PublicItem(id="1", question="Find one."), gold=Gold(Answer(text=text, judge=judge)))


def test_partial_credit_is_recorded_and_wrong():
    score = SCORER.score(judged(lambda text: 0.6), "b")
    assert (score.correct, score.value) == (False, 0.6)


def test_full_credit_of_the_task_itself_is_right():
    assert SCORER.score(judged(lambda text: 1.0), "b").correct
    assert SCORER.score(judged(lambda text: 0.9999999), "b").correct
    assert not SCORER.score(judged(lambda text: 0.9994), "b").correct


def test_credit_for_a_text_that_contains_a_long_answer_is_wrong():
    gold = "x" * 300
    assert not SCORER.score(judged(lambda text: 300 / len(text), gold), gold + "y").correct


def test_a_judge_that_raises_is_counted_and_wrong():
    def broken(text):
        raise RecursionError("deep")

    score = SCORER.score(judged(broken), "b")
    assert (score.correct, score.failure) == (False, "RecursionError: deep")


@pytest.mark.parametrize("error", [FileNotFoundError("words.txt"), TimeoutError(), MemoryError()])
def test_what_the_machine_does_to_a_judge_is_no_wrong_answer(error):
    def broken(text):
        raise error

    with pytest.raises(type(error)):
        SCORER.score(judged(broken), "b")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_an_odd_number_of_a_judge_stays_in_range(value):
    score = SCORER.score(judged(lambda text: value), "b")
    assert 0 <= score.value <= 1


@given(st.text(alphabet=st.characters(), max_size=200))
def test_no_text_makes_the_scorer_raise(text):
    for item in (chain("1 + 1", 2), make_item("Capital?", "Paris"), make_item("Grid?", "1\n2")):
        SCORER.score(item, text)
        SCORER.leaks(item, text)


def test_a_gold_of_another_kind_is_a_clear_error():
    item = Item(public=PublicItem(id="7", question="?"), gold=Gold({"a": 1}))
    with pytest.raises(ConfigError, match="gold answer of type dict"):
        SCORER.score(item, "1")


@pytest.mark.parametrize(
    ("expression", "gold", "hint", "leak"),
    [
        ("60 - 51", "9", "Count from 51 up to 60.", False),
        ("60 - 51", "9", "You wrote 69 or 0.9 or 19.", False),
        ("60 - 51", "9", "60 - 51 = 9", True),
        ("60 - 51", "9", "Nearly: 9.0!", True),
        ("60 - 51", "9", "The answer is nine.", True),
        ("60 - 51", "9", "Count with nine fingers.", False),
        ("38 - 19", "19", "Take 19 from 38.", False),
        ("38 - 19", "19", "38 - 19 = 19", True),
        ("38 - 19", "19", "The result is **19**", True),
        ("38 - 57", "-19", "The sign is negative: 57 is larger than 38.", False),
        ("38 - 57", "-19", "It is −19.", True),
        ("38 - 57", "-19", "You get minus nineteen", True),
        ("38 - 57", "-19", "57 - 38 = 19", False),
        ("5 - 3", "2", "Use the two numbers in order.", False),
        ("30 + 12", "42", "That gives forty-two", True),
        ("30 + 10", "40", "That gives forty-two", False),
    ],
)
def test_leaks_of_a_number(expression, gold, hint, leak):
    assert SCORER.leaks(chain(expression, gold), hint) is leak


@pytest.mark.parametrize(
    ("question", "gold", "hint", "leak"),
    [
        ("Capital of France?", "Paris", "It lies on the Seine.", False),
        ("Capital of France?", "Paris", "Think of PARIS.", True),
        ("Capital of France?", "Paris", "Parisians live there.", False),
        ("Is it true or false?", "true", "Decide between true and false.", False),
        ("Is it true or false?", "true", "The answer is true.", True),
        ("Spell dog backward", "god", "Begin with the last letter of dog.", False),
    ],
)
def test_leaks_of_a_text(question, gold, hint, leak):
    assert SCORER.leaks(make_item(question, gold), hint) is leak


def test_leaks_of_a_choice():
    item = make_item("Which is a fruit?", "apple", choices=["stone", "apple"])
    assert not SCORER.leaks(item, "A fruit grows on a tree. Compare A and B.")
    assert SCORER.leaks(item, "The answer is B.")


def test_without_a_reference_answer_nothing_but_a_right_answer_leaks():
    item = judged(lambda text: float(text == "b"), None)
    assert SCORER.leaks(item, "Answer: b")
    assert not SCORER.leaks(item, "Think of letters.")


def test_read_answer_without_an_answer():
    assert read_answer("no number", numeric=True) is None
    assert read_answer("   ") is None


HOSTILE = (
    "__import__('os').environ.__setitem__('DOCENDO_PWNED', '1')",
    "[x for x in [__import__('os').environ.__setitem__('DOCENDO_PWNED', '1')]]",
    "(lambda: __import__('os').environ.__setitem__('DOCENDO_PWNED', '1'))()",
    "1 +\n__import__('os').environ.__setitem__('DOCENDO_PWNED', '1')",
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("(3 + 4) * 2", True),
        ("6*x**2 - x/3", True),
        ("[['Q', '_'], ['_', 'Q']]", True),
        ("1 2 3\n4 5 6", True),
        ("9**9**9**9", False),
        ("((9**20)**20)**20", False),
        ("9**9\n**9**9", False),
        ("99999!!", False),
        ("'a' * 9999999999", False),
        ("[0] * 9999999999", False),
        ("x.__class__", False),
        ("'__import__(1)'", False),
        ("(" * 1500, False),
        ("1e999999", False),
        ("1e-9999", False),
        ("9" * 40, False),
        ("f'{x}'", False),
        *((text, False) for text in HOSTILE),
    ],
)
def test_only_literals_and_small_formulas_are_evaluated(text, plain):
    assert is_plain(text) is plain


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", ["countdown", "n_queens", "spiral_matrix", "polynomial_multiplication"])
def test_an_answer_runs_no_code(name, text):
    from docendo.evals import tasks

    item = tasks(f"reasoning_gym:{name}", test=1).test[0]
    score = SCORER.score(item, f"Answer: {text}")
    assert not score.correct
    assert "DOCENDO_PWNED" not in os.environ
    if "\n" not in text or name == "n_queens":
        assert score.failure is not None
        assert "not evaluated" in score.failure
