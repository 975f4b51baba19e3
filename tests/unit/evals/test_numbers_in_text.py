from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.evals.items._numbers import number, numbers, show
from docendo.evals.items._worked import worked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("38 - 57 = -19", ["38", "57", "-19"]),
        ("10-3", ["10", "3"]),
        ("a=-5 (−7) **-12**", ["-5", "-7", "-12"]),
        ("1,000 and 1,2,3 and 12,34", ["1000", "1", "2", "3", "12", "34"]),
        ("3/4 of $5. Then .5", ["3/4", "5", "1/2"]),
        ("x2 y_3 2x 3rd", ["2", "3"]),
        ("1.2.3 1e999999 0.5.5", []),
        ("1e3", ["1000"]),
        ("7/0", []),
        ("9" * 5000, []),
    ],
)
def test_whole_numbers_of_a_text(text, expected):
    assert [str(value) for value, _, _ in numbers(text)] == expected


def test_the_position_is_that_of_the_number():
    text = "it is -19, no?"
    ((_, start, end),) = numbers(text)
    assert text[start:end] == "-19"


@given(st.integers(min_value=-(10**30), max_value=10**30), st.integers(min_value=0, max_value=6))
def test_show_and_number_are_inverse(numerator, places):
    value = Fraction(numerator, 10**places)
    assert number(show(value)) == value


@given(st.text())
def test_no_text_raises(text):
    list(numbers(text))
    number(text)


@pytest.mark.parametrize(
    ("expression", "answer", "lines"),
    [
        ("38 - 57 - 10", "-29", ["38 - 57 = -19", "-19 - 10 = -29"]),
        ("2 + 3 * 4", "14", ["3 * 4 = 12", "2 + 12 = 14"]),
        ("(2 + 3) * (4 - 6)", "-10", ["2 + 3 = 5", "4 - 6 = -2", "5 * -2 = -10"]),
        ("5 + -3", "2", ["5 + -3 = 2"]),
        ("-5 - -3", "-2", ["-5 - -3 = -2"]),
        ("4.4439 + 1.2537 - 7.8993", "-2.2017", ["4.4439 + 1.2537 = 5.6976", "5.6976 - 7.8993 = -2.2017"]),
    ],
)
def test_worked_steps(expression, answer, lines):
    assert worked(expression, answer).splitlines() == [*lines, f"Answer: {answer}"]


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("2 + 2", "5"),
        ("2 / 0", "0"),
        ("(2", "2"),
        ("2)", "2"),
        ("2 +", "2"),
        ("x + 1", "2"),
        ("", "0"),
        ("7", "7"),
    ],
)
def test_no_worked_steps_where_they_would_be_wrong(expression, answer):
    assert worked(expression, answer) is None


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6), st.data())
def test_worked_steps_end_at_the_value(values, data):
    operators = [data.draw(st.sampled_from("+-*")) for _ in values[1:]]
    expression = str(values[0]) + "".join(f" {o} {v}" for o, v in zip(operators, values[1:], strict=True))
    value = eval(expression)
    text = worked(expression, str(value))
    assert text is not None
    assert len(text.splitlines()) == len(values)
    for line in text.splitlines()[:-1]:
        left, _, right = line.partition(" = ")
        assert eval(left) == int(right)
