"""Generation, verification, refinement: three roles in a row, and the tree of what each might have said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext
from docendo.graphs._nodes import Grader, finish, node, require_agents
from docendo.graphs._sample_and_choose import Reader, whole_text
from docendo.graphs.teaching._choosing import choose


class RefiningState(TypedDict, total=False):
    """State of the graph: trace ids and small JSON only.

    Attributes:
        item: Item id.
        generated: Traces of the generator's answers.
        criticised: Traces of the critiques, each with its answer as parent.
        refined: Traces of the refined answers, each with its critique as parent.
        answer: Text of the refined answer that most agree with.
        chosen: Its trace id.
        agreement: Share of the refined answers that agree with it.
        solved: Whether the grader accepts it.
        samples: How many texts were sampled, of all roles.
        generated_tokens: Their tokens.
        flops: Their estimated operations.
    """

    item: str
    generated: list[str]
    criticised: list[str]
    refined: list[str]
    answer: str
    chosen: str
    agreement: float
    solved: bool
    samples: int
    generated_tokens: int
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and the agents that act in them."""

    generator: Agent
    critic: Agent
    refiner: Agent
    grader: Grader
    read: Reader

    async def generate(self, state: RefiningState, context: RunContext) -> dict[str, Any]:
        """The generator answers."""
        item = state["item"]
        messages = self.generator.messages(context.public(item))
        turn = await context.ask(self.generator, item, messages, node="generate")
        return {"generated": list(turn.traces)}

    async def criticise(self, state: RefiningState, context: RunContext) -> dict[str, Any]:
        """The critic says to each answer what is wrong with it."""

        async def say(step: int, answer: str) -> Sequence[str]:
            text = context.traces.get(answer).completion
            messages = self.critic.messages(context.public(state["item"]), answer=text)
            turn = await context.ask(
                self.critic, state["item"], messages, node="criticise", step=step, parents=[answer]
            )
            return turn.traces

        said = await asyncio.gather(*(say(step, each) for step, each in enumerate(state["generated"])))
        return {"criticised": [trace for traces in said for trace in traces]}

    async def refine(self, state: RefiningState, context: RunContext) -> dict[str, Any]:
        """The refiner answers anew with an answer and a critique in view; most of the answers decide."""
        item = state["item"]

        async def say(step: int, critique: str) -> Sequence[str]:
            critic = context.traces.get(critique)
            answer = context.traces.get(critic.parents[0]).completion
            messages = self.refiner.messages(context.public(item), answer=answer, critique=critic.completion)
            turn = await context.ask(
                self.refiner, item, messages, node="refine", step=step, parents=[critique]
            )
            return turn.traces

        said = await asyncio.gather(*(say(step, each) for step, each in enumerate(state["criticised"])))
        refined = [trace for traces in said for trace in traces]
        return {"refined": refined, **await self._result(state, context, refined)}

    async def _result(
        self, state: RefiningState, context: RunContext, refined: Sequence[str]
    ) -> dict[str, Any]:
        texts = [context.traces.get(trace).completion for trace in refined]
        taken = choose([self.read(text) for text in texts], by="count")
        verdicts = {
            text: await self.grader.grade(context, state["item"], text) for text in dict.fromkeys(texts)
        }
        with context.database.transaction():
            for trace, text in zip(refined, texts, strict=True):
                context.traces.reward(trace, "verified", float(verdicts[text].correct))
        said = [context.traces.get(trace) for trace in (*state["generated"], *state["criticised"], *refined)]
        return {
            "answer": texts[taken],
            "chosen": refined[taken],
            "agreement": sum(self.read(text) == self.read(texts[taken]) for text in texts) / len(texts),
            "solved": verdicts[texts[taken]].correct,
            "samples": len(said),
            "generated_tokens": sum(trace.usage.generated_tokens for trace in said),
            "flops": sum(trace.flops for trace in said),
        }


def generate_verify_refine(
    *,
    generator: Agent,
    critic: Agent,
    refiner: Agent,
    grader: Grader,
    read: Reader = whole_text,
    **compile_options: Any,
) -> Any:
    """Builds the pipeline of MALT (arXiv 2412.01928): an answer, a critique of it, a refined answer.

    Each role's `sampling.n` is how often the graph branches there. With n of 1, 1 and 1 it is the pipeline;
    with 3, 1 and 1 three pipelines whose answers vote; with 3, 3 and 3 the tree of 27 leaves that
    `distill.TraceTree` makes training sets of: leaves have the grader's verdict as the reward "verified", and
    every turn names the one that it answers to.

    Nothing is posted: what a turn was worth is decided by the tree.

    Args:
        generator: Who answers first.
        critic: Who says what is wrong; its prompt has the field `{answer}`.
        refiner: Who answers last; its prompt has the fields `{answer}` and `{critique}`.
        grader: Who judges refined answers, for rewards and the outcome alone.
        read: Reads the answer that is compared out of a text; by default the whole text.
        **compile_options: For `StateGraph.compile`, such as `checkpointer` or `store`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `RefiningState`; run it with `docendo.run`.

    Raises:
        ConfigError: if one of the four is no agent.

    Example:
        >>> from docendo.agents import ScriptedEngine, Verifier
        >>> from docendo.evals import ExactScorer, make_item
        >>> engine = ScriptedEngine(["Answer: 5", "2 + 2 is less", "Answer: 4"])
        >>> graph = generate_verify_refine(
        ...     generator=Agent(engine),
        ...     critic=Agent(engine, prompt="{question} {answer} Wrong?"),
        ...     refiner=Agent(engine, prompt="{question} {answer} {critique}"),
        ...     grader=Verifier(ExactScorer()),
        ... )
        >>> item = make_item("What is 2 + 2?", 4)
        >>> graph.invoke({"item": item.id}, context=RunContext.in_memory([item]))["solved"]
        True
    """
    agents: dict[str, Agent | Grader] = {
        "generator": generator,
        "critic": critic,
        "refiner": refiner,
        "grader": grader,
    }
    require_agents(**agents)
    nodes = _Nodes(generator=generator, critic=critic, refiner=refiner, grader=grader, read=read)
    builder = StateGraph(RefiningState, context_schema=RunContext)
    steps = (nodes.generate, nodes.criticise, nodes.refine)
    for function in steps:
        builder.add_node(function.__name__, node(function, function.__name__))
    builder.add_edge(START, "generate")
    builder.add_edge("generate", "criticise")
    builder.add_edge("criticise", "refine")
    builder.add_edge("refine", END)
    config = {name: agent.describe() for name, agent in agents.items()}
    return finish(builder, "generate_verify_refine", config, **compile_options)
