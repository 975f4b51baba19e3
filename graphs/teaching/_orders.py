"""What is taught next: along a planned path, or in an order that knows less."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from docendo.checks import check_count, check_kind
from docendo.graphs.teaching._learners import Lesson
from docendo.hashing import derive_seed
from docendo.memory import PathPlanner, StepCost
from docendo.records import PublicItem, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Record):
    """Where a learner stands, as far as its answers tell.

    Attributes:
        item: The learner's item.
        prerequisites: For each skill those that come before it, in the order of the course.
        goals: The skills that are to be reached.
        mastery: What is believed of each skill, between 0 and 1.
        threshold: A skill with less mastery than this is weak.
        lessons: What it was taught so far, the first lesson first.
    """

    item: PublicItem
    prerequisites: Mapping[str, tuple[str, ...]]
    goals: tuple[str, ...]
    mastery: Mapping[str, float]
    threshold: float
    lessons: tuple[Lesson, ...] = ()

    def weak(self, *, needed: bool = True) -> tuple[str, ...]:
        """The weak skills in the order of the course: those that the goals need, or all.

        Example:
            >>> here = Standing(item=PublicItem(id="ann", question=""), goals=("b",), threshold=0.6,
            ...                 prerequisites={"a": (), "b": ("a",), "c": ()}, mastery={"a": 0.7})
            >>> here.weak(), here.weak(needed=False)
            (('b',), ('b', 'c'))
        """
        among = self._needed() if needed else set(self.prerequisites)
        return tuple(
            skill
            for skill in self.prerequisites
            if skill in among and self.mastery.get(skill, 0.0) < self.threshold
        )

    def _needed(self) -> set[str]:
        found, waiting = set[str](), list(self.goals)
        while waiting:
            skill = waiting.pop()
            if skill not in found:
                found.add(skill)
                waiting.extend(self.prerequisites.get(skill, ()))
        return found


class LessonOrder(Protocol):
    """Decides what is taught next."""

    def plan(self, standing: Standing) -> Sequence[str]:
        """The skills to teach, the next one first; none if nothing is left to teach."""

    def describe(self) -> dict[str, Any]:
        """The order as JSON, for a run's configuration."""


class PlannedOrder:
    """Along the paths of a `PathPlanner`, planned anew before each lesson.

    This is the planner of GraphMASAL (Zeng, Liu and Zhen 2025, arXiv 2511.11035): from many sources, what is
    mastered, to many sinks, the goals; a greedy set cover of the weak skills.

    Args:
        cost: What a step costs; by default `StepCost()`.
        difficulty: Of each skill, 0 or more; a skill that is not named has 0.

    Example:
        >>> here = Standing(item=PublicItem(id="ann", question=""), goals=("d",), threshold=0.6,
        ...                 prerequisites={"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")},
        ...                 mastery={"a": 0.9, "c": 0.8})
        >>> PlannedOrder().plan(here)
        ('b', 'd')
    """

    def __init__(
        self, *, cost: StepCost | None = None, difficulty: Mapping[str, float] | None = None
    ) -> None:
        check_kind("cost", cost, (StepCost, type(None)), "a StepCost, or None")
        self.cost, self.difficulty = cost or StepCost(), dict(difficulty or {})

    def plan(self, standing: Standing) -> tuple[str, ...]:
        """The steps of the plan.

        Raises:
            DataError: if the prerequisites go in a circle.
        """
        planner = PathPlanner(cost=self.cost, threshold=standing.threshold)
        return planner.plan(
            standing.prerequisites,
            mastery=standing.mastery,
            goals=standing.goals,
            difficulty=self.difficulty,
        ).steps

    def describe(self) -> dict[str, Any]:
        """The order as JSON."""
        return {"order": "planned", "cost": self.cost.to_json(), "difficulty": self.difficulty}


class CurriculumOrder:
    """In the order in which the skills are listed, each until it is mastered (mastery learning).

    Args:
        needed: Whether to leave out what no goal needs.

    Example:
        >>> here = Standing(item=PublicItem(id="ann", question=""), goals=("c",), threshold=0.6,
        ...                 prerequisites={"a": (), "b": (), "c": ("a",)}, mastery={"a": 0.9})
        >>> CurriculumOrder().plan(here), CurriculumOrder(needed=True).plan(here)
        (('b', 'c'), ('c',))
    """

    def __init__(self, *, needed: bool = False) -> None:
        check_kind("needed", needed, bool, "True or False")
        self.needed = needed

    def plan(self, standing: Standing) -> tuple[str, ...]:
        """The weak skills as they are listed."""
        return standing.weak(needed=self.needed)

    def describe(self) -> dict[str, Any]:
        """The order as JSON."""
        return {"order": "curriculum", "needed": self.needed}


class WeakestOrder:
    """What is mastered least goes first, whatever it builds on.

    Args:
        needed: Whether to leave out what no goal needs.
    """

    def __init__(self, *, needed: bool = True) -> None:
        check_kind("needed", needed, bool, "True or False")
        self.needed = needed

    def plan(self, standing: Standing) -> tuple[str, ...]:
        """The weak skills by mastery; of equal ones the first that is listed."""
        weak = standing.weak(needed=self.needed)
        return tuple(sorted(weak, key=lambda skill: standing.mastery.get(skill, 0.0)))

    def describe(self) -> dict[str, Any]:
        """The order as JSON."""
        return {"order": "weakest", "needed": self.needed}


class RandomOrder:
    """Weak skills in an order drawn anew before each lesson.

    Args:
        seed: Of the draws; every learner and lesson has its own.
        needed: Whether to leave out what no goal needs.
    """

    def __init__(self, seed: int = 0, *, needed: bool = True) -> None:
        check_count("seed", seed, 0)
        check_kind("needed", needed, bool, "True or False")
        self.seed, self.needed = seed, needed

    def plan(self, standing: Standing) -> tuple[str, ...]:
        """The weak skills, shuffled."""
        draw = random.Random(derive_seed(self.seed, standing.item.id, len(standing.lessons)))
        weak = standing.weak(needed=self.needed)
        return tuple(draw.sample(weak, len(weak)))

    def describe(self) -> dict[str, Any]:
        """The order as JSON."""
        return {"order": "random", "seed": self.seed, "needed": self.needed}
