"""A table of simulations: its rows, and how their figures are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np

LEVEL = 0.95
ALPHA = 1 - LEVEL
#: Numbers drawn at once.
CELLS = 5_000_000

#: The figures of a row, of a generator and a number of simulated samples.
Row: TypeAlias = "Callable[[np.random.Generator, int], dict[str, float]]"

#: What a row's first figure is: the share of samples whose interval holds the truth; the share in which a
#: test errs; the power that a plan promises; either of the first two, of a variant that is broken on purpose
#: and has to be noticed; or nothing that can be right or wrong.
Kind = Literal["coverage", "error", "power", "broken coverage", "broken error", "shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table.

    Attributes:
        kind: How the first figure of a row is judged.
        rows: What is measured, by label.
        runs: Simulated samples of each row; 0 where all outcomes are listed.
    """

    kind: Kind
    rows: Mapping[str, Row]
    runs: int = 0


def judged(kind: Kind, figures: Mapping[str, float], runs: int) -> str:
    """What a row's first figure shows. Its level an error may pass by two standard errors of simulation."""
    value = next(iter(figures.values()))
    most = 0.05 + (2 * (0.05 * 0.95 / runs) ** 0.5 if runs else 1e-9)
    if kind == "coverage":
        return "held" if 0.94 <= value <= 0.96 else "wide" if value > 0.96 else "**narrow**"
    if kind == "error":
        return "held" if value <= most else "**above**"
    if kind == "power":
        return "as planned" if value >= 0.78 else "**short**"
    if kind == "shown":
        return ""
    seen = not 0.94 <= value <= 0.96 if kind == "broken coverage" else value > most
    return "noticed" if seen else "**not noticed**"


def rows_of(
    measure: Callable[..., dict[str, float]], label: str, settings: Iterable[Mapping[str, Any]]
) -> dict[str, Row]:
    """One row for each setting, under a label that shows it."""
    return {label.format(**setting): partial(measure, **setting) for setting in settings}


def each(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def listed(names: str, *values: Iterable[Any]) -> list[dict[str, Any]]:
    return [dict(zip(names.split(), chosen, strict=True)) for chosen in values]


def only(name: str, row: Row) -> Row:
    """One figure of a row, as the one that is judged."""
    return lambda rng, runs: {name: row(rng, runs)[name]}


def batches(runs: int, cells: int) -> list[int]:
    """Numbers of samples of so many cells each that fit in memory together, and add up to `runs`."""
    size = max(1, min(runs, CELLS // cells))
    return [size] * (runs // size) + ([runs % size] if runs % size else [])
