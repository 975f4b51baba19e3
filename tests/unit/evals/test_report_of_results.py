"""What a report gathers from evaluations, and by which rules it picks what it shows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from docendo.errors import ConfigError, DataError, IntegrityError
from docendo.evals import (
    Comparison,
    EvalRecord,
    EvalResult,
    ReportData,
    Sample,
    calibration,
    compare,
    coverage_risk,
    pass_at_k,
    report,
    results_report,
    tango,
    wilson,
)
from docendo.evals.reports._subjects import Subject
from docendo.evals.reports._transcripts import changes
from docendo.records import Usage


def result(name: str, rights: Sequence[bool | None], **fields: Any) -> EvalResult:
    strata = fields.pop("strata", None) or [""] * len(rights)
    confidences = fields.pop("confidences", None) or [None] * len(rights)
    records = tuple(
        EvalRecord(
            item=f"{n:04}",
            question=f"question {n}",
            text=f"{name} {n}",
            parsed=str(int(bool(right))),
            correct=right,
            value=float(right or 0),
            failure="model: no text" if right is None else None,
            stratum=strata[n],
            confidence=confidences[n],
            usage=Usage(prompt_tokens=30, generated_tokens=10),
            seconds=0.5,
        )
        for n, right in enumerate(rights)
    )
    return EvalResult(name=name, task="demo", scorer="exact", records=records, **fields)


def shuffled(given: EvalResult, seed: int) -> EvalResult:
    records = list(given.records)
    random.Random(seed).shuffle(records)
    return given.replace(records=tuple(records))


def test_a_single_result_has_its_numbers_and_who_is_to_blame() -> None:
    one = result("one", [True, False, None, True], majority=0.5, chance=0.25)
    data = results_report(one)
    (arm,) = data.arms
    assert (arm.accuracy, arm.interval, arm.n, arm.failed) == (2 / 3, wilson(2, 3), 3, 1)
    assert (arm.blame, arm.majority, arm.chance, arm.part) == ((("model", 1),), 0.5, 0.25, "")
    assert arm.cost is not None
    assert (arm.items, arm.cost.prompt_tokens, arm.cost.seconds_per_correct) == (4, 120, 1.0)
    assert (data.title, data.task) == ("one", "demo")
    assert not any((data.differences, data.changes, data.strata, data.confidences, data.samples))
    assert results_report([one]) == data


def test_two_results_have_the_verdict_of_compare() -> None:
    before, after = result("before", [False] * 40), result("after", [True] * 20 + [False] * 20)
    data = results_report([before, after])
    assert data.comparison == compare(before, after)
    (row,) = data.differences
    assert (row.difference, row.verdict, row.adjusted) == (0.5, "better", None)
    assert [arm.part for arm in data.arms] == ["baseline", ""]


def test_several_verdicts_must_hold_adjusted_for_their_number() -> None:
    base = result("base", [False] * 60)
    others = [result(f"a{n}", [True] * n + [False] * (60 - n)) for n in (6, 7, 20)]
    data = results_report([base, *others])
    assert data.comparison is None
    alone = [compare(base, each) for each in others]
    assert [each.verdict for each in alone] == ["better"] * 3
    expected = multipletests([each.p_value for each in alone], method="holm")[1]
    assert [row.adjusted for row in data.differences] == pytest.approx(list(expected))
    many = results_report([base, *others, *(result(f"b{n}", [False] * 60) for n in range(4))])
    assert [row.verdict for row in many.differences[:3]] == ["no effect shown", "no effect shown", "better"]
    assert "adjusted for 7 comparisons nothing is shown" in many.differences[0].reason


def test_the_baseline_can_be_named_and_must_be_there() -> None:
    given = [result("a", [True] * 9), result("b", [False] * 9), result("c", [True] * 9)]
    data = results_report(given, baseline="b")
    assert [(row.name, row.against) for row in data.differences] == [("a", "b"), ("c", "b")]
    with pytest.raises(ConfigError, match=r"no result 'd'; expected one of a, b, c"):
        results_report(given, baseline="d")


def test_better_must_hold_against_the_control_in_the_words_of_compare(tmp_path: Path, capsys: Any) -> None:
    from docendo.cli import main

    given = {
        "plain": result("plain", [False] * 60),
        "hints": result("hints", [True] * 30 + [False] * 30),
        "shuffled": result("shuffled", [True] * 25 + [False] * 35),
    }
    alone = results_report(list(given.values()))
    assert [row.verdict for row in alone.differences] == ["better", "better"]
    data = results_report(list(given.values()), control="shuffled")
    hints, shuffled_ = data.differences
    assert (hints.verdict, shuffled_.verdict) == ("no effect shown", "better")
    assert (hints.control, shuffled_.control, hints.adjusted) == (False, True, None)
    assert [arm.part for arm in data.arms] == ["baseline", "", "control"]
    paths = [str(each.save(tmp_path / name)) for name, each in given.items()]
    assert main(["compare", *paths, "--control", "shuffled", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["reason"] == hints.reason
    assert main(["report", *paths, "--control", "shuffled", "--out", str(tmp_path / "page.html")]) == 0
    assert "hints against plain: no effect shown" in capsys.readouterr().out
    assert "that its signal helps is not shown" in (tmp_path / "page.html").read_text()
    weak = results_report([*list(given.values())[:2], result("shuffled", [False] * 60)], control="shuffled")
    assert weak.differences[0].verdict == "better"
    assert weak.differences[0].reason.endswith("It also beats the control (60 pairs, p < 0.001).")


def test_better_than_the_control_is_adjusted_for_the_number_of_results() -> None:
    plain = result("plain", [False] * 120)
    shuffled = result("shuffled", [True] * 60 + [False] * 60)
    method = result("method", [False] + [True] * 68 + [False] * 51)
    given = [plain, shuffled, method]
    assert results_report(given, control="shuffled").differences[1].verdict == "better"
    others = [result(f"other {n}", [True] * 60 + [False] * 60) for n in range(3)]
    data = results_report([*given, *others], control="shuffled")
    assert [row.verdict for row in data.differences] == ["better", *["no effect shown"] * 4]
    assert "(120 pairs, p = 0.021, adjusted 0.086)" in data.differences[1].reason


def test_a_control_without_a_common_item_proves_nothing() -> None:
    hints = result("hints", [None] * 30 + [True] * 30)
    control = result("shuffled", [False] * 30 + [None] * 30)
    data = results_report([result("plain", [False] * 60), hints, control], control="shuffled")
    assert data.differences[0].verdict == "no effect shown"
    assert "cannot be held against the control 'shuffled'" in data.differences[0].reason


def test_the_control_must_be_there_and_is_not_the_baseline() -> None:
    given = [result("a", [True] * 9), result("b", [False] * 9)]
    with pytest.raises(ConfigError, match="no result 'c'; expected one of a, b"):
        results_report(given, control="c")
    with pytest.raises(ConfigError, match="'a' is the baseline and the control; expected two results"):
        results_report(given, control="a")


def test_what_cannot_be_compared_is_shown_beside_it_and_said() -> None:
    base = result("base", [True, False])
    strange = base.replace(name="strange", records=tuple(r.replace(item=f"x{r.item}") for r in base.records))
    data = results_report([base, strange, base.replace(name="judged", scorer="judge")])
    assert not data.differences
    assert [arm.name for arm in data.arms] == ["base", "strange", "judged"]
    assert "strange is not compared with base" in data.notes[0]
    assert "no item in common" in data.notes[0]
    assert "scored by 'exact'" in data.notes[1]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    one = result("eval", [True, False])
    paths = [one.save(tmp_path / "x" / name) for name in ("a", "b")]
    data = results_report([*paths, one, one])
    assert [arm.name for arm in data.arms] == ["a/eval", "b/eval", "eval", "eval (2)"]
    report(data)


def test_strata_are_sorted_by_their_worst_fall() -> None:
    strata = ["up"] * 20 + ["down"] * 20 + ["same"] * 20
    before = [False] * 20 + [True] * 20 + [True] * 20
    after = [True] * 10 + [False] * 10 + [True] * 15 + [False] * 5 + [True] * 20
    data = results_report([result("a", before, strata=strata), result("b", after, strata=strata)])
    assert [row.stratum for row in data.strata] == ["down", "down", "same", "same", "up", "up"]
    base, down = data.strata[:2]
    assert (base.difference, base.accuracy, base.n) == (None, 1.0, 20)
    assert (down.difference, down.accuracy, down.interval) == (-0.25, 0.75, wilson(15, 20))
    assert down.difference_interval == pytest.approx(tango(0, 5, 20))
    alone = results_report(result("b", after, strata=strata))
    assert [row.stratum for row in alone.strata] == ["up", "down", "same"]


def test_a_stratum_that_one_result_lacks_has_no_difference() -> None:
    first = result("a", [True, False], strata=["x", "x"])
    second = result("b", [True, True, False], strata=["x", "x", ""])
    rows = results_report([first, second]).strata
    assert [(row.stratum, row.name, row.difference) for row in rows] == [
        ("(none)", "b", None),
        ("x", "a", None),
        ("x", "b", 0.5),
    ]


def test_confidences_are_measured_by_calibration_and_coverage() -> None:
    rng = random.Random(1)
    sure = [rng.random() for _ in range(300)]
    rights = [rng.random() < each for each in sure]
    (found,) = results_report(result("a", rights, confidences=sure)).confidences
    assert found.ece == calibration(sure, rights, bins=10).ece.value
    risks = coverage_risk(sure, rights)
    assert found.aurc == risks.aurc.value
    assert len(found.curve) <= 100
    assert found.curve[-1] == (1.0, risks.risk.value)
    assert {point for point in found.curve} <= {(p.coverage, p.risk) for p in risks.points}
    assert sum(n for *_, n in found.bins) == 300


def samples(name: str, table: Sequence[str]) -> EvalResult:
    """Each text is an item, each letter a sample: its answer, which is right if it is an R."""
    records = []
    for n, letters in enumerate(table):
        drawn = [Sample(text=x, parsed=x, correct=x == "R", value=float(x == "R")) for x in letters]
        first, *more = drawn
        records.append(
            EvalRecord(
                item=f"{n}",
                question=f"question {n}",
                text=first.text,
                parsed=first.parsed,
                correct=first.correct,
                value=first.value,
                more=tuple(more),
            )
        )
    return EvalResult(name=name, task="demo", scorer="exact", records=tuple(records))


def test_several_samples_have_curves_up_to_the_smallest_number() -> None:
    data = results_report(samples("a", ["RxR", "xxy", "xRzz"]))
    passed, voted = data.samples
    assert (passed.kind, passed.labels, voted.kind) == ("pass@k", ("1", "2", "3"), "majority@k")
    right = [[letter == "R" for letter in item] for item in ("RxR", "xxy", "xRzz")]
    assert passed.values == tuple(pass_at_k(right, k).value for k in (1, 2, 3))
    # Of three samples R has two votes of the first item, none of the second; of the third item's four
    # subsets x, R, z once share the lead (xRz twice: a third each) and twice z leads or R is not drawn.
    assert voted.values[2] == pytest.approx((1 + 0 + (1 / 3 + 1 / 3) / 4) / 3)


def test_answers_that_are_right_and_wrong_at_once_cannot_vote() -> None:
    given = samples("a", ["Rx"])
    (record,) = given.records
    odd = record.replace(more=(record.more[0].replace(parsed="R"),))
    data = results_report(given.replace(records=(odd,)))
    assert [curve.kind for curve in data.samples] == ["pass@k"]
    assert data.notes[0].startswith("a has no vote of its samples")


def test_the_worst_falls_and_as_many_rises_are_shown() -> None:
    table = ["RRRR", "RRRx", "xxxx", "xxxR", "RRRR", "xxxx", "xxRR"]
    after = ["xxxx", "xxxR", "RRRR", "RRRR", "RRRR", "xxxx", "xRRR"]
    found = changes(
        Subject(name="b", results=(samples("b", table),), every_sample=True),
        Subject(name="a", results=(samples("a", after),), every_sample=True),
        most=2,
    )
    assert (found.down, found.up, found.right, found.wrong) == (2, 3, 1, 1)
    assert [each.question for each in found.losses] == ["question 0", "question 1"]
    assert [each.question for each in found.gains] == ["question 2", "question 3"]
    worst = found.losses[0]
    assert (worst.before_rights, worst.after_rights) == ((4, 4), (0, 4))
    assert (worst.before_correct, worst.after_correct) == (True, False)


def test_rises_are_not_shown_in_place_of_falls() -> None:
    before, after = result("b", [False] * 9 + [True]), result("a", [True] * 9 + [False])
    (found,) = results_report([before, after]).changes
    assert (found.up, found.down) == (9, 1)
    assert (len(found.gains), len(found.losses)) == (1, 1)
    (only,) = results_report([before, before.replace(name="better", records=after.records[:9])]).changes
    assert (only.down, only.left_out, len(only.gains), len(only.losses)) == (0, 1, 1, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.booleans()), min_size=4), st.integers())
def test_the_order_of_the_items_changes_nothing(pairs: list[tuple[bool | None, bool]], seed: int) -> None:
    strata = ["x" if n % 2 else "y" for n in range(len(pairs))]
    before = result("b", [True, *(b for b, _ in pairs)], strata=["x", *strata])
    after = result("a", [True, *(a for _, a in pairs)], strata=["x", *strata])
    ordered = results_report([before, after])
    assert results_report([shuffled(before, seed), shuffled(after, seed + 1)]) == ordered


def test_stages_are_a_curve_in_the_given_order() -> None:
    given = [result(f"round {n}", [True] * n + [False] * (8 - n)) for n in (2, 6, 4)]
    (curve,) = results_report(given, stages=True).stages
    assert curve.labels == ("round 2", "round 6", "round 4")
    assert curve.values == (0.25, 0.75, 0.5)
    assert curve.intervals[0] == wilson(2, 8)
    assert results_report(given).stages == ()
    with pytest.raises(ConfigError, match="there are 1 stages"):
        results_report(given[:1], stages=True)


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to report"):
        results_report([])
    with pytest.raises(DataError, match=r"holds no summary\.json"):
        results_report(tmp_path)


def arm(name: str, good: int, tokens: int) -> Callable[[int], EvalResult]:
    def run(seed: int) -> EvalResult:
        rights = [(7 * n + 3 * seed) % 10 < good for n in range(60)]
        made = result(name, rights, strata=["x", "y"] * 30)
        return made.replace(
            records=tuple(r.replace(usage=Usage(generated_tokens=tokens)) for r in made.records)
        )

    return run


@pytest.fixture
def comparison(tmp_path: Path) -> tuple[Path, Any]:
    arms = {
        "plain": arm("plain", 3, 10),
        "taught": arm("taught", 8, 10),
        "shuffled": arm("shuffled", 3, 10),
        "long": arm("long", 9, 50),
    }
    made = Comparison(arms=arms, control="shuffled", seeds=(0, 1, 2))
    return tmp_path / "study", made.run(folder=tmp_path / "study", quiet=True)


def test_a_comparison_has_the_verdicts_of_its_outcome(comparison: tuple[Path, Any]) -> None:
    folder, outcome = comparison
    data = results_report(folder)
    assert data.title == "study"
    assert [(row.name, row.verdict, row.interval) for row in data.differences] == [
        (pair.name, pair.verdict, pair.interval) for pair in outcome.pairs
    ]
    verdicts = {row.name: row.verdict for row in data.differences}
    assert verdicts == {"taught": "better", "shuffled": "no effect shown", "long": "budgets differ"}
    assert [arm.part for arm in data.arms] == ["baseline", "", "control", ""]
    for shown, scored in zip(data.arms, outcome.arms, strict=True):
        assert shown.accuracy == pytest.approx(scored.mean)
        assert shown.seeds == pytest.approx(scored.seeds)
        assert (shown.spent, shown.unit) == (scored.spent, outcome.unit)
        assert shown.n == 180
    assert [row.control for row in data.differences] == [False, True, False]
    assert data.differences[1].adjusted is None
    page = report(data)
    assert page.count(">control<") == 2
    assert "budgets differ" in page


def test_a_comparison_keeps_its_own_baseline(comparison: tuple[Path, Any]) -> None:
    folder, _ = comparison
    assert results_report(folder, baseline="plain").arms[0].part == "baseline"
    with pytest.raises(ConfigError, match="was judged against 'plain'"):
        results_report(folder, baseline="taught")
    assert results_report(folder, control="shuffled") == results_report(folder)
    with pytest.raises(ConfigError, match="was judged with the control 'shuffled'; run it again with contr"):
        results_report(folder, control="taught")


def test_arms_alone_are_compared_over_their_seeds(comparison: tuple[Path, Any]) -> None:
    folder, outcome = comparison
    data = results_report([folder / "plain", folder / "taught"])
    (row,) = data.differences
    assert (row.difference, row.interval) == (outcome.pairs[0].difference, outcome.pairs[0].interval)
    mixed = results_report([folder / "plain", folder / "taught" / "seed-0"])
    assert "taught has the seeds none, plain has 0, 1, 2" in mixed.notes[0]


def test_an_unfinished_or_damaged_comparison_is_refused(comparison: tuple[Path, Any]) -> None:
    folder, _ = comparison
    whole = (folder / "outcome.json").read_text()
    (folder / "outcome.json").write_text("{}")
    with pytest.raises(DataError, match="does not hold a comparison"):
        results_report(folder)
    (folder / "outcome.json").write_text(whole[:50])
    with pytest.raises(DataError, match=r"outcome\.json is not JSON"):
        results_report(folder)
    (folder / "outcome.json").unlink()
    with pytest.raises(DataError, match="not finished; expected an outcome"):
        results_report(folder)
    (folder / "outcome.json").write_text(whole)
    items = folder / "taught" / "seed-1" / "items.jsonl"
    items.write_text(items.read_text().replace("question 1", "another 1"))
    with pytest.raises(IntegrityError, match="does not match"):
        results_report(folder)


def save_run(folder: Path, rounds: int) -> tuple[EvalResult, EvalResult]:
    """Files in the form of the recipe teach-and-distill."""
    before, after = result("before", [False] * 12), result("after", [True] * 9 + [False] * 3)
    folder.mkdir()
    rows = [
        {"item": b.item, "question": b.question, "before": b.to_json(), "after": a.to_json()}
        for b, a in zip(before.records, after.records, strict=True)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {
        "before": before.summary(),
        "after": after.summary(),
        "rounds": [{"solved": 3 * n, "items": 10} for n in range(1, rounds + 1)],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    own = ReportData(title="run", task="demo, n=3", created="then", losses=((1, 2.0), (2, 1.0)), seed=4)
    (folder / "report.json").write_text(json.dumps(own.to_json()))
    return before, after


def test_a_run_is_before_against_after_with_its_curves(tmp_path: Path) -> None:
    before, after = save_run(tmp_path / "run", rounds=3)
    data = results_report(tmp_path / "run")
    assert data.comparison == compare(before, after)
    assert (data.title, data.task, data.created, data.seed) == ("run", "demo, n=3", "then", 4)
    assert data.losses == ((1, 2.0), (2, 1.0))
    (curve,) = data.stages
    assert (curve.kind, curve.values) == ("training items solved", (0.3, 0.6, 0.9))
    save_run(tmp_path / "again", rounds=1)
    two = results_report([tmp_path / "run", tmp_path / "again"])
    assert [(row.name, row.against) for row in two.differences] == [
        ("run/after", "run/before"),
        ("again/after", "again/before"),
    ]
    crossed = results_report([tmp_path / "run", tmp_path / "again"], baseline="run/before")
    assert {row.against for row in crossed.differences} == {"run/before"}


@pytest.mark.slow
def test_the_folder_of_a_real_run_can_be_reported(guessing_model_dir: Path, tmp_path: Path) -> None:
    from docendo.distill import TrainConfig
    from docendo.distill.recipes.teach_and_distill import TeachAndDistill, teach_and_distill

    config = TeachAndDistill(
        student=str(guessing_model_dir),
        settings={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        train=60,
        test=20,
        rounds=2,
        samples=8,
        train_config=TrainConfig(max_steps=2),
    )
    summary = teach_and_distill(config, folder=tmp_path / "real", quiet=True)
    data = results_report(tmp_path / "real")
    assert data.comparison is not None
    assert data.comparison.difference == summary["difference"]
    assert [arm.n for arm in data.arms] == [20, 20]
    assert data.stages[0].values == tuple(each["solved"] / each["items"] for each in summary["rounds"])
    assert data.losses
    assert any(each.taught for each in data.transcripts)
    assert "How it was taught" in report(data)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("items.jsonl", '{"before": {}}\n', "does not hold a run"),
        ("items.jsonl", "{", "does not hold a run"),
        ("summary.json", "[]", "does not hold a run"),
        ("summary.json", None, r"holds no summary\.json"),
        ("report.json", '{"title": "x", "news": 1}', "does not hold a run"),
    ],
)
def test_a_damaged_run_is_one_clear_error(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    save_run(tmp_path / "run", rounds=1)
    path = tmp_path / "run" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        results_report(tmp_path / "run")


def test_all_that_was_gathered_survives_json(comparison: tuple[Path, Any]) -> None:
    folder, _ = comparison
    sure = [n / 60 for n in range(60)]
    confident = result("sure", [n % 3 == 0 for n in range(60)], confidences=sure, strata=["x", "y"] * 30)
    data = results_report([folder, confident, samples("drawn", ["Rx", "xR"])], stages=True)
    assert data.differences
    assert data.strata
    assert data.confidences
    assert data.samples
    assert data.stages
    assert data.changes
    again = ReportData.from_json(json.loads(json.dumps(data.to_json(), allow_nan=False)))
    assert again == data
    assert report(again) == report(data)
