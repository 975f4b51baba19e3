"""The record of the coordination metrics, and their formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

from docendo.evals.metrics._coordination_efforts import Budget
from docendo.evals.metrics._measures import Measure
from docendo.records import Record

if TYPE_CHECKING:
    from docendo.evals.metrics._measures import Numbers

_Means: TypeAlias = "Mapping[str, Numbers]"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinationReport(Record):
    """Coordination metrics of one run; without a baseline those that need one have no value.

    S is the share of right answers, E = 1 - S, T the mean number of turns for each item; SAS is the
    baseline, a single agent. Ratios are ratios of means over items, so no item is divided by zero.

    Attributes:
        name: Name of the run.
        baseline_name: Name of the baseline, or empty without one.
        n: Number of items, of those with an answer (in both, if there is a baseline).
        failed: Items left out because they have no answer in one of the two.
        unpaired: Items left out because only one of the two has them.
        agents: Number of different agents that spoke.
        budget: Which tokens `tokens` counts.
        success: S.
        turns: T.
        tokens: Tokens for each item.
        messages: Texts of one agent that another agent's turn answers to, for each item.
        message_density: Messages / turns.
        redundancy: Mean pairwise cosine of the agents' last texts on an item, over items with two or more.
        success_per_1k: Right answers for each 1,000 tokens.
        unique: Share of words that one agent's text has alone, over items with two texts or more.
        shared: Share of words that several texts have.
        contradictory: Share of words in which stated answers differ.
        baseline_success: S of the baseline.
        baseline_turns: T of the baseline.
        baseline_tokens: Tokens of the baseline for each item.
        baseline_success_per_1k: Right answers of the baseline for each 1,000 tokens.
        gain: S - S_SAS.
        overhead: O% = 100 (T - T_SAS) / T_SAS.
        token_overhead: The same of tokens.
        efficiency: E_c = S / (T / T_SAS).
        error_amplification: A_e = E / E_SAS.
        absorption: (E_SAS - E) / E_SAS, which is 1 - A_e.
        warning: That the two budgets differ, if they do by more than the tolerance; else empty.
    """

    name: str
    baseline_name: str = ""
    n: int
    failed: int = 0
    unpaired: int = 0
    agents: int = 0
    budget: Budget = "generated"
    success: Measure
    turns: Measure
    tokens: Measure
    messages: Measure
    message_density: Measure
    redundancy: Measure
    success_per_1k: Measure
    unique: Measure
    shared: Measure
    contradictory: Measure
    baseline_success: Measure
    baseline_turns: Measure
    baseline_tokens: Measure
    baseline_success_per_1k: Measure
    gain: Measure
    overhead: Measure
    token_overhead: Measure
    efficiency: Measure
    error_amplification: Measure
    absorption: Measure
    warning: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a report stored by `to_json`."""
        return cls(**{**value, **{name: Measure.from_json(value[name]) for name in METRICS}})

    def __str__(self) -> str:
        beside = f" beside {self.baseline_name}" if self.baseline_name else ""
        head = f"{self.name}{beside}: {self.n} items, {self.agents} agents, {self.budget} tokens"
        rows = [(name.replace("_", " "), getattr(self, name)) for name in METRICS]
        shown = [(name, one) for name, one in rows if self.baseline_name or one.reason != NO_BASELINE]
        wide = max(len(name) for name, _ in shown)
        lines = [head, *(f"{name:<{wide}}  {one}" for name, one in shown)]
        left_out = [
            f"{count} {why}"
            for count, why in ((self.failed, "without an answer"), (self.unpaired, "in one of the two only"))
            if count
        ]
        if left_out:
            lines.append(f"Left out: {', '.join(left_out)}.")
        return "\n".join([*lines, self.warning] if self.warning else lines)


NO_BASELINE = "there is no baseline"
_NO_TURNS = "there is no turn"
_NO_TOKENS = "no tokens are recorded"
_ALONE = "no item has texts of two agents"


class _Metric(NamedTuple):
    """How a metric is computed of column means, and why it may not be defined."""

    formula: Callable[[_Means], Numbers]
    reason: str = ""
    paired: bool = False


METRICS: dict[str, _Metric] = {
    "success": _Metric(lambda m: m["s"]),
    "turns": _Metric(lambda m: m["t"]),
    "tokens": _Metric(lambda m: m["k"]),
    "messages": _Metric(lambda m: m["m"]),
    "message_density": _Metric(lambda m: m["m"] / m["t"], _NO_TURNS),
    "redundancy": _Metric(lambda m: m["r"] / m["r?"], _ALONE),
    "success_per_1k": _Metric(lambda m: 1000 * m["s"] / m["k"], _NO_TOKENS),
    "unique": _Metric(lambda m: m["unique"] / m["o?"], _ALONE),
    "shared": _Metric(lambda m: m["shared"] / m["o?"], _ALONE),
    "contradictory": _Metric(lambda m: m["contradictory"] / m["o?"], _ALONE),
    "baseline_success": _Metric(lambda m: m["bs"], paired=True),
    "baseline_turns": _Metric(lambda m: m["bt"], paired=True),
    "baseline_tokens": _Metric(lambda m: m["bk"], paired=True),
    "baseline_success_per_1k": _Metric(lambda m: 1000 * m["bs"] / m["bk"], _NO_TOKENS, paired=True),
    "gain": _Metric(lambda m: m["s"] - m["bs"], paired=True),
    "overhead": _Metric(lambda m: 100 * (m["t"] - m["bt"]) / m["bt"], _NO_TURNS, paired=True),
    "token_overhead": _Metric(lambda m: 100 * (m["k"] - m["bk"]) / m["bk"], _NO_TOKENS, paired=True),
    "efficiency": _Metric(lambda m: m["s"] * m["bt"] / m["t"], _NO_TURNS, paired=True),
    "error_amplification": _Metric(
        lambda m: m["e"] / m["be"], "the baseline answers every item right", paired=True
    ),
    "absorption": _Metric(
        lambda m: (m["be"] - m["e"]) / m["be"], "the baseline answers every item right", paired=True
    ),
}
