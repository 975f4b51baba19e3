"""The fixture `bar`, and the JSON line of every bar after the tests. `_bars.py` says how to add a bar."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Generator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent


class _Shared(MetaPathFinder):
    """`import fault_bars` imports `_bars.py`: test modules have no package here (importlib mode)."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        file = _HERE / f"_{fullname.removeprefix('fault_')}.py"
        return spec_from_file_location(fullname, file) if fullname.startswith("fault_") else None


sys.meta_path.append(_Shared())
_bars = importlib.import_module("fault_bars")

_STASH: pytest.StashKey[dict[str, Any]] = pytest.StashKey()


def _bar_of(item: pytest.Item) -> Any:
    """The bar that a test belongs to, or None."""
    name = _bars.bar_name(item.path)
    if name is None:
        return None
    bars = item.config.stash.setdefault(_STASH, {})
    return bars.setdefault(name, _bars.Bar(name))


@pytest.fixture
def bar(request: pytest.FixtureRequest) -> Any:
    """What the tests of this file report to."""
    found = _bar_of(request.node)
    assert found is not None, "a bar's file is called test_<bar>_<what>.py, such as test_r3_two_writers.py"
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that could not measure is no result of its bar, and a skipped one is named in it."""
    report = yield
    found = _bar_of(item)
    if found is not None and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        found.skipped.append(f"{item.name}: {reason.removeprefix('Skipped: ')}")
    elif found is not None and report.failed and not call.excinfo.errisinstance(_bars.Missed):
        found.errors.append(f"{item.name}: {str(call.excinfo.value).splitlines()[0][:300]}")
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints one JSON line per bar, and hands it to `tests/faults/run.py` if that has asked for it."""
    lines = [json.dumps(bar.line(), ensure_ascii=False) for bar in config.stash.get(_STASH, {}).values()]
    for line in lines:
        terminalreporter.write_line(line)
    if target := os.environ.get("DOCENDO_FAULTS_LINE"):
        Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")
