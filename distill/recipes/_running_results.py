"""A world for three roles: sums that are worked out step by step, and what is wrong with a working."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.evals import make_item
from docendo.records import Item, Split
from docendo.scoring import Score, Scorer

if TYPE_CHECKING:
    import numpy as np

DIGITS, OPERATIONS = "0123456789", "+-*"
END = ";"
ALPHABET = DIGITS + OPERATIONS + "GVR:" + END
#: Prompts of the roles, and how many characters each says.
GENERATE, CRITICISE, REFINE = "G{question}:", "V{question}:{answer}:", "R{question}:{answer}:{critique}:"
CRITIQUE = 1


def problem(rng: np.random.Generator, terms: int) -> str:
    """A sum of digits, to be read from left to right and modulo 10, such as 3+5*2-7."""
    digits, operations = rng.integers(0, 10, terms), rng.integers(0, len(OPERATIONS), terms - 1)
    return str(digits[0]) + "".join(
        OPERATIONS[operation] + str(digit) for operation, digit in zip(operations, digits[1:], strict=True)
    )


def worked(question: str, *, wrong_at: int = 0, by: int = 0) -> str:
    """The running results; with `wrong_at` that step (from 1) is off by `by`, and later steps follow from it.

    Example:
        >>> worked("3+5*2-7"), worked("3+5*2-7", wrong_at=2, by=1)
        ('869', '870')
    """
    value, results = int(question[0]), ""
    for step, place in enumerate(range(1, len(question), 2), start=1):
        operation, digit = question[place], int(question[place + 1])
        value = {"+": value + digit, "-": value - digit, "*": value * digit}[operation] % 10
        if step == wrong_at:
            value = (value + by) % 10
        results += str(value)
    return results


def first_wrong(question: str, answer: str) -> str:
    """The place of the first wrong step, from 1; 0 if there is none. A right critique says this.

    Example:
        >>> first_wrong("3+5*2-7", "869"), first_wrong("3+5*2-7", "870")
        ('0', '2')
    """
    steps = zip(worked(question), answer, strict=False)
    return str(next((place for place, (right, said) in enumerate(steps, start=1) if right != said), 0))


def rows(terms: int, hidden: Collection[str]) -> Callable[[np.random.Generator, int], list[tuple[str, str]]]:
    """Training rows of all three roles: half of the workings that are criticised have a wrong step.

    Args:
        terms: Digits of a sum.
        hidden: Problems that must not occur.
    """

    def draw(rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        while len(found) < batch:
            question = problem(rng, terms)
            if question in hidden:
                continue
            wrong_at = int(rng.integers(1, terms)) if rng.random() < 0.5 else 0
            answer = worked(question, wrong_at=wrong_at, by=int(rng.integers(1, 10)))
            critique = str(wrong_at)
            found.append(
                (
                    (GENERATE.format(question=question), worked(question) + END),
                    (CRITICISE.format(question=question, answer=answer), critique + END),
                    (
                        REFINE.format(question=question, answer=answer, critique=critique),
                        worked(question) + END,
                    ),
                )[rng.integers(3)]
            )
        return found

    return draw


def items(
    rng: np.random.Generator, terms: int, count: int, split: Split, other: Collection[str]
) -> list[Item]:
    """Different problems as items whose gold is the last result, none of them among the others."""
    questions: dict[str, None] = {}
    while len(questions) < count:
        question = problem(rng, terms)
        if question not in other:
            questions[question] = None
    return [make_item(each, worked(each)[-1], task="running-results", split=split) for each in questions]


def base(
    output: Path,
    config: PretrainConfig,
    *,
    terms: int,
    hidden: Collection[str],
    dev: Collection[str],
    until: float,
    quiet: bool,
) -> Path:
    """Trains the base model of all roles until it answers a share of the dev problems, so that it errs."""

    def learnt(sampler: Sampler, step: int) -> bool:
        said = sampler([GENERATE.format(question=each) for each in dev], length=terms - 1)
        right = sum(text[-1] == worked(each)[-1] for text, each in zip(said, dev, strict=True))
        return right >= until * len(dev)

    return pretrain(
        rows(terms, hidden),
        alphabet=ALPHABET,
        output=output,
        config=config,
        stop=learnt,
        resume=True,
        quiet=quiet,
    )


def last(text: str) -> str | None:
    """The answer of a working: its last result."""
    return text[-1:] or None


class LastResult(Scorer):
    """Compares the last result."""

    name = "last result"

    def score(self, item: Item, text: str) -> Score:
        """Right if the last character is."""
        correct = last(text) == self.open(item).text
        return Score(correct=correct, value=float(correct), parsed=last(text))

    def leaks(self, item: Item, text: str) -> bool:
        """Whether the text ends with the answer."""
        return self.score(item, text).correct
