"""How uncertain the small model's answer, or its last step, is: what a cascade or a switch decides by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from docendo.agents import Agent, RunContext, Turn
from docendo.checks import check_count, is_number
from docendo.errors import ConfigError, ModelFailure
from docendo.graphs._nodes import Grader
from docendo.hashing import derive_seed
from docendo.records import Message

Pool = Literal["product", "mean", "least"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallTurn:
    """What the small model has said, and where: an answer, or a step of one.

    Attributes:
        item: Id of the item.
        small: The small model's agent.
        messages: What it was asked.
        turn: What it said.
        written: The steps before this one, in a graph of steps.
        step: Number of the step.
    """

    item: str
    small: Agent
    messages: Sequence[Message]
    turn: Turn
    written: str = ""
    step: int = 0


class Uncertainty(Protocol):
    """Says how uncertain an answer is that the small model has given."""

    async def measure(self, context: RunContext, said: SmallTurn) -> float:
        """A number from 0, certain, to 1."""

    def describe(self) -> dict[str, Any]:
        """The measure as JSON."""


class LogprobUncertainty:
    """1 minus the model's own probability of what it wrote. It costs nothing.

    Args:
        pool: How the tokens' log-probabilities become one: "product" is the probability of the whole text,
            "mean" that of a token (geometric mean, so that long texts are not uncertain for their length),
            "least" that of its least likely token.
    """

    def __init__(self, pool: Pool = "product") -> None:
        if pool not in get_args(Pool):
            raise ConfigError(f"pool is {pool!r}", expected=f"one of {', '.join(get_args(Pool))}")
        self.pool = pool

    async def measure(self, context: RunContext, said: SmallTurn) -> float:
        """1 minus the probability.

        Raises:
            ModelFailure: if the engine gave no log-probabilities.
        """
        found = context.traces.get(said.turn.trace).logprobs
        if not found:
            raise ModelFailure(
                f"the engine {said.small.engine.name!r} gave no log-probabilities of item {said.item!r}; "
                "use an engine that gives them, or AgreementUncertainty"
            )
        total = math.fsum(found)
        pooled = {"product": total, "mean": total / len(found), "least": min(found)}[self.pool]
        return 1.0 - math.exp(min(0.0, pooled))

    def describe(self) -> dict[str, Any]:
        """The measure as JSON."""
        return {"class": type(self).__name__, "pool": self.pool}


class AgreementUncertainty:
    """1 minus the share of further samples that say the same. It costs the samples.

    Agreement of samples as the signal of a cascade is that of Yue et al. 2023 (arXiv 2310.03094).

    Args:
        samples: Further answers that are sampled.
        temperature: Of these; 0.8 as for `Teacher`.
        read: What of a text is compared; by default all of it but outer space.
    """

    def __init__(
        self, samples: int = 5, *, temperature: float = 0.8, read: Callable[[str], str] = str.strip
    ) -> None:
        check_count("samples", samples, 1)
        if not (is_number(temperature) and temperature > 0):
            raise ConfigError(f"temperature is {temperature!r}", expected="more than 0")
        self.samples, self.temperature, self.read = samples, float(temperature), read

    async def measure(self, context: RunContext, said: SmallTurn) -> float:
        """1 minus the share of agreeing samples."""
        others = await context.ask(
            said.small,
            said.item,
            said.messages,
            node="agreement",
            step=said.step,
            parents=[said.turn.trace],
            sampling=said.small.sampling.replace(n=self.samples, temperature=self.temperature),
        )
        answer = self.read(said.turn.text)
        return 1.0 - sum(self.read(text) == answer for text in others.texts) / len(others.texts)

    def describe(self) -> dict[str, Any]:
        """The measure as JSON."""
        return {
            "class": type(self).__name__,
            "samples": self.samples,
            "temperature": self.temperature,
            "read": getattr(self.read, "__qualname__", repr(self.read)),
        }


class VerifierUncertainty:
    """1 minus the value of a verifier that does not know the answer.

    Args:
        verifier: `ModelVerifier`, `AnalyticVerifier` or another `Grader` without gold.

    Raises:
        ConfigError: if the verifier sees the gold: nothing may decide by it.
    """

    def __init__(self, verifier: Grader) -> None:
        if getattr(verifier, "sees_gold", True):
            raise ConfigError(
                "the verifier sees the gold answer, which nothing may be decided by",
                expected="a ModelVerifier or an AnalyticVerifier",
            )
        self.verifier = verifier

    async def measure(self, context: RunContext, said: SmallTurn) -> float:
        """1 minus the verdict's value."""
        verdict = await self.verifier.grade(context, said.item, said.written + said.turn.text)
        return 1.0 - verdict.value

    def describe(self) -> dict[str, Any]:
        """The measure as JSON."""
        return {"class": type(self).__name__, "verifier": self.verifier.describe()}


class VerdictUncertainty:
    """The model's own verdict on its last step: the token for "wrong" against that for "right".

    AdaSwitch (Sun et al. 2024, arXiv 2410.13181) trains the small model to judge each of its steps; the rows
    for that are made by `reflective_rows`. The two verdicts are scored and nothing is generated.

    Args:
        judge: Agent whose prompt shows the question and, in `{steps}`, the steps up to the one to judge;
            the small model with the adapter that has learnt to judge.
        right: Text that stands for a right step; one token.
        wrong: Text that stands for a wrong step.
    """

    def __init__(self, judge: Agent, *, right: str, wrong: str) -> None:
        if not right or not wrong or right == wrong:
            raise ConfigError(f"the verdicts are {right!r} and {wrong!r}", expected="two different texts")
        judge.engine.capabilities.require(
            frozenset({"score"}), engine=judge.engine.name, by="VerdictUncertainty"
        )
        self.judge, self.right, self.wrong = judge, right, wrong

    async def measure(self, context: RunContext, said: SmallTurn) -> float:
        """P(wrong) / (P(wrong) + P(right))."""
        asked = self.judge.messages(context.public(said.item), steps=said.written + said.turn.text)
        right, wrong = [
            (await context.score(self.judge, asked, word)).total for word in (self.right, self.wrong)
        ]
        return 1.0 / (1.0 + math.exp(min(700.0, right - wrong)))

    def describe(self) -> dict[str, Any]:
        """The measure as JSON."""
        return {
            "class": type(self).__name__,
            "judge": self.judge.describe(),
            "right": self.right,
            "wrong": self.wrong,
        }


class RandomUncertainty:
    """The control: a number drawn for each item and step, which says nothing."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    async def measure(self, context: RunContext, said: SmallTurn) -> float:
        """A uniform number made of seed, item and step."""
        return derive_seed("random uncertainty", self.seed, said.item, said.step) / 2**63

    def describe(self) -> dict[str, Any]:
        """The measure as JSON."""
        return {"class": type(self).__name__, "seed": self.seed}
