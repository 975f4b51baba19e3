"""Every bar can be run, what it prints has the agreed shape, and the page shows what was measured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the repository, not only the tests"),
    # peft 0.21 reads a property that transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of benchmarks/ by name; they are forgotten after the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def part(bench: Any, **settings: Any) -> Any:
    return bench("_harness").Part(**{"name": "a", "target": 2.0, "ratios": [3.0, 1.0, 2.5], **settings})


def test_value_is_the_median_and_is_held_against_its_target(bench: Any) -> None:
    assert part(bench).value == 2.5
    assert part(bench).passed
    assert not part(bench, at_most=True).passed
    assert part(bench, at_most=True, target=2.5).passed
    assert not part(bench, target=2.51).passed
    unmeasured = part(bench, ratios=[], why="no")
    assert unmeasured.value is None
    assert not unmeasured.passed
    assert unmeasured.to_json()["why"] == "no"


def test_a_line_names_the_figure_nearest_to_missing_and_passes_only_as_a_whole(bench: Any) -> None:
    good, bad = part(bench, name="good", target=0.5), part(bench, name="bad", at_most=True)
    line = bench("_harness").Bar(name="P0", parts=[good, bad]).line({"cpu": "x"})
    assert list(line) == ["bar", "value", "target", "pass", "detail"]
    assert (line["value"], line["target"], line["pass"]) == (2.5, 2.0, False)
    assert list(line["detail"]["parts"]) == ["good", "bad"]
    assert line["detail"]["machine"] == {"cpu": "x"}
    assert json.loads(json.dumps(line)) == line


def test_arms_alternate_after_a_warm_up(bench: Any) -> None:
    calls: list[tuple[str, int]] = []

    def arm(name: str) -> Any:
        return lambda number: calls.append((name, number)) or float(number)

    costs = bench("_harness").alternate(
        {"a": arm("a"), "b": arm("b")}, rounds=3, rare={"c": arm("c")}, rare_rounds=1
    )
    warm, first, second, third = calls[:2], calls[2:5], calls[5:7], calls[7:]
    assert warm == [("a", -1), ("b", -1)]
    assert first == [("a", 0), ("b", 0), ("c", 0)]
    assert second == [("b", 1), ("a", 1)]
    assert third == [("a", 2), ("b", 2)]
    assert costs == {"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0], "c": [0.0]}


def test_peers_get_their_best_round(bench: Any) -> None:
    costs = {"reference": [2.0, 4.0, 9.0], "peer": [4.0, 4.0], "never": []}
    assert bench("_harness").against(costs, "reference", ["peer", "never"]) == {"peer": 1.0}


def test_output_lengths_are_skewed_around_their_median(bench: Any) -> None:
    lengths = sorted(bench("_work").skewed(64))
    assert (lengths[0], lengths[-1]) == (8, 128)
    assert (lengths[31] + lengths[32]) / 2 == 20
    assert sum(lengths) / 64 > 28


def test_chats_have_the_lengths_asked_for(bench: Any, tiny_model_dir: Path) -> None:
    work = bench("_work")
    tokenizer = work.load_tokenizer(str(tiny_model_dir))
    chats = work.Chats(tokenizer)
    lengths = [chats.least + 3, chats.least + 40]
    made = chats.make(lengths, seed=1)
    ids = [
        tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, return_dict=False)
        for chat in made
    ]
    assert [len(prompt) for prompt in ids] == lengths
    shared = chats.shared(made)
    assert ids[0][:shared] == ids[1][:shared]
    assert ids[0][shared] != ids[1][shared]
    assert chats.make(lengths, seed=1) == made != chats.make(lengths, seed=2)


def test_the_page_shows_misses_and_what_was_not_measured(bench: Any) -> None:
    facts = {"date": "2026-01-01", "cpu": "A | B", "load": [0.1, 0.2, 0.3]}
    parts = [
        part(bench, name="one"),
        part(bench, name="two", target=9.0),
        part(bench, name="three", ratios=[], why="it broke"),
    ]
    line = (
        bench("_harness").Bar(name="P1", parts=parts, peers={"other": 0.5, "gone": "not there"}).line(facts)
    )
    page = bench("_page").render({"P1": "a title", "P2": "another title"}, {"P1": line}).splitlines()
    assert "| P1 | a title **one** | 2.5 | 1–3 | ≥ 2 | pass |" in page
    assert "|  | **two** | 2.5 | 1–3 | ≥ 9 | **miss** |" in page
    assert "|  | **three** | none |  | ≥ 2 | **miss**: it broke |" in page
    assert "| P2 | another title |  |  |  | not measured |" in page
    assert "| P1 | other | 0.5 |" in page
    assert "| P1 | gone | not there |" in page
    assert any("A \\| B" in row and "2026-01-01" in row for row in page)


def test_a_result_replaces_only_its_own_row(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench("run")
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(run, "STUDIES_PAGE", tmp_path / "studies.md")
    lines = {
        name: bench("_harness").Bar(name=name, parts=[part(bench)]).line({"load": [0]})
        for name in ("P1", "P3")
    }
    for line in lines.values():
        run.keep(line)
    before = run.PAGE.read_text()
    run.keep(
        {
            **lines["P3"],
            "detail": {**lines["P3"]["detail"], "parts": {"a": part(bench, ratios=[7.0]).to_json()}},
        }
    )
    changed = set(before.splitlines()) ^ set(run.PAGE.read_text().splitlines())
    assert len(changed) == 2
    assert all(row.startswith("| P3 |") for row in changed)
    assert sorted(run.stored()) == ["P1", "P3"]


def test_the_page_is_made_from_the_stored_results(bench: Any) -> None:
    run = bench("run")
    assert run.PAGE.read_text(encoding="utf-8") == run.render(run.titles(), run.stored()), (
        "run: python benchmarks/run.py --page"
    )
    studies = run.render_studies(run.titles(run.studies()), run.stored("study"))
    assert run.STUDIES_PAGE.read_text(encoding="utf-8") == studies, "run: python benchmarks/run.py --page"


def finding(bench: Any, low: float, high: float, control: str | None = None) -> Any:
    return bench("_study").Finding(
        name="a over b", value=(low + high) / 2, low=low, high=high, pairs=9, control=control
    )


def test_a_finding_says_what_its_interval_shows(bench: Any) -> None:
    assert finding(bench, 0.1, 0.3).verdict == "gain"
    assert finding(bench, -0.3, -0.1).verdict == "loss"
    assert finding(bench, 0.0, 0.2).verdict == "no effect shown"
    assert finding(bench, -0.3, -0.1, "loss").verdict.startswith("control as it must be")
    assert finding(bench, 0.1, 0.3, "none").verdict.startswith("**control broken**")


def test_a_difference_is_paired(bench: Any) -> None:
    found = bench("_study").difference("x", of=[0.5, 0.9, 0.7], over=[0.4, 0.8, 0.6])
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (found.pairs, found.verdict) == (3, "gain")


def test_studies_have_a_page_of_their_own(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench("run")
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(run, "STUDIES_PAGE", tmp_path / "studies.md")
    study = bench("_study").Study(
        name="Z9",
        setting="Nothing was asked of nobody.",
        arms={"ours": {"recall": 0.25, "nDCG": "not asked"}},
        findings=[finding(bench, 0.0, 0.2)],
        notes=["Small."],
    )
    run.keep(study.line({"date": "2026-01-01", "commit": "abc", "cpu": "one"}))
    assert run.stored() == {}
    page = run.render_studies({"Z9": "a title", "Z10": "another"}, run.stored("study")).splitlines()
    assert "## Z9: a title" in page
    assert "| ours | 0.250 | not asked |" in page
    assert "| a over b | +0.100 | +0.000 to +0.200 | 9 | no effect shown |" in page
    assert page[-1] == "Not measured."


def test_a_name_means_all_studies_of_its_number(bench: Any) -> None:
    run = bench("run")
    known = dict.fromkeys(["P1", "P12", "A4", "A4D", "A10", "A40"], Path())
    assert run.chosen_of(["A4", "P1", "A4"], known) == ["A4", "A4D", "P1"]
    assert run.chosen_of(["A4D"], known) == ["A4D"]
    with pytest.raises(KeyError, match="A5"):
        run.chosen_of(["A5"], known)
    assert sorted(known, key=run._order) == ["A4", "A4D", "A10", "A40", "P1", "P12"]


def test_every_stored_study_can_be_run_and_has_a_finding(bench: Any) -> None:
    run = bench("run")
    for name, line in run.stored("study").items():
        assert name in run.studies()
        assert line["findings"]


def test_every_stored_result_is_of_a_bar_and_of_at_least_five_pairs(bench: Any) -> None:
    run = bench("run")
    for name, line in run.stored().items():
        assert name in run.bars()
        for figures in line["detail"]["parts"].values():
            assert figures.get("why") or len(figures["ratios"]) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["P1", "P2", "P3", "P4", "P5", "P6", "P12"])
def test_bars_run(bench: Any, name: str, tiny_model_dir: Path) -> None:
    if name == "P6":
        pytest.importorskip("langgraph.checkpoint.sqlite.aio", reason="part of the extra `bench`")
    run = bench("run")
    options = bench("_harness").Options(quick=True, peers=False, model=str(tiny_model_dir))
    line = run.measure(run.bars()[name], options)
    assert line["bar"] == name
    assert line["detail"]["parts"]
    assert json.loads(json.dumps(line)) == line


STUDIES = sorted(path.name.partition("_")[0].upper() for path in BENCHMARKS.glob("*/[!_p]*_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_studies_run(bench: Any, name: str, tiny_model_dir: Path) -> None:
    run = bench("run")
    options = bench("_harness").Options(quick=True, peers=False, model=str(tiny_model_dir))
    line = run.measure(run.studies()[name], options)
    assert line["study"] == name
    assert line["arms"]
    assert line["findings"]
    assert json.loads(json.dumps(line)) == line
