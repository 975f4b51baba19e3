"""Arms from folders: a result is an arm with one seed, a folder of `seed-N` results one with several."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docendo.errors import DataError
from docendo.evals.comparison._runs import (
    Spending,
    is_interrupted,
    spent_on,
    stored_rules,
    stored_spending,
)
from docendo.evals.harness._results import EvalResult

_SEED = re.compile(r"seed-(-?[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """Finished evaluations of several methods.

    Attributes:
        results: For each arm one evaluation per seed.
        spent: For each arm and seed what was spent.
        seeds: The seeds; empty if each arm has one evaluation.
        rules: How the `Comparison` that made them was judged, as JSON; empty if none made them.
    """

    results: Mapping[str, Sequence[EvalResult]]
    spent: Mapping[str, Sequence[Spending]]
    seeds: tuple[int, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)


def load_arms(paths: Sequence[str | Path], *, load: Callable[[Path], EvalResult] = EvalResult.load) -> Arms:
    """Reads the arms of a comparison.

    Args:
        paths: Results, folders of `seed-N` results, or one folder of a `Comparison`.
        load: How a result is read.

    Raises:
        DataError: if the arms have not the same seeds, or there are fewer than two.
    """
    folders = [Path(path) for path in paths]
    rules: dict[str, Any] = {}
    if len(folders) == 1 and not _seeds(folders[0]):
        rules = stored_rules(folders[0]) or {}
        order = [folders[0] / name for name in rules.get("arms", ())]
        folders = order or sorted(child for child in folders[0].glob("*") if _seeds(child)) or folders
    if len(folders) < 2:
        raise DataError(f"{folders[0]} holds one result", expected="two or more to compare")
    names = _names(folders)
    runs = {name: _seeds(folder) or {0: folder} for name, folder in zip(names, folders, strict=True)}
    first = next(iter(runs))
    for name, found in runs.items():
        if found.keys() != runs[first].keys():
            raise DataError(
                f"{first!r} has the seeds {sorted(runs[first])} and {name!r} has {sorted(found)}",
                expected="the same seeds for every arm",
            )
    seeds = tuple(sorted(runs[first]))
    results = {name: [load(found[seed]) for seed in seeds] for name, found in runs.items()}
    spent = {
        name: [
            stored_spending(found[seed]) or spent_on(result)
            for seed, result in zip(seeds, results[name], strict=True)
        ]
        for name, found in runs.items()
    }
    several = any(_seeds(folder) for folder in folders)
    return Arms(results=results, spent=spent, seeds=seeds if several else (), rules=rules)


def _seeds(folder: Path) -> dict[int, Path]:
    found = ((_SEED.fullmatch(child.name), child) for child in folder.glob("seed-*"))
    return {
        int(match[1]): child
        for match, child in found
        if match and child.is_dir() and not is_interrupted(child)
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    paths = [folder.resolve() for folder in folders]
    twice = [folder for n, folder in enumerate(folders) if paths[n] in paths[:n]]
    if twice:
        raise DataError(f"{twice[0]} was given twice", expected="each result once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
