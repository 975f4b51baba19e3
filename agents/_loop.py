"""The decode loop: ragged continuous batching over `model.forward`.

Rows join and leave at every step; there is no waiting window. A step prefills what has arrived, up to
a token budget, then decodes one token for all rows. Everything here runs on the engine's owner thread.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from docendo.agents._ledger import LedgerEntry
from docendo.agents._lora import AdapterRouter, LoadedAdapter
from docendo.agents._prefixes import MIN_PREFIX, Match, PrefixStore, shared_length
from docendo.agents._sampling import Draw, draw, sample_seed
from docendo.agents._slots import SlotCache
from docendo.errors import DocendoError, InfrastructureError, ModelFailure
from docendo.records import Completion, FinishReason, Origin, Result, SamplingParams, ScoreResult, Usage

_GREEDY = SamplingParams()
_NO_MATCH = Match(0, None)
_NOTHING = Draw([], [])
_NOT_FINITE = "the model gave logits that are not finite"
#: Prefill tokens per step, padding included: bounds how long a decode step can be delayed.
PREFILL_TOKENS = 1024
#: A prefill batch is extended while at least this share of it is not padding.
MIN_FILL = 0.75
#: Waiting jobs that are looked at in one step.
ADMISSION_WINDOW = 256
#: Positions per call of the vocabulary head: 256 x 49k logits in float32 are 50 MB.
HEAD_POSITIONS = 256


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request inside the loop. `completion` is set for scoring, `params` for generation."""

    prompt: list[int]
    adapter: LoadedAdapter | None
    origin: Origin
    future: Future[Any]
    params: SamplingParams = _GREEDY
    seed: int = 0
    completion: list[int] | None = None
    stops: tuple[str, ...] = ()
    stop_window: int = field(init=False)
    pending: int = 1
    cached: int = 0
    matched: tuple[int, Match] = (-1, _NO_MATCH)
    samples: dict[int, Completion] = field(default_factory=dict)
    submitted: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        # A token is at least one byte of text; the margin is for tokens that decode to nothing.
        self.stop_window = max((len(stop.encode(errors="replace")) for stop in self.stops), default=0) + 8

    @property
    def context(self) -> list[int]:
        """The tokens that have to be in the cache before anything can be read off."""
        return self.prompt if self.completion is None else self.prompt + self.completion[:-1]

    @property
    def prefix_key(self) -> str | None:
        """What stored keys and values depend on besides the tokens."""
        return self.adapter.key if self.adapter else None

    @property
    def adapter_hash(self) -> str | None:
        """SHA-256 of the adapter, or None for the base model."""
        return self.adapter.sha256 if self.adapter else None


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One sample being decoded: its tokens so far, and how many tokens the cache holds of it."""

    job: Job
    index: int
    length: int
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class DecodeLoop:
    """Runs jobs on a causal language model."""

    def __init__(
        self,
        model: Any,
        *,
        ends: frozenset[int],
        decode_text: Callable[[list[int]], str],
        fingerprint: str,
        max_rows: int,
        max_length: int,
        prefix_tokens: int,
        cache_bytes: int,
    ) -> None:
        """Prepares a model in eval mode; `ends` are the tokens that end a completion."""
        self.model = model
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        self.softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them.
        self.scale = getattr(model.config, "logit_scale", None) or 1 / getattr(
            model.config, "logits_scaling", 1.0
        )
        self.window = getattr(model.config.get_text_config(), "sliding_window", None)
        self.layer_types = frozenset(getattr(model.config.get_text_config(), "layer_types", None) or ())
        self.device, self.dtype = model.device, model.dtype
        self.ends, self.decode_text, self.fingerprint = ends, decode_text, fingerprint
        self.max_rows, self.max_length, self.cache_bytes = max_rows, max_length, cache_bytes
        self.router = AdapterRouter()
        self.cache = SlotCache(device=self.device, limit_bytes=cache_bytes)
        self.prefixes = PrefixStore(prefix_tokens)
        self.waiting: deque[Job] = deque()
        self.arriving: list[Job] = []
        self.rows: list[Row] = []
        self.ledger: dict[tuple[str, str, str | None], LedgerEntry] = defaultdict(LedgerEntry)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.rows)

    def step(self) -> None:
        """Prefills new jobs, then decodes one token for every row."""
        self._drop_cancelled()
        batch = self._admit()
        if batch:
            self._prefill(batch)
        if self.rows:
            self._decode()

    def fail_all(self, error: BaseException) -> None:
        """Ends every job with an error."""
        jobs = {id(job): job for job in (*self.waiting, *self.arriving, *(row.job for row in self.rows))}
        self.waiting.clear()
        self.arriving.clear()
        self.rows.clear()
        self.cache = SlotCache(device=self.device, limit_bytes=self.cache_bytes)
        self.prefixes = PrefixStore(self.prefixes.capacity)
        for job in jobs.values():
            _resolve(job.future, error=error)

    # --- admission -------------------------------------------------------------------------------

    def _drop_cancelled(self) -> None:
        """Takes out jobs that were cancelled, and what is left of those that failed."""
        jobs = (*self.waiting, *(row.job for row in self.rows))
        gone = {id(job): job for job in jobs if job.future.done()}
        if not gone:
            return
        for job in gone.values():
            if job.seconds and job.future.cancelled():
                self._charge(job, self._generated(job))
        self.waiting = deque(job for job in self.waiting if id(job) not in gone)
        self._remove([i for i, row in enumerate(self.rows) if id(row.job) in gone])

    def _free_rows(self, job: Job) -> int:
        """How many rows can be added for `job`, by the row limit and the cache's memory limit."""
        longest = max([_longest(job), *(_longest(row.job) for row in self.rows)])
        # What a token takes is known after the first pass, which therefore gets one row.
        token_bytes = self.cache.bytes_per_token or self.cache_bytes
        limit = min(self.max_rows, self.cache_bytes // max(1, token_bytes * longest))
        # A request that alone is larger than the limit still runs, by itself.
        return max(limit, 1) - len(self.rows)

    def _admit(self) -> list[tuple[Job, Match]]:
        """Chooses waiting jobs of similar length, so that little of the prefill is padding.

        The oldest job always goes first. Of jobs that share an unstored beginning only one goes, and the
        others follow in the next step with the prefix it has stored.
        """
        if not self.waiting or self._free_rows(self.waiting[0]) < 1:
            return []
        window = islice(self.waiting, ADMISSION_WINDOW)
        room = max(1, self._free_rows(max(window, key=_longest)))
        candidates: list[tuple[int, Job, Match]] = []
        leaders: dict[tuple[str | None, tuple[int, ...]], list[Job]] = {}
        for job in islice(self.waiting, ADMISSION_WINDOW):
            context = job.context
            match = self._match(job)
            family = (job.prefix_key, tuple(context[:MIN_PREFIX]))
            if len(context) > MIN_PREFIX and self.prefixes.capacity:
                ahead = leaders.setdefault(family, [])
                if any(
                    shared_length(other.context, context) >= max(MIN_PREFIX, 2 * match.length)
                    for other in ahead
                ):
                    continue
                if self.prefixes.worth_storing(match.length, len(context)):
                    ahead.append(job)
            candidates.append((len(context) - match.length, job, match))
        head = candidates[0][0]
        chosen: list[tuple[Job, Match]] = []
        real = widest = rows = 0
        for width, job, match in sorted(
            candidates, key=lambda c: (c[1] is not candidates[0][1], abs(c[0] - head))
        ):
            padded = max(widest, width) * (len(chosen) + 1)
            if chosen and (padded > PREFILL_TOKENS or real + width < MIN_FILL * padded or rows >= room):
                continue
            chosen.append((job, match))
            real, widest, rows = (
                real + width,
                max(widest, width),
                rows + (1 if job.completion else job.pending),
            )
        self.arriving = [job for job, _ in chosen]
        picked = {id(job) for job in self.arriving}
        self.waiting = deque(job for job in self.waiting if id(job) not in picked)
        return chosen

    def _match(self, job: Job) -> Match:
        """The longest stored beginning of a job's tokens, looked up again only when the store has changed."""
        if job.matched[0] != self.prefixes.version:
            found = self.prefixes.match(job.prefix_key, job.context)
            # The last prompt token is always computed: its logits are what is asked for.
            match = Match(min(found.length, len(job.prompt) - 1), found.stored)
            job.matched = (self.prefixes.version, match)
        return job.matched[1]

    # --- the model -------------------------------------------------------------------------------

    def _forward(
        self, first: int, tokens: list[list[int]], starts: list[int], adapters: Sequence[LoadedAdapter | None]
    ) -> torch.Tensor:
        """Runs rows `first`.. over their new tokens; returns hidden states (rows, width, hidden)."""
        width = max(len(row) for row in tokens)
        self._reserve(first + len(tokens), max(starts) + width)
        span = self.cache.aim(first, starts, width)
        padded = torch.tensor([row + [0] * (width - len(row)) for row in tokens], device=self.device)
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(
            width, device=self.device
        )
        self.router.route(adapters, self.device, self.dtype)
        output = self.body(
            input_ids=padded,
            attention_mask=self._mask(positions, span),
            position_ids=positions.clamp(max=self.max_length - 1),
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.last_hidden_state

    def _reserve(self, rows: int, length: int) -> None:
        self.cache.reserve(max(rows, len(self.rows)), max([length, *(row.length for row in self.rows)]))

    def _mask(self, positions: torch.Tensor, span: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive mask (rows, 1, width, span): a token sees itself and what comes before it."""
        keys = torch.arange(span, device=self.device)
        seen = keys <= positions[..., None]

        def additive(allowed: torch.Tensor) -> torch.Tensor:
            zeros = torch.zeros(allowed.shape, device=self.device, dtype=self.dtype)
            return zeros.masked_fill_(~allowed, float("-inf"))[:, None]

        if not self.window:
            return additive(seen)
        near = additive(seen & (keys > positions[..., None] - self.window))
        if "sliding_attention" not in self.layer_types:
            return near if not self.layer_types else additive(seen)
        return {"full_attention": additive(seen), "sliding_attention": near}

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    # --- steps -----------------------------------------------------------------------------------

    def _prefill(self, batch: list[tuple[Job, Match]]) -> None:
        began = time.monotonic()
        first = len(self.rows)
        jobs = [job for job, _ in batch]
        starts = [match.length for _, match in batch]
        news = [job.context[start:] for job, start in zip(jobs, starts, strict=True)]
        self._reserve(first + len(jobs), max(starts) + max(map(len, news)))
        for offset, (_, match) in enumerate(batch):
            if match.length and match.stored is not None:
                self.cache.write(first + offset, match.stored, match.length)
        hidden = self._forward(first, news, starts, [job.adapter for job in jobs])
        arrivals: list[tuple[Job, int, torch.Tensor]] = []
        scores: list[tuple[Job, list[float]]] = []
        for offset, (job, match) in enumerate(batch):
            length = len(job.context)
            outputs = hidden[offset, : length - match.length]
            if job.pending == job.params.n:
                job.cached = match.length
            if not bool(outputs[-1].isfinite().all()):
                # At once: another row may be moved into this slot.
                self.cache.clear(first + offset)
            elif self.prefixes.worth_storing(match.length, length):
                self._store_prefix(job, first + offset)
            if job.completion is not None:
                scores.append((job, self._score(job, outputs[len(job.prompt) - 1 - match.length :])))
            else:
                arrivals.append((job, first + offset, outputs[-1]))
        drawn = self._start_rows(arrivals) if arrivals else _NOTHING
        # Before anything is given out, because results carry their seconds.
        spent = (time.monotonic() - began) / len(jobs)
        for job in jobs:
            job.seconds += spent
        self.arriving = []
        for job, logprobs in scores:
            self._finish_score(job, logprobs)
        self._accept(range(first, len(self.rows)), drawn)

    def _start_rows(self, arrivals: list[tuple[Job, int, torch.Tensor]]) -> Draw:
        """Turns prefilled jobs into rows, `n` of them sharing one prefill, and draws their first token."""
        logits = self._logits(torch.stack([hidden for _, _, hidden in arrivals]))
        rows: list[Row] = []
        sources: list[int] = []
        picks: list[int] = []
        room = self._free_rows(max((job for job, _, _ in arrivals), key=_longest))
        for number, (job, source, last) in enumerate(arrivals):
            # Every prefilled job gets at least one row; what does not fit comes back for a cached prefill.
            count = max(1, min(job.pending, room - len(rows) - (len(arrivals) - number - 1)))
            start = job.params.n - job.pending
            for index in range(start, start + count):
                rows.append(
                    Row(job=job, index=index, length=len(job.prompt), seed=sample_seed(job.seed, index))
                )
                sources.append(source)
                picks.append(number)
            job.pending -= count
            if job.pending:
                if bool(last.isfinite().all()):
                    self._store_prefix(job, source)
                self.waiting.appendleft(job)
        first = len(self.rows)
        longest = max(row.length for row in rows)
        targets = list(range(first, first + len(rows)))
        self._reserve(targets[-1] + 1, longest)
        if sources != targets:
            self.cache.move(sources, targets, longest)
        drawn = self._draw(logits[picks], rows)
        self.rows.extend(rows)
        return drawn

    def _store_prefix(self, job: Job, row: int) -> None:
        self.prefixes.put(job.prefix_key, job.context, self.cache.read(row, len(job.context)))

    def _draw(self, logits: torch.Tensor, rows: Sequence[Row]) -> Draw:
        penalised = any(row.job.params.repetition_penalty != 1.0 for row in rows)
        return draw(
            logits,
            [row.job.params for row in rows],
            [row.seed for row in rows],
            [len(row.tokens) for row in rows],
            [row.job.prompt + row.tokens for row in rows] if penalised else [[]] * len(rows),
        )

    def _score(self, job: Job, hidden: torch.Tensor) -> list[float]:
        targets = torch.tensor(job.completion, device=self.device)
        logprobs: list[float] = []
        for part, wanted in zip(hidden.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True):
            table = torch.log_softmax(self._logits(part).float(), dim=-1)
            logprobs += table.gather(1, wanted[:, None])[:, 0].tolist()
        return logprobs

    def _finish_score(self, job: Job, logprobs: list[float]) -> None:
        self._charge(job, 0)
        result = ScoreResult(
            token_ids=tuple(job.completion or ()),
            logprobs=tuple(logprobs),
            usage=Usage(prompt_tokens=len(job.prompt) + len(logprobs), cached_tokens=job.cached),
            model=self.fingerprint,
            adapter=job.adapter_hash,
        )
        finite = all(map(math.isfinite, logprobs))
        _resolve(job.future, result, None if finite else ModelFailure(_NOT_FINITE))

    def _decode(self) -> None:
        began = time.monotonic()
        rows = self.rows
        hidden = self._forward(
            0,
            [[row.tokens[-1]] for row in rows],
            [row.length for row in rows],
            [row.job.adapter for row in rows],
        )
        drawn = self._draw(self._logits(hidden[:, -1]), rows)
        for row in rows:
            row.length += 1
        spent = (time.monotonic() - began) / len(rows)
        for row in rows:
            row.job.seconds += spent
        self._accept(range(len(rows)), drawn)

    def _accept(self, indices: Sequence[int], drawn: Draw) -> None:
        """Appends drawn tokens to their rows and takes out the rows that are done."""
        done = []
        for index, token, logprob in zip(indices, drawn.tokens, drawn.logprobs, strict=True):
            row = self.rows[index]
            if not math.isfinite(logprob):
                done.append(index)
                self.cache.clear(index)
                if not row.job.future.done():
                    self._charge(row.job, self._generated(row.job))
                    _resolve(row.job.future, error=ModelFailure(_NOT_FINITE))
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            ending = self._ending(row)
            if ending is not None:
                done.append(index)
                self._finish(row, *ending)
        self._remove(done)

    def _ending(self, row: Row) -> tuple[str, FinishReason] | None:
        """The text and the reason if the row is done."""
        job = row.job
        if row.tokens[-1] in self.ends:
            return self.decode_text(row.tokens[:-1]), "stop"
        if job.stops:
            # A stop string can only be completed by the newest token: look at a tail that surely holds it.
            tail = self.decode_text(row.tokens[-job.stop_window :])
            if any(stop in tail for stop in job.stops):
                text = self.decode_text(row.tokens)
                cuts = [cut for stop in job.stops if (cut := text.find(stop)) >= 0]
                if cuts:
                    return text[: min(cuts)], "stop"
        if len(row.tokens) >= job.params.max_tokens:
            return self.decode_text(row.tokens), "length"
        return None

    def _finish(self, row: Row, text: str, reason: FinishReason) -> None:
        job = row.job
        job.samples[row.index] = Completion(
            text=text, token_ids=tuple(row.tokens), logprobs=tuple(row.logprobs), finish_reason=reason
        )
        if len(job.samples) < job.params.n:
            return
        generated = sum(len(c.token_ids) for c in job.samples.values())
        self._charge(job, generated)
        result = Result(
            completions=tuple(job.samples[i] for i in range(job.params.n)),
            usage=Usage(prompt_tokens=len(job.prompt), cached_tokens=job.cached, generated_tokens=generated),
            model=self.fingerprint,
            adapter=job.adapter_hash,
            seed=job.seed,
            seconds=job.seconds,
            latency=time.monotonic() - job.submitted,
        )
        _resolve(job.future, result)

    def _remove(self, indices: list[int]) -> None:
        """Takes rows out and fills the holes with rows from the end, so that rows stay dense."""
        if not indices:
            return
        gone = set(indices)
        keep = len(self.rows) - len(gone)
        holes = [i for i in sorted(gone) if i < keep]
        movers = [i for i in range(keep, len(self.rows)) if i not in gone]
        if movers:
            self.cache.move(movers, holes, max(self.rows[i].length for i in movers))
            for hole, mover in zip(holes, movers, strict=True):
                self.rows[hole] = self.rows[mover]
        del self.rows[keep:]

    def _generated(self, job: Job) -> int:
        """Tokens generated so far for a job, over its finished and its running samples."""
        finished = sum(len(sample.token_ids) for sample in job.samples.values())
        return finished + sum(
            len(row.tokens) for row in self.rows if row.job is job and row.index not in job.samples
        )

    def _charge(self, job: Job, generated: int) -> None:
        entry = self.ledger[(job.origin.role, job.origin.agent, job.adapter_hash)]
        entry.calls += 1
        entry.prompt_tokens += len(job.prompt) + len(job.completion or ())
        entry.cached_tokens += job.cached
        entry.generated_tokens += generated
        entry.seconds += job.seconds


def _longest(job: Job) -> int:
    """Most tokens that a row of the job can come to hold."""
    return len(job.prompt) + (job.params.max_tokens if job.completion is None else len(job.completion))


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
