"""Rows as questions: which column is what."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from docendo.errors import ConfigError, DataError
from docendo.evals.items._files import Row
from docendo.evals.items._raw import Raw, Source
from docendo.evals.items._scorer import LETTERS, make_item
from docendo.hashing import digest

#: A column by its name (`choices.text` looks into a nested one); of the question also a template such as
#: `"{context}\n\n{question}"`; of the choices also a list of columns with one choice each.
Columns = Mapping[str, str | Sequence[str]]
_COLUMNS = {"question": "question", "answer": "answer", "choices": "choices"}
_OPTIONAL = ("id", "stratum")


def resolved(columns: Columns | None) -> dict[str, Any]:
    """All columns by their meaning.

    Raises:
        ConfigError: if a meaning is unknown, or a name is no text.
    """
    given: object = columns
    if not (given is None or isinstance(given, Mapping)):
        raise ConfigError(f"columns is {given!r}", expected='names of columns such as {"question": "input"}')
    known = (*_COLUMNS, *_OPTIONAL)
    for key, column in (columns or {}).items():
        if key not in known:
            raise ConfigError(f"columns has the key {key!r}", expected=" and ".join(known))
        listed = key == "choices" and isinstance(column, (list, tuple))
        if not all(isinstance(name, str) and name for name in (column if listed else [column])):
            raise ConfigError(f"columns[{key!r}] is {column!r}", expected="the name of a column")
    return {**_COLUMNS, **(columns or {})}


def table_source(
    name: str,
    rows: Callable[[], Iterator[Row]],
    columns: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Source:
    """Rows as a source, ordered by a digest of seed and text.

    So neither the order of the rows nor a new row elsewhere moves a question.
    """

    def stream(seed: int) -> Iterator[Raw | None]:
        raws = [_raw(name, row, columns, where) for where, row in rows()]
        yield from sorted(raws, key=lambda raw: digest("order", seed, raw.item.id))

    return Source(name=name, config={**config, "columns": dict(columns)}, stream=stream)


def _raw(name: str, row: Mapping[str, Any], columns: Mapping[str, Any], where: str) -> Raw:
    question = _question(row, columns["question"], where)
    choices = _choices(row, columns["choices"], where)
    answer = _answer(_cell(row, columns["answer"], "answer", where), columns["answer"], choices, where)
    try:
        item = make_item(question, answer, task=name, choices=choices)
    except DataError as error:
        raise DataError(f"{where}: {error.seen}", expected=error.expected) from error
    facts = {
        ("source_id" if key == "id" else key): str(_cell(row, columns[key], key, where))
        for key in _OPTIONAL
        if key in columns
    }
    public = replace(item.public, metadata={**item.public.metadata, **facts})
    return Raw(item=replace(item, public=public), where=where)


def _question(row: Mapping[str, Any], column: str, where: str) -> str:
    if "{" in column:
        fields = [field for _, field, _, _ in string.Formatter().parse(column) if field]
        values = {field: _cell(row, field, "question", where) for field in fields}
        text = "".join(
            literal + (str(values[field]) if field else "")
            for literal, field, _, _ in string.Formatter().parse(column)
        )
    else:
        text = _cell(row, column, "question", where)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: field {column!r} is {text!r}", expected="text that is not empty")
    return text


def _answer(answer: Any, column: str, choices: tuple[str, ...], where: str) -> str | float:
    """The answer; of choices a whole number is the place of the right one, from 0, as data sets have it."""
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise DataError(f"{where}: field {column!r} is {answer!r}", expected="text or a number")
    place = answer if isinstance(answer, int) else int(answer) if _is_place(answer, choices) else None
    if choices and place is not None and str(answer) not in choices:
        if not 0 <= place < len(choices):
            raise DataError(
                f"{where}: field {column!r} is {answer!r}",
                expected=f"0 to {len(choices) - 1}, a letter, or a choice",
            )
        return LETTERS[place]
    return answer


def _is_place(answer: str | float, choices: tuple[str, ...]) -> bool:
    return bool(choices) and isinstance(answer, str) and answer.strip().isdecimal()


def _choices(row: Mapping[str, Any], column: str | Sequence[str], where: str) -> tuple[str, ...]:
    if not isinstance(column, str):
        found: Any = [_cell(row, name, "choices", where) for name in column]
    else:
        found = _look(row, column)
    if found is None or found is _MISSING or found == "":
        return ()
    if not isinstance(found, (list, tuple)) or not all(isinstance(choice, str) for choice in found):
        raise DataError(f"{where}: field {column!r} is {found!r}", expected="a list of texts")
    return tuple(found)


_MISSING = object()


def _cell(row: Mapping[str, Any], column: str, meaning: str, where: str) -> Any:
    value = _look(row, column)
    if value is _MISSING:
        near = ", ".join(sorted(map(str, row))[:8]) or "no fields"
        raise DataError(
            f"{where}: field {column!r} is missing (there is {near})",
            remedy=f"name it with columns={{{meaning!r}: ...}}",
        )
    return value


def _look(row: Mapping[str, Any], column: str) -> Any:
    """A cell; of `a.b` that of the column so named, else the part b of the column a."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value
