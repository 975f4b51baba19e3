"""docs/benchmarks.md, made from the stored results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = """# Benchmarks

Made by `make bench` from `benchmarks/results/`, never by hand. `make bench BAR=P1` measures one bar anew.

All figures are ratios. The two sides of a bar run in turn in one process, with the same work, precision and
threads; each pair gives one ratio, the value is their median and the range that of the pairs. Absolute times
depend on the machine and the hour; they are in the results. A missed target is shown as a miss.

| bar | what is compared | value | range | target | |
|---|---|---|---|---|---|
"""


def render(titles: Mapping[str, str], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page: a row per figure, the other contenders, and where each bar was measured."""
    rows = []
    for bar, title in titles.items():
        if bar not in results:
            rows.append(_row(bar, title, "", "", "", "not measured"))
            continue
        parts = results[bar]["detail"]["parts"]
        for number, (name, part) in enumerate(parts.items()):
            label = title if len(parts) == 1 else f"{title} **{name}**" if number == 0 else f"**{name}**"
            rows.append(_row(bar if number == 0 else "", label, *_figures(part)))
    measured = {bar: results[bar]["detail"] for bar in titles if bar in results}
    return _HEAD + "\n".join(rows) + "\n" + _peers(measured) + _machines(measured)


def _figures(part: Mapping[str, Any]) -> tuple[str, str, str, str]:
    target = f"{'≤' if part['at_most'] else '≥'} {part['target']:g}"
    if part["value"] is None:
        return "none", "", target, f"**miss**: {part['why']}"
    low, high = min(part["ratios"]), max(part["ratios"])
    return (
        _number(part["value"]),
        f"{_number(low)}–{_number(high)}",
        target,
        "pass" if part["pass"] else "**miss**",
    )


def _peers(measured: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        _row(bar, name, _number(value) if isinstance(value, (int, float)) else str(value))
        for bar, detail in measured.items()
        for name, value in detail["peers"].items()
    ]
    if not rows:
        return ""
    return (
        "\n## Other contenders\n\nThe same work in the same run, fewer repeats of which the best is shown, "
        "in terms of the bar's first figure.\n\n| bar | contender | value |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _machines(measured: Mapping[str, Mapping[str, Any]]) -> str:
    if not measured:
        return ""
    columns = ("date", "commit", "cpu", "cores", "threads", "dtype", "torch", "transformers", "load")
    rows = []
    for bar, detail in measured.items():
        facts = {**detail["machine"], "dtype": detail.get("dtype", "").removeprefix("torch.")}
        facts["load"] = facts["load"][0]
        rows.append(_row(bar, *(str(facts.get(column, "")) for column in columns)))
    head = _row("bar", *columns[:-1], "load after")
    return f"\n## Where and when\n\n{head}\n|{'---|' * (len(columns) + 1)}\n" + "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _number(value: float) -> str:
    return f"{value:.3g}"
