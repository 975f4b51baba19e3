"""The run context: one way to call a model, with nothing generated or stored twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from docendo.agents import Engine, RunContext, ScriptedEngine, Student, Teacher
from docendo.errors import ConfigError, DataError
from docendo.memory import Database
from docendo.records import Gold, Item, PublicItem, SamplingParams, Usage

ITEMS = [
    Item(public=PublicItem(id=f"i{i}", question=f"{i} + {i}?", split="train"), gold=Gold(2 * i))
    for i in range(3)
]


def numbered() -> ScriptedEngine:
    count = iter(range(1000))
    return ScriptedEngine(lambda request: [f"answer {next(count)}" for _ in range(request.sampling.n)])


async def test_a_turn_is_generated_and_stored_once() -> None:
    engine = numbered()
    teacher = Teacher(engine, sampling=SamplingParams(n=3, temperature=1.0))
    context = RunContext.in_memory(ITEMS)
    messages = teacher.messages(ITEMS[0].public)
    first = await context.ask(teacher, "i0", messages, node="teach")
    again = await context.ask(teacher, "i0", messages, node="teach")
    assert first == again
    assert first.texts == ("answer 0", "answer 1", "answer 2")
    assert len(engine.requests) == 1
    traces = context.traces.find()
    assert [t.id for t in traces] == list(first.traces)
    assert [t.completion for t in traces] == list(first.texts)
    assert [t.sample for t in traces] == [0, 1, 2]
    assert {(t.run, t.item, t.node, t.step, t.split) for t in traces} == {("run", "i0", "teach", 0, "train")}
    # The cost of a request is counted once over its samples.
    assert traces[0].usage.generated_tokens == 6
    assert {t.usage for t in traces[1:]} == {Usage()}
    assert {t.author.role for t in traces} == {"teacher"}


async def test_another_item_node_step_or_seed_is_another_call() -> None:
    engine = numbered()
    student = Student(engine)
    same = [{"role": "user", "content": "the same for all"}]
    context = RunContext.in_memory(ITEMS, seed=1)
    turns = [
        await context.ask(student, "i0", same, node="a"),  # type: ignore[arg-type]
        await context.ask(student, "i1", same, node="a"),  # type: ignore[arg-type]
        await context.ask(student, "i0", same, node="b"),  # type: ignore[arg-type]
        await context.ask(student, "i0", same, node="a", step=1),  # type: ignore[arg-type]
    ]
    assert len({turn.text for turn in turns}) == len({turn.trace for turn in turns}) == 4
    seeds = {request.sampling.seed for request in engine.requests}
    assert len(seeds) == 4
    other = RunContext.in_memory(ITEMS, seed=2)
    await other.ask(student, "i0", same, node="a")  # type: ignore[arg-type]
    assert engine.requests[-1].sampling.seed not in seeds


async def test_a_new_process_finds_the_journal(tmp_path: Path) -> None:
    engine, nothing = numbered(), ScriptedEngine([])
    for number, (one, adapter) in enumerate(((engine, None), (nothing, None))):
        database = Database.open(tmp_path / "run.db")
        context = RunContext(ITEMS, database, run="r", graph="g", seed=3)
        student = Student(one, adapter=adapter)
        turns = await asyncio.gather(
            *(context.ask(student, i.id, student.messages(i.public), node="n") for i in ITEMS)
        )
        assert [turn.text for turn in turns] == ["answer 0", "answer 1", "answer 2"], number
        assert len(context.traces.find(run="r")) == 3
        database.close()
    assert nothing.requests == []


async def test_another_adapter_is_another_call() -> None:
    engine = numbered()
    engine.load_adapter("a", "one")
    student = Student(engine, adapter="a")
    context = RunContext.in_memory(ITEMS)
    first = await context.ask(student, "i0", student.messages(ITEMS[0].public), node="n")
    engine.load_adapter("a", "two")
    # Another run in the same database: only the adapter tells the two calls apart.
    other = RunContext(ITEMS, context.database, run="other")
    second = await other.ask(student, "i0", student.messages(ITEMS[0].public), node="n")
    assert first.text != second.text


async def test_a_second_turn_under_the_same_step_is_refused() -> None:
    student = Student(numbered())
    context = RunContext.in_memory(ITEMS)
    messages = student.messages(ITEMS[0].public)
    first = await context.ask(student, "i0", messages, node="n")
    with pytest.raises(DataError, match="step="):
        await context.ask(student, "i0", [*messages, {"role": "user", "content": "again"}], node="n")
    assert context.traces.get(first.trace).completion == first.text


async def test_a_failing_call_stores_nothing() -> None:
    student = Student(ScriptedEngine([]))
    context = RunContext.in_memory(ITEMS)
    with pytest.raises(ConfigError, match="no more answers"):
        await context.ask(student, "i0", student.messages(ITEMS[0].public), node="n")
    assert context.traces.find() == []


async def test_scores_are_journaled() -> None:
    calls = []
    engine = ScriptedEngine([], scores=lambda request: calls.append(request) or -1.5)  # type: ignore[func-returns-value]
    student = Student(engine)
    context = RunContext.in_memory(ITEMS)
    messages = student.messages(ITEMS[0].public)
    first = await context.score(student, messages, "yes")
    assert await context.score(student, messages, "yes") == first
    assert len(calls) == 1
    await context.score(student, messages, "no")
    assert len(calls) == 2


async def test_on_a_model_a_replay_equals_the_first_run(engine: Engine) -> None:
    student = Student(engine, sampling=SamplingParams(max_tokens=6, temperature=1.0, n=2))
    contexts = [RunContext.in_memory(ITEMS, seed=7) for _ in range(2)]
    turns = [
        await context.ask(student, "i1", student.messages(ITEMS[1].public), node="n", parents=("p",))
        for context in contexts
    ]
    assert turns[0] == turns[1]
    left, right = (context.traces.get(turns[0].trace) for context in contexts)
    assert left.token_ids == right.token_ids
    assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)
    assert left.parents == ("p",)
    assert left.author.model == engine.fingerprint
    before = engine.ledger()[0]["calls"]
    await contexts[0].ask(student, "i1", student.messages(ITEMS[1].public), node="n", parents=("p",))
    assert engine.ledger()[0]["calls"] == before


def test_posts_happen_once() -> None:
    context = RunContext.in_memory(ITEMS)
    author = Student(numbered()).author
    first = context.post("attempt", {"text": "4"}, author=author, item="i0", node="n")
    again = context.post("attempt", {"text": "5"}, author=author, item="i0", node="n")
    assert again.id == first.id
    assert again.body == {"text": "4"}
    assert len(context.board.posts()) == 1
    context.post("attempt", {"text": "4"}, author=author, item="i0", node="n", step=1)
    assert len(context.board.posts(item="i0")) == 2


def test_unknown_items_are_refused() -> None:
    with pytest.raises(ConfigError, match="'nowhere' is not part of this run"):
        RunContext.in_memory(ITEMS).public("nowhere")
