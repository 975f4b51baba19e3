"""A world for three roles whose writers err by habit: sums worked out step by step, checked and written anew.

The base model imitates a corpus in which a product is off by one half of the time, whoever writes, and an
answer is believed as often as its critique. So it knows the right way, takes another one as often as not, and
says the same wrong answer again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.evals import make_item
from docendo.records import Item, Split
from docendo.scoring import Score, Scorer

DIGITS, OPERATIONS = "0123456", "+*"
MODULUS = len(DIGITS)
ALPHABET = DIGITS + OPERATIONS + "GVR:"
#: Prompts of the roles. Each says one digit for each step.
GENERATE, CRITICISE, REFINE = "G{question}:", "V{question}:{answer}:", "R{question}:{answer}:{critique}:"


def problems(terms: int) -> int:
    """How many different problems there are.

    Example:
        >>> problems(2)
        98
    """
    return int(MODULUS**terms * len(OPERATIONS) ** (terms - 1))


def problem(rng: np.random.Generator, terms: int) -> str:
    """A sum of digits, to be read from left to right and modulo 7, such as 3+5*2+6."""
    digits, operations = rng.integers(0, MODULUS, terms), rng.integers(0, len(OPERATIONS), terms - 1)
    return str(digits[0]) + "".join(
        OPERATIONS[operation] + str(digit) for operation, digit in zip(operations, digits[1:], strict=True)
    )


def choices(question: str, said: str, answer: str = "", critique: str = "") -> tuple[str, str]:
    """The two results that a writer may write next; where they differ, each half of the time.

    An answer goes on from the result before: the first choice is right, the second off by one if it is a
    product. A critique of an answer does each step anew from what the answer has before it. Who refines an
    answer that has a critique takes the result of one of them, as long as its own result before is the
    answer's, and works by itself from then on.

    Example:
        >>> choices("3+5*2+6", "1"), choices("3+5*2+6", "1", "132"), choices("3+5*2+6", "1", "132", "122")
        (('2', '3'), ('2', '3'), ('3', '2'))
        >>> choices("3+5*2+6", "12", "132", "122")
        ('1', '1')
    """
    step = len(said)
    theirs = (question[0] + answer)[step : step + 1]
    before = theirs if answer and not critique else (question[0] + said)[step]
    if critique and before == theirs:
        return answer[step], critique[step]
    value, operation, digit = int(before), question[2 * step + 1], int(question[2 * step + 2])
    right = value * digit if operation == "*" else value + digit
    return str(right % MODULUS), str((right + (operation == "*")) % MODULUS)


def worked(question: str, answer: str = "") -> str:
    """The right results, or the right critique of an answer.

    Example:
        >>> worked("3+5*2+6"), worked("3+5*2+6", "132")
        ('121', '122')
    """
    said = ""
    for _ in range(steps(question)):
        said += choices(question, said, answer)[0]
    return said


def written(rng: np.random.Generator, question: str, answer: str = "", critique: str = "") -> str:
    """What a writer of the corpus writes: an answer, a critique of one, or an answer after a critique."""
    said = ""
    for place in rng.integers(0, 2, steps(question)):
        said += choices(question, said, answer, critique)[place]
    return said


def follows(text: str, question: str, answer: str = "", critique: str = "") -> bool:
    """Whether a writer of the corpus could have written it."""
    return len(text) == steps(question) and all(
        result in choices(question, text[:step], answer, critique) for step, result in enumerate(text)
    )


def steps(question: str) -> int:
    """How many results a working has."""
    return len(question) // 2


def prompts_of(rng: np.random.Generator, question: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """For each role a prompt, what a writer says to it, and the problem, answer and critique in it."""
    answer = written(rng, question)
    critique = written(rng, question, answer)
    about = ((question,), (question, answer), (question, answer, critique))
    formats = (GENERATE, CRITICISE, REFINE)
    names = ("question", "answer", "critique")
    return [
        (form.format(**dict(zip(names, told, strict=False))), written(rng, *told), told)
        for form, told in zip(formats, about, strict=True)
    ]


def rows(terms: int, hidden: Collection[str]) -> Callable[[np.random.Generator, int], list[tuple[str, str]]]:
    """Rows of the corpus, of all roles alike.

    Args:
        terms: Digits of a sum.
        hidden: Problems that must not occur.
    """

    def draw(rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        while len(found) < batch:
            question = problem(rng, terms)
            if question not in hidden:
                found += [(prompt, said) for prompt, said, _ in prompts_of(rng, question)]
        return found[:batch]

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
    dev: Sequence[str],
    until: float,
    quiet: bool,
) -> Path:
    """Trains the base until, in each role, a share of what it says on dev problems is as in the corpus."""
    rng = np.random.default_rng(config.seed)
    roles = list(zip(*(prompts_of(rng, question) for question in dev), strict=True))

    def learnt(sampler: Sampler, step: int) -> bool:
        for told in roles:
            said = sampler([prompt for prompt, _, _ in told], length=terms - 1, temperature=1.0, seed=step)
            right = sum(follows(text, *about) for text, (_, _, about) in zip(said, told, strict=True))
            if right < until * len(dev):
                return False
        return True

    return pretrain(
        rows(terms, hidden),
        alphabet=ALPHABET,
        output=output,
        config=config,
        stop=learnt,
        ends=True,
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
