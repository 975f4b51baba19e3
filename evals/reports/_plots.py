"""The charts of a report as PNG files, drawn by matplotlib from the same data as the page."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from docendo.errors import MissingExtra, StorageError
from docendo.evals.reports._axes import clipped, doublings
from docendo.evals.reports._charts import MOST_SERIES, UNITS, cost_axis, cost_of, pareto
from docendo.evals.reports._drawing import COLOURS
from docendo.evals.reports._page import shown, tones_of
from docendo.evals.reports._parts import Curve, Difference
from docendo.evals.reports._report import ReportData

_MARKS, _DASHES = "os^D", ("-", "-", "--", ":", "-.", (0, (4, 2)), (0, (10, 4)), (0, (1, 2)))
_LONGEST_NAME = 40
_DPI = 150

Tones = Mapping[str, int]


def save_plots(data: ReportData, folder: str | Path) -> tuple[Path, ...]:
    """Draws the charts of a report as PNG files; what has no data has no file.

    `accuracy.png`, `differences.png` (one for each metric), `frontier.png`, `loss.png`, `stages.png`,
    `calibration.png`, `risk.png` and `samples.png`. No display is needed or used.

    Args:
        data: What `results_report` gathered, or any other report's data.
        folder: Where they are written; it is made if it is not there.

    Returns:
        The files that were written.

    Raises:
        MissingExtra: if matplotlib is not installed.
        StorageError: if a file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "plots") from error
    tones = tones_of(data.arms)
    metrics = enumerate(_by_metric(data.differences).items(), 1)
    draw: dict[str, Callable[[ReportData, Tones], Any]] = {
        "accuracy": _accuracy,
        **{
            f"differences{'' if metric == 'correct' else f'-{n}'}": partial(_differences, rows)
            for n, (metric, rows) in metrics
        },
        "frontier": _frontier,
        "loss": _loss,
        "stages": _stages,
        "calibration": _calibration,
        "risk": _risk,
        "samples": _samples,
    }
    written = []
    settings = {
        "text.parse_math": False,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Names may hold letters that the font lacks; a box stands for them.
        warnings.filterwarnings("ignore", message=".*Glyph .* missing from")
        for name, make in draw.items():
            figure = make(data, tones)
            if figure is not None:
                written.append(_written(figure, Path(folder) / f"{name}.png"))
    return tuple(written)


def _accuracy(data: ReportData, tones: Tones) -> Any:
    if not data.arms:
        return None
    figure, axes = _figure(1, height=0.9 + 0.42 * len(data.arms))
    for row, arm in enumerate(data.arms):
        style = {"hatch": "///", "alpha": 0.6} if arm.part == "control" else {}
        axes.barh(row, 100 * arm.accuracy, color=COLOURS[tones[arm.name]], height=0.6, **style)
        if arm.n:
            low, high = (100 * bound for bound in arm.interval)
            axes.plot([low, high], [row, row], color="black", marker="|", linewidth=1.2)
        axes.plot(
            [100 * seed for seed in arm.seeds],
            [row + 0.2] * len(arm.seeds),
            "o",
            color="black",
            mfc="white",
            ms=3,
        )
    for field, dashes in (("majority", "--"), ("chance", ":")):
        shares = {getattr(arm, field) for arm in data.arms} - {None} or {getattr(data, field)} - {None}
        for share in shares:
            axes.axvline(100 * share, color="black", linewidth=1, linestyle=dashes)
    axes.set_yticks(range(len(data.arms)), [_name(arm.name) for arm in data.arms])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="right, % (dashed: most frequent answer, dotted: guessing)")
    return figure


def _by_metric(rows: Sequence[Difference]) -> dict[str, list[Difference]]:
    return {
        metric: [r for r in rows if r.metric == metric] for metric in dict.fromkeys(r.metric for r in rows)
    }


def _differences(rows: Sequence[Difference], _data: ReportData, tones: Tones) -> Any:
    share = rows[0].metric == "correct"
    scale = 100 if share else 1
    figure, axes = _figure(1, height=1.0 + 0.5 * len(rows))
    axes.axvline(0, color="0.5", linewidth=1)
    for place, row in enumerate(rows):
        tone = COLOURS[tones.get(row.name, 1)]
        low, high = (scale * bound for bound in row.interval)
        axes.plot([low, high], [place, place], color=tone, marker="|", linestyle="--" if row.control else "-")
        axes.plot(scale * row.difference, place, "s", color=tone, mfc="white" if row.control else tone)
        axes.annotate(
            row.verdict,
            (1, place),
            xycoords=("axes fraction", "data"),
            va="center",
            xytext=(6, 0),
            textcoords="offset points",
        )
    axes.set_yticks(
        range(len(rows)), [f"{_name(row.name)}{' (control)' if row.control else ''}" for row in rows]
    )
    axes.invert_yaxis()
    against = ", ".join(dict.fromkeys(_name(row.against) for row in rows))
    axes.set_xlabel(f"{'percentage points' if share else _name(rows[0].metric)}, against {against}")
    return figure


def _frontier(data: ReportData, tones: Tones) -> Any:
    known = {
        unit: [(n, arm, cost) for n, arm in enumerate(data.arms, 1) if (cost := cost_of(arm, unit)) and arm.n]
        for unit in UNITS
    }
    known = {unit: found for unit, found in known.items() if len(found) > 1}
    if not known:
        return None
    figure, *panels = _figure(len(known), height=3.0)
    for axes, (unit, found) in zip(panels, known.items(), strict=True):
        best = pareto([(cost, arm.accuracy) for _, arm, cost in found])
        front = sorted((found[n][2], 100 * found[n][1].accuracy) for n in best)
        axes.plot(*zip(*front, strict=True), color="0.5", linestyle="--", linewidth=1)
        for place, (number, arm, cost) in enumerate(found):
            tone = COLOURS[tones[arm.name]]
            mark = {
                "marker": _MARKS[tones[arm.name] % 4],
                "color": tone,
                "mfc": tone if place in best else "white",
            }
            axes.plot(cost, 100 * arm.accuracy, linestyle="", label=f"{number} {_name(arm.name)}", **mark)
            axes.plot([cost, cost], [100 * bound for bound in arm.interval], color=tone, alpha=0.5, lw=1)
            axes.annotate(str(number), (cost, 100 * arm.accuracy), xytext=(5, 4), textcoords="offset points")
        across = cost_axis([cost for *_, cost in found])
        axes.set_xscale("log" if across.log else "linear")
        axes.set_xticks(*zip(*across.ticks, strict=True))
        axes.set_xticks([], minor=True)
        # Half a mark of room at the ends.
        room = (across.high / across.low) ** 0.03 if across.log else 0.03 * across.high
        axes.set_xlim(
            across.low / room if across.log else -room,
            across.high * room if across.log else across.high + room,
        )
        axes.set(xlabel=UNITS[unit], ylabel="right, %")
    _legend(figure, panels[0])
    return figure


def _loss(data: ReportData, _tones: Tones) -> Any:
    points = [(step, loss) for step, loss in data.losses if math.isfinite(step) and math.isfinite(loss)]
    if len(points) < 2:
        return None
    figure, axes = _figure(1, height=3.0)
    axes.plot(*zip(*points, strict=True), color=COLOURS[1])
    axes.set(xlabel="step", ylabel="training loss")
    return figure


def _stages(data: ReportData, tones: Tones) -> Any:
    if not data.stages:
        return None
    figure, *panels = _figure(len(data.stages), height=3.0)
    for axes, curve in zip(panels, data.stages, strict=True):
        _line(axes, range(len(curve.values)), curve, tones.get(curve.name, 1))
        axes.set_xticks(range(len(curve.labels)), [clipped(shown(x), 12) for x in curve.labels])
        axes.set(ylabel=f"{curve.kind}, %", xlabel="stage")
    return figure


def _samples(data: ReportData, tones: Tones) -> Any:
    kinds = list(dict.fromkeys(curve.kind for curve in data.samples))
    if not kinds:
        return None
    figure, *panels = _figure(len(kinds), height=3.2)
    for axes, kind in zip(panels, kinds, strict=True):
        for curve in [each for each in data.samples if each.kind == kind][:MOST_SERIES]:
            _line(axes, [int(k) for k in curve.labels], curve, tones.get(curve.name, 1))
        axes.set_xscale("log", base=2)
        ticks = doublings(max(int(each.labels[-1]) for each in data.samples)).ticks
        axes.set_xticks(*zip(*ticks, strict=True))
        axes.set_xticks([], minor=True)
        axes.set(xlabel="k, samples an item", ylabel=f"{kind}, %")
    _legend(figure, panels[0])
    return figure


def _calibration(data: ReportData, tones: Tones) -> Any:
    shown_here = data.confidences[:MOST_SERIES]
    if not shown_here:
        return None
    figure, axes = _figure(1, height=4.0)
    axes.plot([0, 100], [0, 100], color="0.5", linestyle="--", linewidth=1)
    for each in shown_here:
        sure, right = zip(*((100 * bin_[0], 100 * bin_[1]) for bin_ in each.bins), strict=True)
        axes.plot(
            sure, right, label=f"{_name(each.name)} (ECE {each.ece:.3f})", **_style(tones.get(each.name, 1))
        )
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="right, %")
    _legend(figure, axes)
    return figure


def _risk(data: ReportData, tones: Tones) -> Any:
    shown_here = data.confidences[:MOST_SERIES]
    if not shown_here:
        return None
    figure, axes = _figure(1, height=3.4)
    for each in shown_here:
        cover, risk = zip(*((100 * a, 100 * b) for a, b in each.curve), strict=True)
        style = {**_style(tones.get(each.name, 1)), "markevery": max(1, len(cover) // 5)}
        axes.plot(cover, risk, label=f"{_name(each.name)} (AURC {each.aurc:.3f})", **style)
    axes.set(xlim=(0, 100), xlabel="answered, the surest first, %", ylabel="wrong, %")
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def _line(axes: Any, places: Sequence[int], curve: Curve, tone: int) -> None:
    axes.plot(places, [100 * value for value in curve.values], label=_name(curve.name), **_style(tone))
    for place, (low, high) in zip(places, curve.intervals, strict=False):
        axes.plot([place, place], [100 * low, 100 * high], color=COLOURS[tone], alpha=0.5, linewidth=1)


def _style(tone: int) -> dict[str, Any]:
    return {"color": COLOURS[tone], "marker": _MARKS[tone % 4], "linestyle": _DASHES[tone], "ms": 4}


def _figure(panels: int, *, height: float) -> list[Any]:
    from matplotlib.figure import Figure

    # A figure of its own, not pyplot's: it draws with Agg, keeps no global state and opens no window.
    figure = Figure(figsize=(max(6.0, 3.4 * panels), height), layout="constrained")
    return [figure, *figure.subplots(1, panels, squeeze=False)[0]]


def _legend(figure: Any, axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        columns = 2 if max(map(len, names)) < _LONGEST_NAME / 1.6 else 1
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)


def _name(text: str) -> str:
    # A leading underscore would hide a line from the legend.
    return clipped(shown(" ".join(text.split())), _LONGEST_NAME).lstrip("_") or "(no name)"


def _written(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    return path
