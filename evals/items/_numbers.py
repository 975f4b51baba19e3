"""Numbers in text: read exactly, compared exactly, never with a tolerance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

_BODY = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# A fraction or a power of ten belongs to the number: `3/4` is one number and not a 3 and a 4.
_TAIL = r"(?:[eE][-+]?[0-9]{1,3}(?![0-9])|/[0-9]+)?"
_NUMBER = re.compile(rf"[-+]?(?:{_BODY}){_TAIL}")
# What follows shows that the match was only the head of something else: 1.2.3, 1e99999, 1/2/3.
_GARBLED = re.compile(r"[./]?[0-9]|[eE][-+]?[0-9]")
_DASHES = str.maketrans({"−": "-", "–": "-", "﹣": "-", "－": "-"})
# Longer digit strings are noise from a model, and Python refuses to convert beyond 4300 digits.
_LONGEST = 400


def number(text: str) -> Fraction | None:
    """Returns the value of a text that is one number, else None.

    Thousands commas, a leading plus and a fraction `a/b` are read; units and words are not.

    Example:
        >>> number("1,000.50") == number("+1000.5")
        True
        >>> number("12 apples") is None
        True
    """
    text = text.strip().translate(_DASHES)
    match = _NUMBER.fullmatch(text)
    return _value(match.group()) if match else None


def numbers(text: str) -> Iterator[tuple[Fraction, int, int]]:
    """Yields each whole number in a text with its start and end; `69` holds no 9.

    Example:
        >>> [str(value) for value, _, _ in numbers("38 - 57 = -19, x2 is 10-3.")]
        ['38', '57', '-19', '10', '3']
    """
    text = text.translate(_DASHES)
    for match in _NUMBER.finditer(text):
        start, found = match.start(), match.group()
        before = text[start - 1 : start]
        if found[0] in "-+" and (before.isalnum() or before in (")", "]")):
            # An operator and not a sign: `10-3` ends with 3.
            start, found = start + 1, found[1:]
        elif before.isalnum() or before == "_":
            continue  # the digits of a name such as x2
        value = None if _GARBLED.match(text, match.end()) else _value(found)
        if value is not None:
            yield value, start, match.end()


def _value(text: str) -> Fraction | None:
    if len(text) > _LONGEST:
        return None
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def show(value: Fraction) -> str:
    """Writes a number as an integer or a finite decimal where it is one, else as a fraction.

    Example:
        >>> show(Fraction(-3, 2)), show(Fraction(4)), show(Fraction(1, 3))
        ('-1.5', '4', '1/3')
    """
    if value.denominator == 1:
        return str(value.numerator)
    places, rest = 0, value.denominator
    while rest % 2 == 0 or rest % 5 == 0:
        rest //= 10 if rest % 10 == 0 else 2 if rest % 2 == 0 else 5
        places += 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    scaled = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    text = f"{scaled[:-places]}.{scaled[-places:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text
