"""The page: one HTML file that needs nothing else, drawn from plain values.

Everything that a model, a file or a user wrote reaches the page through autoescaping, and the page
forbids scripts and outside resources by its own content policy. Characters that a page cannot hold or
that would reorder the text around them are shown as escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from docendo.checks import check_kind
from docendo.evals.comparison._compare import PairedComparison
from docendo.evals.reports._axes import clipped, short
from docendo.evals.reports._charts import (
    UNITS,
    cost_of,
    curve_chart,
    frontier_chart,
    loss_chart,
    pareto,
    reliability_chart,
    risk_chart,
)
from docendo.evals.reports._drawing import shape
from docendo.evals.reports._forest import forests, signed
from docendo.evals.reports._parts import StratumScore
from docendo.evals.reports._report import Arm, ReportData

_LONGEST_TEXT, _LONGEST_NAME = 4000, 120
#: Series beside the baseline; beyond that their marks and colours come round again.
_SERIES = 7
#: Calibration diagrams; rows of strata that are open; and strata in all.
_MOST_DIAGRAMS, _OPEN_ROWS, _MOST_STRATA = 6, 24, 100
# Controls but for tab and newline, and characters that override the direction of what follows them.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def report(data: ReportData) -> str:
    """Returns the report as one HTML page: no script, no outside resource, light and dark.

    Raises:
        ConfigError: if the data are something else.

    Example:
        >>> from docendo.evals import ReportData
        >>> page = report(ReportData(title="demo <1>"))
        >>> "demo &lt;1&gt;</h1>" in page, "<script" in page
        (True, False)
    """
    check_kind("data", data, ReportData, "ReportData, as from results_report")
    return environment().get_template("report.html.j2").render(data=data, **_view(data))


@cache
def environment() -> Any:
    """The templates, which take longer to compile than to fill."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("docendo.evals.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(
        percent=_percent, count=_count, seconds=_seconds, clip=_clip, name=_name, signed=signed, short=short
    )
    return environment


def _view(data: ReportData) -> dict[str, Any]:
    tones = tones_of(data.arms)
    longest = max((seconds for _, seconds in data.phases), default=0.0)
    strata = [(name, list(rows)) for name, rows in groupby(data.strata, key=lambda row: row.stratum)]
    return {
        "tones": tones,
        "several": len(data.arms) > 2,
        "tone": _tone(data.comparison),
        "baselines": _baselines(data),
        "forests": forests(data.differences),
        "spent": [arm for arm in data.arms if arm.spent],
        "frontiers": [c for unit in UNITS if (c := frontier_chart(data.arms, unit, tones)) is not None],
        "prices": _prices(data.arms),
        "loss": loss_chart(data.losses),
        "stages": [
            chart
            for curve in data.stages
            if (
                chart := curve_chart(
                    [curve], tones, title=f"{curve.kind} by stage".capitalize(), x_label="stage"
                )
            )
        ],
        "phases": [(name, seconds, 100 * seconds / (longest or 1.0)) for name, seconds in data.phases],
        "total_seconds": sum(seconds for _, seconds in data.phases),
        "diagrams": [reliability_chart(found, tones) for found in data.confidences[:_MOST_DIAGRAMS]],
        "risk": risk_chart(data.confidences, tones),
        "samples": _sample_charts(data, tones),
        "strata": strata[:_MOST_STRATA],
        "open_strata": max(3, _OPEN_ROWS // max(1, len(data.arms))),
        "strata_left": len(strata) - len(strata[:_MOST_STRATA]),
        "compared_strata": any(row.difference is not None for row in data.strata),
        "strip_width": _strip(data.strata),
        "held_out": [each for each in data.transcripts if each.before is not None or each.after is not None],
        "lessons": [each for each in data.transcripts if each.taught],
        "config": json.dumps(data.config, indent=2, ensure_ascii=False, default=str),
        "shape": shape,
    }


def tones_of(arms: Sequence[Arm]) -> dict[str, int]:
    """The series of each arm, by which it is known in all charts: 0 for baselines, the others from 1."""
    found: dict[str, int] = {}
    for place, arm in enumerate(arms):
        first = place == 0 and len(arms) == 2 and not any(each.part for each in arms)
        if arm.part == "baseline" or first:
            found[arm.name] = 0
        else:
            found[arm.name] = 1 + sum(tone > 0 for tone in found.values()) % _SERIES
    return found


def _baselines(data: ReportData) -> dict[str, tuple[float | None, float | None]]:
    """The majority and the chance of each arm."""
    return {
        arm.name: (
            data.majority if arm.majority is None else arm.majority,
            data.chance if arm.chance is None else arm.chance,
        )
        for arm in data.arms
    }


def _prices(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """The table of costs: what an item and a right answer cost, and who is on the frontier."""
    best = {}
    for unit in UNITS:
        known = [(n, cost) for n, arm in enumerate(arms) if (cost := cost_of(arm, unit)) and arm.n]
        front = pareto([(cost, arms[n].accuracy) for n, cost in known])
        best[unit] = {known[place][0] for place in front} if len(known) > 1 else set()
    return [
        {
            "number": n + 1,
            "arm": arm,
            "units": [
                {
                    "unit": unit,
                    "item": cost_of(arm, unit),
                    "right": getattr(arm.cost, f"{unit}_per_correct"),
                    "best": n in best[unit],
                }
                for unit in UNITS
            ],
        }
        for n, arm in enumerate(arms)
        if arm.cost is not None
    ]


def _sample_charts(data: ReportData, tones: Mapping[str, int]) -> list[Any]:
    kinds = dict.fromkeys(curve.kind for curve in data.samples)
    curves = {kind: [curve for curve in data.samples if curve.kind == kind] for kind in kinds}
    charts = (
        curve_chart(each, tones, title=kind, x_label="k, samples an item", numbers=True)
        for kind, each in curves.items()
    )
    return [chart for chart in charts if chart is not None]


def _strip(rows: Sequence[StratumScore]) -> float:
    """The largest difference that the strips beside the strata must hold."""
    return max((abs(bound) for row in rows for bound in row.difference_interval or ()), default=0.0) or 1.0


def _tone(comparison: PairedComparison | None) -> str:
    if comparison is None:
        return "none"
    return {"better": "good", "worse": "bad"}.get(comparison.verdict, "flat")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\u2009")


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def _shown(value: Any) -> Any:
    """What an expression of the template becomes: a text without what a page cannot hold."""
    # Markup is what a macro of the template made.
    return shown(value) if type(value) is str else value


def shown(text: str) -> str:
    r"""Replaces what cannot be shown, or would change how its surroundings are shown, by escapes.

    Example:
        >>> print(shown("a\x00b \u202egnp.exe"))
        a\x00b \u202egnp.exe
    """
    return _UNSHOWABLE.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n")
    )


def _name(text: str) -> str:
    return clipped(shown(text), _LONGEST_NAME)


def _clip(text: str) -> str:
    """Shortens a long text and says by how much."""
    left = len(text) - _LONGEST_TEXT
    return text if left <= 0 else f"{text[:_LONGEST_TEXT]} … ({left} more)"
