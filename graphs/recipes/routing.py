"""Routing and cascades: which questions a large model is asked, at equal cost.

A router scores a question before anything is generated; a cascade judges the small model's answer. The
taxonomy is that of Varangot-Reille et al. 2025 (arXiv 2502.00409), the routers and the measure those of
RouteLLM (Ong et al. 2024, arXiv 2406.18665), re-made to learn from outcomes of local models. Both models
answer every question once; a curve then says what each router gets at every total cost, with what the router
and the small model cost counted in. The router that claims something is picked on dev questions. Under a hard
budget over a stream that gets harder, a switch that knows what is left (MANSA, Mguni et al. 2023, arXiv
2302.05910) is compared with ones that do not.

The world is a mix of seven tasks on strings of digits; both models are trained on all of them from nothing,
and the small one, with a tenth of the parameters, learns some.

Claim: at equal cost, the router picked on dev questions answers more test questions than a random choice and
than sending long questions to the large model; learnt from shuffled outcomes it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from docendo.agents import Agent, AnalyticVerifier, Engine, EngineEmbedder
from docendo.evals import (
    ExactScorer,
    RoutingCurve,
    Scores,
    Trial,
    experiment,
    gain,
    no_gain,
    oracle_scores,
    routing_curve,
    shown,
    within,
)
from docendo.graphs.recipes._routing_world import END, LONGEST, World
from docendo.graphs.routing import (
    AgreementUncertainty,
    BudgetedSwitch,
    CostLedger,
    FactorisationRouter,
    FittedRouter,
    HeadRouter,
    LengthRouter,
    LoggedOutcome,
    LogisticRouter,
    LogprobUncertainty,
    Paced,
    RandomRouter,
    RoutingExample,
    SimilarityRouter,
    Switch,
    TfIdf,
    Threshold,
    Uncertainty,
    VerifierUncertainty,
    decide_stream,
    log_outcomes,
    threshold_for_share,
)
from docendo.hashing import derive_seed
from docendo.memory import Database
from docendo.records import Item, Origin, Record, SamplingParams
from docendo.registry import recipe

#: Share of the stream that the hard budget sends to the large model.
BUDGET = 0.25
#: The tasks in the order in which they come in the stream: those last that small models of this size fail.
STREAM = "lmapsfr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing(Record):
    """Settings; sizes were chosen on seeds from 100.

    Attributes:
        train: Questions that routers learn from.
        dev: Held-out questions, on which a router is picked and thresholds are set.
        test: Test questions.
        small_steps: Steps of the small model's training.
        large_steps: Most steps of the large model's training, which ends at 97 %.
        samples: Further samples of the small model for agreement.
        seed: First seed.
        seeds: Number of seeds.
    """

    train: int = 200
    dev: int = 100
    test: int = 160
    small_steps: int = 300
    large_steps: int = 300
    samples: int = 3
    seed: int = 0
    seeds: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """Logs outcomes of both models; what was said once comes from the journal."""

    folder: Path
    database: Database
    small: Agent
    large: Agent
    seed: int
    quiet: bool

    def log(
        self, items: Sequence[Item], name: str, uncertainty: Uncertainty | None = None
    ) -> tuple[tuple[LoggedOutcome, ...], float]:
        """Outcomes, and what the uncertainty costs for each question, in floating-point operations."""
        with CostLedger(self.small.engine, self.large.engine) as costs:
            found = log_outcomes(
                self.small,
                self.large,
                items,
                ExactScorer(),
                uncertainty=uncertainty,
                name=name,
                folder=self.folder / "runs",
                database=self.database,
                seed=self.seed,
                quiet=self.quiet,
            )
        return found, costs.total() / len(items)


def _curve(
    outcomes: Sequence[LoggedOutcome],
    scores: Sequence[float] | None = None,
    *,
    router_cost: float = 0.0,
    cascade: bool = False,
) -> RoutingCurve:
    """The curve of a router; without scores that of who knows all outcomes."""
    small, large = [one.small for one in outcomes], [one.large for one in outcomes]
    cheap, dear = [one.small_flops for one in outcomes], [one.large_flops for one in outcomes]
    if scores is None:
        scores = oracle_scores(small, large, small_cost=cheap, large_cost=dear)
    return routing_curve(
        scores,
        small,
        large,
        small_cost=cheap,
        large_cost=dear,
        router_cost=router_cost,
        cascade=cascade,
    )


def _answers(outcomes: Sequence[LoggedOutcome], name: str) -> dict[str, float | None]:
    """Values of answering everything with one model."""
    return {one.item: one.small if name == "always small" else one.large for one in outcomes}


def _arm(outcomes: Sequence[LoggedOutcome], curve: RoutingCurve) -> Scores:
    """A router as a method: for each question its mean value over all budgets, which are the same for all."""
    values = {one.item: value for one, value in zip(outcomes, curve.values, strict=True)}
    return Scores(values=values, spent={"flops": curve.spent * len(outcomes)})


def _features() -> TfIdf:
    """Questions are strings of signs, so signs and pairs of them are the terms."""
    return TfIdf(unit="character", ngrams=(1, 2))


def _routers(small: Engine) -> dict[str, FittedRouter]:
    """Routers that learn from outcomes; their settings are their defaults."""
    return {
        "nearest questions": SimilarityRouter(features=_features()),
        "similarity-weighted": SimilarityRouter(neighbours=None, features=_features()),
        "logistic": LogisticRouter(features=_features()),
        "factorisation": FactorisationRouter(features=_features()),
        "hidden states": HeadRouter(EngineEmbedder(small, origin=Origin(role="router"))),
    }


def _cost_of(router: FittedRouter, engine: Engine, questions: Sequence[str]) -> tuple[list[float], float]:
    """Scores, and what one costs in floating-point operations, the engine's share included."""
    with CostLedger(engine) as costs:
        scores = router.scores(questions)
    return scores, router.flops + costs.total() / len(questions)


def _shuffled(examples: Sequence[RoutingExample], seed: int) -> list[RoutingExample]:
    """The same questions and the same outcomes, of which nothing belongs together."""
    order = np.random.default_rng(derive_seed("shuffled", seed)).permutation(len(examples))
    return [
        one.replace(small=examples[other].small, large=examples[other].large)
        for one, other in zip(examples, order, strict=True)
    ]


def _drifting(outcomes: Sequence[LoggedOutcome], seed: int) -> list[int]:
    """Places of the questions in a stream in which the tasks follow and overlap one another."""
    rng = np.random.default_rng(derive_seed("stream", seed))
    when = [STREAM.index(one.question[0]) + rng.uniform(0, 2) for one in outcomes]
    return sorted(range(len(outcomes)), key=when.__getitem__)


def _streams(
    dev: Sequence[LoggedOutcome],
    dev_needs: Sequence[float],
    test: Sequence[LoggedOutcome],
    needs: Sequence[float],
    seed: int,
) -> dict[str, Scores]:
    """Each switch on the same drifting stream, under the same hard budget of calls."""
    order, before = _drifting(test, seed), _drifting(dev, seed + 1)
    calls = round(BUDGET * len(test))
    gains = [dev[place].large - dev[place].small for place in before]
    learnt = BudgetedSwitch(calls=calls, decisions=len(test), bins=5, phases=4).fit(
        [dev_needs[place] for place in before], gains
    )
    drawn, anything = RandomRouter(seed), np.linspace(0, 1, 1001).tolist()
    stream = [needs[place] for place in order]
    switches: dict[str, tuple[Switch, list[float]]] = {
        "stream: learnt for the budget": (learnt, stream),
        "stream: evenly paced": (Paced(dev_needs), stream),
        "stream: threshold from dev": (Threshold(threshold_for_share(dev_needs, BUDGET)), stream),
        "stream: greedy": (Threshold(float(np.median(dev_needs))), stream),
        "stream: random": (Paced(anything), [drawn.score(test[place].question) for place in order]),
        "stream: oracle": (Threshold(1), [test[place].large - test[place].small for place in order]),
    }
    found = {}
    for name, (switch, wanted) in switches.items():
        large = decide_stream(switch, wanted, calls=calls)
        values = {
            test[place].item: test[place].large if asked else test[place].small
            for place, asked in zip(order, large, strict=True)
        }
        found[name] = Scores(values=values, spent={"large calls": sum(large)})
    return found


@recipe(
    id="routing",
    title="Routers and cascades ask a large model where it pays",
    paper="RouteLLM, Ong et al. 2024, arXiv 2406.18665",
    claim=(
        "At equal cost, the router picked on dev questions answers more test questions than a random choice "
        "and than sending long questions to the large model."
    ),
    config=Routing,
    cost="4 minutes on two cores",
    scales={
        "tiny": {"train": 60, "dev": 20, "test": 20, "small_steps": 30, "large_steps": 60, "seeds": 2},
    },
)
@experiment(
    gain("picked router", over="random", equal="flops"),
    gain("picked router", over="length", equal="flops"),
    no_gain("picked router, shuffled outcomes", over="random"),
    gain("stream: learnt for the budget", over="stream: random"),
    within("share of large calls at the dev threshold for 0.3", 0.2, 0.4),
    shown("cascade: own log-probability", over="random"),
    shown("cascade: own log-probability", over="picked router"),
    shown("cascade: agreement", over="random"),
    shown("cascade: verifier", over="random"),
    shown("oracle", over="picked router"),
    shown("stream: learnt for the budget", over="stream: evenly paced"),
    shown("stream: learnt for the budget", over="stream: threshold from dev"),
    shown("stream: learnt for the budget", over="stream: greedy"),
    shown("stream: oracle", over="stream: learnt for the budget"),
)
def routing(config: Routing, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """One seed: trains both models, logs their outcomes once, and measures everything on the same log."""
    world = World.of({"train": config.train, "dev": config.dev, "test": config.test}, seed)
    world.train_models(
        folder, small_steps=config.small_steps, large_steps=config.large_steps, seed=seed, quiet=quiet
    )
    sampling = SamplingParams(max_tokens=LONGEST + 1, stop=(END,))
    with (
        Engine.load(folder / "small") as small,
        Engine.load(folder / "large") as large,
        # In memory: what was counted of a log that was interrupted would be missing from its costs.
        Database.open("sqlite://") as database,
    ):
        agents = {
            name: Agent(engine, role=name, prompt="{question}", sampling=sampling)
            for name, engine in (("small", small), ("large", large))
        }
        bench = _Bench(folder=folder, database=database, seed=seed, quiet=quiet, **agents)
        train, dev, test = (bench.log(items, name)[0] for name, items in world.items.items())
        examples, questions = [one.example for one in train], [one.question for one in test]
        curves = {
            "random": _curve(test, [0.5] * len(test)),  # the mean of all random choices
            "length": _curve(test, LengthRouter().fit(examples).scores(questions)),
            "oracle": _curve(test),
        }
        on_dev, needs = {}, {}
        for name, router in _routers(small).items():
            router.fit(examples)
            needs[name], cost = _cost_of(router, small, questions)
            curves[name] = _curve(test, needs[name], router_cost=cost)
            scores, cost = _cost_of(router, small, [one.question for one in dev])
            on_dev[name] = (_curve(dev, scores, router_cost=cost).recovered.value or 0.0, scores)
        picked = max(on_dev, key=lambda name: on_dev[name][0])
        curves["picked router"] = curves[picked]
        for name, rows in (
            ("shuffled outcomes", _shuffled(examples, seed)),
            ("one task unseen", [row for row in examples if row.question[0] != "r"]),
        ):
            scores, cost = _cost_of(_routers(small)[picked].fit(rows), small, questions)
            curves[f"picked router, {name}"] = _curve(test, scores, router_cost=cost)
        verifier = AnalyticVerifier(EngineEmbedder(small), prompt="{question}{answer}").fit(
            [one.question for one in train], [one.answer for one in train], [one.small == 1 for one in train]
        )
        measures: dict[str, Uncertainty] = {
            "own log-probability": LogprobUncertainty("mean"),
            "agreement": AgreementUncertainty(config.samples),
            "verifier": VerifierUncertainty(verifier),
        }
        for name, measure in measures.items():
            logged, cost = bench.log(world.items["test"], f"test-{name.replace(' ', '-')}", measure)
            found = _curve(logged, [one.need for one in logged], router_cost=cost, cascade=True)
            curves[f"cascade: {name}"] = found
        dev_needs = on_dev[picked][1]
        streams = _streams(dev, dev_needs, test, needs[picked], seed)
        threshold = threshold_for_share(dev_needs, 0.3)
    arms = {name: _arm(test, curve) for name, curve in curves.items()} | streams
    arms |= {name: Scores(values=_answers(test, name)) for name in ("always small", "always large")}
    facts = {
        f"APGR: {name}": math.nan if curve.apgr.value is None else curve.apgr.value
        for name, curve in curves.items()
    }
    facts["share of large calls at the dev threshold for 0.3"] = float(
        np.mean(np.array(needs[picked]) >= threshold)
    )
    facts["share of questions that need the large model"] = float(
        np.mean([one.example.needed for one in test])
    )
    return Trial(arms=arms, facts=facts)
