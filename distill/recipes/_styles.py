"""A world for a teacher of several styles: a student reads all of them, and calculates well in one.

Problems are the sums of `_misconceptions.py`. A working begins with the mark of its style. A student goes on
in the style of an example that it is shown and without one takes any; in others than its own it takes some
operations for others. The teacher calculates rightly in all and prefers none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from docendo.distill.recipes._misconceptions import DIGITS, OPERATIONS, Rows, problem, worked
from docendo.records import Item
from docendo.scoring import Score, Scorer

#: Marks of the styles.
STYLES = "abcd"
ALPHABET = DIGITS + OPERATIONS + STYLES + "G:"
ASK = "G{question}:"
#: What a student takes the operations for, in its own style and in the three others.
_TAKEN = ("+-*", "+-+", "++*", "-+-")


def written(results: str, style: int) -> str:
    """A working in a style.

    Example:
        >>> written("123", 1)
        'b123'
    """
    return STYLES[style] + results


def style_of(text: str) -> int | None:
    """The style of a working, if it has one.

    Example:
        >>> style_of("b123"), style_of("123")
        (1, None)
    """
    return STYLES.index(text[0]) if text and text[0] in STYLES else None


def mistaken(question: str, taken: str) -> str:
    """The running results of one who takes operations for others.

    Example:
        >>> mistaken("3+5*2-6", "+-*"), mistaken("3+5*2-6", "+-+")
        ('123', '134')
    """
    return worked(question.translate(str.maketrans(OPERATIONS, taken)))


def teacher_rows(terms: int, hidden: Collection[str]) -> Callable[[np.random.Generator, int], Rows]:
    """Problems with right workings in any style."""

    def draw(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for style in rng.integers(0, len(STYLES), batch):
            question = _unhidden(rng, terms, hidden)
            found.append((ASK.format(question=question), written(worked(question), style)))
        return found

    return draw


def student_rows(terms: int, hidden: Collection[str], own: int) -> Callable[[np.random.Generator, int], Rows]:
    """Problems with the student's workings, half of them behind a right example in the same style."""

    def draw(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for style in rng.integers(0, len(STYLES), batch):
            question, shown = (_unhidden(rng, terms, hidden) for _ in range(2))
            example = ASK.format(question=shown) + written(worked(shown), style)
            before = example if rng.random() < 0.5 else ""
            taken = _TAKEN[(style - own) % len(STYLES)]
            said = written(mistaken(question, taken), style)
            found.append((before + ASK.format(question=question), said))
        return found

    return draw


def _unhidden(rng: np.random.Generator, terms: int, hidden: Collection[str]) -> str:
    while (question := problem(rng, terms)) in hidden:
        pass
    return question


def right(question: str, text: str) -> bool:
    """Whether a text is a working of all steps whose last result is right.

    Example:
        >>> right("3+5*2-6", "b103"), right("3+5*2-6", "123"), right("3+5*2-6", "b13")
        (True, False, False)
    """
    return (
        style_of(text) is not None
        and len(text) - 1 == len(question) // 2
        and text[-1] == worked(question)[-1]
    )


class AnyStyle(Scorer):
    """Compares the last result of a working in any style."""

    name = "any style"

    def score(self, item: Item, text: str) -> Score:
        """Right if it has all steps and the last result is the gold."""
        well = right(item.public.question, text) and text[-1] == self.open(item).text
        return Score(correct=well, value=float(well), parsed=text[-1:] or None)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether the text ends with the answer."""
        return self.score(item, text).correct


def share(texts: Sequence[str], style: int) -> float:
    """Share of texts in a style."""
    return sum(style_of(text) == style for text in texts) / len(texts)
