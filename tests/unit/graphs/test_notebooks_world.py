"""The world of notebooks: skills need what they are made of, and no text of the exam is seen before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from docendo.agents import Agent, RunContext, ScriptedEngine, Verifier
from docendo.evals import ExactScorer
from docendo.graphs.recipes._notebooks import (
    BLANK,
    MASTERED,
    ZEROS,
    Notebook,
    Skills,
    added,
    rows_of,
    training_rows,
)
from docendo.graphs.recipes.planned_tutoring import Informed
from docendo.graphs.teaching._orders import CurriculumOrder, PlannedOrder
from docendo.graphs.teaching._planned import planned_tutoring
from docendo.records import Item, Request


def drawn(seed: int, size: int = 12) -> Skills:
    return Skills.drawn(f"course {seed}", np.random.default_rng(seed), size)


def work(request: Request) -> str:
    """A model that makes no mistakes: it adds, looks up, and says 0 of what is blank."""
    prompt: Any = request.prompt
    text = str(prompt[-1]["content"])
    if "?" in text:
        row, place = text.split("?")
        return row[int(place)].replace("-", "0")
    first, second = text.rstrip("=").split("+")
    return ZEROS if BLANK in (first, second) else added(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_sums_and_goals_lie_deep(seed: int) -> None:
    skills = drawn(seed)
    names = list(skills.needs)
    for skill, needs in skills.needs.items():
        assert all(names.index(need) < names.index(skill) for need in needs), "the order of the course holds"
        if needs:
            assert skills.rows[skill] == added(*(skills.rows[need] for need in needs))
    assert len(skills.goals) == 3
    assert all(any(skills.needs[need] for need in skills.needs[goal]) for goal in skills.goals)


def test_shuffled_prerequisites_keep_their_shape_and_say_something_else() -> None:
    skills = drawn(1)
    other = skills.shuffled(np.random.default_rng(0))
    assert other.keys() == skills.needs.keys()
    assert other != skills.needs
    assert sorted(map(len, other.values())) == sorted(map(len, skills.needs.values()))
    skills.course(other)  # it does not go in a circle either


def test_no_goal_is_known_before_and_no_question_of_the_exam_is_asked_before() -> None:
    skills = drawn(2)
    for item in skills.learners(np.random.default_rng(0), 50):
        notes = item.public.metadata["notes"]
        assert all(notes.get(goal) != skills.rows[goal] for goal in skills.goals)
    course = skills.course()
    asked = {item.public.question for items in course.questions.values() for item in items}
    assert not asked & {item.public.question for item in course.exam}
    assert len(course.exam) == 3 * len(skills.goals)


def test_no_row_of_a_course_is_trained_on() -> None:
    known = set(drawn(3).rows.values())
    rows = training_rows(known)(np.random.default_rng(0), 500)
    assert not any(row in prompt for prompt, _ in rows for row in known)
    sums = [(prompt.rstrip("=").split("+"), wanted) for prompt, wanted in rows if prompt.endswith("=")]
    assert all(wanted == added(*parts) for parts, wanted in sums if BLANK not in parts)
    assert {BLANK in parts for parts, _ in sums} == {True, False}
    assert not any(BLANK in prompt for prompt, _ in rows_of(np.random.default_rng(0), 99, known, blank=0.0))


def test_a_skill_is_learnt_only_after_what_it_needs() -> None:
    skills = drawn(4)
    (item,) = skills.learners(np.random.default_rng(0), 1)
    blank = Item(public=item.public.replace(metadata={"notes": {}}), gold=item.gold)

    def taught(order: Any, lessons: int) -> dict[str, Any]:
        graph = planned_tutoring(
            learner=Notebook(Agent(ScriptedEngine(work))),
            tutor=skills.lessons(),
            course=skills.course(),
            verifier=Verifier(ExactScorer()),
            order=order,
            lessons=lessons,
        )
        state: dict[str, Any] = graph.invoke({"item": blank.id}, context=RunContext.in_memory([blank]))
        return state

    needed = CurriculumOrder(needed=True)
    assert taught(Informed(needed, skills), 12)["score"] == 1.0
    assert len(taught(Informed(PlannedOrder(), skills), 12)["lessons"]) <= 12
    assert taught(PlannedOrder(), 1)["score"] < 1.0
    worth = skills.mastered({"A": skills.rows["A"], "B": "9999999"})
    assert (worth["A"], worth["B"], worth["C"]) == (1.0, 0.0, 0.0)
    assert MASTERED < 1.0
