"""Runs the long form of the bars of reliability, keeps their results, and renews docs/reliability.md.

    python tests/faults/run.py               all bars, and the other tests of this folder
    python tests/faults/run.py R3 R4         these bars; the rows of the others stay as they are
    python tests/faults/run.py --page        the page alone, from the stored results

Every bar prints one line of JSON. A bar that fails hides no other: all of them run, and what has finished is
kept when a run is interrupted. The exit code is 1 if a bar was missed or could not be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
PAGE = ROOT / "docs" / "reliability.md"
#: Recorded with every result, besides what `make bench` records.
LIBRARIES = ("langgraph-checkpoint-sqlite", "safetensors", "sqlalchemy")


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"docendo_faults_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"faults: cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_bars = _module(HERE / "_bars.py")
_page = _module(HERE / "_reliability_page.py")


def files() -> dict[str, Path]:
    """The file of each bar, in the order of their numbers."""
    found = {name: path for path in HERE.glob("test_*.py") if (name := _bars.bar_name(path))}
    return dict(sorted(found.items(), key=lambda bar: int(bar[0][1:])))


def others() -> list[Path]:
    """Tests of this folder that are no bar."""
    return sorted(path for path in HERE.glob("test_*.py") if _bars.bar_name(path) is None)


def titles() -> dict[str, str]:
    """The title of every bar."""
    texts = {name: path.read_text(encoding="utf-8").split('"""')[1] for name, path in files().items()}
    return {name: _bars.title(text) for name, text in texts.items()}


def stored() -> dict[str, dict[str, Any]]:
    """The kept results by bar."""
    lines = (json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob("*.json"))
    return {line["bar"]: line for line in lines}


def write_page() -> None:
    """Renews the page from what is stored."""
    PAGE.write_text(_page.render(titles(), stored()), encoding="utf-8")


def keep(line: dict[str, Any]) -> None:
    """Stores a result and renews the page."""
    RESULTS.mkdir(exist_ok=True)
    new = RESULTS / f".{line['bar']}.json"
    new.write_text(json.dumps(line, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(RESULTS / f"{line['bar']}.json")
    write_page()


def _machine() -> dict[str, Any]:
    facts: dict[str, Any] = _module(ROOT / "benchmarks" / "_harness.py").machine()
    for library in LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            continue
    return facts


def _pytest(path: Path, line: Path) -> int:
    command = [str(Path(sys.executable).with_name("pytest")), "--timeout", "0", "-q", str(path)]
    environment = {**os.environ, "DOCENDO_FAULTS": "full", "DOCENDO_FAULTS_LINE": str(line)}
    return subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode


def measure(name: str, path: Path) -> bool:
    """Runs one bar; keeps its line if it could be measured; returns whether it passed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "line.json"
        status = _pytest(path, target)
        text = target.read_text(encoding="utf-8").splitlines() if target.exists() else []
    if not text:
        print(f"faults: {name} could not be run (exit {status})", file=sys.stderr)
        return False
    line: dict[str, Any] = json.loads(text[0])
    line["detail"] |= {"seconds": round(time.monotonic() - began, 1), "machine": _machine()}
    print(json.dumps(line, ensure_ascii=False), flush=True)
    if line["detail"]["errors"]:
        print(f"faults: {name} could not be measured, its old result stays", file=sys.stderr)
        return False
    keep(line)
    return bool(line["pass"])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bars", nargs="*", metavar="BAR", type=str.upper)
    parser.add_argument("--page", action="store_true", help="renew the page from the stored results")
    chosen = parser.parse_args()
    known = files()
    if unknown := [name for name in chosen.bars if name not in known]:
        parser.error(f"no such bar: {', '.join(unknown)}; there are {', '.join(known)}")
    if chosen.page:
        write_page()
        return 0
    missed = []
    for name in chosen.bars or known:
        print(f"== {name}: {known[name].relative_to(ROOT)}", file=sys.stderr, flush=True)
        if not measure(name, known[name]):
            missed.append(name)
    for path in [] if chosen.bars else others():
        print(f"== {path.relative_to(ROOT)}", file=sys.stderr, flush=True)
        if _pytest(path, Path(os.devnull)):
            missed.append(path.name)
    if missed:
        print(f"faults: missed or not run: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
