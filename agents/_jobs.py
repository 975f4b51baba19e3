"""Requests inside an engine: how they wait, what they have cost, and how they end.

An engine's loop decides what is computed; the `Desk` holds what every kind of loop does alike.
"""

from __future__ import annotations

import bisect
import contextvars
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import torch

from docendo.agents._accounts import Accounts
from docendo.agents._grammar import CompiledGrammar
from docendo.agents._lora import LoadedAdapter
from docendo.agents._prefixes import Match
from docendo.errors import DeadlineExceeded, DocendoError, InfrastructureError, ModelFailure
from docendo.records import (
    Chunk,
    Completion,
    EngineEvent,
    EventStatus,
    FinishReason,
    Message,
    Origin,
    Result,
    SamplingParams,
    ScoreResult,
    Usage,
)

_DEFAULTS = SamplingParams()
NOT_FINITE = "the model gave logits that are not finite"


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request inside an engine: `params` is set for generation, else `completion`."""

    prompt: list[int]
    adapter: LoadedAdapter | None
    origin: Origin
    future: Future[Any]
    #: The prompt as it was asked, for who listens to events.
    asked: str | tuple[Message, ...] | tuple[int, ...] = ""
    params: SamplingParams = _DEFAULTS
    seed: int = 0
    completion: list[int] | None = None
    stops: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    grammar: CompiledGrammar | None = None
    listener: Callable[[Chunk], None] | None = None
    priority: int = 0
    deadline: float = math.inf
    #: The adapter acts from this token on: 0, or where an activated LoRA is invoked.
    activation: int = field(init=False)
    #: The tokens that have to be in the cache before anything can be read off.
    context: list[int] = field(init=False)
    stop_window: int = field(init=False)
    #: Samples that have no row yet.
    pending: int = field(init=False)
    cached: int = 0
    samples: dict[int, Completion] = field(default_factory=dict)
    prompt_logprobs: list[float] = field(default_factory=list)
    #: For embedding: sums of hidden states, one per piece of the text. None for other requests.
    states: list[torch.Tensor] | None = None
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None
    seconds: float = 0.0
    flops: float = 0.0
    order: int = 0
    #: Where it was submitted: events are told there, so that a span finds its parent.
    context_vars: contextvars.Context = field(default_factory=contextvars.copy_context)
    closed: bool = False
    #: The stored beginning that was found for it, and at which state of the store.
    matched: tuple[int, Match] = (-1, Match(0))

    def __post_init__(self) -> None:
        # A token is at least one byte of text; the margin is for tokens that decode to nothing.
        self.stop_window = max((len(stop.encode(errors="replace")) for stop in self.stops), default=0) + 8
        self.pending = self.params.n
        self.context = self.prompt if self.completion is None else self.prompt + self.completion[:-1]
        self.activation = self.adapter.activation(self.prompt) if self.adapter else 0

    @property
    def whole(self) -> bool:
        """Whether every position has to be computed, so that no stored beginning can stand in for it."""
        return self.params.prompt_logprobs or self.states is not None

    @property
    def longest(self) -> int:
        """Most tokens that a row of the job can come to hold."""
        return len(self.prompt) + (
            self.params.max_tokens if self.completion is None else len(self.completion)
        )

    @property
    def adapter_hash(self) -> str | None:
        """SHA-256 of the adapter, or None for the base model."""
        return self.adapter.sha256 if self.adapter else None

    def prefix(self, length: int) -> tuple[str | None, int]:
        """Which stored beginnings serve this job, and for how many of its first `length` tokens.

        Keys and values before an activated LoRA's invocation are the base model's.
        """
        if self.adapter is None:
            return None, length
        if self.activation:
            return None, min(length, self.activation)
        return self.adapter.key, length


class Desk:
    """Waiting jobs in order, and the ends of all jobs: results, ledger, events."""

    def __init__(self, *, name: str, fingerprint: str, decode_text: Callable[[Sequence[int]], str]) -> None:
        """`name` and `fingerprint` are the model's; `decode_text` turns token ids into text."""
        self.name, self.fingerprint, self.decode_text = name, fingerprint, decode_text
        self.waiting: list[Job] = []
        self.accounts = Accounts()
        #: Tokens that a grammar's mask covers.
        self.mask_width = 0
        #: Called when a job leaves the queue, so that another can be let in.
        self.on_left: Callable[[Job], None] = lambda job: None
        self._count = 0

    # --- waiting ---------------------------------------------------------------------------------

    def enqueue(self, jobs: Iterable[Job]) -> None:
        """Puts jobs in line: by priority, then in order of first arrival."""
        for job in jobs:
            if not job.order:
                self._count += 1
                job.order = self._count
            bisect.insort(self.waiting, job, key=lambda other: (other.priority, other.order))

    def take(self, jobs: Sequence[Job]) -> None:
        """Takes jobs out of the line."""
        taken = {id(job) for job in jobs}
        self.waiting = [job for job in self.waiting if id(job) not in taken]
        now = time.monotonic()
        for job in jobs:
            if job.started is None:
                job.started = now
                self.on_left(job)

    def expire(
        self, running: Iterable[Job] = (), generated: Callable[[Job], int] = lambda job: 0
    ) -> list[Job]:
        """Ends jobs whose deadline has passed; returns all jobs that are over, cancelled ones included.

        Args:
            running: Jobs that no longer wait.
            generated: How many tokens a job has generated, for the ledger.
        """
        now = time.monotonic()
        over = []
        for job in {id(job): job for job in (*self.waiting, *running)}.values():
            if now >= job.deadline and not job.future.done():
                waited = now - job.submitted
                error = DeadlineExceeded(f"the request was not finished after {waited:.1f} seconds")
                self.fail(job, error, generated=generated(job))
            if job.future.done():
                over.append(job)
        if over:
            gone = {id(job) for job in over}
            for job in over:
                if job.future.cancelled():
                    self._close(job, "cancelled", "", self.usage(job, generated(job)))
            self.waiting = [job for job in self.waiting if id(job) not in gone]
        return over

    # --- ends ------------------------------------------------------------------------------------

    def stream(
        self,
        job: Job,
        index: int,
        text: str,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        reason: FinishReason | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Gives a piece of a sample to whoever listens."""
        if job.listener is not None:
            job.listener(
                Chunk(
                    text=text,
                    index=index,
                    token_ids=tuple(tokens),
                    logprobs=tuple(logprobs),
                    finish_reason=reason,
                    usage=usage,
                )
            )

    def finish(self, job: Job) -> None:
        """Ends a generation of which all samples are there."""
        generated = sum(len(sample.token_ids) for sample in job.samples.values())
        now = time.monotonic()
        usage = self.usage(job, generated)
        asked = job.params.prompt_logprobs
        result = Result(
            completions=tuple(job.samples[i] for i in range(job.params.n)),
            usage=usage,
            model=self.fingerprint,
            adapter=job.adapter_hash,
            seed=job.seed,
            seconds=job.seconds,
            latency=now - job.submitted,
            queued=(job.started or now) - job.submitted,
            first_token=(job.first_token or now) - job.submitted,
            flops=job.flops,
            prompt_token_ids=tuple(job.prompt) if asked else (),
            prompt_logprobs=(None, *job.prompt_logprobs) if asked else (),
        )
        self._close(job, "finished", "", usage)
        _resolve(job.future, result)

    def finish_score(self, job: Job, logprobs: Sequence[float]) -> None:
        """Ends a scoring request."""
        if not all(map(math.isfinite, logprobs)):
            self.fail(job, ModelFailure(NOT_FINITE))
            return
        usage = self.usage(job, 0)
        result = ScoreResult(
            token_ids=tuple(job.completion or ()),
            logprobs=tuple(logprobs),
            usage=usage,
            model=self.fingerprint,
            adapter=job.adapter_hash,
            seconds=job.seconds,
            flops=job.flops,
        )
        self._close(job, "finished", "", usage)
        _resolve(job.future, result)

    def finish_embedding(self, job: Job) -> None:
        """Ends an embedding request: the mean of the hidden states over the text."""
        mean = torch.stack(job.states or []).sum(0) / len(job.prompt)
        if not bool(mean.isfinite().all()):
            self.fail(job, ModelFailure("the model gave hidden states that are not finite"))
            return
        self._close(job, "finished", "", self.usage(job, 0))
        _resolve(job.future, mean.tolist())

    def fail(self, job: Job, error: BaseException, *, generated: int = 0) -> None:
        """Ends a job with an error."""
        if not job.future.done():
            self._close(job, "failed", type(error).__name__, self.usage(job, generated))
            _resolve(job.future, error=error)
        elif job.future.cancelled():
            self._close(job, "cancelled", "", self.usage(job, generated))

    def usage(self, job: Job, generated: int) -> Usage:
        """The tokens of a job that has generated so many."""
        return Usage(
            prompt_tokens=len(job.prompt) + len(job.completion or ()),
            cached_tokens=job.cached,
            generated_tokens=generated,
        )

    def _close(self, job: Job, status: EventStatus, error: str, usage: Usage) -> None:
        """Books a job once, before its result is given out."""
        if job.closed:
            return
        job.closed = True
        if job.started is None:
            self.on_left(job)
        now, wall = time.monotonic(), time.time()
        started = now if job.started is None else job.started
        event = EngineEvent(
            kind="embed" if job.states is not None else "generate" if job.completion is None else "score",
            status=status,
            origin=job.origin,
            model=self.name,
            adapter=job.adapter.name if job.adapter else None,
            sampling=job.params,
            usage=usage,
            finish_reasons=tuple(sample.finish_reason for _, sample in sorted(job.samples.items())),
            submitted=wall - (now - job.submitted),
            started=wall - (now - started),
            first_token=wall - (now - (now if job.first_token is None else job.first_token)),
            ended=wall,
            seconds=job.seconds,
            flops=job.flops,
            error=error,
            prompt=job.asked,
            texts=tuple(sample.text for _, sample in sorted(job.samples.items())),
        )
        job.context_vars.run(self.accounts.record, event, adapter=job.adapter_hash)


def _resolve(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """Sets a future's outcome unless its caller has cancelled it meanwhile."""
    try:
        if error is not None:
            future.set_exception(error if isinstance(error, DocendoError) else _as_failure(error))
        else:
            future.set_result(result)
    except InvalidStateError:
        pass


def _as_failure(error: BaseException) -> InfrastructureError:
    failure = InfrastructureError(f"the model could not be run: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
