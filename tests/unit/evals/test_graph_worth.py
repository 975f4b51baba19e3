"""Whether a graph is worth its tokens: the verdict needs an effect and an equal budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import docendo
from docendo import Engine, ScriptedEngine, Student, Teacher, Tutor, Verifier, graphs
from docendo.errors import ConfigError, DataError
from docendo.evals import EvalRecord, EvalResult, ExactScorer, GraphWorth, evaluate, graph_worth, make_item
from docendo.records import Request, Usage


def result(name, rights, tokens=100, prompt=0):
    records = tuple(
        EvalRecord(
            item=f"{i:02}",
            question="",
            correct=right,
            usage=Usage(prompt_tokens=prompt, generated_tokens=tokens),
        )
        for i, right in enumerate(rights)
    )
    return EvalResult(name=name, task="demo", scorer="exact", records=records)


FEW, MANY = [True] * 10 + [False] * 30, [True] * 40


@pytest.mark.parametrize(
    ("graph", "baseline", "verdict", "ground"),
    [
        # better at equal tokens, with fewer, with more
        (result("graph", MANY, 100), result("vote", FEW, 99), "worth it", "as many"),
        (result("graph", MANY, 50), result("vote", FEW, 100), "worth it", "50.0 % fewer"),
        (result("graph", MANY, 300), result("vote", FEW, 100), "not shown", "200.0 % more"),
        # worse at equal tokens, with more, with fewer
        (result("graph", FEW, 100), result("vote", MANY, 100), "not worth it", "as many"),
        (result("graph", FEW, 300), result("vote", MANY, 100), "not worth it", "200.0 % more"),
        (result("graph", FEW, 50), result("vote", MANY, 100), "not shown", "50.0 % fewer"),
        # no effect, whatever the tokens
        (result("graph", FEW, 100), result("vote", FEW, 100), "not shown", "as many"),
        (result("graph", FEW, 10), result("vote", FEW, 100), "not shown", "90.0 % fewer"),
        # unknown tokens
        (result("graph", MANY, 0), result("vote", FEW, 100), "not shown", "no tokens of graph"),
        (result("graph", MANY, 100), result("vote", FEW, 0), "not shown", "no tokens of vote"),
    ],
)
def test_the_verdict_needs_an_effect_and_no_more_tokens(graph, baseline, verdict, ground):
    found = graph_worth(graph, baseline)
    assert found.verdict == verdict
    assert ground in found.reasons[1]
    assert found.reasons[0] == found.comparison.reason
    assert str(found).startswith(f"Is graph worth its tokens? {verdict}\n")


def test_two_percent_are_equal_and_the_tolerance_can_be_set():
    baseline = result("vote", FEW, 100)
    assert graph_worth(result("graph", MANY, 102), baseline).verdict == "worth it"
    assert graph_worth(result("graph", MANY, 103), baseline).verdict == "not shown"
    assert graph_worth(result("graph", MANY, 103), baseline, tolerance=0.05).verdict == "worth it"


def test_prompts_count_if_they_are_to():
    graph, baseline = result("graph", MANY, 100, prompt=900), result("vote", FEW, 100, prompt=100)
    assert graph_worth(graph, baseline).verdict == "worth it"
    total = graph_worth(graph, baseline, budget="total")
    assert (total.verdict, total.tokens, total.baseline_tokens) == ("not shown", 1000.0, 200.0)


def test_tokens_are_those_of_the_compared_items():
    graph = result("graph", [*MANY, None], 100)
    baseline = result("vote", [*FEW, True], 100)
    spoilt = graph.records[-1].replace(usage=Usage(generated_tokens=10**6))
    found = graph_worth(graph.replace(records=(*graph.records[:-1], spoilt)), baseline)
    assert (found.tokens, found.verdict) == (100.0, "worth it")


def test_a_baseline_of_another_budget_is_shown_beside():
    found = graph_worth(result("graph", MANY, 100), result("vote", FEW, 100), unmatched=result("one", FEW, 5))
    assert found.unmatched.before_name == "one"
    assert found.unmatched_tokens == 5.0
    assert "Beside one, whose budget is its own (5.0 generated tokens an item)" in str(found)


def test_results_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="no item in common"):
        graph_worth(result("graph", []), result("vote", FEW))
    for setting in ({"budget": "all"}, {"tolerance": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            graph_worth(result("graph", MANY), result("vote", FEW), **setting)


ITEMS = [make_item(f"What is {a} + {b}?", a + b) for a in range(1, 5) for b in range(1, 6)]


def tutoring(engine):
    return graphs.tutoring(
        student=Student(engine),
        tutor=Tutor(engine),
        teacher=Teacher(engine),
        verifier=Verifier(ExactScorer()),
    )


def judged(engine, folder: Path, **settings) -> GraphWorth:
    """Runs the graph, asks the student alone, and compares them."""
    scorer = ExactScorer()
    alone = evaluate(Student(engine), ITEMS, scorer=scorer, name="student", quiet=True)
    with docendo.run(tutoring(engine), ITEMS, name="taught", folder=folder, quiet=True) as run:
        answers = {item: outcome["answer"] for item, outcome in run.outcomes.items()}
        taught = evaluate(lambda item: answers[item.id], ITEMS, scorer=scorer, name="taught", quiet=True)
        posts = run.board.posts(run=run.name)
        return graph_worth(taught, alone, traces=run.traces(), posts=posts, **settings)


def test_a_graph_that_ran_is_judged_by_its_traces(tmp_path):
    def script(request: Request) -> list[str]:
        texts = {"student": "Answer: 5", "tutor": "count again", "teacher": "Answer: 5"}
        return [texts[request.origin.role]] * request.sampling.n

    found = judged(ScriptedEngine(script), tmp_path)
    # Student and teacher always say the same, so the graph changes nothing and costs more.
    assert found.verdict == "not shown"
    report = found.coordination
    right = sum(item.public.question in ("What is 1 + 4?", "What is 2 + 3?") for item in ITEMS)
    right += sum(item.public.question in ("What is 3 + 2?", "What is 4 + 1?") for item in ITEMS)
    assert report.success.value == report.baseline_success.value == right / 20
    assert report.turns.value == pytest.approx((right + 4 * (20 - right)) / 20)
    assert report.error_amplification.value == 1.0
    assert report.overhead.value == pytest.approx(100 * (report.turns.value - 1))
    assert found.tokens == report.tokens.value > found.baseline_tokens
    assert report.warning.startswith("This is no comparison at equal tokens: taught")
    assert GraphWorth.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert "message density" in str(found)


@pytest.mark.slow
def test_a_real_model_is_measured_the_same_way(tmp_path, tiny_model_dir):
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        found = judged(engine, tmp_path, budget="total")
    report = found.coordination
    # Its text is noise, so neither side answers anything.
    assert found.verdict == "not shown"
    assert report.n == 20
    assert report.turns.value > report.baseline_turns.value == 1.0
    assert 0 <= report.redundancy.value <= 1
    assert report.unique.value + report.shared.value + report.contradictory.value == pytest.approx(1.0)
    assert found.tokens > found.baseline_tokens > 0
