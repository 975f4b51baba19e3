"""Checks the statistics of docendo.evals in simulations, keeps the figures, and renews docs/statistics.md.

    python benchmarks/check_statistics.py           what is missing, and the page
    python benchmarks/check_statistics.py --anew    everything
    python benchmarks/check_statistics.py --page    the page alone, from the stored figures

Rows run side by side, one per core, and are kept as they finish: after an interruption the same command goes
on. The same code gives the same figures; with other code all are measured anew. What is not as it should be
is shown on the page like any other result.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

# The rows are what runs in parallel.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from _simulated_page import render
from _simulated_sections import SECTIONS, measured

import docendo.evals.statistics
from docendo.files import write_json, write_text
from docendo.hashing import digest
from docendo.progress import progress

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "statistics.json"
PAGE = HERE.parent / "docs" / "statistics.md"


def code() -> str:
    """What the figures depend on: the statistics, the rule of `compare`, the simulations, the libraries."""
    import numpy
    import scipy

    statistics = Path(docendo.evals.statistics.__file__).parent
    files = [
        *sorted(statistics.glob("*.py")),
        statistics.parent / "comparison" / "_compare.py",
        *(file for file in sorted(HERE.glob("_simulated*.py")) if file.stem != "_simulated_page"),
    ]
    return digest(numpy.__version__, scipy.__version__, *map(_meaning, files))


def _meaning(file: Path) -> str:
    """The code of a file without comments and docstrings, which change no figure."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:]
    return ast.dump(tree)


def stored() -> dict[str, Any]:
    """The kept figures, and the code they were measured with."""
    if not RESULTS.is_file():
        return {"code": "", "figures": {}}
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def kept(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """The figures in the order of the sections, without rows that there are no longer."""
    return {
        name: {label: figures[name][label] for label in section.rows if label in figures.get(name, {})}
        for name, section in SECTIONS.items()
        if name in figures
    }


def write_page() -> None:
    """Renews the page from what is stored."""
    write_text(PAGE, render(stored()["figures"]))


def measure(figures: dict[str, dict[str, dict[str, float]]], now: str) -> None:
    """Measures the rows that are missing and stores them as they finish."""
    missing = [
        (name, label)
        for name, section in SECTIONS.items()
        for label in section.rows
        if label not in figures.get(name, {})
    ]
    if not missing:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # An interruption is this process's to handle, which ends the others.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    with (
        progress("statistics", len(missing)) as bar,
        context.Pool(cores, initializer=signal.signal, initargs=ignore) as pool,
    ):
        for name, label, row in pool.imap_unordered(_row, missing):
            figures.setdefault(name, {})[label] = row
            write_json(RESULTS, {"code": now, "figures": kept(figures)})
            bar.advance(note=name)


def _row(place: tuple[str, str]) -> tuple[str, str, dict[str, float]]:
    return *place, measured(*place)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--anew", action="store_true", help="measure everything again")
    parser.add_argument("--page", action="store_true", help="renew the page from the stored figures")
    chosen = parser.parse_args()
    if not chosen.page:
        found, now = stored(), code()
        fresh = chosen.anew or found["code"] != now
        measure({} if fresh else kept(found["figures"]), now)
    write_page()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
