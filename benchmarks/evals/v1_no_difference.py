"""V1: how often a difference is claimed between two evaluations of one adapter.

SmolLM2 with a LoRA answers the same questions again and again, sampled. Every two evaluations are compared as
two adapters would be. A method of comparison that holds its level claims a difference in at most 5 %.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from _adapters import save_adapters
from _harness import Options
from _study import Finding, Study

from docendo import Engine, SamplingParams, Student, evals
from docendo.progress import progress
from docendo.records import Example

ITEMS, REPETITIONS, LEVEL = 100, 200, 0.05


def measure(options: Options) -> Study:
    """Evaluates, then compares every two evaluations."""
    repetitions, items = options.size(REPETITIONS, 2), options.size(ITEMS, 10)
    task = evals.tasks("reasoning_gym:chain_sum", test=items, min_terms=2, max_terms=2, max_digits=1)
    results = _results(options.model, task, 2 * repetitions)
    pairs = [evals.compare(a, b) for a, b in zip(results[::2], results[1::2], strict=True)]
    verdicts = Counter(pair.verdict for pair in pairs)
    claimed = repetitions - verdicts["no effect shown"]
    low, high = evals.wilson(claimed, repetitions)
    flips = sum(pair.up + pair.down for pair in pairs) / (repetitions * items)
    return Study(
        name="V1",
        setting=f"{2 * repetitions} evaluations of {options.model} with one LoRA, temperature 1, "
        f"a seed each, on the same {items} sums of two one-digit numbers; {repetitions} comparisons of two.",
        arms={
            "the same adapter twice": {
                "accuracy": sum(result.accuracy for result in results) / len(results),
                "answers that differ": flips,
                "claims of a difference": claimed / repetitions,
                "better": str(verdicts["better"]),
                "worse": str(verdicts["worse"]),
            }
        },
        findings=[
            Finding(
                name="claims of a difference, above the 5 % that are allowed",
                value=claimed / repetitions - LEVEL,
                low=low - LEVEL,
                high=high - LEVEL,
                pairs=repetitions,
            )
        ],
        notes=("A claim needs two tests to agree (interval and exact test), so it is rarer than 5 %.",),
    )


def _results(model: str, task: evals.Task, count: int) -> Sequence[evals.EvalResult]:
    sampling = SamplingParams(temperature=1.0, max_tokens=12)
    results = []
    with tempfile.TemporaryDirectory() as scratch, Engine.load(model) as engine:
        engine.load_adapter("one", save_adapters(model, Path(scratch), ["one"])["one"])
        student = Student(engine, adapter="one", examples=task_examples())
        with progress("evaluations", count) as bar:
            for seed in range(count):
                drawn = sampling.replace(seed=seed)
                results.append(evals.evaluate(student, task, sampling=drawn, name=f"seed {seed}", quiet=True))
                bar.advance(1)
    return results


def task_examples() -> tuple[Example, ...]:
    """Worked examples, of questions that no test set holds."""
    task = evals.tasks("reasoning_gym:chain_sum", train=4, test=0, min_terms=3, max_terms=3, max_digits=1)
    return task.examples(4, steps=False)
