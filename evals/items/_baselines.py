"""What can be had without knowing anything: the accuracy of guessing and of always giving one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from docendo.evals.items._tasks import reference
from docendo.records import Item


def baselines(items: Sequence[Item]) -> tuple[float | None, float | None]:
    """The accuracy of always giving the most frequent gold answer, and of guessing among the choices.

    Each is None where it is not known: without reference answers, without choices, without items.

    Example:
        >>> from docendo.evals import make_item
        >>> baselines([make_item(f"Is {n} even?", "no" if n % 3 else "yes") for n in range(6)])
        (0.6666666666666666, None)
    """
    if not items:
        return None, None
    golds = [reference(item) for item in items]
    known = [gold for gold in golds if gold is not None]
    majority = Counter(known).most_common(1)[0][1] / len(items) if len(known) == len(items) else None
    choices = [len(item.public.choices) for item in items]
    chance = sum(1 / count for count in choices) / len(choices) if all(choices) else None
    return majority, chance
