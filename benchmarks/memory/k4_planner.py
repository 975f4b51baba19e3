"""K4: learning paths and diagnosis: the greedy cover against the optimum, traced mastery against averages.

The planner is held against all covers by its own candidate paths (brute force), on random graphs with at
most 12 weak concepts. Diagnosis is held against averages of past answers, on learners that are small
networks: they answer by sampling, and learn from each lesson by gradient steps.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

from _harness import Options
from _study import Study, difference

from docendo.hashing import derive_seed
from docendo.memory import LearningPath, LearningPlan, PathPlanner, Tracing

SEEDS = (0, 1, 2)
CONCEPTS = 8
NUMBERS = 5
#: How far learners differ in the logarithm of their pace; the fastest learn alike.
SPREAD = 1.5
#: Lessons that a learner had before in the half of the concepts that it was taught.
BEFORE = 60


def measure(options: Options) -> Study:
    """Plans on random graphs, then traces learners that were not used for the fit."""
    graphs, learners = options.size(200, 10), options.size(40, 6)
    plans = [_graph(derive_seed("a4", seed, n)) for seed in SEEDS for n in range(graphs)]
    greedy, drawn, mixed, within = [], [], [], []
    for number, (plan, weak) in enumerate(plans):
        best = _cheapest(plan)
        draw = random.Random(derive_seed("a4 random", number))
        greedy.append(plan.cost / best)
        within.append(float(plan.cost <= (1 + math.log(weak)) * best + 1e-9))
        drawn.append(statistics.fmean(_random_cost(plan, draw) for _ in range(20)) / best)
        mixed.append(statistics.fmean(_mixed_cost(plan, draw) for _ in range(20)) / best)
    scores = [one for seed in SEEDS for one in _diagnosis(seed, learners)]
    arms: dict[str, dict[str, float | str]] = {
        "greedy cover": {
            "cost over optimum": statistics.fmean(greedy),
            "worst": max(greedy),
            "optimal": statistics.fmean(one <= 1 + 1e-9 for one in greedy),
            "within 1 + ln n": statistics.fmean(within),
        },
        "random paths": {"cost over optimum": statistics.fmean(drawn), "worst": max(drawn)},
        "greedy on another path's cost": {
            "cost over optimum": statistics.fmean(mixed),
            "worst": max(mixed),
        },
    }
    for name in scores[0]:
        arms[f"diagnosis: {name}"] = {"AUROC": statistics.fmean(one[name] for one in scores)}
    traced = [one["traced mastery"] for one in scores]
    return Study(
        name="K4",
        setting=(
            f"{len(plans)} random prerequisite graphs of 8 to 16 concepts, at most 12 of them weak, "
            f"{len(SEEDS)} seeds. {len(scores)} learners (networks of 64 hidden units, {CONCEPTS} concepts "
            "of arithmetic modulo 5, half of them taught before, 30 sampled answers each), "
            "parameters fitted on as many others."
        ),
        arms=arms,
        findings=[
            difference("cost saved by the greedy cover over random paths", of=drawn, over=greedy),
            difference(
                "the same with each path's cost taken from another path",
                of=drawn,
                over=mixed,
                control="none",
            ),
            difference(
                "AUROC, traced mastery over the concept's average",
                of=traced,
                over=[one["concept average"] for one in scores],
            ),
            difference(
                "AUROC, traced mastery over the learner's average in the concept",
                of=traced,
                over=[one["learner's average"] for one in scores],
            ),
            difference(
                "AUROC, traced mastery over the learning curve (the concept's average at that answer)",
                of=traced,
                over=[one["learning curve"] for one in scores],
            ),
            difference(
                "AUROC, tracing another learner's answers over the learning curve",
                of=[one["another learner's answers"] for one in scores],
                over=[one["learning curve"] for one in scores],
            ),
            difference(
                "AUROC, tracing another learner's answers over the learner's own",
                of=[one["another learner's answers"] for one in scores],
                over=traced,
                control="loss",
            ),
        ],
        notes=[
            "The optimum is over covers by the planner's own paths; how good those are is not asked.",
            "A graph is one pair, and so is a learner; graphs whose plan needs one path alone are left out.",
        ],
    )


def _graph(seed: int) -> tuple[LearningPlan, int]:
    """A random plan in which there is a choice, and how many concepts are weak."""
    draw = random.Random(seed)
    while True:
        names = [f"c{number:02}" for number in range(draw.randint(8, 16))]
        needs = {
            name: tuple(draw.sample(names[:place], min(place, draw.choice((0, 1, 1, 2, 3)))))
            for place, name in enumerate(names)
        }
        weak = draw.sample(names, min(len(names), draw.randint(6, 12)))
        mastery = {name: draw.uniform(0, 0.59) if name in weak else draw.uniform(0.6, 1) for name in names}
        goals = draw.sample(weak, min(len(weak), draw.randint(4, 10)))
        plan = PathPlanner().plan(
            needs, mastery=mastery, goals=goals, difficulty={name: draw.random() * 3 for name in names}
        )
        if len(plan.paths) > 1:
            return plan, len(weak)


def _covered(paths: Sequence[LearningPath]) -> set[str]:
    return {concept for path in paths for concept in path.covers}


def _cheapest(plan: LearningPlan) -> float:
    wanted = _covered(plan.candidates)
    return min(
        sum(path.cost for path in chosen)
        for size in range(1, len(plan.candidates) + 1)
        for chosen in itertools.combinations(plan.candidates, size)
        if _covered(chosen) == wanted
    )


def _random_cost(plan: LearningPlan, draw: random.Random) -> float:
    """Cost of useful paths taken in random order until all is covered."""
    left, cost = _covered(plan.candidates), 0.0
    for path in draw.sample(plan.candidates, len(plan.candidates)):
        if left.intersection(path.covers):
            left.difference_update(path.covers)
            cost += path.cost
    return cost


def _mixed_cost(plan: LearningPlan, draw: random.Random) -> float:
    """Cost of the greedy rule where each path is judged by cost and cover of another one."""
    judged = draw.sample(plan.candidates, len(plan.candidates))
    left, cost, paths = _covered(plan.candidates), 0.0, dict(enumerate(plan.candidates))
    while left:
        useful = [number for number, path in paths.items() if left.intersection(path.covers)]
        best = min(useful, key=lambda number: judged[number].cost / len(judged[number].covers))
        path = paths.pop(best)
        left.difference_update(path.covers)
        cost += path.cost
    return cost


def _diagnosis(seed: int, learners: int) -> list[dict[str, float]]:
    """AUROC of each learner of the second half, by predictor; parameters come from the first half."""
    answers = _answers(seed, 2 * learners, rounds=30)
    known, judged = answers[:learners], answers[learners:]
    fitted = [Tracing.fit([row[concept] for row in known]) for concept in range(CONCEPTS)]
    average = [
        statistics.fmean(right for row in known for right in row[concept]) for concept in range(CONCEPTS)
    ]
    curve = [
        [statistics.fmean(row[concept][step] for row in known) for step in range(len(known[0][concept]))]
        for concept in range(CONCEPTS)
    ]
    found = []
    for number, row in enumerate(judged):
        other = judged[(number + 1) % len(judged)]
        made: dict[str, list[float]] = {}
        truth: list[bool] = []
        for concept in range(CONCEPTS):
            skill, rights = fitted[concept], row[concept]
            truth += rights
            mine, theirs = skill.trace(rights), skill.trace(other[concept])
            for step in range(len(rights)):
                past = rights[:step]
                for name, value in (
                    ("traced mastery", skill.predict(mine[step])),
                    ("concept average", average[concept]),
                    ("learner's average", (sum(past) + 2 * average[concept]) / (step + 2)),
                    ("learning curve", curve[concept][step]),
                    ("another learner's answers", skill.predict(theirs[step])),
                ):
                    made.setdefault(name, []).append(value)
        if 0 < sum(truth) < len(truth):
            found.append({name: _auroc(values, truth) for name, values in made.items()})
    return found


def _auroc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    positive = sum(truth)
    total = sum(rank for rank, right in zip(ranks, truth, strict=True) if right)
    return float((total - positive * (positive + 1) / 2) / (positive * (len(truth) - positive)))


def _answers(seed: int, learners: int, *, rounds: int) -> list[list[list[bool]]]:
    """For each learner and concept the course of its answers while it is being taught.

    All learners are trained at once: one batched product per layer. They differ in their weights, in how
    fast they learn, in their lessons, and in which half of the concepts they were taught before.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    functions = (
        lambda a, b: a,
        lambda a, b: (a + 1) % NUMBERS,
        lambda a, b: torch.maximum(a, b),
        lambda a, b: (a + b) % NUMBERS,
        lambda a, b: (a * b) % NUMBERS,
        lambda a, b: (2 * a + b) % NUMBERS,
        lambda a, b: (a * a + b) % NUMBERS,
        lambda a, b: (a * b + a) % NUMBERS,
    )
    width = CONCEPTS + 2 * NUMBERS
    weights = [normal(learners, width, 64) * 0.4, normal(learners, 64, NUMBERS) * 0.1]
    for weight in weights:
        weight.requires_grad_(True)
    pace = torch.exp(torch.rand(learners, 1, 1, generator=generator) * SPREAD - SPREAD + 0.5)

    def questions(concept: int, count: int) -> tuple[Any, Any]:
        a, b = (torch.randint(NUMBERS, (learners, count), generator=generator) for _ in range(2))
        parts = [torch.full((learners, count), concept), a, b]
        sizes = (CONCEPTS, NUMBERS, NUMBERS)
        hot = [torch.nn.functional.one_hot(p, n).float() for p, n in zip(parts, sizes, strict=True)]
        return torch.cat(hot, -1), functions[concept](a, b)

    def logits(inputs: Any) -> Any:
        return torch.relu(inputs @ weights[0]) @ weights[1]

    def teach(concept: int, who: Any) -> None:
        lesson, gold = questions(concept, 12)
        losses = torch.nn.functional.cross_entropy(
            logits(lesson).flatten(0, 1), gold.flatten(), reduction="none"
        )
        loss = (losses.view(learners, -1).mean(1) * who).sum()
        steps = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, step in zip(weights, steps, strict=True):
                weight -= pace * step

    order = torch.rand(learners, CONCEPTS, generator=generator).argsort(1)
    taught = (order < CONCEPTS // 2).float()
    for _ in range(BEFORE):
        for concept in torch.randperm(CONCEPTS, generator=generator).tolist():
            teach(concept, taught[:, concept])
    everybody = torch.ones(learners)
    rights: list[list[list[bool]]] = [[[] for _ in range(CONCEPTS)] for _ in range(learners)]
    for _ in range(rounds):
        for concept in torch.randperm(CONCEPTS, generator=generator).tolist():
            asked, gold = questions(concept, 1)
            with torch.no_grad():
                shares = torch.softmax(logits(asked)[:, 0], -1)
                said = torch.multinomial(shares, 1, generator=generator)
            for number, right in enumerate((said == gold).flatten().tolist()):
                rights[number][concept].append(bool(right))
            teach(concept, everybody)
    return rights
