"""The decode loop: ragged continuous batching over `model.forward`.

Rows join and leave at every step; there is no waiting window. A pass is packed: every row that is being
decoded brings one token, and rows whose prompt is not yet computed bring pieces of it, up to a budget,
so that a long prompt never holds up the others. Everything here runs on the engine's owner thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from docendo.agents._attention import attending
from docendo.agents._jobs import Desk, Job
from docendo.agents._lora import LoadedAdapter
from docendo.agents._prefixes import MIN_PREFIX, Match, PrefixTree
from docendo.agents._rows import Row, RowLoop
from docendo.agents._sampling import Draw, sample_seed
from docendo.agents._sharing import Sharing
from docendo.agents._slots import KVShape, Layout, SlotCache, Stretch, whole_blocks
from docendo.errors import ModelFailure

#: Prompt tokens per pass while rows are being decoded: bounds how long their next token can be delayed.
MIXED_TOKENS = 1024
#: Prompt tokens per pass while nothing is being decoded.
PREFILL_TOKENS = 2048
#: Under invariance a prompt is always cut here, so that a piece is computed alike whatever is stored.
INVARIANT_TOKENS = 256
#: Waiting jobs that are looked at in one step.
ADMISSION_WINDOW = 256
#: Positions per call of the vocabulary head: 256 x 49k logits in float32 are 50 MB.
HEAD_POSITIONS = 256
#: Memory that an idle engine keeps for rows to come.
IDLE_BYTES = 256 << 20


class Feed(NamedTuple):
    """What a row brings to a pass: its place, and its tokens."""

    slot: int
    row: Row
    tokens: list[int]


class DecodeLoop(RowLoop):
    """Runs jobs on a causal language model.

    A row's place in `rows` is its slot in the cache. Rows that step come first, then those whose prompt is
    still to be computed.
    """

    def __init__(
        self,
        model: Any,
        desk: Desk,
        *,
        kv: KVShape,
        max_rows: int,
        max_length: int,
        prefix_tokens: int,
        cache_bytes: int,
        invariant: bool = False,
        flops: Callable[[int, int, int, LoadedAdapter | None], float] = lambda *_: 0.0,
    ) -> None:
        """Prepares a model in eval mode, whose attention is that of `_attention`.

        Args:
            model: The causal language model.
            desk: Where jobs wait and end.
            kv: Shape of the model's keys and values.
            max_rows: Most rows at once.
            max_length: Most positions the model knows.
            prefix_tokens: Tokens of prompt beginnings kept for reuse.
            cache_bytes: Memory for keys and values of running rows.
            invariant: Runs each row by itself, so that its bits do not depend on others.
            flops: Estimates the operations of a pass's part: new tokens, tokens before, positions through
                the vocabulary head, adapter.
        """
        super().__init__(desk, invariant=invariant)
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        text = model.config.get_text_config()
        self.softcap = getattr(text, "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them.
        self.scale = getattr(model.config, "logit_scale", None) or 1 / getattr(
            model.config, "logits_scaling", 1.0
        )
        self.device, self.dtype = model.device, model.dtype
        self.max_rows, self.max_length, self.cache_bytes = max_rows, max_length, cache_bytes
        self.flops = flops
        self.cache = SlotCache(kv, dtype=self.dtype, device=self.device, limit_bytes=cache_bytes)
        self.prefixes = PrefixTree(prefix_tokens)
        self.sharing = Sharing(self.cache, max_rows=max_rows, enabled=not invariant)

    def step(self) -> None:
        """Takes in new jobs, then runs one pass."""
        self.expire()
        self._admit()
        if not self.rows:
            return
        # Under invariance each row has a pass of its own.
        for only in list(self.rows) if self.invariant else [None]:
            if feeds := self._feeds(only):
                self._pass(feeds)
        if not self.rows and not self.desk.waiting:
            self._idle()

    def fail_running(self, error: BaseException) -> None:
        """Ends the jobs whose pass has failed; those that wait are untouched."""
        super().fail_running(error)
        # Whatever the pass has left in them is not to be trusted.
        self.cache.free()
        self.prefixes = PrefixTree(self.prefixes.capacity)

    def _poisoned(self, row: Row) -> None:
        # At once: another row may be moved into this slot.
        self.cache.clear(self._slot(row))

    def _slot(self, row: Row) -> int:
        return next(slot for slot, other in enumerate(self.rows) if other is row)

    def _idle(self) -> None:
        if self.cache.nbytes > IDLE_BYTES:
            self.cache.free()

    # --- admission -------------------------------------------------------------------------------

    def _room(self, job: Job, starting: Sequence[Job] = ()) -> int:
        """How many rows can be added for `job`, by the row limit and the cache's memory limit.

        Args:
            starting: Jobs that will have a row each before.
        """
        # What rows share lies outside their slots, and counts once.
        own = (row.job.longest - (row.length - row.held) for row in self.rows)
        longest = whole_blocks(max([job.longest, *(one.longest for one in starting), *own]))
        tokens = self.cache_bytes // self.cache.bytes_per_token - self.sharing.tokens(self.rows)
        limit = min(self.max_rows, tokens // longest)
        # A request that alone is larger than the limit still runs, by itself.
        return max(limit, 1) - len(self.rows) - len(starting)

    def _admit(self) -> None:
        """Gives waiting jobs rows, in order, while there is room and not enough prompt to compute.

        Of jobs that share a beginning which is not stored yet only one goes; the others follow when it has
        been computed.
        """
        backlog = [row for row in self.rows if not row.stepping]
        ahead = {id(row.job): row.job for row in backlog}
        tokens = sum(len(row.context) - row.length for row in backlog)
        chosen: list[tuple[Job, Match]] = []
        for job in self.desk.waiting[:ADMISSION_WINDOW]:
            if tokens >= PREFILL_TOKENS or self._room(job, [other for other, _ in chosen]) < 1:
                break
            match = self._match(job)
            if self.prefixes.capacity and any(
                self._worth_waiting(job, match, other) for other in ahead.values()
            ):
                continue
            ahead[id(job)] = job
            chosen.append((job, match))
            tokens += len(job.context) - match.length
        # Rows of one adapter stand side by side, so that they share its products and calls of attention.
        for job, match in sorted(chosen, key=lambda pair: _adapter_key(pair[0])):
            self._start(job, match)
        if chosen:
            self.desk.take([job for job, _ in chosen])

    def _worth_waiting(self, job: Job, match: Match, other: Job) -> bool:
        """Whether `other`, which is being computed, will store a beginning that spares `job` enough."""
        key, limit = job.prefix(len(job.prompt) - 1)
        other_key, other_limit = other.prefix(len(other.context))
        if key != other_key or other.whole or job.whole or other.priority > job.priority:
            return False
        enough = match.length + max(MIN_PREFIX, match.length // 4)
        return enough <= min(limit, other_limit) and job.context[:enough] == other.context[:enough]

    def _match(self, job: Job) -> Match:
        """The longest stored beginning of a job's tokens, looked up again only when the store has changed."""
        version, match = job.matched
        if version != self.prefixes.version:
            # The last prompt token is always computed: its logits are what is asked for.
            last = 0 if job.whole else len(job.prompt) - 1
            key, limit = job.prefix(last)
            if self.invariant:
                limit -= limit % INVARIANT_TOKENS
            match = self.prefixes.match(key, job.context, limit)
            if self.invariant and match.length % INVARIANT_TOKENS:
                match = self.prefixes.match(key, job.context, match.length - match.length % INVARIANT_TOKENS)
            job.matched = (self.prefixes.version, match)
        return match

    def _start(self, job: Job, match: Match) -> None:
        """Makes the row that computes a job's context."""
        shared = self.sharing.beginning(job, match, self.rows, self.desk.waiting[:ADMISSION_WINDOW])
        index = job.params.n - job.pending
        row = Row(job=job, index=index, seed=sample_seed(job.seed, index), context=job.context, shared=shared)
        row.length = shared.length if shared else 0
        if job.completion is not None:
            row.wanted = len(job.prompt) - 1
        elif job.params.prompt_logprobs and not job.prompt_logprobs:
            row.wanted = 0
        if job.pending == job.params.n:
            job.cached = match.length
        job.pending -= 1
        slot = len(self.rows)
        self.rows.append(row)
        self.cache.reserve(
            len(self.rows), max(match.length - row.length, *(other.held for other in self.rows))
        )
        for piece in match.part(row.length, match.length):
            self.cache.write(slot, row.held, piece)
            row.length += piece.length

    # --- one pass --------------------------------------------------------------------------------

    def _feeds(self, only: Row | None) -> list[Feed]:
        """What rows, or one alone, bring to a pass: a token, or a piece of their prompt within the budget.

        Pieces of one adapter lie side by side, so that they share its products.
        """
        budget = MIXED_TOKENS if self.rows and self.rows[0].stepping else PREFILL_TOKENS
        steps, pieces, begun = [], [], []
        for slot, row in enumerate(self.rows):
            if only is not None and row is not only:
                continue
            if row.stepping:
                steps.append(Feed(slot, row, [row.tokens[-1]]))
            else:
                begun.append((slot, row))
        # Slots are in order of adapters; the budget goes by priority and arrival.
        for slot, row in sorted(begun, key=lambda one: (one[1].job.priority, one[1].job.order)):
            if budget <= 0:
                break
            # Under invariance a prompt is always cut at the same places.
            limit = INVARIANT_TOKENS - row.length % INVARIANT_TOKENS if self.invariant else budget
            tokens = row.context[row.length : row.length + limit]
            budget -= len(tokens)
            pieces.append(Feed(slot, row, tokens))
        return steps + sorted(pieces, key=lambda feed: (_adapter_key(feed.row.job), feed.slot))

    def _pass(self, feeds: list[Feed]) -> None:
        """Runs rows over their new tokens, and gives each what it has been waiting for."""
        began = time.monotonic()
        hidden, offsets = self._forward(feeds)
        broken = self._broken(feeds, hidden, offsets)
        known: list[tuple[Row, torch.Tensor, list[int]]] = []
        last: list[tuple[Row, int]] = []
        for (_, row, tokens), offset in zip(feeds, offsets, strict=True):
            start, stop = row.length, row.length + len(tokens)
            if row in broken:
                row.job.flops += self.flops(len(tokens), start, 0, row.job.adapter)
                continue
            heads = 0
            low, high, targets = _wanted(row, start, stop)
            if row.job.states is not None:
                row.job.states.append(hidden[offset : offset + len(tokens)].float().sum(0))
            if targets:
                known.append((row, hidden[offset + low - start : offset + high - start], targets))
                heads = len(targets)
            row.length = stop
            if row.job.completion is None and row.stepping:
                last.append((row, offset + len(tokens) - 1))
                heads += 1
            row.job.flops += self.flops(len(tokens), start, heads, row.job.adapter)
        for row, states, targets in known:
            logprobs = self._log_probabilities(states, targets)
            (row.logprobs if row.job.completion is not None else row.job.prompt_logprobs).extend(logprobs)
        ready: list[Row] = []
        drawn: Draw | None = None
        if last:
            logits = self._logits(hidden[[offset for _, offset in last]])
            ready, picks = self._ready([row for row, _ in last], logits)
            drawn = self._draw(logits if picks is None else logits[picks], ready)
        # Before anything is given out, because results carry their seconds.
        spent = (time.monotonic() - began) / len(hidden)
        for _, row, tokens in feeds:
            row.job.seconds += spent * len(tokens)
        done = {
            row for _, row, _ in feeds if row.job.completion is not None and row.length >= len(row.context)
        }
        done -= broken
        for row in broken:
            error = ModelFailure("the model gave hidden states that are not finite")
            self.desk.fail(row.job, error, generated=self._generated(row.job))
        for row in done:
            self._end(row)
        if drawn:
            done |= self._accept(ready, drawn)
        self._remove(done | broken)

    def _broken(self, feeds: list[Feed], hidden: torch.Tensor, offsets: list[int]) -> set[Row]:
        """The rows whose numbers are not finite.

        Their slots are cleared at once, because masked attention reads what a slot held before: 0 x NaN is
        NaN.
        """
        # A sum is finite only if all are; to look at each takes ten to forty times as long.
        if bool(hidden.sum(dtype=torch.float32).isfinite()):
            return set()
        broken: set[Row] = set()
        for (slot, row, tokens), offset in zip(feeds, offsets, strict=True):
            if not bool(hidden[offset : offset + len(tokens)].isfinite().all()):
                broken.add(row)
                self.cache.clear(slot)
        return broken

    def _end(self, row: Row) -> None:
        """Ends a request that generates nothing."""
        if row.job.states is not None:
            self.desk.finish_embedding(row.job)
            return
        self._store_prefix(row, finite=bool(row.logprobs) and all(map(math.isfinite, row.logprobs)))
        self.desk.finish_score(row.job, row.logprobs)

    def _forward(self, feeds: Sequence[Feed]) -> tuple[torch.Tensor, list[int]]:
        """Runs a packed pass; returns hidden states (tokens, hidden) and where each row's begin."""
        steps = [feed for feed in feeds if feed.row.stepping]
        layout = Layout(
            starts=[feed.row.held for feed in steps], stretches=[], first=steps[0].slot if steps else 0
        )
        ids: list[int] = []
        positions: list[int] = []
        offsets = []
        for slot, row, tokens in feeds:
            offsets.append(len(ids))
            if not row.stepping:
                layout.stretches.append(Stretch(slot, row.held, len(ids), len(tokens)))
            ids += tokens
            positions += range(row.length, row.length + len(tokens))
        spans = [
            (feed.row, start, start + len(feed.tokens)) for feed, start in zip(feeds, offsets, strict=True)
        ]
        layout.shared = self.sharing.places(spans, len(ids))
        self.cache.reserve(len(self.rows), max(row.held + len(tokens) for _, row, tokens in feeds))
        self.cache.aim(layout)
        self.router.route(_adapter_runs(feeds), self.device, self.dtype)
        attending(self.cache)
        try:
            output = self.body(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.tensor([positions], device=self.device).clamp_(max=self.max_length - 1),
                past_key_values=self.cache,
                use_cache=True,
            )
        finally:
            attending(None)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden, offsets

    def _log_probabilities(self, hidden: torch.Tensor, targets: list[int]) -> list[float]:
        found: list[float] = []
        wanted = torch.tensor(targets, device=self.device)
        for states, tokens in zip(hidden.split(HEAD_POSITIONS), wanted.split(HEAD_POSITIONS), strict=True):
            logits = self._logits(states).float()
            chosen = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
            found += chosen.tolist()
        return found

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    # --- rows ------------------------------------------------------------------------------------

    def _ready(self, rows: list[Row], logits: torch.Tensor) -> tuple[list[Row], list[int] | None]:
        """Rows that draw a token now: those given, and further samples of prompts just computed.

        Returns:
            The rows, and which line of `logits` each draws from (None: each from its own).
        """
        ready: list[Row] = []
        picks: list[int] = []
        for number, row in enumerate(rows):
            ready.append(row)
            picks.append(number)
            if row.tokens:
                continue
            job = row.job
            # A vocabulary may have entries that are never drawn, at minus infinity.
            finite = bool(logits[number].logsumexp(-1).isfinite())
            self._store_prefix(row, finite=finite)
            self._stand_in_front(row)
            further = min(job.pending, self._room(job)) if finite else 0
            self.sharing.among_samples(row, self._slot(row), further)
            for _ in range(further):
                index = job.params.n - job.pending
                twin = Row(
                    job=job,
                    index=index,
                    seed=sample_seed(job.seed, index),
                    context=row.context,
                    length=row.length,
                    shared=row.shared,
                )
                job.pending -= 1
                self.rows.append(twin)
                self.cache.reserve(len(self.rows), row.held)
                self.cache.copy(self._slot(row), len(self.rows) - 1, row.held)
                self._stand_in_front(twin)
                ready.append(twin)
                picks.append(number)
            if job.pending and not job.future.done():
                # What does not fit comes back, where it was in line, to a prompt that is stored.
                self.desk.enqueue([job])
        for row in ready:
            if row.job.grammar is not None and row.matcher is None:
                row.matcher = row.job.grammar.matcher()
        return ready, None if len(picks) == len(rows) else picks

    def _stand_in_front(self, row: Row) -> None:
        """Moves a row that has begun to step behind those that already do."""
        here = self._slot(row)
        there = next(
            (slot for slot, other in enumerate(self.rows) if not other.stepping and slot < here), here
        )
        if here != there:
            self.cache.swap(here, there, max(row.held, self.rows[there].held))
            self.rows[here], self.rows[there] = self.rows[there], row

    def _store_prefix(self, row: Row, *, finite: bool) -> None:
        if not finite:
            self._poisoned(row)
            return
        key, length = row.job.prefix(len(row.context))
        if self.invariant:
            # Only whole pieces: the bits of a shorter one depend on where its prompt ends.
            length -= length % INVARIANT_TOKENS
        self.prefixes.put(
            key,
            row.context[:length],
            lambda start, stop: self.sharing.read(row, self._slot(row), start, stop),
        )

    def _remove(self, gone: set[Row]) -> None:
        """Takes rows out and fills the holes, so that slots stay dense and stepping rows stay in front."""
        if not gone:
            return
        stepping = [slot for slot, row in enumerate(self.rows) if row.stepping and row not in gone]
        others = [slot for slot, row in enumerate(self.rows) if not row.stepping and row not in gone]
        rows = list(self.rows)
        for kept, low in ((stepping, 0), (others, len(stepping))):
            high = low + len(kept)
            holes = sorted(set(range(low, high)) - set(kept))
            movers = [slot for slot in kept if not low <= slot < high]
            for hole, mover in zip(holes, movers, strict=True):
                self.cache.copy(mover, hole, self.rows[mover].held)
                rows[hole] = self.rows[mover]
        self.rows = rows[: len(stepping) + len(others)]
        if any(row.shared for row in gone):
            self.sharing.take_back(self.rows, gone, self.desk.waiting[:ADMISSION_WINDOW])


def _wanted(row: Row, start: int, stop: int) -> tuple[int, int, list[int]]:
    """From and to which position of a pass the next tokens are known and asked for, and these tokens."""
    text = row.job.prompt + (row.job.completion or [])
    if row.wanted is None or row.wanted >= stop or start >= len(text) - 1:
        return 0, 0, []
    low, high = max(start, row.wanted), min(stop, len(text) - 1)
    return low, high, text[low + 1 : high + 1]


def _adapter_key(job: Job) -> str:
    return job.adapter.key if job.adapter else ""


def _adapter_runs(feeds: Sequence[Feed]) -> list[tuple[LoadedAdapter | None, int]]:
    """Which adapter acts on how many tokens, along the pass."""
    runs: list[tuple[LoadedAdapter | None, int]] = []
    for _, row, tokens in feeds:
        adapter, plain = row.job.adapter, min(max(row.job.activation - row.length, 0), len(tokens))
        for owner, count in ((None, plain), (adapter, len(tokens) - plain)):
            if count:
                runs.append((owner, count))
    return runs
