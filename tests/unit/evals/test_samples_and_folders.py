"""Several samples, bare engines, kept folders and costs of an evaluation."""

import asyncio
import json
import math
import shutil

import numpy as np
import pytest
from langgraph.graph import START, StateGraph

from docendo import RunContext, evals
from docendo.agents import Engine, ScriptedEngine, Student
from docendo.errors import ConfigError, DataError, IntegrityError
from docendo.evals import EvalRecord, EvalResult, ExactScorer, Sample, evaluate, make_item
from docendo.graphs import node
from docendo.memory import DATABASE, TraceStore
from docendo.records import Capabilities, SamplingParams, Usage
from docendo.scoring import Score

SCORER = ExactScorer()
ITEMS = [make_item(f"What is {i} + 1?", i + 1, task="sums", split="test") for i in range(6)]
WARM = SamplingParams(temperature=1.0, seed=1, max_tokens=4)


def asked(request):
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def number(request):
    return int(asked(request).split()[2])


def run(subject, items=ITEMS, **options):
    return evaluate(subject, items, scorer=SCORER, quiet=True, **options)


def test_every_sample_is_kept_and_scored():
    engine = ScriptedEngine(lambda request: [str(number(request) + k) for k in range(3)])
    result = run(Student(engine), sampling=WARM, samples=3)
    assert result.accuracy == 0.0  # the first sample's
    assert [[s.correct for s in record.samples] for record in result.records] == [[False, True, False]] * 6
    assert result.records[2].samples[1] == Sample(
        text="3", parsed="3", correct=True, value=1.0, confidence=result.records[2].more[0].confidence
    )
    assert result.sampling["n"] == 3


def test_a_function_returns_as_many_texts_as_samples():
    assert run(lambda item: ["1", "2"], samples=2).records[1].samples[1].correct is True
    with pytest.raises(DataError, match="returned 1 texts; expected 2"):
        run(lambda item: "1", samples=2)


def test_samples_that_would_all_be_the_same_are_refused():
    with pytest.raises(ConfigError, match="samples is 2, but the temperature is 0"):
        run(Student(ScriptedEngine([])), samples=2)
    with pytest.raises(ConfigError, match="samples is 0; expected 1 or more"):
        run(lambda item: "1", samples=0)


@pytest.mark.parametrize("features", [{"messages"}, set()], ids=["chat", "text"])
def test_a_bare_engine_is_given_the_question_alone(features):
    seen = []

    def script(request):
        seen.append(request.prompt)
        return str(number(request) + 1)

    engine = ScriptedEngine(script, capabilities=Capabilities(features=frozenset(features)))
    result = run(engine)
    assert result.accuracy == 1.0
    question = ITEMS[0].public.question
    assert seen[0] == (({"role": "user", "content": question},) if features else question)


def test_a_task_brings_its_test_items_and_its_scorer():
    task = evals.tasks("reasoning_gym:chain_sum", test=5, train=2)
    result = evaluate(lambda item: "0", task, quiet=True)
    assert (len(result.records), result.scorer, result.task) == (5, "exact", "chain_sum")
    assert {record.stratum for record in result.records} == {"chain_sum"}
    with pytest.raises(ConfigError, match="items were given without a scorer"):
        evaluate(lambda item: "0", ITEMS, quiet=True)


def test_a_folder_keeps_answers_turns_and_the_result(tmp_path, tiny_model_dir):
    with Engine.load(tiny_model_dir) as engine:
        student = Student(engine, sampling=WARM)
        result = run(student, folder=tmp_path, name="tiny", samples=2)
        assert EvalResult.load(tmp_path) == result
        with TraceStore.open(tmp_path / DATABASE) as store:
            for record in result.records:
                assert [store.get(trace).completion for trace in record.traces] == [
                    sample.text for sample in record.samples
                ]
        calls = engine.ledger()[0]["calls"]
        again = run(student, folder=tmp_path, name="tiny", samples=2)
        assert engine.ledger()[0]["calls"] == calls == len(ITEMS)
        assert again.records == result.records
    assert all(0 < record.confidence < 1 for record in result.records)
    assert result.flops > 0
    assert result.flops == pytest.approx(engine.ledger()[0]["flops"])


def test_what_an_evaluation_cost_is_what_the_ledger_says(tiny_model_dir):
    with Engine.load(tiny_model_dir) as engine:
        result = run(engine, sampling=WARM)
        (row,) = engine.ledger()
    assert result.usage == Usage(**{name: row[name] for name in Usage().to_json()})
    assert result.cost.seconds == pytest.approx(row["seconds"], abs=0.001)
    assert result.cost.tokens_per_correct is None or result.correct


def graph(broken):
    async def answer(state, context: RunContext):
        if state["item"] in broken:
            raise OSError("the disk is gone")
        item = context.public(state["item"])
        turn = await context.ask(student, item.id, student.messages(item), node="answer")
        return {"answer": turn.text}

    student = Student(ScriptedEngine(lambda request: str(number(request) + 1)))
    made = StateGraph(dict, context_schema=RunContext).add_node("answer", node(answer, "answer"))
    return made.add_edge(START, "answer").compile(), student.engine


def test_a_graph_s_turns_are_kept_and_what_failed_is_tried_again(tmp_path):
    broken = {ITEMS[4].id}
    subject, engine = graph(broken)
    first = run(subject, folder=tmp_path, name="graph", concurrency=1)
    assert (first.correct, first.failed) == (5, 1)
    assert first.records[4].failure == "infrastructure: OSError: the disk is gone"
    broken.clear()
    second = run(subject, folder=tmp_path, name="graph", concurrency=1)
    assert (second.correct, second.failed) == (6, 0)
    assert sum(row["calls"] for row in engine.ledger()) == 6  # nothing that had finished was asked again
    assert second.records[0] == first.records[0]
    with TraceStore.open(tmp_path / DATABASE) as store:
        assert store.get(second.records[0].traces[0]).completion == "1"
    third = run(subject, folder=tmp_path, name="graph", concurrency=1)
    assert third.records == second.records


def test_journal_and_folder_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="journal and folder were both given"):
        run(lambda item: "1", folder=tmp_path, journal=object(), name="both")


def test_costs_are_stored_apart_from_what_was_answered(tmp_path):
    def one(seconds):
        usage = Usage(prompt_tokens=3, cached_tokens=int(seconds), generated_tokens=1)
        return EvalRecord(
            item="a", question="?", text="1", correct=True, usage=usage, seconds=seconds, flops=seconds,
            more=(Sample(text="2", correct=False),), choices=(-1.0, -2.0), traces=("t",),
        )  # fmt: skip

    results = [
        EvalResult(name="n", task="t", scorer="exact", records=(one(seconds),)) for seconds in (1.0, 2.0)
    ]
    for name, result in zip("ab", results, strict=True):
        assert EvalResult.load(result.save(tmp_path / name)) == result
    assert (tmp_path / "a" / "items.jsonl").read_bytes() == (tmp_path / "b" / "items.jsonl").read_bytes()
    shutil.copy(tmp_path / "a" / "costs.jsonl", tmp_path / "b" / "costs.jsonl")
    assert EvalResult.load(tmp_path / "b").records == results[0].records
    (tmp_path / "b" / "costs.jsonl").write_text("")
    with pytest.raises(IntegrityError, match=r"costs\.jsonl does not match items\.jsonl"):
        EvalResult.load(tmp_path / "b")


def test_a_cost_cannot_change_what_was_answered(tmp_path):
    result = run(lambda item: "1", folder=tmp_path, name="n")
    path = tmp_path / "costs.jsonl"
    rows = [{**json.loads(line), "correct": True, "text": "2"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert EvalResult.load(tmp_path) == result


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("summary.json", {"baselines": []}),
        ("summary.json", {"majority": "a"}),
        ("summary.json", {"name": 3}),
        ("summary.json", {"seconds": None}),
        ("costs.jsonl", {"seconds": "a"}),
        ("costs.jsonl", {"flops": -1}),
        ("costs.jsonl", {"usage": None}),
        ("costs.jsonl", None),
        ("items.jsonl", None),
    ],
)
def test_a_damaged_file_of_a_result_is_one_line(tmp_path, file, change):
    run(lambda item: "1", ITEMS[:1], folder=tmp_path, name="n")
    path = tmp_path / file
    damaged = json.dumps({**json.loads(path.read_text()), **change}) if change else "[" * 100_000
    path.write_text(damaged)
    with pytest.raises(DataError, match="does not hold an evaluation"):
        EvalResult.load(tmp_path)


def test_results_of_the_first_format_can_still_be_read(tmp_path):
    from docendo.hashing import digest

    row = {"item": "a", "question": "?", "text": "1", "parsed": "1", "correct": True, "failure": None,
           "value": 1.0, "score_failure": None, "seconds": 0.5,
           "usage": {"prompt_tokens": 3, "cached_tokens": 0, "generated_tokens": 1}}  # fmt: skip
    facts = {"name": "old", "task": "t", "scorer": "exact", "majority": None, "chance": None, "model": "",
             "adapter": None, "sampling": {}, "seconds": 0.5, "format": 1,
             "records": digest([row])}  # fmt: skip
    (tmp_path / "items.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "summary.json").write_text(json.dumps(facts))
    result = EvalResult.load(tmp_path)
    assert (result.accuracy, result.usage.prompt_tokens) == (1.0, 3)


def test_cost_of_a_right_answer_and_strata():
    records = tuple(
        EvalRecord(
            item=str(n), question="?", correct=n < 2, stratum="even" if n % 2 == 0 else "odd",
            usage=Usage(prompt_tokens=9, generated_tokens=1), seconds=0.5, flops=100.0,
        )
        for n in range(4)
    )  # fmt: skip
    result = EvalResult(name="n", task="t", scorer="exact", records=records, majority=0.5)
    cost = result.cost
    assert (cost.tokens_per_correct, cost.seconds_per_correct, cost.flops_per_correct) == (20.0, 1.0, 200.0)
    assert {name: part.accuracy for name, part in result.strata.items()} == {"even": 0.5, "odd": 0.5}
    none = result.replace(records=tuple(record.replace(correct=False, flops=0.0) for record in records))
    assert (none.cost.tokens_per_correct, none.cost.flops) == (None, None)


CHOICES = [
    make_item("Which is red?", "B", choices=["grass", "blood"], task="colours"),
    make_item("Which is green?", "A", choices=["grass and moss", "blood"], task="colours"),
]


def likes(request):
    """Two for every letter, so that shorter choices are likelier; "blood" is liked a little more."""
    return -2.0 * len(request.completion.strip()) + (0.5 if "blood" in request.completion else 0.0)


def test_the_likeliest_choice_is_the_answer():
    seen = []

    def scores(request):
        seen.append((request.prompt, request.completion))
        return likes(request)

    engine = ScriptedEngine([], scores=scores)
    result = run(engine, CHOICES, method="likelihood")
    assert [record.parsed for record in result.records] == ["B", "B"]
    assert (result.accuracy, result.chance) == (0.5, 0.5)
    first = result.records[0]
    assert first.choices == (-10.0, -9.5)
    assert first.confidence == pytest.approx(1 / (1 + 2.718281828**-0.5))
    assert seen[0] == (({"role": "user", "content": "Which is red?"},), "grass")
    assert result.records[1].question.endswith("\nA. grass and moss\nB. blood")


def test_per_byte_a_long_choice_is_not_held_against_it():
    def scores(request):
        return -1.0 if "blood" in request.completion else -1.5

    engine = ScriptedEngine([], scores=scores)
    assert run(engine, CHOICES[1:], method="likelihood").records[0].parsed == "B"
    assert run(engine, CHOICES[1:], method="likelihood-per-byte").records[0].parsed == "A"


def test_the_likelihoods_are_the_model_s_own_and_are_kept(tmp_path, tiny_model_dir):
    from docendo.records import ScoreRequest

    with Engine.load(tiny_model_dir) as engine:
        student = Student(engine)
        result = run(student, CHOICES, method="likelihood", folder=tmp_path, name="choices")
        prompt = student.messages(CHOICES[0].public.replace(question="Which is red?"))
        expected = engine.score(ScoreRequest(prompt=prompt, completion="grass")).total
        calls = sum(row["calls"] for row in engine.ledger())
        assert result.records[0].choices[0] == pytest.approx(expected, rel=1e-4)
        assert run(student, CHOICES, method="likelihood", folder=tmp_path).records == result.records
        assert sum(row["calls"] for row in engine.ledger()) == calls
    assert EvalResult.load(tmp_path).records == result.records


def test_choices_can_only_be_scored_where_there_are_choices_and_a_model():
    with pytest.raises(ConfigError, match="6 items have no choices"):
        run(ScriptedEngine([]), method="likelihood")
    with pytest.raises(ConfigError, match="neither an agent nor an engine"):
        run(lambda item: "A", CHOICES, method="likelihood")
    with pytest.raises(ConfigError, match="method is 'guess'; expected one of generate, likelihood"):
        run(lambda item: "A", CHOICES, method="guess")
    with pytest.raises(ConfigError, match="choices are scored, not drawn"):
        run(ScriptedEngine([]), CHOICES, method="likelihood", samples=3)


def drawn():
    """Three samples an item: right, wrong, right; surer where right. One item failed."""
    right, wrong = ("7", True, 0.9), ("8", False, 0.2)
    records = []
    for n in range(4):
        first, *more = (
            Sample(text=text, parsed=text, correct=correct, confidence=confidence)
            for text, correct, confidence in (right, wrong, right)
        )
        records.append(
            EvalRecord(
                item=str(n), question="?", text=first.text, parsed=first.parsed, correct=True,
                confidence=first.confidence, more=tuple(more),
            )
        )  # fmt: skip
    records.append(EvalRecord(item="5", question="?", failure="infrastructure: none"))
    return EvalResult(name="n", task="t", scorer="exact", records=tuple(records))


def test_measures_of_samples_leave_failed_items_out():
    result = drawn()
    assert result.pass_at(1).value == pytest.approx(2 / 3)
    assert result.pass_at(2).value == 1.0
    assert result.majority_at(3).value == 1.0
    assert result.best_of(2).value == 1.0
    assert result.calibration().brier.value == pytest.approx((0.01 * 2 + 0.04) / 3)
    assert result.coverage_risk().points[0].risk == 0.0
    assert result.diversity(vocabulary=10).per_input is not None
    with pytest.raises(DataError, match="no item was answered"):
        result.replace(records=result.records[4:]).pass_at(1)
    without = result.replace(records=(result.records[0].replace(confidence=None),))
    with pytest.raises(DataError, match="an answer has no confidence"):
        without.calibration()


def test_another_graph_in_the_same_folder_answers_for_itself(tmp_path):
    def says(text):
        made = StateGraph(dict).add_node("answer", lambda state: {"answer": text})
        return made.add_edge(START, "answer").compile()

    for name in ("one", "two"):
        result = run(says(name), folder=tmp_path, name=name)
        assert {record.text for record in result.records} == {name}


@pytest.mark.parametrize(("given", "correct"), [(np.bool_(True), True), (1, True), (np.bool_(False), False)])
def test_a_scorer_may_answer_with_another_library_s_truth(tmp_path, given, correct):
    class Own(ExactScorer):
        def score(self, item, text):
            return Score(correct=given, value=np.float64(1.0))

    result = evaluate(lambda item: "1", ITEMS, scorer=Own(), quiet=True, folder=tmp_path, name="own")
    assert (result.n, result.correct) == (6, 6 if correct else 0)
    assert EvalResult.load(tmp_path) == result


@pytest.mark.parametrize("said", [True, Score(correct=True, value=math.nan)], ids=["a bool", "nan"])
def test_a_scorer_that_returns_no_score_is_the_task_s_failure(said):
    class Own(ExactScorer):
        def score(self, item, text):
            return said

    result = evaluate(lambda item: "1", ITEMS, scorer=Own(), quiet=True)
    assert result.failed == 6
    assert result.records[0].failure.startswith("task: ")


def test_what_is_drawn_without_a_seed_belongs_to_one_evaluation(tmp_path):
    answers = iter(range(100))
    student = Student(ScriptedEngine(lambda request: str(next(answers))))
    unseeded = SamplingParams(temperature=1.0)
    same = [make_item("What?", 1, task=str(n)) for n in range(2)]
    first = run(student, same, sampling=unseeded, folder=tmp_path, name="one")
    second = run(student, same, sampling=unseeded, folder=tmp_path, name="two")
    again = run(student, same, sampling=unseeded, folder=tmp_path, name="one")
    assert [record.text for record in first.records + second.records] == ["0", "1", "2", "3"]
    assert again.records == first.records


@pytest.mark.parametrize("how", ["raised", "its own task"])
def test_a_call_that_was_cancelled_by_somebody_is_a_failure_of_the_machine(how):
    async def answer(item):
        if item.id == ITEMS[2].id:
            if how == "raised":
                raise asyncio.CancelledError
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        return "1"

    result = run(answer)
    assert (result.failed, result.records[2].failure) == (
        1,
        "infrastructure: InfrastructureError: the call was cancelled",
    )
