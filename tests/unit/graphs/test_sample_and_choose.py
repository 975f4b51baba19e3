"""Several answers to one question, of which votes and scores take one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from docendo import Agent, Engine, Item, RunContext, SamplingParams, ScriptedEngine, Verifier, graphs, run
from docendo.agents import FlopsModel
from docendo.errors import ConfigError
from docendo.evals import ExactScorer, Meter, make_item, read_answer
from docendo.graphs._sample_and_choose import whole_text
from docendo.scoring import Score, Scorer

ITEM = make_item("What is 20 + 22?", 42)
SAID = ("Answer: 41", "Answer: 42", "Thus:\nAnswer: 41", "Answer: 43")


class Weighing(Scorer):
    """Gives each answer the weight that a test says, and accepts 42."""

    name = "weighing"

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights, self.judged = weights, list[str]()

    def score(self, item: Item, text: str) -> Score:
        self.judged.append(text)
        answer = read_answer(text)
        return Score(correct=answer == "42", value=self.weights[str(answer)], parsed=answer)

    def leaks(self, item: Item, text: str) -> bool:
        return "42" in text


def build(said: Sequence[str] = SAID, *, script: Sequence[Any] | None = None, **options: Any) -> Any:
    engine = ScriptedEngine([list(said)] if script is None else script)
    solver = Agent(engine, sampling=SamplingParams(n=len(said), temperature=1.0))
    return graphs.sample_and_choose(solver=solver, **{"read": read_answer, **options})


def invoke(graph: Any) -> tuple[dict[str, Any], RunContext]:
    context = RunContext.in_memory([ITEM])
    return graph.invoke({"item": ITEM.id}, context=context), context


def test_a_vote_needs_no_verifier() -> None:
    state, context = invoke(build())
    assert (state["answer"], state["agreement"], state["samples"]) == ("Answer: 41", 0.5, 4)
    assert "solved" not in state
    assert [trace.rewards for trace in context.traces.find()] == [{}] * 4
    (post,) = context.board.posts()
    assert (post.id, post.kind, post.body["text"], post.trust) == (
        state["post"],
        "answer",
        "Answer: 41",
        "unverified",
    )


def test_the_best_is_what_the_verifier_values_most() -> None:
    scorer = Weighing({"41": 0.5, "42": 0.9, "43": 0.1})
    state, context = invoke(build(by="max", verifier=Verifier(scorer)))
    assert (state["answer"], state["solved"]) == ("Answer: 42", True)
    assert context.traces.get(state["chosen"]).completion == "Answer: 42"
    rewards = {trace.completion: trace.rewards["verified"] for trace in context.traces.find()}
    assert rewards == {text: float("42" in text) for text in SAID}
    assert context.board.get(state["post"]).trust == "verified"


def test_a_weighted_vote_adds_up() -> None:
    few = Verifier(Weighing({"41": 0.5, "42": 0.9, "43": 0.1}))
    assert invoke(build(by="sum", verifier=few))[0]["answer"] == "Answer: 41"
    many = Verifier(Weighing({"41": 0.4, "42": 0.9, "43": 0.1}))
    assert invoke(build(by="sum", verifier=many))[0]["solved"]


def test_equal_texts_are_judged_once() -> None:
    scorer = Weighing({"41": 0.0, "42": 1.0})
    state, _ = invoke(build(["Answer: 41", "Answer: 42", "Answer: 41"], by="max", verifier=Verifier(scorer)))
    assert state["solved"]
    assert scorer.judged == ["Answer: 41", "Answer: 42"]


def test_the_whole_text_is_compared_by_default() -> None:
    graph = build([" 7\n", "7", "8 is it"], read=whole_text)
    assert invoke(graph)[0]["agreement"] == pytest.approx(2 / 3)


def test_scores_need_a_verifier_and_samples_an_agent() -> None:
    with pytest.raises(ConfigError, match="by is 'max' without a verifier"):
        build(by="max")
    with pytest.raises(ConfigError, match="solver is 'nobody'"):
        graphs.sample_and_choose(solver="nobody")  # type: ignore[arg-type]


def test_a_run_resumes_and_knows_its_rule(tmp_path: Path) -> None:
    verifier = Verifier(ExactScorer())
    with run(build(verifier=verifier), [ITEM], name="votes", folder=tmp_path, quiet=True) as done:
        first = done.outcomes
    with run(
        build(script=[], verifier=verifier), [ITEM], name="votes", folder=tmp_path, resume=True, quiet=True
    ) as again:
        assert again.outcomes == first


def test_costs_are_those_that_the_engine_counts(tiny_model_dir: Path) -> None:
    with Engine.load(tiny_model_dir) as engine, Meter(engine) as meter:
        drawing = SamplingParams(n=3, temperature=1.0, max_tokens=5, ignore_eos=True)
        state, _ = invoke(graphs.sample_and_choose(solver=Agent(engine, sampling=drawing)))
    assert state["generated_tokens"] == meter.spent["generated tokens"] == 15
    assert state["flops"] == meter.spent["flops"] > 0


def test_operations_of_one_sample_can_be_told_apart(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    flops = FlopsModel.from_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    with Engine.load(tiny_model_dir) as engine:
        drawing = SamplingParams(n=2, temperature=1.0, max_tokens=6, ignore_eos=True)
        result = engine.generate(
            Agent(engine, sampling=drawing).request(make_item("What is 3 + 4?", 7).public)
        )
    prompt = result.usage.prompt_tokens
    # The last token of a sample is written and not read again.
    each = flops.forward(5, prompt, head_positions=5)
    assert result.flops == flops.forward(prompt, 0, head_positions=1) + 2 * each
