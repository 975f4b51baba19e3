"""A world for lessons about mistakes: students who believe some wrong facts, and a teacher who finds them.

A problem is a sum of digits, to be read from left to right and modulo 7, such as 3+5*2-6, and a working is
its running results, 123. A fact is one step, such as 1*2 with the result 2. A student was taught a few facts
wrongly, and the same ones always. The teacher reads a problem and a wrong working and writes the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import product
from typing import Any

import numpy as np

from docendo.evals import make_item
from docendo.records import Item, PublicItem, Split
from docendo.scoring import Score, Scorer

DIGITS, OPERATIONS = "0123456", "+-*"
MODULUS = len(DIGITS)
ALPHABET = DIGITS + OPERATIONS + "GV:"
#: Prompts of the student and the teacher.
SOLVE, TEACH = "G{question}:", "V{question}:{attempt}:"
#: All that can be known.
FACTS = tuple("".join(parts) for parts in product(DIGITS, OPERATIONS, DIGITS))
#: How often a step of the workings that the teacher learns from is wrong.
_SLIPS = 0.35

Rows = list[tuple[str, str]]


def problem(rng: np.random.Generator, terms: int) -> str:
    """A sum of so many digits."""
    digits, operations = rng.integers(0, MODULUS, terms), rng.integers(0, len(OPERATIONS), terms - 1)
    return str(digits[0]) + "".join(
        OPERATIONS[operation] + str(digit) for operation, digit in zip(operations, digits[1:], strict=True)
    )


def result(fact: str) -> str:
    """The right result of a fact.

    Example:
        >>> result("4*5")
        '6'
    """
    left, right = int(fact[0]), int(fact[2])
    return str({"+": left + right, "-": left - right, "*": left * right}[fact[1]] % MODULUS)


def misconceptions(rng: np.random.Generator, count: int) -> dict[str, str]:
    """So many facts with a wrong result each."""
    facts = [FACTS[place] for place in rng.choice(len(FACTS), count, replace=False)]
    return {fact: _off(result(fact), rng) for fact in facts}


def worked(question: str, wrong: Mapping[str, str] | None = None) -> str:
    """The running results, of one who believes some wrong facts.

    Example:
        >>> worked("3+5*2-6"), worked("3+5*2-6", {"1*2": "4"})
        ('123', '145')
    """
    value, results = question[0], ""
    for place in range(1, len(question), 2):
        fact = value + question[place : place + 2]
        value = (wrong or {}).get(fact, result(fact))
        results += value
    return results


def facts(question: str) -> list[str]:
    """The facts that its right working uses.

    Example:
        >>> facts("3+5*2-6")
        ['3+5', '1*2', '2-6']
    """
    before = question[0] + worked(question)
    return [before[step] + question[2 * step + 1 : 2 * step + 3] for step in range(len(question) // 2)]


def slip(rng: np.random.Generator, question: str) -> str:
    """A working with slips at random steps, one at least; later steps follow from them."""
    while True:
        value, attempt, slipped = question[0], "", False
        for place in range(1, len(question), 2):
            value = result(value + question[place : place + 2])
            if rng.random() < _SLIPS:
                value, slipped = _off(value, rng), True
            attempt += value
        if slipped:
            return attempt


def _off(digit: str, rng: np.random.Generator) -> str:
    return str((int(digit) + int(rng.integers(1, MODULUS))) % MODULUS)


def student_rows(
    terms: int, wrong: Mapping[str, str], hidden: Collection[str]
) -> Callable[[np.random.Generator, int], Rows]:
    """Sums of two to `terms` digits, worked out by one who believes some wrong facts."""

    def draw(rng: np.random.Generator, batch: int) -> Rows:
        questions = (_unhidden(rng, int(rng.integers(2, terms + 1)), hidden) for _ in range(batch))
        return [(SOLVE.format(question=each), worked(each, wrong)) for each in questions]

    return draw


def teacher_rows(terms: int, hidden: Collection[str]) -> Callable[[np.random.Generator, int], Rows]:
    """Problems with wrong workings, and the right ones."""

    def draw(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for _ in range(batch):
            question = _unhidden(rng, terms, hidden)
            prompt = TEACH.format(question=question, attempt=slip(rng, question))
            found.append((prompt, worked(question)))
        return found

    return draw


def _unhidden(rng: np.random.Generator, terms: int, hidden: Collection[str]) -> str:
    while (question := problem(rng, terms)) in hidden:
        pass
    return question


def contrasted(item: PublicItem, attempt: str, lesson: str) -> dict[str, Any]:
    """A row: the right working, and the student's own as the one to keep away from.

    A problem has one right working, so that the contrast pushes away and pulls nowhere.
    """
    return {
        "prompt": [{"role": "user", "content": SOLVE.format(question=item.question)}],
        "completion": [{"role": "assistant", "content": lesson}],
        "positives": [lesson],
        "negatives": [attempt],
    }


def items(
    rng: np.random.Generator, terms: int, count: int, split: Split, other: Collection[str]
) -> list[Item]:
    """Different problems as items whose gold is the last result, none of them among the others."""
    questions: dict[str, None] = {}
    while len(questions) < count:
        question = problem(rng, terms)
        if question not in other:
            questions[question] = None
    return [make_item(each, worked(each)[-1], task="misconceptions", split=split) for each in questions]


class LastResult(Scorer):
    """Compares the last result of a working."""

    name = "last result"

    def score(self, item: Item, text: str) -> Score:
        """Right if the last character is."""
        right = text[-1:] == self.open(item).text
        return Score(correct=right, value=float(right), parsed=text[-1:] or None)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether the text ends with the answer."""
        return self.score(item, text).correct
