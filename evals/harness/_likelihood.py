"""Asking for the likeliest choice: the model scores each of them, nothing is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from docendo.evals.harness._models import ModelAsker, plain
from docendo.evals.harness._replies import Reply, Said
from docendo.evals.items._scorer import LETTERS, stem
from docendo.hashing import digest
from docendo.records import Item, ScoreRequest, ScoreResult, Usage


class LikelihoodAsker(ModelAsker[ScoreResult]):
    """Scores each choice as the answer to the question, which is shown without the list of choices.

    A choice is judged by the sum of its tokens' log-probabilities, or by that for each byte of its UTF-8
    text, as `acc` and `acc_bytes` of lm-eval do. Equal ones go to the first. The confidence is the
    choice's share of the likelihood of all choices.
    """

    def __init__(self, agent: Any, *, name: str, per_byte: bool) -> None:
        super().__init__(agent, name=name)
        self._per_byte = per_byte

    def key(self, item: Item) -> str | None:
        """By what is asked of which weights; both ways of judging use the same answers."""
        prompt, completions = self._asked(item)
        return digest("likelihood", self.model, self.adapter, plain(prompt), completions, self._per_byte)

    def _asked(self, item: Item) -> tuple[Any, list[str]]:
        prompt = self.agent.messages(item.public.replace(question=stem(item.public)))
        # A chat template has set the answer off already; in plain text a space does.
        gap = " " if isinstance(prompt, str) else ""
        return prompt, [f"{gap}{choice}" for choice in item.public.choices]

    def _submit(self, item: Item) -> list[Future[ScoreResult]]:
        prompt, completions = self._asked(item)
        origin = self._origin(item)
        return [
            self.agent.engine.submit_score(
                ScoreRequest(prompt=prompt, completion=text, adapter=self.agent.adapter, origin=origin)
            )
            for text in completions
        ]

    def _reply(self, item: Item, answers: list[ScoreResult]) -> Reply:
        totals = [answer.total for answer in answers]
        lengths = [len(choice.encode()) or 1 for choice in item.public.choices]
        judged = [total / length for total, length in zip(totals, lengths, strict=True)]
        best, confidence = _likeliest(judged if self._per_byte else totals)
        usage = Usage()
        for answer in answers:
            usage += answer.usage
        return Reply(
            samples=(Said(text=f"Answer: {LETTERS[best]}", confidence=confidence),),
            choices=tuple(totals),
            usage=usage,
            seconds=sum(answer.seconds for answer in answers),
            flops=sum(answer.flops for answer in answers),
        )


def _likeliest(logprobs: Sequence[float]) -> tuple[int, float]:
    best = max(range(len(logprobs)), key=logprobs.__getitem__)
    return best, 1.0 / math.fsum(math.exp(each - logprobs[best]) for each in logprobs)
