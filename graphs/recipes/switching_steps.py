"""Step-level switching: the large model rewrites the single steps that the small one doubts.

AdaSwitch (Sun et al. 2024, arXiv 2410.13181) lets a small model solve step by step, judge each of its steps,
and hand a step that it believes wrong to a large model. It trains the small model for that: on training
questions a rule finds its wrong steps, the large model corrects them, and the small one learns the verdict
on its own steps. Here the verdict is learnt in a LoRA adapter, so that the steps stay as they were, and is
compared with what needs no training: the probability that the small model gave its own step.

The world is arithmetic modulo 7 with six written steps; both models are trained from nothing, the small one
stopped while it errs. Every method that asks the large model has the same hard budget of its tokens and
spends it to the last (`Paced`, on held-out questions); a question that is routed as a whole costs six steps.

Claim: at equal tokens of the large model, switching by the small model's own confidence answers more
questions than switching at random and than routing whole questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from docendo.agents import Agent, Engine
from docendo.distill import TrainConfig, train
from docendo.errors import ConfigError
from docendo.evals import ExactScorer, Scores, Trial, experiment, gain, no_gain, shown, within
from docendo.graphs import Run, run
from docendo.graphs.recipes._switching_world import RIGHT, STEP, STEPS, WRONG, World, right_step
from docendo.graphs.routing import (
    ALWAYS,
    NEVER,
    CheckedSteps,
    CostLedger,
    LargeBudget,
    LogprobUncertainty,
    Paced,
    RandomUncertainty,
    Uncertainty,
    VerdictUncertainty,
    cascade,
    reflective_rows,
    switching,
)
from docendo.hashing import derive_seed
from docendo.memory import Database
from docendo.records import Item, Record, SamplingParams
from docendo.registry import recipe
from docendo.scoring import scored


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSwitching(Record):
    """Settings; sizes and rates were chosen on seeds from 100.

    Attributes:
        test: Test questions.
        dev: Held-out questions for stopping the trainings, for thresholds and for the mechanism's figures.
        exam: Training questions whose steps are checked, for the verdict.
        rewrites: Steps per question that the budget lets the large model write.
        small_accuracy: The small model's training ends when it answers this share of the dev questions, while
            it still errs often.
        small_steps: Most steps of its training.
        large_steps: Most steps of the large model's training, which ends at 99.5 %.
        verdict_steps: Steps of training the verdict.
        seed: First seed.
        seeds: Number of seeds.
    """

    test: int = 96
    dev: int = 40
    exam: int = 96
    rewrites: float = 1.0
    small_accuracy: float = 0.6
    small_steps: int = 2000
    large_steps: int = 800
    verdict_steps: int = 150
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks that a budget of steps is one of whole questions, too."""
        if round(self.rewrites * self.test) % STEPS:
            raise ConfigError(
                f"{self.rewrites:g} rewrites of each of {self.test} questions are no whole questions",
                expected=f"a multiple of {STEPS} in all",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """Both models at work on the questions of one seed."""

    config: StepSwitching
    folder: Path
    database: Database
    engines: dict[str, Engine]
    quiet: bool

    def agent(self, name: str, *, whole: bool = False, adapter: str | None = None) -> Agent:
        """A model that writes one step behind those there are, or all of them."""
        prompt, length = ("{question}", STEPS) if whole else ("{question}{steps}", 1)
        sampling = SamplingParams(max_tokens=length * STEP)
        return Agent(self.engines[name], role=name, prompt=prompt, sampling=sampling, adapter=adapter)

    def steps(self, items: Sequence[Item], name: str, uncertainty: Uncertainty, switch: Any) -> Run:
        """A run of the graph of steps."""
        graph = switching(
            small=self.agent("small"),
            large=self.agent("large"),
            uncertainty=uncertainty,
            switch=switch,
            steps=STEPS,
            budget=self._budget(switch, len(items), decisions=len(items) * STEPS),
        )
        return self._run(graph, items, name)

    def questions(self, items: Sequence[Item], name: str, switch: Any) -> Run:
        """A run of the cascade, which answers whole questions."""
        graph = cascade(
            small=self.agent("small", whole=True),
            large=self.agent("large", whole=True),
            switch=switch,
            budget=self._budget(switch, len(items), decisions=len(items)),
        )
        return self._run(graph, items, name)

    def _budget(self, switch: Any, items: int, *, decisions: int) -> LargeBudget | None:
        tokens = round(self.config.rewrites * items) * STEP
        return LargeBudget(tokens=tokens, decisions=decisions) if isinstance(switch, Paced) else None

    def _run(self, graph: Any, items: Sequence[Item], name: str) -> Run:
        # One question after the other, because a budget is spent in their order.
        return run(
            graph,
            items,
            name=name,
            folder=self.folder / "runs",
            database=self.database,
            concurrency=1,
            quiet=self.quiet,
        )

    def learn_verdict(
        self, exam: Sequence[Item], examined: Run, name: str, *, seed: int, shuffled: bool
    ) -> None:
        """Trains the small model's verdict on its own steps as an adapter, and loads it."""
        judge = self.agent("small")
        rows = reflective_rows(examined, exam, judge=judge, right=RIGHT, wrong=WRONG, seed=seed)
        if shuffled:
            order = np.random.default_rng(derive_seed("shuffled", seed)).permutation(len(rows))
            verdicts = [row["completion"] for row in rows]
            rows = [row | {"completion": verdicts[place]} for row, place in zip(rows, order, strict=True)]
        settings = TrainConfig(
            max_steps=self.config.verdict_steps,
            per_device_train_batch_size=64,
            learning_rate=5e-3,
            dtype="float32",
            seed=seed,
        )
        output = self.folder / name
        adapter = train(
            self.folder / "small", rows, output=output, config=settings, resume=True, quiet=self.quiet
        )
        self.engines["small"].load_adapter(name, adapter.path)

    def verdict(self, name: str) -> VerdictUncertainty:
        """The verdict of an adapter."""
        return VerdictUncertainty(self.agent("small", adapter=name), right=RIGHT, wrong=WRONG)


def _scores(done: Run, items: Sequence[Item]) -> Scores:
    """Right final values, and the large model's tokens."""
    outcomes = [done.outcomes[item.id] for item in items]
    return Scores(
        values={
            item.id: scored(ExactScorer(), item, outcome["answer"]).correct
            for item, outcome in zip(items, outcomes, strict=True)
        },
        spent={"large tokens": sum(outcome.get("large_tokens", 0) for outcome in outcomes)},
    )


def _needs(done: Run, items: Sequence[Item]) -> list[float]:
    """The uncertainty of each step, or of each answer, in the order of the questions."""
    outcomes = [done.outcomes[item.id] for item in items]
    return [need for outcome in outcomes for need in outcome.get("needs", [outcome.get("need")])]


def _wrong(done: Run, items: Sequence[Item]) -> list[bool]:
    """Whether each step of small-only answers is wrong, given the one before it."""
    return [
        not right_step(item, answer[:place], answer[place : place + STEP])
        for item in items
        for answer in [done.outcomes[item.id]["answer"]]
        for place in range(0, STEP * STEPS, STEP)
    ]


def _auroc(needs: Sequence[float], wrong: Sequence[bool]) -> float:
    """Chance that a wrong step is more uncertain than a right one."""
    bad = np.array(wrong)
    if bad.all() or not bad.any():
        return float("nan")
    ranks = rankdata(needs)
    return float((ranks[bad].mean() - (bad.sum() + 1) / 2) / (~bad).sum())


@recipe(
    id="step-switching",
    title="A large model rewrites the steps that the small one doubts",
    paper="AdaSwitch, Sun et al. 2024, arXiv 2410.13181",
    claim=(
        "At equal tokens of the large model, switching single steps by the small model's own confidence "
        "answers more questions than switching at random and than routing whole questions."
    ),
    config=StepSwitching,
    cost="6 minutes on two cores",
    scales={
        "tiny": {
            "test": 6,
            "dev": 8,
            "exam": 16,
            "small_accuracy": 0.2,
            "small_steps": 40,
            "large_steps": 40,
            "verdict_steps": 2,
            "seeds": 2,
        }
    },
)
@experiment(
    gain("own confidence", over="random switching", equal="large tokens"),
    gain("own confidence", over="question-level routing", equal="large tokens"),
    no_gain("verdict of shuffled training", over="random switching"),
    within("AUROC of a wrong step: own confidence", 0.7),
    shown("trained verdict", over="random switching"),
    shown("trained verdict", over="question-level routing"),
    shown("own confidence", over="trained verdict"),
    shown("random switching", over="always small"),
    shown("always large", over="own confidence"),
)
def step_switching(config: StepSwitching, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """One seed: trains both models, examines the small one, and answers the test questions each way."""
    world = World.of({"test": config.test, "dev": config.dev, "train": config.exam}, seed)
    world.train_models(
        folder,
        small_accuracy=config.small_accuracy,
        small_steps=config.small_steps,
        large_steps=config.large_steps,
        seed=seed,
        quiet=quiet,
    )
    test, dev, exam = (world.items[split] for split in ("test", "dev", "train"))
    with (
        Engine.load(folder / "small") as small,
        Engine.load(folder / "large") as large,
        # In memory: what was counted of a run that was interrupted would be missing from its costs.
        Database.open("sqlite://") as database,
    ):
        bench = _Bench(
            config=config,
            folder=folder,
            database=database,
            engines={"small": small, "large": large},
            quiet=quiet,
        )
        examined = bench.steps(exam, "exam", CheckedSteps(right_step), 0.5)
        for name in ("verdict", "shuffled"):
            bench.learn_verdict(exam, examined, name, seed=seed, shuffled=name == "shuffled")
        measures: dict[str, Uncertainty] = {
            "own confidence": LogprobUncertainty(),
            "trained verdict": bench.verdict("verdict"),
            "verdict of shuffled training": bench.verdict("shuffled"),
            "random switching": RandomUncertainty(seed),
        }
        arms, facts = {}, {}
        for name, measure in measures.items():
            run_name = name.replace(" ", "-")
            # The same steps each time, from the journal after the first: what is counted is the judging.
            with CostLedger(small) as judging:
                before = bench.steps(dev, f"dev-{run_name}", measure, NEVER)
            needs = _needs(before, dev)
            facts[f"AUROC of a wrong step: {name}"] = _auroc(needs, _wrong(before, dev))
            arms[name] = _scores(bench.steps(test, run_name, measure, Paced(needs)), test)
            what = "steps" if name == "own confidence" else name
            facts[f"small model's MFLOP a question: {what}"] = judging.total() / len(dev) / 1e6
        before_questions = bench.questions(dev, "dev-questions", NEVER)
        paced = Paced(_needs(before_questions, dev))
        arms["question-level routing"] = _scores(bench.questions(test, "questions", paced), test)
        arms["always small"] = _scores(bench.questions(test, "small", NEVER), test)
        arms["always large"] = _scores(bench.questions(test, "large", ALWAYS), test)
    return Trial(arms=arms, facts=facts)
