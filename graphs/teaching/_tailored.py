"""An exam and its lessons: a teacher who sees what a student got wrong writes lessons about that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext
from docendo.checks import check_count
from docendo.graphs._nodes import Grader, finish, node, require_agents


class TailoredState(TypedDict, total=False):
    """State of the graph: trace ids and small JSON only.

    Attributes:
        item: Item id.
        attempts: Traces of the student's attempts.
        mistakes: Those that the teacher was shown.
        lessons: Traces of the teacher's lessons, each with its mistake as parent.
        answer: Text of the first attempt that is right, or of the first.
        solved: Whether an attempt is right.
        samples: How many texts were sampled, of both.
    """

    item: str
    attempts: list[str]
    mistakes: list[str]
    lessons: list[str]
    answer: str
    solved: bool
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and the agents that act in them."""

    student: Agent
    teacher: Agent
    verifier: Grader
    lessons: Grader
    mistakes: int

    async def exam(self, state: TailoredState, context: RunContext) -> dict[str, Any]:
        """The student answers, and each attempt is graded."""
        item = state["item"]
        turn = await context.ask(self.student, item, self.student.messages(context.public(item)), node="exam")
        right = await _graded(self.verifier, context, item, turn.texts, turn.traces)
        wrong: dict[str, str] = {}
        for text, trace, correct in zip(turn.texts, turn.traces, right, strict=True):
            if not correct and text.strip():
                wrong.setdefault(text.strip(), trace)
        return {
            "attempts": list(turn.traces),
            "mistakes": list(wrong.values())[: self.mistakes],
            "lessons": [],
            "answer": turn.texts[right.index(True) if any(right) else 0],
            "solved": any(right),
            "samples": len(turn.texts),
        }

    async def teach(self, state: TailoredState, context: RunContext) -> dict[str, Any]:
        """The teacher sees the question and a mistake, and writes lessons; each is checked."""
        item = state["item"]

        async def say(step: int, mistake: str) -> Sequence[str]:
            attempt = context.traces.get(mistake).completion
            messages = self.teacher.messages(context.public(item), attempt=attempt)
            turn = await context.ask(self.teacher, item, messages, node="teach", step=step, parents=[mistake])
            await _graded(self.lessons, context, item, turn.texts, turn.traces)
            return turn.traces

        said = await asyncio.gather(*(say(step, each) for step, each in enumerate(state["mistakes"])))
        lessons = [trace for traces in said for trace in traces]
        return {"lessons": lessons, "samples": state["samples"] + len(lessons)}


async def _graded(
    grader: Grader, context: RunContext, item: str, texts: Sequence[str], traces: Sequence[str]
) -> list[bool]:
    """Verdicts of texts, which their traces have from now on as the reward "verified"."""
    correct = [(await grader.grade(context, item, text)).correct for text in texts]
    with context.database.transaction():
        for trace, verdict in zip(traces, correct, strict=True):
            context.traces.reward(trace, "verified", float(verdict))
    return correct


def tailored_lessons(
    *,
    student: Agent,
    teacher: Agent,
    verifier: Grader,
    lessons: Grader | None = None,
    mistakes: int = 1,
    **compile_options: Any,
) -> Any:
    """Builds the graph of Learn-to-Reason (arXiv 2310.13332): an exam, and lessons about what went wrong.

    The student attempts the item `sampling.n` times. Each different wrong attempt goes to the teacher, who
    sees the question and the attempt, not the gold, and writes `sampling.n` lessons. Attempts and lessons
    have a verdict as the reward "verified", and a lesson names the attempt it is about as its parent:
    `distill.feedback_dataset` makes rows of them, and `distill.tailored_rounds` rounds of all of it.

    Nothing is posted: what is learnt goes by the verdicts.

    Args:
        student: Who sits the exam.
        teacher: Who writes lessons; its prompt has the field `{attempt}`.
        verifier: Judges attempts.
        lessons: Judges lessons; by default `verifier`, for lessons that are answers to the same question.
        mistakes: Most different mistakes of an item that the teacher is shown (1: this project's choice).
        **compile_options: For `StateGraph.compile`, such as `checkpointer` or `store`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `TailoredState`; run it with `docendo.run`.

    Raises:
        ConfigError: if one of them is no agent, or `mistakes` less than 1.

    Example:
        >>> from docendo.agents import ScriptedEngine, Verifier
        >>> from docendo.evals import ExactScorer, make_item
        >>> engine = ScriptedEngine(["Answer: 5", "Two and two more. Answer: 4"])
        >>> graph = tailored_lessons(
        ...     student=Agent(engine, role="student"),
        ...     teacher=Agent(engine, role="teacher", prompt="{question} Not {attempt}. Explain."),
        ...     verifier=Verifier(ExactScorer()),
        ... )
        >>> item = make_item("What is 2 + 2?", 4)
        >>> context = RunContext.in_memory([item])
        >>> (lesson,) = graph.invoke({"item": item.id}, context=context)["lessons"]
        >>> context.traces.get(lesson).rewards
        {'verified': 1.0}
    """
    check_count("mistakes", mistakes, 1)
    agents: dict[str, Agent | Grader] = {
        "student": student,
        "teacher": teacher,
        "verifier": verifier,
        "lessons": lessons or verifier,
    }
    require_agents(**agents)
    nodes = _Nodes(
        student=student,
        teacher=teacher,
        verifier=verifier,
        lessons=lessons or verifier,
        mistakes=mistakes,
    )
    builder = StateGraph(TailoredState, context_schema=RunContext)
    builder.add_node("exam", node(nodes.exam, "exam"))
    builder.add_node("teach", node(nodes.teach, "teach"))
    builder.add_edge(START, "exam")
    builder.add_conditional_edges("exam", _after_exam, ["teach", END])
    builder.add_edge("teach", END)
    config = {name: agent.describe() for name, agent in agents.items()}
    return finish(builder, "tailored_lessons", {**config, "mistakes": mistakes}, **compile_options)


def _after_exam(state: TailoredState) -> str:
    return "teach" if state["mistakes"] else END
