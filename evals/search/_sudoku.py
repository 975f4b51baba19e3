"""Sudoku of four by four."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping
from functools import cache, lru_cache, reduce
from operator import and_
from typing import ClassVar

from docendo.checks import is_count, short
from docendo.errors import ConfigError, DataError
from docendo.evals.search._world import ASK, BACK, END, SearchWorld, check_parts
from docendo.hashing import derive_seed
from docendo.records import Split

#: One character for each digit in each cell: number 4 x cell + digit - 1.
PLACED = string.digits + string.ascii_uppercase + string.ascii_lowercase + "@#"
_PROBLEM = re.compile(f"[{PLACED}]{{1,15}}{ASK}")
Grid = tuple[int, ...]


class MiniSudoku(SearchWorld):
    """Puzzles of 16 cells with one solution, filled cell by cell in the order of reading.

    A digit in a cell is one character, in the puzzle as in the steps, so that what is known of a cell looks
    the same wherever it comes from. A digit is tried only where row, column and box allow it. The parts
    share no solved grid: a model that knows all grids of training has seen none of those it is asked for.

    Args:
        givens: Digits that a puzzle shows, 4 to 15; with fewer no puzzle has one solution.

    Raises:
        ConfigError: if it is no whole number of this range.

    Example:
        >>> world = MiniSudoku()
        >>> puzzle = world.problems(0, {"test": 1})["test"][0]
        >>> len(puzzle), world.judge(puzzle, world.trace(puzzle)).solved
        (6, True)
    """

    name: ClassVar[str] = "sudoku"
    alphabet: ClassVar[str] = PLACED + ASK + BACK + END
    width: ClassVar[int] = 1

    def __init__(self, *, givens: int = 5) -> None:
        if not is_count(givens) or not 4 <= givens <= 15:
            raise ConfigError(f"givens is {short(givens)}", expected="a whole number of 4 to 15")
        self.givens = givens

    def problems(self, seed: int, sizes: Mapping[Split, int]) -> dict[Split, tuple[str, ...]]:
        """Puzzles, a sixth of the grids for each of test and dev and the rest for training.

        Raises:
            ConfigError: if the seed or a size is none.
        """
        check_parts(seed, sizes)
        share = len(_grids()) // 6
        grids = self._split(_grids(), seed, {"test": share, "dev": share, "train": len(_grids()) - 2 * share})
        return {
            split: self._puzzles(grids[split], size, derive_seed(self.name, seed, split))
            for split, size in sizes.items()
        }

    def _puzzles(self, grids: tuple[Grid, ...], size: int, seed: int) -> tuple[str, ...]:
        rng = random.Random(seed)
        found: dict[str, None] = {}
        for _ in range(1000 * size):
            if len(found) == size:
                break
            grid, cells = rng.choice(grids), sorted(rng.sample(range(16), self.givens))
            shown = "".join(PLACED[4 * cell + grid[cell] - 1] for cell in cells)
            if _solutions(shown) == 1:
                found[shown + ASK] = None
        return tuple(found)

    def start(self, problem: str) -> Grid:
        """The puzzle, with 0 in empty cells.

        Raises:
            DataError: if it is no problem of this world: a cell may hold one digit.
        """
        if not isinstance(problem, str) or not _PROBLEM.fullmatch(problem):
            raise DataError(f"the problem is {short(problem)}", expected="one of sudoku, such as '7OVav:'")
        grid = [0] * 16
        for cell, digit in map(_read, problem[:-1]):
            if grid[cell]:
                raise DataError(f"the problem {problem!r} has two digits in cell {cell}", expected="one")
            grid[cell] = digit
        return tuple(grid)

    def steps(self, state: Grid) -> Mapping[str, Grid]:
        """The digits that the first empty cell may hold."""
        return _steps(state)

    def depth(self, problem: str) -> int:
        """Empty cells."""
        return 16 - (len(problem) - 1)

    def solved(self, problem: str, state: Grid) -> bool:
        """Whether the grid is full: steps that break a rule are none."""
        return 0 not in state


@lru_cache(maxsize=65536)
def _steps(grid: Grid) -> Mapping[str, Grid]:
    if 0 not in grid:
        return {}
    cell = grid.index(0)
    seen = {grid[other] for other in _SEEN[cell]}
    return {
        PLACED[4 * cell + digit - 1]: (*grid[:cell], digit, *grid[cell + 1 :])
        for digit in range(1, 5)
        if digit not in seen
    }


def _read(character: str) -> tuple[int, int]:
    cell, digit = divmod(PLACED.index(character), 4)
    return cell, digit + 1


def _sees(one: int, other: int) -> bool:
    row, column = one // 4, one % 4
    return one != other and (
        row == other // 4
        or column == other % 4
        or (row // 2, column // 2) == (other // 4 // 2, other % 4 // 2)
    )


_SEEN = tuple(tuple(other for other in range(16) if _sees(cell, other)) for cell in range(16))


@cache
def _grids() -> tuple[Grid, ...]:
    """All 288 solved grids."""
    found: list[Grid] = []
    unfinished: list[Grid] = [(0,) * 16]
    while unfinished:
        grid = unfinished.pop()
        if 0 in grid:
            unfinished.extend(_steps(grid).values())
        else:
            found.append(grid)
    return tuple(found)


@cache
def _having() -> Mapping[str, int]:
    """For each digit in each cell the solved grids that have it there, as bits of a number."""
    return {
        PLACED[4 * cell + digit - 1]: sum(
            1 << number for number, grid in enumerate(_grids()) if grid[cell] == digit
        )
        for cell in range(16)
        for digit in range(1, 5)
    }


def _solutions(shown: str) -> int:
    """How many solved grids have these digits in these cells."""
    return reduce(and_, (_having()[each] for each in shown)).bit_count()
