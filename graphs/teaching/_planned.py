"""Tutoring that plans: a learner is diagnosed by its answers and taught along a path to what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict
from weakref import WeakKeyDictionary

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext, Verifier
from docendo.checks import check_count, check_kind, is_number, short
from docendo.errors import ConfigError
from docendo.graphs._nodes import finish, node, require_agents
from docendo.graphs.teaching._course import Course, Desk
from docendo.graphs.teaching._learners import (
    Answering,
    Learner,
    Lesson,
    Said,
    Saying,
    TutorDesk,
    as_learner,
    as_tutor,
)
from docendo.graphs.teaching._orders import LessonOrder, PlannedOrder, Standing
from docendo.memory import Tracing
from docendo.records import Item


class PlannedTutoringState(TypedDict, total=False):
    """State of the graph: ids and small JSON only; texts live in the traces and on the blackboard.

    Attributes:
        item: Item id; an item is a learner.
        answers: Post ids of the answers to the diagnostician's questions.
        marks: Post ids of the judgements of them, from which mastery is traced.
        asked: The skill of each of them.
        lessons: Post ids of the lessons.
        taught: The skill of each of them.
        plan: What is to be taught, the next skill first; empty if the goals are held to be reached.
        mastery: What is believed of each skill at last.
        exam: Id of the exam's post, or an empty string.
        score: Share of right answers in the exam, or None.
        answer: Why the lessons ended: "goals" or "lessons".
    """

    item: str
    answers: list[str]
    marks: list[str]
    asked: list[str]
    lessons: list[str]
    taught: list[str]
    plan: list[str]
    mastery: dict[str, float]
    exam: str
    score: float | None
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and who acts in them."""

    learner: Learner
    tutor: TutorDesk
    course: Course
    verifier: Verifier
    order: LessonOrder
    lessons: int
    placement: int
    questions: int
    threshold: float
    tracing: Tracing | Mapping[str, Tracing]
    blame: float
    stop: bool
    # What is computed from a run's board, kept up to date with it: a tracker made anew reads all of it.
    desks: WeakKeyDictionary[RunContext, Desk] = field(default_factory=WeakKeyDictionary)

    def _desk(self, context: RunContext) -> Desk:
        if context not in self.desks:
            self.desks[context] = Desk.open(context, self.course, self.tracing, self.blame)
        return self.desks[context]

    async def open(self, state: PlannedTutoringState, context: RunContext) -> dict[str, Any]:
        """Puts the skills on the board; a thread that had come to its end begins anew."""
        self._desk(context).publish()
        return {
            "answers": [],
            "marks": [],
            "asked": [],
            "lessons": [],
            "taught": [],
            "plan": [],
            "mastery": {},
            "exam": "",
            "score": None,
            "answer": "",
        }

    async def diagnose(self, state: PlannedTutoringState, context: RunContext) -> dict[str, Any]:
        """Asks about the last lesson, or before the first one about all skills; mastery is traced."""
        taught, desk = state["taught"], self._desk(context)
        about = [taught[-1]] * self.questions if taught else list(self.course.skills) * self.placement
        answers, marks, asked = list(state["answers"]), list(state["marks"]), list(state["asked"])
        had = _lessons(context, state)
        for skill in about:
            bank = self.course.questions[skill]
            question, step = bank[asked.count(skill) % len(bank)], len(asked)
            post, right = await self._ask(context, state, question, had, node="diagnose", step=step)
            mark = desk.book(
                state["item"], skill, right, step=step, author=self.verifier.author, parents=(post,)
            )
            answers.append(post)
            marks.append(mark)
            asked.append(skill)
        mastery = desk.mastery(state["item"], marks)
        return {"answers": answers, "marks": marks, "asked": asked, "mastery": mastery}

    async def _ask(
        self,
        context: RunContext,
        state: PlannedTutoringState,
        question: Item,
        lessons: Sequence[Lesson],
        *,
        node: str,
        step: int,
    ) -> tuple[str, bool]:
        """Asks one question and judges the answer; gives the answer's post."""
        item = context.public(state["item"])
        said = await self.learner.answer(question.public, lessons, context, item=item, node=node, step=step)
        right = self.verifier.check(question, said.text).correct
        with context.database.transaction():
            if said.trace:
                context.traces.reward(said.trace, "verified", float(right))
            post = context.post(
                "attempt",
                {
                    "question": question.public.question,
                    "text": said.text,
                    "correct": right,
                    "trace": said.trace,
                },
                author=self.learner.author,
                item=item.id,
                node=node,
                step=step,
                parents=state["lessons"][-1:],
                traces=[said.trace] if said.trace else [],
            )
        return post.id, right

    async def plan(self, state: PlannedTutoringState, context: RunContext) -> dict[str, Any]:
        """Decides what is taught next, by the skills on the board and the mastery traced so far."""
        standing = Standing(
            item=context.public(state["item"]),
            prerequisites=self._desk(context).prerequisites(),
            goals=tuple(self.course.goals),
            mastery=state["mastery"],
            threshold=self.threshold,
            lessons=tuple(_lessons(context, state)),
        )
        plan = list(self.order.plan(standing))
        for skill in plan:
            if skill not in self.course.skills:
                raise ConfigError(f"the order plans a lesson on {short(skill)}", expected="one of the skills")
        if not plan and not self.stop:  # the goals are held to be reached: what is least sure is taught again
            plan = [min(self.course.goals, key=lambda goal: state["mastery"][goal])]
        return {"plan": plan}

    def after_plan(self, state: PlannedTutoringState) -> Literal["teach", "examine"]:
        """To the next lesson, or to the end."""
        return "teach" if state["plan"] and len(state["lessons"]) < self.lessons else "examine"

    async def teach(self, state: PlannedTutoringState, context: RunContext) -> dict[str, Any]:
        """The tutor gives a lesson on the first skill of the plan, and the learner takes its notes."""
        item, skill, step = context.public(state["item"]), state["plan"][0], len(state["lessons"])
        known = [name for name, value in state["mastery"].items() if value >= self.threshold]
        said = await self.tutor.lesson(skill, known, context, item=item, step=step)
        lesson = Lesson(skill=skill, text=said.text)
        noted = await self.learner.study(lesson, _lessons(context, state), context, item=item, step=step)
        with context.database.transaction():
            told = self._post_lesson(context, state, skill, said)
            post = context.post(
                "event",
                {"lesson": told, "skill": skill, "text": said.text, "note": noted.text, "trace": noted.trace},
                author=self.learner.author,
                item=item.id,
                node="study",
                step=step,
                parents=[told],
                traces=[noted.trace] if noted.trace else [],
            )
        return {"lessons": [*state["lessons"], post.id], "taught": [*state["taught"], skill]}

    def _post_lesson(self, context: RunContext, state: PlannedTutoringState, skill: str, said: Said) -> str:
        body = {"skill": skill, "text": said.text, "plan": list(state["plan"]), "trace": said.trace}
        return context.post(
            "lesson",
            body,
            author=self.tutor.author,
            item=state["item"],
            node="teach",
            step=len(state["lessons"]),
            traces=[said.trace] if said.trace else [],
        ).id

    async def examine(self, state: PlannedTutoringState, context: RunContext) -> dict[str, Any]:
        """Asks the questions that were held out; right answers become verified posts."""
        had, by = _lessons(context, state), self.verifier.author
        sat = [
            await self._ask(context, state, question, had, node="examine", step=step)
            for step, question in enumerate(self.course.exam)
        ]
        posts = [*state["answers"], *(post for post, _ in sat)]
        ended = {"answer": "lessons" if state["plan"] else "goals"}
        with context.database.transaction():
            # Not earlier: whenever trust changes, mastery is traced anew from the first answer on.
            for post in posts:
                if context.board.get(post).body["correct"]:
                    context.promote(post, by=by, reason="passed the verifier")
            if not sat:
                return ended
            score = sum(right for _, right in sat) / len(sat)
            exam = context.post(
                "exam",
                {"score": score, "questions": [question.id for question in self.course.exam]},
                author=by,
                item=state["item"],
                node="examine",
                parents=[post for post, _ in sat],
            )
        return {**ended, "exam": exam.id, "score": score}


def _lessons(context: RunContext, state: PlannedTutoringState) -> list[Lesson]:
    """The lessons that the learner has had; what was quarantined since is not shown to it any more."""
    wanted = set(state["lessons"])
    if not wanted:
        return []
    posts = context.board.posts(kind="event", run=context.run, item=state["item"], channel="main")
    return [
        Lesson(skill=str(post.body["skill"]), text=str(post.body["text"]), note=str(post.body["note"]))
        for post in posts
        if post.id in wanted and post.trust != "quarantined"
    ]


def planned_tutoring(
    *,
    learner: Agent | Answering | Learner,
    tutor: Agent | Saying,
    course: Course,
    verifier: Verifier,
    order: LessonOrder | None = None,
    lessons: int = 12,
    placement: int = 1,
    questions: int = 2,
    threshold: float = 0.6,
    tracing: Tracing | Mapping[str, Tracing] | None = None,
    blame: float = 0.0,
    stop: bool = True,
    **compile_options: Any,
) -> Any:
    """Builds the graph of tutoring that plans (after GraphMASAL, Zeng, Liu and Zhen 2025, arXiv 2511.11035).

    The diagnostician asks questions and traces mastery from the answers alone (`MasteryTracker`, Bayesian
    knowledge tracing); the planner finds what to teach next over the skills on the board; the tutor gives the
    lesson; and so on, until the goals are held to be reached or all lessons are given. At last the exam is
    asked. An item is a learner: its question says what the learner wants, its metadata what is known of it.

    The skills are a `GraphMemory` on the run's channel `skills/RUN`: who corrects a link there while it runs
    is heeded by the next plan. Quarantining an answer takes it out of the mastery; quarantining a lesson
    takes it from the learner.

    Args:
        learner: Who learns: an agent, to which lessons are worked examples in its prompt; a function of the
            question, the lessons so far and the learner's item; or a `Learner` that takes notes.
        tutor: Who teaches: an agent, whose prompt has the fields `{skill}` and `{known}`; texts by skill; or
            a function of skill and item. It never sees a question.
        course: Skills, goals and questions.
        verifier: Judges answers; it has to see them.
        order: Decides what is taught next; None for `PlannedOrder()`.
        lessons: Most lessons.
        placement: Questions on each skill before the first lesson.
        questions: Questions on the skill of a lesson after it. With 2 right answers, or 1 of a skill that was
            not known to be weak, `Tracing()` is above the threshold.
        threshold: A skill with less mastery than this is weak; 0.6, as in `PathPlanner`.
        tracing: The parameters of tracing, of all skills or of each; None for `Tracing()`.
        blame: How far a wrong answer counts against the prerequisites too, between 0 and 1.
        stop: Whether to end when the goals are held to be reached. Otherwise the goal of least mastery is
            taught again until no lesson is left, so that orders can be compared at equal lessons.
        **compile_options: For `StateGraph.compile`, such as `checkpointer`, `store` or `interrupt_before`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `PlannedTutoringState`; run it with `docendo.run`.

    Raises:
        ConfigError: if an argument is of another kind or out of range.

    Example:
        >>> import asyncio
        >>> from docendo.evals import ExactScorer, make_item
        >>> sums = Course(skills={"add": (), "multiply": ("add",)}, goals=["multiply"], questions={
        ...     "add": [make_item("2 + 3", 5)], "multiply": [make_item("2 * 3", 6)]})
        >>> def ann(question, lessons, item):  # learns to multiply only after adding
        ...     had = [lesson.skill for lesson in lessons]
        ...     if question.question == "2 + 3":
        ...         return "5" if "add" in had else "?"
        ...     return "6" if had[-2:] == ["add", "multiply"] else "?"
        >>> graph = planned_tutoring(learner=ann, tutor={"add": "Count on.", "multiply": "Add again."},
        ...                          course=sums, verifier=Verifier(ExactScorer()))
        >>> me = make_item("I want to multiply.", None)
        >>> state = asyncio.run(graph.ainvoke({"item": me.id}, context=RunContext.in_memory([me])))
        >>> state["taught"], state["answer"]
        (['add', 'multiply'], 'goals')
    """
    check_kind("course", course, Course, "a Course")
    require_agents(verifier=verifier)
    if not callable(getattr(verifier, "check", None)):
        raise ConfigError("the verifier cannot judge answers", remedy="use Verifier(scorer)")
    chosen = order or PlannedOrder()
    if not (callable(getattr(chosen, "plan", None)) and callable(getattr(chosen, "describe", None))):
        raise ConfigError(f"order is {short(order)}", expected="a LessonOrder, such as PlannedOrder()")
    for name, value, least in (
        ("lessons", lessons, 0),
        ("placement", placement, 0),
        ("questions", questions, 1),
    ):
        check_count(name, value, least)
    for name, share in (("threshold", threshold), ("blame", blame)):
        if not (is_number(share) and 0 <= share <= 1) or (name == "threshold" and not share):
            raise ConfigError(
                f"{name} is {short(share)}", expected="a number from 0 to 1, not 0 as a threshold"
            )
    check_kind("tracing", tracing, (Tracing, Mapping, type(None)), "a Tracing, one for each skill, or None")
    check_kind("stop", stop, bool, "True or False")
    nodes = _Nodes(
        learner=as_learner(learner),
        tutor=as_tutor(tutor),
        course=course,
        verifier=verifier,
        order=chosen,
        lessons=lessons,
        placement=placement,
        questions=questions,
        threshold=threshold,
        tracing=tracing or Tracing(),
        blame=blame,
        stop=stop,
    )
    builder = StateGraph(PlannedTutoringState, context_schema=RunContext)
    for function in (nodes.open, nodes.diagnose, nodes.plan, nodes.teach, nodes.examine):
        builder.add_node(function.__name__, node(function, function.__name__))
    builder.add_edge(START, "open")
    builder.add_edge("open", "diagnose")
    builder.add_edge("diagnose", "plan")
    builder.add_conditional_edges("plan", nodes.after_plan, ["teach", "examine"])
    builder.add_edge("teach", "diagnose")
    builder.add_edge("examine", END)
    graph = finish(builder, "planned_tutoring", _described(nodes), **compile_options)
    return graph.with_config(recursion_limit=3 * lessons + 10)


def _described(nodes: _Nodes) -> dict[str, Any]:
    """The graph as JSON: a resumed run must have the same questions, by their ids, in the same order."""
    course, tracing = nodes.course, nodes.tracing
    return {
        "learner": nodes.learner.describe(),
        "tutor": nodes.tutor.describe(),
        "verifier": nodes.verifier.describe(),
        "order": nodes.order.describe(),
        "skills": {skill: list(needs) for skill, needs in course.skills.items()},
        "goals": list(course.goals),
        "bank": {skill: [item.id for item in items] for skill, items in course.questions.items()},
        "exam": [item.id for item in course.exam],
        "tracing": tracing.to_json()
        if isinstance(tracing, Tracing)
        else {skill: one.to_json() for skill, one in tracing.items()},
        **{name: getattr(nodes, name) for name in _NUMBERS},
    }


_NUMBERS = ("lessons", "placement", "questions", "threshold", "blame", "stop")
