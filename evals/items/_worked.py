"""Worked examples: arithmetic written out step by step, from the public expression alone."""

from __future__ import annotations

import re
from fractions import Fraction

from docendo.evals.items._numbers import number, show

_TOKEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|[-+*/()])")
_MOST_STEPS = 64


def worked(expression: str, answer: str) -> str | None:
    r"""Returns the steps of an arithmetic expression and the answer line.

    Products and quotients come first, then sums from the left, brackets from the inside.

    Returns:
        The text, or None if the expression cannot be read or its value is not `answer`.

    Example:
        >>> print(worked("38 - 57 - 10", "-29"))
        38 - 57 = -19
        -19 - 10 = -29
        Answer: -29
    """
    tokens = _tokens(expression)
    if tokens is None:
        return None
    lines = []
    for _ in range(_MOST_STEPS):
        if len(tokens) == 1:
            break
        step = _reduce(tokens)
        if step is None:
            return None
        if step:
            lines.append(step)
    if len(tokens) != 1 or not isinstance(tokens[0], Fraction) or tokens[0] != number(answer) or not lines:
        return None
    return "\n".join([*lines, f"Answer: {answer}"])


def _tokens(expression: str) -> list[Fraction | str] | None:
    tokens: list[Fraction | str] = []
    position, expression = 0, expression.strip()
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            return None
        text, position = match.group(1), match.end()
        if text[0].isdigit():
            value = Fraction(text)
            # A minus that follows an operator or opens a bracket is a sign.
            if tokens[-1:] == ["-"] and (len(tokens) == 1 or tokens[-2] in ("+", "-", "*", "/", "(")):
                tokens.pop()
                value = -value
            tokens.append(value)
        else:
            tokens.append(text)
    return tokens


def _reduce(tokens: list[Fraction | str]) -> str | None:
    """Does one step in place; returns its line, "" for removed brackets, None if it is stuck."""
    close = tokens.index(")") if ")" in tokens else len(tokens)
    start = max((i for i in range(close) if tokens[i] == "("), default=-1) + 1
    if close < len(tokens) and start == 0:
        return None
    if close == start + 1:
        tokens[start - 1 : close + 1] = [tokens[start]]
        return ""
    for operators in (("*", "/"), ("+", "-")):
        for i in range(start + 1, close - 1):
            left, operator, right = tokens[i - 1 : i + 2]
            if operator in operators and isinstance(left, Fraction) and isinstance(right, Fraction):
                if operator == "/" and right == 0:
                    return None
                value = {
                    "*": lambda a, b: a * b,
                    "/": lambda a, b: a / b,
                    "+": lambda a, b: a + b,
                    "-": lambda a, b: a - b,
                }[str(operator)](left, right)
                tokens[i - 1 : i + 2] = [value]
                return f"{show(left)} {operator} {show(right)} = {show(value)}"
    return None
