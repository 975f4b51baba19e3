"""A small form of `make statistics`: intervals and tests keep their promises, broken ones are noticed."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = ROOT / "benchmarks"
RUNS = 2000
#: Three standard errors of a share of 5 % in so many runs.
ALLOWED = 3 * (0.05 * 0.95 / RUNS) ** 0.5

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the repository, not only the tests")


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Modules of benchmarks/ by name; they are forgotten after the tests."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield module
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def first(figures: dict[str, float]) -> float:
    return next(iter(figures.values()))


@pytest.mark.parametrize(
    ("section", "label"),
    [
        ("share", "50 items, accuracy 0.3"),
        ("paired", "50 items, 30% discordant, +10%"),
        ("paired", "200 items, 10% discordant, +5%"),
        ("numbers", "20 items, 4 samples, hard items, a gain on a tenth"),
        ("clusters", "5 seeds of 50 items, accuracy 0.3, alike 0.02"),
        ("clusters", "10 seeds of 50 items, accuracy 0.9, alike 0.0"),
        ("scores", "3 seeds of 20 items, spread 0.5"),
        ("crossed", "3 seeds, 200 items, 50% discordant, spreads 0.03 and 0.2"),
        ("crossed", "5 seeds, 50 items, 50% discordant, spreads 0 and 0.2"),
        ("crossed", "10 seeds, 50 items, 50% discordant, spreads 0 and 0"),
        ("crossed", "5 seeds, 200 items, 50% discordant, spreads 0.03 and 0.2, 20% missing"),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(load: Any, section: str, label: str) -> None:
    coverage = first(load("_simulated_sections").measured(section, label, RUNS))
    assert 0.95 - ALLOWED <= coverage <= 0.95 + ALLOWED + 0.01


@pytest.mark.parametrize(
    ("section", "label", "least"),
    [
        ("mcnemar", "200 items, 30% discordant", 0.03),
        ("verdict", "50 items, accuracy 0.3", 0.015),
        ("flips", "10 items, normal, exact", 0.035),
        ("flips", "6 seeds of 10 items, flipped by seed, exact", 0.02),
        ("crossed error", "3 seeds, 50 items, 50% discordant, spreads 0.03 and 0.2", 0.025),
        ("several", "10 tests, 3 with an effect", 0.02),
        ("peeking", "30% discordant, up to 5,000 items", 0.02),
    ],
)
def test_tests_err_at_most_at_their_level_and_are_no_blunt_ones(
    load: Any, section: str, label: str, least: float
) -> None:
    assert least <= first(load("_simulated_sections").measured(section, label, RUNS)) <= 0.05 + ALLOWED


@pytest.mark.parametrize("name", ["broken intervals", "broken tests"])
def test_broken_variants_are_noticed_in_few_runs(load: Any, name: str) -> None:
    sections, judged = load("_simulated_sections"), load("_simulated").judged
    section = sections.SECTIONS[name]
    for label in section.rows:
        figures = sections.measured(name, label, RUNS)
        assert judged(section.kind, figures, RUNS) == "noticed", label
        assert abs(first(figures) - (0.95 if "intervals" in name else 0.05)) > ALLOWED


def test_a_method_that_breaks_is_noticed(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    intervals, crossed = load("_simulated_intervals"), load("_simulated_crossed")
    # Tango's interval at the wrong level, and one degree of freedom too many for the seeds.
    bounds = intervals.tango_bounds
    monkeypatch.setattr(intervals, "tango_bounds", lambda up, down, n, level: bounds(up, down, n, 0.9))
    figures = intervals.paired(
        np.random.default_rng(0), RUNS, n=200, discordant=0.3, difference=0.1, resampled=False
    )
    assert first(figures) < 0.95 - ALLOWED
    parts = crossed.crossed_parts
    monkeypatch.setattr(crossed, "crossed_parts", lambda tables: parts(tables)._replace(seeds=4))
    figures = crossed.crossed(
        np.random.default_rng(0), RUNS, seeds=3, items=200, discordant=0.5, seed_spread=0.1, item_spread=0.0
    )
    assert first(figures) < 0.95 - ALLOWED


def test_two_runs_of_one_sampler_are_rarely_claimed_to_differ(load: Any) -> None:
    row = load("_simulated_sections").SECTIONS["verdict"].rows["200 items, accuracy 0.5"]
    assert row(np.random.default_rng(1), 200)["of the first 200"] <= 10


def test_the_same_row_has_the_same_figures(load: Any) -> None:
    measured = load("_simulated_sections").measured
    label = "3 seeds, 50 items, 10% discordant, spreads 0 and 0"
    assert measured("crossed", label, 300) == measured("crossed", label, 300)
    assert measured("crossed", label, 300) != measured("crossed", label, 400)


@pytest.mark.parametrize(
    ("kind", "value", "verdict"),
    [
        ("coverage", 0.94, "held"),
        ("coverage", 0.9601, "wide"),
        ("coverage", 0.9399, "**narrow**"),
        ("error", 0.054, "held"),
        ("error", 0.055, "**above**"),
        ("power", 0.79, "as planned"),
        ("power", 0.7, "**short**"),
        ("broken coverage", 0.95, "**not noticed**"),
        ("broken error", 0.3, "noticed"),
        ("shown", 0.3, ""),
    ],
)
def test_figures_are_judged(load: Any, kind: str, value: float, verdict: str) -> None:
    assert load("_simulated").judged(kind, {"coverage": value, "width": 0.0}, 10_000) == verdict


def test_the_page_shows_what_is_stored_and_what_is_missing(load: Any) -> None:
    page, sections = load("_simulated_page"), load("_simulated_sections").SECTIONS
    label = "50 items, accuracy 0.1"
    figures = {"coverage": 0.9312, "least": 0.9}
    lines = page.render({"share": {label: figures}}).splitlines()
    assert f"| {label} | 93.1 | 90.0 | **narrow** |" in lines
    assert "| 200 items, accuracy 0.1 |  |  | not measured |" in lines
    assert "| One accuracy: Wilson's interval | 1 | 1 **narrow** |" in lines
    assert sum(line.startswith("## ") for line in lines) == len(sections)


def test_the_page_is_that_of_the_stored_figures(load: Any) -> None:
    stored = json.loads((BENCHMARKS / "results" / "statistics.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert page == load("_simulated_page").render(stored["figures"])
    assert "not measured" not in page


def test_what_was_measured_with_the_same_code_is_kept(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, simulated = load("check_statistics"), load("_simulated")
    rows = {"one": partial(lambda rng, runs, value: {"coverage": value}, value=0.95), "two": None}
    monkeypatch.setattr(check, "SECTIONS", {"share": simulated.Section(kind="coverage", rows=rows)})
    monkeypatch.setattr(check, "RESULTS", tmp_path / "statistics.json")
    kept = check.kept({"share": {"gone": {"coverage": 0.5}, "two": {"coverage": 0.9}}, "old": {}})
    assert kept == {"share": {"two": {"coverage": 0.9}}}
    full = {"share": {"one": {"coverage": 0.95}, "two": {"coverage": 0.9}}}
    check.measure(full, "code")
    assert not check.RESULTS.exists(), "nothing was missing, so nothing was measured"
