"""Rows of files: JSON lines, CSV, Parquet, and data sets of the library `datasets`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from docendo.errors import DataError, StorageError

#: A row and where it was read.
Row: TypeAlias = "tuple[str, Mapping[str, Any]]"


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yields the objects of a file of JSON lines."""
    for number, line in _lines(path, "a file of JSON lines"):
        if line.strip():
            yield f"{path}, line {number}", _object(line, f"{path}, line {number}")


def csv_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a table with a head line; the separator is a comma, of `.tsv` a tab."""
    separator = "\t" if path.suffix == ".tsv" else ","
    reader = csv.DictReader((line for _, line in _lines(path, "a table")), delimiter=separator, strict=True)
    try:
        _check_head(path, reader.fieldnames or ())
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(
                    f"{where}: another number of cells than the head line has",
                    expected=f"{len(reader.fieldnames or ())}",
                    remedy="quote cells that hold the separator",
                )
            yield where, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", expected="a well-formed table") from error


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a Parquet file."""
    import pyarrow.parquet

    _require(path, "a Parquet file")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {path}: {reason}", expected="a Parquet file") from error


def dataset_rows(path: str, split: str, config: Mapping[str, Any]) -> Iterator[Row]:
    """Yields the rows of a data set: a saved folder, a folder of data files, or a hub id."""
    for index, row in enumerate(_load(path, split, config)):
        yield f"{path}:{split}, row {index}", row


#: How files are read, by the kind that a source names and by the ending of a path.
READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "jsonl": jsonl_rows,
    "csv": csv_rows,
    "tsv": csv_rows,
    "parquet": parquet_rows,
}


def _check_head(path: Path, names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}, line 1: the column {twice[0]!r} is there twice", expected="unlike names")


def _require(path: Path, what: str) -> None:
    if not path.exists():
        raise DataError(f"task file {path} does not exist", expected=what)


def _lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    _require(path, what)
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            yield from enumerate(handle, 1)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}", remedy="save it as UTF-8") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON ({error.msg} at column {error.colno})",
            expected="one object",
            remedy="mend or remove the line",
        ) from error
    except ValueError as error:  # Python reads no number of more than 4300 digits
        raise DataError(f"{where}: a number of too many digits", expected="it as text") from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply", expected="one object") from error
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where}: {type(row).__name__}", expected='an object such as {"question": .., "answer": ..}'
        )
    return row


def _load(path: str, split: str, config: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    import datasets

    folder = Path(path)
    saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
    try:
        if not saved:
            return datasets.load_dataset(path, split=split, **config)
        loaded = datasets.load_from_disk(path)
    except Exception as error:  # the library raises many kinds, hub and network errors included
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"cannot load the data set {path!r}, split {split!r}: {reason or type(error).__name__}",
            expected="a folder written by save_to_disk, a folder of data files, or a hub id",
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(
                f"data set {path!r} has no split {split!r}", expected=f"one of {', '.join(loaded)}"
            )
        return loaded[split]
    return loaded
