"""Questions in their shortest form, for models that cannot read sentences.

Each form is made of the public facts of a question alone and determines its answer; scoring stays with the
task. Digits, letters and few signs: a character model learns them in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from docendo.errors import DataError

_Facts = Mapping[str, Any]


def _expression(facts: _Facts) -> str:
    return f"{facts['expression'].replace(' ', '')}="


def _joined(sign: str) -> Callable[[_Facts], str]:
    return lambda facts: f"{sign}({','.join(map(str, facts['numbers']))})="


def _sudoku(facts: _Facts) -> str:
    return "/".join("".join(str(cell or "_") for cell in row) for row in facts["puzzle"]) + "="


def _legs(facts: _Facts) -> str:
    return "+".join(f"{count}{animal}" for animal, count in facts["animals"].items()) + "="


def _sorting(facts: _Facts) -> str:
    sign = {"ascending": "<", "descending": ">"}[facts["direction"]]
    return f"{sign}{','.join(facts['original_numbers'])}="


def _haystack(facts: _Facts) -> str:
    statements, _, asked = facts["text"].strip().rpartition("\n")
    wanted = asked.removeprefix("Who ").partition("?")[0]
    return f"{statements.strip().removesuffix('.').replace('. ', ';')}?{wanted}="


_FORMS: dict[str, Callable[[_Facts], str]] = {
    "base_conversion": lambda f: f"{f['source_repr']}:{f['source_base']}>{f['target_base']}=",
    "basic_arithmetic": _expression,
    "binary_alternation": lambda f: f"{f['string']}~",
    "chain_sum": _expression,
    "count_bits": lambda f: f"{f['number']}#",
    "countdown": lambda f: f"{','.join(map(str, f['numbers']))}>{f['target']}=",
    "decimal_chain_sum": _expression,
    "fraction_simplification": lambda f: f"{f['numerator']}/{f['denominator']}=",
    "gcd": _joined("gcd"),
    "lcm": _joined("lcm"),
    "leg_counting": _legs,
    "letter_counting": lambda f: f"{f['target_letter']}:{' '.join(f['span'])}#",
    "mini_sudoku": _sudoku,
    "needle_haystack": _haystack,
    "number_sorting": _sorting,
    "prime_factorization": lambda f: f"{f['number']}!",
    "products": _expression,
    "simple_equations": lambda f: f"{f['equation'].replace(' ', '')};{f['variable']}=",
    "spell_backward": lambda f: f"{f['word']}<",
}


def compact_form(name: str, facts: _Facts) -> str:
    """The shortest form of a question, from the facts that its generator gives.

    Args:
        name: Name of the generator.
        facts: Its metadata of the question, and as `text` the question itself.

    Example:
        >>> compact_form("chain_sum", {"expression": "12 + 7 - 3"})
        '12+7-3='
    """
    return _FORMS[name](facts)


def has_compact(name: str) -> bool:
    """Whether a generator's questions have a compact form."""
    return name in _FORMS


def require_compact(name: str) -> None:
    """Refuses a generator that has no compact form.

    Raises:
        DataError: naming those that have one.
    """
    if not has_compact(name):
        raise DataError(f"reasoning_gym:{name} has no compact form", expected=f"one of {', '.join(_FORMS)}")
