"""Demonstration: the teacher samples several answers, and those that pass verification are kept."""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext
from docendo.graphs._nodes import Grader, finish, node, require_agents, require_keep


class DemonstrationState(TypedDict, total=False):
    """State of the demonstration graph: ids and small JSON only."""

    item: str
    answer: str
    solved: bool
    demonstrations: list[str]
    samples: int


async def demonstrate_item(
    context: RunContext, item: str, *, teacher: Agent, verifier: Grader, keep: int, parents: list[str]
) -> dict[str, Any]:
    """Samples the teacher, verifies every sample, and posts the first `keep` different verified ones.

    Returns:
        The state update: trace ids of the kept demonstrations, the answer, and the number of samples.
    """
    turn = await context.ask(teacher, item, teacher.messages(context.public(item)), node="demonstrate")
    verdicts = [await verifier.grade(context, item, text) for text in turn.texts]
    kept: dict[str, str] = {}
    with context.database.transaction():
        for step, (text, trace, verdict) in enumerate(zip(turn.texts, turn.traces, verdicts, strict=True)):
            context.traces.reward(trace, "verified", float(verdict.correct))
            if not verdict.correct or text.strip() in kept or len(kept) >= keep:
                continue
            kept[text.strip()] = trace
            post = context.post(
                "demonstration",
                {"text": text, "trace": trace},
                author=teacher.author,
                item=item,
                node="demonstrate",
                step=step,
                parents=parents,
                traces=[trace],
            )
            context.promote(post.id, by=verifier.author, reason="passed the verifier")
    return {
        "demonstrations": list(kept.values()),
        "answer": next(iter(kept), turn.text),
        "solved": bool(kept),
        "samples": len(turn.texts),
    }


def demonstrate(*, teacher: Agent, verifier: Grader, keep: int = 2, **compile_options: Any) -> Any:
    """Builds the graph in which a teacher shows how it is done: best of n with verification.

    Args:
        teacher: Who demonstrates; `sampling.n` samples are drawn per item.
        verifier: Who decides which samples are kept.
        keep: Most different verified samples kept per item.
        **compile_options: For `StateGraph.compile`, such as `checkpointer` or `store`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `DemonstrationState`.

    Raises:
        ConfigError: if an agent is none, or `keep` less than 1.
    """
    require_agents(teacher=teacher, verifier=verifier)
    require_keep(keep)

    async def run(state: DemonstrationState, context: RunContext) -> dict[str, Any]:
        item = state["item"]
        question = context.public(item).question
        task = context.post("task", {"question": question}, author=teacher.author, item=item, node="start")
        return await demonstrate_item(
            context, item, teacher=teacher, verifier=verifier, keep=keep, parents=[task.id]
        )

    builder = StateGraph(DemonstrationState, context_schema=RunContext)
    builder.add_node("demonstrate", node(run, "demonstrate"))
    builder.add_edge(START, "demonstrate")
    builder.add_edge("demonstrate", END)
    config = {"teacher": teacher.describe(), "verifier": verifier.describe(), "keep": keep}
    return finish(builder, "demonstrate", config, **compile_options)
