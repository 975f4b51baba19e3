"""To backtrack or not: one long search or several short attempts, at equal compute.

Two models of one architecture learn from the same problems: one from depth-first searches as they went, dead
ends included, the other from the solutions alone. At test time the first searches once, and the second is
sampled as often as the first one's FLOPs pay, with the same verifier (Qin et al. 2025, "To Backtrack or Not
to Backtrack: When Sequential Search Limits Model Reasoning", arXiv 2504.07052). FLOPs count attention to the
trace, which grows with its square; tokens would favour the long trace.

The paper trains models of tens of millions of parameters on larger problems; here problems, models and
budgets are the smallest that show a search on one core, so directions need not be the same. The temperature
is 0.7; widths, steps and learning rate were chosen on seeds from 100 on by how well the models learn.

Claim: as in the paper, several attempts win on Countdown and one search wins on Sudoku.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from transformers import AutoModelForCausalLM

from docendo.agents import Agent, Engine, FlopsModel, Verifier
from docendo.distill import PretrainConfig, pretrain
from docendo.evals import (
    Attempt,
    Countdown,
    Judged,
    MiniSudoku,
    Scores,
    SearchWorld,
    Trial,
    WorldScorer,
    allotted,
    experiment,
    gain,
    matched,
    no_gain,
    shown,
    solved_within,
)
from docendo.graphs import choose, run, sample_and_choose
from docendo.hashing import derive_seed
from docendo.records import Item, Record, SamplingParams, Trace
from docendo.registry import recipe

_COUNTDOWN = PretrainConfig(hidden=64, layers=2, steps=800, batch=32, learning_rate=4e-3)
_SUDOKU = _COUNTDOWN.replace(steps=1200)
_TINY = PretrainConfig(hidden=16, layers=1, heads=2, steps=20, batch=8)
#: Points of the curves: shares of what one search costs.
SHARES = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAtEqualCompute(Record):
    """Settings.

    Attributes:
        problems: Test problems of each task.
        training: Most training problems of each task.
        longest: Most characters that are written; problems with longer searches are not trained on.
        searches: Searches drawn of each problem: the first is the method, all make the curve.
        samples: Short attempts drawn of each problem.
        temperature: Of all samples.
        countdown: How each model of Countdown is built and trained.
        sudoku: How each model of Sudoku is built and trained.
        seed: First seed: of problems, models and samples.
        seeds: Number of seeds.
    """

    problems: int = 150
    training: int = 6000
    longest: int = 120
    searches: int = 2
    samples: int = 16
    temperature: float = 0.7
    countdown: PretrainConfig = _COUNTDOWN
    sudoku: PretrainConfig = _SUDOKU
    seed: int = 0
    seeds: int = 5


@recipe(
    id="search-at-equal-compute",
    title="One long search or several short attempts at equal FLOPs",
    paper="Qin et al. 2025, arXiv 2504.07052",
    claim="At equal FLOPs and with one verifier several attempts solve more of Countdown than one search "
    "with backtracking, and one search more of Sudoku; neither a random choice nor shuffled searches do.",
    config=SearchAtEqualCompute,
    cost="about 3 minutes a seed on one core",
    scales={
        "tiny": {
            "problems": 8,
            "training": 60,
            "samples": 4,
            "longest": 60,
            "countdown": _TINY,
            "sudoku": _TINY,
            "seeds": 2,
        }
    },
)
@experiment(
    gain("countdown, parallel", over="countdown, sequential", equal="flops"),
    gain("sudoku, sequential", over="sudoku, parallel", equal="flops"),
    no_gain("countdown, parallel, taken at random", over="countdown, sequential"),
    no_gain("countdown, sequential, shuffled", over="countdown, sequential"),
    no_gain("sudoku, sequential, shuffled", over="sudoku, parallel"),
    shown("countdown, parallel until solved", over="countdown, sequential"),
    shown("sudoku, parallel until solved", over="sudoku, sequential"),
    shown("countdown, parallel, taken by vote", over="countdown, sequential"),
    shown("sudoku, parallel, taken by vote", over="sudoku, sequential"),
)
def search_at_equal_compute(config: SearchAtEqualCompute, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Trains three models for each task and lets them solve the same problems for as much."""
    arms: dict[str, Scores] = {}
    facts: dict[str, float] = {}
    for world, model in ((Countdown(), config.countdown), (MiniSudoku(), config.sudoku)):
        found = _Task(
            world=world, model=model, config=config, seed=seed, folder=folder / world.name, quiet=quiet
        ).trial()
        arms |= {f"{world.name}, {name}": scores for name, scores in found.arms.items()}
        facts |= {f"{world.name}, {name}": value for name, value in found.facts.items()}
    return Trial(arms=arms, facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One seed of one task."""

    world: SearchWorld
    model: PretrainConfig
    config: SearchAtEqualCompute
    seed: int
    folder: Path
    quiet: bool

    def trial(self) -> Trial:
        """All arms, at what the first search of each problem costs together."""
        config, world = self.config, self.world
        parts = world.problems(self.seed, {"test": config.problems, "train": config.training})
        learnt = [each for each in parts["train"] if len(world.trace(each)) <= config.longest]
        rng = random.Random(derive_seed("shuffled", self.seed))
        paths = [(each, world.path(each)) for each in learnt]
        traces = [(each, world.trace(each)) for each in learnt]
        mixed = [(each, world.shuffled(each, rng)) for each in learnt]
        items = world.items(parts["test"], "test")
        short = max(len(path) for _, path in paths)
        searches = self._draw("sequential", traces, items, config.searches, config.longest)
        shuffled = self._draw("shuffled", mixed, items, config.searches, config.longest)
        direct = self._draw("parallel", paths, items, config.samples, short)
        budget = sum(drawn[0].attempt.cost for drawn in searches.values())
        first = {item: drawn[:1] for item, drawn in _attempts(searches).items()}
        parallel = matched(_attempts(direct), budget)
        pools = {item: direct[item][:n] for item, n in allotted(_attempts(direct), budget).items()}
        arms = {
            "sequential": matched(first, budget),
            "parallel": parallel,
            "parallel until solved": matched(_attempts(direct), budget, until_solved=True),
            "parallel, taken by vote": Scores(values=_voted(pools), spent=parallel.spent),
            "parallel, taken at random": Scores(values=_random(pools, self.seed), spent=parallel.spent),
            "parallel, one": matched({item: drawn[:1] for item, drawn in _attempts(direct).items()}, budget),
            "sequential, shuffled": matched(_attempts(shuffled), budget),
        }
        facts = {
            "attempts for one search": fmean(len(pool) for pool in pools.values()),
            "training problems left out": 1 - len(learnt) / len(parts["train"]),
            **_breaks(searches),
        }
        for share in SHARES:
            each = share * budget / len(items)
            for name, drawn in (("sequential", searches), ("parallel", direct)):
                facts[f"{name}, solved within {share:g} of the compute"] = solved_within(
                    _attempts(drawn), each
                )
        return Trial(arms=arms, facts=facts)

    def _draw(
        self, name: str, rows: Sequence[tuple[str, str]], items: Sequence[Item], samples: int, longest: int
    ) -> dict[str, list[_Drawn]]:
        """Trains a model on rows and lets it answer; what is there from before is used."""
        config = self.config
        model = pretrain(
            _of_like_length(rows),
            alphabet=self.world.alphabet,
            output=self.folder / name,
            config=self.model.replace(
                seed=derive_seed(name, self.seed) % 2**31, context=len(rows[0][0]) + config.longest
            ),
            resume=True,
            quiet=self.quiet,
        )
        runs = self.folder / "runs"
        with Engine.load(model) as engine:
            drawing = SamplingParams(
                max_tokens=longest, temperature=config.temperature, n=samples, stop=(self.world.end,)
            )
            graph = sample_and_choose(
                solver=Agent(engine, name=name, sampling=drawing),
                by="max",
                verifier=Verifier(WorldScorer(self.world)),
            )
            with run(
                graph,
                items,
                name=name,
                folder=runs,
                seed=self.seed,
                resume=(runs / name).is_dir(),
                quiet=self.quiet,
            ) as done:
                traces = done.traces()
        return self._judged(
            items,
            traces,
            FlopsModel.from_model(AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False)),
        )

    def _judged(
        self, items: Sequence[Item], traces: Sequence[Trace], flops: FlopsModel
    ) -> dict[str, list[_Drawn]]:
        """What was drawn of each item and its cost: the prompt counts once, nothing after a solution."""
        questions = {item.id: item.public.question for item in items}
        drawn: dict[str, list[_Drawn]] = {item: [] for item in questions}
        for trace in sorted(traces, key=lambda trace: trace.sample):
            question = questions[trace.item]
            judged = self.world.judge(question, trace.completion)
            written = judged.length or len(trace.token_ids)
            cost = flops.forward(written, len(question), head_positions=written)
            if trace.sample == 0:
                cost += flops.forward(len(question), 0, head_positions=0)
            attempt = Attempt(solved=judged.solved, cost=cost)
            drawn[trace.item].append(_Drawn(trace=trace, judged=judged, attempt=attempt))
        return drawn


class _Drawn(NamedTuple):
    """A sample, what the verifier says to it, and what it cost."""

    trace: Trace
    judged: Judged
    attempt: Attempt


def _attempts(drawn: Mapping[str, Sequence[_Drawn]]) -> dict[str, list[Attempt]]:
    return {item: [each.attempt for each in some] for item, some in drawn.items()}


def _voted(pools: Mapping[str, Sequence[_Drawn]]) -> dict[str, bool]:
    """Whether the most frequent answer is right, which needs no verifier."""
    return {
        item: bool(pool) and pool[choose([each.trace.completion for each in pool], by="count")].judged.solved
        for item, pool in pools.items()
    }


def _random(pools: Mapping[str, Sequence[_Drawn]], seed: int) -> dict[str, bool]:
    """Whether an attempt that is taken at random is right."""
    rng = random.Random(derive_seed("random", seed))
    return {item: bool(pool) and rng.choice(pool).judged.solved for item, pool in pools.items()}


def _breaks(searches: Mapping[str, Sequence[_Drawn]]) -> dict[str, float]:
    """Where the chain breaks: shares of the first searches."""
    first = [drawn[0] for drawn in searches.values()]
    lost = [each for each in first if not each.judged.solved]
    counts = {
        "searches with a wrong step": sum(each.judged.fault is not None for each in first),
        "searches lost at a wrong step": sum(each.judged.fault is not None for each in lost),
        "searches cut off": sum(each.trace.finish_reason == "length" for each in lost),
        "searches ended without a solution": sum(each.trace.finish_reason == "stop" for each in lost),
    }
    return {name: count / len(first) for name, count in counts.items()}


def _of_like_length(
    rows: Sequence[tuple[str, str]],
) -> Callable[[np.random.Generator, int], list[tuple[str, str]]]:
    """Draws batches of rows that are neighbours in length, so that little of a batch is padding."""
    ordered = sorted(rows, key=lambda row: len(row[1]))

    def draw(rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
        near = min(4 * batch, len(ordered))
        first = int(np.clip(rng.integers(-near // 2, len(ordered) - near // 2), 0, len(ordered) - near))
        return [ordered[first + place] for place in rng.integers(0, near, batch)]

    return draw
