"""What is to be learnt, and what a run's board says of it and of its learners."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from docendo.agents import RunContext
from docendo.checks import check_kind, entries, short
from docendo.errors import ConfigError
from docendo.memory import GraphMemory, MasteryTracker, Tracing
from docendo.records import Author, Item, Record

_PLANNER = Author(agent="planner", role="planner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Course(Record):
    """What is to be learnt, and what it is told by.

    Attributes:
        skills: For each skill those that come before it, in the order in which they are usually taught.
        goals: The skills to be reached.
        questions: For each skill questions whose answers are known.
        exam: Questions that are asked at the end alone.

    Raises:
        ConfigError: if a goal or prerequisite is no skill, the prerequisites go in a circle, a skill has no
            question, or the exam asks one of the questions.

    Example:
        >>> from docendo.evals import make_item
        >>> sums = Course(skills={"add": (), "multiply": ("add",)}, goals=["multiply"], questions={
        ...     "add": [make_item("2 + 3", 5)], "multiply": [make_item("2 * 3", 6)]})
        >>> sums.goals
        ('multiply',)
    """

    skills: Mapping[str, Sequence[str]]
    goals: Sequence[str]
    questions: Mapping[str, Sequence[Item]]
    exam: Sequence[Item] = ()

    def __post_init__(self) -> None:
        """Checks that all fits together."""
        for name in ("skills", "questions"):
            check_kind(name, getattr(self, name), Mapping, "a mapping from skills")
        skills = {skill: _names(f"skills[{skill!r}]", needs) for skill, needs in self.skills.items()}
        goals = _names("goals", self.goals)
        if not goals:
            raise ConfigError("there are no goals", expected="a skill at least")
        for name in (*goals, *(need for needs in skills.values() for need in needs)):
            if name not in skills:
                raise ConfigError(f"{name!r} is a goal or a prerequisite", expected="one of the skills")
        try:
            TopologicalSorter(skills).prepare()
        except CycleError as error:
            raise ConfigError(f"the prerequisites go in a circle: {', '.join(error.args[1])}") from None
        questions = {
            skill: tuple(
                entries(f"questions[{skill!r}]", self.questions.get(skill, ()), Item, "items", ConfigError)
            )
            for skill in skills
        }
        exam = tuple(entries("exam", self.exam, Item, "items", ConfigError))
        for skill, items in questions.items():
            if not items:
                raise ConfigError(f"{skill!r} has no question", expected="one at least, to diagnose it by")
        _require_unasked(exam, [item for items in questions.values() for item in items])
        for name, value in (("skills", skills), ("goals", goals), ("questions", questions), ("exam", exam)):
            object.__setattr__(self, name, value)


def _names(name: str, values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entries(name, values, str, "names of skills", ConfigError)))


def _require_unasked(exam: Sequence[Item], questions: Sequence[Item]) -> None:
    """An exam shows what was learnt only if its questions were not asked before."""
    known = {item.public.question.strip() for item in questions}
    for item in exam:
        if item.public.question.strip() in known:
            raise ConfigError(
                f"the exam asks {short(item.public.question)}, which is a question of the lessons as well",
                expected="questions that are held out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A run's skills and its learners' mastery, both computed from the board and kept up to date with it."""

    course: Course
    run: str
    graph: GraphMemory
    tracker: MasteryTracker

    @classmethod
    def open(
        cls, context: RunContext, course: Course, tracing: Tracing | Mapping[str, Tracing], blame: float
    ) -> Desk:
        """The desk of a run."""
        tracker = MasteryTracker(
            context.board,
            channel=f"mastery/{context.run}",
            tracing=tracing,
            prerequisites=course.skills,
            blame=blame,
        )
        graph = GraphMemory(context.board, owner=_PLANNER, channel=f"skills/{context.run}")
        return cls(course=course, run=context.run, graph=graph, tracker=tracker)

    def publish(self) -> None:
        """Puts the skills on the board, once a run; who corrects them there is heeded by the next plan."""
        if self.graph.nodes("concept"):
            return
        with self.graph.board.database.transaction():
            for skill in self.course.skills:
                self.graph.add("concept", skill, at=0, id=skill)
            for skill, needs in self.course.skills.items():
                for need in needs:
                    self.graph.link(need, "prerequisite", skill, at=0)

    def prerequisites(self) -> dict[str, tuple[str, ...]]:
        """The skills as they are on the board, in the order of the course."""
        found = self.graph.prerequisites()
        return {skill: found[skill] for skill in self.course.skills if skill in found}

    def book(
        self, item: str, skill: str, right: bool, *, step: int, author: Author, parents: tuple[str, ...]
    ) -> str:
        """Books an answer, once for each run, item and step; gives its post."""
        return self.tracker.book(
            item,
            skill,
            right,
            author=author,
            key=f"{item}/{step}",
            run=self.run,
            item=item,
            parents=parents,
        ).id

    def mastery(self, item: str, marks: Collection[str]) -> dict[str, float]:
        """What is believed of each skill of a learner after these answers."""
        traced = self.tracker.mastery(item, answers=set(marks))
        return {skill: traced.get(skill, self.tracker.tracing(skill).prior) for skill in self.course.skills}
