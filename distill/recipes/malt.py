"""MALT: generator, verifier and refiner learn from what became of each other's turns.

On training items the three roles branch into a tree (three answers, three critiques of each, three refined
answers of each). Refined answers are graded, a turn is worth the mean of what came of it, and each role
trains an adapter of its own on one base: on turns worth more than a half, then, but for the generator, by DPO
on siblings of which one is (Motwani et al. 2024, "MALT: Improving Reasoning with Multi-Agent LLM Training",
arXiv 2412.01928). Branches, threshold, beta and which role has DPO are the paper's. The paper's gains are of
MALT with a vote of three against one agent without; here every vote has as many samples on both sides, and
the untrained pipeline, a single agent and the trained generator alone stand beside it.

The world is sums worked out step by step (`_running_results.py`). The base model, trained from nothing on
what writers of the three roles write, errs as they do: it multiplies wrongly half of the time, always in the
same way, so that a vote helps little and what became of a turn tells much. Where errors are scattered a vote
mends them as well. Temperature, steps and rates are this recipe's own: 1 in place of the paper's 0.3, because
pairs need siblings that differ, and few steps, because the models are small.

Claim: the trained pipeline answers more problems than the untrained one, each by itself and with votes, than
one trained on shuffled rewards, and than a vote of a single agent of as many tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

from docendo.agents import Agent, Engine, Verifier
from docendo.checks import check_count
from docendo.distill import PretrainConfig, TraceTree, TrainConfig, train_role
from docendo.distill.recipes import _running_results as world
from docendo.errors import ConfigError
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown
from docendo.graphs import generate_verify_refine, run, sample_and_choose
from docendo.hashing import derive_seed
from docendo.records import Item, Record, SamplingParams, Trace
from docendo.registry import recipe

Role = Literal["generator", "critic", "refiner"]
ROLES: tuple[Role, ...] = ("generator", "critic", "refiner")
#: Branches of the tree, and pipelines that vote: the paper's three.
BRANCHES, VOTES = 3, 3
#: Problems that the base model's training is stopped by.
DEV = 100
#: Samples of a vote of pipelines, and so of a single agent.
SAMPLES = VOTES * len(ROLES)

_BASE = PretrainConfig(hidden=48, layers=2, steps=1500, batch=64, learning_rate=4e-3)
_SUPERVISED = TrainConfig(max_steps=120, per_device_train_batch_size=32, dtype="float32", save_steps=0)
_PREFERENCES = _SUPERVISED.replace(max_steps=30, learning_rate=1e-4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Malt(Record):
    """Settings.

    Attributes:
        terms: Digits of a problem.
        train: Problems whose trees are learnt from.
        test: Test problems.
        until: Share of what the base model says to dev problems, in each role, that a writer of its corpus
            could have written; with it the base is done.
        base: How the base model is built and trained.
        supervised: Settings of each role's supervised training.
        preferences: Settings of DPO.
        beta: How strongly the supervised adapter holds DPO.
        temperature: Of all samples.
        seed: First seed: of problems, models and samples.
        seeds: Number of seeds.
    """

    terms: int = 4
    train: int = 150
    test: int = 150
    until: float = 0.9
    base: PretrainConfig = _BASE
    supervised: TrainConfig = _SUPERVISED
    preferences: TrainConfig = _PREFERENCES
    beta: float = 0.2
    temperature: float = 1.0
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes: half of all problems are left for the base model to learn from."""
        for name, least in (("terms", 2), ("train", 1), ("test", 1)):
            check_count(name, getattr(self, name), least)
        asked, most = self.train + self.test, world.problems(self.terms) // 2 - DEV
        if asked > most:
            raise ConfigError(
                f"train and test are {asked} problems of {self.terms} digits",
                expected=f"at most {max(0, most)}",
                remedy="give fewer, or more terms",
            )


@recipe(
    id="malt",
    title="MALT: three roles learn from what became of each other's turns",
    paper="Motwani et al. 2024, arXiv 2412.01928",
    claim="The pipeline of trained roles answers more problems than the untrained one, by itself and with "
    "votes, than one trained on shuffled rewards, and than a vote of a single agent of as many tokens.",
    config=Malt,
    cost="about 3 minutes a seed on one core",
    scales={
        "tiny": {
            "terms": 3,
            "train": 20,
            "test": 8,
            "until": 0.4,
            "base": _BASE.replace(hidden=32, layers=1, heads=2, steps=600),
            "supervised": _SUPERVISED.replace(max_steps=2),
            "preferences": _PREFERENCES.replace(max_steps=2),
            "seeds": 2,
        }
    },
)
@experiment(
    gain("MALT, vote", over="untrained, vote", equal="samples"),
    gain("MALT, once", over="untrained, once", equal="samples"),
    gain("MALT, vote", over="rewards shuffled, vote", equal="samples"),
    gain("MALT, vote", over="single agent, vote", equal="generated tokens"),
    no_gain("rewards shuffled, vote", over="untrained, vote"),
    shown("MALT, vote", over="supervised alone, vote"),
    shown("MALT, vote", over="trained generator alone, vote"),
)
def malt(config: Malt, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Trains a base model, grows trees, trains the roles twice, and lets all pipelines answer."""
    return _Seed(config=config, seed=seed, folder=folder, quiet=quiet).trial()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """One seed."""

    config: Malt
    seed: int
    folder: Path
    quiet: bool

    def trial(self) -> Trial:
        """All arms answer the same test problems."""
        config = self.config
        rng = np.random.default_rng(derive_seed("running results", self.seed))
        test = world.items(rng, config.terms, config.test, "test", ())
        train = world.items(rng, config.terms, config.train, "train", _questions(test))
        dev = world.items(rng, config.terms, DEV, "dev", _questions([*test, *train]))
        model = world.base(
            self.folder / "base",
            config.base.replace(seed=derive_seed("base", self.seed) % 2**31),
            terms=config.terms,
            hidden=_questions([*test, *train, *dev]),
            dev=_questions(dev),
            until=config.until,
            quiet=self.quiet,
        )
        with Engine.load(model, dtype="float32") as engine:
            tree = TraceTree(self._pipeline(engine, "tree", train, {}, [BRANCHES] * 3).traces)
        learnt = self._train(model, tree.backup("verified"), "MALT", train, test)
        mixed = self._train(model, tree.backup(_shuffled(tree, self.seed)), "rewards shuffled", train, test)
        supervised = {role: path.parent / "sft" for role, path in learnt.items()}
        arms: dict[str, Scores] = {}
        facts: dict[str, float] = {}
        with Engine.load(model, dtype="float32") as engine:
            for name, paths in (
                ("untrained", {}),
                ("MALT", learnt),
                ("supervised alone", supervised),
                ("rewards shuffled", mixed),
            ):
                adapters = {role: f"{name}, {role}" for role in paths}
                for role, path in paths.items():
                    engine.load_adapter(adapters[role], path)
                said = self._pipeline(engine, name, test, adapters, [VOTES, 1, 1])
                arms |= {f"{name}, vote": said.vote, f"{name}, once": said.once(test, "refine", 3)}
                facts |= _facts(name, said.traces, test)
            for name, adapter in (("single agent", None), ("trained generator alone", "MALT, generator")):
                said = self._alone(engine, name, test, adapter)
                arms |= {f"{name}, vote": said.vote, f"{name}, once": said.once(test, "sample", 1)}
        return Trial(arms=arms, facts=facts)

    def _pipeline(
        self,
        engine: Engine,
        name: str,
        items: Sequence[Item],
        adapters: Mapping[Role, str],
        branches: Sequence[int],
    ) -> _Said:
        """The three roles answer, each as often as it branches."""
        agents = {
            role: Agent(
                engine,
                role=role,
                prompt=prompt,
                adapter=adapters.get(role),
                sampling=self._sampling(n),
            )
            for role, prompt, n in zip(
                ROLES,
                (world.GENERATE, world.CRITICISE, world.REFINE),
                branches,
                strict=True,
            )
        }
        graph = generate_verify_refine(**agents, grader=Verifier(world.LastResult()), read=world.last)
        return self._run(graph, name, items)

    def _alone(self, engine: Engine, name: str, items: Sequence[Item], adapter: str | None) -> _Said:
        """The generator answers as often as a vote of pipelines samples."""
        drawing = self._sampling(SAMPLES)
        solver = Agent(engine, role="generator", prompt=world.GENERATE, adapter=adapter, sampling=drawing)
        grader = Verifier(world.LastResult())
        return self._run(sample_and_choose(solver=solver, verifier=grader, read=world.last), name, items)

    def _sampling(self, n: int) -> SamplingParams:
        """Settings for a result of each step and the end."""
        return SamplingParams(n=n, max_tokens=self.config.terms, temperature=self.config.temperature)

    def _run(self, graph: object, name: str, items: Sequence[Item]) -> _Said:
        runs, name = self.folder / "runs", name.replace(" ", "-")
        with run(
            graph,
            items,
            name=name,
            folder=runs,
            seed=self.seed,
            resume=(runs / name).is_dir(),
            quiet=self.quiet,
        ) as done:
            return _Said(done.outcomes, done.traces())

    def _train(
        self, model: Path, tree: TraceTree, name: str, train: Sequence[Item], test: Sequence[Item]
    ) -> dict[Role, Path]:
        """An adapter for each role, by the values of a tree; no DPO for the generator, as in the paper."""
        config = self.config
        return {
            role: train_role(
                model,
                tree,
                role,
                items=train,
                exclude=test,
                output=self.folder / "adapters" / name / role,
                config=config.supervised.replace(seed=self.seed),
                preferences=None if role == "generator" else config.preferences.replace(seed=self.seed),
                beta=config.beta,
                resume=True,
                quiet=self.quiet,
            ).path
            for role in ROLES
        }


class _Said(NamedTuple):
    """What became of each item, and all that was said."""

    outcomes: Mapping[str, Mapping[str, Any]]
    traces: Sequence[Trace]

    @property
    def vote(self) -> Scores:
        """Whether the answer that most agree with is right."""
        return Scores(
            values={item: outcome.get("solved") for item, outcome in self.outcomes.items()},
            spent=self._spent(1),
        )

    def once(self, items: Sequence[Item], node: str, calls: int) -> Scores:
        """The share of right answers, each by itself: what one of them costs is a part of the whole."""
        shares = {item.id: fmean(_rewards(self.traces, item, node)) for item in items}
        return Scores(values=shares, spent=self._spent(calls / SAMPLES))

    def _spent(self, share: float) -> dict[str, float]:
        names = {"samples": "samples", "generated_tokens": "generated tokens", "flops": "flops"}
        return {
            unit: share * sum(outcome.get(name, 0) for outcome in self.outcomes.values())
            for name, unit in names.items()
        }


def _rewards(traces: Sequence[Trace], item: Item, node: str) -> list[float]:
    return [trace.rewards["verified"] for trace in traces if trace.item == item.id and trace.node == node]


def _questions(items: Sequence[Item]) -> list[str]:
    return [item.public.question for item in items]


def _shuffled(tree: TraceTree, seed: int) -> Callable[[Trace], float]:
    """The leaves' rewards, each given to another leaf of any item."""
    leaves = tree.leaves()
    order = np.random.default_rng(derive_seed("shuffled", seed)).permutation(len(leaves))
    mixed = {leaf.id: leaves[other].rewards["verified"] for leaf, other in zip(leaves, order, strict=True)}
    return lambda trace: mixed[trace.id]


def _facts(name: str, traces: Sequence[Trace], items: Sequence[Item]) -> dict[str, float]:
    """What each role does by itself: where the chain breaks. A right critique has each step right."""
    questions = {item.id: item.public.question for item in items}
    by_id = {trace.id: trace for trace in traces}
    first: list[bool] = []
    judged: list[bool] = []
    saved: list[bool] = []
    spoilt: list[bool] = []
    for trace in traces:
        question = questions[trace.item]
        if trace.node == "generate":
            first.append(world.last(trace.completion) == world.worked(question)[-1])
        elif trace.node == "criticise":
            answer = by_id[trace.parents[0]].completion
            whole = answer.isdigit() and len(answer) == world.steps(question)
            judged.append(whole and trace.completion == world.worked(question, answer))
        else:
            answer = by_id[by_id[trace.parents[0]].parents[0]].completion
            before = world.last(answer) == world.worked(question)[-1]
            (spoilt if before else saved).append(bool(trace.rewards["verified"]) != before)
    return {
        f"{name}: first answers right": _share(first),
        f"{name}: critiques right": _share(judged),
        f"{name}: wrong answers mended": _share(saved),
        f"{name}: right answers spoilt": _share(spoilt),
    }


def _share(flags: Sequence[bool]) -> float:
    return fmean(flags) if flags else math.nan
