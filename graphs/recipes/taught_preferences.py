"""Learning by teaching M2: a teacher learns to prefer the explanations that teach.

Explanations of training problems get a score that is half correctness and half teaching score, pairs that
differ by more than 0.3 are preferences (at most eight a problem), and DPO with a likelihood term on what is
chosen trains the teacher (Ning et al. 2024, arXiv 2406.14629, M2; beta 0.1 and these numbers are the
paper's). What is chosen always has a right answer, because only verified text is learnt from.

The world is that of `teaching-scores`. There one wrong rule in seven gives the right answer by luck, and
correctness alone cannot tell.

Claim: with as many pairs and steps the teacher that learns from both scores answers more unseen problems than
the one that learns from correctness, and than one whose teaching scores were shuffled within each problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from docendo.agents import Agent, Engine, Verifier
from docendo.checks import check_count
from docendo.distill import PretrainConfig, TrainConfig, pairs_dataset, train, train_dpo
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown
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
    has_rule,
    problems,
    train_student,
    train_teacher,
)
from docendo.hashing import derive_seed
from docendo.records import Item, Record, SamplingParams, Trace
from docendo.registry import recipe

_TEACHER = PretrainConfig(hidden=96, layers=3, steps=2500, batch=96, learning_rate=2e-3)
_STUDENT = PretrainConfig(
    hidden=64, layers=2, steps=1000, batch=64, learning_rate=3e-3, initializer_range=0.1
)
_TINY = PretrainConfig(hidden=16, layers=1, heads=2, steps=25, batch=8)
_DPO = TrainConfig(max_steps=120, learning_rate=1e-3, per_device_train_batch_size=32, lora_r=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtPreferences(Record):
    """Settings. Those of the fine-tuning were chosen on worlds of seeds that are not reported.

    Attributes:
        taught: Training problems, two for each of at most 164 contexts.
        problems: Test problems, at most 400.
        rationales: Explanations of each problem.
        nll_weight: Weight of the likelihood of what is chosen.
        teacher: How the teacher is built and trained.
        student: How the student is built and trained.
        dpo: How adapters are trained; every arm has the same steps.
        seed: First seed: of contexts, models, samples and training.
        seeds: Number of seeds.
    """

    taught: int = 328
    problems: int = 400
    rationales: int = 8
    nll_weight: float = 1.0
    teacher: PretrainConfig = _TEACHER
    student: PretrainConfig = _STUDENT
    dpo: TrainConfig = _DPO
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes: a world has no more problems."""
        check_count("taught", self.taught, 1, 2 * DEV)
        check_count("problems", self.problems, 1, TEST)
        check_count("rationales", self.rationales, 1)


@recipe(
    id="taught-preferences",
    title="Learning by teaching M2: the teacher learns from its students' exams",
    paper="Ning et al. 2024, arXiv 2406.14629",
    claim="With as many pairs and steps DPO on correctness and teaching scores answers more unseen problems "
    "than DPO on correctness, and than with teaching scores shuffled.",
    config=TaughtPreferences,
    cost="about 4 minutes a seed on one core",
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
    gain("correct and taught (M2)", over="correct", equal="pairs"),
    gain("correct and taught (M2)", over="teaching scores shuffled", equal="pairs"),
    no_gain("teaching scores shuffled", over="correct"),
    shown("correct and taught (M2)", over="untrained"),
    shown("correct", over="untrained"),
    shown("correct and taught (M2)", over="right answers alone (SFT)"),
)
def taught_preferences(config: TaughtPreferences, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Teaches, trains the teacher in every way and asks it the test problems."""
    world = World.of(seed)
    teacher = train_teacher(world, folder / "teacher", config.teacher.replace(seed=seed), 0.5, quiet=quiet)
    student = train_student(world, folder / "student", config.student.replace(seed=seed), quiet=quiet)
    halves = [problems(world.dev, seed + part, "train") for part in (0, 10_000)]
    unique = {item.id: item for half in halves for item in half}
    lessons = list(unique.values())[: config.taught]
    items = problems(world.test[: config.problems], seed)
    with Engine.load(teacher) as speaking, Engine.load(student) as learning:
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
            f"right rule: {name}": fmean(
                has_rule(text, item.public) for item, row in zip(items, texts, strict=True) for text in row
            )
            for name, texts in said.items()
        },
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
        # An explanation ends after its sixth character, so one that reaches the limit is whole.
        return [trace.replace(finish_reason="stop") for trace in finished.traces(role="teacher")]


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
