"""What can be had without knowing anything: the accuracy of guessing and of always giving one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from docendo.evals.items._given import given_items
from docendo.evals.items._numbers import number
from docendo.evals.items._tasks import reference
from docendo.records import Item


def baselines(items: Sequence[Item]) -> tuple[float | None, float | None]:
    """The accuracy of always giving the most frequent gold answer, and of guessing among the choices.

    Each is None where it is not known: without reference answers, without choices, without items. Answers
    are counted as the scorer compares them, so 1.0 is 1.

    Raises:
        DataError: if something is no item.

    Example:
        >>> from docendo.evals import make_item
        >>> baselines([make_item(f"Is {n} even?", "no" if n % 3 else "yes") for n in range(6)])
        (0.6666666666666666, None)
    """
    items = given_items(items)
    if not items:
        return None, None
    golds = [reference(item) for item in items]
    known = [_form(gold) for gold in golds if gold is not None]
    majority = Counter(known).most_common(1)[0][1] / len(items) if len(known) == len(items) else None
    choices = [len(item.public.choices) for item in items]
    chance = sum(1 / count for count in choices) / len(choices) if all(choices) else None
    return majority, chance


def strata_baselines(items: Sequence[Item]) -> dict[str, tuple[float | None, float | None]]:
    """The baselines of each stratum by its name, in order of first appearance; see `baselines`.

    The stratum is that of the item's metadata (`mix`, or a column of a file), else its task.

    Example:
        >>> from docendo.evals import make_item
        >>> strata_baselines([make_item("1 + 1?", 2, task="sums"), make_item("Day?", "dawn", task="words")])
        {'sums': (1.0, None), 'words': (1.0, None)}
    """
    parts: dict[str, list[Item]] = {}
    for item in given_items(items):
        name = str(item.public.metadata.get("stratum") or item.public.task)
        parts.setdefault(name, []).append(item)
    return {name: baselines(part) for name, part in parts.items()}


def _form(gold: str) -> object:
    value = number(gold)
    return " ".join(gold.split()) if value is None else value
