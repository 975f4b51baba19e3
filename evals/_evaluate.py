"""Evaluation: every item is asked once, scored strictly, and a failure is never a wrong answer."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from docendo.errors import ConfigError, DataError, ModelFailure, UserError
from docendo.evals._results import EvalRecord, EvalResult
from docendo.evals._tasks import reference
from docendo.hashing import derive_seed, digest
from docendo.progress import Progress, progress
from docendo.records import Item, Origin, PublicItem, Request, Result, SamplingParams, Trace, Usage
from docendo.scoring import Scorer

# Items of a graph that are run together, as a multiple of the concurrency.
_PART = 4


class JournalLike(Protocol):
    """What resuming needs of `docendo.memory.Journal`."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Returns what was stored under the key, or None."""

    def put(self, key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stores a value unless the key has one; returns what is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What came back for one item: a text, or why there is none."""

    text: str = ""
    failure: str | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


class _Asker(Protocol):
    """Gets the replies of one kind of subject."""

    model: str
    adapter: str | None
    sampling: SamplingParams | None

    def key(self, item: Item) -> str | None:
        """Key of the item's reply in the journal; None if it cannot be resumed."""

    def ask(self, items: Sequence[Item], done: Callable[[Item, _Reply], None]) -> None:
        """Asks all items and reports each reply on the calling thread."""


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

    The subject sees `item.public` alone. An item whose answer did not come is recorded as failed,
    with `model: ...` or `infrastructure: ...` as the reason, and counts neither as right nor as
    wrong. A wrong configuration (an unknown adapter) is an error at once.

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
    asker = _asker(subject, name=name, sampling=sampling, concurrency=concurrency)
    keys = {item.id: asker.key(item) if journal is not None else None for item in items}
    if journal is not None and items and keys[items[0].id] is None:
        raise ConfigError("journal was given without a name", remedy="pass name=, which tells subjects apart")

    start = time.monotonic()
    replies: dict[str, _Reply] = {}
    for item in items:
        key = keys[item.id]
        stored = journal.get(key) if journal is not None and key is not None else None
        if stored is not None:
            replies[item.id] = _from_stored(stored)

    with progress(name or "evaluate", len(items), quiet=quiet) as bar:
        _advance(bar, len(replies))

        def done(item: Item, reply: _Reply) -> None:
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


def _record(item: Item, reply: _Reply, scorer: Scorer) -> EvalRecord:
    if reply.failure is not None:
        return EvalRecord(
            item=item.id,
            question=item.public.question,
            failure=reply.failure,
            usage=reply.usage,
            seconds=reply.seconds,
        )
    score = scorer.score(item, reply.text)
    return EvalRecord(
        item=item.id,
        question=item.public.question,
        text=reply.text,
        parsed=score.parsed,
        correct=score.correct,
        value=score.value,
        score_failure=score.failure,
        usage=reply.usage,
        seconds=reply.seconds,
    )


def _baselines(items: Sequence[Item]) -> tuple[float | None, float | None]:
    golds = [reference(item) for item in items]
    known = [gold for gold in golds if gold is not None]
    majority = Counter(known).most_common(1)[0][1] / len(items) if len(known) == len(items) else None
    choices = [len(item.public.choices) for item in items]
    chance = sum(1 / count for count in choices) / len(choices) if all(choices) else None
    return majority, chance


def _failure(error: BaseException) -> str:
    blame = "model" if isinstance(error, ModelFailure) else "infrastructure"
    reason = " ".join(str(error).split())
    return f"{blame}: {type(error).__name__}" + (f": {reason}" if reason else "")


def _to_stored(reply: _Reply) -> dict[str, Any]:
    return {"text": reply.text, "usage": reply.usage.to_json(), "seconds": reply.seconds}


def _from_stored(value: Mapping[str, Any]) -> _Reply:
    return _Reply(text=value["text"], usage=Usage(**value["usage"]), seconds=value["seconds"])


def _asker(subject: Any, *, name: str, sampling: SamplingParams | None, concurrency: int) -> _Asker:
    if hasattr(subject, "engine") and hasattr(subject, "messages"):
        return _AgentAsker(subject, name=name, sampling=sampling)
    if sampling is not None:
        raise ConfigError(
            "sampling was given, but the subject is not an agent", remedy="set it where the calls are made"
        )
    if hasattr(subject, "ainvoke") and hasattr(subject, "get_graph"):
        return _GraphAsker(subject, name=name, concurrency=concurrency)
    if callable(subject):
        return _FunctionAsker(subject, name=name, concurrency=concurrency)
    raise ConfigError(
        f"the subject is a {type(subject).__name__}",
        expected="an agent, a compiled graph, or a function of an item",
    )


def _seeded(sampling: SamplingParams, item: str) -> SamplingParams:
    """A seed of its own for each item: with one for all, every item would draw the same numbers."""
    return sampling if sampling.seed is None else sampling.replace(seed=derive_seed(sampling.seed, item))


class _AgentAsker:
    """Gives all items to the agent's engine at once; the engine batches them."""

    def __init__(self, agent: Any, *, name: str, sampling: SamplingParams | None) -> None:
        self._agent, self._name = agent, name
        self.sampling: SamplingParams | None = (sampling or agent.sampling).replace(n=1)
        self.model: str = agent.engine.fingerprint
        self.adapter: str | None = agent.engine.adapter_hash(agent.adapter) if agent.adapter else None

    def _request(self, item: Item) -> Request:
        agent = self._agent
        return Request(
            prompt=agent.messages(item.public),
            sampling=_seeded(cast(SamplingParams, self.sampling), item.id),
            adapter=agent.adapter,
            origin=Origin(run=self._name, role=agent.role, agent=agent.name, node="evaluate", item=item.id),
        )

    def key(self, item: Item) -> str | None:
        request = self._request(item)
        # Found by what is asked of which weights, so that a stored answer serves any evaluation.
        return digest(
            "evaluate",
            self.model,
            self.adapter,
            list(cast(Sequence[Any], request.prompt)),
            request.sampling.to_json(),
        )

    def ask(self, items: Sequence[Item], done: Callable[[Item, _Reply], None]) -> None:
        futures: dict[Future[Result], Item] = {}
        try:
            for item in items:
                try:
                    futures[self._agent.engine.submit(self._request(item))] = item
                except UserError:
                    raise
                except Exception as error:
                    done(item, _Reply(failure=_failure(error)))
            for future in as_completed(futures):
                done(futures[future], _settle(future))
        finally:
            for future in futures:
                future.cancel()


def _settle(future: Future[Result]) -> _Reply:
    error = future.exception()
    if error is None:
        result = future.result()
        return _Reply(text=result.text, usage=result.usage, seconds=result.seconds)
    if isinstance(error, UserError) or not isinstance(error, Exception):
        raise error
    return _Reply(failure=_failure(error))


class _FunctionAsker:
    """Calls a plain function item by item, an async one for many items at a time."""

    sampling: SamplingParams | None = None
    model = ""
    adapter: str | None = None

    def __init__(self, function: Callable[[PublicItem], Any], *, name: str, concurrency: int) -> None:
        self._function, self._name, self._concurrency = function, name, concurrency

    def key(self, item: Item) -> str | None:
        return (
            digest("evaluate", "function", self._name, item.id, item.public.question) if self._name else None
        )

    def ask(self, items: Sequence[Item], done: Callable[[Item, _Reply], None]) -> None:
        function = self._function
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            from docendo.graphs._nodes import blocking

            blocking(self._ask_async(items, done))
            return
        for item in items:
            start = time.monotonic()
            try:
                reply = _Reply(text=_text(function(item.public)))
            except UserError:
                raise
            except Exception as error:
                reply = _Reply(failure=_failure(error))
            done(item, _timed(reply, start))

    async def _ask_async(self, items: Sequence[Item], done: Callable[[Item, _Reply], None]) -> None:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(item: Item) -> None:
            async with gate:
                start = time.monotonic()
                try:
                    reply = _Reply(text=_text(await cast(Awaitable[Any], self._function(item.public))))
                except UserError:
                    raise
                except Exception as error:
                    reply = _Reply(failure=_failure(error))
            done(item, _timed(reply, start))

        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(one(item))
        except BaseExceptionGroup as errors:
            # The first error stands for all: it has cancelled the others.
            raise errors.exceptions[0] from None


def _timed(reply: _Reply, start: float) -> _Reply:
    return _Reply(text=reply.text, failure=reply.failure, usage=reply.usage, seconds=time.monotonic() - start)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"the subject returned a {type(value).__name__}", expected="the answer as text")
    return value


class _GraphAsker:
    """Runs a compiled graph over the items; the answer is its final state's `answer`."""

    sampling: SamplingParams | None = None
    model = ""
    adapter: str | None = None

    def __init__(self, graph: Any, *, name: str, concurrency: int) -> None:
        self._graph, self._name, self._concurrency = graph, name, concurrency

    def key(self, item: Item) -> str | None:
        return digest("evaluate", "graph", self._name, item.id, item.public.question) if self._name else None

    def ask(self, items: Sequence[Item], done: Callable[[Item, _Reply], None]) -> None:
        from docendo.graphs import run

        # In parts, so that a journal has most answers when the process dies.
        size = _PART * self._concurrency
        for start in range(0, len(items), size):
            part = items[start : start + size]
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="docendo-evaluate-") as folder:
                finished = run(
                    self._graph,
                    part,
                    name="evaluate",
                    folder=folder,
                    concurrency=self._concurrency,
                    quiet=True,
                )
                outcomes, spent = finished.outcomes, _spent(finished.traces())
                finished.close()
            seconds = (time.monotonic() - began) / len(part)
            for item in part:
                usage = spent.get(item.id, Usage())
                done(item, _outcome(outcomes.get(item.id, {}), usage=usage, seconds=seconds))


def _spent(traces: Iterable[Trace]) -> dict[str, Usage]:
    spent: dict[str, Usage] = {}
    for trace in traces:
        spent[trace.item] = spent.get(trace.item, Usage()) + trace.usage
    return spent


def _outcome(outcome: Mapping[str, Any], *, usage: Usage, seconds: float) -> _Reply:
    answer = outcome.get("answer")
    if outcome.get("status") == "failed":
        failure = f"{outcome.get('error')}: {outcome.get('message')}"
        return _Reply(failure=failure, usage=usage, seconds=seconds)
    if not isinstance(answer, str):
        raise ConfigError("the graph's final state holds no answer", expected='text under the key "answer"')
    return _Reply(text=answer, usage=usage, seconds=seconds)
