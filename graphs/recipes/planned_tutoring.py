"""Tutoring along a planned path: diagnosed, planned, taught, and diagnosed again.

GraphMASAL (Zeng, Liu and Zhen 2025, arXiv 2511.11035) plans learning paths from what is mastered to what is
wanted over a graph of prerequisites: shortest paths, of which a greedy set cover takes those that cover the
weak skills at the least cost. The paper judges the paths that it plans; here somebody learns along them, and
what is judged is what was learnt.

The world is `_notebooks.py`: a small model, trained from nothing for each seed, works new rows of digits out
of those in its notebook. All orders of lessons have the same learners and tutor, as many lessons and
questions, and see mastery as it is traced from answers alone; the ceiling alone looks into the notebooks.

- Random order and lowest mastery first teach what the goals need, but do not know what builds on what.
- The order of the curriculum knows that, but not what the goals need. Where it is told, it is a plan as well:
  that arm is printed and not claimed to lose.
- The control plans along prerequisites of the same shape among skills that changed places.

Claim: with as many lessons and questions, planned paths bring learners further in the goals than random
order, lowest mastery first and the order of the curriculum; planned along shuffled prerequisites they do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from docendo.agents import Agent, Engine, RunContext, Verifier
from docendo.checks import check_count
from docendo.distill import PretrainConfig
from docendo.evals import ExactScorer, Scores, Trial, experiment, gain, no_gain, shown, within
from docendo.graphs._nodes import blocking
from docendo.graphs.recipes._notebooks import MASTERED, Notebook, P, Skills, noted, train_learner
from docendo.graphs.teaching._learners import Lesson
from docendo.graphs.teaching._orders import (
    CurriculumOrder,
    LessonOrder,
    PlannedOrder,
    RandomOrder,
    Standing,
    WeakestOrder,
)
from docendo.graphs.teaching._planned import planned_tutoring
from docendo.hashing import derive_seed
from docendo.memory import Database, Tracing
from docendo.progress import progress
from docendo.records import Item, Record, SamplingParams
from docendo.registry import recipe

_LEARNER = PretrainConfig(
    hidden=48, layers=2, context=24, steps=2000, learning_rate=3e-3, initializer_range=0.1, every=10
)
#: A guess is one digit of seven. With this chance to learn, a right answer after a lesson makes a skill that
#: was answered wrongly before a mastered one.
_TRACING = Tracing(prior=0.4, learn=0.3, guess=1 / P)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTutoring(Record):
    """Settings. They were chosen on courses of seeds that are not reported.

    Attributes:
        courses: Courses of a seed.
        learners: Learners of each course.
        skills: Skills of a course, 8 to 26.
        lessons: Lessons of each learner; with fewer than there are skills it counts which are chosen.
        questions: Questions after each lesson.
        blame: How far a wrong answer counts against the prerequisites.
        learner: How the model is built and trained.
        seed: First seed: of courses, learners, model and samples.
        seeds: Number of seeds.
    """

    courses: int = 5
    learners: int = 4
    skills: int = 12
    lessons: int = 10
    questions: int = 1
    blame: float = 0.3
    learner: PretrainConfig = _LEARNER
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes."""
        for name, least, most in (("courses", 1, 100), ("learners", 1, 1000), ("skills", 8, 26)):
            check_count(name, getattr(self, name), least, most)
        for name in ("lessons", "questions"):
            check_count(name, getattr(self, name), 1)


class Informed:
    """An order that is told what learners have truly mastered: no tutor has that."""

    def __init__(self, order: LessonOrder, skills: Skills) -> None:
        self.order, self.skills = order, skills

    def plan(self, standing: Standing) -> Sequence[str]:
        """Plans by which rows in the notebook are right to the last digit."""
        worth = self.skills.mastered(noted(standing.lessons, standing.item))
        known = {skill: float(share == 1.0) for skill, share in worth.items()}
        return self.order.plan(replace(standing, mastery=known))

    def describe(self) -> dict[str, Any]:
        """The order as JSON."""
        return {**self.order.describe(), "informed": True}


class _Taught(NamedTuple):
    """What became of a learner: its exam, lessons until it reached the goals, and errors of the diagnosis."""

    score: float
    until: float
    traced: float
    untraced: float
    lessons: int
    questions: int


@recipe(
    id="planned-tutoring",
    title="Tutoring that plans: what to teach next, from answers alone",
    paper="GraphMASAL, Zeng, Liu and Zhen 2025, arXiv 2511.11035",
    claim="With as many lessons and questions, planned paths bring learners further in the goals than random "
    "order, lowest mastery first and the order of the curriculum; planned along shuffled prerequisites they "
    "do not.",
    config=PlannedTutoring,
    cost="about 2 minutes a seed on one core",
    scales={
        "tiny": {
            "courses": 1,
            "learners": 3,
            "skills": 8,
            "lessons": 3,
            "learner": _LEARNER.replace(hidden=16, layers=1, heads=2, steps=25, batch=8),
            "seeds": 2,
        }
    },
)
@experiment(
    gain("planned", over="random order", equal="lessons"),
    gain("planned", over="lowest mastery first", equal="lessons"),
    gain("planned", over="curriculum", equal="lessons"),
    gain("planned: lessons to the goals", over="random order: lessons to the goals", less=True),
    gain("planned: lessons to the goals", over="curriculum: lessons to the goals", less=True),
    no_gain("planned, prerequisites shuffled", over="random order"),
    no_gain("planned, prerequisites shuffled", over="lowest mastery first"),
    gain("planned: error of the diagnosis", over="planned: error without answers", less=True),
    within("questions of planned for each of the others", 1.0, 1.0),
    shown("planned: lessons to the goals", over="lowest mastery first: lessons to the goals", less=True),
    shown("planned", over="curriculum, needed skills alone"),
    shown("planned, mastery known (ceiling)", over="planned"),
    shown("planned", over="planned, prerequisites shuffled"),
)
def planned_tutoring_recipe(config: PlannedTutoring, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """One seed: courses, learners and a model of their own, taught in every order."""
    rng = np.random.default_rng(derive_seed("planned tutoring", seed))
    courses = [Skills.drawn(f"course {n} of seed {seed}", rng, config.skills) for n in range(config.courses)]
    learners = [skills.learners(rng, config.learners) for skills in courses]
    shuffled = [skills.shuffled(rng) for skills in courses]
    model = train_learner(courses, folder / "learner", config.learner.replace(seed=seed), quiet=quiet)
    found: dict[str, dict[str, _Taught]] = {}
    with Engine.load(model) as engine, Database.open("sqlite://") as database:
        agent = Agent(engine, role="student", sampling=SamplingParams(temperature=1.0))
        names = list(_orders(courses[0], seed))
        with progress("orders", len(names), quiet=quiet) as bar:
            for name in names:
                found[name] = {}
                for skills, items, astray in zip(courses, learners, shuffled, strict=True):
                    graph = planned_tutoring(
                        learner=Notebook(agent),
                        tutor=skills.lessons(),
                        course=skills.course(astray if "shuffled" in name else None),
                        verifier=Verifier(ExactScorer()),
                        order=_orders(skills, seed)[name],
                        lessons=config.lessons,
                        questions=config.questions,
                        tracing=_TRACING,
                        blame=config.blame,
                        stop=False,
                    )
                    context = RunContext(items, database, run=f"{name}, {skills.name}", seed=seed)
                    found[name] |= _teach(graph, context, skills, items)
                bar.advance(note=name)
    return _trial(found)


def _orders(skills: Skills, seed: int) -> dict[str, LessonOrder]:
    """All orders of lessons by name."""
    return {
        "planned": PlannedOrder(),
        "random order": RandomOrder(seed),
        "lowest mastery first": WeakestOrder(),
        "curriculum": CurriculumOrder(),
        "curriculum, needed skills alone": CurriculumOrder(needed=True),
        "planned, mastery known (ceiling)": Informed(PlannedOrder(), skills),
        "planned, prerequisites shuffled": PlannedOrder(),
    }


def _teach(graph: Any, context: RunContext, skills: Skills, items: Sequence[Item]) -> dict[str, _Taught]:
    """Teaches all learners of a course at once, so that the engine has company for each request."""

    async def every() -> list[dict[str, Any]]:
        return await asyncio.gather(*(graph.ainvoke({"item": item.id}, context=context) for item in items))

    return {
        item.id: _judged(state, context, skills, item)
        for item, state in zip(items, blocking(every()), strict=True)
    }


def _judged(state: dict[str, Any], context: RunContext, skills: Skills, item: Item) -> _Taught:
    """Holds the end of a learner's lessons against its notebook."""
    bodies = [context.board.get(post).body for post in state["lessons"]]
    lessons = [Lesson(skill=body["skill"], text=body["text"], note=body["note"]) for body in bodies]
    course = [skills.mastered(noted(lessons[:count], item.public)) for count in range(len(lessons) + 1)]
    reached = [all(worth[goal] >= MASTERED for goal in skills.goals) for worth in course]
    truth = {skill: float(share >= MASTERED) for skill, share in course[-1].items()}
    return _Taught(
        score=state["score"],
        until=reached.index(True) if any(reached) else len(lessons) + 1,
        traced=fmean(abs(state["mastery"][skill] - known) for skill, known in truth.items()),
        untraced=fmean(abs(_TRACING.prior - known) for known in truth.values()),
        lessons=len(lessons),
        questions=len(state["answers"]),
    )


def _trial(found: dict[str, dict[str, _Taught]]) -> Trial:
    """What each order brought, learner by learner, and what it cost."""
    arms: dict[str, Scores] = {}
    for name, taught in found.items():
        spent = {
            "lessons": float(sum(one.lessons for one in taught.values())),
            "questions": float(sum(one.questions for one in taught.values())),
        }
        for suffix, field in (
            ("", "score"),
            (": lessons to the goals", "until"),
            (": error of the diagnosis", "traced"),
            (": error without answers", "untraced"),
        ):
            values = {item: getattr(one, field) for item, one in taught.items()}
            arms[name + suffix] = Scores(values=values, spent=spent)
    asked = {name: arms[name].spent["questions"] for name in found}
    others = [count for name, count in asked.items() if name != "planned"]
    return Trial(
        arms=arms,
        facts={
            "questions of planned for each of the others": asked["planned"] / fmean(others),
            **{
                f"learners that reached all goals: {name}": fmean(
                    one.until <= one.lessons for one in taught.values()
                )
                for name, taught in found.items()
            },
        },
    )
