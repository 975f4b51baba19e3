"""Tailored lessons: a teacher sees what its student gets wrong, and teaches that.

In each round the student sits an exam, a teacher reads its wrong workings and writes lessons about them,
right lessons are learnt, and with self-reflection the student's own mistake is pushed away from the right
answer by a contrastive loss (Wang et al. 2023, "Democratizing Reasoning Ability: Tailored Learning from Large
Language Model", arXiv 2310.13332; four attempts at an item, weight 0.5 and margin 1 of the contrast are of
the authors' code). The rounds are `distill.tailored_rounds`.

The world is sums worked out step by step by a student who believes some facts wrongly
(`_misconceptions.py`); student and teacher are trained from nothing. As in the paper a lesson is the right
working of a missed question by a teacher who sees the wrong one. All arms have one teacher, as many rounds,
steps and trained tokens; they differ in whose mistakes the teacher reads: the student's own, those of another
student with misconceptions of its own (the control), or slips at random in all questions. Sizes and rates
were chosen on seeds that are not reported.

What was found: one's own mistakes taught better than another's, and in rounds better than at once, but not
better than random slips, which are slips in all questions. Who is taught only what it missed forgets other
facts, one round of it even below the untrained student; later rounds find that and mend it.

Claim: lessons about the student's own mistakes make it answer more unseen sums than lessons about random
slips.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from docendo.agents import Agent, Engine, ScriptedEngine
from docendo.checks import check_count
from docendo.distill import (
    Adapter,
    CrossEntropy,
    Objective,
    PretrainConfig,
    TrainConfig,
    TripletHidden,
    load_dataset,
    pretrain,
    tailored_rounds,
)
from docendo.distill.recipes import _misconceptions as world
from docendo.evals import Scores, Task, Trial, evaluate, experiment, gain, no_gain, shown, within
from docendo.hashing import derive_seed, digest
from docendo.records import Item, Record, Request, SamplingParams
from docendo.registry import recipe

_STUDENT = PretrainConfig(hidden=48, layers=2, steps=1000, batch=64, learning_rate=4e-3)
_TEACHER = PretrainConfig(hidden=48, layers=2, steps=500, batch=64, learning_rate=4e-3)
_TRAINING = TrainConfig(
    max_steps=10, per_device_train_batch_size=32, learning_rate=3e-3, dtype="float32", save_steps=0
)
#: Sums that are asked in each round, to watch it.
_DEV = 50
OWN, REFLECTING, ONCE = "own mistakes", "own mistakes, self-reflection", "own mistakes, one round"
OTHER, RANDOM, UNTRAINED = "another student's mistakes", "random slips", "untrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailoredLessons(Record):
    """Settings.

    Attributes:
        terms: Digits of a sum.
        wrong: Facts of 147 that a student believes wrongly.
        train: Sums of the exam.
        test: Test sums.
        rounds: Rounds of exam, lessons and training.
        temperature: Of attempts; at 1 a small model errs at random more often than by misconception.
        contrast: Weight of self-reflection; 0.5 as in the authors' code.
        student: How a student is built and trained.
        teacher: How the teacher is built and trained.
        training: Settings of a round's training.
        seed: First seed: of misconceptions, models and samples.
        seeds: Number of seeds.
    """

    terms: int = 4
    wrong: int = 12
    train: int = 200
    test: int = 300
    rounds: int = 3
    temperature: float = 0.3
    contrast: float = 0.5
    student: PretrainConfig = _STUDENT
    teacher: PretrainConfig = _TEACHER
    training: TrainConfig = _TRAINING
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes: there are 147 facts."""
        check_count("terms", self.terms, 2)
        check_count("wrong", self.wrong, 1, len(world.FACTS))
        for name in ("train", "test", "rounds"):
            check_count(name, getattr(self, name), 1)


@recipe(
    id="tailored-lessons",
    title="Tailored lessons: the teacher sees what its student gets wrong",
    paper="Wang et al. 2023, arXiv 2310.13332",
    claim="With as many trained tokens a student answers more unseen sums after lessons about its own "
    "mistakes than after lessons about random slips or about another student's mistakes; the latter two help "
    "alike.",
    config=TailoredLessons,
    cost="about 3 minutes a seed on one core",
    scales={
        "tiny": {
            "terms": 2,
            "wrong": 60,
            "train": 20,
            "test": 8,
            "rounds": 1,
            "student": _STUDENT.replace(hidden=32, layers=1, heads=2, steps=200),
            "teacher": _TEACHER.replace(hidden=32, layers=1, heads=2, steps=700),
            "training": _TRAINING.replace(max_steps=2),
            "seeds": 2,
        }
    },
)
@experiment(
    gain(OWN, over=RANDOM, equal="trained tokens"),
    gain(OWN, over=OTHER, equal="trained tokens"),
    no_gain(OTHER, over=RANDOM),
    within(f"first lessons about a misconception: {OWN}", 0.8),
    shown(OWN, over=UNTRAINED),
    shown(RANDOM, over=UNTRAINED),
    shown(REFLECTING, over=OWN),
    shown(OWN, over=ONCE),
)
def tailored_lessons(config: TailoredLessons, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Trains student and teacher, teaches the student in every way and asks it the test sums."""
    return _Seed(config=config, seed=seed, folder=folder, quiet=quiet).trial()


class _Arm(NamedTuple):
    """Who sits the exam in the student's place, over how many rounds, and what is minimised."""

    sitter: Callable[[Agent], Agent] | None
    rounds: int
    objective: Objective | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """One seed."""

    config: TailoredLessons
    seed: int
    folder: Path
    quiet: bool

    def trial(self) -> Trial:
        """Every arm starts from the same student."""
        config = self.config
        rng = np.random.default_rng(derive_seed("misconceptions", self.seed))
        own, others = (world.misconceptions(rng, config.wrong) for _ in range(2))
        task = self._task(rng)
        student, teacher = self._models(task, own)
        arms: dict[str, Scores] = {}
        facts: dict[str, float] = {}
        with (
            Engine.load(student, dtype="float32") as learning,
            Engine.load(teacher, dtype="float32") as speaking,
        ):
            learner = self._solver(learning)
            tutor = Agent(
                speaking,
                role="teacher",
                prompt=world.TEACH,
                sampling=SamplingParams(max_tokens=config.terms),
            )
            arms[UNTRAINED] = self._scores(learner, task, 0)
            for name, arm in self._plans(others).items():
                adapters, told = self._taught(learner, tutor, task, name, arm)
                learning.load_adapter("taught", adapters[-1].path)
                tokens = sum(self._tokens(each, len(adapters)) for each in adapters)
                arms[name] = self._scores(learner.with_adapter("taught"), task, tokens)
                facts[f"first lessons about a misconception: {name}"] = fmean(
                    not own.keys().isdisjoint(world.facts(question)) for question in told
                )
        return Trial(arms=arms, facts=facts)

    def _task(self, rng: np.random.Generator) -> Task:
        """Sums that are different in all parts."""
        config = self.config
        test = world.items(rng, config.terms, config.test, "test", ())
        train = world.items(rng, config.terms, config.train, "train", _questions(test))
        dev = world.items(rng, config.terms, _DEV, "dev", _questions([*test, *train]))
        parts = (tuple(train), tuple(dev), tuple(test))
        return Task(
            name="misconceptions",
            train=parts[0],
            dev=parts[1],
            test=parts[2],
            scorer=world.LastResult(),
            fingerprint=digest(*map(_questions, parts)),
        )

    def _models(self, task: Task, own: Mapping[str, str]) -> list[Path]:
        """The student with its misconceptions, and the teacher."""
        config = self.config
        hidden = set(_questions([*task.test, *task.dev, *task.train]))
        return [
            pretrain(
                draw,
                alphabet=world.ALPHABET,
                ends=True,
                output=self.folder / name,
                config=settings.replace(seed=derive_seed(name, self.seed) % 2**31),
                resume=True,
                quiet=self.quiet,
            )
            for name, draw, settings in (
                ("student", world.student_rows(config.terms, own, hidden), config.student),
                ("teacher", world.teacher_rows(config.terms, hidden), config.teacher),
            )
        ]

    def _plans(self, others: Mapping[str, str]) -> dict[str, _Arm]:
        """All ways to be taught."""
        config = self.config
        other = self._solver(_played(lambda _, question: world.worked(question, others), "other"))
        slipping = self._solver(_played(world.slip, "slipping"))
        reflecting = CrossEntropy() + config.contrast * TripletHidden()
        return {
            OWN: _Arm(None, config.rounds),
            REFLECTING: _Arm(None, config.rounds, reflecting),
            ONCE: _Arm(None, 1),
            OTHER: _Arm(lambda _: other, config.rounds),
            RANDOM: _Arm(lambda _: slipping, config.rounds),
        }

    def _solver(self, engine: Engine | ScriptedEngine) -> Agent:
        drawing = SamplingParams(max_tokens=self.config.terms)
        return Agent(engine, role="student", prompt=world.SOLVE, sampling=drawing)

    def _taught(
        self, learner: Agent, tutor: Agent, task: Task, name: str, arm: _Arm
    ) -> tuple[list[Adapter], list[str]]:
        """The adapters of all rounds, and the questions that the first round's lessons were about."""
        folder = self.folder / "rounds" / re.sub("[^a-z]+", "-", name)
        steps = self.config.training.max_steps * self.config.rounds // arm.rounds
        tailored_rounds(
            learner,
            tutor,
            task,
            folder=folder,
            rounds=arm.rounds,
            temperature=self.config.temperature,
            row=world.contrasted,
            sitter=arm.sitter,
            objective=arm.objective,
            config=self.config.training.replace(max_steps=steps),
            seed=self.seed,
            resume=folder.is_dir(),
            quiet=self.quiet,
        )
        places = [folder / f"round-{number}" for number in range(1, arm.rounds + 1)]
        learnt = load_dataset(places[0] / "data")
        told = [row["prompt"][0]["content"][1:-1] for row in learnt]
        return [Adapter.open(place / "adapter") for place in places], told

    def _tokens(self, adapter: Adapter, rounds: int) -> float:
        """Tokens that were learnt: all rows have as many."""
        training, data = self.config.training, adapter.manifest["data"]
        steps = training.max_steps * self.config.rounds // rounds
        return steps * training.per_device_train_batch_size * data["completion_tokens"] / data["examples"]

    def _scores(self, solver: Agent, task: Task, tokens: float) -> Scores:
        spent = {"trained tokens": tokens} if tokens else {}
        return Scores.of(evaluate(solver, task, quiet=True), spent=spent)


def _played(work: Callable[[np.random.Generator, str], str], name: str) -> ScriptedEngine:
    """Somebody whose working of a question is known, in the place of a student."""

    def say(request: Request) -> list[str]:
        rng = np.random.default_rng(request.sampling.seed)
        asked = str(request.prompt[-1]["content"])  # type: ignore[index]
        return [work(rng, asked[1:-1]) for _ in range(request.sampling.n)]

    return ScriptedEngine(say, name=name)


def _questions(given: Sequence[Item]) -> list[str]:
    return [item.public.question for item in given]
