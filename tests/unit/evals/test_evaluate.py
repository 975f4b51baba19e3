import asyncio
import json
import math

import pytest

from docendo.agents import ScriptedEngine, Student
from docendo.errors import (
    ConfigError,
    DataError,
    EngineClosed,
    IntegrityError,
    LeakError,
    ModelFailure,
    StorageError,
)
from docendo.evals import EvalRecord, EvalResult, ExactScorer, evaluate, make_item
from docendo.memory import Journal
from docendo.records import SamplingParams

SCORER = ExactScorer()
ITEMS = [make_item(f"What is {i} + 1?", i + 1, task="sums", split="test") for i in range(8)]


def right(item):
    return f"Answer: {int(item.question.split()[2]) + 1}"


def run(subject, items=ITEMS, **options):
    return evaluate(subject, items, scorer=SCORER, quiet=True, **options)


def test_a_plain_function():
    result = run(lambda item: right(item) if int(item.question.split()[2]) < 6 else "0", name="six")
    assert (result.accuracy, result.n, result.correct, result.failed) == (0.75, 8, 6, 0)
    assert [record.item for record in result.records] == [item.id for item in ITEMS]
    assert result.records[0].parsed == "1"
    assert result.majority == 1 / 8
    assert result.task == "sums"
    assert str(result).startswith("six: 75.0 % (6/8, 95 % interval 40.9 % to 92.9 %)")


def test_an_async_function_runs_concurrently_and_within_the_limit():
    active, most = 0, 0

    async def answer(item):
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.01)
        active -= 1
        return right(item)

    assert run(answer, concurrency=3).accuracy == 1.0
    assert most == 3


async def test_inside_a_running_event_loop():
    async def answer(item):
        return right(item)

    assert run(answer).accuracy == 1.0


def test_an_object_with_an_async_call():
    class Subject:
        async def __call__(self, item):
            return right(item)

    assert run(Subject()).accuracy == 1.0


def test_a_failure_is_no_wrong_answer():
    def answer(item):
        if item.id == ITEMS[0].id:
            raise ModelFailure("NaN in the logits")
        if item.id == ITEMS[1].id:
            raise OSError("cable\npulled")
        return right(item)

    result = run(answer)
    assert (result.n, result.correct, result.failed, result.accuracy) == (6, 6, 2, 1.0)
    assert result.records[0].failure == "model: ModelFailure: NaN in the logits"
    assert result.records[1].failure == "infrastructure: OSError: cable pulled"
    assert result.records[0].correct is None
    assert str(result).endswith("2 failed")


def test_an_answer_that_cannot_be_scored_is_no_wrong_answer():
    class Crashing(ExactScorer):
        def score(self, item, text):
            if item.id == ITEMS[0].id:
                raise KeyError("words")
            if item.id == ITEMS[1].id:
                raise TimeoutError
            return super().score(item, text)

    result = evaluate(right, ITEMS, scorer=Crashing(), name="crashing", quiet=True)
    assert (result.n, result.correct, result.failed) == (6, 6, 2)
    assert result.records[0].failure.startswith("task: TaskFailure: the scorer 'exact' failed on an answer")
    assert result.records[0].text == right(ITEMS[0].public)
    assert result.records[1].failure == "infrastructure: TimeoutError"


def test_if_everything_fails_there_is_no_accuracy():
    def broken(item):
        raise EngineClosed("closed")

    result = run(broken)
    assert math.isnan(result.accuracy)
    assert result.interval == (0.0, 1.0)
    assert result.summary()["accuracy"] is None


@pytest.mark.parametrize("style", ["plain", "async"])
def test_a_wrong_configuration_ends_the_evaluation(style):
    def plain(item):
        raise LeakError("gold seen")

    async def deferred(item):
        return plain(item)

    with pytest.raises(LeakError):
        run(plain if style == "plain" else deferred)


def test_a_subject_sees_the_public_part_alone():
    seen = []
    run(lambda item: seen.append(item) or "0")
    assert {type(item).__name__ for item in seen} == {"PublicItem"}


def test_an_agent_is_asked_through_its_engine_all_at_once():
    engine = ScriptedEngine(lambda request: right_of(request))
    student = Student(engine, sampling=SamplingParams(n=4, max_tokens=9))
    result = run(student, name="before")
    assert result.accuracy == 1.0
    assert len(engine.requests) == 8
    assert {request.sampling.n for request in engine.requests} == {1}
    assert {request.sampling.max_tokens for request in engine.requests} == {9}
    assert {request.origin.item for request in engine.requests} == {item.id for item in ITEMS}
    assert {(request.origin.run, request.origin.role) for request in engine.requests} == {
        ("before", "student")
    }
    assert result.model == engine.fingerprint
    assert result.usage.generated_tokens > 0
    assert run(student, sampling=SamplingParams(max_tokens=3)).sampling["max_tokens"] == 3


def right_of(request):
    text = next(m["content"] for m in request.prompt if "What is" in m["content"])
    return f"Answer: {int(text.split('What is ')[1].split()[0]) + 1}"


def test_an_engine_that_fails_on_one_request_fails_one_item():
    def script(request):
        if request.origin.item == ITEMS[2].id:
            raise ModelFailure("empty")
        return right_of(request)

    result = run(Student(ScriptedEngine(script)))
    assert [record.failure is not None for record in result.records].index(True) == 2
    assert (result.n, result.accuracy) == (7, 1.0)


def test_a_journal_asks_nothing_twice_and_tries_failures_again(tmp_path):
    broken = True

    def script(request):
        if broken and request.origin.item == ITEMS[2].id:
            raise ModelFailure("empty")
        return right_of(request)

    engine = ScriptedEngine(script)
    with_journal = Journal.open(tmp_path / "journal.sqlite")
    first = run(Student(engine), journal=with_journal)
    assert first.failed == 1
    broken = False
    second = run(Student(engine), journal=with_journal)
    assert len(engine.requests) == 9
    assert (second.failed, second.accuracy) == (0, 1.0)
    run(Student(engine), journal=with_journal, sampling=SamplingParams(max_tokens=5))
    assert len(engine.requests) == 17
    with_journal.close()


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path):
    calls = []

    def answer(item):
        calls.append(item.id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return right(item)

    journal = Journal.open(tmp_path / "journal.sqlite")
    with pytest.raises(KeyboardInterrupt):
        run(answer, name="one", journal=journal)
    assert run(answer, name="one", journal=journal).accuracy == 1.0
    assert len(calls) == 9
    with pytest.raises(ConfigError, match="no name to find them by"):
        run(answer, journal=journal)
    journal.close()


def test_a_graph_is_run_and_its_final_answer_scored():
    from docendo import graphs
    from docendo.agents import Verifier

    wrong = ITEMS[3].id

    def script(request):
        return "0" if request.origin.item == wrong else right_of(request)

    graph = graphs.tutoring(
        student=Student(ScriptedEngine(script)), verifier=Verifier(SCORER), tutor=None, teacher=None
    )
    result = run(graph, name="graph")
    assert (result.n, result.correct) == (8, 7)
    assert result.usage.generated_tokens > 0


def test_an_item_of_a_graph_fails_alone():
    from docendo import graphs
    from docendo.agents import Verifier

    def script(request):
        if request.origin.item == ITEMS[0].id:
            raise EngineClosed("closed")
        if request.origin.item == ITEMS[1].id:
            raise ModelFailure("NaN in the logits")
        return right_of(request)

    graph = graphs.tutoring(
        student=Student(ScriptedEngine(script)), verifier=Verifier(SCORER), tutor=None, teacher=None
    )
    result = run(graph, name="graph")
    assert (result.n, result.correct) == (6, 6)
    assert [record.failure for record in result.records[:2]] == [
        "infrastructure: EngineClosed: closed",
        "model: ModelFailure: NaN in the logits",
    ]


@pytest.mark.parametrize("items", [[], [ITEMS[0], ITEMS[0]]])
def test_items_must_be_there_and_different(items):
    with pytest.raises(DataError, match=r"no item|occurs 2 times"):
        run(right, items=items)


def test_what_cannot_be_evaluated():
    with pytest.raises(ConfigError, match="the subject is a str"):
        run("model")
    with pytest.raises(ConfigError, match="sampling was given"):
        run(right, sampling=SamplingParams())
    with pytest.raises(ConfigError, match="concurrency is 0"):
        run(right, concurrency=0)
    with pytest.raises(DataError, match="returned a int"):
        run(lambda item: 5)


def test_chance_of_choices():
    items = [make_item("Which?", "a", choices=["a", "b"]), make_item("What?", "a", choices=list("abcd"))]
    assert run(lambda item: "A", items=items).chance == pytest.approx((1 / 2 + 1 / 4) / 2)


def result():
    return run(lambda item: right(item) + " \ud800 <é>\u2028", name="odd texts")


def test_save_and_load_are_inverse_and_keep_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    stored = result()
    stored.save(tmp_path)
    assert EvalResult.load(tmp_path) == stored
    assert (tmp_path / "notes.txt").read_text() == "mine"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["accuracy"] == 1.0
    assert summary["n"] == 8


def test_damage_is_noticed(tmp_path):
    result().save(tmp_path)
    items = tmp_path / "items.jsonl"
    items.write_text(items.read_text().replace('"correct": true', '"correct": false', 1))
    with pytest.raises(IntegrityError, match=r"items\.jsonl does not match"):
        EvalResult.load(tmp_path)
    items.write_text("{")
    with pytest.raises(DataError, match="does not hold an evaluation"):
        EvalResult.load(tmp_path)


def test_a_folder_without_a_result_says_where_one_is(tmp_path):
    with pytest.raises(DataError, match=r"holds no summary\.json"):
        EvalResult.load(tmp_path)
    result().save(tmp_path / "before")
    with pytest.raises(DataError, match=r"did you mean .*before"):
        EvalResult.load(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        result().save(tmp_path / "file")


def test_records_refuse_positional_arguments():
    with pytest.raises(TypeError):
        EvalRecord("1", "2")
