"""Studies: does a method do what it is said to do? A question, arms with metrics, differences with intervals.

A study is a module `benchmarks/<room>/<name>_<what>.py` with a function `measure(options)` that returns a
`Study`. The name is a letter other than P, a number, and a letter if there are several of one number
(`a4d_retrieval.py`); `benchmarks/run.py A4` runs A4 and A4D.

A difference whose interval holds 0 is "no effect shown", and a control that does not fail is said to have
not failed: both are results.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Effect = Literal["gain", "none", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference of two arms.

    Attributes:
        name: What is compared with what, and in which metric.
        value: Mean difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        pairs: How many independent pairs there were.
        control: What the difference must be if the method works for the reason given, or None for a claim.
    """

    name: str
    value: float
    low: float
    high: float
    pairs: int
    control: Effect | None = None

    @property
    def effect(self) -> Effect:
        """What the interval shows."""
        if self.low > 0:
            return "gain"
        return "loss" if self.high < 0 else "none"

    @property
    def verdict(self) -> str:
        """The finding in words."""
        shown = {"gain": "gain", "none": "no effect shown", "loss": "loss"}
        if self.control is None:
            return shown[self.effect]
        kept = "control as it must be" if self.effect == self.control else "**control broken**"
        return f"{kept}: {shown[self.effect]}, expected {shown[self.control]}"

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {
            "value": rounded(self.value),
            "low": rounded(self.low),
            "high": rounded(self.high),
            "pairs": self.pairs,
            "control": self.control,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a study's `measure` returns.

    Attributes:
        name: For example A4.
        setting: The data, the sizes and the seeds, in one or two sentences.
        arms: Metrics by arm: a mean, or why there is none.
        findings: Differences between arms, at least one.
        notes: What a reader must know to read the figures rightly.
        detail: Whatever else is worth recording.
    """

    name: str
    setting: str
    arms: Mapping[str, Mapping[str, float | str]]
    findings: Sequence[Finding]
    notes: Sequence[str] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    def line(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON line."""
        return {
            "study": self.name,
            "setting": self.setting,
            "arms": {
                arm: {
                    metric: value if isinstance(value, str) else rounded(value)
                    for metric, value in row.items()
                }
                for arm, row in self.arms.items()
            },
            "findings": {finding.name: finding.to_json() for finding in self.findings},
            "notes": list(self.notes),
            "detail": {**self.detail, "machine": dict(facts)},
        }


def difference(
    name: str, *, of: Sequence[float], over: Sequence[float], control: Effect | None = None
) -> Finding:
    """The mean of `of - over` over pairs, with a bootstrap interval of 10,000 resamples.

    Give one value per independent unit (an item, a query, a world): average over seeds first.
    """
    from docendo.evals import paired_bootstrap

    low, high = paired_bootstrap(over, of)
    value = statistics.fmean(of) - statistics.fmean(over)
    return Finding(name=name, value=value, low=low, high=high, pairs=len(of), control=control)


def rounded(value: float) -> float:
    """A figure as it is recorded: four digits."""
    return float(f"{value:.4g}")


_HEAD = """# Studies

Made by `make bench` from `benchmarks/results/`, never by hand. `make bench BAR=A4` runs one study anew.

A study asks whether a published method does here what it is said to do. A difference is a gain or a loss
if its 95 % bootstrap interval lies on one side of 0; else no effect was shown. A control keeps the plumbing
and takes the information away, so it must not gain.
"""


def render(titles: Mapping[str, str], results: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/studies.md: for each study its setting, arms, findings, and where it was measured."""
    parts = [_HEAD]
    for name, title in titles.items():
        parts.append(f"\n## {name}: {title}\n\n")
        if name not in results:
            parts.append("Not measured.\n")
            continue
        line = results[name]
        parts.append(f"{line['setting']}\n\n{_arms(line['arms'])}\n{_findings(line['findings'])}")
        parts += [f"\n{note}\n" for note in line["notes"]]
        facts = line["detail"]["machine"]
        parts.append(f"\nMeasured on {facts.get('date')} at {facts.get('commit')}, {facts.get('cpu')}.\n")
    return "".join(parts)


def _arms(arms: Mapping[str, Mapping[str, Any]]) -> str:
    metrics = list(dict.fromkeys(metric for row in arms.values() for metric in row))
    rows = [_row("arm", *metrics), "|" + "---|" * (len(metrics) + 1)]
    rows += [_row(arm, *(_number(row.get(metric, "")) for metric in metrics)) for arm, row in arms.items()]
    return "\n".join(rows) + "\n"


def _findings(findings: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [_row("difference", "mean", "95 % interval", "pairs", ""), "|---|---|---|---|---|"]
    rows += [
        _row(
            name,
            f"{found['value']:+.3f}",
            f"{found['low']:+.3f} to {found['high']:+.3f}",
            str(found["pairs"]),
            found["verdict"],
        )
        for name, found in findings.items()
    ]
    return "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
