"""Evaluation: every item is asked once, scored strictly, and a failure is never a wrong answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from docendo.errors import ConfigError, DataError, UserError
from docendo.evals.harness._results import EvalRecord, EvalResult
from docendo.evals.harness._subjects import Reply, asker_of, failure_of
from docendo.evals.items._tasks import reference
from docendo.progress import Progress, progress
from docendo.records import Item, SamplingParams, Usage
from docendo.scoring import Score, Scorer, scored


class JournalLike(Protocol):
    """What resuming needs of `docendo.memory.Journal`."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Returns what was stored under the key, or None."""

    def put(self, key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stores a value unless the key has one; returns what is stored."""


def evaluate(
    subject: Any,
    items: Iterable[Item],
    *,
    scorer: Scorer,
    name: str = "",
    sampling: SamplingParams | None = None,
    journal: JournalLike | None = None,
    concurrency: int = 64,
    quiet: bool = False,
) -> EvalResult:
    """Asks a subject every item once and scores the answers.

    The subject sees `item.public` alone. An item whose answer did not come, or could not be scored, is
    recorded as failed, with `model: ...`, `task: ...` or `infrastructure: ...` as the reason, and
    counts neither as right nor as wrong. A wrong configuration (an unknown adapter) is an error at once.

    Args:
        subject: An agent (all items go to its engine at once), a compiled graph (run by
            `docendo.run`; its final state holds `answer`), or a function of a `PublicItem` that
            returns the text, plain (called one by one) or async.
        items: The items; each id once.
        scorer: Decides what is right, usually `task.scorer`.
        name: Name of the result, such as "before". Needed with `journal` unless the subject is an
            agent, because it is part of what a stored answer is found by.
        sampling: Decoding settings instead of the agent's own; one sample is drawn in any case.
        journal: Keeps every answer as it comes, so that the same call after a crash asks only what
            is missing.
        concurrency: Most calls of an async function, or items of a graph, at a time.
        quiet: Show no progress.

    Returns:
        The result, its records in the order of `items`.

    Raises:
        DataError: if there is no item, or an id occurs twice.
        ConfigError: if the subject is of no known kind.

    Example:
        >>> from docendo.evals import ExactScorer, make_item
        >>> items = [make_item("What is 2 + 2?", 4), make_item("What is 2 + 3?", 5)]
        >>> print(evaluate(lambda item: "4", items, scorer=ExactScorer(), name="fours", quiet=True))
        fours: 50.0 % (1/2, 95 % interval 9.5 % to 90.5 %), majority answer 50.0 %
    """
    items = tuple(items)
    _check(items, concurrency)
    asker = asker_of(subject, name=name, sampling=sampling, concurrency=concurrency)
    keys = {item.id: asker.key(item) if journal is not None else None for item in items}
    if journal is not None and items and keys[items[0].id] is None:
        raise ConfigError("journal was given without a name", remedy="pass name=, which tells subjects apart")

    start = time.monotonic()
    replies: dict[str, Reply] = {}
    for item in items:
        key = keys[item.id]
        stored = journal.get(key) if journal is not None and key is not None else None
        if stored is not None:
            replies[item.id] = _from_stored(stored)

    with progress(name or "evaluate", len(items), quiet=quiet) as bar:
        _advance(bar, len(replies))

        def done(item: Item, reply: Reply) -> None:
            key = keys[item.id]
            if journal is not None and key is not None and reply.failure is None:
                # A failure is not kept: the next call tries the item again.
                reply = _from_stored(journal.put(key, _to_stored(reply)))
            replies[item.id] = reply
            _advance(bar, 1)

        missing = [item for item in items if item.id not in replies]
        if missing:
            asker.ask(missing, done)

    majority, chance = _baselines(items)
    return EvalResult(
        name=name,
        task=items[0].public.task,
        scorer=scorer.name,
        records=tuple(_record(item, replies[item.id], scorer) for item in items),
        majority=majority,
        chance=chance,
        model=asker.model,
        adapter=asker.adapter,
        sampling=asker.sampling.to_json() if asker.sampling else {},
        seconds=time.monotonic() - start,
    )


def _check(items: tuple[Item, ...], concurrency: int) -> None:
    if not items:
        raise DataError("there is no item to evaluate", expected="at least one")
    for entry in items:
        given: object = entry
        if not isinstance(given, Item):
            raise DataError(f"an item is {given!r}", expected="items, as from evals.tasks or evals.make_item")
    item, count = Counter(item.id for item in items).most_common(1)[0]
    if count > 1:
        raise DataError(f"item {item} occurs {count} times", expected="each item once")
    if concurrency < 1:
        raise ConfigError(f"concurrency is {concurrency}", expected="1 or more")


def _advance(bar: Progress, steps: int) -> None:
    if steps:
        bar.advance(steps)


def _record(item: Item, reply: Reply, scorer: Scorer) -> EvalRecord:
    score = _score(item, reply, scorer)
    record = EvalRecord(
        item=item.id,
        question=item.public.question,
        text=reply.text,
        usage=reply.usage,
        seconds=reply.seconds,
    )
    if isinstance(score, str):
        return record.replace(failure=score)
    return record.replace(
        parsed=score.parsed, correct=score.correct, value=score.value, score_failure=score.failure
    )


def _score(item: Item, reply: Reply, scorer: Scorer) -> Score | str:
    """The score of a reply, or why there is none."""
    if reply.failure is not None:
        return reply.failure
    try:
        return scored(scorer, item, reply.text)
    except UserError:
        raise
    except Exception as error:  # a scorer of the user's own may fail in any way
        return failure_of(error)


def _baselines(items: Sequence[Item]) -> tuple[float | None, float | None]:
    golds = [reference(item) for item in items]
    known = [gold for gold in golds if gold is not None]
    majority = Counter(known).most_common(1)[0][1] / len(items) if len(known) == len(items) else None
    choices = [len(item.public.choices) for item in items]
    chance = sum(1 / count for count in choices) / len(choices) if all(choices) else None
    return majority, chance


def _to_stored(reply: Reply) -> dict[str, Any]:
    return {"text": reply.text, "usage": reply.usage.to_json(), "seconds": reply.seconds}


def _from_stored(value: Mapping[str, Any]) -> Reply:
    return Reply(text=value["text"], usage=Usage(**value["usage"]), seconds=value["seconds"])
