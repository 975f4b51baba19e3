"""What the studies of learning share: questions, a teacher's answers, training, and arms over seeds."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _study import Effect, Finding, Study

from docendo.agents import Engine, Student, Teacher
from docendo.distill import Adapter, TrainConfig
from docendo.evals import Comparison, EvalResult, Task, evaluate, tasks
from docendo.hashing import derive_seed
from docendo.records import Item, Request, SamplingParams

#: Sums of two and three numbers of one digit: SmolLM2 answers 12 to 16 % of them.
SUMS: Mapping[str, Any] = {"min_terms": 2, "max_terms": 3, "max_digits": 1}
SHORT = SamplingParams(max_tokens=16)
WORK = Path(__file__).resolve().parent.parent / "runs" / "studies"


def sums(*, train: int, test: int, seed: int) -> Task:
    """Sums to learn from and others to be asked."""
    return tasks("reasoning_gym:chain_sum", train=train, test=test, seed=seed, **SUMS)


def answered(
    engine: Engine,
    task: Task,
    items: Sequence[Item],
    *,
    agent: Any,
    samples: int,
    temperature: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of an agent's answers under the student's own prompt, each with its verdict as a reward."""
    student = Student(engine)
    asked = [
        engine.submit(
            Request(
                prompt=agent.messages(item.public),
                adapter=agent.adapter,
                sampling=SamplingParams(
                    n=samples,
                    temperature=temperature,
                    max_tokens=SHORT.max_tokens,
                    seed=derive_seed("study", seed, item.id) % 2**31,
                ),
            )
        )
        for item in items
    ]
    rows = []
    for item, future in zip(items, asked, strict=True):
        for completion in future.result().completions:
            if completion.text.strip() and completion.finish_reason == "stop":
                rows.append(
                    {
                        "prompt": list(student.messages(item.public)),
                        "completion": [{"role": "assistant", "content": completion.text.strip()}],
                        "item": item.id,
                        "rewards": {"verified": task.scorer.score(item, completion.text).value},
                    }
                )
    return rows


def teacher(engine: Engine, task: Task) -> tuple[Teacher, Task]:
    """The base model with four solved sums in its prompt, and the task without these."""
    shown = task.examples(4, steps=False)
    return Teacher(engine, examples=shown), task.without(shown)


def examined(engine: Engine, adapter: Adapter | None, task: Task, name: str) -> EvalResult:
    """The student's answers to the test questions, greedily, with an adapter."""
    student = Student(engine, sampling=SHORT)
    if adapter is not None:
        engine.load_adapter("learnt", adapter.path)  # in the place of the one before
        student = student.with_adapter("learnt")
    return evaluate(student, task.test, scorer=task.scorer, name=name, quiet=True)


def config(steps: int, seed: int, **changes: Any) -> TrainConfig:
    """Settings of a training; each arm has the same."""
    return TrainConfig(max_steps=steps, seed=seed, **changes)


def compared(
    name: str,
    arms: Mapping[str, Callable[[int], EvalResult]],
    *,
    seeds: Sequence[int],
    quick: bool,
    **options: Any,
) -> Any:
    """Runs a comparison whose finished runs are kept until it has ended."""
    folder = None if quick else WORK / name
    outcome = Comparison(arms=arms, seeds=seeds, unit="calls", **options).run(folder=folder)
    print(outcome, flush=True)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def study(
    name: str,
    setting: str,
    outcome: Any,
    *,
    metric: str,
    facts: Mapping[str, Mapping[str, float | str]],
    control: tuple[str, Effect] | None = None,
    notes: Sequence[str] = (),
    sign: float = 1.0,
    detail: Mapping[str, Any] | None = None,
) -> Study:
    """A study of an outcome.

    Args:
        name: Of the study.
        setting: Data, sizes, seeds.
        outcome: Of the comparison.
        metric: What the figures are.
        facts: Further figures by arm.
        control: The arm that is the control, and what it must show.
        notes: What a reader must know.
        sign: -1 where less is better, so that a gain is above 0.
        detail: Whatever else is worth recording.
    """
    findings = []
    for pair in outcome.pairs:
        low, high = sorted(sign * end for end in pair.interval)
        is_control = control is not None and pair.name == control[0]
        findings.append(
            Finding(
                name=f"{metric}: {pair.name} over {pair.against}",
                value=sign * pair.difference,
                low=low,
                high=high,
                pairs=pair.n,
                control=control[1] if control and is_control else None,
            )
        )
    return Study(
        name=name,
        setting=setting,
        arms={
            arm.name: {
                metric: arm.mean,
                "by seed": " ".join(f"{value:.3f}" for value in arm.seeds),
                **facts.get(arm.name, {}),
            }
            for arm in outcome.arms
        },
        findings=findings,
        notes=[*notes, *(f"{pair.name}: {pair.verdict}. {pair.reason}" for pair in outcome.pairs)],
        detail=dict(detail or {}),
    )


def mean(values: Sequence[float]) -> float:
    """Their mean; 0 of none."""
    return statistics.fmean(values) if values else 0.0
