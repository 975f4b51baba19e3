"""What worlds of drawn questions share: parts that have no question in common, and fresh ones to train on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Mapping

import numpy as np

from docendo.hashing import derive_seed
from docendo.records import Split

#: Draws a question and its solution.
Draw = Callable[[np.random.Generator], tuple[str, str]]


def shared_out(draw: Draw, sizes: Mapping[Split, int], seed: int) -> dict[Split, dict[str, str]]:
    """Different questions with their solutions, as many as each part is to have.

    Example:
        >>> parts = shared_out(lambda rng: (str(rng.integers(9)), "odd"), {"dev": 2, "test": 3}, 0)
        >>> len(parts["dev"]), len(all_of(parts))
        (2, 5)
    """
    rng, solved = np.random.default_rng(derive_seed("questions", seed)), dict[str, str]()
    while len(solved) < sum(sizes.values()):
        solved.update([draw(rng)])
    rows = iter(solved.items())
    return {split: dict(itertools.islice(rows, size)) for split, size in sizes.items()}


def all_of(parts: Mapping[Split, Mapping[str, str]]) -> dict[str, str]:
    """The questions of all parts."""
    return {question: solution for rows in parts.values() for question, solution in rows.items()}


def fresh(draw: Draw, rng: np.random.Generator, count: int, known: Container[str]) -> list[tuple[str, str]]:
    """Questions to train models on: none that is known from elsewhere."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        row = draw(rng)
        if row[0] not in known:
            found.append(row)
    return found
