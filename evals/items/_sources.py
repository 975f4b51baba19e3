"""Where questions come from: reasoning_gym generators, files, `datasets`.

Each source is a stream of `Raw` questions in a fixed order that depends on the source, its configuration and
the seed alone. `_tasks` cuts the splits from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from docendo.checks import short
from docendo.errors import ConfigError, DataError
from docendo.evals.items._files import READERS, dataset_rows
from docendo.evals.items._gym import gym_source, plain
from docendo.evals.items._raw import Source
from docendo.evals.items._table import Columns, resolved, table_source

_EXPECTED = (
    '"reasoning_gym:NAME", "jsonl:PATH", "csv:PATH", "parquet:PATH", a path ending in .jsonl, .csv, .tsv or '
    '.parquet, or "datasets:PATH[:split]"'
)


def open_source(source: str, columns: Columns | None, config: Mapping[str, Any], **manner: Any) -> Source:
    """Opens the source that a text such as `reasoning_gym:chain_sum` names.

    Args:
        source: The source.
        columns: Which column is what, of a file.
        config: Settings of a generator, or of `datasets.load_dataset`.
        **manner: `level`, `levels` and `compact`, of a generator.
    """
    given_source: object = source
    if not isinstance(given_source, str):
        raise DataError(f"task source is {short(source)}", expected=_EXPECTED)
    kind, colon, rest = source.partition(":")
    if kind == "reasoning_gym" and colon:
        if columns:
            raise ConfigError("columns was given for a reasoning_gym task", remedy="leave columns out")
        return gym_source(rest, config, **manner)
    given = [name for name, value in manner.items() if value not in (None, False)]
    if given:
        raise ConfigError(
            f"{given[0]} was given for {source!r}, which is no reasoning_gym task", remedy="leave it out"
        )
    if kind == "datasets" and colon:
        return _datasets(rest, resolved(columns), config)
    ending = Path(source).suffix.removeprefix(".")
    path, reader = (rest, kind) if colon and kind in READERS else (source, ending)
    if reader in READERS:
        if config:
            raise ConfigError(
                f"unknown setting {sorted(config)[0]!r} for a task from a file", expected="columns alone"
            )
        return table_source(Path(path).stem, partial(READERS[reader], Path(path)), resolved(columns), {})
    raise DataError(f"task source {source!r} is unknown", expected=_EXPECTED)


def _datasets(spec: str, columns: Mapping[str, Any], config: Mapping[str, Any]) -> Source:
    allowed = ("name", "data_dir", "data_files", "revision")
    unknown = sorted(set(config) - set(allowed))
    if unknown:
        raise ConfigError(
            f"unknown setting {unknown[0]!r} for a datasets task", expected=f"one of {', '.join(allowed)}"
        )
    path, split = spec, "train"
    if not Path(spec).exists() and ":" in spec:
        path, _, split = spec.rpartition(":")
    rows = partial(dataset_rows, path, split, config)
    return table_source(Path(path).name, rows, columns, {"path": path, "split": split, **plain(config)})
