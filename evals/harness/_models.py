"""Asking agents and bare engines: all items at once, so that the engine batches them."""

from __future__ import annotations

import math
import queue
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Generic, TypeVar, cast

from docendo.agents._turns import turn_traces
from docendo.errors import ConfigError, InfrastructureError, ModelFailure
from docendo.evals.harness._replies import Done, Reply, Said, refused
from docendo.hashing import derive_seed, digest
from docendo.records import (
    Author,
    Item,
    Message,
    Origin,
    PublicItem,
    Request,
    Result,
    SamplingParams,
    ScoreResult,
    Trace,
)

_Answer = TypeVar("_Answer", Result, ScoreResult)
_NODE = "evaluate"


class Bare:
    """An engine without a role: it is given the question and nothing else."""

    role, name, adapter, sampling = "model", "model", None, SamplingParams()
    author = Author(agent="model", role="model")

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._chats = "messages" in engine.capabilities.features

    def messages(self, item: PublicItem) -> tuple[Message, ...] | str:
        """The question, as a message if the model chats."""
        return ({"role": "user", "content": item.question},) if self._chats else item.question


class ModelAsker(ABC, Generic[_Answer]):
    """Gives the requests of all items to the engine and takes the answers as they come."""

    def __init__(self, agent: Any, *, name: str) -> None:
        self.agent, self.name = agent, name
        self.sampling: SamplingParams | None = None
        self.model: str = agent.engine.fingerprint
        self.adapter: str | None = agent.engine.adapter_hash(agent.adapter) if agent.adapter else None

    def ask(self, items: Sequence[Item], done: Done, database: object) -> None:
        """Reports each reply as soon as it is there, also while later items are still being submitted."""
        ended: queue.SimpleQueue[Item] = queue.SimpleQueue()
        running: dict[str, list[Future[_Answer]]] = {}
        try:
            for item in items:
                futures = running.setdefault(item.id, [])
                try:
                    for future in self._submit(item):
                        futures.append(future)
                except Exception as error:
                    _cancel(running.pop(item.id))
                    done(item, refused(error))
                    continue
                _when_all(futures, partial(ended.put, item))
                while not ended.empty():
                    self._settle(ended.get(), running, done)
            while running:
                self._settle(ended.get(), running, done)
        finally:
            for futures in running.values():
                _cancel(futures)

    def _settle(self, item: Item, running: dict[str, list[Future[_Answer]]], done: Done) -> None:
        try:
            answers = [_outcome(future) for future in running.pop(item.id)]
            self._require_own(answers)
            self._require_usable(answers)
        except Exception as error:
            done(item, refused(error))
        else:
            done(item, *self._reply(item, answers))

    def _require_own(self, answers: list[_Answer]) -> None:
        """Refuses answers of other weights than the result names: they are what a verdict is about."""
        for answer in answers:
            if answer.adapter != self.adapter:
                seen, own = (one[:12] if one else "the base model" for one in (answer.adapter, self.adapter))
                raise InfrastructureError(
                    f"the answer is of {seen}, not of {own}: another adapter was loaded under the name "
                    f"{self.agent.adapter!r} meanwhile; evaluate again."
                )

    def _origin(self, item: Item) -> Origin:
        agent = self.agent
        return Origin(run=self.name, role=agent.role, agent=agent.name, node=_NODE, item=item.id)

    @abstractmethod
    def key(self, item: Item) -> str | None:
        """By what is asked of which weights, so that a stored answer serves any evaluation."""

    @abstractmethod
    def _submit(self, item: Item) -> Iterator[Future[_Answer]]:
        """Submits the requests of an item one after the other."""

    @abstractmethod
    def _require_usable(self, answers: list[_Answer]) -> None:
        """Refuses answers that no reply can be made of."""

    @abstractmethod
    def _reply(self, item: Item, answers: list[_Answer]) -> tuple[Reply, list[Trace]]:
        """The reply that the answers to the requests make, and the turns to store with it."""


def _outcome(future: Future[_Answer]) -> _Answer:
    try:
        return future.result()
    except CancelledError:  # by somebody else: nobody here has
        raise InfrastructureError("the request was cancelled; evaluate again") from None


def _cancel(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def _when_all(futures: Sequence[Future[Any]], call: Any) -> None:
    """Calls once all futures have ended, on the thread of the last."""
    left: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in futures[1:]:
        left.put(None)

    def ended(_: Future[Any]) -> None:
        try:
            left.get_nowait()
        except queue.Empty:
            call()

    for future in futures:
        future.add_done_callback(ended)


class GenerateAsker(ModelAsker[Result]):
    """Draws samples of an answer."""

    def __init__(
        self,
        agent: Any,
        *,
        name: str,
        sampling: SamplingParams | None,
        samples: int,
        keep_turns: bool,
    ) -> None:
        super().__init__(agent, name=name)
        self._keep_turns = keep_turns
        self.sampling = (sampling or agent.sampling).replace(n=samples)
        if samples > 1 and self.sampling.greedy:
            raise ConfigError(
                f"samples is {samples}, but the temperature is 0, so that all would be the same",
                remedy="pass sampling=SamplingParams(temperature=0.8, ...)",
            )

    def _request(self, item: Item) -> Request:
        return Request(
            prompt=self.agent.messages(item.public),
            sampling=_seeded(cast(SamplingParams, self.sampling), item.id),
            adapter=self.agent.adapter,
            origin=self._origin(item),
        )

    def key(self, item: Item) -> str | None:
        request = self._request(item)
        prompt, sampling = plain(request.prompt), request.sampling.to_json()
        parts = ("evaluate", self.model, self.adapter, prompt, sampling)
        if request.sampling.seed is None and not request.sampling.greedy:
            # Drawn anew each time: an answer belongs to this item of this evaluation alone.
            return digest(*parts, self.name, item.id)
        return digest(*parts)

    def _submit(self, item: Item) -> Iterator[Future[Result]]:
        yield self.agent.engine.submit(self._request(item))

    def _require_usable(self, answers: list[Result]) -> None:
        (result,) = answers
        wanted = cast(SamplingParams, self.sampling).n
        if len(result.completions) != wanted:
            raise InfrastructureError(
                f"the engine returned {len(result.completions)} answers of {wanted}; evaluate again."
            )
        if not all(math.isfinite(each) for said in result.completions for each in said.logprobs):
            raise ModelFailure("a log-probability is NaN or infinite; expected finite numbers")

    def _reply(self, item: Item, answers: list[Result]) -> tuple[Reply, list[Trace]]:
        (result,) = answers
        turns = self._turns(item, result) if self._keep_turns else []
        reply = Reply(
            samples=tuple(
                Said(text=each.text, confidence=_mean_probability(each.logprobs))
                for each in result.completions
            ),
            traces=tuple(turn.id for turn in turns),
            usage=result.usage,
            seconds=result.seconds,
            flops=result.flops,
        )
        return reply, turns

    def _turns(self, item: Item, result: Result) -> list[Trace]:
        request = self._request(item)
        prompt = request.prompt
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        turns = turn_traces(
            self.agent,
            item.public,
            cast(Sequence[Message], messages),
            result,
            run=self.name,
            node=_NODE,
            sampling=request.sampling,
        )
        # What is asked otherwise, such as of another agent, has turns of its own.
        key = self.key(item)
        return [turn.replace(id=digest(turn.id, key)[:32]) for turn in turns]


def _seeded(sampling: SamplingParams, item: str) -> SamplingParams:
    """A seed of its own for each item: with one for all, every item would draw the same numbers."""
    return sampling if sampling.seed is None else sampling.replace(seed=derive_seed(sampling.seed, item))


def plain(prompt: Any) -> Any:
    """A prompt as JSON."""
    return prompt if isinstance(prompt, str) else list(prompt)


def _mean_probability(logprobs: Sequence[float]) -> float | None:
    return math.exp(math.fsum(logprobs) / len(logprobs)) if logprobs else None
