r"""Reads mathematics: LaTeX, or plain text such as `sqrt(2)/2` and `x**2`, through math-verify."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boldsymbol|bm)\s*\{([^{}]*)\}")
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|pi"
#: What the parser would misread, and how it reads it right.
_MENDED = (
    (re.compile(r"\\\$|\$|\\\(|\\\)|\\\[|\\\]"), " "),
    (re.compile(r"\\(?:mathbf|boldsymbol|bm)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"(?<=\d)(?:\\[,!;: ]|~|\{,\})+(?=\d{3}(?!\d))"), ""),  # 10\,000
    (re.compile(r"\\([dt]?binom)\s*(\d)\s*(\d)"), r"\\\1{\2}{\3}"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\s*-\s*(\d+|[A-Za-z])"), r"^{-\1}"),
    (re.compile(r"_(\w)\s"), r"_{\1} "),
    (re.compile(r"(\d)[eE]([-+]?\d+)"), r"\1\\cdot 10^{\2}"),
    (re.compile(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"(?<![\d.^_}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])"), r"(\1+\2/\3)"),  # 3 1/2
)
#: `1 2` is not 3 and `101_2` is not 101, whatever the parser says.
_MISREAD = re.compile(r"\d\s+\d|\d\s*_")
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\W\d_]+(?:[\s,.'-]+[^\W\d_]+)*[.!]?")
_NAME = re.compile(r"\\[A-Za-z]+|[^\W\d_]")


def words(text: str) -> str:
    r"""A text without the marks of LaTeX text, so that `\text{no solution}` is `no solution`.

    Example:
        >>> words(r"$\text{No  solution}$")
        'No solution'
    """
    return " ".join(_WRAPPER.sub(r"\1", text.strip().strip("$")).split())


def is_words(text: str) -> bool:
    """Whether a text is a word or several, and not a product of letters.

    Example:
        >>> is_words("no solution"), is_words("xy"), is_words("2 pears")
        (True, False, False)
    """
    return bool(_WORDS.fullmatch(words(text)))


def is_letters(text: str) -> bool:
    """Whether a text is several letters and nothing else: a word, or a product of one-letter names.

    Example:
        >>> is_letters("no"), is_letters("x"), is_letters("x y")
        (True, False, False)
    """
    return len(words(text)) > 1 and words(text).isalpha()


def differ_in_case(first: str, second: str) -> bool:
    r"""Whether a name is in one text only as a capital, and in the other one not: the parser takes A for a.

    Example:
        >>> differ_in_case("A+b", "a+b"), differ_in_case(r"\pi r^2", r"r^2 \pi")
        (True, False)
    """
    left, right = set(_NAME.findall(first)), set(_NAME.findall(second))
    return bool({name.casefold() for name in left - right} & {name.casefold() for name in right - left})


def read(text: str) -> Any | None:
    """The mathematical object that a text is, or None if it cannot be read as one as a whole."""
    from math_verify import LatexExtractionConfig, parse

    text = " ".join(text.split())
    for pattern, mended in _MENDED:
        text = pattern.sub(mended, text)
    text = text.strip().removesuffix(".")
    if not text or _MISREAD.search(text):
        return None
    default = LatexExtractionConfig()
    # A unit is part of the answer: 5 cm is not 5 m.
    reading = replace(
        default,
        boxed_match_priority=-1,
        normalization_config=replace(default.normalization_config, units=False),
    )
    found = parse(
        f"${text}$",
        extraction_config=[reading],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=True,
    )
    return found[0] if found else None
