"""Asking for the likeliest choice: the model scores each of them, nothing is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from docendo.errors import ModelFailure
from docendo.evals.harness._models import ModelAsker, plain
from docendo.evals.harness._replies import Reply, Said
from docendo.evals.items._choices import choice_prompts, pick
from docendo.evals.items._scorer import LETTERS
from docendo.hashing import digest
from docendo.records import Item, ScoreRequest, ScoreResult, Trace, Usage


class LikelihoodAsker(ModelAsker[ScoreResult]):
    """Scores each choice as the answer to the question, which is shown without the list of choices.

    A choice is judged by the sum of its tokens' log-probabilities, or by that for each byte of its UTF-8
    text, as `acc` and `acc_bytes` of lm-eval do. Equal ones go to the first. The confidence is the
    choice's share of the likelihood of all choices, for each byte if that is what they are judged by.
    """

    def __init__(self, agent: Any, *, name: str, per_byte: bool) -> None:
        super().__init__(agent, name=name)
        self._per_byte = per_byte

    def key(self, item: Item) -> str | None:
        """By what is asked of which weights, and how the choices are judged."""
        prompt, completions = self._asked(item)
        return digest("likelihood", self.model, self.adapter, plain(prompt), completions, self._per_byte)

    def _asked(self, item: Item) -> tuple[Any, tuple[str, ...]]:
        question, completions = choice_prompts(item)
        prompt = self.agent.messages(item.public.replace(question=question))
        # A chat template has set the answer off already; in plain text a space does.
        return prompt, completions if isinstance(prompt, str) else item.public.choices

    def _submit(self, item: Item) -> Iterator[Future[ScoreResult]]:
        prompt, completions = self._asked(item)
        origin = self._origin(item)
        for text in completions:
            yield self.agent.engine.submit_score(
                ScoreRequest(prompt=prompt, completion=text, adapter=self.agent.adapter, origin=origin)
            )

    def _require_usable(self, answers: list[ScoreResult]) -> None:
        totals = [answer.total for answer in answers]
        if not all(map(math.isfinite, totals)):
            raise ModelFailure(f"the log-probabilities of the choices are {totals}; expected finite numbers")

    def _reply(self, item: Item, answers: list[ScoreResult]) -> tuple[Reply, list[Trace]]:
        totals = [answer.total for answer in answers]
        choices = item.public.choices
        best = pick(totals, norm="bytes" if self._per_byte else "none", choices=choices)
        sizes = [len(choice.encode("utf-8", "surrogatepass")) or 1 for choice in choices]
        usage = Usage()
        for answer in answers:
            usage += answer.usage
        reply = Reply(
            samples=(
                Said(
                    text=f"Answer: {LETTERS[best]}",
                    confidence=_share(best, totals, sizes if self._per_byte else [1] * len(totals)),
                ),
            ),
            choices=tuple(totals),
            usage=usage,
            seconds=sum(answer.seconds for answer in answers),
            flops=sum(answer.flops for answer in answers),
        )
        return reply, []


def _share(best: int, totals: Sequence[float], sizes: Sequence[int]) -> float:
    judged = [total / size for total, size in zip(totals, sizes, strict=True)]
    return 1.0 / math.fsum(math.exp(each - judged[best]) for each in judged)
