"""Several tasks as one: each stays a stratum of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from docendo.checks import short
from docendo.errors import ConfigError, DataError, LeakError
from docendo.evals.items._given import given_items, require_text
from docendo.evals.items._scorer import ExactScorer, normalise
from docendo.evals.items._tasks import Task, fingerprint
from docendo.hashing import digest
from docendo.records import Item
from docendo.scoring import Score, Scorer


def mix(parts: Mapping[str, Task], *, name: str = "mix") -> Task:
    """Makes one task of several, such as levels of one generator or unlike skills.

    Each item has the name of its part as its stratum (`EvalResult.strata`), before a stratum that it has
    already (`easy/2`), and is scored by its part's scorer. Items of all parts are in one order that depends
    on their ids alone. A question that is in several parts stays in the first; one that is a test item of any
    part is no training or development item of another.

    Args:
        parts: The tasks by the names of their strata.
        name: Name of the new task.

    Raises:
        DataError: if there is no part, or one is no task.

    Example:
        >>> from docendo.evals import tasks
        >>> easy = tasks("reasoning_gym:chain_sum", train=4, test=4, level=0)
        >>> hard = tasks("reasoning_gym:chain_sum", train=4, test=4, level=4)
        >>> both = mix({"easy": easy, "hard": hard})
        >>> len(both.test), sorted({item.public.metadata["stratum"] for item in both.test})
        (8, ['easy', 'hard'])
    """
    given: object = parts
    if not isinstance(given, Mapping) or not all(isinstance(task, Task) for task in given.values()):
        raise DataError(f"parts is {short(given)}", expected="tasks by the names of their strata")
    if not parts:
        raise DataError("there is no task to mix", expected="at least one")
    for label in (*parts, name):
        require_text(label, "a name")
    taken: set[str] = set()
    test = _merged({label: task.test for label, task in parts.items()}, taken)
    dev = _merged({label: task.dev for label, task in parts.items()}, taken)
    train = _merged({label: task.train for label, task in parts.items()}, taken)
    scorer = _one(parts.values())
    return Task(
        name=name,
        train=train,
        dev=dev,
        test=test,
        scorer=scorer,
        config={"mix": {label: dict(task.config) for label, task in parts.items()}},
        fingerprint=fingerprint(name, train, dev, test, scorer),
    )


def require_disjoint(train: Sequence[Item], test: Sequence[Item]) -> None:
    """Checks that no question is in both, whatever tasks they come from and however they are spaced.

    Raises:
        LeakError: naming the first that is.
        DataError: if something is no item.

    Example:
        >>> from docendo.evals import tasks
        >>> task = tasks("reasoning_gym:chain_sum", train=4, test=4)
        >>> require_disjoint(task.train, task.test)
    """
    held_out = {normalise(item.public.question) for item in given_items(test, "test")}
    asked = [item.public.question for item in given_items(train, "train")]
    both = [question for question in asked if normalise(question) in held_out]
    if both:
        raise LeakError(
            f"{len(both)} questions are in both, such as {both[0][:60]!r}",
            expected="training and test items that share no question",
        )


def _merged(parts: Mapping[str, Sequence[Item]], taken: set[str]) -> tuple[Item, ...]:
    found = []
    for label, items in parts.items():
        for item in items:
            question = normalise(item.public.question)
            if question not in taken:
                taken.add(question)
                inner = item.public.metadata.get("stratum")
                stratum = label if inner is None else f"{label}/{inner}"
                metadata = {**item.public.metadata, "stratum": stratum}
                found.append(replace(item, public=replace(item.public, metadata=metadata)))
    return tuple(sorted(found, key=lambda item: digest("mix", item.id)))


def _one(parts: Collection[Task]) -> Scorer:
    scorers = {
        task.scorer.name if type(task.scorer) is ExactScorer else id(task.scorer): task.scorer
        for task in parts
    }
    return next(iter(scorers.values())) if len(scorers) == 1 else _ByPart(parts)


class _ByPart(Scorer):
    """Scores each item as its part does."""

    def __init__(self, parts: Collection[Task]) -> None:
        self.scorers: dict[str, Scorer] = {}
        for kind in ("test", "dev", "train"):  # a question stays where it is found first
            for task in parts:
                for item in getattr(task, kind):
                    self.scorers.setdefault(item.id, task.scorer)
        self.name = "+".join(sorted({task.scorer.name for task in parts}))

    def score(self, item: Item, text: str) -> Score:
        return self._of(item).score(item, text)

    def leaks(self, item: Item, text: str) -> bool:
        return self._of(item).leaks(item, text)

    def _of(self, item: Item) -> Scorer:
        if item.id not in self.scorers:
            raise ConfigError(f"item {item.id} is of no part of the mixture", expected="one of its items")
        return self.scorers[item.id]
