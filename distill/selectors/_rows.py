"""Reading rows: their texts and rewards, and a digest that does not depend on their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

from docendo.checks import is_number
from docendo.errors import DataError
from docendo.hashing import digest
from docendo.records import Message

Row: TypeAlias = Mapping[str, Any]
#: The column that says which group a row belongs to, or a function that does.
Group: TypeAlias = "str | Callable[[Row], Any]"
Prompt: TypeAlias = "str | tuple[Message, ...]"


class Turn(NamedTuple):
    """What a student is to write, and what stands before it."""

    prompt: Prompt
    text: str


def as_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows as a list.

    Raises:
        DataError: if there is none, or one is no mapping.
    """
    found = list(rows)
    if not found:
        raise DataError("there are no rows", expected="at least one")
    for index, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise DataError(f"row {index} is a {type(row).__name__}", expected="a mapping of columns")
    return found


def row_digest(row: Row, index: int) -> str:
    """The digest of a row's columns; `index` is what an error calls it.

    Raises:
        DataError: if a column is no JSON value.
    """
    try:
        return digest({key: value for key, value in row.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise DataError(
            f"row {index} has no JSON form ({error})", expected="numbers, texts and lists"
        ) from None


def prompt(row: Row, index: int) -> Prompt:
    """A row's prompt: text, or chat messages without keys that a table filled up with None.

    Raises:
        DataError: if there is none.
    """
    given = row.get("prompt")
    if isinstance(given, str):
        return given
    return _messages(given, "prompt", index)


def turns(row: Row, index: int) -> list[Turn]:
    """What is learnt of a row, turn by turn; empty texts are left out.

    Of a conversation these are the assistant's messages but for those with `"learn": false`, each after
    all that stands before it.

    Raises:
        DataError: if the row has no prompt or no completion.
    """
    before, completion = prompt(row, index), row.get("completion")
    if isinstance(completion, str):
        return [Turn(before, completion)] if completion.strip() else []
    said = _messages(completion, "completion", index)
    if isinstance(before, str):
        if len(said) != 1:
            raise DataError(f"row {index} has a conversation after a text", expected="a prompt of messages")
        return [Turn(before, said[0]["content"])] if said[0]["content"].strip() else []
    found = []
    for message in said:
        shown = cast(Message, {key: value for key, value in message.items() if key != "learn"})
        learnt = message["role"] == "assistant" and message.get("learn") is not False
        if learnt and shown["content"].strip():
            found.append(Turn(before, shown["content"]))
        before = (*before, shown)
    return found


def text(row: Row, index: int) -> str:
    """All that is learnt of a row, as one text.

    Raises:
        DataError: if the row has no prompt or no completion.
    """
    return "\n".join(turn.text for turn in turns(row, index))


def question(row: Row, index: int) -> str:
    """The text of a row's prompt: its last message, if it has messages.

    Raises:
        DataError: if there is none.
    """
    given = prompt(row, index)
    return given if isinstance(given, str) else given[-1]["content"]


def reward(row: Row, name: str, index: int) -> float | None:
    """A row's reward: of its `rewards`, else its column of that name; None if it has neither.

    Raises:
        DataError: if it is no finite number.
    """
    rewards = row.get("rewards")
    found = rewards.get(name) if isinstance(rewards, Mapping) else None
    found = row.get(name) if found is None else found
    if found is None:
        return None
    value = float(found) if isinstance(found, bool) else found
    if not is_number(value):
        raise DataError(f"row {index} has the reward {name} {found!r}", expected="a finite number")
    return float(value)


def group_names(rows: Iterable[Row], group: Group) -> list[str]:
    """Which group each row belongs to.

    Raises:
        DataError: if a row names none.
    """
    names = []
    for index, row in enumerate(rows):
        found = group(row) if callable(group) else row.get(group)
        if found is None:
            what = "group function" if callable(group) else f"column {group!r}"
            raise DataError(f"row {index} has no group: its {what} gives none", expected="a name")
        names.append(str(found))
    return names


def _messages(given: Any, column: str, index: int) -> tuple[Message, ...]:
    if not isinstance(given, (list, tuple)) or not given:
        raise DataError(f"row {index} has the {column} {given!r}"[:200], expected="text or chat messages")
    found = []
    for message in given:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise DataError(
                f"row {index} has the message {message!r} in its {column}"[:200],
                expected='"role" and "content", both texts',
            )
        found.append(cast(Message, {key: value for key, value in message.items() if value is not None}))
    return tuple(found)
