"""Learning by teaching M2: a teacher learns to prefer the explanations that teach.

Explanations of training problems get a score that is half correctness and half teaching score, pairs that
differ by more than 0.3 are preferences (at most eight a problem), and DPO with a likelihood term on what is
chosen trains the teacher (Ning et al. 2024, arXiv 2406.14629, M2; beta 0.1 and these numbers are the
paper's; its likelihood term weighs 50, here 1, and rate and steps are this recipe's own). What is chosen
always has a right answer, because only verified text is learnt from.

The world (`_habits.py`) is one in which an answer does not tell whether its explanation is right: half of the
teacher's explanations have a wrong factor, and training problems are easy ones that are answered rightly with
any. In exams, which ask about other inputs, a wrong factor fails. The other habit, a wrong sum in the end,
shows in the answer. Where right answers come of right explanations only, both scores say the same.

Claim: with as many pairs and steps the teacher that learns from both scores answers more unseen problems than
the untrained one, than the one that learns from correctness, and than one whose teaching scores were shuffled
within each problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from docendo.agents import Agent, Engine, Verifier
from docendo.checks import check_count
from docendo.distill import PretrainConfig, TrainConfig, pairs_dataset, train, train_dpo
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown, within
from docendo.graphs import learning_by_teaching, run
from docendo.graphs.recipes._affine import (
    ANSWER,
    DEV,
    LESSON,
    TEST,
    LastDigit,
    SameRule,
    World,
    answers,
    problems,
)
from docendo.graphs.recipes._habits import easy_problems, has_factor, train_student, train_teacher
from docendo.hashing import derive_seed
from docendo.records import Item, Record, SamplingParams, Trace
from docendo.registry import recipe

_TEACHER = PretrainConfig(hidden=48, layers=2, steps=1500, batch=64, learning_rate=4e-3)
_STUDENT = _TEACHER
_TINY = PretrainConfig(hidden=16, layers=1, heads=2, steps=25, batch=8)
_DPO = TrainConfig(
    max_steps=60, learning_rate=1e-3, per_device_train_batch_size=32, dtype="float32", save_steps=0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtPreferences(Record):
    """Settings. Those of the fine-tuning were chosen on worlds of seeds that are not reported.

    Attributes:
        taught: Training problems, at most 164.
        problems: Test problems, at most 400.
        rationales: Explanations of each problem.
        until: Share of what the teacher says of development contexts that its corpus could have said; with
            it the teacher is done.
        nll_weight: Weight of the likelihood of what is chosen.
        teacher: How the teacher is built and trained.
        student: How the student is built and trained.
        dpo: How adapters are trained; every arm has the same steps.
        seed: First seed: of contexts, models, samples and training.
        seeds: Number of seeds.
    """

    taught: int = 164
    problems: int = 200
    rationales: int = 8
    until: float = 0.9
    nll_weight: float = 1.0
    teacher: PretrainConfig = _TEACHER
    student: PretrainConfig = _STUDENT
    dpo: TrainConfig = _DPO
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes: a world has no more problems."""
        check_count("taught", self.taught, 1, DEV)
        check_count("problems", self.problems, 1, TEST)
        check_count("rationales", self.rationales, 1)


@recipe(
    id="taught-preferences",
    title="Learning by teaching M2: the teacher learns from its students' exams",
    paper="Ning et al. 2024, arXiv 2406.14629",
    claim="Where wrong explanations give right answers to training problems, DPO on correctness and teaching "
    "scores answers more unseen problems than the untrained teacher, than DPO on correctness with as many "
    "pairs and steps, and than with teaching scores shuffled.",
    config=TaughtPreferences,
    cost="about 2 minutes a seed on one core",
    needs=("package:trl",),
    scales={
        "tiny": {
            "taught": 40,
            "problems": 12,
            "teacher": _TINY.replace(hidden=32, steps=50, batch=32),
            "student": _TINY,
            "dpo": _DPO.replace(max_steps=2, per_device_train_batch_size=4),
            "seeds": 2,
        }
    },
)
@experiment(
    gain("correct and taught (M2)", over="untrained"),
    gain("correct and taught (M2)", over="correct", equal="pairs"),
    gain("correct and taught (M2)", over="teaching scores shuffled", equal="pairs"),
    no_gain("teaching scores shuffled", over="correct"),
    within("teaching score: right factor", least=0.8),
    within("teaching score: wrong factor", most=0.2),
    shown("correct", over="untrained"),
    shown("correct and taught (M2)", over="right answers alone (SFT)"),
)
def taught_preferences(config: TaughtPreferences, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Teaches, trains the teacher in every way and asks it the test problems."""
    world = World.of(seed)
    teacher = train_teacher(
        world, folder / "teacher", config.teacher.replace(seed=seed), config.until, quiet=quiet
    )
    student = train_student(world, folder / "student", config.student.replace(seed=seed), quiet=quiet)
    lessons = easy_problems(world.dev[: config.taught])
    items = problems(world.test[: config.problems], seed)
    with (
        Engine.load(teacher, dtype="float32") as speaking,
        Engine.load(student, dtype="float32") as learning,
    ):
        traces = _taught(config, lessons, speaking, learning, folder, seed, quiet=quiet)
        kinds = _kinds(traces, lessons, items, seed)
        count = min(len(rows) for rows in kinds.values())
        adapters: dict[str, str | None] = {"untrained": None}
        with speaking.paused():
            for place, (name, rows) in enumerate(kinds.items()):
                output, dpo = folder / f"adapter-{place}", config.dpo.replace(seed=seed)
                if name == "right answers alone (SFT)":
                    made = train(teacher, rows[:count], output=output, config=dpo, resume=True, quiet=True)
                else:
                    made = train_dpo(
                        teacher,
                        rows[:count],
                        output=output,
                        config=dpo,
                        nll_weight=config.nll_weight,
                        resume=True,
                        quiet=True,
                    )
                adapters[name] = output.name
                speaking.load_adapter(output.name, made.path)
        prompts = [[item.public.question] * 8 for item in items]
        said = {
            name: [
                [one.text for one in row]
                for row in answers(speaking, prompts, length=LESSON, seed=seed, adapter=adapter)
            ]
            for name, adapter in adapters.items()
        }
    scorer = LastDigit()
    return Trial(
        arms={
            name: Scores(
                values={
                    item.id: fmean(scorer.score(item, text).correct for text in row)
                    for item, row in zip(items, texts, strict=True)
                },
                spent={"pairs": count} if name != "untrained" else {},
            )
            for name, texts in said.items()
        },
        facts={
            f"right factor: {name}": fmean(
                has_factor(text, item.public) for item, row in zip(items, texts, strict=True) for text in row
            )
            for name, texts in said.items()
        }
        | _taught_by(traces, lessons),
    )


def _taught(
    config: TaughtPreferences,
    lessons: Sequence[Item],
    teacher: Engine,
    student: Engine,
    folder: Path,
    seed: int,
    *,
    quiet: bool,
) -> list[Trace]:
    """The teacher's explanations with their rewards: "verified", "teaching" and their mean, "taught"."""
    explaining = SamplingParams(n=config.rationales, temperature=1.0, max_tokens=LESSON)
    graph = learning_by_teaching(
        teacher=Agent(teacher, role="teacher", sampling=explaining),
        students=[
            Agent(student, role="student", sampling=SamplingParams(temperature=0.7, max_tokens=ANSWER))
        ],
        exam=SameRule(),
        verifier=Verifier(LastDigit()),
        read=lambda text: text[-1:] or None,
        repeats=2,
        grade=0.5,
    )
    known = (folder / "lessons").is_dir()
    with run(graph, lessons, name="lessons", folder=folder, seed=seed, resume=known, quiet=quiet) as finished:
        # An explanation ends after its sixth character, so one that reaches the limit is whole. In the order
        # of the problems and samples: that in which they were stored depends on what ended first.
        place = {item.id: place for place, item in enumerate(lessons)}
        said = finished.traces(role="teacher")
        said.sort(key=lambda trace: (place[trace.item], trace.sample))
        return [trace.replace(finish_reason="stop") for trace in said]


def _taught_by(traces: Sequence[Trace], lessons: Sequence[Item]) -> dict[str, float]:
    """What explanations of training problems teach, and how many right answers have a wrong factor."""
    problem = {item.id: item.public for item in lessons}
    scores: dict[bool, list[float]] = {True: [], False: []}
    lucky = []
    for trace in traces:
        right = has_factor(trace.completion, problem[trace.item])
        scores[right].append(trace.rewards["teaching"])
        if trace.rewards["verified"]:
            lucky.append(float(not right))
    return {
        "teaching score: right factor": _mean(scores[True]),
        "teaching score: wrong factor": _mean(scores[False]),
        "right answers with a wrong factor": _mean(lucky),
    }


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _kinds(
    traces: Sequence[Trace], lessons: Sequence[Item], items: Sequence[Item], seed: int
) -> Mapping[str, list[dict[str, Any]]]:
    """Rows to learn from by arm, in an order drawn at random."""
    rng = np.random.default_rng(derive_seed("preferences", seed))
    by_item: dict[str, list[Trace]] = {}
    for trace in traces:
        by_item.setdefault(trace.item, []).append(trace)
    astray = []
    for siblings in by_item.values():
        for trace, place in zip(siblings, rng.permutation(len(siblings)), strict=True):
            shuffled = siblings[place].rewards["teaching"]
            mixed = (trace.rewards["verified"] + shuffled) / 2
            astray.append(trace.replace(rewards={**trace.rewards, "taught": mixed}))

    def pairs(said: Sequence[Trace], reward: str) -> list[dict[str, Any]]:
        data = pairs_dataset(
            said,
            items=lessons,
            exclude=items,
            select="margin",
            reward=reward,
            margin=0.3,
            max_per_item=8,
            quiet=True,
        )
        return [dict(row) for row in data]

    kinds = {
        "correct": pairs(traces, "verified"),
        "correct and taught (M2)": pairs(traces, "taught"),
        "teaching scores shuffled": pairs(astray, "taught"),
    }
    kinds["right answers alone (SFT)"] = [
        {"prompt": row["prompt"], "completion": row["chosen"]} for row in kinds["correct"]
    ]
    return {name: _mixed(rows, rng.permutation) for name, rows in kinds.items()}


def _mixed(rows: Sequence[dict[str, Any]], permutation: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [rows[place] for place in permutation(len(rows))]
