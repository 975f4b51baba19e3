"""Tutoring: the student tries, is graded and hinted, and is shown how it is done at last.

A hint never gives the answer away: what the tutor writes is checked against the gold first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext, Student
from docendo.checks import is_count
from docendo.errors import ConfigError
from docendo.graphs._demonstrate import demonstrate_item
from docendo.graphs._nodes import Grader, finish, node, require_agents, require_keep
from docendo.quoting import quoted
from docendo.records import PublicItem

#: Said when every hint of the tutor stated the answer.
PLAIN_HINT = "That is not right. Check each step and try again."


class TutoringState(TypedDict, total=False):
    """State of the tutoring graph: ids and small JSON only; texts live in the traces and on the blackboard.

    Attributes:
        item: Item id.
        task: Id of the task's post.
        attempts: Trace ids of the student's attempts.
        posts: Post ids of the attempts.
        hints: Post ids of the hints; an empty string where only the plain hint was left.
        hints_refused: Hints that stated the answer and were kept from the student.
        demonstrations: Trace ids of the teacher's verified samples.
        samples: How many samples the teacher drew.
        solved: Whether a verified answer was found, by the student or the teacher.
        answer: The last attempt's text, or the demonstration's.
    """

    item: str
    task: str
    attempts: list[str]
    posts: list[str]
    hints: list[str]
    hints_refused: int
    demonstrations: list[str]
    samples: int
    solved: bool
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and the agents that act in them."""

    student: Student
    tutor: Agent | None
    teacher: Agent | None
    verifier: Grader
    retries: int
    keep: int

    async def attempt(self, state: TutoringState, context: RunContext) -> dict[str, Any]:
        """The student answers, after the first time with its earlier attempts and hints in view."""
        item, student = state["item"], self.student
        attempts, hints = state.get("attempts", []), state.get("hints", [])
        anew = len(attempts) != len(hints)  # a thread of LangGraph that had come to its end is asked again
        if anew:
            state, attempts, hints = {"item": item}, [], []
        public = context.public(item)
        task = state.get("task") or self._open(public, context)
        told = [_hint(context, hint) for hint in hints]
        earlier = [context.traces.get(trace).completion for trace in attempts]
        history = [(attempt, text) for attempt, (text, _) in zip(earlier, told, strict=True)]
        messages, step = student.messages(public, history=history), len(attempts)
        # The tutor's turn, too: whoever reads the traces sees what the student answers to.
        heard = [*attempts[-1:], *(trace for _, trace in told[-1:] if trace)]
        turn = await context.ask(student, item, messages, node="attempt", step=step, parents=heard)
        post = context.post(
            "attempt",
            {"text": turn.text, "trace": turn.trace},
            author=student.author,
            item=item,
            node="attempt",
            step=step,
            parents=[task, *state.get("posts", [])[-1:], *filter(None, hints[-1:])],
            traces=[turn.trace],
        )
        ended = {"hints": [], "hints_refused": 0, "demonstrations": [], "samples": 0} if anew else {}
        return {
            **ended,
            "task": task,
            "attempts": [*attempts, turn.trace],
            "posts": [*state.get("posts", []), post.id],
            "answer": turn.text,
        }

    def _open(self, item: PublicItem, context: RunContext) -> str:
        body = {"question": item.question}
        return context.post("task", body, author=self.student.author, item=item.id, node="start").id

    async def grade(self, state: TutoringState, context: RunContext) -> dict[str, Any]:
        """The verifier judges the last attempt; a right one becomes a verified post."""
        item, post, verifier = state["item"], state["posts"][-1], self.verifier
        verdict = await verifier.grade(context, item, state["answer"])
        with context.database.transaction():
            context.traces.reward(state["attempts"][-1], "verified", float(verdict.correct))
            context.post(
                "verdict",
                {"correct": verdict.correct, "value": verdict.value, "parsed": verdict.parsed},
                author=verifier.author,
                item=item,
                node="grade",
                step=len(state["posts"]) - 1,
                parents=[post],
            )
            if verdict.correct:
                context.promote(post, by=verifier.author, reason="passed the verifier")
        return {"solved": verdict.correct}

    async def hint(self, state: TutoringState, context: RunContext) -> dict[str, Any]:
        """The tutor writes hints; the first that does not state the answer reaches the student."""
        tutor, item, step = _present(self.tutor), state["item"], len(state.get("hints", []))
        messages = tutor.messages(context.public(item), attempt=quoted(state["answer"]))
        turn = await context.ask(
            tutor, item, messages, node="hint", step=step, parents=state["attempts"][-1:]
        )
        refused, posted = state.get("hints_refused", 0), ""
        with context.database.transaction():
            for text, trace in zip(turn.texts, turn.traces, strict=True):
                leaks = self.verifier.leaks(context.item(item), text)
                context.traces.reward(trace, "leaks", float(leaks))
                refused += leaks
                if not leaks and text.strip() and not posted:
                    posted = context.post(
                        "hint",
                        {"text": text.strip(), "trace": trace},
                        author=tutor.author,
                        item=item,
                        node="hint",
                        step=step,
                        parents=[state["posts"][-1]],
                        traces=[trace],
                    ).id
        return {"hints": [*state.get("hints", []), posted], "hints_refused": refused}

    async def demonstrate(self, state: TutoringState, context: RunContext) -> dict[str, Any]:
        """The teacher shows how it is done."""
        return await demonstrate_item(
            context,
            state["item"],
            teacher=_present(self.teacher),
            verifier=self.verifier,
            keep=self.keep,
            parents=[state["posts"][-1]],
        )

    def after_grading(self, state: TutoringState) -> Literal["hint", "demonstrate", "__end__"]:
        """Where the graph goes after a verdict."""
        if state["solved"]:
            return "__end__"
        if self.tutor is not None and len(state["attempts"]) <= self.retries:
            return "hint"
        return "demonstrate" if self.teacher is not None else "__end__"


def _hint(context: RunContext, post_id: str) -> tuple[str, str]:
    """A hint as the student may see it, and its turn; the plain one where none is left."""
    post = context.board.get(post_id) if post_id else None
    if post is None or post.trust == "quarantined":
        return PLAIN_HINT, ""
    return str(post.body["text"]), str(post.body["trace"])


def _present(agent: Agent | None) -> Agent:
    """The agent; the graph's edges lead to its node only if there is one."""
    if agent is None:
        raise ConfigError("the graph was built without this agent")
    return agent


def tutoring(
    *,
    student: Student,
    tutor: Agent | None,
    teacher: Agent | None,
    verifier: Grader,
    retries: int = 1,
    keep: int = 2,
    **compile_options: Any,
) -> Any:
    """Builds the tutoring graph.

    The student attempts and the verifier grades. After a failure the tutor, who sees the question and the
    attempt and not the gold, gives a hint, and the student tries again, up to `retries` times. A hint that
    contains the gold answer is refused and counted. If the student still fails, the teacher demonstrates:
    its samples are kept only if they are verified.

    Args:
        student: Who learns.
        tutor: Who gives hints, or None for none. Its samples (`sampling.n`) are tried in order.
        teacher: Who demonstrates at the end, or None for nobody.
        verifier: Who grades; must see the gold if there is a tutor, because hints are checked against it.
        retries: Most attempts after the first.
        keep: Most different verified demonstrations kept per item.
        **compile_options: For `StateGraph.compile`, such as `checkpointer`, `store` or `interrupt_before`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `TutoringState`; run it with `docendo.run`.

    Raises:
        ConfigError: if the verifier cannot check hints, or `retries` is negative.
    """
    if not is_count(retries) or retries < 0:
        raise ConfigError(f"retries is {retries!r}", expected="0 or more")
    require_agents(student=student, verifier=verifier)
    require_keep(keep)
    if tutor is not None and not verifier.sees_gold:
        raise ConfigError(
            "the verifier cannot tell whether a hint states the answer",
            remedy="use Verifier(scorer), or tutor=None",
        )
    nodes = _Nodes(
        student=student, tutor=tutor, teacher=teacher, verifier=verifier, retries=retries, keep=keep
    )
    builder = StateGraph(TutoringState, context_schema=RunContext)
    for function in (nodes.attempt, nodes.grade, nodes.hint, nodes.demonstrate):
        builder.add_node(function.__name__, node(function, function.__name__))
    builder.add_edge(START, "attempt")
    builder.add_edge("attempt", "grade")
    builder.add_conditional_edges("grade", nodes.after_grading, ["hint", "demonstrate", END])
    builder.add_edge("hint", "attempt")
    builder.add_edge("demonstrate", END)
    agents = {"student": student, "tutor": tutor, "teacher": teacher, "verifier": verifier}
    config = {name: agent.describe() if agent else None for name, agent in agents.items()}
    return finish(builder, "tutoring", {**config, "retries": retries, "keep": keep}, **compile_options)
