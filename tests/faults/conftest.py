"""The fixture `bar`, and the JSON line of every bar after the tests. `_bars.py` says how to add a bar."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# Test modules have no package here (importlib mode), so what they share gets a name that they can import.
_spec = importlib.util.spec_from_file_location("fault_bars", Path(__file__).with_name("_bars.py"))
assert _spec is not None
assert _spec.loader is not None
_bars = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _bars
_spec.loader.exec_module(_bars)

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


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database on each backend."""
    if request.param == "postgresql":
        pytest.skip("no PostgreSQL server is set up for tests")
    return f"sqlite:///{tmp_path / 'memory.db'}"
