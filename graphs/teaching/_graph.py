"""Learning by teaching M1: an answer is chosen by how well students do who were taught its explanation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypedDict, get_args

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext, Verifier
from docendo.checks import is_count, is_number
from docendo.errors import ConfigError
from docendo.graphs._nodes import finish, node, require_agents
from docendo.graphs.teaching._choosing import By, choose
from docendo.graphs.teaching._exams import Exam, require_other, teaching_score
from docendo.graphs.teaching._exemplars import with_exemplars
from docendo.records import Example, Item, PublicItem


class LbTState(TypedDict, total=False):
    """State of the graph: ids and small JSON only; lessons and exam answers are in traces and posts.

    Attributes:
        item: Item id.
        lessons: Trace ids of the teacher's samples.
        posts: Post ids of the same.
        answers: The answer read out of each, or None.
        exams: Post ids of the exams, one for each lesson; none where there was no exam.
        scores: The teaching score of each lesson; none where there was no exam, and the majority chose.
        answer: The text of the sample that was chosen.
    """

    item: str
    lessons: list[str]
    posts: list[str]
    answers: list[str | None]
    exams: list[str]
    scores: list[float]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and the agents that act in them."""

    teacher: Agent
    students: Sequence[Agent]
    exam: Exam
    verifier: Verifier
    read: Callable[[str], str | None]
    repeats: int
    by: By
    grade: float | None

    async def teach(self, state: LbTState, context: RunContext) -> dict[str, Any]:
        """The teacher explains and answers, several times."""
        item = state["item"]
        public = context.public(item)
        task = context.post(
            "task", {"question": public.question}, author=self.teacher.author, item=item, node="start"
        )
        turn = await context.ask(self.teacher, item, self.teacher.messages(public), node="teach")
        with context.database.transaction():
            posts = [
                context.post(
                    "demonstration",
                    {"text": text, "trace": trace},
                    author=self.teacher.author,
                    item=item,
                    node="teach",
                    step=step,
                    parents=[task.id],
                    traces=[trace],
                ).id
                for step, (text, trace) in enumerate(zip(turn.texts, turn.traces, strict=True))
            ]
        return {
            "lessons": list(turn.traces),
            "posts": posts,
            "answers": [self.read(text) for text in turn.texts],
        }

    async def examine(self, state: LbTState, context: RunContext) -> dict[str, Any]:
        """Students who were shown one lesson each answer the exam; every lesson has the same exam."""
        item = state["item"]
        public = context.public(item)
        questions = list(self.exam.questions(public))
        require_other(public, questions)
        if not questions:
            return {"exams": [], "scores": []}
        found = await asyncio.gather(
            *(
                self._examine_one(context, public, questions, place, trace, post)
                for place, (trace, post) in enumerate(zip(state["lessons"], state["posts"], strict=True))
            )
        )
        return {"exams": [post for post, _ in found], "scores": [score for _, score in found]}

    async def _examine_one(
        self,
        context: RunContext,
        problem: PublicItem,
        questions: Sequence[Item],
        place: int,
        trace: str,
        lesson_post: str,
    ) -> tuple[str, float]:
        lesson = context.traces.get(trace).completion
        sittings = [(student, question) for student in self.students for question in questions]
        turns = await asyncio.gather(
            *(
                context.ask(
                    student,
                    problem.id,
                    _taught(student, problem, lesson).messages(question.public),
                    node="examine",
                    step=place * len(sittings) + number,
                    parents=[trace],
                    sampling=student.sampling.replace(n=self.repeats),
                )
                for number, (student, question) in enumerate(sittings)
            )
        )
        verdicts = [
            [self.verifier.check(question, text).correct for text in turn.texts]
            for (_, question), turn in zip(sittings, turns, strict=True)
        ]
        score = teaching_score(verdict for row in verdicts for verdict in row)
        with context.database.transaction():
            context.traces.reward(trace, "teaching", score)
            for row, turn in zip(verdicts, turns, strict=True):
                for verdict, answer in zip(row, turn.traces, strict=True):
                    context.traces.reward(answer, "verified", float(verdict))
            post = context.post(
                "exam",
                {
                    "lesson": trace,
                    "score": score,
                    "questions": [question.id for _, question in sittings],
                    "answers": [list(turn.texts) for turn in turns],
                    "correct": verdicts,
                },
                author=self.verifier.author,
                item=problem.id,
                node="examine",
                step=place,
                parents=[lesson_post],
                traces=[answer for turn in turns for answer in turn.traces],
            )
        return post.id, score

    async def choose(self, state: LbTState, context: RunContext) -> dict[str, Any]:
        """The answer whose explanations taught best; without an exam the majority's."""
        by = self.by if state["scores"] else "count"
        place = choose(state["answers"], state["scores"] or None, by=by)
        return {"answer": context.traces.get(state["lessons"][place]).completion}

    async def grade_lessons(self, state: LbTState, context: RunContext) -> dict[str, Any]:
        """Judges the lessons' own answers, so that the teacher can learn from them."""
        weight, item = self.grade, context.item(state["item"])
        if weight is None:
            return {}
        scores = state["scores"] or [0.0] * len(state["lessons"])
        with context.database.transaction():
            for trace, post, score in zip(state["lessons"], state["posts"], scores, strict=True):
                right = self.verifier.check(item, context.traces.get(trace).completion).correct
                context.traces.reward(trace, "verified", float(right))
                if state["scores"]:
                    context.traces.reward(trace, "taught", weight * right + (1 - weight) * score)
                if right:
                    context.promote(post, by=self.verifier.author, reason="passed the verifier")
        return {}


def _taught(student: Agent, problem: PublicItem, lesson: str) -> Agent:
    """The student with the lesson as its last example."""
    return with_exemplars(student, [Example(question=problem.question, answer=lesson, item=problem.id)])


def learning_by_teaching(
    *,
    teacher: Agent,
    students: Sequence[Agent],
    exam: Exam,
    verifier: Verifier,
    read: Callable[[str], str | None] | None = None,
    repeats: int = 3,
    by: By = "sum",
    grade: float | None = None,
    **compile_options: Any,
) -> Any:
    """Builds the graph of learning by teaching M1 (Ning et al. 2024, arXiv 2406.14629).

    The teacher samples explanations with answers. Each becomes a lesson: the last worked example in the
    prompt of students who then sit an exam of similar questions, whose answers are known. A lesson's
    teaching score is the share of right exam answers over all students, questions and repetitions; the
    answer whose lessons score most is taken. The problem's own answer is never looked at.

    Each lesson's score is stored as the reward "teaching" of its trace. Lessons share the prompt's beginning,
    and an exam's questions the lesson, so the engine computes each beginning once.

    Args:
        teacher: Who explains; `sampling.n` explanations are drawn for each problem.
        students: Who sit the exam, each with every lesson. Their own examples come before the lesson, as the
            four fixed demonstrations of the paper do.
        exam: Chooses the exam questions; where it finds none, the majority of the answers is taken.
        verifier: Judges exam answers.
        read: Reads the final answer out of an explanation, for comparing answers; None takes the last line.
            `docendo.evals.read_answer` reads marked answers.
        repeats: Answers of each student to each question, sampled; 3 with 3 questions, as in the paper.
        by: How scores are joined for equal answers: "sum" (default of the paper where answers can be
            compared), "max" (where they cannot), "mean", or "count" (the majority, without exams' say).
        grade: For training items: after the choice the verifier judges the lessons' own answers as well, and
            each lesson's trace gets the rewards "verified" and "taught", which is
            `grade * verified + (1 - grade) * teaching`. 0.5 is the value of M2; its preference pairs are
            `distill.pairs_dataset(..., select="margin", reward="taught", margin=0.3, max_per_item=8)`.
            None, the default, never opens the problem's answer.
        **compile_options: For `StateGraph.compile`, such as `checkpointer` or `store`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `LbTState`; run it with `docendo.run`, or measure it
        with `docendo.evals.evaluate`.

    Raises:
        ConfigError: if there is no student, an agent is none, the verifier does not see the answers, or a
            number is out of range.
    """
    require_agents(
        teacher=teacher, verifier=verifier, **{f"students[{n}]": s for n, s in enumerate(students)}
    )
    if not students:
        raise ConfigError("there are no students", expected="one at least; the teacher may be one")
    if not callable(getattr(verifier, "check", None)):
        raise ConfigError("the verifier cannot judge exam answers", remedy="use Verifier(scorer)")
    if not is_count(repeats) or repeats < 1:
        raise ConfigError(f"repeats is {repeats!r}", expected="a whole number, at least 1")
    if by not in get_args(By):
        raise ConfigError(f"by is {by!r}", expected=f"one of {', '.join(get_args(By))}")
    if grade is not None and not (is_number(grade) and 0 <= grade <= 1):
        raise ConfigError(f"grade is {grade!r}", expected="a number from 0 to 1, or None")
    nodes = _Nodes(
        teacher=teacher,
        students=tuple(students),
        exam=exam,
        verifier=verifier,
        read=read or last_line,
        repeats=repeats,
        by=by,
        grade=grade,
    )
    builder = StateGraph(LbTState, context_schema=RunContext)
    steps = [nodes.teach, nodes.examine, nodes.choose]
    steps += [nodes.grade_lessons] if grade is not None else []
    for function in steps:
        builder.add_node(function.__name__, node(function, function.__name__))
    names = [START, *(function.__name__ for function in steps), END]
    for before, after in pairwise(names):
        builder.add_edge(before, after)
    config = {
        "teacher": teacher.describe(),
        "students": [student.describe() for student in students],
        "exam": exam.describe(),
        "verifier": verifier.describe(),
        "repeats": repeats,
        "by": by,
        "grade": grade,
    }
    return finish(builder, "learning_by_teaching", config, **compile_options)


def last_line(text: str) -> str | None:
    r"""The last line of a text that is not blank.

    Example:
        >>> last_line("2 + 2 = 4\n4\n")
        '4'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None
