"""Tutoring that plans: what is asked, traced, planned and taught, and what a resumed run finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

import docendo
from docendo.agents import Agent, RunContext, ScriptedEngine, Student, Verifier
from docendo.errors import ConfigError, DataError, InfrastructureError
from docendo.evals import ExactScorer, make_item
from docendo.graphs.teaching._course import Course, Desk
from docendo.graphs.teaching._learners import Lesson, Said
from docendo.graphs.teaching._orders import CurriculumOrder, PlannedOrder, RandomOrder, Standing, WeakestOrder
from docendo.graphs.teaching._planned import planned_tutoring
from docendo.memory import Tracing
from docendo.records import Author, PublicItem, Request

NEEDS = {"add": (), "draw": (), "multiply": ("add",), "powers": ("multiply",)}
QUESTIONS = {skill: [make_item(f"{skill} {n}?", skill.upper()) for n in range(2)] for skill in NEEDS}
EXAM = [make_item("powers 9?", "POWERS"), make_item("draw 9?", "DRAW")]
TEXTS = {skill: f"All about {skill}." for skill in NEEDS}
ME = make_item("I want powers.", None)
JUDGE = Author(agent="ann", role="person")


def knows(had: Sequence[str], skill: str) -> bool:
    """Whether who had these lessons has learnt a skill: it is learnt only after what it needs."""
    return any(
        taught == skill and all(knows(had[:place], need) for need in NEEDS[skill])
        for place, taught in enumerate(had)
    )


def ann(question: PublicItem, lessons: Sequence[Lesson], item: PublicItem) -> str:
    skill = question.question.split()[0]
    return skill.upper() if knows([lesson.skill for lesson in lessons], skill) else "no idea"


def learning(request: Request) -> str:
    """A model that has learnt what it was shown in the right order."""
    turns: Any = request.prompt
    had = [turn["content"] for turn in turns if turn["role"] == "user"]
    skill = had.pop().split()[0]
    return skill.upper() if knows(had, skill) else "no idea"


def course(**changes: Any) -> Course:
    return Course(**{"skills": NEEDS, "goals": ["powers"], "questions": QUESTIONS, **changes})


def graph(**changes: Any) -> Any:
    parts: dict[str, Any] = {
        "learner": ann,
        "tutor": TEXTS,
        "course": course(),
        "verifier": Verifier(ExactScorer()),
    }
    return planned_tutoring(**{**parts, **changes})


def taught(**changes: Any) -> tuple[dict[str, Any], RunContext]:
    context = RunContext.in_memory([ME])
    return graph(**changes).invoke({"item": ME.id}, context=context), context


def standing(**changes: Any) -> Standing:
    parts: dict[str, Any] = {
        "item": ME.public,
        "prerequisites": NEEDS,
        "goals": ("powers",),
        "mastery": {"add": 0.9, "draw": 0.5, "multiply": 0.4, "powers": 0.1},
        "threshold": 0.6,
    }
    return Standing(**{**parts, **changes})


def test_what_the_goal_needs_is_taught_in_order_and_then_it_ends() -> None:
    state, context = taught(course=course(exam=EXAM))
    assert state["taught"] == ["add", "multiply", "powers"]
    assert (state["answer"], state["plan"]) == ("goals", [])
    assert state["asked"] == [*NEEDS, "add", "add", "multiply", "multiply", "powers", "powers"]
    # Before any lesson each answer is wrong; after its own, both are right.
    for skill, answers in {"powers": [False, True, True], "draw": [False]}.items():
        assert state["mastery"][skill] == pytest.approx(Tracing().trace(answers)[-1])
    assert state["score"] == 0.5, "powers were learnt, drawing was no goal"
    lessons = context.board.posts(kind="lesson")
    assert [post.body["text"] for post in lessons] == [TEXTS[skill] for skill in state["taught"]]
    assert lessons[0].body["plan"] == ["add", "multiply", "powers"]
    assert context.board.get(state["exam"]).body["questions"] == [item.id for item in EXAM]


def test_questions_of_a_skill_come_in_turn_and_right_answers_are_verified() -> None:
    state, context = taught()
    posts = [context.board.get(post) for post in state["answers"]]
    assert [post.body["question"] for post in posts if "powers" in post.body["question"]] == [
        "powers 0?",
        "powers 1?",
        "powers 0?",
    ]
    assert all(post.trust == ("verified" if post.body["correct"] else "unverified") for post in posts)
    assert sum(post.body["correct"] for post in posts) == 6


def test_without_stopping_every_order_gives_as_many_lessons_and_questions() -> None:
    for order in (PlannedOrder(), CurriculumOrder(), WeakestOrder(), RandomOrder(3)):
        state, _ = taught(order=order, lessons=14, stop=False)
        assert (len(state["lessons"]), len(state["answers"])) == (14, 4 + 2 * 14)
        assert state["answer"] == "lessons"


def test_the_lessons_end_when_they_are_used_up() -> None:
    state, _ = taught(lessons=2)
    assert (state["taught"], state["answer"], state["score"]) == (["add", "multiply"], "lessons", None)
    none, _ = taught(lessons=0)
    assert (none["taught"], none["asked"]) == ([], list(NEEDS))


def test_the_placement_spares_lessons_on_what_is_known() -> None:
    def knows_sums(question: PublicItem, lessons: Sequence[Lesson], item: PublicItem) -> str:
        had = ["add", *(lesson.skill for lesson in lessons)]
        skill = question.question.split()[0]
        return skill.upper() if knows(had, skill) else "no idea"

    state, _ = taught(learner=knows_sums)
    assert state["taught"] == ["multiply", "powers"]


def test_a_model_learns_by_the_lessons_in_its_prompt_and_its_turns_are_judged() -> None:
    tutor = Agent(ScriptedEngine(["Count on.", "Add.", "Multiply."]), role="tutor", prompt="{skill}: {known}")
    state, context = taught(learner=Student(ScriptedEngine(learning), system=""), tutor=tutor)
    assert state["taught"] == ["add", "multiply", "powers"]
    last = context.traces.get(context.board.get(state["answers"][-1]).traces[0])
    assert [turn["content"] for turn in last.messages] == [
        *("add", "Count on.", "multiply", "Add.", "powers", "Multiply."),
        "powers 0?",
    ]
    assert last.rewards["verified"] == 1.0
    told = [trace.messages[-1]["content"] for trace in context.traces.find(role="tutor")]
    assert told == ["add: nothing", "multiply: add", "powers: add, multiply"]


def test_what_is_corrected_on_the_board_is_heeded() -> None:
    context = RunContext.in_memory([ME])
    planning = graph(lessons=0)
    first = planning.invoke({"item": ME.id}, context=context)
    assert first["plan"] == ["add", "multiply", "powers"]
    desk = Desk.open(context, course(), Tracing(), 0.0)
    desk.graph.link("draw", "prerequisite", "powers", at=1)
    desk.graph.link("add", "prerequisite", "multiply", at=1, weight=0)
    assert planning.invoke({"item": ME.id}, context=context)["plan"] == ["draw", "multiply", "powers"]


def test_a_quarantined_answer_counts_no_more_and_a_quarantined_lesson_is_unlearnt() -> None:
    saver = InMemorySaver()
    context = RunContext.in_memory([ME])
    config = {"configurable": {"thread_id": "t"}}
    stopping = graph(checkpointer=saver, interrupt_before=["teach"])
    state = stopping.invoke({"item": ME.id}, config, context=context)
    state = stopping.invoke(None, config, context=context)
    assert (state["taught"], state["plan"][0]) == (["add"], "multiply")
    context.board.trust(state["lessons"][0], "quarantined", by=JUDGE, reason="wrong")
    state = stopping.invoke(None, config, context=context)
    # Its answers followed from the lesson, so they are gone as well; and nothing can be built on it.
    first = Tracing().trace([False])[-1]
    assert state["mastery"]["add"] == pytest.approx(first)
    assert state["plan"][0] == "add"


def test_runs_and_learners_of_one_board_are_kept_apart() -> None:
    context = RunContext.in_memory([ME])
    graph().invoke({"item": ME.id}, context=context)
    other = RunContext([ME], context.database, run="other")
    state = graph(lessons=0).invoke({"item": ME.id}, context=other)
    assert set(state["mastery"].values()) == {Tracing().trace([False])[-1]}


def test_a_thread_that_had_ended_begins_anew() -> None:
    again = graph(checkpointer=InMemorySaver())
    context, config = RunContext.in_memory([ME]), {"configurable": {"thread_id": "t"}}
    first = again.invoke({"item": ME.id}, config, context=context)
    count = len(context.board.posts())
    assert again.invoke({"item": ME.id}, config, context=context) == first
    assert len(context.board.posts()) == count


def test_a_run_that_broke_is_resumed_and_generates_nothing_twice(tmp_path: Path) -> None:
    calls = list[str]()

    def failing(after: int) -> ScriptedEngine:
        def say(request: Request) -> str:
            if len(calls) >= after:
                raise InfrastructureError("the machine is gone")
            calls.append(str(request.sampling.seed))
            return learning(request)

        return ScriptedEngine(say)

    def started(name: str, engine: ScriptedEngine, *, resume: bool = False) -> Any:
        made = graph(learner=Student(engine, system=""))
        return docendo.run(made, [ME], name=name, folder=tmp_path, resume=resume, quiet=True)

    with started("whole", failing(1000)) as whole:
        wanted = whole.outcomes[ME.id]
        assert wanted["taught"] == ["add", "multiply", "powers"]
    count, calls = len(calls), []
    for after in (6, 9):  # in the midst of the lessons, so that later answers are on the board
        with pytest.raises(InfrastructureError):
            started("broken", failing(after), resume=after > 6)
    with started("broken", failing(1000), resume=True) as resumed:
        assert len(calls) == len(set(calls)) == count
        assert resumed.outcomes[ME.id]["taught"] == wanted["taught"]
        assert resumed.outcomes[ME.id]["mastery"] == wanted["mastery"]


def test_a_learner_that_takes_notes_finds_them_in_its_lessons() -> None:
    class Scribe:
        author = Author(agent="scribe", role="student")

        async def study(self, lesson: Lesson, lessons: Any, context: Any, **where: Any) -> Said:
            return Said(f"{len(lessons)}: {lesson.text}")

        async def answer(self, question: Any, lessons: Sequence[Lesson], context: Any, **where: Any) -> Said:
            return Said(" ".join(lesson.note for lesson in lessons))

        def describe(self) -> dict[str, Any]:
            return {"class": "Scribe"}

    state, context = taught(learner=Scribe(), lessons=2)
    assert context.board.get(state["answers"][-1]).body["text"] == f"0: {TEXTS['add']} 1: {TEXTS['add']}"


def test_orders_plan_by_what_they_know() -> None:
    assert PlannedOrder().plan(standing()) == ("multiply", "powers")
    assert CurriculumOrder().plan(standing()) == ("draw", "multiply", "powers")
    assert CurriculumOrder(needed=True).plan(standing()) == ("multiply", "powers")
    assert WeakestOrder().plan(standing()) == ("powers", "multiply")
    assert WeakestOrder(needed=False).plan(standing()) == ("powers", "multiply", "draw")
    had = [standing(lessons=(Lesson(skill="add", text=""),) * count) for count in range(20)]
    drawn = [RandomOrder(1).plan(each) for each in had]
    assert {tuple(sorted(plan)) for plan in drawn} == {("multiply", "powers")}
    assert len(set(drawn)) == 2
    assert drawn == [RandomOrder(1).plan(each) for each in had]
    nothing = standing(mastery=dict.fromkeys(NEEDS, 1.0))
    for order in (PlannedOrder(), CurriculumOrder(), WeakestOrder(), RandomOrder()):
        assert tuple(order.plan(nothing)) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goals": []}, "there are no goals"),
        ({"goals": ["sing"]}, "'sing' is a goal or a prerequisite"),
        ({"goals": "powers"}, "goals is 'powers'"),
        ({"skills": {"powers": ["sing"]}}, "'sing' is a goal or a prerequisite"),
        ({"skills": {"powers": ["a"], "a": ["powers"]}}, "go in a circle: (powers, a|a, powers)"),
        ({"skills": [3]}, r"skills is \[3\]"),
        ({"questions": {**QUESTIONS, "add": []}}, "'add' has no question"),
        ({"questions": {**QUESTIONS, "add": ["2 + 2?"]}}, r"questions\['add'\]\[0\] is '2 \+ 2\?'"),
        ({"exam": [QUESTIONS["add"][0]]}, "the exam asks 'add 0.', which is a question of the lessons"),
    ],
)
def test_a_course_that_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        course(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": 3}, "learner is 3"),
        ({"tutor": None}, "tutor is None"),
        ({"course": {}}, r"course is \{\}"),
        ({"verifier": None}, "verifier is None"),
        ({"order": "random"}, "order is 'random'"),
        ({"lessons": -1}, "lessons is -1"),
        ({"placement": 0.5}, "placement is 0.5"),
        ({"questions": 0}, "questions is 0"),
        ({"threshold": 0}, "threshold is 0"),
        ({"blame": 2}, "blame is 2"),
        ({"tracing": 0.1}, "tracing is 0.1"),
        ({"stop": "no"}, "stop is 'no'"),
    ],
)
def test_what_no_graph_can_be_built_of_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        graph(**changes)


def test_what_is_no_text_is_named_with_who_said_it() -> None:
    with pytest.raises(DataError, match="the learner answered 3"):
        taught(learner=lambda question, lessons, item: 3)
    with pytest.raises(DataError, match="the tutor said None of 'multiply'"):
        taught(tutor={"add": "Count on."})

    class Astray(PlannedOrder):
        def plan(self, standing: Standing) -> tuple[str, ...]:
            return ("sing",)

    with pytest.raises(ConfigError, match="plans a lesson on 'sing'"):
        taught(order=Astray())
