"""The report: one HTML page that needs nothing else, built from plain values.

Everything that a model, a file or a user wrote reaches the page through autoescaping, and the page
forbids scripts and outside resources by its own content policy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from docendo.evals.comparison._compare import PairedComparison
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult
from docendo.records import Record

_LONGEST_TEXT = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm(Record):
    """One measured accuracy, drawn as a bar with its interval."""

    name: str
    accuracy: float
    interval: tuple[float, float]
    n: int
    correct: int
    failed: int = 0

    @classmethod
    def of(cls, result: EvalResult) -> Self:
        """Takes the numbers of an evaluation."""
        return cls(
            name=result.name or result.task,
            accuracy=result.accuracy if result.n else 0.0,
            interval=result.interval,
            n=result.n,
            correct=result.correct,
            failed=result.failed,
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
class Turn(Record):
    """One step of teaching: an attempt, a hint, a demonstration.

    Attributes:
        kind: What it is, such as "attempt".
        role: Who wrote it, such as "student".
        text: What was written.
        correct: The verifier's verdict, or None if there was none.
    """

    kind: str
    role: str
    text: str
    correct: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript(Record):
    """One question: the answers before and after, how it was taught, or both.

    Attributes:
        question: The question.
        before: The answer before training, or None if it was not asked then.
        before_correct: Whether that was right.
        after: The answer after training, or None.
        after_correct: Whether that was right.
        taught: The steps of teaching, in order.
    """

    question: str
    before: str | None = None
    before_correct: bool | None = None
    after: str | None = None
    after_correct: bool | None = None
    taught: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData(Record):
    """Everything a report shows. `to_json` and `from_json` keep it, so a report can be rebuilt.

    Attributes:
        title: Heading, such as the name of the run.
        task: What was measured.
        created: When, as text.
        arms: The measured accuracies, in order.
        comparison: The paired comparison, or None.
        majority: Accuracy of always giving the most frequent answer, or None.
        chance: Accuracy of guessing, or None.
        losses: Training step and loss.
        costs: Tokens and seconds by role.
        phases: Name and wall seconds of each phase, in order.
        transcripts: A few questions with their answers and lessons.
        config: The resolved configuration.
        versions: Versions of the software.
        seed: Seed of the run.
        notes: Facts a reader must know, one sentence each.
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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds what `to_json` stored."""
        comparison = value.get("comparison")
        return cls(
            **{
                **value,
                "arms": tuple(
                    Arm(**{**arm, "interval": tuple(arm["interval"])}) for arm in value.get("arms", ())
                ),
                "comparison": PairedComparison.from_json(comparison) if comparison else None,
                "losses": tuple((step, loss) for step, loss in value.get("losses", ())),
                "costs": tuple(Cost(**cost) for cost in value.get("costs", ())),
                "phases": tuple((name, seconds) for name, seconds in value.get("phases", ())),
                "transcripts": tuple(
                    Transcript(**{**each, "taught": tuple(Turn(**turn) for turn in each.get("taught", ()))})
                    for each in value.get("transcripts", ())
                ),
                "notes": tuple(value.get("notes", ())),
            }
        )


def costs(ledger: Iterable[Mapping[str, Any]]) -> tuple[Cost, ...]:
    """Sums the rows of `Engine.ledger()` by role, in order of first use.

    Example:
        >>> rows = [{"role": "student", "calls": 2, "generated_tokens": 9}, {"role": "student", "calls": 1}]
        >>> costs(rows)[0].calls
        3
    """
    sums: dict[tuple[str, str | None], dict[str, Any]] = {}
    fields = ("calls", "prompt_tokens", "cached_tokens", "generated_tokens", "seconds")
    for row in ledger:
        role, adapter = str(row.get("role") or "other"), row.get("adapter")
        total = sums.setdefault((role, adapter), dict.fromkeys(fields, 0))
        for name in fields:
            total[name] += row.get(name, 0)
    return tuple(Cost(role=role, adapter=adapter, **total) for (role, adapter), total in sums.items())


def transcripts(before: EvalResult, after: EvalResult, *, most: int = 5) -> tuple[Transcript, ...]:
    """Picks held-out questions to show, by a rule that does not flatter.

    In turn: the first that became right, that stayed wrong, that became wrong, that stayed right;
    then the second of each, until there are `most`.
    """
    first = {record.item: record for record in before.records if record.correct is not None}
    kinds: dict[tuple[bool | None, bool | None], list[tuple[EvalRecord, EvalRecord]]] = {
        (False, True): [],
        (False, False): [],
        (True, False): [],
        (True, True): [],
    }
    for record in after.records:
        earlier = first.get(record.item)
        if earlier is not None and record.correct is not None:
            kinds[(earlier.correct, record.correct)].append((earlier, record))
    depth = max((len(pairs) for pairs in kinds.values()), default=0)
    picked = [pairs[i] for i in range(min(depth, most)) for pairs in kinds.values() if i < len(pairs)]
    return tuple(
        Transcript(
            question=b.question,
            before=b.text,
            before_correct=b.correct,
            after=a.text,
            after_correct=a.correct,
        )
        for b, a in picked[:most]
    )


def report(data: ReportData) -> str:
    """Returns the report as one HTML page: no script, no outside resource, light and dark.

    Example:
        >>> page = report(ReportData(title="demo <1>"))
        >>> "<h1>demo &lt;1&gt;</h1>" in page, "<script" in page
        (True, False)
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("docendo.evals.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, count=_count, seconds=_seconds, clip=_clip, signed=_signed)
    return environment.get_template("report.html.j2").render(
        data=data,
        loss=_loss_chart(data.losses),
        phases=_shares(data.phases),
        total_seconds=sum(seconds for _, seconds in data.phases),
        config=json.dumps(data.config, indent=2, ensure_ascii=False, default=str),
        held_out=[each for each in data.transcripts if each.before is not None or each.after is not None],
        lessons=[each for each in data.transcripts if each.taught],
        tone=_tone(data.comparison),
    )


def _tone(comparison: PairedComparison | None) -> str:
    if comparison is None:
        return "none"
    return {"better": "good", "worse": "bad"}.get(comparison.verdict, "flat")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return text.replace("-", "−")  # a real minus sign is as wide as the plus


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\u2009")


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def _clip(text: str) -> str:
    """Shortens a text and drops what a page cannot hold (lone surrogates, control characters)."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(char if char >= " " or char in "\n\t" else "�" for char in text)
    return (
        text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} … ({len(text) - _LONGEST_TEXT} more)"
    )


def _shares(phases: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    longest = max((seconds for _, seconds in phases), default=0.0)
    return [
        {"name": name, "seconds": seconds, "width": 100 * seconds / longest if longest else 0.0}
        for name, seconds in phases
    ]


def _loss_chart(losses: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """Places the loss curve in a 440 by 230 box; None if there are fewer than two finite points."""
    points = [(step, loss) for step, loss in losses if math.isfinite(step) and math.isfinite(loss)]
    if len(points) < 2:
        return None
    left, right, top, bottom = 44.0, 428.0, 12.0, 202.0
    ticks = _ticks(min(0.0, min(loss for _, loss in points)), max(loss for _, loss in points))
    low, high = ticks[0], ticks[-1]
    first, last = points[0][0], points[-1][0]

    def x(step: float) -> float:
        return left + (right - left) * (step - first) / ((last - first) or 1.0)

    def y(loss: float) -> float:
        return bottom - (bottom - top) * (loss - low) / ((high - low) or 1.0)

    line = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
    steps = sorted({round(first + (last - first) * part / 4) for part in range(5)})
    return {
        "line": line,
        "area": f"{left:.1f},{y(low):.1f} {line} {x(last):.1f},{y(low):.1f}",
        "ticks": [{"y": f"{y(tick):.1f}", "text": f"{tick:g}"} for tick in ticks],
        "steps": [{"x": f"{x(step):.1f}", "text": f"{step:g}"} for step in steps],
        "first": f"{points[0][1]:.3f}",
        "last": f"{points[-1][1]:.3f}",
        "x": f"{x(last):.1f}",
        "y": f"{y(points[-1][1]):.1f}",
    }


def _ticks(low: float, high: float) -> list[float]:
    """Returns three to six round values that cover the range."""
    span = (high - low) or 1.0
    size = 10.0 ** math.floor(math.log10(span / 4))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if span / (size * factor) <= 5)
    start = math.floor(low / step)
    return [round(step * i, 10) for i in range(start, math.ceil(round(high / step, 9)) + 1)]
