"""Several data sets as one, in fixed shares and a fixed order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from docendo.checks import is_count, is_number
from docendo.distill.datasets._guard import Guard
from docendo.distill.datasets._lineage import data_digest, origins, record_dataset
from docendo.distill.datasets._manifest import DatasetManifest, attach
from docendo.errors import ConfigError, DataError
from docendo.hashing import derive_seed
from docendo.records import Item

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database

StoppingStrategy = Literal["first_exhausted", "all_exhausted"]
_ROUNDING = 1e-9


def mix_datasets(
    datasets: Mapping[str, Dataset | Sequence[Mapping[str, Any]]],
    *,
    exclude: Iterable[Item],
    weights: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    stopping_strategy: StoppingStrategy = "first_exhausted",
    seed: int | None = None,
    database: Database | None = None,
) -> Dataset:
    """Mixes data sets, each in its share, spread evenly over the result.

    The share of a part is proportional to its weight to the power of 1 / temperature, as in mT5 (arXiv
    2010.11934). By default weights are numbers of rows: a temperature of 1 takes every row once, a higher one
    draws the shares together. Nothing is random but the order within parts, and that only with a seed.

    Args:
        datasets: The parts by name.
        exclude: The test items of all parts: what is a training item of one may be a test item of another.
        weights: The weight of each part, more than 0.
        temperature: More than 0.
        stopping_strategy: As in `datasets.interleave_datasets`: "first_exhausted" takes as many rows as there
            are without taking one twice, "all_exhausted" takes every row and those of small parts again.
        seed: Shuffles the rows within each part; None leaves them in order.
        database: Where to record what the rows were made of, as for `sft_dataset`.

    Returns:
        A `datasets.Dataset` with all columns of the parts (None, or a weight of 1, where a part lacks one)
        and `source`, the name of the part.

    Raises:
        ConfigError: if a setting is out of range, or weights and parts have other names.
        LeakError: if a row holds the question of an excluded item.
        DataError: if a part is empty, or the parts do not fit into one table.

    Example:
        >>> from docendo.distill import mix_datasets
        >>> sums, words = [{"prompt": str(n)} for n in range(4)], [{"prompt": "a"}, {"prompt": "b"}]
        >>> mix_datasets({"sums": sums, "words": words}, exclude=[])["source"][:]
        ['sums', 'words', 'sums', 'sums', 'words', 'sums']
    """
    parts = {name: _rows(name, part) for name, part in datasets.items()}
    if not parts:
        raise DataError("there is nothing to mix", expected="at least one data set")
    if stopping_strategy not in get_args(StoppingStrategy):
        raise ConfigError(
            f"stopping_strategy is {stopping_strategy!r}",
            expected=f"one of {', '.join(get_args(StoppingStrategy))}",
        )
    if seed is not None and not is_count(seed):
        raise ConfigError(f"seed is {seed!r}", expected="a whole number or None")
    shares = _shares({name: len(rows) for name, rows in parts.items()}, weights, temperature)
    quotas = _quotas({name: len(rows) for name, rows in parts.items()}, shares, stopping_strategy)
    places = sorted(
        ((turn + 0.5) / quotas[name], number, name, turn)
        for number, name in enumerate(parts)
        for turn in range(quotas[name])
    )
    if seed is not None:
        for name, rows in parts.items():
            random.Random(derive_seed("mix", seed, name)).shuffle(rows)
    columns = dict.fromkeys(column for rows in parts.values() for row in rows for column in row)
    empty = {column: 1.0 if column == "weight" else None for column in columns}
    guard = Guard((), exclude)
    mixed: list[dict[str, Any]] = []
    for _, _, name, turn in places:
        row = parts[name][turn % len(parts[name])]
        guard.check_row(row, f"a row of {name!r}")
        source = f"{name}/{row['source']}" if row.get("source") else name
        mixed.append({**empty, **row, "source": source})
    seen, kept = sum(map(len, parts.values())), sum(min(quotas[name], len(parts[name])) for name in parts)
    made_of = origins(mixed)
    manifest = DatasetManifest(
        builder="mix",
        settings={
            "shares": shares,
            "temperature": temperature,
            "stopping_strategy": stopping_strategy,
            "seed": seed,
            "parts": {name: data_digest(rows) for name, rows in parts.items()},
        },
        seen=seen,
        kept=kept,
        left_out={"over its share": seen - kept} if seen > kept else {},
        rows=len(mixed),
        digest=data_digest(mixed),
        traces=tuple(made_of["traces"]),
        posts=tuple(made_of["posts"]),
    )
    made = attach(mixed, manifest)
    if database is not None:
        record_dataset(database, mixed)
    return made


def _rows(name: str, part: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = [dict(row) for row in part]
    if not rows:
        raise DataError(f"the data set {name!r} is empty", expected="at least one row")
    return rows


def _shares(
    sizes: Mapping[str, int], weights: Mapping[str, float] | None, temperature: float
) -> dict[str, float]:
    if not is_number(temperature) or temperature <= 0:
        raise ConfigError(f"temperature is {temperature!r}", expected="more than 0")
    given: Mapping[str, float] = sizes if weights is None else weights
    if set(given) != set(sizes):
        raise ConfigError(
            f"weights are given for {', '.join(sorted(given))}", expected=f"for {', '.join(sorted(sizes))}"
        )
    for name, weight in given.items():
        if not is_number(weight) or weight <= 0:
            raise ConfigError(f"the weight of {name!r} is {weight!r}", expected="more than 0")
    # In logarithms, so that a low temperature does not overflow.
    logs = {name: math.log(given[name]) / temperature for name in sizes}
    most = max(logs.values())
    powers = {name: math.exp(log - most) for name, log in logs.items()}
    return {name: power / math.fsum(powers.values()) for name, power in powers.items()}


def _quotas(
    sizes: Mapping[str, int], shares: Mapping[str, float], stopping_strategy: StoppingStrategy
) -> dict[str, int]:
    """How many rows each part gives: whole numbers as close to its share as they can be, at least one."""
    lengths = [sizes[name] / share if share else math.inf for name, share in shares.items()]
    if not all(map(math.isfinite, lengths)):
        raise ConfigError("a part has a share of 0", expected="weights closer to each other")
    if stopping_strategy == "all_exhausted":
        whole = max(lengths)
        return {name: max(sizes[name], round(whole * share)) for name, share in shares.items()}
    total = math.floor(min(lengths) + _ROUNDING)
    exact = {name: total * share for name, share in shares.items()}
    quotas = {name: math.floor(value + _ROUNDING) for name, value in exact.items()}
    left = total - sum(quotas.values())
    for name in sorted(exact, key=lambda name: (quotas[name] - exact[name], name))[: max(0, left)]:
        quotas[name] += 1
    return {name: min(sizes[name], max(1, quota)) for name, quota in quotas.items()}
