"""D3: do three rounds of expert iteration beat one of the same samples and the same training?

In one round the untrained student draws twelve answers to each sum, and an adapter learns from the right ones
in 90 steps. In three rounds it draws four in each, the second and third time with the adapter that the round
before has trained from scratch in 30 steps on all right answers so far.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from _harness import Options
from _learning import SHORT, compared, config, examined, mean, study
from _study import Study

from docendo.agents import Engine, Student
from docendo.distill import Adapter, expert_iteration
from docendo.evals import EvalResult, tasks
from docendo.records import Item
from docendo.scoring import Score, Scorer

SEEDS = (0, 1, 2, 3, 4)
SUMS = {"min_terms": 2, "max_terms": 3, "max_digits": 1}


class Anything(Scorer):
    """Holds every answer to be right."""

    def score(self, item: Item, text: str) -> Score:
        """Right."""
        return Score(correct=True, value=1.0, parsed=text)

    def leaks(self, item: Item, text: str) -> bool:
        """There is nothing to give away."""
        return False


def measure(options: Options) -> Study:
    """For each seed other samples and another training; the test questions are the same."""
    asked, questions = options.size(200, 24), options.size(300, 8)
    samples, steps = options.size(12, 3), options.size(90, 3)
    seeds = SEEDS[: options.size(5, 1)]
    task = tasks("reasoning_gym:chain_sum", train=asked, dev=8, test=questions, seed=13, **SUMS)
    if options.quick:  # a model that is never right has to run it as well
        task = replace(task, scorer=Anything())
    facts: dict[str, dict[str, list[float]]] = {}
    with Engine.load(options.model) as engine, tempfile.TemporaryDirectory() as folder:

        def arm(name: str, rounds: int) -> Any:
            def once(seed: int) -> EvalResult:
                where = Path(folder, f"{rounds}-{seed}")
                expert_iteration(
                    Student(engine, sampling=SHORT),
                    task,
                    folder=where,
                    rounds=rounds,
                    samples=samples // rounds,
                    config=config(steps // rounds, seed),
                    seed=seed,
                    quiet=True,
                )
                adapter = Adapter.open(where / f"round-{rounds}" / "adapter")
                row = facts.setdefault(name, {"rows of the last round": []})
                row["rows of the last round"].append(adapter.manifest["data"]["examples"])
                return examined(engine, adapter, task, name)

            return once

        outcome = compared(
            "D3",
            {
                "one round": arm("one round", 1),
                "three rounds": arm("three rounds", 3),
                "untrained": lambda seed: examined(engine, None, task, "untrained"),
            },
            seeds=seeds,
            quick=options.quick,
            baseline="one round",
        )
    return study(
        "D3",
        f"{len(seeds)} seeds. {options.model}, {asked} sums to learn from, {samples} answers each in all, "
        f"{steps} steps of 16 in all, {questions} other sums asked greedily.",
        outcome,
        metric="accuracy",
        facts={arm: {key: mean(values) for key, values in row.items()} for arm, row in facts.items()},
    )
