"""Runs in a database of choice, runs with a parent, and states that stay small: the Python side."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

import docendo
from docendo import RunContext, SamplingParams, ScriptedEngine, Student, Teacher, Tutor, Verifier
from docendo.errors import DataError
from docendo.evals import ExactScorer, make_item
from docendo.graphs import LargeState, Run, demonstrate, describe_run, list_runs, node, tutoring
from docendo.graphs._state import STATE_BYTES, check_state
from docendo.memory import Database, Journal, RunStore

ITEMS = [make_item(f"What is {n} + {n}?", 2 * n) for n in range(4)]
LONG = "Answer: 1 " + "because " * 2000


def build(script: Any = None, **options: Any) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(script or (lambda request: ["Answer: 1"] * request.sampling.n))
    graph = tutoring(
        student=Student(engine),
        tutor=Tutor(engine, sampling=SamplingParams(n=1), system=""),
        teacher=Teacher(engine, sampling=SamplingParams(n=2)),
        verifier=Verifier(ExactScorer()),
        **options,
    )
    return graph, engine


def start(graph: Any, folder: Path, name: str, **options: Any) -> Run:
    return docendo.run(graph, ITEMS, **{"name": name, "folder": folder, "quiet": True, **options})


def test_a_database_is_named_by_path_or_url(tmp_path: Path, database_url: str) -> None:
    for name in ("one", "two"):
        with start(build()[0], tmp_path, name, database=database_url) as run:
            assert len(run.outcomes) == 4
    assert [info.run for info in list_runs(database_url)] == ["one", "two"]
    assert describe_run("two", database_url)["done"] == 4
    assert sorted(f.name for f in (tmp_path / "one").iterdir()) == [
        "config.json",
        "items.jsonl",
        "summary.json",
    ]
    with Run.open(tmp_path / "one", database=database_url) as run:
        assert run.summary()["done"] == 4
    with pytest.raises(DataError, match="there is no run 'three'"):
        Run.open(tmp_path / "three", database=database_url)
    with pytest.raises(DataError, match="holds no run"):
        Run.open(tmp_path / "one")


def test_a_shared_file_beside_the_run_folders_is_listed_too(tmp_path: Path) -> None:
    start(build()[0], tmp_path, "own").close()
    start(build()[0], tmp_path, "shared", database=tmp_path / "shared.db").close()
    assert {info.run for info in list_runs(tmp_path)} == {"own", "shared"}
    assert [info.run for info in list_runs(tmp_path / "shared.db")] == ["shared"]
    assert [info.run for info in list_runs(tmp_path / "own")] == ["own"]


def test_an_open_database_stays_open_when_the_run_is_closed(tmp_path: Path) -> None:
    with Database.open(tmp_path / "shared.db") as database:
        start(build()[0], tmp_path, "one", database=database).close()
        assert RunStore(database).get("one").status == "finished"


def test_a_child_uses_its_parents_calls_and_leaves_it_alone(tmp_path: Path) -> None:
    first, engine = build()
    start(first, tmp_path, "parent").close()
    asked = len(engine.requests)
    before = (tmp_path / "parent" / "docendo.db").read_bytes()

    same, engine = build()
    with start(same, tmp_path, "child", parent=tmp_path / "parent") as run:
        assert engine.requests == []
        assert len(run.outcomes) == 4
        row = RunStore(run.board.database).get("child")
    assert row.origin["parent"] == {"run": "parent", "database": str(tmp_path / "parent" / "docendo.db")}
    longer, engine = build(retries=2)
    start(longer, tmp_path, "grandchild", parent=tmp_path / "child").close()
    assert 0 < len(engine.requests) < asked
    other, engine = build()
    start(other, tmp_path, "seeded", parent=tmp_path / "parent", seed=1).close()
    assert len(engine.requests) == asked  # another seed is another call
    assert (tmp_path / "parent" / "docendo.db").read_bytes() == before
    # The child needs its parent no longer.
    again, engine = build()
    (tmp_path / "parent" / "docendo.db").rename(tmp_path / "gone")
    start(again, tmp_path, "second", parent=tmp_path / "child").close()
    assert engine.requests == []


def test_a_parent_in_the_same_database_is_named(tmp_path: Path, database_url: str) -> None:
    with Database.open(database_url) as database:
        start(build()[0], tmp_path, "one", database=database)
        made = Journal(database).verify().records
        start(build()[0], tmp_path, "two", database=database, parent="one")
        assert Journal(database).verify().records == made
        assert RunStore(database).get("two").origin["parent"]["run"] == "one"
        with pytest.raises(DataError, match="there is no run 'none'"):
            start(build()[0], tmp_path, "three", database=database, parent="none")


class OwnState(TypedDict, total=False):
    item: str
    text: str


def hoarder(size: int) -> Any:
    async def keep(state: OwnState, context: RunContext) -> dict[str, Any]:
        return {"text": "x" * size}

    builder = StateGraph(OwnState, context_schema=RunContext)
    builder.add_node("keep", node(keep, "keep"))
    builder.add_edge(START, "keep").add_edge("keep", END)
    return builder.compile(name="hoarder")


def test_a_large_state_is_told(tmp_path: Path) -> None:
    with pytest.warns(
        LargeState, match=r"in run 'big' has \d+ bytes, 70002 of them in 'text'; .* keep their ids"
    ):
        start(hoarder(70_000), tmp_path, "big").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(hoarder(60_000), tmp_path, "small").close()
        check_state({"text": "x" * (STATE_BYTES - 10)}, run="r", item="i")


@pytest.mark.parametrize("name", ["tutoring", "demonstrate"])
def test_states_of_built_in_graphs_hold_ids_and_one_answer(tmp_path: Path, name: str) -> None:
    engine = ScriptedEngine(lambda request: [LONG] * request.sampling.n)
    if name == "tutoring":
        graph = build(lambda request: [LONG] * request.sampling.n, retries=5)[0]
    else:
        teacher = Teacher(engine, sampling=SamplingParams(n=8))
        graph = demonstrate(teacher=teacher, verifier=Verifier(ExactScorer()), keep=8)
    with start(graph, tmp_path, name) as run:
        for outcome in run.outcomes.values():
            rest = {key: value for key, value in outcome.items() if key != "answer"}
            assert len(json.dumps(rest)) < 1500
            assert LONG[:30] not in json.dumps(rest)
