"""Is this graph worth its tokens? A verdict from a paired comparison with a baseline that had as many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from docendo.checks import is_number, short
from docendo.errors import ConfigError
from docendo.evals.comparison._compare import PairedComparison, compare
from docendo.evals.harness._results import EvalResult
from docendo.evals.metrics._coordination import TOLERANCE, coordination_metrics
from docendo.evals.metrics._coordination_efforts import Budget, ItemEffort, Posted, item_efforts
from docendo.evals.metrics._coordination_report import CoordinationReport
from docendo.evals.statistics._checks import check_resampling
from docendo.records import Record, Trace

WorthVerdict = Literal["worth it", "not worth it", "not shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWorth(Record):
    """Whether a graph is worth its tokens.

    Attributes:
        verdict: "worth it" if the graph is better and spent no more than the baseline; "not worth it" if it
            is worse and spent no less; else "not shown".
        reasons: The grounds in one or two sentences.
        comparison: The graph (after) compared with the baseline (before) on the same items.
        budget: Which tokens are meant.
        tokens: Tokens of the graph for each compared item.
        baseline_tokens: Tokens of the baseline for each compared item.
        unmatched: The graph compared with a baseline of another budget, if there is one; no part of the
            verdict.
        unmatched_tokens: Tokens of that baseline for each item compared with it.
        coordination: Coordination metrics of the run, if its traces were given.
    """

    verdict: WorthVerdict
    reasons: tuple[str, ...]
    comparison: PairedComparison
    budget: Budget
    tokens: float
    baseline_tokens: float
    unmatched: PairedComparison | None = None
    unmatched_tokens: float | None = None
    coordination: CoordinationReport | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a verdict stored by `to_json`."""
        rebuilt: dict[str, Any] = {
            "reasons": tuple(value["reasons"]),
            "comparison": PairedComparison.from_json(value["comparison"]),
        }
        if value.get("unmatched") is not None:
            rebuilt["unmatched"] = PairedComparison.from_json(value["unmatched"])
        if value.get("coordination") is not None:
            rebuilt["coordination"] = CoordinationReport.from_json(value["coordination"])
        return cls(**{**value, **rebuilt})

    def __str__(self) -> str:
        one = self.comparison
        parts = [
            f"Is {one.after_name} worth its tokens? {self.verdict}\n" + " ".join(self.reasons),
            f"{one.after_name} {self.tokens:,.1f} and {one.before_name} {self.baseline_tokens:,.1f} "
            f"{self.budget} tokens an item\n{one}",
        ]
        if self.unmatched is not None:
            other = self.unmatched
            parts.append(
                f"Beside {other.before_name}, whose budget is its own ({self.unmatched_tokens:,.1f} "
                f"{self.budget} tokens an item)\n{other}"
            )
        if self.coordination is not None:
            parts.append(str(self.coordination))
        return "\n\n".join(parts)


def graph_worth(
    graph: EvalResult,
    baseline: EvalResult,
    *,
    unmatched: EvalResult | None = None,
    traces: Iterable[Trace] | None = None,
    baseline_traces: Iterable[Trace] | None = None,
    posts: Iterable[Posted] = (),
    budget: Budget = "generated",
    tolerance: float = TOLERANCE,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> GraphWorth:
    """Judges whether a graph is worth its tokens beside a baseline that was given as many.

    A fair baseline is a single agent that spends the graph's tokens in a simple way, such as a majority vote
    over as many samples; making it is up to the caller. Tokens are counted over the items that both answered,
    from the turns where they are given, else from the records' `usage`.

    Args:
        graph: Evaluation of the graph.
        baseline: Evaluation of the baseline on the same items.
        unmatched: Evaluation of a single agent with whatever budget it has, for comparison only.
        traces: The graph's turns, such as `run.traces()`; with them the result has coordination metrics.
        baseline_traces: The baseline's turns; without them each of its records counts as one.
        posts: Posts of the graph's board; see `item_efforts`.
        budget: Which tokens count: "generated", or "total" with the prompts.
        tolerance: Largest share by which equal budgets may differ.
        seed: Seed of the bootstrap of the coordination metrics.
        resamples: Number of its resamples.
        level: Confidence level.

    Raises:
        DataError: if the evaluations cannot be compared; see `compare`.
        ConfigError: if a setting is out of range.

    Example:
        >>> from docendo.evals import EvalRecord, EvalResult
        >>> from docendo.records import Usage
        >>> def result(name, rights, tokens):
        ...     records = [
        ...         EvalRecord(item=str(i), question="", correct=right, usage=Usage(generated_tokens=tokens))
        ...         for i, right in enumerate(rights)
        ...     ]
        ...     return EvalResult(name=name, task="demo", scorer="exact", records=tuple(records))
        >>> vote = result("vote", [False] * 30 + [True] * 10, 100)
        >>> graph_worth(result("graph", [True] * 40, 100), vote).verdict
        'worth it'
        >>> print(*graph_worth(result("graph", [True] * 40, 250), vote).reasons)
        The interval, +59.7 to +85.8 points, excludes zero and McNemar's test agrees (p < 0.001). But graph
        spent 150.0 % more generated tokens than vote, which might do as well with as many.
    """
    if budget not in get_args(Budget):
        raise ConfigError(f"budget is {short(budget)}", expected=f"one of {', '.join(get_args(Budget))}")
    if not is_number(tolerance) or tolerance < 0:
        raise ConfigError(f"tolerance is {short(tolerance)}", expected="a share of 0 or more, such as 0.02")
    check_resampling(resamples, seed, level)
    comparison = compare(baseline, graph, level=level)
    spent = item_efforts(traces, graph.records, posts=posts)
    single = item_efforts(baseline_traces, baseline.records)
    theirs, mine = _tokens(single, spent, budget)
    verdict, second = _judge(comparison, mine, theirs, budget=budget, tolerance=tolerance)
    return GraphWorth(
        verdict=verdict,
        reasons=(comparison.reason, second),
        comparison=comparison,
        budget=budget,
        tokens=mine,
        baseline_tokens=theirs,
        unmatched=None if unmatched is None else compare(unmatched, graph, level=level),
        unmatched_tokens=None
        if unmatched is None
        else _tokens(item_efforts(None, unmatched.records), spent, budget)[0],
        coordination=None
        if traces is None
        else coordination_metrics(
            traces,
            graph.records,
            baseline=single,
            posts=posts,
            name=comparison.after_name,
            baseline_name=comparison.before_name,
            budget=budget,
            tolerance=tolerance,
            seed=seed,
            resamples=resamples,
            level=level,
        ),
    )


def _tokens(first: Sequence[ItemEffort], second: Sequence[ItemEffort], budget: Budget) -> tuple[float, float]:
    """Tokens an item of two evaluations, over the items that both answered."""
    answered = [
        {effort.item for effort in efforts if effort.correct is not None} for efforts in (first, second)
    ]
    common = answered[0] & answered[1]
    before, after = (
        sum(effort.tokens(budget) for effort in efforts if effort.item in common) / len(common)
        for efforts in (first, second)
    )
    return before, after


def _judge(
    comparison: PairedComparison, mine: float, theirs: float, *, budget: Budget, tolerance: float
) -> tuple[WorthVerdict, str]:
    graph, baseline = comparison.after_name, comparison.before_name
    if not mine or not theirs:
        unknown = graph if not mine else baseline
        return "not shown", f"But no tokens of {unknown} are recorded, so nothing follows for its worth."
    over = mine / theirs - 1
    equal = abs(over) <= tolerance + 1e-12
    size = f"{abs(100 * over):.1f} % {'more' if over > 0 else 'fewer'}"
    spent, alike = (
        f"{graph} spent {size} {budget} tokens than {baseline}",
        f"Both spent as many {budget} tokens.",
    )
    if comparison.verdict == "no effect shown":
        return "not shown", alike if equal else f"{spent}."
    if equal:
        worth: WorthVerdict = "worth it" if comparison.verdict == "better" else "not worth it"
        return worth, alike
    if comparison.verdict == "better":
        if over > 0:
            return "not shown", f"But {spent}, which might do as well with as many."
        return "worth it", f"And {spent}."
    if over > 0:
        return "not worth it", f"And {spent}."
    return "not shown", f"But {spent}, and might do as well with as many."
