"""What the two graphs do, step by step, with an engine that plays a script."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from docendo import (
    Item,
    ModelVerifier,
    Request,
    RunContext,
    SamplingParams,
    ScriptedEngine,
    Student,
    Teacher,
    Tutor,
    Verifier,
    graphs,
)
from docendo.errors import ConfigError
from docendo.evals import ExactScorer, item_efforts, make_item
from docendo.graphs._tutoring import PLAIN_HINT

ITEM = make_item("What is 20 + 22?", 42)
TEACHER_SAMPLES = 3


def build(script: Any, **options: Any) -> tuple[Any, ScriptedEngine]:
    """The tutoring graph of three roles that share one scripted engine."""
    engine = ScriptedEngine(script)
    settings = {
        "student": Student(engine),
        "tutor": Tutor(engine, sampling=SamplingParams(n=2)),
        "teacher": Teacher(engine, sampling=SamplingParams(n=TEACHER_SAMPLES)),
        "verifier": Verifier(ExactScorer()),
        **options,
    }
    return graphs.tutoring(**settings), engine


def invoke(graph: Any, item: Item = ITEM, **config: Any) -> tuple[dict[str, Any], RunContext]:
    context = RunContext.in_memory([item])
    return graph.invoke({"item": item.id}, config or None, context=context), context


def roles(engine: ScriptedEngine) -> list[str]:
    return [request.origin.role for request in engine.requests]


def kinds(context: RunContext) -> dict[str, int]:
    return dict(Counter(post.kind for post in context.board.posts()))


def test_a_right_answer_ends_at_once() -> None:
    graph, engine = build(["Answer: 42"])
    state, context = invoke(graph)
    assert state["solved"] is True
    assert state["answer"] == "Answer: 42"
    assert roles(engine) == ["student"]
    assert kinds(context) == {"task": 1, "attempt": 1, "verdict": 1}
    assert {post.kind: post.trust for post in context.board.posts()}["attempt"] == "verified"


def test_a_hint_leads_to_a_second_attempt_that_sees_both() -> None:
    graph, engine = build(["Answer: 41", ["Check the units.", "unused"], "Answer: 42"])
    state, context = invoke(graph)
    assert state["solved"] is True
    assert roles(engine) == ["student", "tutor", "student"]
    assert [m["content"] for m in engine.requests[2].prompt[-2:]] == ["Answer: 41", "> Check the units."]
    assert len(state["attempts"]) == 2
    first, second = (context.traces.get(trace) for trace in state["attempts"])
    assert (first.rewards["verified"], second.rewards["verified"]) == (0.0, 1.0)
    hint = context.board.posts(kind="hint")[0]
    assert second.parents == (first.id, hint.body["trace"])
    assert kinds(context) == {"task": 1, "attempt": 2, "verdict": 2, "hint": 1}
    effort = item_efforts(context.traces.find(), {ITEM.id: state["solved"]})[0]
    assert (effort.turns, effort.messages) == (3, 2), "the attempt goes to the tutor, the hint to the student"


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_student_retries_as_often_as_allowed_and_the_teacher_comes_last(retries: int) -> None:
    def script(request: Request) -> Any:
        return {"student": "no idea", "tutor": ["Look again.", "b"], "teacher": ["1", "Answer: 42", "3"]}[
            request.origin.role
        ]

    graph, engine = build(script, retries=retries)
    state, context = invoke(graph)
    assert roles(engine) == ["student", *(["tutor", "student"] * retries), "teacher"]
    assert state["solved"] is True
    assert state["answer"] == "Answer: 42"
    assert state["samples"] == TEACHER_SAMPLES
    assert len(state["demonstrations"]) == 1
    assert kinds(context)["demonstration"] == 1
    shown = context.board.posts(kind="demonstration")[0]
    assert shown.parents == (context.board.posts(kind="attempt")[-1].id,)
    assert (shown.author.role, shown.trust) == ("teacher", "verified")


def test_a_hint_that_states_the_answer_is_refused_and_counted() -> None:
    graph, engine = build(["Answer: 41", ["It is 42.", "Add the tens first."], "Answer: 42"])
    state, context = invoke(graph)
    assert state["hints_refused"] == 1
    assert engine.requests[2].prompt[-1]["content"] == "> Add the tens first."
    assert [post.body["text"] for post in context.board.posts(kind="hint")] == ["Add the tens first."]
    leaked = context.traces.find(role="tutor", min_reward={"leaks": 1.0})
    assert [trace.completion for trace in leaked] == ["It is 42."]


@pytest.mark.parametrize("hints", [["42", "= 42"], ["  ", ""]])
def test_where_no_hint_is_left_the_student_gets_the_plain_one(hints: list[str]) -> None:
    graph, engine = build(["Answer: 41", hints, "Answer: 42"])
    state, context = invoke(graph)
    assert state["hints"] == [""]
    assert engine.requests[2].prompt[-1]["content"] == f"> {PLAIN_HINT}"
    assert "42" not in PLAIN_HINT
    assert "hint" not in kinds(context)


def test_without_tutor_and_teacher_there_is_one_attempt() -> None:
    graph, engine = build(["Answer: 1"], tutor=None, teacher=None)
    state, _ = invoke(graph)
    assert state["solved"] is False
    assert roles(engine) == ["student"]


def test_without_a_tutor_the_teacher_follows_the_first_failure() -> None:
    graph, engine = build(["1", ["1", "2", "3"]], tutor=None)
    state, _ = invoke(graph)
    assert roles(engine) == ["student", "teacher"]
    assert state["solved"] is False
    assert state["demonstrations"] == []


def test_demonstrate_keeps_the_first_different_verified_samples() -> None:
    engine = ScriptedEngine([["Answer: 41", "Answer: 42", " Answer: 42 ", "so 42", "20 + 22 = 42"]])
    teacher = Teacher(engine, sampling=SamplingParams(n=5, temperature=1.0))
    graph = graphs.demonstrate(teacher=teacher, verifier=Verifier(ExactScorer()), keep=2)
    state, context = invoke(graph)
    kept = [context.traces.get(trace).completion for trace in state["demonstrations"]]
    assert kept == ["Answer: 42", "so 42"]
    assert (state["answer"], state["samples"], state["solved"]) == ("Answer: 42", 5, True)
    rewards = [trace.rewards["verified"] for trace in context.traces.find(role="teacher")]
    assert sorted(rewards) == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert [post.body["text"] for post in context.board.posts(kind="demonstration")] == kept
    assert context.board.verify().ok


def test_demonstrate_keeps_nothing_that_is_wrong() -> None:
    engine = ScriptedEngine([["Answer: 41", "43"]])
    graph = graphs.demonstrate(
        teacher=Teacher(engine, sampling=SamplingParams(n=2)), verifier=Verifier(ExactScorer())
    )
    state, context = invoke(graph)
    assert (state["demonstrations"], state["solved"]) == ([], False)
    assert kinds(context) == {"task": 1}


def test_the_state_is_narrow_json() -> None:
    long = "blah " * 2000

    def script(request: Request) -> Any:
        return [long] * request.sampling.n

    graph, _ = build(script, retries=3, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    state, _ = invoke(graph, **thread)
    # Of the long texts only the last answer is in the state; the rest is found by its id.
    assert len(json.dumps({k: v for k, v in state.items() if k != "answer"})) < 2000
    assert json.dumps(state).count(long) == 1
    for snapshot in graph.get_state_history(thread):
        assert json.loads(json.dumps(snapshot.values)) == snapshot.values


async def test_it_works_the_same_awaited_and_inside_a_running_loop() -> None:
    script = ["Answer: 41", ["Again.", "b"], "Answer: 42"]
    states = []
    for _ in range(2):
        graph, _ = build(list(script))
        states.append(invoke(graph)[0])  # blocking, although this test's event loop runs
    graph, _ = build(list(script))
    context = RunContext.in_memory([ITEM])
    states.append(await graph.ainvoke({"item": ITEM.id}, context=context))
    assert states[0] == states[1] == states[2]


def test_a_checkpointer_goes_on_where_the_graph_was_interrupted() -> None:
    graph, engine = build(
        ["Answer: 41", ["Again.", "b"], "Answer: 42"],
        checkpointer=InMemorySaver(),
        interrupt_before=["hint"],
    )
    thread = {"configurable": {"thread_id": "1"}}
    context = RunContext.in_memory([ITEM])
    stopped = graph.invoke({"item": ITEM.id}, thread, context=context)
    assert stopped["solved"] is False
    assert roles(engine) == ["student"]
    state = graph.invoke(None, thread, context=context)
    assert state["solved"] is True
    assert roles(engine) == ["student", "tutor", "student"]


def test_a_node_that_runs_twice_generates_and_posts_once() -> None:
    graph, engine = build(["Answer: 42"])
    context = RunContext.in_memory([ITEM])
    first = graph.invoke({"item": ITEM.id}, context=context)
    digest = context.board.digest()
    again = graph.invoke({"item": ITEM.id}, context=context)  # the script would have no second answer
    assert first == again
    assert context.board.digest() == digest
    assert len(engine.requests) == 1


def test_invoked_without_a_context_it_says_what_to_do() -> None:
    graph, _ = build(["Answer: 42"])
    with pytest.raises(ConfigError, match=r"docendo\.run\(graph, items\)"):
        graph.invoke({"item": ITEM.id})


def test_a_judge_without_gold_cannot_guard_hints() -> None:
    judge = ModelVerifier(ScriptedEngine([]))
    with pytest.raises(ConfigError, match="tutor=None"):
        build([], verifier=judge)
    with pytest.raises(ConfigError, match="retries is -1"):
        build([], retries=-1)


def test_a_model_can_judge_where_no_hint_is_given() -> None:
    engine = ScriptedEngine(["41"], scores=lambda request: -0.1 if request.completion == "yes" else -3.0)
    graph = graphs.tutoring(
        student=Student(engine), tutor=None, teacher=None, verifier=ModelVerifier(engine, name="judge")
    )
    state, context = invoke(graph)
    assert state["solved"] is True
    verdict = context.board.posts(kind="verdict")[0]
    assert verdict.author.agent == "judge"
    assert 0.9 < verdict.body["value"] < 1


def test_the_description_tells_configurations_apart() -> None:
    described = graphs.description(build([])[0])
    assert described["graph"] == "tutoring"
    assert described == graphs.description(build([])[0])
    assert described != graphs.description(build([], retries=2)[0])
    engine = ScriptedEngine([])
    changed = Student(engine, system="Think first.")
    assert described["student"] != graphs.description(build([], student=changed)[0])["student"]
    json.dumps(described)
