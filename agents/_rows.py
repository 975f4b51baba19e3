"""Rows: samples being written, and what happens to each token they draw."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from docendo.agents._grammar import Matcher
from docendo.agents._jobs import NOT_FINITE, Desk, Job
from docendo.agents._lora import AdapterRouter
from docendo.agents._prefixes import Beginning
from docendo.agents._sampling import Draw, draw
from docendo.agents._streams import certain_text
from docendo.errors import DocendoError, ModelFailure
from docendo.records import Completion, FinishReason, Usage


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One sample, or one text to score: its place is that of its keys and values in the cache.

    Attributes:
        job: The request it belongs to.
        index: Which of the request's samples it is.
        seed: Seed of its random numbers.
        context: Tokens that come before the first generated one.
        length: How many of its tokens the cache holds.
        shared: What it has in common with other rows, held once for all of them; its slot holds the rest.
        wanted: First position whose next token's log-probability is asked for, or None.
    """

    job: Job
    index: int
    seed: int
    context: list[int]
    length: int = 0
    shared: Beginning | None = None
    wanted: int | None = None
    matcher: Matcher | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    sent_text: int = 0
    sent_tokens: int = 0

    @property
    def held(self) -> int:
        """How many tokens its slot holds."""
        return self.length - (self.shared.length if self.shared else 0)

    @property
    def stepping(self) -> bool:
        """Whether its context is computed, so that it takes one step a pass."""
        return self.length >= len(self.context)


class RowLoop:
    """What a loop does with rows, however their logits are computed."""

    def __init__(self, desk: Desk, *, invariant: bool = False) -> None:
        """`desk` is where jobs wait and end; `invariant` asks for bits that do not depend on others."""
        self.desk, self.invariant = desk, invariant
        self.router = AdapterRouter(fusing=not invariant)
        self.rows: list[Row] = []
        #: Takes in what has been submitted meanwhile, during a step that takes long.
        self.take_in: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.desk.waiting or self.rows)

    @property
    def next_deadline(self) -> float:
        """The first moment at which a job is late, as `time.monotonic` counts."""
        return min((job.deadline for job in (*self.desk.waiting, *self.running)), default=math.inf)

    @property
    def running(self) -> list[Job]:
        """The jobs that are being computed."""
        return list({id(row.job): row.job for row in self.rows}.values())

    def step(self) -> None:
        """Does some work."""
        raise NotImplementedError

    def expire(self) -> None:
        """Ends jobs that are late, and takes out those that were cancelled."""
        over = {id(job) for job in self.desk.expire(self.running, self._generated)}
        if over:
            self._remove({row for row in self.rows if id(row.job) in over})

    def fail_running(self, error: BaseException) -> None:
        """Ends the jobs whose pass has failed; those that wait are untouched."""
        jobs = self.running
        gone = {id(job) for job in jobs}
        self.desk.waiting = [job for job in self.desk.waiting if id(job) not in gone]
        for job in jobs:
            self.desk.fail(job, error, generated=self._generated(job))
        self.rows = []

    def fail_all(self, error: BaseException) -> None:
        """Ends every job with an error."""
        self.fail_running(error)
        waiting, self.desk.waiting = self.desk.waiting, []
        for job in waiting:
            self.desk.fail(job, error)

    def _remove(self, gone: set[Row]) -> None:
        """Takes rows out."""
        self.rows = [row for row in self.rows if row not in gone]

    def _poisoned(self, row: Row) -> None:
        """Called for a row whose logits were not finite."""

    def _draw(self, logits: torch.Tensor, rows: Sequence[Row]) -> Draw:
        if self.invariant and len(rows) > 1:
            # The last bits of a sum over the vocabulary depend on how many rows it is taken of.
            drawn = [self._draw(logits[number : number + 1], [row]) for number, row in enumerate(rows)]
            return Draw(
                [one.tokens[0] for one in drawn],
                [one.logprobs[0] for one in drawn],
                {number: one.top[0] for number, one in enumerate(drawn) if one.top},
            )
        return draw(
            logits,
            [row.job.params for row in rows],
            [row.seed for row in rows],
            [len(row.tokens) for row in rows],
            [row.context + row.tokens if row.job.params.repetition_penalty != 1.0 else () for row in rows],
            self._masks(rows, logits.shape[-1]),
        )

    def _masks(self, rows: Sequence[Row], width: int) -> torch.Tensor | None:
        """What the grammars of rows allow next, a bit per token; None where no row has one."""
        if all(row.matcher is None for row in rows):
            return None
        masks = torch.zeros(len(rows), -(-max(width, self.desk.mask_width) // 32), dtype=torch.int32)
        for number, row in enumerate(rows):
            if row.matcher is not None:
                try:
                    row.matcher.fill(masks, number)
                except DocendoError as error:
                    masks[number] = -1
                    self.desk.fail(row.job, error, generated=self._generated(row.job))
        return masks

    def _accept(self, rows: Sequence[Row], drawn: Draw) -> set[Row]:
        """Appends drawn tokens to their rows; returns the rows that are done."""
        done: set[Row] = set()
        now = time.monotonic()
        for number, (row, token, logprob) in enumerate(zip(rows, drawn.tokens, drawn.logprobs, strict=True)):
            job = row.job
            if job.future.done():
                continue  # `expire` books it and takes it out before the next pass
            if not math.isfinite(logprob):
                done.add(row)
                self._poisoned(row)
                self.desk.fail(job, ModelFailure(NOT_FINITE), generated=self._generated(job))
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if job.params.top_logprobs:
                row.top.append(drawn.top[number])
            if job.first_token is None:
                job.first_token = now
            ending = self._ending(row)
            if ending is not None:
                done.add(row)
                self._finish(row, *ending)
            elif job.listener is not None:
                self._send(row, certain_text(self.desk.decode_text(row.tokens), job.stops))
        return done

    def _ending(self, row: Row) -> tuple[str, FinishReason] | None:
        """The text and the reason if the row is done."""
        job, token = row.job, row.tokens[-1]
        if token in job.ends:
            return self.desk.decode_text(row.tokens[:-1]), "stop"
        if job.stops:
            # A stop string can only be completed by the newest token: look at a tail that surely holds it.
            tail = self.desk.decode_text(row.tokens[-job.stop_window :])
            if any(stop in tail for stop in job.stops):
                text = self.desk.decode_text(row.tokens)
                cuts = [cut for stop in job.stops if (cut := text.find(stop)) >= 0]
                if cuts:
                    return text[: min(cuts)], "stop"
        if row.matcher is not None:
            row.matcher.accept(token)
            if row.matcher.finished:
                return self.desk.decode_text(row.tokens), "stop"
        if len(row.tokens) >= job.params.max_tokens:
            return self.desk.decode_text(row.tokens), "length"
        return None

    def _finish(self, row: Row, text: str, reason: FinishReason) -> None:
        job = row.job
        job.samples[row.index] = Completion(
            text=text,
            token_ids=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            finish_reason=reason,
            top_logprobs=tuple(row.top),
        )
        last = len(job.samples) == job.params.n
        self._send(row, text, reason, self.desk.usage(job, self._generated(job)) if last else None)
        if last:
            self.desk.finish(job)

    def _send(
        self, row: Row, text: str, reason: FinishReason | None = None, usage: Usage | None = None
    ) -> None:
        if row.job.listener is not None and (reason or len(text) > row.sent_text):
            since = row.sent_tokens
            piece = text[row.sent_text :]
            tokens, logprobs = row.tokens[since:], row.logprobs[since:]
            self.desk.stream(row.job, row.index, piece, tokens, logprobs, reason, usage)
            row.sent_text, row.sent_tokens = max(row.sent_text, len(text)), len(row.tokens)

    def _generated(self, job: Job) -> int:
        """Tokens generated so far for a job, over its finished and its running samples."""
        finished = sum(len(sample.token_ids) for sample in job.samples.values())
        return finished + sum(
            len(row.tokens) for row in self.rows if row.job is job and row.index not in job.samples
        )
