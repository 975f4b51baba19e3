"""What fails alone in an evaluation, and what ends it."""

import math
from concurrent.futures import Future

import numpy as np
import pytest
from langgraph.graph import START, StateGraph

from docendo import RunContext
from docendo.agents import Engine, ScriptedEngine, Student
from docendo.errors import AdapterError, ConfigError, DataError
from docendo.evals import EvalResult, ExactScorer, Task, evaluate, make_item, mix
from docendo.graphs import node
from docendo.records import Completion, Item, PublicItem, Request, Result, SamplingParams
from docendo.scoring import Score

SCORER = ExactScorer()
ITEMS = [make_item(f"What is {i} + 1?", i + 1, task="sums") for i in range(4)]
LONG = make_item("x" * 5000, 1, task="sums")
SHORT = SamplingParams(max_tokens=2)
CHOICES = [make_item(f"Which {i}?", "B", choices=["x", "y"]) for i in range(2)]


def run(subject, items=ITEMS, **options):
    return evaluate(subject, items, scorer=SCORER, quiet=True, **options)


def failures(result):
    return [record.failure for record in result.records]


def graph_of(student):
    async def answer(state, context: RunContext):
        item = context.public(state["item"])
        turn = await context.ask(student, item.id, student.messages(item), node="answer")
        return {"answer": turn.text}

    made = StateGraph(dict, context_schema=RunContext).add_node("answer", node(answer, "answer"))
    return made.add_edge(START, "answer").compile()


@pytest.mark.parametrize("kind", ["agent", "function", "async function", "graph"])
def test_an_item_that_is_too_long_fails_alone(tmp_path, tiny_model_dir, kind):
    with Engine.load(tiny_model_dir) as engine:
        student = Student(engine, sampling=SHORT)

        def answer(item):
            return engine.generate(Request(prompt=item.question, sampling=SHORT)).text

        async def later(item):
            return (await engine.agenerate(Request(prompt=item.question, sampling=SHORT))).text

        subjects = {"agent": student, "function": answer, "async function": later, "graph": graph_of(student)}
        for _ in range(2):  # the second time all but the long one come from the folder
            result = run(subjects[kind], [*ITEMS[:2], LONG, *ITEMS[2:]], folder=tmp_path, name="long")
            assert [failure is None for failure in failures(result)] == [True, True, False, True, True]
            assert result.records[2].failure.startswith("task: ConfigError: the prompt has ")
        assert EvalResult.load(tmp_path) == result


def test_a_choice_that_cannot_be_scored_fails_its_item_alone(tiny_model_dir):
    empty = make_item("Which is it?", "B", choices=["", "y"])
    long = make_item("Which is it then?", "A", choices=["y", "a" * 5000])
    with Engine.load(tiny_model_dir) as engine:
        for subject in (engine, Student(engine)):
            result = run(subject, [CHOICES[0], long, empty, CHOICES[1]], method="likelihood")
            first, too_long, nothing, last = failures(result)
            assert (first, last) == (None, None)
            assert too_long.startswith("task: ConfigError: prompt and completion have ")
            assert nothing.startswith("task: ConfigError: the completion to score is empty")


def test_choices_of_a_refused_item_are_not_scored_on():
    futures = []

    class Refusing(ScriptedEngine):
        def submit_score(self, request):
            if "Which 0?" not in str(request.prompt):
                return super().submit_score(request)
            if futures:
                raise ConfigError("prompt and completion have 5026 tokens")
            futures.append(Future())
            return futures[0]

    result = run(Refusing([]), CHOICES, method="likelihood")
    assert futures[0].cancelled()
    assert [failure is None for failure in failures(result)] == [False, True]


def test_if_every_item_is_refused_no_item_is_at_fault(tmp_path, tiny_model_dir):
    with Engine.load(tiny_model_dir) as engine:
        with pytest.raises(ConfigError, match="max_tokens is 9999; expected at most 2048 together"):
            run(engine, sampling=SamplingParams(max_tokens=9999), folder=tmp_path)
        with pytest.raises(AdapterError):
            run(Student(engine, adapter="none"))


def test_an_item_that_the_scorer_refuses_fails_alone():
    class Picky(ExactScorer):
        def score(self, item, text):
            if item.id in refused:
                raise DataError(f"the gold answer of item {item.id} cannot be read")
            return super().score(item, text)

    def scored():
        return evaluate(lambda item: "1", ITEMS, scorer=Picky(), quiet=True)

    refused = {ITEMS[2].id}
    result = scored()
    assert (result.n, result.correct, result.failed) == (3, 1, 1)
    assert result.records[2].failure.startswith("task: DataError: the gold answer of item")
    assert result.records[2].text == "1"
    refused = {item.id for item in ITEMS}
    with pytest.raises(DataError, match=f"of item {ITEMS[0].id} cannot be read"):
        scored()


@pytest.mark.parametrize("total", [-math.inf, math.nan, math.inf])
@pytest.mark.parametrize("method", ["likelihood", "likelihood-per-byte"])
def test_likelihoods_that_are_no_numbers_are_the_model_s_failure(tmp_path, total, method):
    engine = ScriptedEngine([], scores=lambda request: total if "Which 0?" in str(request.prompt) else -1.0)
    result = run(engine, CHOICES, method=method, folder=tmp_path)
    assert result.records[0].failure.startswith(
        "model: ModelFailure: the log-probabilities of the choices are"
    )
    assert (result.n, result.failed) == (1, 1)
    assert EvalResult.load(tmp_path) == result


@pytest.mark.parametrize("logprob", [-math.inf, math.nan])
def test_so_are_those_of_an_answer(tmp_path, logprob):
    def script(request):
        logprobs = (-1.0, logprob) if "What is 0" in str(request.prompt) else (-1.0, -1.0)
        return Result(completions=(Completion(text="1 2", token_ids=(1, 2), logprobs=logprobs),))

    result = run(ScriptedEngine(script), folder=tmp_path)
    assert failures(result) == [
        "model: ModelFailure: a log-probability is NaN or infinite; expected finite numbers",
        *[None] * 3,
    ]
    assert EvalResult.load(tmp_path) == result


@pytest.mark.parametrize("came", [0, 2, 4])
def test_fewer_or_more_answers_than_asked_for_are_no_answer(tmp_path, came):
    def script(request):
        return Result(completions=(Completion(text="1", token_ids=(1,)),) * kept)

    engine, kept = ScriptedEngine(script), came
    options = {"sampling": SamplingParams(temperature=1.0, seed=0), "samples": 3, "folder": tmp_path}
    assert failures(run(engine, **options)) == [
        f"infrastructure: InfrastructureError: the engine returned {came} answers of 3; evaluate again."
    ] * len(ITEMS)
    kept = 3
    again = run(engine, **options)
    assert [len(record.samples) for record in again.records] == [3] * len(ITEMS)


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"items": None}, DataError, "items is None; expected a task, or items"),
        ({"items": 3}, DataError, "items is 3; expected a task, or items"),
        ({"items": ["What?"]}, DataError, "an item is 'What\\?'"),
        ({"scorer": ExactScorer}, ConfigError, "scorer is <class .*>; expected a Scorer"),
        ({"concurrency": "a"}, ConfigError, "concurrency is 'a'; expected 1 or more"),
        ({"concurrency": 1.5}, ConfigError, "concurrency is 1.5; expected 1 or more"),
        ({"concurrency": True}, ConfigError, "concurrency is True; expected 1 or more"),
        ({"concurrency": 0}, ConfigError, "concurrency is 0; expected 1 or more"),
        ({"samples": "2"}, ConfigError, "samples is '2'; expected 1 or more"),
        ({"folder": 3}, ConfigError, "folder is 3; expected a path"),
        ({"folder": ""}, ConfigError, "folder is ''; expected a path"),
        ({"journal": 3}, ConfigError, "journal is 3; expected a docendo.memory.Journal"),
        ({"name": 3}, ConfigError, "name is 3; expected Unicode text"),
        ({"name": "a\ud800"}, ConfigError, r"name is 'a\\ud800'; expected Unicode text"),
        ({"sampling": {"n": 1}}, ConfigError, r"sampling is \{'n': 1\}; expected SamplingParams"),
        ({"subject": Student}, ConfigError, "the subject is the class Student; expected an object of it"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_an_argument_that_cannot_be_used_is_one_line(options, error, line):
    given = {"subject": lambda item: "1", "items": ITEMS, "scorer": SCORER, "quiet": True, **options}
    with pytest.raises(error, match=line) as raised:
        evaluate(given.pop("subject"), given.pop("items"), **given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("id_", ["a\ud800", "a\x00b", "", 3])
def test_an_id_that_cannot_be_stored_is_refused(id_):
    item = Item(public=PublicItem(id=id_, question="What?"), gold=ITEMS[0].gold)
    with pytest.raises(DataError, match="the id of an item is"):
        run(lambda item: "1", [item])


@pytest.mark.parametrize("kind", ["agent", "function", "graph", "likelihood", "likelihood-per-byte"])
def test_text_that_utf_8_has_no_form_for_is_asked_answered_and_kept(tmp_path, kind):
    odd = "a\ud800\x00b"
    gold = make_item("Which?", "B", choices=["x", "y"]).gold
    item = Item(public=PublicItem(id="odd", question=f"{odd}?", choices=(odd, "y"), task=odd), gold=gold)
    student = Student(ScriptedEngine(lambda request: f"Answer: {odd}"))
    if kind.startswith("likelihood"):
        result = run(student, [item], folder=tmp_path, method=kind)
        assert result.records[0].failure is None
    else:
        subject = {"agent": student, "function": lambda item: odd, "graph": graph_of(student)}[kind]
        result = run(subject, [item], folder=tmp_path, name="odd")
        assert odd in result.records[0].text
    assert EvalResult.load(tmp_path) == result


def test_the_task_of_a_mixture_is_the_mixture_and_strata_have_their_own_baselines(tmp_path):
    items = [make_item(f"Is {n} even?", "no" if n % 3 else "yes", task="even") for n in range(6)]
    many = [make_item(f"Which of {n}?", "A", choices=list("abcd"), task="which") for n in range(2)]
    task = mix(
        {"x": Task(name="even", test=tuple(items)), "y": Task(name="which", test=tuple(many))}, name="both"
    )
    result = evaluate(lambda item: "no", task, name="guess", folder=tmp_path, quiet=True)
    assert result.task == "both"
    assert {name: (part.majority, part.chance) for name, part in result.strata.items()} == {
        "x": (4 / 6, None),
        "y": (1.0, 0.25),
    }
    assert EvalResult.load(tmp_path).strata == result.strata
    assert run(lambda item: "no", [*many, *items]).task == "even+which"


@pytest.mark.parametrize("verdict", [None, math.nan, 0.5, "no"])
def test_a_verdict_that_is_neither_true_nor_false_is_the_scorer_s_failure(verdict):
    class Odd(ExactScorer):
        def score(self, item, text):
            return Score(correct=verdict, value=0.0)

    result = evaluate(lambda item: "1", ITEMS, scorer=Odd(), quiet=True)
    assert (result.n, result.failed) == (0, len(ITEMS))
    assert all(reason.startswith("task: TaskFailure: the scorer") for reason in failures(result))


@pytest.mark.parametrize("verdict", [np.True_, 1])
def test_a_verdict_that_equals_true_is_right(verdict):
    class Odd(ExactScorer):
        def score(self, item, text):
            return Score(correct=verdict, value=1.0)

    result = evaluate(lambda item: "1", ITEMS, scorer=Odd(), quiet=True)
    assert all(record.correct is True for record in result.records)
