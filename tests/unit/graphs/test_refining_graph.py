"""Generator, critic and refiner: who sees what, how the tree branches, and what is decided."""

from __future__ import annotations

from typing import Any

import pytest

from docendo import Agent, Request, RunContext, SamplingParams, ScriptedEngine, Verifier, graphs
from docendo.distill import TraceTree
from docendo.errors import ConfigError
from docendo.evals import ExactScorer, make_item, read_answer

ITEM = make_item("What is 20 + 22?", 42)


def build(answers: Any, *, branches: tuple[int, int, int] = (1, 1, 1), **options: Any) -> tuple[Any, Any]:
    engine = ScriptedEngine(answers)
    prompts = {
        "generator": "{question}",
        "critic": "{question} Said: {answer}. Wrong?",
        "refiner": "{question} Said: {answer}. But: {critique}",
    }
    agents = {
        role: Agent(engine, role=role, prompt=prompt, sampling=SamplingParams(n=n, temperature=1.0))
        for (role, prompt), n in zip(prompts.items(), branches, strict=True)
    }
    settings: dict[str, Any] = {**agents, "grader": Verifier(ExactScorer()), "read": read_answer, **options}
    return graphs.generate_verify_refine(**settings), engine


def invoke(graph: Any) -> tuple[dict[str, Any], RunContext]:
    context = RunContext.in_memory([ITEM])
    return graph.invoke({"item": ITEM.id}, context=context), context


def test_each_sees_what_was_said_before() -> None:
    graph, engine = build(["Answer: 41", "the ones", "Answer: 42"])
    state, context = invoke(graph)
    assert [request.prompt[-1]["content"] for request in engine.requests] == [
        "What is 20 + 22?",
        "What is 20 + 22? Said: Answer: 41. Wrong?",
        "What is 20 + 22? Said: Answer: 41. But: the ones",
    ]
    assert (state["answer"], state["solved"], state["samples"]) == ("Answer: 42", True, 3)
    (leaf,) = state["refined"]
    assert context.traces.get(leaf).rewards == {"verified": 1.0}
    assert context.traces.get(leaf).parents == tuple(state["criticised"])
    assert context.traces.get(state["criticised"][0]).parents == tuple(state["generated"])
    assert context.board.count() == 0, "what a turn was worth is decided by the tree"


def test_a_tree_has_a_branch_for_every_sample() -> None:
    def say(request: Request) -> list[str]:
        text = str(request.prompt[-1]["content"])
        # A generator's answer of 42 is refined well, one of 41 only under the critique that is right.
        good = "But: add" in text or "Said: Answer: 42" in text
        if request.origin.role == "generator":
            return ["Answer: 41", "Answer: 42"]
        if request.origin.role == "critic":
            return ["add anew", "all is well"]
        return ["Answer: 42", "Answer: 42"] if good else ["Answer: 41", "Answer: 40"]

    graph, engine = build(say, branches=(2, 2, 2))
    state, context = invoke(graph)
    assert [len(state[name]) for name in ("generated", "criticised", "refined")] == [2, 4, 8]
    assert len(engine.requests) == 1 + 2 + 4
    assert (state["answer"], state["agreement"], state["samples"]) == ("Answer: 42", 0.75, 14)
    tree = TraceTree(context.traces.find()).backup("verified")
    values = {tree.traces[name].completion: value for name, value in tree.values.items()}
    assert [tree.values[name] for name in state["generated"]] == [0.5, 1.0]
    assert [tree.values[name] for name in state["criticised"]] == [1.0, 0.0, 1.0, 1.0]
    assert values["Answer: 40"] == 0.0


def test_most_of_the_refined_answers_decide() -> None:
    said = iter(["Answer: 7", "Answer: 42", "Answer: 7"])

    def say(request: Request) -> list[str] | str:
        if request.origin.role == "generator":
            return ["Answer: 1", "Answer: 2", "Answer: 3"]
        return "no" if request.origin.role == "critic" else next(said)

    graph, _ = build(say, branches=(3, 1, 1))
    state, context = invoke(graph)
    assert (state["answer"], state["solved"]) == ("Answer: 7", False)
    rewards = [context.traces.get(leaf).rewards["verified"] for leaf in state["refined"]]
    assert sorted(rewards) == [0.0, 0.0, 1.0]


def test_a_role_that_is_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="critic is None"):
        build([], critic=None)
