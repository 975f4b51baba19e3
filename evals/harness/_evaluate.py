"""Evaluation: every item is asked once, scored strictly, and a failure is never a wrong answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docendo.errors import ConfigError
from docendo.evals.harness._arguments import folder_of, items_of, require_settings, scorer_of
from docendo.evals.harness._keeping import JournalLike, Keeper
from docendo.evals.harness._records import EvalRecord, Sample
from docendo.evals.harness._replies import Asker, Reply, Said, refused
from docendo.evals.harness._results import EvalResult
from docendo.evals.harness._subjects import Manner, Method, asker_of
from docendo.evals.items._baselines import baselines, strata_baselines
from docendo.evals.items._tasks import Task
from docendo.progress import Progress, progress
from docendo.records import Item, SamplingParams, Trace
from docendo.scoring import Score, Scorer, scored


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
    counts neither as right nor as wrong. So does one that the engine refuses, such as a prompt that is too
    long for the model; only if all are refused, the settings are at fault, and the first refusal is raised.
    Another wrong configuration, such as an unknown adapter, is an error at once.

    Args:
        subject: An agent or an engine (all items go to the engine at once), a compiled graph (invoked with
            `{"item": id}` and a `RunContext`, as by `docendo.run`; its final state holds `answer`), or a
            function of a `PublicItem` that returns the text, or a list of as many as `samples`, plain
            (called one by one) or async.
        items: A task, whose test items are asked, or items; each id once.
        scorer: Decides what is right; by default the task's.
        name: Name of the result, such as "before". With `journal` or `folder` it is needed for graphs and
            functions, which have no fingerprint: a stored answer is found by it, item and samples. That of
            an agent is found by what is asked of which weights, and belongs to a name only if it was drawn
            without a seed.
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
        ConfigError: if a setting cannot be used, the subject is of no known kind, or it cannot be asked this
            way; or if every item is refused.
        StorageError: if the folder cannot be written.

    Example:
        >>> from docendo.evals import ExactScorer, make_item
        >>> items = [make_item("What is 2 + 2?", 4), make_item("What is 2 + 3?", 5)]
        >>> print(evaluate(lambda item: "4", items, scorer=ExactScorer(), name="fours", quiet=True))
        fours: 50.0 % (1/2, 95 % interval 9.5 % to 90.5 %), majority answer 50.0 %
    """
    asked, task = items_of(items)
    scorer = scorer_of(items, scorer)
    require_settings(name=name, samples=samples, concurrency=concurrency, sampling=sampling)
    how = Manner(
        name=name,
        sampling=sampling,
        samples=samples,
        method=method,
        concurrency=concurrency,
        folder=folder_of(folder),
    )
    # Before anything is opened: what cannot be asked leaves nothing behind.
    asker = asker_of(subject, asked, how)
    start = time.monotonic()
    with Keeper.open(how.folder, journal) as keeper:
        replies = _replies(asker, asked, keeper, label=name or "evaluate", quiet=quiet)
    judged = [_judged(item, replies[item.id], scorer) for item in asked]
    refusals = [reply.refusal for reply, _ in judged if reply.refusal is not None]
    if len(refusals) == len(asked):
        raise refusals[0]
    majority, chance = baselines(asked)
    result = EvalResult(
        name=name,
        task=task,
        scorer=scorer.name,
        records=tuple(_record(item, *each) for item, each in zip(asked, judged, strict=True)),
        majority=majority,
        chance=chance,
        baselines=strata_baselines(asked),
        model=asker.model,
        adapter=asker.adapter,
        sampling=asker.sampling.to_json() if asker.sampling else {},
        seconds=time.monotonic() - start,
    )
    if how.folder is not None:
        result.save(how.folder)
    return result


def _replies(
    asker: Asker, items: Sequence[Item], keeper: Keeper, *, label: str, quiet: bool
) -> dict[str, Reply]:
    """The reply to each item: the one that is kept, else the subject's."""
    keys = {item.id: asker.key(item) if keeper.keeps else None for item in items}
    if keeper.keeps and keys[items[0].id] is None:
        raise ConfigError("answers are to be kept, but there is no name to find them by", remedy="pass name=")
    replies = {item.id: kept for item in items if (kept := keeper.get(keys[item.id])) is not None}
    with progress(label, len(items), quiet=quiet) as bar:
        _advance(bar, len(replies))

        def done(item: Item, reply: Reply, turns: Sequence[Trace] = ()) -> None:
            replies[item.id] = keeper.put(keys[item.id], reply, turns)
            _advance(bar, 1)

        missing = [item for item in items if item.id not in replies]
        if missing:
            asker.ask(missing, done, keeper.database)
    return replies


def _advance(bar: Progress, steps: int) -> None:
    if steps:
        bar.advance(steps)


def _judged(item: Item, reply: Reply, scorer: Scorer) -> tuple[Reply, list[Sample]]:
    """The reply with its samples scored, or failed if they cannot be."""
    try:
        return reply, [_sample(said, scored(scorer, item, said.text)) for said in reply.samples]
    except Exception as error:  # a scorer of the user's own may fail in any way
        failed = refused(error)
        return reply.replace(failure=failed.failure, refusal=failed.refusal), []


def _record(item: Item, reply: Reply, samples: Sequence[Sample]) -> EvalRecord:
    record = EvalRecord(
        item=item.id,
        question=item.public.question,
        text=reply.samples[0].text if reply.samples else "",
        stratum=str(item.public.metadata.get("stratum") or item.public.task),
        failure=reply.failure,
        choices=reply.choices,
        traces=reply.traces,
        usage=reply.usage,
        seconds=reply.seconds,
        flops=reply.flops,
    )
    if reply.failure is not None:
        return record
    first, *more = samples
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
