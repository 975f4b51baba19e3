"""The stored result of a recipe: what was found, with which settings, versions and commit, where and when."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from docendo.evals.experiments._commit import commit
from docendo.files import write_json
from docendo.registry import Recipe, Scale, result_name

FORMAT = 1
_LIBRARIES = ("docendo", "torch", "transformers", "peft", "trl", "langgraph", "datasets", "reasoning-gym")


def result(recipe: Recipe, scale: Scale, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a finished run, as it is stored.

    A recipe that is no experiment, and a run at the scale "tiny", show only that the recipe runs.

    Args:
        recipe: The recipe.
        scale: The scale that it ran at.
        summary: What `recipe.run` returned.
    """
    parts = ("seeds", "arms", "facts", "findings", "seconds", "config")
    return {
        "format": FORMAT,
        **{name: recipe.card()[name] for name in ("id", "title", "room", "paper", "claim")},
        "scale": scale,
        "status": "runs" if scale == "tiny" else summary.get("status", "runs"),
        "seed": summary.get("config", {}).get("seed"),
        **{name: summary[name] for name in parts if name in summary},
        "versions": versions(),
        "commit": ", ".join(summary.get("commits", ())) or commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
    }


def store(stored: Mapping[str, Any], folder: Path) -> Path:
    """Writes a result into a folder of results and returns its file."""
    path = folder / result_name(stored["id"], stored["scale"])
    write_json(path, stored)
    return path


def versions() -> dict[str, str]:
    """Versions of docendo and of the libraries that decide a result, where they are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def page(recipes: Sequence[Recipe]) -> str:
    """docs/recipes.md: a table of all recipes, and for each stored result its figures.

    Args:
        recipes: All recipes, in their order.
    """
    table = [_row("recipe", "room", "method", "paper", "status"), "|" + "---|" * 5]
    table += [
        _row(f"[{r.id}](#{r.id})" if r.results() else r.id, r.room, r.title, r.paper, _status(r))
        for r in recipes
    ]
    parts = [_HEAD, "\n".join(table), "\n"]
    for each in recipes:
        results = each.results()
        if not results:
            continue
        parts.append(f"\n## {each.id}\n\n{each.claim}\n\nCost: {each.cost}.\n")
        scale = next(iter(results))
        if each.figure is not None:
            parts.append(f"\n![{each.title}](figures/{each.id}.svg)\n")
        parts.append(_figures(results[scale]))
    return "".join(parts)


def figures(recipes: Sequence[Recipe]) -> dict[str, str]:
    """The figures beside docs/recipes.md by file name: those of recipes that draw one and have a result.

    Args:
        recipes: All recipes.
    """
    return {
        f"{each.id}.svg": each.figure(next(iter(results.values())))
        for each in recipes
        if each.figure is not None and (results := each.results())
    }


_HEAD = """# Recipes

Made by `make recipes-page` from the registry and `evals/results/`, never by hand.
`docendo recipes run ID --scale laptop` runs one anew; `docendo recipes show ID` says what it does and needs.

`reproduced`: with five seeds every claim's 95 % interval excludes zero, every control fails as it must and
every check of the mechanism holds. `not reproduced`: one of them does not; the figures say which. `runs`: it
was run only at the smallest scale, or makes no claim against a control.

"""


def _status(recipe: Recipe) -> str:
    scales = [scale for scale, result in recipe.results().items() if result["status"] == recipe.status]
    return f"{recipe.status} ({', '.join(scales)})" if scales else recipe.status


def _figures(result: Mapping[str, Any]) -> str:
    parts = []
    if result.get("arms"):
        rows = [_row("arm", "mean", "by seed", "spent"), "|---|---|---|---|"]
        for part in ("arms", "facts"):
            for name, row in result.get(part, {}).items():
                seeds = " ".join("-" if value is None else f"{value:.3f}" for value in row["by_seed"])
                spent = ", ".join(f"{value:,.0f} {unit}" for unit, value in row.get("spent", {}).items())
                mean = "-" if row["mean"] is None else f"{row['mean']:.3f}"
                rows.append(_row(name if part == "arms" else f"*{name}*", mean, seeds, spent))
        parts.append("\n" + "\n".join(rows) + "\n")
    if result.get("findings"):
        rows = [_row("", "difference or fact", "value", "95 % interval", ""), "|---|---|---|---|---|"]
        for found in result["findings"]:
            low, high = found["interval"] or (None, None)
            rows.append(
                _row(
                    found["role"],
                    found["name"],
                    "-" if found["value"] is None else f"{found['value']:+.3f}",
                    "" if low is None else f"{low:+.3f} to {high:+.3f}",
                    found["verdict"],
                )
            )
        parts.append("\n" + "\n".join(rows) + "\n")
    seeds = result.get("seeds", [result["seed"]])
    parts.append(
        f"\nScale {result['scale']}, seeds {', '.join(map(str, seeds))}, {result.get('seconds', 0):.0f} s on "
        f"{result['machine']}, {result['date']}, commit {result['commit']}.\n"
    )
    return "".join(parts)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
