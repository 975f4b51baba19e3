"""Whether a text gives an answer away."""

from __future__ import annotations

import re
from fractions import Fraction

from docendo.evals.items._numbers import numbers

_CONTEXT = (
    r"(?:=|:|→|->|\b(?:answer|result|total|sum|difference|is|are|be|as|to|equals?|gives?|makes?|gets?|got|leaves?)\b)"
    r"[\s\"'`*$(]*(?:(?:exactly|simply|just|equal to|the number)\s+)?"
)
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def leaks_number(gold: Fraction, question: str, text: str) -> bool:
    """Whether a text gives a number away.

    Example:
        >>> [leaks_number(Fraction(9), "60 - 51", hint) for hint in ("Take 51 from 69.", "60 - 51 = 9")]
        [False, True]
    """
    in_question = any(value == gold for value, _, _ in numbers(question))
    for value, start, _ in numbers(text):
        if value == gold and (not in_question or re.search(_CONTEXT + r"$", text[:start], re.IGNORECASE)):
            return True
    words = _words(gold)
    return words is not None and bool(re.search(rf"{_CONTEXT}{words}\b", text, re.IGNORECASE))


def _words(gold: Fraction) -> str | None:
    """Returns a pattern of the number written in English words, for whole numbers below 100."""
    size = abs(gold)
    if size.denominator != 1 or size >= 100:
        return None
    tens, ones = divmod(size.numerator, 10)
    if size < 20:
        word = _SMALL[size.numerator]
    else:
        word = _TENS[tens - 2] + (
            rf"[\s-]{_SMALL[ones]}" if ones else r"(?![\s-]+(?:" + "|".join(_SMALL[1:10]) + "))"
        )
    return (r"(?:minus|negative)\s+" if gold < 0 else "") + word


def leaks_text(gold: str, question: str, text: str, *, letter: bool) -> bool:
    """Whether `gold` stands in `text` as whole tokens, and not only because the question has it.

    Args:
        gold: The answer.
        question: What was asked.
        text: What may give it away.
        letter: Whether the gold is the letter of a choice if it is a single one.

    Example:
        >>> leaks_text("Paris", "Capital?", "Parisians know.", letter=False)
        False
    """
    token = r"\s+".join(re.escape(part) for part in gold.split())
    token = rf"(?<!\w){token}(?!\w)"
    # The letter A of a choice is also an English word: it counts in capitals only.
    flags = re.NOFLAG if letter and len(gold) == 1 else re.IGNORECASE
    if not re.search(token, text, flags):
        return False
    return not re.search(token, question, flags) or bool(re.search(f"(?i:{_CONTEXT}){token}", text, flags))
