"""D1: are verified answers better to learn from than as many unverified ones of the same teacher?

The base model answers sums with four solved ones in its prompt; the student, the same model under its plain
prompt, learns from the verified answers, from as many drawn at random, or from as many chosen by verdicts of
other answers. Every arm has the same number of rows, steps and examples a step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from _harness import Options
from _learning import answered, compared, config, examined, mean, study, sums, teacher
from _study import Study

from docendo.agents import Engine
from docendo.distill import Random, Shuffled, Verified, train
from docendo.evals import EvalResult

SEEDS = (0, 1, 2, 3, 4)


def measure(options: Options) -> Study:
    """For each seed other answers, other rows and another training; the test questions are the same."""
    asked, questions = options.size(240, 12), options.size(300, 8)
    steps, kept = options.size(40, 2), options.size(256, 8)
    seeds = SEEDS[: options.size(5, 2)]
    task = sums(train=asked + 4, test=questions, seed=11)
    facts: dict[str, dict[str, list[float]]] = {}
    with Engine.load(options.model) as engine, tempfile.TemporaryDirectory() as folder:
        guide, rest = teacher(engine, task)
        pools: dict[int, list[dict[str, Any]]] = {}

        def pool(seed: int) -> list[dict[str, Any]]:
            if seed not in pools:
                pools[seed] = answered(
                    engine, rest, rest.train, agent=guide, samples=8, temperature=0.8, seed=seed
                )
                if options.quick:  # a model that is never right has to run it as well
                    pools[seed][0]["rewards"]["verified"] = 1.0
            return pools[seed]

        def arm(name: str) -> Any:
            def once(seed: int) -> EvalResult:
                rows = pool(seed)
                selector = {
                    "unverified": Random(seed=seed),
                    "verified": Verified(),
                    "verdicts shuffled": Shuffled(Verified(), seed=seed),
                }[name]
                most = min(kept, sum(row["rewards"]["verified"] == 1 for row in rows))
                chosen = selector.select(rows, k=most).take(rows)
                with engine.paused():
                    adapter = train(
                        options.model,
                        chosen,
                        output=Path(folder, f"{name}-{seed}"),
                        config=config(steps, seed),
                        quiet=True,
                    )
                row = facts.setdefault(name, {"right in training": [], "tokens": []})
                row["right in training"].append(mean([one["rewards"]["verified"] for one in chosen]))
                row["tokens"].append(adapter.manifest["data"]["completion_tokens"] / len(chosen) * steps * 16)
                return examined(engine, adapter, task, name)

            return once

        def untrained(seed: int) -> EvalResult:
            return examined(engine, None, task, "untrained")

        arms = {name: arm(name) for name in ("unverified", "verified", "verdicts shuffled")}
        outcome = compared(
            "D1",
            {**arms, "untrained": untrained},
            seeds=seeds,
            quick=options.quick,
            baseline="unverified",
            control="verdicts shuffled",
        )
    return study(
        "D1",
        f"{len(seeds)} seeds. {options.model} answers {asked} sums eight times each with four solved ones in "
        f"its prompt; the student learns from up to {kept} answers in {steps} steps of 16 and is asked "
        f"{questions} other sums greedily.",
        outcome,
        metric="accuracy",
        facts={arm: {key: mean(values) for key, values in row.items()} for arm, row in facts.items()},
        control=("verdicts shuffled", "none"),
        notes=["tokens: of the answers that were trained on, prompts not counted."],
    )
