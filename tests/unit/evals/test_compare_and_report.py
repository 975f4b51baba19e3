import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from docendo.errors import DataError
from docendo.evals import (
    Arm,
    Cost,
    EvalRecord,
    EvalResult,
    PairedComparison,
    ReportData,
    Transcript,
    Turn,
    compare,
    costs,
    mcnemar,
    report,
    tango,
    transcripts,
)


def result(rights, name="x", first=0, **fields):
    records = tuple(
        EvalRecord(
            item=str(i + first),
            question=f"question {i + first}",
            text=f"text {i + first}",
            correct=right,
            failure="model: none" if right is None else None,
        )
        for i, right in enumerate(rights)
    )
    return EvalResult(name=name, task="demo", scorer=fields.pop("scorer", "exact"), records=records, **fields)


def pair(up, down, both, neither):
    before = [False] * up + [True] * down + [True] * both + [False] * neither
    after = [True] * up + [False] * down + [True] * both + [False] * neither
    return result(before, "before"), result(after, "after")


def test_a_large_effect():
    outcome = compare(*pair(60, 10, 20, 110))
    assert (outcome.before, outcome.after, outcome.difference) == (0.15, 0.4, 0.25)
    assert (outcome.up, outcome.down, outcome.n) == (60, 10, 200)
    assert outcome.verdict == "better"
    assert outcome.interval[0] > 0
    assert outcome.p_value == mcnemar(60, 10)
    assert outcome.before_interval[0] < 0.15 < outcome.before_interval[1]
    mirrored = compare(*pair(10, 60, 20, 110))
    assert (mirrored.verdict, mirrored.difference) == ("worse", -0.25)


def test_no_effect_says_what_could_have_been_seen():
    outcome = compare(*pair(12, 10, 30, 148))
    assert outcome.verdict == "no effect shown"
    assert outcome.interval[0] < 0 < outcome.interval[1]
    assert f"{100 * outcome.detectable:.1f} points or more with 80 % power" in outcome.reason


def test_identical_results_show_no_effect():
    before, _ = pair(0, 0, 5, 5)
    outcome = compare(before, before)
    assert (outcome.verdict, outcome.p_value, outcome.difference) == ("no effect shown", 1.0, 0.0)
    assert "-0.0" not in str(outcome)


@pytest.mark.parametrize("counts", [(0, 0, 5, 5), (3, 0, 0, 0), (5, 0, 20, 15), (9, 4, 50, 37)])
def test_the_interval_is_tango_s_which_is_not_certain_of_few_pairs(counts):
    up, down, *_ = counts
    outcome = compare(*pair(*counts))
    assert outcome.interval == tango(up, down, sum(counts))
    assert outcome.interval[0] < outcome.difference < outcome.interval[1] or outcome.interval[1] == 1.0


def test_a_claim_needs_the_interval_and_the_test():
    """Tango's interval excludes 0 from 4 flips of 40 on, McNemar's test is below 0.05 from 6 on."""
    verdicts = {up: compare(*pair(up, 0, 20, 20 - up)).verdict for up in range(3, 8)}
    assert verdicts == {**dict.fromkeys((3, 4, 5), "no effect shown"), **dict.fromkeys((6, 7), "better")}
    outcome = compare(*pair(5, 0, 20, 15))
    assert (outcome.interval[0] > 0, outcome.p_value) == (True, 0.0625)
    assert "5 flips are too few for McNemar's test" in outcome.reason


def test_the_verdict_is_wrong_at_most_as_often_as_the_level_says():
    rng = np.random.default_rng(7)
    verdicts = []
    for _ in range(400):
        flips = rng.random(100) < 0.15
        up = int((flips & (rng.random(100) < 0.5)).sum())
        verdicts.append(compare(*pair(up, int(flips.sum()) - up, 30, 70 - int(flips.sum()) + 30)))
    assert sum(outcome.verdict != "no effect shown" for outcome in verdicts) / 400 <= 0.05


def test_the_comparison_does_not_depend_on_the_order_of_the_items():
    before, after = pair(30, 12, 20, 60)
    assert compare(before, after.replace(records=after.records[::-1])) == compare(before, after)


def test_only_common_answered_items_count():
    before = result([True, False, None, False, True], "before")
    after = result([True, True, True, None], "after", first=1)
    outcome = compare(before, after)
    assert (outcome.n, outcome.only_before, outcome.only_after, outcome.failed) == (2, 1, 0, 2)
    assert "Left out: 1 only in before, 2 without an answer." in str(outcome)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (result([True], "a"), result([True], "b", first=9), "no item in common"),
        (result([None], "a"), result([True], "b"), "none of the 1 common items was answered in both"),
        (result([True], "a"), result([True], "b", scorer="own"), "scored by 'exact' and 'b' by 'own'"),
        (
            result([True], "a"),
            result([True], "b").replace(records=result([True]).records * 2),
            "item 0 more than once",
        ),
    ],
)
def test_what_cannot_be_compared(before, after, message):
    with pytest.raises(DataError, match=message):
        compare(before, after)


def test_a_comparison_survives_json():
    outcome = compare(*pair(30, 12, 20, 60))
    stored = json.loads(json.dumps(outcome.to_json()))
    assert PairedComparison.from_json(stored) == outcome
    older = {**stored, "resamples": 10_000, "seed": 0}
    assert PairedComparison.from_json(older) == outcome
    assert ReportData.from_json({"title": "old", "comparison": older}).comparison == outcome


def test_transcripts_show_every_kind_of_outcome_in_turn():
    before, after = pair(9, 9, 9, 9)
    shown = transcripts(before, after, most=6)
    kinds = [(each.before_correct, each.after_correct) for each in shown]
    assert kinds == [
        (False, True),
        (False, False),
        (True, False),
        (True, True),
        (False, True),
        (False, False),
    ]
    assert len({each.question for each in shown}) == 6


def test_costs_are_summed_by_role_and_adapter():
    row = {"role": "student", "agent": "a", "adapter": None, "calls": 2, "prompt_tokens": 5, "seconds": 0.5}
    summed = costs([row, {**row, "agent": "b"}, {**row, "adapter": "ff"}])
    assert [(cost.calls, cost.prompt_tokens, cost.adapter) for cost in summed] == [
        (4, 10, None),
        (2, 5, "ff"),
    ]


def full():
    before, after = pair(30, 12, 20, 60)
    taught = Transcript(
        question="How much is 1 < 2 & 3?",
        taught=(
            Turn(kind="attempt", role="student", text="<script>alert(1)</script>", correct=False),
            Turn(kind="hint", role="tutor", text="\ud800 \x00 odd"),
            Turn(kind="demonstration", role="teacher", text="Answer: 7", correct=True),
        ),
    )
    return ReportData(
        title='<img src=x onerror="alert(1)">',
        task="demo",
        created="today",
        arms=(Arm.of(before), Arm.of(after)),
        comparison=compare(before, after),
        majority=0.3,
        chance=0.25,
        losses=tuple((step, 2 / (step + 1)) for step in range(20)),
        costs=(Cost(role="student", calls=1200, prompt_tokens=91234, generated_tokens=400, seconds=3.21),),
        phases=(("before", 3.0), ("train", 145.0)),
        transcripts=(*transcripts(before, after), taught),
        config={"model": "</pre><b>x"},
        versions={"docendo": "0.1.0"},
        seed=0,
        notes=("One fact.",),
    )


def test_the_report_shows_everything():
    page = report(full())
    for part in (
        "better",
        "one fact",
        "training loss",
        "91\u2009234",
        "2 min 25 s",
        "30.0 %",
        "seed 0",
        "student · attempt",
    ):
        assert part in page.lower(), part
    assert page.count('class="arm ') == 2
    assert "text 3" in page


def test_nothing_in_the_report_is_markup_loads_or_runs():
    page = report(full())
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import|https?://", page.replace("src=x onerror", ""))
    page.encode("utf-8")


def test_the_drawings_are_well_formed():
    page = report(full())
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(drawings) == 3
    for drawing in drawings:
        ET.fromstring(drawing)
    points = re.search(r'polyline class="line t1" points="([^"]+)"', page).group(1).split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)


@pytest.mark.parametrize(
    "data",
    [
        ReportData(title="empty"),
        ReportData(title="one loss", losses=((1, 2.0),)),
        ReportData(title="flat loss", losses=((1, 0.0), (2, 0.0))),
        ReportData(title="odd loss", losses=((1, float("nan")), (2, 1.0), (3, float("inf")), (4, -1.0))),
        ReportData(title="no time", phases=(("load", 0.0),)),
        ReportData(title="failed", arms=(Arm.of(result([None])),)),
        ReportData(title="long", transcripts=(Transcript(question="q", before="x" * 10**6, after=""),)),
    ],
)
def test_a_report_of_little(data):
    page = report(data)
    assert page.startswith("<!doctype html>")
    assert len(page) < 60_000
    assert "nan" not in page.lower().replace("finance", "")


def test_a_report_can_be_rebuilt_from_its_data():
    data = full()
    text = json.dumps(data.to_json())
    again = ReportData.from_json(json.loads(text))
    assert again == data
    assert report(again) == report(data)
