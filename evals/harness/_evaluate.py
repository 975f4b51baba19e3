"""Evaluation: every item is asked once, scored strictly, and a failure is never a wrong answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from docendo.checks import is_count
from docendo.errors import ConfigError, DataError, UserError
from docendo.evals.harness._records import EvalRecord, Sample
from docendo.evals.harness._replies import Asker, Reply, Said, failure_of
from docendo.evals.harness._results import EvalResult
from docendo.evals.harness._subjects import Manner, Method, asker_of
from docendo.evals.items._baselines import baselines
from docendo.evals.items._tasks import Task
from docendo.progress import Progress, progress
from docendo.records import Item, SamplingParams
from docendo.scoring import Score, Scorer, scored

if TYPE_CHECKING:
    from docendo.memory import TraceStore


class JournalLike(Protocol):
    """What resuming needs of `docendo.memory.Journal`."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Returns what was stored under the key, or None."""

    def put(self, key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stores a value unless the key has one; returns what is stored."""


def evaluate(
    subject: Any,
    items: Task | Iterable[Item],
    *,
    scorer: Scorer | None = None,
    name: str = "",
    sampling: SamplingParams | None = None,
    samples: int = 1,
    method: Method = "generate",
    journal: JournalLike | None = None,
    folder: str | Path | None = None,
    concurrency: int = 64,
    quiet: bool = False,
) -> EvalResult:
    """Asks a subject every item once and scores the answers.

    The subject sees `item.public` alone. An item whose answer did not come, or could not be scored, is
    recorded as failed, with `model: ...`, `task: ...` or `infrastructure: ...` as the reason, and
    counts neither as right nor as wrong. A wrong configuration (an unknown adapter) is an error at once.

    Args:
        subject: An agent or an engine (all items go to the engine at once), a compiled graph (run by
            `docendo.run`; its final state holds `answer`), or a function of a `PublicItem` that
            returns the text, or a list of as many as `samples`, plain (called one by one) or async.
        items: A task, whose test items are asked, or items; each id once.
        scorer: Decides what is right; by default the task's.
        name: Name of the result, such as "before". With `journal` or `folder` it is needed for graphs and
            functions, because it is part of what a stored answer is found by.
        sampling: Decoding settings instead of the agent's own.
        samples: Answers to draw for each item, for `pass_at`, `majority_at` and `best_of`. The accuracy is
            that of the first.
        method: "generate" lets the subject write its answer. "likelihood" takes the choice that is likeliest
            under the model, by the sum of its tokens' log-probabilities, "likelihood-per-byte" by that
            sum divided by the choice's length in bytes (lm-eval's `acc` and `acc_bytes`).
        journal: Keeps every answer as it comes, so that the same call after a crash asks only what
            is missing.
        folder: Keeps everything here: every answer as it comes, the turns that led to it, and at the end the
            result, for `EvalResult.load`. Instead of `journal`.
        concurrency: Most calls of an async function, or items of a graph, at a time.
        quiet: Show no progress.

    Returns:
        The result, its records in the order of `items`.

    Raises:
        DataError: if there is no item, or an id occurs twice.
        ConfigError: if the subject is of no known kind, or cannot be asked this way.

    Example:
        >>> from docendo.evals import ExactScorer, make_item
        >>> items = [make_item("What is 2 + 2?", 4), make_item("What is 2 + 3?", 5)]
        >>> print(evaluate(lambda item: "4", items, scorer=ExactScorer(), name="fours", quiet=True))
        fours: 50.0 % (1/2, 95 % interval 9.5 % to 90.5 %), majority answer 50.0 %
    """
    asked = items.test if isinstance(items, Task) else tuple(items)
    scorer = _scorer(items, scorer)
    _check(asked, samples=samples, concurrency=concurrency)
    place = None if folder is None else Path(folder)
    how = Manner(
        name=name,
        sampling=sampling,
        samples=samples,
        method=method,
        concurrency=concurrency,
        folder=place,
    )
    # Before anything is opened: what cannot be asked leaves nothing behind.
    asker = asker_of(subject, asked, how)
    start = time.monotonic()
    with _kept(place, journal) as (kept, traces):
        replies = _replies(asker, asked, kept, traces, label=name or "evaluate", quiet=quiet)
    majority, chance = baselines(asked)
    result = EvalResult(
        name=name,
        task=asked[0].public.task,
        scorer=scorer.name,
        records=tuple(_record(item, replies[item.id], scorer) for item in asked),
        majority=majority,
        chance=chance,
        model=asker.model,
        adapter=asker.adapter,
        sampling=asker.sampling.to_json() if asker.sampling else {},
        seconds=time.monotonic() - start,
    )
    if place is not None:
        result.save(place)
    return result


def _scorer(items: Task | Iterable[Item], scorer: Scorer | None) -> Scorer:
    if scorer is not None:
        return scorer
    if isinstance(items, Task):
        return items.scorer
    raise ConfigError("items were given without a scorer", remedy="pass scorer=task.scorer, or the task")


def _check(items: tuple[Item, ...], *, samples: int, concurrency: int) -> None:
    if not items:
        raise DataError("there is no item to evaluate", expected="at least one")
    for entry in items:
        given: object = entry
        if not isinstance(given, Item):
            raise DataError(f"an item is {given!r}", expected="items, as from evals.tasks or evals.make_item")
    item, count = Counter(item.id for item in items).most_common(1)[0]
    if count > 1:
        raise DataError(f"item {item} occurs {count} times", expected="each item once")
    if not is_count(samples) or samples < 1:
        raise ConfigError(f"samples is {samples!r}", expected="1 or more")
    if concurrency < 1:
        raise ConfigError(f"concurrency is {concurrency}", expected="1 or more")


@contextmanager
def _kept(
    folder: Path | None, journal: JournalLike | None
) -> Iterator[tuple[JournalLike | None, TraceStore | None]]:
    """Where answers and turns are kept."""
    if folder is None:
        yield journal, None
        return
    if journal is not None:
        raise ConfigError("journal and folder were both given", remedy="pass one of them")
    from docendo.memory import DATABASE, Journal, TraceStore

    with Journal.open(folder / DATABASE) as own:
        yield own, TraceStore(own.database)


def _replies(
    asker: Asker,
    items: Sequence[Item],
    journal: JournalLike | None,
    traces: TraceStore | None,
    *,
    label: str,
    quiet: bool,
) -> dict[str, Reply]:
    """The reply to each item: from the journal where it is there, else from the subject."""
    keys = {item.id: asker.key(item) if journal is not None else None for item in items}
    if journal is not None and keys[items[0].id] is None:
        raise ConfigError("answers are to be kept, but there is no name to find them by", remedy="pass name=")
    replies: dict[str, Reply] = {}
    for item in items:
        key = keys[item.id]
        stored = journal.get(key) if journal is not None and key is not None else None
        if stored is not None:
            replies[item.id] = Reply.from_json(stored)
    with progress(label, len(items), quiet=quiet) as bar:
        _advance(bar, len(replies))

        def done(item: Item, reply: Reply) -> None:
            key = keys[item.id]
            if journal is not None and key is not None and reply.failure is None:
                # A failure is not kept: the next call tries the item again.
                reply = Reply.from_json(journal.put(key, reply.to_json()))
            replies[item.id] = reply
            _advance(bar, 1)

        missing = [item for item in items if item.id not in replies]
        if missing:
            asker.ask(missing, done, traces)
    return replies


def _advance(bar: Progress, steps: int) -> None:
    if steps:
        bar.advance(steps)


def _record(item: Item, reply: Reply, scorer: Scorer) -> EvalRecord:
    record = EvalRecord(
        item=item.id,
        question=item.public.question,
        text=reply.samples[0].text if reply.samples else "",
        stratum=str(item.public.metadata.get("stratum") or item.public.task),
        choices=reply.choices,
        traces=reply.traces,
        usage=reply.usage,
        seconds=reply.seconds,
        flops=reply.flops,
    )
    try:
        if reply.failure is not None:
            return record.replace(failure=reply.failure)
        first, *more = (_sample(said, scored(scorer, item, said.text)) for said in reply.samples)
    except UserError:
        raise
    except Exception as error:  # a scorer of the user's own may fail in any way
        return record.replace(failure=failure_of(error))
    return record.replace(
        parsed=first.parsed,
        correct=first.correct,
        value=first.value,
        score_failure=first.score_failure,
        confidence=first.confidence,
        more=tuple(more),
    )


def _sample(said: Said, score: Score) -> Sample:
    return Sample(
        text=said.text,
        parsed=score.parsed,
        correct=score.correct,
        value=score.value,
        score_failure=score.failure,
        confidence=said.confidence,
    )
