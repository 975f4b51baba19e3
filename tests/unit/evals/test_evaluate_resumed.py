"""Evaluations in one folder: stopped at any moment, changed, and gone on with."""

import asyncio

import pytest
from langgraph.graph import START, StateGraph

from docendo import RunContext
from docendo.agents import ScriptedEngine, Student
from docendo.evals import EvalResult, ExactScorer, evaluate, make_item
from docendo.graphs import node
from docendo.memory import DATABASE, Journal, TraceStore
from docendo.records import SamplingParams

SCORER = ExactScorer()
ITEMS = [make_item(f"What is {i} + 1?", i + 1, task="sums") for i in range(8)]
UNSEEDED = SamplingParams(temperature=1.0)


def run(subject, items=ITEMS, **options):
    return evaluate(subject, items, scorer=SCORER, quiet=True, **options)


def counting():
    """A student that never says the same again."""
    said = iter(range(10_000))
    return Student(ScriptedEngine(lambda request: [str(next(said)) for _ in range(request.sampling.n)]))


def require_own_turns(folder, result):
    """Each record's turns are those of its texts."""
    with TraceStore.open(folder / DATABASE) as store:
        for record in result.records:
            texts = [store.get(turn).completion for turn in record.traces]
            assert texts == [sample.text for sample in record.samples]


class Killed(BaseException):
    """Ends a process as a signal does: nothing catches it."""


@pytest.mark.parametrize("moment", [(Journal, "put"), (TraceStore, "add")], ids=lambda m: m[1])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_what_is_drawn_without_a_seed_survives_a_kill_at_any_write(tmp_path, monkeypatch, moment, late):
    owner, name = moment
    write = getattr(owner, name)

    def killed(self, *args):
        nonlocal writes
        writes += 1
        if writes == 3:
            if late:
                write(self, *args)
            raise Killed
        return write(self, *args)

    writes = 0
    options = {"sampling": UNSEEDED, "samples": 2, "folder": tmp_path, "name": "killed"}
    student = counting()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            run(student, **options)
    result = run(student, **options)
    assert result.failed == 0
    assert result.records[0].text == "0"  # what was kept before the kill stays
    require_own_turns(tmp_path, result)
    assert run(student, **options).records == result.records


def test_another_agent_and_other_samples_in_one_folder_have_turns_of_their_own(tmp_path):
    for name in "AB":
        student = Student(ScriptedEngine(lambda request, name=name: f"Answer: {name}", name=name))
        result = run(student, folder=tmp_path)
        assert {record.text for record in result.records} == {f"Answer: {name}"}
        require_own_turns(tmp_path, result)
    student = counting()
    for samples in (1, 3, 2):
        result = run(student, sampling=UNSEEDED.replace(seed=1), samples=samples, folder=tmp_path)
        require_own_turns(tmp_path, result)
        assert EvalResult.load(tmp_path) == result


def test_two_processes_that_draw_at_once_agree_on_the_first(tmp_path):
    """The second asks before the first has stored its answer, and stores its own after it."""
    options = {"sampling": UNSEEDED, "folder": tmp_path, "name": "twice"}
    first = []

    def script(request):
        if not first:
            first.append(None)
            first.append(run(Student(ScriptedEngine(lambda request: "first")), ITEMS[:1], **options))
        return "second"

    second = run(Student(ScriptedEngine(script)), ITEMS[:1], **options)
    assert second.records == first[1].records
    require_own_turns(tmp_path, second)


def graph_of(answers, *, most=None):
    """A graph of two turns, and the items that its function began."""
    begun = []

    async def answer(state, context: RunContext):
        begun.append(state["item"])
        if most is not None and len(begun) > most:
            raise Killed
        item = context.public(state["item"])
        await context.ask(student, item.id, student.messages(item), node="draft")
        turn = await context.ask(student, item.id, student.messages(item), node="answer")
        await asyncio.sleep(0)
        return {"answer": turn.text}

    student = Student(ScriptedEngine(answers, name=answers(None)))
    made = StateGraph(dict, context_schema=RunContext).add_node("answer", node(answer, "answer"))
    return made.add_edge(START, "answer").compile(), begun


def test_a_graph_s_finished_items_are_reused_whatever_the_concurrency_and_however_many_items(tmp_path):
    stopped, begun = graph_of(lambda request: "1", most=5)
    with pytest.raises(Killed):
        run(stopped, folder=tmp_path, name="graph", concurrency=1)
    assert len(begun) == 6
    rest, begun = graph_of(lambda request: "1")
    more = [*ITEMS, make_item("What is new?", 1)]
    result = run(rest, more, folder=tmp_path, name="graph", concurrency=3)
    assert set(begun) == {item.id for item in more[5:]}
    assert result.failed == 0
    again, begun = graph_of(lambda request: "1")
    assert run(again, more[::-1], folder=tmp_path, name="graph").records == result.records[::-1]
    assert begun == []
    undisturbed = run(again, more, folder=tmp_path / "whole", name="graph")
    assert [record.traces for record in undisturbed.records] == [record.traces for record in result.records]


def test_a_graph_that_was_changed_after_it_was_stopped_goes_on_with_turns_of_its_own(tmp_path, monkeypatch):
    put, puts = Journal.put, []

    def killed(self, key, value):
        if "samples" in value:  # the reply; its turns are stored
            puts.append(key)
            raise Killed
        return put(self, key, value)

    for answers in (lambda request: "1", lambda request: "2"):
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "put", killed)
            with pytest.raises(Killed):
                run(graph_of(answers)[0], ITEMS[:2], folder=tmp_path, name="graph", concurrency=1)
    result = run(graph_of(lambda request: "3")[0], ITEMS[:2], folder=tmp_path, name="graph", concurrency=1)
    assert {record.text for record in result.records} == {"3"}
    with TraceStore.open(tmp_path / DATABASE) as store:
        for record in result.records:
            assert [store.get(turn).completion for turn in record.traces] == ["3", "3"]
    assert len(puts) == 2


def test_a_graph_with_a_checkpointer_answers_each_time_anew():
    from langgraph.checkpoint.memory import InMemorySaver

    async def answer(state, context: RunContext):
        return {"answer": str(len(state))}

    made = StateGraph(dict, context_schema=RunContext).add_node("answer", node(answer, "answer"))
    subject = made.add_edge(START, "answer").compile(checkpointer=InMemorySaver())
    first, second = (run(subject, name=name) for name in ("one", "two"))
    assert [record.text for record in first.records] == [record.text for record in second.records]


def test_a_graph_that_stops_for_a_human_says_so():
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import interrupt

    from docendo.errors import ConfigError

    async def answer(state):
        return {"answer": interrupt("May I?")}

    subject = StateGraph(dict).add_node("answer", answer).add_edge(START, "answer")
    with pytest.raises(ConfigError, match="stopped at an interrupt"):
        run(subject.compile(checkpointer=InMemorySaver()), name="human")
