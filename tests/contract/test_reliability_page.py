"""Bars of reliability count honestly, and docs/reliability.md shows what was measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ROOT / "tests" / "faults"

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="needs the repository, not only the tests"
)


@pytest.fixture(scope="module")
def run() -> Any:
    spec = importlib.util.spec_from_file_location("docendo_faults_run", FAULTS / "run.py")
    assert spec is not None
    assert spec.loader is not None
    before = set(sys.modules)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - before:
        if name.startswith("docendo_faults_"):
            del sys.modules[name]


def good(run: Any, **settings: Any) -> Any:
    bar = run._bars.Bar("R0", full=True)
    bar.part("one", cases=10, failed=[], reached={"kills": 3}, **settings)
    bar.broken("without keys", cases=5, failed=["twice"])
    return bar


def test_a_bar_passes_only_with_all_of_it(run: Any) -> None:
    missed = run._bars.Missed
    assert good(run).passed
    with pytest.raises(missed, match="10 cases, 20 needed"):
        good(run, needed=20)
    bar = good(run)
    with pytest.raises(missed, match="2 of 4 failed"):
        bar.part("two", cases=4, failed=["a", "b"])
    assert (bar.passed, bar.line()["value"]) == (False, 2)
    bar = good(run)
    with pytest.raises(missed, match="reached"):
        bar.part("no kill hit", cases=4, failed=[], reached={"kills": 0})
    assert not bar.passed
    bar = good(run)
    with pytest.raises(missed, match="does not notice"):
        bar.broken("unnoticed", cases=4, failed=[])
    assert not bar.passed
    bar = good(run)
    bar.errors.append("it broke")
    assert not bar.passed
    without_variant = run._bars.Bar("R0")
    without_variant.part("one", cases=1, failed=[])
    assert not without_variant.passed


def test_a_known_miss_is_a_miss_until_it_is_none(run: Any) -> None:
    bar = good(run)
    bar.part("two", cases=4, failed=["a"], known="nobody can tell")
    assert (bar.passed, bar.failing) == (False, 1)
    with pytest.raises(run._bars.Missed, match="nothing fails any more"):
        bar.part("two", cases=4, failed=[], known="nobody can tell")


def test_a_limit_is_a_case(run: Any) -> None:
    bar = good(run)
    bar.limit("seconds", 0.4, at_most=0.5)
    assert bar.passed
    with pytest.raises(run._bars.Missed):
        bar.limit("seconds", 0.6, at_most=0.5)
    assert bar.failing == 1


def test_anchors_do_not_count(run: Any) -> None:
    bar = good(run)
    bar.anchor("another library", cases=9, failed=4, note="lost")
    assert bar.passed
    line = bar.line()
    assert json.loads(json.dumps(line)) == line
    assert list(line) == ["bar", "value", "target", "pass", "detail"]
    assert line["detail"]["anchors"]["another library"]["failed"] == 4


def test_the_page_shows_misses_and_what_was_not_measured(run: Any) -> None:
    bar = good(run)
    with pytest.raises(run._bars.Missed):
        bar.part("two", cases=4, failed=["item | 7 is lost"])
    bar.anchor("another library", cases=9, failed=4, note="lost turns")
    bar.skipped.append("test_server: there is none")
    line = bar.line()
    line["detail"] |= {"seconds": 1.5, "machine": {"cpu": "x"}}
    page = run._page.render({"R0": "a title", "R1": "another"}, {"R0": line}).splitlines()
    assert "| R0 | a title | one | 10 | 0 | 3 kills | pass |" in page
    assert "|  |  | two | 4 | 1 |  | **miss**: item \\| 7 is lost |" in page
    assert "| R1 | another |  |  |  |  | not measured |" in page
    assert "| R0 | without keys | 5 | 1 |  |" in page
    assert "| R0 | another library | 9 | 4 |  | lost turns |" in page
    assert "* R0: test_server: there is none" in page


def test_the_page_is_made_from_the_stored_results(run: Any) -> None:
    assert run.PAGE.read_text(encoding="utf-8") == run._page.render(run.titles(), run.stored()), (
        "run: python tests/faults/run.py --page"
    )


def test_stored_results_are_of_the_full_form(run: Any) -> None:
    for name, line in run.stored().items():
        assert name in run.files()
        assert line["detail"]["form"] == "full"
        assert not line["detail"]["errors"]
        assert line["detail"]["broken"]


def test_every_bar_has_a_title_and_one_file(run: Any) -> None:
    bars = [path for path in FAULTS.glob("test_*.py") if run._bars.bar_name(path)]
    assert len(bars) == len(run.files())
    assert all(run.titles().values())


def test_a_bar_that_cannot_be_run_hides_no_other(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def measure(name: str, path: Path) -> bool:
        ran.append(name)
        return name != "R1"

    bars = {name: FAULTS / f"test_{name.lower()}_x.py" for name in ("R1", "R2", "R10")}
    monkeypatch.setattr(run, "files", lambda: bars)
    monkeypatch.setattr(run, "others", list)
    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run.main() == 1
    assert ran == ["R1", "R2", "R10"]
    assert "missed or not run: R1" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["run.py", "r2"])
    assert run.main() == 0
