"""Countdown: reach a number from a few others with the four operations."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

from docendo.checks import is_count, short
from docendo.errors import ConfigError, DataError
from docendo.evals.search._world import ASK, BACK, END, SearchWorld, check_parts
from docendo.records import Split

#: One character for each number from 0 to 61, so that a number is one token.
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
LARGEST = len(DIGITS) - 1
#: Two numbers at least and the one that is asked for.
_PROBLEM = re.compile(f"[{DIGITS[1:]}]{{3,}}{ASK}")


class Countdown(SearchWorld):
    """All problems of a few small numbers, each to be used once.

    Numbers are written with one character: 0 to 9, A (10) to Z (35), a (36) to z (61). `358G:` asks for 16
    from 3, 5 and 8, and a step such as `5-32` writes two numbers, the operation and what it gives, which
    takes their place. Larger operands stand first, and nothing leaves the range of 1 to 61.

    Args:
        numbers: How many numbers there are, at least 2.
        largest: The largest of them.
        least_target: The smallest number that is asked for.

    Raises:
        ConfigError: if one of them is no whole number of its range.

    Example:
        >>> world = Countdown()
        >>> world.path("358G:")
        '5+388+8G;'
    """

    name: ClassVar[str] = "countdown"
    alphabet: ClassVar[str] = DIGITS + "+-*/" + ASK + BACK + END
    width: ClassVar[int] = 4

    def __init__(self, *, numbers: int = 3, largest: int = 15, least_target: int = 10) -> None:
        for name, value, least in (
            ("numbers", numbers, 2),
            ("largest", largest, 1),
            ("least_target", least_target, 1),
        ):
            if not is_count(value) or not least <= value <= LARGEST:
                raise ConfigError(
                    f"{name} is {short(value)}", expected=f"a whole number of {least} to {LARGEST}"
                )
        self.numbers, self.largest, self.least_target = numbers, largest, least_target

    def problems(self, seed: int, sizes: Mapping[Split, int]) -> dict[Split, tuple[str, ...]]:
        """Problems of all sets of numbers and all targets that can be reached.

        Raises:
            ConfigError: if the seed or a size is none, or nothing is left for a part.
        """
        check_parts(seed, sizes)
        pool = [
            "".join(DIGITS[number] for number in numbers) + DIGITS[target] + ASK
            for numbers in itertools.combinations_with_replacement(range(1, self.largest + 1), self.numbers)
            for target in sorted(_reached(numbers))
            if target >= self.least_target
        ]
        return self._split(pool, seed, sizes)

    def start(self, problem: str) -> tuple[int, ...]:
        """The numbers, in ascending order.

        Raises:
            DataError: if it is no problem of this world.
        """
        if not isinstance(problem, str) or not _PROBLEM.fullmatch(problem):
            raise DataError(f"the problem is {short(problem)}", expected="one of countdown, such as '358G:'")
        return tuple(sorted(DIGITS.index(digit) for digit in problem[:-2]))

    def steps(self, state: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Each pair with each operation that stays in the range."""
        return _steps(state)

    def depth(self, problem: str) -> int:
        """One less than there are numbers."""
        return len(problem) - 3

    def solved(self, problem: str, state: tuple[int, ...]) -> bool:
        """Whether the number that is left is the one asked for."""
        return state == (DIGITS.index(problem[-2]),)


@lru_cache(maxsize=65536)
def _steps(numbers: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for low, high in itertools.combinations(range(len(numbers)), 2):
        b, a = numbers[low], numbers[high]
        rest = (*numbers[:low], *numbers[low + 1 : high], *numbers[high + 1 :])
        results = {"+": a + b, "-": a - b, "*": a * b, "/": 0 if a % b else a // b}
        for operation, result in results.items():
            if 1 <= result <= LARGEST:
                step = DIGITS[a] + operation + DIGITS[b] + DIGITS[result]
                found[step] = tuple(sorted((*rest, result)))
    return found


@lru_cache(maxsize=65536)
def _reached(numbers: tuple[int, ...]) -> frozenset[int]:
    if len(numbers) == 1:
        return frozenset(numbers)
    return frozenset().union(*(_reached(after) for after in _steps(numbers).values()))
