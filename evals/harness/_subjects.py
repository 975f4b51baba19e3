"""Who is asked in an evaluation: agents, graphs and functions, each in the way that suits it."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from docendo.errors import ConfigError, DataError, DocendoError, UserError, blame
from docendo.hashing import derive_seed, digest
from docendo.records import Item, Origin, PublicItem, Request, Result, SamplingParams, Trace, Usage

# Items of a graph that are run together, as a multiple of the concurrency.
_PART = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one item: a text, or why there is none."""

    text: str = ""
    failure: str | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


class Asker(Protocol):
    """Gets the replies of one kind of subject."""

    model: str
    adapter: str | None
    sampling: SamplingParams | None

    def key(self, item: Item) -> str | None:
        """Key of the item's reply in the journal; None if it cannot be resumed."""

    def ask(self, items: Sequence[Item], done: Callable[[Item, Reply], None]) -> None:
        """Asks all items and reports each reply on the calling thread."""


def failure_of(error: BaseException) -> str:
    """An error as the reason of a failed item; its first word says who is to blame."""
    return f"{blame(error)}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    reason = " ".join(str(error).split())
    return type(error).__name__ + (f": {reason}" if reason else "")


def asker_of(subject: Any, *, name: str, sampling: SamplingParams | None, concurrency: int) -> Asker:
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

    def ask(self, items: Sequence[Item], done: Callable[[Item, Reply], None]) -> None:
        futures: dict[Future[Result], Item] = {}
        try:
            for item in items:
                try:
                    futures[self._agent.engine.submit(self._request(item))] = item
                except UserError:
                    raise
                except Exception as error:
                    done(item, Reply(failure=failure_of(error)))
            for future in as_completed(futures):
                done(futures[future], _settle(future))
        finally:
            for future in futures:
                future.cancel()


def _settle(future: Future[Result]) -> Reply:
    error = future.exception()
    if error is None:
        result = future.result()
        return Reply(text=result.text, usage=result.usage, seconds=result.seconds)
    if isinstance(error, UserError) or not isinstance(error, Exception):
        raise error
    return Reply(failure=failure_of(error))


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

    def ask(self, items: Sequence[Item], done: Callable[[Item, Reply], None]) -> None:
        function = self._function
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            from docendo.graphs._nodes import blocking

            blocking(self._ask_async(items, done))
            return
        for item in items:
            start = time.monotonic()
            try:
                reply = Reply(text=_text(function(item.public)))
            except UserError:
                raise
            except Exception as error:
                reply = Reply(failure=failure_of(error))
            done(item, _timed(reply, start))

    async def _ask_async(self, items: Sequence[Item], done: Callable[[Item, Reply], None]) -> None:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(item: Item) -> None:
            async with gate:
                start = time.monotonic()
                try:
                    reply = Reply(text=_text(await cast(Awaitable[Any], self._function(item.public))))
                except UserError:
                    raise
                except Exception as error:
                    reply = Reply(failure=failure_of(error))
            done(item, _timed(reply, start))

        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(one(item))
        except BaseExceptionGroup as errors:
            # The first error stands for all: it has cancelled the others.
            raise errors.exceptions[0] from None


def _timed(reply: Reply, start: float) -> Reply:
    return Reply(text=reply.text, failure=reply.failure, usage=reply.usage, seconds=time.monotonic() - start)


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

    def ask(self, items: Sequence[Item], done: Callable[[Item, Reply], None]) -> None:
        from docendo.graphs import run

        # In parts, so that a journal has most answers when the process dies.
        size = _PART * self._concurrency
        for start in range(0, len(items), size):
            part = items[start : start + size]
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="docendo-evaluate-") as folder:
                finished = run(
                    _Patient(self._graph),
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


class _Patient:
    """A graph of which an item ends alone, whatever it fails of: in a run, the machine's failure ends all."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    async def ainvoke(self, *args: Any, **options: Any) -> Any:
        try:
            return await self._graph.ainvoke(*args, **options)
        except UserError:
            raise
        except Exception as error:
            raise _Ended(error) from error


class _Ended(DocendoError):
    """The end of one item, with the blame that its error had."""

    def __init__(self, error: Exception) -> None:
        super().__init__(_reason(error))
        self.code = blame(error)


def _spent(traces: Iterable[Trace]) -> dict[str, Usage]:
    spent: dict[str, Usage] = {}
    for trace in traces:
        spent[trace.item] = spent.get(trace.item, Usage()) + trace.usage
    return spent


def _outcome(outcome: Mapping[str, Any], *, usage: Usage, seconds: float) -> Reply:
    answer = outcome.get("answer")
    if outcome.get("status") == "failed":
        failure = f"{outcome.get('error')}: {outcome.get('message')}"
        return Reply(failure=failure, usage=usage, seconds=seconds)
    if not isinstance(answer, str):
        raise ConfigError("the graph's final state holds no answer", expected='text under the key "answer"')
    return Reply(text=answer, usage=usage, seconds=seconds)
