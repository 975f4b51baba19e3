"""docs/reliability.md, made from the stored results of the bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = """# Reliability

Made by `make faults` from `tests/faults/results/`, never by hand. `make faults BAR=R3` measures one bar anew;
a short form of each runs with the other tests.

Each bar does real damage (kills, full disks, flipped bits, hostile files) and counts the cases that went
wrong. The target is none. What was reached is counted as well, since a kill after the end proves nothing.
Failing cases are shown as a miss. A kill is SIGKILL, which is not power loss: the page cache survives it.

| bar | what | part | cases | failed | reached | |
|---|---|---|---|---|---|---|
"""
_BROKEN = """
## Broken on purpose

A test that cannot fail proves nothing, so every bar is run against a deliberately broken variant as well,
which it has to catch.

| bar | variant | cases | caught | reached |
|---|---|---|---|---|
"""
_ANCHORS = """
## Others on the same test

Made by the same command as the bar's own figures. A failed case is no verdict on a library that does not
promise what the bar asks for.

| bar | what | cases | failed | reached | what counts as failed |
|---|---|---|---|---|---|
"""
_COLUMNS = (
    "date",
    "commit",
    "cpu",
    "cores",
    "python",
    "torch",
    "peft",
    "langgraph",
    "safetensors",
    "sqlalchemy",
)


def render(titles: Mapping[str, str], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page: every part of every bar, the broken variants, other libraries, where it was measured."""
    rows = []
    for bar, title in titles.items():
        if bar not in results:
            rows.append(_row(bar, title, "", "", "", "", "not measured"))
            continue
        for number, (name, part) in enumerate(results[bar]["detail"]["parts"].items()):
            first = (bar, title) if number == 0 else ("", "")
            rows.append(_row(*first, name, *_part(part)))
    details = {bar: results[bar]["detail"] for bar in titles if bar in results}
    page = [_HEAD + "\n".join(rows) + "\n", _skipped(details)]
    broken = [
        _row(bar, name, _count(one["cases"]), _count(one["failed"]), _reached(one))
        for bar, name, one in _each(details, "broken")
    ]
    anchors = [
        _row(bar, name, _count(one["cases"]), _count(one["failed"]), _reached(one), one["note"])
        for bar, name, one in _each(details, "anchors")
    ]
    page += [head + "\n".join(rows) + "\n" for head, rows in ((_BROKEN, broken), (_ANCHORS, anchors)) if rows]
    return "".join(page) + _machines(details)


def _part(part: Mapping[str, Any]) -> tuple[str, ...]:
    good = not part["failed"] and part["cases"] >= part["needed"] and all(part["reached"].values())
    verdict = "pass" if good else "**miss**"
    if part.get("known"):
        verdict += f": {part['known']}"
    elif part["failed"] and part.get("examples"):
        verdict += f": {part['examples'][0]}"
    cases = f"{part['value']:.3g} (≤ {part['at_most']:g})" if "at_most" in part else _count(part["cases"])
    return cases, _count(part["failed"]), _reached(part), verdict


def _skipped(details: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"* {bar}: {reason}" for bar, detail in details.items() for reason in detail["skipped"]]
    return "\n## Not run\n\n" + "\n".join(lines) + "\n" if lines else ""


def _each(details: Mapping[str, Mapping[str, Any]], what: str) -> list[tuple[str, str, Any]]:
    return [(bar, name, one) for bar, detail in details.items() for name, one in detail[what].items()]


def _reached(counts: Mapping[str, Any]) -> str:
    both = {**counts["reached"], **counts.get("outcomes", {})}
    return ", ".join(f"{_count(number)} {name}" for name, number in both.items())


def _machines(details: Mapping[str, Mapping[str, Any]]) -> str:
    if not details:
        return ""
    rows = [
        _row(bar, str(detail["seconds"]), *(str(detail["machine"].get(name, "")) for name in _COLUMNS))
        for bar, detail in details.items()
    ]
    head = _row("bar", "seconds", *_COLUMNS)
    return f"\n## Where and when\n\n{head}\n|{'---|' * (len(_COLUMNS) + 2)}\n" + "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _count(number: int) -> str:
    return f"{number:,}"
