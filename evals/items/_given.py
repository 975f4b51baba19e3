"""Checks of what an item is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from docendo.checks import entries, is_count, is_number, short
from docendo.errors import DataError
from docendo.records import Item


def require_text(value: object, name: str) -> None:
    """Refuses what is no text, or cannot be encoded.

    Raises:
        DataError: naming it.
    """
    if not isinstance(value, str):
        raise DataError(f"{name} is {short(value)}", expected="text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} has half a character at {error.start}, {value[error.start]!r}", expected="Unicode text"
        ) from None


def given_items(items: Iterable[Item], name: str = "items") -> tuple[Item, ...]:
    """Items as a tuple.

    Raises:
        DataError: if they are no items.
    """
    return tuple(entries(name, items, Item, "items, as from tasks or make_item"))


def written(answer: object) -> str | None:
    """The answer as text, None if there is none.

    Raises:
        DataError: if it is empty, or neither text nor a finite number.

    Example:
        >>> written(" 4 "), written(4), written(None)
        ('4', '4', None)
    """
    if answer is None:
        return None
    if not (isinstance(answer, str) or is_count(answer) or is_number(answer)):
        raise DataError(f"answer is {short(answer)}", expected="text or a finite number")
    try:
        text = str(answer).strip()
    except ValueError as error:
        raise DataError("answer is a number of too many digits", expected="it as text") from error
    require_text(text, "answer")
    if not text:
        raise DataError("answer is empty", expected="text or a number")
    return text


def checked_choices(choices: object, question: str) -> Sequence[str]:
    """The choices of a question.

    Raises:
        DataError: if one is no text, or there twice.

    Example:
        >>> checked_choices(["grass", "blood"], "Which is red?")
        ['grass', 'blood']
    """
    if not isinstance(choices, (list, tuple)):
        raise DataError(f"choices is {short(choices)}", expected="a sequence of texts")
    for choice in choices:
        require_text(choice, "a choice")
    seen = [" ".join(choice.split()) for choice in choices]
    twice = [choice for choice in seen if seen.count(choice) > 1]
    if twice:
        raise DataError(
            f"the choices of {short(question)} are {', '.join(map(short, choices))}",
            expected=f"each once, and not {short(twice[0])} twice",
        )
    return choices
