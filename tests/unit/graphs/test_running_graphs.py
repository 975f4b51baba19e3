"""Running a graph over many items: concurrency, failures of one item, interruption and resumption."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

import docendo
from docendo import Item, Request, Run, RunContext, SamplingParams, ScriptedEngine, Student, Teacher, Tutor
from docendo.agents import Verifier
from docendo.errors import ConfigError, DataError, EngineClosed, ModelFailure, ResumeError
from docendo.evals import ExactScorer, make_item
from docendo.graphs import node, tutoring
from docendo.memory import Database, RunStore

ITEMS = tuple(make_item(f"What is {n} + {n}?", 2 * n) for n in range(10, 30))


def number(request: Request) -> int:
    """The n of the question that a request is about."""
    item = next(item for item in ITEMS if item.id == request.origin.item)
    return int(item.public.question.split()[2])


def play(request: Request) -> Any:
    """The student is right on multiples of 3 at once, on other even numbers after a hint."""
    n, hinted = number(request), len(request.prompt) > 1
    if request.origin.role == "student":
        right = n % 3 == 0 or (hinted and n % 2 == 0)
        return f"Answer: {2 * n if right else 1}"
    return ["Look again."] if request.origin.role == "tutor" else [f"{n} + {n} = {2 * n}", "no"]


def build(script: Callable[[Request], Any] = play, **options: Any) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(script)
    graph = tutoring(
        student=Student(engine),
        tutor=Tutor(engine, sampling=SamplingParams(n=1), system=""),
        teacher=Teacher(engine, sampling=SamplingParams(n=2)),
        verifier=Verifier(ExactScorer()),
        **options,
    )
    return graph, engine


def start(graph: Any, folder: Path, **options: Any) -> Run:
    return docendo.run(graph, ITEMS, **{"name": "r", "folder": folder, "quiet": True, **options})


def contents(run: Run) -> tuple[str, dict[str, Any], list[Any]]:
    """What must not depend on interruptions: posts, outcomes and traces."""
    traces = sorted((t.id, t.completion, t.messages, sorted(t.rewards.items())) for t in run.traces())
    return run.board.digest(), run.outcomes, traces


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], list[Any]]:
    with start(build()[0], tmp_path_factory.mktemp("whole")) as run:
        return contents(run)


def test_a_run_leaves_a_folder_of_results(tmp_path: Path) -> None:
    graph, engine = build()
    with start(graph, tmp_path) as run:
        assert len(run.outcomes) == len(ITEMS)
        assert all(outcome["solved"] for outcome in run.outcomes.values())
        assert run.board.verify().ok
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["items"] == summary["done"] == summary["solved"] == len(ITEMS)
    assert summary["failed"] == 0
    assert sum(role["calls"] for role in summary["usage"].values()) == len(engine.requests)
    lines = [json.loads(line) for line in (tmp_path / "r" / "items.jsonl").read_text().splitlines()]
    assert {line["item"] for line in lines} == {item.id for item in ITEMS}
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["graph"] == "tutoring"
    assert config["retries"] == 1
    with Run.open(tmp_path / "r") as again:
        assert again.outcomes == run.outcomes
        assert again.traces(role="teacher")


def test_the_result_does_not_depend_on_concurrency(
    tmp_path: Path, whole: tuple[str, dict[str, Any], list[Any]]
) -> None:
    for concurrency in (1, 3, 1000):
        with start(build()[0], tmp_path / str(concurrency), concurrency=concurrency) as run:
            assert contents(run) == whole


class Counting(ScriptedEngine):
    """Notes how many calls are in flight at once."""

    flying = most = 0

    async def agenerate(self, request: Request) -> Any:
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0.002)
        self.flying -= 1
        return await super().agenerate(request)


@pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (7, 7), (500, len(ITEMS))])
def test_as_many_items_run_at_once_as_asked_for(tmp_path: Path, concurrency: int, most: int) -> None:
    engine = Counting(play)
    graph = tutoring(student=Student(engine), tutor=None, teacher=None, verifier=Verifier(ExactScorer()))
    with start(graph, tmp_path, concurrency=concurrency):
        assert engine.most == most


async def test_it_runs_inside_an_event_loop_and_awaited(
    tmp_path: Path, whole: tuple[str, dict[str, Any], list[Any]]
) -> None:
    with start(build()[0], tmp_path / "blocking") as run:
        assert contents(run) == whole
    run = await docendo.arun(build()[0], ITEMS, name="r", folder=tmp_path / "awaited", quiet=True)
    with run:
        assert contents(run) == whole


def test_an_item_whose_model_fails_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    bad = ITEMS[4].id

    def script(request: Request) -> Any:
        if request.origin.item == bad:
            raise ModelFailure("the logits are NaN")
        return play(request)

    with start(build(script)[0], tmp_path) as run:
        assert run.outcomes[bad] == {"status": "failed", "error": "model", "message": "the logits are NaN"}
        assert sum(o["status"] == "done" for o in run.outcomes.values()) == len(ITEMS) - 1
        assert run.summary()["failures"] == {"model": 1}


def test_an_item_whose_scorer_fails_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    class Crashing(ExactScorer):
        def score(self, item: Item, text: str) -> Any:
            if item.id == ITEMS[4].id:
                raise KeyError("words")
            return super().score(item, text)

    graph = tutoring(
        student=Student(ScriptedEngine(lambda request: "Answer: 1")),
        tutor=None,
        teacher=None,
        verifier=Verifier(Crashing()),
    )
    with start(graph, tmp_path) as run:
        assert run.outcomes[ITEMS[4].id]["error"] == "task"
        assert "KeyError: 'words'" in run.outcomes[ITEMS[4].id]["message"]
        assert run.summary()["failures"] == {"task": 1}


@pytest.mark.parametrize(
    "error", [EngineClosed("the engine is closed"), ConfigError("bad"), ZeroDivisionError("a bug")]
)
def test_a_failing_machine_ends_the_run_which_then_resumes(
    tmp_path: Path, whole: tuple[str, dict[str, Any], list[Any]], error: Exception
) -> None:
    calls = 0
    finished = []

    def script(request: Request) -> Any:
        nonlocal calls
        calls += 1
        if calls == 23:
            raise error
        finished.append(request)
        return play(request)

    with pytest.raises(type(error), match=str(error)):
        start(build(script)[0], tmp_path, concurrency=4)
    with RunStore.open(tmp_path / "r" / "docendo.db") as runs:
        assert runs.get("r").status == "failed"
        assert 0 < runs.get("r").items < len(ITEMS)
    assert not (tmp_path / "r" / "summary.json").exists()
    graph, engine = build()
    with start(graph, tmp_path, resume=True) as run:
        assert contents(run) == whole
        calls_of_one_run = sum(trace.sample == 0 for trace in run.traces())
        assert len(engine.requests) + len(finished) == calls_of_one_run  # each finished call was made once
        assert RunStore(run.board.database).get("r").status == "finished"


def test_ctrl_c_then_resume(tmp_path: Path, whole: tuple[str, dict[str, Any], list[Any]]) -> None:
    # A process that a shell has started in the background ignores Ctrl-C, and so would the test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    calls = 0

    def script(request: Request) -> Any:
        nonlocal calls
        calls += 1
        if calls == 17:
            os.kill(os.getpid(), signal.SIGINT)
        return play(request)

    try:
        with pytest.raises(KeyboardInterrupt):
            start(build(script)[0], tmp_path, concurrency=4)
    finally:
        signal.signal(signal.SIGINT, before)
    with RunStore.open(tmp_path / "r" / "docendo.db") as runs:
        assert runs.get("r").status == "interrupted"
    with pytest.raises(ResumeError, match="--resume"):
        start(build()[0], tmp_path)
    with start(build()[0], tmp_path, resume=True) as run:
        assert contents(run) == whole


async def test_ctrl_c_inside_an_event_loop_stops_the_run_too(tmp_path: Path) -> None:
    engine = ScriptedEngine(play)
    reached = threading.Event()

    async def hang(request: Request) -> Any:
        reached.set()
        await asyncio.sleep(60)

    engine.agenerate = hang  # type: ignore[method-assign]
    graph = tutoring(student=Student(engine), tutor=None, teacher=None, verifier=Verifier(ExactScorer()))

    def interrupt() -> None:
        reached.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as a notebook has it
    killer = threading.Thread(target=interrupt)
    killer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            start(graph, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
        killer.join()
    with RunStore.open(tmp_path / "r" / "docendo.db") as runs:
        assert runs.get("r").status == "interrupted"


def test_a_finished_run_resumes_to_itself_without_a_call(tmp_path: Path) -> None:
    with start(build()[0], tmp_path) as first:
        before = contents(first)
    graph, engine = build()
    with start(graph, tmp_path, resume=True) as run:
        assert contents(run) == before
    assert engine.requests == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"retries": 2}, r"retries was 1, is 2 now"),
        ({"keep": 1}, r"keep was 2, is 1 now"),
    ],
)
def test_resuming_with_another_graph_names_the_difference(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    start(build()[0], tmp_path).close()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "r").glob("*.json*"))
    with pytest.raises(ResumeError, match=named) as caught:
        start(build(**change)[0], tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    after = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "r").glob("*.json*"))
    assert before == after


def test_resuming_with_other_items_or_another_seed_is_refused(tmp_path: Path) -> None:
    graph, _ = build()
    start(graph, tmp_path).close()
    with pytest.raises(ResumeError, match=r"seed was 0, is 1 now"):
        start(graph, tmp_path, resume=True, seed=1)
    with pytest.raises(ResumeError, match=r"items\.count was 20, is 19 now"):
        docendo.run(graph, ITEMS[1:], name="r", folder=tmp_path, resume=True, quiet=True)


def test_bad_arguments_leave_nothing_behind(tmp_path: Path) -> None:
    graph, _ = build()
    with pytest.raises(DataError, match="no items"):
        docendo.run(graph, [], name="r", folder=tmp_path)
    with pytest.raises(DataError, match="occurs twice"):
        docendo.run(graph, [ITEMS[0], ITEMS[0]], name="r", folder=tmp_path)
    with pytest.raises(ConfigError, match="concurrency is 0"):
        start(graph, tmp_path, concurrency=0)
    for name in ("../up", "", ".hidden", "a/b"):
        if name:
            with pytest.raises(ConfigError, match="name is"):
                start(graph, tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_several_runs_share_a_database_that_stays_open(tmp_path: Path) -> None:
    with Database.open(tmp_path / "shared.db") as database:
        for name in ("one", "two"):
            start(build()[0], tmp_path, name=name, database=database)
        assert [row.run for row in RunStore(database).list()] == ["one", "two"]
        assert not (tmp_path / "one" / "docendo.db").exists()


class OwnState(TypedDict, total=False):
    item: str
    answer: str


def own_graph(engine: ScriptedEngine) -> Any:
    student = Student(engine)

    async def ask(state: OwnState, context: RunContext) -> dict[str, Any]:
        item = context.public(state["item"])
        turn = await context.ask(student, item.id, student.messages(item), node="ask")
        return {"answer": turn.text}

    builder = StateGraph(OwnState, context_schema=RunContext)
    builder.add_node("ask", node(ask, "ask"))
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile(name="own")


def test_a_graph_of_ones_own_runs_and_is_described_by_its_structure(tmp_path: Path) -> None:
    with start(own_graph(ScriptedEngine(play)), tmp_path) as run:
        assert {o["answer"] for o in run.outcomes.values()} >= {"Answer: 1"}
        assert run.name == "r"
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["edges"] == ["__start__->ask", "ask->__end__"]


def test_prompts_of_one_item_hold_no_other_item(tmp_path: Path) -> None:
    graph, engine = build()
    with start(graph, tmp_path):
        pass
    questions: dict[str, Item] = {item.public.question: item for item in ITEMS}
    for request in engine.requests:
        text = json.dumps(request.prompt)
        assert [q for q, item in questions.items() if q in text] == [
            q for q, item in questions.items() if item.id == request.origin.item
        ]
