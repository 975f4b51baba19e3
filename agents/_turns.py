"""How an agent's turn becomes traces: one for each sample, under ids that a replay finds again."""

from __future__ import annotations

from collections.abc import Sequence

from docendo.agents._roles import Agent
from docendo.hashing import digest
from docendo.records import Message, PublicItem, Result, SamplingParams, Trace, Usage


def turn_traces(
    agent: Agent,
    item: PublicItem,
    messages: Sequence[Message],
    result: Result,
    *,
    run: str,
    node: str,
    sampling: SamplingParams,
    graph: str = "",
    step: int = 0,
    parents: tuple[str, ...] = (),
) -> list[Trace]:
    """The traces of one turn, in the order of its samples.

    Args:
        agent: Who spoke.
        item: What about.
        messages: The prompt.
        result: What the engine returned.
        run: The run's name.
        node: Name of the graph's node.
        sampling: Decoding settings, seed included.
        graph: Name of the graph.
        step: Ordinal of the turn within run, item and node.
        parents: Ids of the traces that it answers to.
    """
    first = Trace(
        id="",
        run=run,
        item=item.id,
        split=item.split,
        author=agent.author.replace(model=result.model, adapter=result.adapter),
        messages=tuple(messages),
        completion="",
        parents=parents,
        graph=graph,
        node=node,
        step=step,
        sampling=sampling.to_json(),
    )
    return [
        first.replace(
            id=digest(run, item.id, node, step, sample)[:32],
            completion=completion.text,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            sample=sample,
            # The request's cost is charged once.
            usage=result.usage if sample == 0 else Usage(),
            seconds=result.seconds if sample == 0 else 0.0,
            flops=result.flops if sample == 0 else 0.0,
        )
        for sample, completion in enumerate(result.completions)
    ]
