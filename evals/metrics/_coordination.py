"""What coordination costs and brings: the metrics of multi-agent runs beside a single agent's.

The definitions follow "Towards a Science of Scaling Agent Systems" (2025, arXiv 2512.08296). All is computed
from the traces at hand; none of the paper's measured constants is used, several of which do not follow from
its own table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from docendo.checks import entries, is_number, short
from docendo.errors import ConfigError, DataError
from docendo.evals.metrics._coordination_efforts import Budget, ItemEffort, Outcomes, Posted, item_efforts
from docendo.evals.metrics._coordination_overlap import Embedder
from docendo.evals.metrics._coordination_report import METRICS, NO_BASELINE, CoordinationReport
from docendo.evals.metrics._measures import Measure, measured, resampled_means
from docendo.evals.statistics._checks import check_resampling
from docendo.records import Trace

#: Budgets that differ by at most this share are equal.
TOLERANCE = 0.02


def coordination_metrics(
    traces: Iterable[Trace] | None,
    outcomes: Outcomes,
    *,
    baseline: Sequence[ItemEffort] | None = None,
    posts: Iterable[Posted] = (),
    embedder: Embedder | None = None,
    name: str = "graph",
    baseline_name: str = "single agent",
    budget: Budget = "generated",
    tolerance: float = TOLERANCE,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> CoordinationReport:
    """Computes the coordination metrics of any graph's run from its traces.

    With a baseline only items that both answered count, and resampling keeps their pairs. A single agent
    that is asked once usually spends fewer tokens: that comparison tells what the graph costs. Whether
    agents help is told by a baseline that spends as much (several samples and a majority vote, say). Tokens
    of both sides are stated, and a warning where they differ.

    Args:
        traces: The turns; see `item_efforts` for what they may be, and what a message is.
        outcomes: What came of each item.
        baseline: `item_efforts(...)` of the single agent on the same items.
        posts: Posts of the run's board, if the agents hear each other over it.
        embedder: Gives vectors for the redundancy; by default TF-IDF of character trigrams.
        name: What to call the run.
        baseline_name: What to call the baseline.
        budget: Which tokens count: "generated", or "total" with the prompts.
        tolerance: Largest share by which equal budgets may differ.
        resamples: Number of bootstrap resamples.
        level: Confidence level.
        seed: Seed of the bootstrap.

    Returns:
        The report. A metric whose denominator is 0 has no value and says why; one that is undefined in more
        than 1 % of the resamples has no interval.

    Raises:
        DataError: if no item has an answer (in both), or traces and outcomes do not fit; see `item_efforts`.
        ConfigError: if a setting is out of range.

    Example:
        >>> from docendo.records import Author, Trace
        >>> def turn(id, item, agent, *parents):
        ...     return Trace(id=id, run="r", item=item, author=Author(agent=agent, role=agent), messages=(),
        ...                  completion="Answer: 4", parents=parents)
        >>> graph = [turn("1", "a", "one"), turn("2", "a", "two", "1"), turn("3", "b", "one")]
        >>> single = item_efforts([turn("1", "a", "one"), turn("2", "b", "one")], {"a": True, "b": False})
        >>> report = coordination_metrics(graph, {"a": True, "b": True}, baseline=single)
        >>> report.overhead.value, report.efficiency.value, report.error_amplification.value
        (50.0, 0.6666666666666666, 0.0)
    """
    check_resampling(resamples, seed, level)
    if budget not in get_args(Budget):
        raise ConfigError(f"budget is {short(budget)}", expected=f"one of {', '.join(get_args(Budget))}")
    if not is_number(tolerance) or tolerance < 0:
        raise ConfigError(f"tolerance is {short(tolerance)}", expected="a share of 0 or more, such as 0.02")
    efforts = item_efforts(traces, outcomes, posts=posts, embedder=embedder)
    others = None if baseline is None else entries("baseline", baseline, ItemEffort, "efforts of items")
    pairs, failed, unpaired = _paired(efforts, others)
    columns = _columns(pairs, budget, with_baseline=baseline is not None)
    measures = _measures(columns, resamples=resamples, level=level, seed=seed)
    return CoordinationReport(
        name=name,
        baseline_name=baseline_name if baseline is not None else "",
        n=len(pairs),
        failed=failed,
        unpaired=unpaired,
        agents=len({agent for effort, _ in pairs for agent in effort.agents}),
        budget=budget,
        warning=_warning(measures, budget, tolerance, name, baseline_name),
        **measures,
    )


def _paired(
    efforts: Sequence[ItemEffort], baseline: Sequence[ItemEffort] | None
) -> tuple[list[tuple[ItemEffort, ItemEffort]], int, int]:
    """The items with an answer, each beside the baseline's (or itself); and how many failed or lack one."""
    other = {effort.item: effort for effort in (efforts if baseline is None else baseline)}
    if baseline is not None and len(other) < len(baseline):
        raise DataError("the baseline has an item more than once", expected="each item once")
    common = [(effort, other[effort.item]) for effort in efforts if effort.item in other]
    pairs = [(a, b) for a, b in common if a.correct is not None and b.correct is not None]
    if not pairs:
        what = "items" if baseline is None else "items in common"
        raise DataError(f"none of {len(common)} {what} has an answer", expected="at least one with an answer")
    return pairs, len(common) - len(pairs), len(efforts) + len(other) - 2 * len(common)


def _columns(
    pairs: Sequence[tuple[ItemEffort, ItemEffort]], budget: Budget, *, with_baseline: bool
) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {
        "s": [float(a.correct is True) for a, _ in pairs],
        "e": [float(a.correct is not True) for a, _ in pairs],
        "t": [a.turns for a, _ in pairs],
        "k": [a.tokens(budget) for a, _ in pairs],
        "m": [a.messages for a, _ in pairs],
        "r": [a.redundancy or 0.0 for a, _ in pairs],
        "r?": [float(a.redundancy is not None) for a, _ in pairs],
        "o?": [float(a.overlap is not None) for a, _ in pairs],
    }
    for place, name in enumerate(("unique", "shared", "contradictory")):
        columns[name] = [a.overlap[place] if a.overlap else 0.0 for a, _ in pairs]
    if with_baseline:
        columns["bs"] = [float(b.correct is True) for _, b in pairs]
        columns["be"] = [float(b.correct is not True) for _, b in pairs]
        columns["bt"] = [b.turns for _, b in pairs]
        columns["bk"] = [b.tokens(budget) for _, b in pairs]
    return columns


def _measures(
    columns: Mapping[str, Sequence[float]], *, resamples: int, level: float, seed: int
) -> dict[str, Measure]:
    import numpy as np

    table = np.array(list(columns.values()), dtype=float).T
    means = dict(zip(columns, table.mean(axis=0), strict=True))
    draws = None
    if len(table) > 1:
        drawn = resampled_means(table, resamples=resamples, seed=seed)
        draws = dict(zip(columns, drawn.T, strict=True))
    found = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, metric in METRICS.items():
            if metric.paired and "bs" not in columns:
                found[name] = Measure(value=None, reason=NO_BASELINE, level=level)
                continue
            found[name] = measured(
                metric.formula(means),  # type: ignore[arg-type]
                metric.formula(draws) if draws is not None else None,
                level=level,
                reason=metric.reason,
            )
    return found


def _warning(
    measures: Mapping[str, Measure], budget: Budget, tolerance: float, name: str, baseline_name: str
) -> str:
    over = measures["token_overhead"]
    if over.reason == NO_BASELINE:
        return ""
    if over.value is None:
        return f"No tokens of {baseline_name} are recorded, so the budgets cannot be compared."
    if abs(over.value) <= 100 * tolerance + 1e-9:
        return ""
    mine, theirs = (measures[key].value or 0.0 for key in ("tokens", "baseline_tokens"))
    return (
        f"This is no comparison at equal tokens: {name} spent {mine:,.1f} {budget} tokens an item and "
        f"{baseline_name} {theirs:,.1f} ({over.value:+.1f} %)."
    )
