"""Questions in their shortest form: solved from the short text alone, and scored by the task."""

import itertools
import math
import re
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pytest
from reasoning_gym.arithmetic.leg_counting import ANIMALS

from docendo.errors import DataError
from docendo.evals import tasks
from docendo.evals.items._compact import compact_form
from docendo.evals.items._gym import gym_source


def value(text, *, kind=int):
    """The value of an expression, by Python's own parser, with numbers of a kind of their own."""
    numbered = re.sub(r"[0-9.]+", lambda found: f"kind('{found.group()}')", text.rstrip("="))
    return eval(numbered, {"__builtins__": {}, "kind": kind})


def numbers(text):
    return [int(part) for part in text[text.index("(") + 1 : text.index(")")].split(",")]


def swaps(text):
    digits = text.rstrip("~")
    found = []
    for first in "01":
        wanted = "".join(first if place % 2 == 0 else "10"[int(first)] for place in range(len(digits)))
        if Counter(wanted) == Counter(digits):
            found.append(sum(a != b for a, b in zip(digits, wanted, strict=True)) // 2)
    return str(min(found, default=-1))


def rebased(text):
    digits, source, target = re.fullmatch(r"(.+):(\d+)>(\d+)=", text).groups()
    rest, shown = int(digits, int(source)), ""
    while rest:
        rest, digit = divmod(rest, int(target))
        shown = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + shown
    return shown or "0"


def legs(text):
    parts = (re.fullmatch(r"(\d+)(.+)", part).groups() for part in text.rstrip("=").split("+"))
    return str(sum(int(count) * ANIMALS[animal] for count, animal in parts))


def letters(text):
    letter, _, words = text.rstrip("#").partition(":")
    return str(Counter(words.lower())[letter])


def sudoku(text):
    rows = text.rstrip("=").split("/")
    fits = [
        [
            row
            for row in itertools.permutations("1234")
            if all(a in ("_", b) for a, b in zip(shown, row, strict=True))
        ]
        for shown in rows
    ]
    for grid in itertools.product(*fits):
        columns = zip(*grid, strict=True)
        boxes = ([grid[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2))
        if all(len(set(part)) == 4 for part in (*columns, *boxes)):
            return "\n".join(" ".join(row) for row in grid)
    raise AssertionError(text)


def haystack(text):
    statements, _, wanted = text.rstrip("=").partition("?")
    (found,) = [each for each in statements.split(";") if each.endswith(f" {wanted}")]
    return found.removesuffix(f" {wanted}")


def ordered(text):
    shown = text[1:].rstrip("=").split(",")
    return str(sorted(shown, key=float, reverse=text[0] == ">"))


def factors(text):
    rest, found, divisor = int(text.rstrip("!")), [], 2
    while rest > 1:
        while rest % divisor == 0:
            rest, found = rest // divisor, [*found, divisor]
        divisor += 1
    return " × ".join(map(str, found))


def linear(text):
    equation, _, name = text.rstrip("=").partition(";")
    left, right = equation.split("=")

    def off(number):
        return value(f"({left})-({right})".replace(name, f"({number})"), kind=Fraction)

    return str(-off(0) / (off(1) - off(0)))


SOLVED = {
    "base_conversion": rebased,
    "basic_arithmetic": lambda text: str(value(text, kind=Fraction)),
    "binary_alternation": swaps,
    "chain_sum": lambda text: str(value(text)),
    "count_bits": lambda text: str(bin(int(text.rstrip("#"))).count("1")),
    "decimal_chain_sum": lambda text: str(value(text, kind=Decimal)),
    "fraction_simplification": lambda text: str(value(text, kind=Fraction)),
    "gcd": lambda text: str(math.gcd(*numbers(text))),
    "lcm": lambda text: str(math.lcm(*numbers(text))),
    "leg_counting": legs,
    "letter_counting": letters,
    "mini_sudoku": sudoku,
    "needle_haystack": haystack,
    "number_sorting": ordered,
    "prime_factorization": factors,
    "products": lambda text: str(value(text)),
    "simple_equations": linear,
    "spell_backward": lambda text: text.rstrip("<")[::-1],
}


@pytest.mark.parametrize("name", SOLVED)
def test_a_compact_question_alone_gives_its_answer(name):
    task = tasks(f"reasoning_gym:{name}", train=4, test=12, compact=True)
    assert task.config["compact"] is True
    for item in task.test + task.train:
        assert task.scorer.score(item, SOLVED[name](item.public.question)).correct, item.public.question


def test_a_compact_countdown_says_which_numbers_may_be_used():
    for item in (task := tasks("reasoning_gym:countdown", test=6, compact=True)).test:
        allowed, _, target = item.public.question.rstrip("=").partition(">")
        answer = task.scorer.answer(item)
        used = re.findall(r"\d+", answer)
        assert not Counter(used) - Counter(allowed.split(","))
        assert value(answer, kind=Fraction) == int(target)
        assert task.scorer.score(item, answer).correct


@pytest.mark.parametrize("name", [*SOLVED, "countdown"])
def test_a_compact_question_is_shorter_and_says_nothing_that_the_long_one_does_not(name):
    short, long = (gym_source(name, {}, compact=compact).stream(3) for compact in (True, False))
    for _ in range(20):
        brief, full = (next(source).item.public.question for source in (short, long))
        assert len(brief) < len(full)
        told = "".join(full.split()).replace("hexadecimal", "16").replace("binary", "2")
        for part in re.findall(r"[\w.]+", brief.removeprefix("gcd").removeprefix("lcm")):
            # Digits and letters stand in the question as they are; of 12deer the number and the animal.
            assert all(piece in told for piece in re.findall(r"[a-zA-Z.]+|[0-9_.]+", part)), (part, full)


def test_a_compact_form_reads_no_solution():
    facts = {"expression": "1 + 2", "solution": 3, "answer": "3"}
    assert compact_form("chain_sum", facts) == compact_form("chain_sum", {"expression": "1 + 2"}) == "1+2="


def test_compact_parts_share_no_compact_question():
    tiny = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    task = tasks("reasoning_gym:chain_sum", train=100, dev=20, test=80, compact=True, **tiny)
    asked = [item.public.question for item in task.train + task.dev + task.test]
    assert len(set(asked)) == 200
    with pytest.raises(DataError, match="200 distinct questions, but 201"):
        tasks("reasoning_gym:chain_sum", test=201, compact=True, **tiny)


def test_what_has_no_compact_form_says_what_has():
    with pytest.raises(DataError, match="acre has no compact form; expected one of base_conversion"):
        tasks("reasoning_gym:acre", test=1, compact=True)


def test_worked_examples_of_compact_sums():
    task = tasks("reasoning_gym:chain_sum", train=3, test=1, compact=True, min_terms=3)
    assert len(task.examples(1)[0].answer.splitlines()) > 2
