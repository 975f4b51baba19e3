"""An exam and its lessons: who sees what, which mistakes are taught, and what the traces say."""

from __future__ import annotations

from typing import Any

import pytest

from docendo import Agent, RunContext, SamplingParams, ScriptedEngine, Verifier, graphs
from docendo.errors import ConfigError
from docendo.evals import ExactScorer, make_item

ITEM = make_item("What is 20 + 22?", 42)


def invoke(answers: list[Any], *, attempts: int, **options: Any) -> tuple[dict[str, Any], RunContext, Any]:
    engine = ScriptedEngine(answers)
    sampling = SamplingParams(n=attempts, temperature=1.0)
    graph = graphs.tailored_lessons(
        student=Agent(engine, role="student", sampling=sampling),
        teacher=Agent(engine, role="teacher", prompt="{question} Not: {attempt}"),
        verifier=Verifier(ExactScorer()),
        **options,
    )
    context = RunContext.in_memory([ITEM])
    return graph.invoke({"item": ITEM.id}, context=context), context, engine


def test_the_teacher_sees_each_different_mistake_and_its_lessons_name_it() -> None:
    tried = ["Answer: 41", "Answer: 42", "Answer: 41", "Answer: 24"]
    state, context, engine = invoke([tried, "Answer: 42", "Answer: 43"], attempts=4, mistakes=2)
    asked = [request.prompt[-1]["content"] for request in engine.requests]
    assert sorted(asked[1:]) == [f"What is 20 + 22? Not: Answer: {said}" for said in (24, 41)]
    assert state["mistakes"] == [state["attempts"][0], state["attempts"][3]]
    lessons = [context.traces.get(lesson) for lesson in state["lessons"]]
    assert [lesson.parents for lesson in lessons] == [(mistake,) for mistake in state["mistakes"]]
    assert sorted(lesson.rewards["verified"] for lesson in lessons) == [0.0, 1.0]
    attempts = [context.traces.get(attempt).rewards["verified"] for attempt in state["attempts"]]
    assert attempts == [0.0, 1.0, 0.0, 0.0]
    assert (state["solved"], state["answer"], state["samples"]) == (True, "Answer: 42", 6)


def test_no_more_mistakes_are_taught_than_asked_for_and_none_where_all_is_right() -> None:
    state, _, _ = invoke([["Answer: 1", "Answer: 2"], "Answer: 42"], attempts=2)
    assert (state["mistakes"], state["solved"]) == ([state["attempts"][0]], False)
    state, _, engine = invoke([["Answer: 42"]], attempts=1)
    assert (state["lessons"], state["samples"], len(engine.requests)) == ([], 1, 1)


def test_lessons_may_have_a_verifier_of_their_own() -> None:
    class Polite(ExactScorer):
        name = "polite"

        def score(self, item: Any, text: str) -> Any:
            found = super().score(item, "Answer: 42" if "please" in text else "")
            return found.replace(parsed=None)

    state, context, _ = invoke(["Answer: 1", "please add"], attempts=1, lessons=Verifier(Polite()))
    assert context.traces.get(state["lessons"][0]).rewards == {"verified": 1.0}


def test_what_is_no_agent_or_no_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="mistakes is 0"):
        invoke([], attempts=1, mistakes=0)
    with pytest.raises(ConfigError, match="lessons is 'judge'"):
        invoke([], attempts=1, lessons="judge")
