"""Records as JSON lines or parquet, however many: files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docendo.errors import ConfigError, StorageError
from docendo.files import sync_directory
from docendo.records import Record

FORMATS = ("jsonl", "parquet")
_AT_ONCE = 1000


def choose_format(given: str | None, output: Path | None) -> str:
    """Returns the format that was asked for, or that the file's name says.

    Raises:
        ConfigError: if it is none, or parquet without a file.
    """
    name = given or ("parquet" if output is not None and output.suffix == ".parquet" else "jsonl")
    if name not in FORMATS:
        raise ConfigError(f"--format is {name!r}", expected=f"one of {', '.join(FORMATS)}")
    if name == "parquet" and output is None:
        raise ConfigError("--format is parquet, which needs a file", remedy="add --output FILE")
    return name


def line(value: Any) -> str:
    """Returns a value as one line of JSON."""
    # Escaped as ASCII where text holds lone surrogates, which no stream can encode.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Writes one record per line and returns how many.

    Raises:
        StorageError: if the file cannot be written; an old one is untouched.
    """
    count = 0
    with _whole(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for record in records:
            handle.write(f"{line(record.to_json())}\n")
            count += 1
    return count


def write_parquet(path: Path, records: Iterable[Record], kind: type[Record]) -> int:
    """Writes a table with a column for each field and returns how many rows.

    Texts, numbers and lists of them keep their types; what is nested is JSON text.

    Raises:
        StorageError: if the file cannot be written; an old one is untouched.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: _arrow(hint) for name, hint in get_type_hints(kind).items()}
    schema = pa.schema([(name, _JSON if arrow is None else arrow) for name, arrow in columns.items()])
    nested = {name for name, arrow in columns.items() if arrow is None}
    count, records = 0, iter(records)
    with _whole(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while some := list(islice(records, _AT_ONCE)):
            rows = [_row(record.to_json(), nested) for record in some]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


_JSON = "string"


def _arrow(hint: Any) -> str | Any | None:
    """The column type of a field, or None for JSON text."""
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint in plain:
        return plain[hint]
    if get_origin(hint) is Literal and all(isinstance(value, str) for value in get_args(hint)):
        return pa.string()
    arguments: Sequence[Any] = get_args(hint)
    if get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is ... and arguments[0] in plain:
        return pa.list_(plain[arguments[0]])
    return None


def _row(value: dict[str, Any], nested: set[str]) -> dict[str, Any]:
    return {name: line(entry) if name in nested else _encodable(entry) for name, entry in value.items()}


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yields a file that takes the place of `path` when the block ends without an error."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        temporary = None
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
