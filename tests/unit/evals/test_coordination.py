"""Coordination metrics are what their definitions say, on traces made by hand and on graphs that ran."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer

import docendo
from docendo import ScriptedEngine, Student, Teacher, Tutor, Verifier, graphs
from docendo.errors import ConfigError, DataError
from docendo.evals import (
    CoordinationReport,
    EvalRecord,
    ExactScorer,
    ItemEffort,
    coordination_metrics,
    item_efforts,
    make_item,
)
from docendo.evals.metrics._coordination_overlap import redundancies, word_overlap
from docendo.evals.metrics._coordination_report import METRICS
from docendo.records import Author, Request, Trace, Usage

FEW = {"resamples": 200}


def turn(id, item, agent, *parents, text="Answer: 4", tokens=10, prompt=0, sample=0, run="r"):
    return Trace(
        id=id,
        run=run,
        item=item,
        author=Author(agent=agent, role=agent),
        messages=(),
        completion=text,
        parents=parents,
        sample=sample,
        usage=Usage(prompt_tokens=prompt, generated_tokens=tokens),
    )


def effort(item, correct, turns=1, tokens=10, messages=0, **fields):
    return ItemEffort(
        item=item, correct=correct, turns=turns, generated_tokens=tokens, messages=messages, **fields
    )


@pytest.fixture
def debate():
    """Two agents answer two items and read each other; a third item has one turn."""
    return [
        turn("a1", "a", "one", text="Answer: 4", tokens=10, prompt=5),
        turn("a2", "a", "two", "a1", text="Answer: 5", tokens=20, prompt=5),
        turn("a3", "a", "one", "a1", "a2", text="Answer: 4", tokens=30, prompt=5),
        turn("b1", "b", "one", text="Answer: 7", tokens=10),
        turn("b2", "b", "two", "b1", text="Answer: 7", tokens=10),
        turn("c1", "c", "one", tokens=10),
    ]


RIGHT = {"a": True, "b": False, "c": True}


def single(*rights):
    return [effort(item, right) for item, right in zip("abc", rights, strict=True)]


# What is read from traces


def test_turns_messages_and_tokens_of_each_item(debate):
    a, b, c = item_efforts(debate, RIGHT)
    assert (a.turns, a.messages, a.generated_tokens, a.prompt_tokens) == (3, 2, 60, 15)
    assert (b.turns, b.messages, b.correct) == (2, 1, False)
    assert (c.turns, c.messages, c.agents, c.redundancy, c.overlap) == (1, 0, ("one",), None, None)
    assert a.agents == ("one", "two")
    assert b.redundancy == 1.0


def test_answering_oneself_is_no_message_and_unknown_parents_do_not_count():
    traces = [turn("1", "a", "one"), turn("2", "a", "one", "1", "elsewhere")]
    assert item_efforts(traces, {"a": True})[0].messages == 0


def test_samples_are_one_turn_but_each_text_that_is_answered_is_a_message():
    traces = [
        turn("s0", "a", "student", tokens=30),
        turn("s1", "a", "student", tokens=0, sample=1),
        turn("j0", "a", "judge", "s0", "s1", tokens=5),
        turn("j1", "a", "judge", "s0", "s1", tokens=0, sample=1),
    ]
    found = item_efforts(traces, {"a": True})[0]
    assert (found.turns, found.messages, found.generated_tokens) == (2, 2, 35)


def test_items_may_come_from_different_runs():
    traces = [turn("1", "a", "one", run="first"), turn("2", "b", "one", run="second")]
    assert [one.turns for one in item_efforts(traces, {"a": True, "b": True})] == [1, 1]


def test_records_of_one_agent_are_one_turn_each():
    records = [
        EvalRecord(item=item, question="", correct=right, usage=Usage(prompt_tokens=7, generated_tokens=3))
        for item, right in (("b", True), ("a", None))
    ]
    a, b = item_efforts(None, records)
    assert (a.item, a.correct, a.turns) == ("a", None, 1)
    assert (b.correct, b.prompt_tokens, b.generated_tokens) == (True, 7, 3)


def test_outcomes_of_a_run_say_what_was_solved():
    outcomes = {"a": {"status": "done", "solved": True}, "b": {"status": "failed", "error": "model"}}
    found = item_efforts([turn("1", "a", "one")], outcomes)
    assert [(one.item, one.correct, one.turns) for one in found] == [("a", True, 1), ("b", None, 0)]


@pytest.mark.parametrize(
    ("traces", "outcomes", "message"),
    [
        ([turn("1", "a", "x"), turn("1", "a", "x")], {"a": True}, "given twice"),
        ([turn("1", "a", "x"), turn("2", "a", "x", run="s")], {"a": True}, "turns of the runs 'r' and 's'"),
        ([turn("1", "a", "x")], {"b": True}, "no trace belongs to an item"),
        ([turn("1", "a", "x")], {"a": 0.5}, "the outcome of item a is 0.5"),
        ([turn("1", "a", "x")], {"a": {"status": "done", "answer": "4"}}, "whether it was solved"),
        ([], [EvalRecord(item="a", question="")] * 2, "more than one outcome"),
        (None, {"a": True}, "neither traces nor records"),
    ],
)
def test_what_does_not_fit_is_refused(traces, outcomes, message):
    with pytest.raises(DataError, match=message):
        item_efforts(traces, outcomes)


# The metrics


def test_every_metric_on_a_hand_made_run(debate):
    report = coordination_metrics(debate, RIGHT, baseline=single(True, False, False), **FEW)
    values = {name: getattr(report, name).value for name in METRICS}
    a, b, _ = item_efforts(debate, RIGHT)
    expected = {
        "success": 2 / 3,
        "turns": 6 / 3,
        "tokens": 90 / 3,
        "messages": 3 / 3,
        "message_density": 3 / 6,
        "redundancy": (a.redundancy + b.redundancy) / 2,
        "success_per_1k": 1000 * 2 / 90,
        # Item a: "answer" is shared, 4 and 5 contradict each other; item b: both words are shared.
        "unique": 0.0,
        "shared": (1 / 3 + 1) / 2,
        "contradictory": (2 / 3 + 0) / 2,
        "baseline_success": 1 / 3,
        "baseline_turns": 1.0,
        "baseline_tokens": 10.0,
        "baseline_success_per_1k": 1000 * 1 / 30,
        "gain": 1 / 3,
        "overhead": 100.0,
        "token_overhead": 200.0,
        "efficiency": (2 / 3) / 2,
        "error_amplification": (1 / 3) / (2 / 3),
        "absorption": (2 / 3 - 1 / 3) / (2 / 3),
    }
    assert values == pytest.approx(expected)
    assert (report.n, report.agents, report.baseline_name) == (3, 2, "single agent")


def test_the_report_has_an_attribute_for_each_formula():
    fields = {field.name for field in dataclasses.fields(CoordinationReport) if field.type == "Measure"}
    assert fields == set(METRICS)


efforts = st.lists(
    st.tuples(st.booleans(), st.integers(1, 9), st.integers(1, 99), st.booleans(), st.integers(1, 9)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(efforts)
def test_identities_hold_on_any_run(rows):
    outcomes = {str(i): row[0] for i, row in enumerate(rows)}
    traces = [
        turn(f"{i}/{k}", str(i), "x", tokens=tokens)
        for i, (_, turns, tokens, _, _) in enumerate(rows)
        for k in range(turns)
    ]
    other = [effort(str(i), right, turns) for i, (*_, right, turns) in enumerate(rows)]
    report = coordination_metrics(traces, outcomes, baseline=other, resamples=100)
    one = {name: getattr(report, name).value for name in METRICS}
    assert one["overhead"] == pytest.approx(100 * (one["turns"] / one["baseline_turns"] - 1))
    assert one["efficiency"] == pytest.approx(one["success"] / (1 + one["overhead"] / 100))
    assert one["success_per_1k"] == pytest.approx(1000 * one["success"] / one["tokens"])
    if one["baseline_success"] < 1:
        assert one["absorption"] == pytest.approx(1 - one["error_amplification"])
        assert one["error_amplification"] == pytest.approx(
            (1 - one["success"]) / (1 - one["baseline_success"])
        )
    else:
        assert one["absorption"] is None
        assert report.absorption.reason == "the baseline answers every item right"


def test_the_papers_overhead_and_efficiency_follow_from_its_table_and_its_amplification_does_not():
    """Independent agents: S .370 and .466, T 11.4 and 7.2; stated O 58 %, E_c .234 and A_e 17.2."""
    traces = [turn(f"{i}/{k}", f"{i:03}", "x") for i in range(500) for k in range(12 if i % 5 < 2 else 11)]
    outcomes = {f"{i:03}": i < 185 for i in range(500)}
    baseline = [effort(f"{i:03}", i < 233, turns=8 if i % 5 == 0 else 7) for i in range(500)]
    report = coordination_metrics(traces, outcomes, baseline=baseline, **FEW)
    assert (report.turns.value, report.baseline_turns.value) == pytest.approx((11.4, 7.2))
    assert round(report.overhead.value) == 58
    assert round(report.efficiency.value, 3) == 0.234
    assert round(report.error_amplification.value, 2) == 1.18


def test_without_a_baseline_only_the_runs_own_metrics_have_values(debate):
    report = coordination_metrics(debate, RIGHT, **FEW)
    assert report.turns.value == 2.0
    assert (report.overhead.value, report.overhead.reason) == (None, "there is no baseline")
    assert "overhead" not in str(report)
    assert report.warning == ""


def test_no_division_by_zero_is_ever_infinite():
    traces = [turn("1", "a", "one", tokens=0)]
    report = coordination_metrics(traces, {"a": True}, baseline=[effort("a", True, turns=0, tokens=0)])
    undefined = {name: getattr(report, name) for name in METRICS if getattr(report, name).value is None}
    assert {name: one.reason for name, one in undefined.items()} == {
        "redundancy": "no item has texts of two agents",
        "success_per_1k": "no tokens are recorded",
        "unique": "no item has texts of two agents",
        "shared": "no item has texts of two agents",
        "contradictory": "no item has texts of two agents",
        "baseline_success_per_1k": "no tokens are recorded",
        "overhead": "there is no turn",
        "token_overhead": "no tokens are recorded",
        "error_amplification": "the baseline answers every item right",
        "absorption": "the baseline answers every item right",
    }
    json.dumps(report.to_json(), allow_nan=False)
    assert "cannot be compared" in report.warning


def test_items_without_an_answer_or_a_partner_are_left_out_and_counted(debate):
    baseline = [effort("a", True), effort("b", None), effort("z", True)]
    report = coordination_metrics(debate, RIGHT, baseline=baseline, **FEW)
    assert (report.n, report.failed, report.unpaired) == (1, 1, 2)
    assert report.turns.value == 3.0
    assert report.turns.interval is None
    assert report.turns.reason == "one item has no interval"
    assert "1 without an answer, 2 in one of the two only" in str(report)
    with pytest.raises(DataError, match="none of 0 items in common"):
        coordination_metrics(debate, RIGHT, baseline=[effort("z", True)], **FEW)


def test_unequal_budgets_are_said(debate):
    baseline = single(True, False, False)
    report = coordination_metrics(debate, RIGHT, baseline=baseline, name="debate", **FEW)
    assert report.warning == (
        "This is no comparison at equal tokens: debate spent 30.0 generated tokens an item and single agent "
        "10.0 (+200.0 %)."
    )
    assert str(report).endswith(report.warning)
    total = coordination_metrics(debate, RIGHT, baseline=baseline, budget="total", **FEW)
    assert total.tokens.value == 35.0
    equal = [one.replace(generated_tokens=30) for one in baseline]
    assert coordination_metrics(debate, RIGHT, baseline=equal, **FEW).warning == ""
    near = [*(one.replace(generated_tokens=31) for one in equal[:2]), equal[2]]
    assert "no comparison" in coordination_metrics(debate, RIGHT, baseline=near, **FEW).warning
    assert coordination_metrics(debate, RIGHT, baseline=near, tolerance=0.03, **FEW).warning == ""


def test_intervals_are_the_paired_bootstraps():
    rng = np.random.default_rng(0)
    n = 60
    rights, others = rng.random(n) < 0.6, rng.random(n) < 0.4
    turns, others_turns = rng.integers(2, 9, n), rng.integers(1, 4, n)
    traces = [turn(f"{i}/{k}", f"{i:02}", "x") for i in range(n) for k in range(turns[i])]
    outcomes = {f"{i:02}": bool(rights[i]) for i in range(n)}
    baseline = [effort(f"{i:02}", bool(others[i]), turns=int(others_turns[i])) for i in range(n)]
    report = coordination_metrics(traces, outcomes, baseline=baseline)

    def statistic(s, t, bs, bt, axis):
        return np.mean(s, axis) * np.mean(bt, axis) / np.mean(t, axis)

    def amplification(s, t, bs, bt, axis):
        return (1 - np.mean(s, axis)) / (1 - np.mean(bs, axis))

    data = (rights.astype(float), turns, others.astype(float), others_turns)
    for name, function in (("efficiency", statistic), ("error_amplification", amplification)):
        expected = stats.bootstrap(
            data, function, paired=True, method="percentile", n_resamples=10_000, rng=1
        ).confidence_interval
        found = getattr(report, name).interval
        assert found == pytest.approx((expected.low, expected.high), abs=0.02)


def test_a_metric_that_many_resamples_leave_undefined_has_no_interval():
    traces = [turn(str(i), str(i), "x") for i in range(10)]
    outcomes = {str(i): i > 4 for i in range(10)}
    baseline = [effort(str(i), i > 0) for i in range(10)]
    report = coordination_metrics(traces, outcomes, baseline=baseline)
    # A resample misses the baseline's one error with chance 0.9^10 = 35 %.
    assert report.error_amplification.value == 5.0
    assert report.error_amplification.interval is None
    assert report.error_amplification.reason.startswith("in 35 % of the resamples the baseline answers every")
    assert report.success.interval is not None


def test_order_does_not_matter_and_the_seed_decides(debate):
    baseline = single(True, False, False)
    report = coordination_metrics(debate, RIGHT, baseline=baseline, **FEW)
    turned = dict(reversed(RIGHT.items()))
    # The turns of one item keep their order, those of different items may mix.
    mixed = [debate[i] for i in (5, 3, 0, 4, 1, 2)]
    assert coordination_metrics(mixed, turned, baseline=baseline[::-1], **FEW) == report
    other = coordination_metrics(debate, RIGHT, baseline=baseline, seed=1, **FEW)
    assert other.turns.value == report.turns.value


def test_a_report_survives_json(debate):
    report = coordination_metrics(debate, RIGHT, baseline=single(True, False, False), **FEW)
    assert CoordinationReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    for one in item_efforts(debate, RIGHT):
        assert ItemEffort.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize("setting", [{"budget": "all"}, {"tolerance": -1}, {"resamples": 1}, {"level": 95}])
def test_settings_are_checked(debate, setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        coordination_metrics(debate, RIGHT, **setting)


# How alike texts are

WORDS = ["four", "five and five", "Answer: 7", "ANSWER:  7", "add both\nAnswer: 4", "é…😀", "a  b\tc"]


def test_redundancy_is_the_cosine_of_scikit_learns_tfidf():
    rng = random.Random(0)
    groups = [rng.choices(WORDS, k=rng.randint(2, 4)) for _ in range(20)]
    texts = [text for group in groups for text in group]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(3, 3)).fit_transform(texts).toarray()
    expected, start = [], 0
    for group in groups:
        rows = vectors[start : start + len(group)]
        upper = (rows @ rows.T)[np.triu_indices(len(group), 1)]
        expected.append(float(upper.mean()))
        start += len(group)
    assert redundancies(groups) == pytest.approx(expected)


def test_short_texts_are_alike_if_they_are_the_same():
    assert redundancies([["4", "4"], ["4", "5"], ["4", "44"], ["no", "NO"]]) == [1.0, 0.0, 0.0, 1.0]


def test_an_embedder_replaces_the_ngrams(debate):
    vectors = {"Answer: 4": [1.0, 0.0], "Answer: 5": [0.6, 0.8], "Answer: 7": [0.0, 2.0]}
    report = coordination_metrics(
        debate, RIGHT, embedder=lambda texts: [vectors[text] for text in texts], **FEW
    )
    assert report.redundancy.value == pytest.approx((0.6 + 1.0) / 2)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [([[1.0]], "the shape"), ([[1.0], [0.0]], "zero or not finite"), ([[1.0], [float("nan")]], "not finite")],
)
def test_bad_vectors_are_refused(vectors, message):
    with pytest.raises(DataError, match=message):
        redundancies([["a", "b"]], lambda texts: vectors)


def test_words_are_unique_shared_or_contradictory():
    assert word_overlap(["red green", "green blue"]) == pytest.approx((2 / 3, 1 / 3, 0.0))
    # Different answers, of which "bird" is no part that differs.
    assert word_overlap(["it sings\nAnswer: red bird", "Answer: blue bird"]) == pytest.approx(
        (2 / 6, 2 / 6, 2 / 6)
    )
    assert word_overlap(["Answer: 4.", "so\nAnswer:  4"])[2] == 0.0
    assert word_overlap(["I say 4", "Answer: 5"])[2] == 0.0, "without an answer line nothing is stated"
    assert word_overlap(["one text"]) is None
    assert word_overlap(["...", "!"]) is None


@given(st.lists(st.sampled_from([*WORDS, "Answer: 8", "Answer: x y"]), min_size=2, max_size=5))
def test_the_word_classes_add_up_to_one_and_order_does_not_matter(texts):
    found = word_overlap(texts)
    assert sum(found) == pytest.approx(1.0)
    assert min(found) >= 0
    assert word_overlap(texts[::-1]) == found


# Graphs that ran


def tutored(folder: Path):
    items = [make_item("What is 2 + 2?", 4), make_item("What is 1 + 2?", 3)]

    def script(request: Request) -> list[str]:
        texts = {"student": "Answer: 3", "tutor": "count again", "teacher": "Answer: 4"}
        return [texts[request.origin.role]] * request.sampling.n

    engine = ScriptedEngine(script)
    graph = graphs.tutoring(
        student=Student(engine),
        tutor=Tutor(engine),
        teacher=Teacher(engine),
        verifier=Verifier(ExactScorer()),
    )
    return items, docendo.run(graph, items, name="told", folder=folder, quiet=True)


def test_a_tutoring_run_is_measured_from_its_traces_and_board(tmp_path):
    items, run = tutored(tmp_path)
    with run:
        traces, posts = run.traces(), list(run.board.posts(run=run.name))
        plain = item_efforts(traces, run.outcomes)
        heard = item_efforts(traces, run.outcomes, posts=posts)
        usage = run.usage()
    hard, easy = ({one.item: one for one in plain}[item.id] for item in items)
    # Attempt, hint, attempt, demonstration; the tutor answers to the attempt, the second one to the hint.
    assert (hard.turns, hard.messages, hard.agents) == (4, 2, ("student", "teacher", "tutor"))
    assert (easy.turns, easy.messages) == (1, 0)
    # Over the board the second attempt hears the hint, and the demonstration follows the attempt.
    assert [one.messages for one in heard if one.item == items[0].id] == [3]
    assert sum(one.turns for one in plain) == sum(role["calls"] for role in usage.values())
    assert sum(one.generated_tokens for one in plain) == sum(
        role["generated_tokens"] for role in usage.values()
    )
