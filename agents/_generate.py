"""The fallback for models that the packed loop cannot serve: transformers' `generate`, a request at a time.

Slower, and right for any model: sampling, seeds, stop strings, grammar and streaming are the engine's own,
through a logits processor that leaves `generate` one token to choose. The samples of a request share a
batch, in which all prompts are the same and nothing is padded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from docendo.agents._jobs import Desk, Job
from docendo.agents._lora import AdapterRouter, LoadedAdapter
from docendo.agents._rows import Row, RowLoop
from docendo.agents._sampling import sample_seed


class GenerateLoop(RowLoop):
    """Runs jobs on any causal language model, one after the other."""

    def __init__(
        self,
        model: Any,
        desk: Desk,
        *,
        max_rows: int = 64,
        invariant: bool = False,
        flops: Callable[[int, int, int, LoadedAdapter | None], float] = lambda *_: 0.0,
    ) -> None:
        """Prepares a model in eval mode.

        Args:
            model: The causal language model.
            desk: Where jobs wait and end.
            max_rows: Most samples of a request in one batch.
            invariant: Gives every sample a batch of its own.
            flops: As for `DecodeLoop`.
        """
        super().__init__(desk, invariant=invariant)
        # The tokens of its passes are not counted, and its layers may be packed by a check that failed.
        self.router = AdapterRouter(fusing=False)
        self._current: Job | None = None
        self.model, self.max_rows, self.flops = model, max_rows, flops
        self.device, self.dtype = model.device, model.dtype

    @property
    def running(self) -> list[Job]:
        """The job that is being computed, if there is one."""
        return [] if self._current is None else [self._current]

    def fail_running(self, error: BaseException) -> None:
        """Ends the job whose pass has failed; those that wait are untouched."""
        super().fail_running(error)
        self._current = None

    def step(self) -> None:
        """Runs the next job to its end."""
        self.expire()
        if not self.desk.waiting:
            return
        job = self._current = self.desk.waiting[0]
        self.desk.take([job])
        # Every token of the job's passes is served by its adapter, however many there are.
        self.router.route([(job.adapter, sys.maxsize)], self.device, self.dtype)
        if job.states is not None:
            self._embed(job)
        elif job.completion is not None:
            self._score(job)
        else:
            if job.params.prompt_logprobs:
                job.prompt_logprobs = self._logprobs(job, job.prompt, 0)
            batch = 1 if self.invariant else self.max_rows
            for start in range(0, job.params.n, batch):
                if not job.future.done():
                    self._generate(job, range(start, min(start + batch, job.params.n)))
        self.expire()  # books it if it was cancelled on the way
        self._current, self.rows = None, []

    def _generate(self, job: Job, samples: range) -> None:
        self.rows = [
            Row(job=job, index=index, seed=sample_seed(job.seed, index), context=job.prompt)
            for index in samples
        ]
        steering = _Steering(self, job)
        ids = torch.tensor([job.prompt] * len(samples), device=self.device)
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=job.params.max_tokens,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([steering]),
            stopping_criteria=StoppingCriteriaList([_Over(steering)]),
        )

    def _score(self, job: Job) -> None:
        text = job.prompt + (job.completion or [])
        self.desk.finish_score(job, self._logprobs(job, text, len(job.prompt) - 1))

    def _embed(self, job: Job) -> None:
        began = time.monotonic()
        ids = torch.tensor([job.prompt], device=self.device)
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        job.states = [hidden.float().sum(0)]
        job.seconds += time.monotonic() - began
        job.flops += self.flops(len(job.prompt), 0, 0, job.adapter)
        self.desk.finish_embedding(job)

    def _logprobs(self, job: Job, text: list[int], first: int) -> list[float]:
        """Log-probabilities of the tokens of `text` after position `first`."""
        began = time.monotonic()
        ids = torch.tensor([text], device=self.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, first:-1].float()
        found = logits.gather(1, ids[0, first + 1 :, None])[:, 0] - logits.logsumexp(-1)
        job.seconds += time.monotonic() - began
        job.flops += self.flops(len(text), 0, len(text), job.adapter)
        values: list[float] = found.tolist()
        return values


class _Steering(LogitsProcessor):
    """Draws each row's token by the engine's own rules and leaves `generate` no other."""

    def __init__(self, loop: GenerateLoop, job: Job) -> None:
        self.loop, self.job = loop, job
        self.done: set[Row] = set()
        self.began = time.monotonic()
        for row in loop.rows:
            if job.grammar is not None:
                row.matcher = job.grammar.matcher()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Replaces the scores (rows, vocabulary)."""
        loop, job = self.loop, self.job
        rows = loop.rows
        for row in rows:
            fed = 1 if row.tokens else len(row.context)
            job.flops += loop.flops(fed, row.length, 1, job.adapter)
            row.length += fed
        live = [number for number, row in enumerate(rows) if row not in self.done]
        chosen = torch.zeros(len(rows), dtype=torch.long, device=scores.device)
        if live:
            drawn = loop._draw(scores[live], [rows[number] for number in live])
            chosen[live] = torch.tensor(drawn.tokens, device=scores.device)
            now = time.monotonic()
            job.seconds += now - self.began
            self.began = now
            self.done |= loop._accept([rows[number] for number in live], drawn)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)


class _Over(StoppingCriteria):
    """Stops when every row is done, or the job is cancelled or late."""

    def __init__(self, steering: _Steering) -> None:
        self.steering = steering

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.Tensor:
        """One flag per row."""
        loop, job = self.steering.loop, self.steering.job
        loop.take_in()
        if job.future.cancelled() or time.monotonic() >= loop.next_deadline:
            loop.expire()
        over = job.future.done() or len(self.steering.done) == len(input_ids)
        return torch.full((len(input_ids),), over, device=input_ids.device, dtype=torch.bool)
