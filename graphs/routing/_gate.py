"""The gate before the large model: one decision each, taken once, under a hard budget of its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from docendo.agents import Agent, RunContext, Turn
from docendo.checks import check_count
from docendo.errors import ConfigError
from docendo.graphs.routing._switch import Switch, Threshold
from docendo.hashing import digest
from docendo.records import Author, Record

_AUTHOR = Author(agent="routing", role="router")


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeBudget(Record):
    """A hard budget of the large model's generated tokens for a whole run; it is never exceeded.

    A call is made only if the budget pays for the most that it may generate (`n` samples of
    `sampling.max_tokens`); what it did not use is given back. The account is in the run's database: it
    survives a crash, and a node that runs twice books once. Decisions are taken in the order in which items
    come, so use `concurrency=1` where the order matters, as with a stream of questions.

    Attributes:
        tokens: Tokens that the large model may generate in the run.
        decisions: How many decisions the run will take, for switches that look ahead; None if not known.
    """

    tokens: int
    decisions: int | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_count("tokens", self.tokens, 0)
        if self.decisions is not None:
            check_count("decisions", self.decisions, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Decides whether the large model is asked, and keeps the account.

    Attributes:
        large: The large model's agent.
        switch: What decides.
        budget: The hard budget, or None.
    """

    large: Agent
    switch: Switch
    budget: LargeBudget | None

    def open(self, context: RunContext, item: str, need: float, *, step: int = 0) -> bool:
        """Whether the large model is asked here: the same answer each time that this decision is taken."""
        if not math.isfinite(need):
            raise ConfigError(f"the need of item {item!r} is {need!r}", expected="a finite number")
        key = digest("switch", context.run, item, step)
        with context.database.transaction():
            decided = context.journal.get(key)
            if decided is None:
                decided = context.journal.put(key, {"large": self._decide(context, need), "need": need})
        return bool(decided["large"])

    def settle(self, context: RunContext, item: str, turn: Turn, *, step: int = 0) -> int:
        """Books what the large model has generated and gives the rest back; returns the tokens."""
        used = sum(context.traces.get(trace).usage.generated_tokens for trace in turn.traces)
        key = digest("settled", context.run, item, step)
        with context.database.transaction():
            if self.budget is not None and context.journal.get(key) is None:
                self._book(context, tokens=used - self._most, decisions=0)
                context.journal.put(key, {"tokens": used})
        return used

    def describe(self) -> dict[str, Any]:
        """The gate as JSON."""
        budget = None if self.budget is None else self.budget.to_json()
        return {"switch": self.switch.describe(), "budget": budget}

    @property
    def _most(self) -> int:
        return self.large.sampling.max_tokens * self.large.sampling.n

    def _decide(self, context: RunContext, need: float) -> bool:
        if self.budget is None:
            return self.switch.wants(need, calls=math.inf, decisions=math.inf)
        spent, made = self._account(context)
        calls = (self.budget.tokens - spent) // self._most
        left = math.inf if self.budget.decisions is None else max(1, self.budget.decisions - made)
        large = calls >= 1 and self.switch.wants(need, calls=calls, decisions=left)
        self._book(context, tokens=self._most if large else 0, decisions=1)
        return large

    def _account(self, context: RunContext) -> tuple[int, int]:
        stored = context.board.keys.read(self._key(context))
        return (0, 0) if stored is None else (stored.value["tokens"], stored.value["decisions"])

    def _book(self, context: RunContext, *, tokens: int, decisions: int) -> None:
        spent, made = self._account(context)
        value = {"tokens": spent + tokens, "decisions": made + decisions}
        context.board.keys.write(self._key(context), value, author=_AUTHOR)

    def _key(self, context: RunContext) -> str:
        return f"{context.run}/large budget"


def made_gate(large: Agent, switch: Switch | float, budget: LargeBudget | None) -> Gate:
    """A gate of a switch, or of a threshold.

    Raises:
        ConfigError: if the switch or the budget is none.
    """
    chosen = Threshold(switch) if isinstance(switch, (int, float)) else switch
    if not callable(getattr(chosen, "wants", None)):
        raise ConfigError(
            f"the switch is {switch!r}", expected="a threshold, Paced(...) or BudgetedSwitch(...)"
        )
    if budget is not None and not isinstance(budget, LargeBudget):
        raise ConfigError(f"budget is {budget!r}", expected="LargeBudget(tokens=...) or None")
    return Gate(large=large, switch=chosen, budget=budget)
