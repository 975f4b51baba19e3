"""Rows as questions: which column is what."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from docendo.errors import ConfigError, DataError
from docendo.evals.items._files import Row
from docendo.evals.items._given import require_text
from docendo.evals.items._raw import Raw, Source
from docendo.evals.items._scorer import LETTERS, make_item
from docendo.hashing import digest

#: A column by its name (`choices.text` looks into a nested one); of the question also a template such as
#: `"{context}\n\n{question}"`; of the choices and their labels also a list of columns with one each.
Columns = Mapping[str, str | Sequence[str]]
_COLUMNS = {"question": "question", "answer": "answer", "choices": "choices"}
_FACTS = ("id", "stratum")
_OPTIONAL = ("answer_index", "labels", *_FACTS)
_LISTS = ("choices", "labels")


def resolved(columns: Columns | None) -> dict[str, Any]:
    """All columns by their meaning.

    Raises:
        ConfigError: if a meaning is unknown, a name is no text, or the answer is given in two ways.
    """
    given: object = columns
    if not (given is None or isinstance(given, Mapping)):
        raise ConfigError(f"columns is {given!r}", expected='names of columns such as {"question": "input"}')
    known = (*_COLUMNS, *_OPTIONAL)
    if columns and {"answer", "answer_index"} <= set(columns):
        raise ConfigError("columns names both answer and answer_index", expected="one of them")
    for key, column in (columns or {}).items():
        if key not in known:
            raise ConfigError(f"columns has the key {key!r}", expected=" and ".join(known))
        listed = key in _LISTS and isinstance(column, (list, tuple))
        if not column or not all(isinstance(name, str) and name for name in (column if listed else [column])):
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
        found = list(rows())
        places = any(_is_place(row, columns, where) for where, row in found)
        raws = [_raw(name, row, columns, where, places=places) for where, row in found]
        yield from sorted(raws, key=lambda raw: digest("order", seed, raw.item.id))

    return Source(name=name, config={**config, "columns": dict(columns)}, stream=stream)


def _raw(name: str, row: Mapping[str, Any], columns: Mapping[str, Any], where: str, *, places: bool) -> Raw:
    question = _question(row, columns["question"], where)
    choices = _texts(row, columns["choices"], "choices", where)
    answer = _answer(row, columns, choices, where, places=places)
    facts = {
        ("source_id" if key == "id" else key): str(_cell(row, columns[key], key, where))
        for key in _FACTS
        if key in columns
    }
    try:
        item = make_item(question, answer, task=name, choices=choices)
        for key, fact in facts.items():
            require_text(fact, key.removeprefix("source_"))
    except DataError as error:
        raise DataError(f"{where}: {error.seen}", expected=error.expected) from error
    public = replace(item.public, metadata={**item.public.metadata, **facts})
    return Raw(item=replace(item, public=public), where=where)


def _question(row: Mapping[str, Any], column: str, where: str) -> str:
    if "{" in column:
        try:
            parts = list(string.Formatter().parse(column))
        except ValueError as error:
            raise ConfigError(
                f"the question's template is {column!r} ({error})",
                expected="columns in braces, and {{ }} for braces that are meant",
            ) from None
        if any(field == "" or form or conversion for _, field, form, conversion in parts):
            raise ConfigError(
                f"the question's template is {column!r}",
                expected="names of columns in braces, without a format of their own",
            )
        fields = [field for _, field, _, _ in parts if field]
        values = {field: _cell(row, field, "question", where) for field in fields}
        text = "".join(literal + (str(values[field]) if field else "") for literal, field, _, _ in parts)
    else:
        text = _cell(row, column, "question", where)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: field {column!r} is {text!r}", expected="text that is not empty")
    return text


def _answer(
    row: Mapping[str, Any],
    columns: Mapping[str, Any],
    choices: tuple[str, ...],
    where: str,
    *,
    places: bool,
) -> str | float:
    """The answer, or of choices the letter of the right one."""
    meaning = "answer_index" if "answer_index" in columns else "answer"
    column = columns[meaning]
    answer = _cell(row, column, meaning, where)
    named = f"{where}: field {column!r} is {answer!r}"
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise DataError(named, expected="text or a number")
    if not choices:
        if meaning == "answer_index":
            raise DataError(f"{named}, and there are no choices", remedy="name them with choices")
        return answer
    if "labels" in columns and meaning == "answer":
        return _labelled(answer, _texts(row, columns["labels"], "labels", where), choices, named)
    text, place = str(answer).strip(), _place(answer)
    is_choice = meaning == "answer" and text in choices
    if place is None or (is_choice and (_at(choices, place) in (text, None) or _is_text(answer, places))):
        return answer
    if _at(choices, place) is None:
        raise DataError(
            named,
            expected=f"0 to {len(choices) - 1}, a letter, or a choice",
            remedy='if it is a label, name the column of the labels with columns={"labels": ...}',
        )
    if is_choice:
        raise DataError(
            f"{named}, which is a choice and the place of another",
            remedy=f'say that it is a place with columns={{"answer_index": {column!r}}}',
        )
    return LETTERS[place]


def _is_text(answer: str | float, places: bool) -> bool:
    """Whether a number that is a choice is meant as its text: it is text, and the column has no places."""
    return isinstance(answer, str) and not places


def _is_place(row: Mapping[str, Any], columns: Mapping[str, Any], where: str) -> bool:
    """Whether the answer of a row can only be a place: a whole number and none of the choices."""
    choices = _texts(row, columns["choices"], "choices", where)
    answer = _look(row, columns["answer"])
    number = isinstance(answer, (str, int)) and _place(answer) is not None
    return bool(choices) and number and str(answer).strip() not in choices


def _labelled(answer: str | float, labels: tuple[str, ...], choices: tuple[str, ...], named: str) -> str:
    if len(labels) != len(choices) or labels.count(str(answer).strip()) != 1:
        raise DataError(
            f"{named}, with {len(choices)} choices labelled {', '.join(labels) or 'nothing'}",
            expected="a label for each choice, and one of them",
        )
    return LETTERS[labels.index(str(answer).strip())]


def _place(answer: str | float) -> int | None:
    """The place that an answer may be: a whole number, also as the text of a cell."""
    text = str(answer).strip()
    return int(text) if text.removeprefix("-").isdecimal() else None


def _at(choices: tuple[str, ...], place: int) -> str | None:
    return choices[place].strip() if 0 <= place < len(choices) else None


def _texts(row: Mapping[str, Any], column: str | Sequence[str], meaning: str, where: str) -> tuple[str, ...]:
    if not isinstance(column, str):
        found: Any = [_cell(row, name, meaning, where) for name in column]
    else:
        found = _look(row, column) if meaning == "choices" else _cell(row, column, meaning, where)
    if found is None or found is _MISSING or found == "":
        return ()
    if not isinstance(found, (list, tuple)) or not all(isinstance(choice, str) for choice in found):
        raise DataError(f"{where}: field {column!r} is {found!r}", expected="a list of texts")
    return tuple(choice.strip() for choice in found) if meaning == "labels" else tuple(found)


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
