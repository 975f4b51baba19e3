"""The graphs of routing, cascade and steps: who is asked, what it costs, and that nothing is done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docendo import Agent, Item, ModelVerifier, RunContext, SamplingParams, ScriptedEngine, Verifier, graphs
from docendo.agents import Engine, EngineEmbedder
from docendo.errors import ConfigError, DataError, EngineClosed, LeakError, ModelFailure
from docendo.evals import ExactScorer, make_item
from docendo.graphs.routing import (
    ALWAYS,
    NEVER,
    AgreementUncertainty,
    CheckedSteps,
    CostLedger,
    HeadRouter,
    LargeBudget,
    LengthRouter,
    LogprobUncertainty,
    Paced,
    RandomUncertainty,
    RoutingExample,
    VerdictUncertainty,
    VerifierUncertainty,
    cascade,
    log_outcomes,
    reflective_rows,
    route,
    switching,
)
from docendo.records import Completion, Origin, Request, Result, ScoreRequest, Usage

ITEMS = [make_item(f"{'1 + ' * n}1 =", n + 1, split="train") for n in range(1, 7)]
LENGTHS = LengthRouter().fit(
    [RoutingExample(question=item.public.question, small=1, large=1) for item in ITEMS]
)


def agent(script: Any, name: str, **options: Any) -> tuple[Agent, ScriptedEngine]:
    engine = ScriptedEngine(script, name=name, scores=options.pop("scores", None))
    return Agent(engine, role=name, **{"sampling": SamplingParams(max_tokens=3), **options}), engine


def pair() -> tuple[Agent, Agent, ScriptedEngine, ScriptedEngine]:
    small, one = agent(lambda request: "s", "small")
    large, other = agent(lambda request: "l l", "large")
    return small, large, one, other


def step_agents(small: Any, large: Any) -> tuple[Agent, Agent, ScriptedEngine, ScriptedEngine]:
    first, one = agent(small, "small", prompt="{question}|{steps}")
    second, other = agent(large, "large", prompt="{question}|{steps}")
    return first, second, one, other


def said(request: Request) -> str:
    return str(request.prompt[-1]["content"])  # type: ignore[index,call-overload]


def answers(run: Any, items: list[Item] = ITEMS) -> list[str]:
    return [run.outcomes[item.id]["answer"] for item in items]


def go(graph: Any, folder: Path, *, name: str = "r", **options: Any) -> Any:
    return graphs.run(graph, ITEMS, name=name, folder=folder, quiet=True, concurrency=1, **options)


def logged(text: str, *logprobs: float) -> Result:
    tokens = tuple(range(len(logprobs)))
    return Result(
        completions=(Completion(text=text, token_ids=tokens, logprobs=logprobs),),
        usage=Usage(generated_tokens=len(logprobs)),
    )


def test_the_router_alone_decides_who_answers(tmp_path: Path) -> None:
    small, large, one, other = pair()
    with go(route(small=small, large=large, router=LENGTHS, switch=0.5), tmp_path) as run:
        assert answers(run) == ["s", "s", "s", "l l", "l l", "l l"]
        assert [run.outcomes[item.id]["large_tokens"] for item in ITEMS] == [0, 0, 0, 2, 2, 2]
    assert (len(one.requests), len(other.requests)) == (3, 3)


@pytest.mark.parametrize(("switch", "asked"), [(NEVER, 0), (ALWAYS, 6)])
def test_the_ends_are_always_one_model(tmp_path: Path, switch: float, asked: int) -> None:
    small, large, _, other = pair()
    with go(route(small=small, large=large, router=LENGTHS, switch=switch), tmp_path):
        assert len(other.requests) == asked


@pytest.mark.parametrize("tokens", [0, 2, 3, 5, 6, 7, 100])
def test_a_hard_budget_is_never_exceeded(tmp_path: Path, tokens: int) -> None:
    # A large answer may have 3 tokens and has 2: a call needs 3 and gives one back.
    small, large, _, other = pair()
    budget = LargeBudget(tokens=tokens)
    with go(route(small=small, large=large, router=LENGTHS, switch=ALWAYS, budget=budget), tmp_path) as run:
        spent = sum(run.outcomes[item.id]["large_tokens"] for item in ITEMS)
        assert spent == 2 * len(other.requests) <= tokens
        assert len(other.requests) == min(6, 0 if tokens < 3 else (tokens - 3) // 2 + 1)
        account = run.board.keys.read("r/large budget")
        assert account is not None
        assert account.value == {"tokens": spent, "decisions": 6}


def test_a_paced_budget_is_spent_to_the_last_token(tmp_path: Path) -> None:
    small, large, _, other = pair()
    large = large.with_sampling(max_tokens=2)
    paced, budget = Paced([0.0, 0.1]), LargeBudget(tokens=6, decisions=6)
    with go(route(small=small, large=large, router=LENGTHS, switch=paced, budget=budget), tmp_path):
        assert len(other.requests) == 3


def test_a_decision_is_taken_and_booked_once() -> None:
    small, large, one, other = pair()
    budget = LargeBudget(tokens=3)
    graph = route(small=small, large=large, router=LENGTHS, switch=ALWAYS, budget=budget)
    context = RunContext.in_memory(ITEMS)
    first = graph.invoke({"item": ITEMS[0].id}, context=context)
    again = graph.invoke({"item": ITEMS[0].id}, context=context)
    assert first == again
    assert first["large"] is True
    assert (len(one.requests), len(other.requests)) == (0, 1)
    stored = context.board.keys.read("run/large budget")
    assert stored is not None
    assert stored.value == {"tokens": 2, "decisions": 1}
    # What is left does not pay for another answer of 3 tokens.
    assert graph.invoke({"item": ITEMS[1].id}, context=context)["large"] is False


def test_a_cascade_asks_the_large_model_where_the_small_one_is_unsure(tmp_path: Path) -> None:
    small, _ = agent(lambda r: logged("s", -0.1 if len(said(r)) < 12 else -2.0, -0.1), "small")
    large, other = agent(lambda r: "l", "large")
    with go(cascade(small=small, large=large, switch=0.5), tmp_path) as run:
        assert answers(run) == ["s", "s", "l", "l", "l", "l"]
        needs = [run.outcomes[item.id]["need"] for item in ITEMS]
        assert needs[0] == pytest.approx(1 - 2.718281828**-0.1)
        assert needs[-1] == pytest.approx(1 - 2.718281828**-1.05)
    assert len(other.requests) == 4


@pytest.mark.parametrize(("pool", "value"), [("product", -3.0), ("mean", -1.5), ("least", -2.0)])
def test_log_probabilities_are_pooled(pool: Any, value: float) -> None:
    small, _ = agent([logged("s", -1.0, -2.0)], "small")
    graph = cascade(small=small, large=small, switch=NEVER, uncertainty=LogprobUncertainty(pool))
    state = graph.invoke({"item": ITEMS[0].id}, context=RunContext.in_memory(ITEMS))
    assert state["need"] == pytest.approx(1 - 2.718281828459045**value)


def test_an_engine_without_log_probabilities_fails_the_item() -> None:
    small, _ = agent([Result(completions=(Completion(text="s"),))], "small")
    graph = cascade(small=small, large=small, switch=NEVER)
    with pytest.raises(ModelFailure, match="no log-probabilities"):
        graph.invoke({"item": ITEMS[0].id}, context=RunContext.in_memory(ITEMS))


def test_agreement_is_the_share_of_samples_that_say_the_same() -> None:
    small, engine = agent(["4", [" 4", "5", "4 ", "6"]], "small")
    graph = cascade(small=small, large=small, switch=NEVER, uncertainty=AgreementUncertainty(4))
    with CostLedger(engine) as costs:
        state = graph.invoke({"item": ITEMS[0].id}, context=RunContext.in_memory(ITEMS))
    assert state["need"] == 0.5
    # One answer and four samples: the cascade's own cost is counted.
    assert costs.total("generated_tokens") == 5
    assert engine.requests[1].sampling.temperature == 0.8


def test_a_verifier_decides_only_without_gold() -> None:
    small, _ = agent(["4"], "small")
    judge = ModelVerifier(
        ScriptedEngine([], scores=lambda r: -0.2231435513 if r.completion == "yes" else -1.6094379124)
    )
    graph = cascade(small=small, large=small, switch=NEVER, uncertainty=VerifierUncertainty(judge))
    state = graph.invoke({"item": ITEMS[0].id}, context=RunContext.in_memory(ITEMS))
    assert state["need"] == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="sees the gold"):
        VerifierUncertainty(Verifier(ExactScorer()))


def test_only_doubted_steps_are_rewritten_and_the_rest_goes_on_from_there(tmp_path: Path) -> None:
    small, large, one, other = step_agents(
        lambda r: logged("b" if said(r).endswith("|a;") else "a", -3.0 if said(r).endswith("|a;") else -0.01),
        lambda r: "c",
    )
    graph = switching(small=small, large=large, switch=0.5, steps=3, separator=";")
    with go(graph, tmp_path) as run:
        outcome = run.outcomes[ITEMS[0].id]
        assert outcome["answer"] == "a;c;a;"
        assert [bool(trace) for trace in outcome["rejected"]] == [False, True, False]
        assert len(outcome["steps"]) == len(outcome["needs"]) == 3
        assert outcome["large_tokens"] == 1
    assert [said(r).split("|")[1] for r in one.requests[:3]] == ["", "a;", "a;c;"]
    assert said(other.requests[0]).split("|")[1] == "a;"


def test_steps_end_when_the_text_is_finished(tmp_path: Path) -> None:
    small, large, one, _ = step_agents(lambda r: "a" if len(said(r)) % 2 else "end", lambda r: "c")
    graph = switching(
        small=small,
        large=large,
        switch=NEVER,
        uncertainty=RandomUncertainty(),
        steps=40,
        finished=lambda text: text.endswith("end") or len(text) > 30,
    )
    with go(graph, tmp_path) as run:
        assert all(len(text) <= 33 for text in answers(run))
    assert len(one.requests) < 6 * 40


def test_long_solutions_pass_langgraphs_limit() -> None:
    small, large, _, other = step_agents(lambda r: "a", lambda r: "c")
    graph = switching(small=small, large=large, switch=ALWAYS, uncertainty=RandomUncertainty(), steps=60)
    state = graph.invoke({"item": ITEMS[0].id}, context=RunContext.in_memory(ITEMS))
    assert state["answer"] == "c" * 60
    assert len(other.requests) == 60


def test_a_budget_of_steps_is_spent_to_the_last_and_no_further(tmp_path: Path) -> None:
    small, large, _, other = step_agents(lambda r: "a", lambda r: "c")
    large = large.with_sampling(max_tokens=1)
    budget = LargeBudget(tokens=7, decisions=6 * 4)
    graph = switching(
        small=small,
        large=large,
        switch=Paced([n / 100 for n in range(100)]),
        uncertainty=RandomUncertainty(1),
        steps=4,
        budget=budget,
    )
    with go(graph, tmp_path) as run:
        assert sum(run.outcomes[item.id].get("large_tokens", 0) for item in ITEMS) == 7
    assert len(other.requests) == 7


def test_the_verdict_is_the_probability_of_one_token_against_the_other() -> None:
    def scores(request: ScoreRequest) -> float:
        assert str(request.prompt[-1]["content"]).endswith("|ab")  # type: ignore[index,call-overload]
        return {"y": -0.5, "n": -1.5}[str(request.completion)]

    small, _ = agent(["b"], "small", prompt="{question}|{steps}", scores=scores)
    measure = VerdictUncertainty(small, right="y", wrong="n")
    graph = switching(small=small, large=small, switch=NEVER, uncertainty=measure, steps=1)
    context = RunContext.in_memory(ITEMS)
    state = graph.invoke({"item": ITEMS[0].id, "answer": "a"}, context=context)
    assert state["needs"] == [pytest.approx(1 / (1 + 2.718281828459045))]
    with pytest.raises(ConfigError, match="two different texts"):
        VerdictUncertainty(small, right="y", wrong="y")


def examined(folder: Path, items: list[Item]) -> tuple[Any, Agent]:
    """A run in which the small model says 1 at each step, and 2 is right at the second."""
    small, large, _, _ = step_agents(lambda r: "1", lambda r: "2")
    exam = CheckedSteps(lambda item, written, step: step == ("2" if written else "1"))
    graph = switching(small=small, large=large, switch=0.5, uncertainty=exam, steps=2, separator=";")
    return graphs.run(graph, items, name="exam", folder=folder, quiet=True), small


def test_an_examination_becomes_rows_of_verdicts_and_corrections(tmp_path: Path) -> None:
    run, small = examined(tmp_path, ITEMS[:2])
    reviser = Agent(small.engine, prompt="{question}|{steps}<{rejected}>")
    with run:
        rows = reflective_rows(
            run, ITEMS[:2], judge=small, right="y", wrong="n", separator=";", reviser=reviser
        )
        plain = reflective_rows(run, ITEMS[:2], judge=small, right="y", wrong="n", separator=";")
    found = [(row["prompt"][-1]["content"], row["completion"][0]["content"]) for row in rows]
    question = ITEMS[0].public.question
    assert [pair for pair in found if pair[0].startswith(f"{question}|")] == [
        (f"{question}|1", "y"),
        (f"{question}|1;1", "n"),
        (f"{question}|1;<1>", "2"),
    ]
    assert [row["item"] for row in rows] == [ITEMS[0].id, ITEMS[1].id] * 3
    assert len(plain) == 4


def test_verdicts_are_balanced_on_request(tmp_path: Path) -> None:
    run, small = examined(tmp_path, ITEMS)
    with run:
        run.outcomes[ITEMS[0].id]["status"] = "failed"  # its steps are not learnt from
        rows = reflective_rows(run, ITEMS, judge=small, right="y", wrong="n", separator=";")
        assert [row["completion"][0]["content"] for row in rows] == ["y"] * 5 + ["n"] * 5
        for item in ITEMS:
            run.outcomes[item.id]["status"] = "failed"
        with pytest.raises(DataError, match="0 'y' and 0 'n'"):
            reflective_rows(run, ITEMS, judge=small, right="y", wrong="n")


def test_an_examination_refuses_what_is_not_for_training(tmp_path: Path) -> None:
    held_out = make_item("1 + 1 =", 2, split="test")
    with pytest.raises(LeakError, match="of the split 'test'"):
        examined(tmp_path, [held_out])
    run, small = examined(tmp_path / "other", ITEMS)
    with run, pytest.raises(LeakError, match="of the split 'test'"):
        reflective_rows(run, [held_out], judge=small, right="y", wrong="n")


def test_outcomes_of_both_models_are_logged_once(tmp_path: Path) -> None:
    small, _ = agent(lambda r: "2" if len(said(r)) < 8 else "9", "small")
    large, other = agent(lambda r: str(said(r).count("1")), "large")
    options = {"folder": tmp_path, "name": "log", "quiet": True}
    found = log_outcomes(small, large, ITEMS, ExactScorer(), **options)
    assert [one.small for one in found] == [1, 0, 0, 0, 0, 0]
    assert [one.large for one in found] == [1] * 6
    assert [one.item for one in found] == [item.id for item in ITEMS]
    assert found[1].example == RoutingExample(question=ITEMS[1].public.question, small=0, large=1)
    assert (found[0].answer, found[0].large_tokens) == ("2", 1)
    again = log_outcomes(small, large, ITEMS, ExactScorer(), resume=True, **options)
    assert again == found
    assert len(other.requests) == 6


def test_a_log_with_gaps_is_refused(tmp_path: Path) -> None:
    def failing(request: Request) -> str:
        raise ModelFailure("the logits are not finite")

    small, _ = agent(lambda r: "2", "small")
    large, _ = agent(failing, "large")
    with pytest.raises(ModelFailure, match="has no outcome"):
        log_outcomes(small, large, ITEMS, ExactScorer(), folder=tmp_path, quiet=True)


def test_the_ledger_counts_from_its_beginning_and_each_engine_once() -> None:
    small, engine = agent(lambda r: "a b", "small")
    small.reply(ITEMS[0].public)
    with CostLedger(engine, engine) as costs:
        small.reply(ITEMS[1].public)
    small.reply(ITEMS[2].public)
    assert costs.by_agent()["small"]["calls"] == 1
    assert costs.total("generated_tokens") == 2
    with pytest.raises(ConfigError, match="the unit is 'euros'"):
        costs.total("euros")
    with pytest.raises(ConfigError, match="no engine"):
        CostLedger()


def test_a_run_that_was_stopped_books_nothing_twice(tmp_path: Path) -> None:
    down = True

    def large_script(request: Request) -> str:
        if down and len(other.requests) > 2:
            raise EngineClosed("the engine is closed")
        return "l l"

    small, _ = agent(lambda r: "s", "small")
    large, other = agent(large_script, "large")
    budget = LargeBudget(tokens=11, decisions=6)
    graph = route(small=small, large=large, router=LENGTHS, switch=ALWAYS, budget=budget)
    with pytest.raises(EngineClosed):
        go(graph, tmp_path)
    down = False
    with go(graph, tmp_path, resume=True) as run:
        # Of 11 tokens five calls of at most 3 are paid for, as in a run that nothing stopped.
        assert [run.outcomes[item.id]["large_tokens"] for item in ITEMS] == [2, 2, 2, 2, 2, 0]
        account = run.board.keys.read("r/large budget")
        assert account is not None
        assert account.value == {"tokens": 10, "decisions": 6}
    # The call that failed was made again, and no other.
    assert len(other.requests) == 6


def test_real_engines_do_all_of_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    with Engine.load(tiny_model_dir) as engine:
        sampling = SamplingParams(max_tokens=3)
        small = Agent(engine, role="small", prompt="{question}{steps}", sampling=sampling)
        large = Agent(engine, role="large", prompt="{question} think {steps}", sampling=sampling)
        router = HeadRouter(EngineEmbedder(engine, origin=Origin(role="router")))
        router.fit(
            [
                RoutingExample(question=item.public.question, small=place % 2, large=1)
                for place, item in enumerate(ITEMS)
            ]
        )
        verdict = VerdictUncertainty(small, right="y", wrong="n")
        with CostLedger(engine) as costs:
            for number, measure in enumerate((LogprobUncertainty(), verdict, AgreementUncertainty(2))):
                graph = switching(
                    small=small, large=large, switch=0.5, uncertainty=measure, steps=2, separator=" "
                )
                with go(graph, tmp_path, name=f"steps-{number}") as run:
                    outcomes = [run.outcomes[item.id] for item in ITEMS]
                    assert all(0 <= need <= 1 for outcome in outcomes for need in outcome["needs"])
                    if number < 2:  # samples of a random model never agree
                        assert len({need for outcome in outcomes for need in outcome["needs"]}) > 2
            graph = route(
                small=Agent(engine, role="small", sampling=sampling),
                large=Agent(engine, role="large", sampling=sampling),
                router=router,
                switch=0.5,
            )
            with go(graph, tmp_path, name="route") as run:
                assert {run.outcomes[item.id]["large"] for item in ITEMS} == {True, False}
        assert costs.by_agent()["router"]["calls"] == len(ITEMS)
        assert costs.by_agent()["router"]["flops"] > 0
        assert costs.by_agent()["small"]["generated_tokens"] >= 6 * 2


def test_a_graph_is_described_with_all_that_matters() -> None:
    small, large, _, _ = pair()
    first = route(small=small, large=large, router=LENGTHS, switch=0.5)
    other = route(small=small, large=large, router=LENGTHS, switch=0.6)
    assert graphs.description(first)["switch"] == {"class": "Threshold", "value": 0.5}
    assert graphs.description(first) != graphs.description(other)
    assert graphs.description(cascade(small=small, large=large, switch=NEVER))["switch"]["value"] == "inf"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda s, b: route(small=s, large=b, router=LENGTHS, switch="high"), "the switch is 'high'"),
        (lambda s, b: route(small=s, large=b, router=None, switch=0.5), "router is None"),
        (lambda s, b: route(small=s, large=b, router=LENGTHS, switch=0.5, budget=9), "budget is 9"),
        (lambda s, b: cascade(small=s, large="gpt", switch=0.5), "large is 'gpt'"),
        (lambda s, b: switching(small=s, large=b, switch=0.5), "the prompt of small is '{question}'"),
        (lambda s, b: LogprobUncertainty("median"), "pool is 'median'"),
        (lambda s, b: AgreementUncertainty(0), "samples is 0"),
        (lambda s, b: AgreementUncertainty(temperature=0), "temperature is 0"),
        (lambda s, b: LargeBudget(tokens=-1), "tokens is -1"),
        (lambda s, b: CheckedSteps("rule"), "check is 'rule'"),
    ],
)
def test_what_cannot_be_built_is_refused(build: Any, words: str) -> None:
    small, large, _, _ = pair()
    with pytest.raises(ConfigError, match=words):
        build(small, large)
