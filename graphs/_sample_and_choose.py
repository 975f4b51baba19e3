"""Sampling and choosing: several answers to one question, of which votes and scores take one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext, Verdict
from docendo.errors import ConfigError
from docendo.graphs._nodes import Grader, finish, node, require_agents
from docendo.graphs.teaching._choosing import By, choose

#: Reads the answer out of a text; None where there is none.
Reader = Callable[[str], "str | None"]


def whole_text(text: str) -> str | None:
    """The text without its outer and repeated blanks; None if nothing is left.

    Example:
        >>> whole_text("  4 "), whole_text(" ")
        ('4', None)
    """
    return " ".join(text.split()) or None


class ChoiceState(TypedDict, total=False):
    """State of the graph: ids and small JSON only; all samples are traces.

    Attributes:
        item: Item id.
        answer: Text of the sample that was taken.
        chosen: Its trace id.
        post: Its post id.
        samples: How many were drawn.
        agreement: Share of the samples with the answer that was taken.
        solved: Whether the verifier accepts it; not there without a verifier.
        generated_tokens: Tokens of all samples.
        flops: Estimated operations of all samples; the verifier's own are in its engine's ledger.
    """

    item: str
    answer: str
    chosen: str
    post: str
    samples: int
    agreement: float
    solved: bool
    generated_tokens: int
    flops: float


def sample_and_choose(
    *,
    solver: Agent,
    by: By = "count",
    verifier: Grader | None = None,
    read: Reader = whole_text,
    **compile_options: Any,
) -> Any:
    """Builds the graph that draws several answers and takes one: parallel search at test time.

    With `by="count"` it is self-consistency (arXiv 2203.11171), with a verifier and "max" best-of-n
    (arXiv 2110.14168), with a verifier and "sum" a weighted vote (arXiv 2206.02336). With one sample it is
    sequential search: whatever the solver writes before its answer, judged by the same verifier.

    Args:
        solver: Who answers; `sampling.n` samples are drawn per item.
        by: What a group of equal answers counts, as for `choose`; all but "count" need a verifier.
        verifier: Who scores each sample, by the `value` of its verdict, or None. Equal texts are judged once.
        read: Reads the answer that is compared out of a text, such as `evals.read_answer`; by default the
            whole text.
        **compile_options: For `StateGraph.compile`, such as `checkpointer` or `store`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `ChoiceState`; run it with `docendo.run`. Where a
        verifier judges, each sample's trace has its verdict as the reward "verified".

    Raises:
        ConfigError: if the solver is no agent, or scores are needed and there is no verifier.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> from docendo.evals import make_item
        >>> from docendo.records import SamplingParams
        >>> engine = ScriptedEngine([["4", "5", "5"]])
        >>> solver = Agent(engine, sampling=SamplingParams(n=3, temperature=1.0))
        >>> item = make_item("What is 2 + 3?", 5)
        >>> graph = sample_and_choose(solver=solver)
        >>> graph.invoke({"item": item.id}, context=RunContext.in_memory([item]))["answer"]
        '5'
    """
    require_agents(solver=solver)
    if by != "count" and verifier is None:
        raise ConfigError(f"by is {by!r} without a verifier", expected="a verifier whose values are compared")
    if verifier is not None:
        require_agents(verifier=verifier)

    async def sample(state: ChoiceState, context: RunContext) -> dict[str, Any]:
        item = state["item"]
        turn = await context.ask(solver, item, solver.messages(context.public(item)), node="sample")
        verdicts = None if verifier is None else await _judged(verifier, context, item, turn.texts)
        answers = [read(text) for text in turn.texts]
        values = None if verdicts is None else [verdict.value for verdict in verdicts]
        taken = choose(answers, values, by=by)
        drawn = context.traces.get(turn.trace)
        with context.database.transaction():
            for trace, verdict in zip(turn.traces, verdicts or (), strict=False):
                context.traces.reward(trace, "verified", float(verdict.correct))
            post = context.post(
                "answer",
                {"text": turn.texts[taken], "trace": turn.traces[taken]},
                author=solver.author,
                item=item,
                node="sample",
                traces=[turn.traces[taken]],
            )
            if verifier is not None and verdicts is not None and verdicts[taken].correct:
                context.promote(post.id, by=verifier.author, reason="passed the verifier")
        solved = {} if verdicts is None else {"solved": verdicts[taken].correct}
        return {
            "answer": turn.texts[taken],
            "chosen": turn.traces[taken],
            "post": post.id,
            "samples": len(answers),
            "agreement": answers.count(answers[taken]) / len(answers),
            "generated_tokens": drawn.usage.generated_tokens,
            "flops": drawn.flops,
            **solved,
        }

    builder = StateGraph(ChoiceState, context_schema=RunContext)
    builder.add_node("sample", node(sample, "sample"))
    builder.add_edge(START, "sample")
    builder.add_edge("sample", END)
    config = {
        "solver": solver.describe(),
        "verifier": None if verifier is None else verifier.describe(),
        "by": by,
        "read": f"{getattr(read, '__module__', '')}.{getattr(read, '__qualname__', type(read).__name__)}",
    }
    return finish(builder, "sample_and_choose", config, **compile_options)


async def _judged(verifier: Grader, context: RunContext, item: str, texts: tuple[str, ...]) -> list[Verdict]:
    """A verdict for each text; equal ones are judged once."""
    different = list(dict.fromkeys(texts))
    verdicts = await asyncio.gather(*(verifier.grade(context, item, text) for text in different))
    of = dict(zip(different, verdicts, strict=True))
    return [of[text] for text in texts]
