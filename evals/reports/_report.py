"""What a report shows, as plain values that survive JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from docendo.checks import entries, is_number, short
from docendo.errors import DataError
from docendo.evals.comparison._compare import PairedComparison
from docendo.evals.harness._results import EvalCost, EvalResult
from docendo.evals.reports._parts import (
    Changes,
    Confidence,
    Curve,
    Difference,
    StratumScore,
    Transcript,
    rebuild,
)
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm(Record):
    """One measured accuracy, drawn as a bar with its interval.

    Attributes:
        name: Its name.
        accuracy: Share of right answers.
        interval: Interval of the accuracy.
        n: Number of answers.
        correct: Number of right answers.
        failed: Items without an answer; they count neither as right nor as wrong.
        blame: Who is to blame for them ("model", "task", "infrastructure"), with their number.
        unscored: Answers that the scorer choked on; they count as wrong.
        part: "baseline", "control", or empty.
        majority: Accuracy of always giving the most frequent answer, or None if unknown.
        chance: Accuracy of guessing, or None.
        items: Number of items that `cost` is of, the failed ones included.
        cost: What all its answers cost, or None if unknown.
        seeds: Accuracy with each seed, if there were several.
        spent: What was spent in all with each seed, the making of the subject included.
        unit: What `spent` is counted in.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    n: int
    correct: int
    failed: int = 0
    blame: tuple[tuple[str, int], ...] = ()
    unscored: int = 0
    part: str = ""
    majority: float | None = None
    chance: float | None = None
    items: int = 0
    cost: EvalCost | None = None
    seeds: tuple[float, ...] = ()
    spent: tuple[float, ...] = ()
    unit: str = ""

    @classmethod
    def of(cls, result: EvalResult) -> Self:
        """Takes the numbers of an evaluation."""
        cost = result.cost
        known = bool(cost.prompt_tokens or cost.generated_tokens or cost.seconds or cost.flops)
        return cls(
            name=result.name or result.task,
            accuracy=result.accuracy if result.n else 0.0,
            interval=result.interval,
            n=result.n,
            correct=result.correct,
            failed=result.failed,
            blame=blame_of([result]),
            unscored=sum(record.score_failure is not None for record in result.records),
            majority=result.majority,
            chance=result.chance,
            items=len(result.records),
            cost=cost if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Record):
    """What one role used: a row of the engine's ledger."""

    role: str
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData(Record):
    """Everything a report shows. `to_json` and `from_json` keep it, so a report can be rebuilt.

    Attributes:
        title: Heading, such as the name of the run.
        task: What was measured.
        created: When, as text.
        arms: The measured accuracies, in order.
        comparison: The paired comparison, or None.
        majority: Accuracy of always giving the most frequent answer, or None; an arm's own goes before.
        chance: Accuracy of guessing, or None; an arm's own goes before.
        losses: Training step and loss.
        costs: Tokens and seconds by role.
        phases: Name and wall seconds of each phase, in order.
        transcripts: A few questions with their answers and lessons.
        config: The resolved configuration.
        versions: Versions of the software.
        seed: Seed of the run.
        notes: Facts a reader must know, one sentence each.
        differences: Paired differences, drawn as a forest plot.
        strata: Accuracies and differences by part of the mixture, in the order of the table.
        stages: Accuracy by stage or round.
        confidences: Calibration and risk of the results whose answers have confidences.
        samples: What k samples give, for each result with several.
        changes: Which items became right or wrong, with the largest changes.
    """

    title: str
    task: str = ""
    created: str = ""
    arms: tuple[Arm, ...] = ()
    comparison: PairedComparison | None = None
    majority: float | None = None
    chance: float | None = None
    losses: tuple[tuple[float, float], ...] = ()
    costs: tuple[Cost, ...] = ()
    phases: tuple[tuple[str, float], ...] = ()
    transcripts: tuple[Transcript, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    notes: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    strata: tuple[StratumScore, ...] = ()
    stages: tuple[Curve, ...] = ()
    confidences: tuple[Confidence, ...] = ()
    samples: tuple[Curve, ...] = ()
    changes: tuple[Changes, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds what `to_json` stored."""
        rebuilt: Self = rebuild(cls, value)
        return rebuilt


def blame_of(results: Iterable[EvalResult]) -> tuple[tuple[str, int], ...]:
    """Who is to blame for the items without an answer, the most frequent first.

    Example:
        >>> from docendo.evals import EvalRecord
        >>> failed = EvalRecord(item="1", question="", failure="model: no text")
        >>> blame_of([EvalResult(name="", task="", scorer="", records=(failed,))])
        (('model', 1),)
    """
    counts = Counter(
        (record.failure or "unknown").partition(":")[0]
        for result in results
        for record in result.records
        if record.correct is None
    )
    return tuple(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def costs(ledger: Iterable[Mapping[str, Any]]) -> tuple[Cost, ...]:
    """Sums the rows of `Engine.ledger()` by role, in order of first use.

    Raises:
        DataError: if a row is no mapping, or what it counts is no number.

    Example:
        >>> rows = [{"role": "student", "calls": 2, "generated_tokens": 9}, {"role": "student", "calls": 1}]
        >>> costs(rows)[0].calls
        3
    """
    sums: dict[tuple[str, str | None], dict[str, Any]] = {}
    fields = ("calls", "prompt_tokens", "cached_tokens", "generated_tokens", "seconds")
    for place, row in enumerate(entries("ledger", ledger, Mapping, "rows of Engine.ledger()")):
        role, adapter = str(row.get("role") or "other"), row.get("adapter")
        total = sums.setdefault((role, adapter), dict.fromkeys(fields, 0))
        for name in fields:
            if not is_number(count := row.get(name, 0)):
                raise DataError(f"{name} of ledger[{place}] is {short(count)}", expected="a number")
            total[name] += count
    return tuple(Cost(role=role, adapter=adapter, **total) for (role, adapter), total in sums.items())
