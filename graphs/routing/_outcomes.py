"""What both models say to the same questions, logged once, and what everything costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from docendo.agents import Agent, EngineProtocol
from docendo.errors import ConfigError, ModelFailure
from docendo.graphs._run import Run, run
from docendo.graphs.routing._graphs import cascade
from docendo.graphs.routing._router import RoutingExample
from docendo.graphs.routing._switch import ALWAYS, Threshold
from docendo.graphs.routing._uncertainty import RandomUncertainty, Uncertainty
from docendo.records import Item, Record
from docendo.scoring import Scorer, scored

_UNITS = ("calls", "prompt_tokens", "generated_tokens", "seconds", "flops")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedOutcome(Record):
    """A question that both models have answered.

    Attributes:
        item: Item id.
        question: The question.
        answer: The small model's answer.
        small: Value of the small model's answer.
        large: Value of the large model's answer.
        small_flops: Estimated floating-point operations of the small model's answer.
        large_flops: The same of the large model's.
        need: Uncertainty of the small model's answer.
        large_tokens: Tokens that the large model generated.
    """

    item: str
    question: str
    answer: str
    small: float
    large: float
    small_flops: float
    large_flops: float
    need: float
    large_tokens: int

    @property
    def example(self) -> RoutingExample:
        """What a router learns from."""
        return RoutingExample(question=self.question, small=self.small, large=self.large)


def log_outcomes(
    small: Agent,
    large: Agent,
    items: Iterable[Item],
    scorer: Scorer,
    *,
    uncertainty: Uncertainty | None = None,
    **run_options: Any,
) -> tuple[LoggedOutcome, ...]:
    """Lets both models answer each question once: what routers learn from and are measured on.

    Args:
        small: The cheap model.
        large: The dear model.
        items: Questions.
        scorer: Says what an answer is worth.
        uncertainty: Measured on the small model's answers, or None.
        **run_options: For `docendo.run`, such as `folder`, `name`, `database`, `resume` and `quiet`.

    Returns:
        One outcome for each item, in their order.

    Raises:
        ModelFailure: if a model failed on an item: a log with gaps would be a biased one.
    """
    graph = cascade(
        small=small, large=large, switch=Threshold(ALWAYS), uncertainty=uncertainty or RandomUncertainty()
    )
    chosen = list(items)
    with run(graph, chosen, **run_options) as done:
        return tuple(_outcome(done, item, scorer) for item in chosen)


def _outcome(done: Run, item: Item, scorer: Scorer) -> LoggedOutcome:
    state = done.outcomes[item.id]
    if state["status"] != "done":
        raise ModelFailure(f"item {item.id!r} has no outcome: {state['message']}")
    traces = {trace.id: trace for trace in done.traces(item=item.id)}
    first, second = traces[state["small_trace"]], traces[state["large_trace"]]
    return LoggedOutcome(
        item=item.id,
        question=item.public.question,
        answer=first.completion,
        small=scored(scorer, item, first.completion).value,
        large=scored(scorer, item, second.completion).value,
        small_flops=first.flops,
        large_flops=second.flops,
        need=float(state["need"]),
        large_tokens=int(state["large_tokens"]),
    )


class CostLedger:
    """What everything costs, counted at the engines: answers of both models, and what decides between them.

    It counts from its beginning on, by agent and role: also what a cascade's samples, verdicts and
    embeddings cost, which are the small model's and the router's own cost.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> from docendo.records import PublicItem
        >>> small = Agent(ScriptedEngine(["4 apples"]), name="small")
        >>> with CostLedger(small.engine) as costs:
        ...     _ = small.reply(PublicItem(id="1", question="2 + 2?"))
        >>> costs.by_agent()["small"]["generated_tokens"]
        2.0
    """

    def __init__(self, *engines: EngineProtocol) -> None:
        if not engines:
            raise ConfigError("the ledger was given no engine", expected="at least one")
        # One engine may run both models' agents, and would be counted twice.
        self._engines = list({id(engine): engine for engine in engines}.values())
        self._before = self._read()
        self._after: Mapping[tuple[str, str], Counter[str]] | None = None

    def __enter__(self) -> Self:
        self._before, self._after = self._read(), None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = self._read()

    def by_agent(self) -> dict[str, dict[str, float]]:
        """Calls, tokens, compute seconds and FLOPs by the agent's name; by role where it has none."""
        now = self._read() if self._after is None else self._after
        found: dict[str, Counter[str]] = {}
        for (role, agent), counts in now.items():
            before = self._before.get((role, agent), Counter())
            entry = found.setdefault(agent or role, Counter())
            for unit in _UNITS:
                entry[unit] += counts[unit] - before[unit]
        return {
            name: {unit: float(entry[unit]) for unit in _UNITS}
            for name, entry in found.items()
            if entry["calls"]
        }

    def total(self, unit: str = "flops") -> float:
        """All of one unit.

        Raises:
            ConfigError: if there is no such unit.
        """
        if unit not in _UNITS:
            raise ConfigError(f"the unit is {unit!r}", expected=f"one of {', '.join(_UNITS)}")
        return sum(entry[unit] for entry in self.by_agent().values())

    def _read(self) -> dict[tuple[str, str], Counter[str]]:
        found: dict[tuple[str, str], Counter[str]] = {}
        for engine in self._engines:
            for row in engine.ledger():
                entry = found.setdefault((row["role"], row["agent"]), Counter())
                for unit in _UNITS:
                    entry[unit] += row[unit]
        return found
