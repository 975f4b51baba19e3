"""The arguments of an evaluation, checked before anything is opened or asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docendo.checks import given_path, is_count, short
from docendo.errors import ConfigError, DataError
from docendo.evals.items._tasks import Task
from docendo.records import Item, SamplingParams
from docendo.scoring import Scorer


def items_of(given: Task | Iterable[Item]) -> tuple[tuple[Item, ...], str]:
    """The items to ask, and the name of their task; of several tasks the names in order, joined by "+".

    Raises:
        DataError: if there is none, one is no item, or an id occurs twice or cannot be stored.
    """
    asked: object = given.test if isinstance(given, Task) else given
    if not isinstance(asked, Iterable):
        raise DataError(f"items is {short(given)}", expected="a task, or items")
    items = tuple(asked)
    if not items:
        raise DataError("there is no item to evaluate", expected="at least one")
    for item in items:
        if not isinstance(item, Item):
            raise DataError(
                f"an item is {short(item)}", expected="items, as from evals.tasks or evals.make_item"
            )
        if not item.id or not _is_text(item.id):
            raise DataError(f"the id of an item is {item.id!r}", expected="Unicode text")
    name, count = Counter(item.id for item in items).most_common(1)[0]
    if count > 1:
        raise DataError(f"item {name} occurs {count} times", expected="each item once")
    task = given.name if isinstance(given, Task) else "+".join(sorted({item.public.task for item in items}))
    return items, task


def scorer_of(given: Task | Iterable[Item], scorer: Scorer | None) -> Scorer:
    """The scorer that was given, or the task's.

    Raises:
        ConfigError: if there is neither, or it is no scorer.
    """
    chosen: object = given.scorer if scorer is None and isinstance(given, Task) else scorer
    if chosen is None:
        raise ConfigError("items were given without a scorer", remedy="pass scorer=task.scorer, or the task")
    if not isinstance(chosen, Scorer):
        raise ConfigError(f"scorer is {short(chosen)}", expected="a Scorer, such as evals.ExactScorer()")
    return chosen


def folder_of(folder: str | Path | None) -> Path | None:
    """The folder as a path.

    Raises:
        ConfigError: if it is none.
    """
    return None if folder is None else given_path("folder", folder)


def require_settings(*, name: Any, samples: Any, concurrency: Any, sampling: Any) -> None:
    """Checks the other settings.

    Raises:
        ConfigError: naming the one that cannot be used.
    """
    if not _is_text(name):
        raise ConfigError(f"name is {short(name)}", expected="Unicode text")
    for field, value in (("samples", samples), ("concurrency", concurrency)):
        if not is_count(value) or value < 1:
            raise ConfigError(f"{field} is {short(value)}", expected="1 or more")
    if sampling is not None and not isinstance(sampling, SamplingParams):
        raise ConfigError(f"sampling is {short(sampling)}", expected="SamplingParams(...)")


def _is_text(value: object) -> bool:
    """Whether it is text without lone surrogates and NUL, which no name in a file or database may hold."""
    if not isinstance(value, str) or "\x00" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
