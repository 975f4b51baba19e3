"""Runs bars and studies, each in a process of its own, keeps their results, and renews their pages.

    python benchmarks/run.py               all bars
    python benchmarks/run.py P1 A4         these bars and studies; what is kept of the others stays
    python benchmarks/run.py P1 --quick    one pair with little work: does it run? Nothing is kept.
    python benchmarks/run.py --page        the pages alone, from the stored results

Bars (P1, ...) are held against targets and shown in docs/benchmarks.md, studies (A4, ...) in docs/studies.md.
Every one prints one line of JSON. What has finished is kept when a run is interrupted. A missed bar is a
result like any other; the exit code is 1 only if a bar could not be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from _harness import MODEL, Options, machine
from _page import render
from _study import render as render_studies

import docendo  # noqa: F401  (sets OpenMP's waiting before torch is loaded: for the references as well)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
STUDIES_PAGE = HERE.parent / "docs" / "studies.md"


def bars() -> dict[str, Path]:
    """All bars by name, in the order of their numbers."""
    return {name: path for name, path in _found().items() if name.startswith("P")}


def studies() -> dict[str, Path]:
    """All studies by name, in the order of their letters and numbers."""
    return {name: path for name, path in _found().items() if not name.startswith("P")}


def _found() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(HERE.glob("*/*.py")):
        if match := _NAME.match(path.name):
            other = found.setdefault(match[1].upper(), path)
            if other != path:
                raise SystemExit(f"bench: {path} and {other} have one name; add a letter to it, as in a4d_")
    return dict(sorted(found.items(), key=lambda entry: _order(entry[0])))


_NAME = re.compile(r"([a-z]\d+[a-z]?)_\w+\.py")


def _order(name: str) -> tuple[str, int, str]:
    return name[0], int(name[1:].rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")), name[1:].lstrip("0123456789")


def chosen_of(names: list[str], known: dict[str, Path]) -> list[str]:
    """What is meant: A4 is A4 and, where a row has several studies, A4B and so on.

    Raises:
        KeyError: for a name that means nothing.
    """
    found = []
    for name in names:
        meant = [one for one in known if one == name or one.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ") == name]
        if not meant:
            raise KeyError(name)
        found += meant
    return list(dict.fromkeys(found))


def load(path: Path) -> Any:
    """A bar's module."""
    spec = importlib.util.spec_from_file_location(f"docendo_bench_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"bench: cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def measure(path: Path, options: Options) -> dict[str, Any]:
    """Measures a bar or a study in this process and returns its line."""
    measured = load(path).measure(options)
    return measured.line(machine())


def stored(sort: str = "bar") -> dict[str, dict[str, Any]]:
    """The kept results of bars, or of studies (`sort="study"`), by name."""
    lines = (json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob("*.json"))
    return {line[sort]: line for line in lines if sort in line}


def titles(paths: dict[str, Path] | None = None) -> dict[str, str]:
    """The first line of every docstring, without its name; by default of the bars."""
    chosen = bars() if paths is None else paths
    first = {name: path.read_text(encoding="utf-8").split('"""')[1].strip() for name, path in chosen.items()}
    return {name: text.splitlines()[0].partition(": ")[2].rstrip(" .") for name, text in first.items()}


def write_page() -> None:
    """Renews both pages from what is stored."""
    PAGE.write_text(render(titles(), stored()), encoding="utf-8")
    STUDIES_PAGE.write_text(render_studies(titles(studies()), stored("study")), encoding="utf-8")


def keep(line: dict[str, Any]) -> None:
    """Stores a result and renews the page."""
    RESULTS.mkdir(exist_ok=True)
    name = line.get("bar") or line["study"]
    new = RESULTS / f".{name}.json"
    new.write_text(json.dumps(line, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(RESULTS / f"{name}.json")
    write_page()


def run(name: str, *, quick: bool, passed_on: list[str]) -> bool:
    """Runs one bar or study in a new process; returns whether it ran to its end."""
    command = [sys.executable, str(Path(__file__).resolve()), "--here", name, *passed_on]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        print(f"bench: {name} could not be run (exit {done.returncode})", file=sys.stderr)
        return False
    line = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(line, ensure_ascii=False), flush=True)
    if not quick:
        keep(line)
    return True


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bars", nargs="*", metavar="BAR", type=str.upper)
    parser.add_argument("--quick", action="store_true", help="one pair, little work, nothing kept")
    parser.add_argument("--pairs", type=int, help="pairs of measurements (at least 5 for a kept result)")
    parser.add_argument("--no-peers", action="store_true", help="leave other contenders out; nothing kept")
    parser.add_argument("--model", default=MODEL, help="another model; nothing kept")
    parser.add_argument("--page", action="store_true", help="renew the page from the stored results")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    known = {**bars(), **studies()}
    try:
        names = chosen_of(chosen.bars, known)
    except KeyError as error:
        parser.error(f"no such bar or study: {error.args[0]}; there are {', '.join(known)}")
    if chosen.page:
        write_page()
        return 0
    options = Options(quick=chosen.quick, pairs=chosen.pairs, peers=not chosen.no_peers, model=chosen.model)
    if chosen.here:
        print(json.dumps(measure(known[names[0]], options), ensure_ascii=False))
        return 0
    passed_on = ["--model", chosen.model, *(["--quick"] if chosen.quick else [])]
    passed_on += [*(["--no-peers"] if chosen.no_peers else [])]
    passed_on += [*(["--pairs", str(chosen.pairs)] if chosen.pairs else [])]
    trial = chosen.quick or chosen.no_peers or chosen.model != MODEL or (chosen.pairs or 5) < 5
    failed = 0
    for name in names or bars():
        print(f"== {name}: {known[name].relative_to(HERE.parent)}", file=sys.stderr, flush=True)
        failed += not run(name, quick=trial, passed_on=passed_on)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
