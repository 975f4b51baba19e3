"""Step by step: the small model writes, is asked how sure it is, and the large one rewrites single steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext, Turn
from docendo.checks import check_count
from docendo.errors import ConfigError
from docendo.graphs._nodes import finish, node, require_agents
from docendo.graphs.routing._gate import Gate, LargeBudget, made_gate
from docendo.graphs.routing._switch import Switch
from docendo.graphs.routing._uncertainty import LogprobUncertainty, SmallTurn, Uncertainty


class SwitchingState(TypedDict, total=False):
    """State of the graph of steps: ids and small JSON only.

    Attributes:
        item: Item id.
        answer: The steps so far.
        steps: Trace ids of the steps that stand.
        proposed: Trace id of the step that is being judged.
        text: Its text.
        rejected: For each step the trace of the small model's step that was replaced, or an empty text.
        needs: Uncertainty of each step of the small model.
        large: Whether the step that is being judged goes to the large model.
        large_tokens: Tokens that the large model has generated.
    """

    item: str
    answer: str
    steps: list[str]
    proposed: str
    text: str
    rejected: list[str]
    needs: list[float]
    large: bool
    large_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph."""

    small: Agent
    gate: Gate
    uncertainty: Uncertainty
    most: int
    separator: str
    finished: Callable[[str], bool] | None

    async def step(self, state: SwitchingState, context: RunContext) -> dict[str, Any]:
        """The small model writes the next step."""
        item, steps = state["item"], state.get("steps", [])
        messages = self.small.messages(context.public(item), steps=state.get("answer", ""))
        turn = await context.ask(self.small, item, messages, node="step", step=len(steps), parents=steps[-1:])
        return {"proposed": turn.trace, "text": turn.text}

    async def introspect(self, state: SwitchingState, context: RunContext) -> dict[str, Any]:
        """The step's uncertainty is measured; unless the large model is to rewrite it, the step stands."""
        item, step, written = state["item"], len(state.get("steps", [])), state.get("answer", "")
        messages = self.small.messages(context.public(item), steps=written)
        turn = Turn((state["text"],), (state["proposed"],))
        need = await self.uncertainty.measure(
            context,
            SmallTurn(item=item, small=self.small, messages=messages, turn=turn, written=written, step=step),
        )
        large = self.gate.open(context, item, need, step=step)
        found = {"needs": [*state.get("needs", []), need], "large": large}
        return found if large else {**found, **self._kept(state, turn, rejected="")}

    async def rewrite(self, state: SwitchingState, context: RunContext) -> dict[str, Any]:
        """The large model writes this one step instead, and control goes back."""
        item, steps = state["item"], state.get("steps", [])
        large = self.gate.large
        messages = large.messages(context.public(item), steps=state.get("answer", ""), rejected=state["text"])
        turn = await context.ask(
            large, item, messages, node="rewrite", step=len(steps), parents=[state["proposed"]]
        )
        tokens = self.gate.settle(context, item, turn, step=len(steps))
        return {
            **self._kept(state, turn, rejected=state["proposed"]),
            "large_tokens": state.get("large_tokens", 0) + tokens,
        }

    def _kept(self, state: SwitchingState, turn: Turn, *, rejected: str) -> dict[str, Any]:
        return {
            "answer": state.get("answer", "") + turn.text + self.separator,
            "steps": [*state.get("steps", []), turn.trace],
            "rejected": [*state.get("rejected", []), rejected],
        }

    def after_introspection(self, state: SwitchingState) -> Literal["rewrite", "step", "__end__"]:
        """Where the graph goes when a step was judged."""
        return "rewrite" if state["large"] else self.after_step(state)

    def after_step(self, state: SwitchingState) -> Literal["step", "__end__"]:
        """Whether there is another step."""
        done = len(state["steps"]) >= self.most or (
            self.finished is not None and self.finished(state["answer"])
        )
        return "__end__" if done else "step"


def switching(
    *,
    small: Agent,
    large: Agent,
    switch: Switch | float,
    uncertainty: Uncertainty | None = None,
    steps: int = 8,
    separator: str = "",
    finished: Callable[[str], bool] | None = None,
    budget: LargeBudget | None = None,
    **compile_options: Any,
) -> Any:
    """Builds the graph in which the large model rewrites only those steps that the small one doubts.

    After AdaSwitch (Sun et al. 2024, arXiv 2410.13181): the small model writes a step and judges it; where it
    believes that it erred, the large model writes this one step, and control returns. The rejected step is
    dropped. An agent's prompt may name the field `{rejected}` to see it: with the small model itself, under
    such a prompt, in the place of `large`, this is AdaSwitch's self-reflection.

    Args:
        small: The cheap model; its prompt has the field `{steps}`. One answer is one step, so give it a stop
            string or `max_tokens`.
        large: The dear model, likewise.
        switch: From which uncertainty a step is rewritten, or what decides under a budget. The paper's value
            is not known; calibrate one on held-out questions with `threshold_for_share`.
        uncertainty: How uncertain a step is: `LogprobUncertainty()` by default, `VerdictUncertainty` for
            the paper's trained verdict.
        steps: Most steps.
        separator: Written behind each step: the stop string, which the model's text leaves out.
        finished: Whether the text so far is complete; by default there are always `steps` steps.
        budget: Hard budget of the large model's tokens for a whole run, or None.
        **compile_options: For `StateGraph.compile`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `SwitchingState`.

    Raises:
        ConfigError: if an argument is not of its kind, or a prompt lacks `{steps}`.

    Example:
        >>> from docendo.agents import RunContext, ScriptedEngine
        >>> from docendo.evals import make_item
        >>> small = Agent(ScriptedEngine(["3", "9"]), prompt="{question} {steps}")
        >>> large = Agent(ScriptedEngine(["6"]), role="expert", prompt="{question} {steps}")
        >>> class Doubt:
        ...     async def measure(self, context, said):
        ...         return float(said.turn.text == "9")
        ...     def describe(self):
        ...         return {}
        >>> graph = switching(small=small, large=large, uncertainty=Doubt(), switch=0.5, steps=2,
        ...                   separator=",")
        >>> item = make_item("1 + 2 + 3 =", 6)
        >>> graph.invoke({"item": item.id}, context=RunContext.in_memory([item]))["answer"]
        '3,6,'
    """
    measure = uncertainty if uncertainty is not None else LogprobUncertainty()
    require_agents(small=small, large=large, uncertainty=measure)
    check_count("steps", steps, 1)
    for name, agent in (("small", small), ("large", large)):
        if "{steps}" not in agent.prompt:
            raise ConfigError(
                f"the prompt of {name} is {agent.prompt!r}", expected="one with {steps}, the steps so far"
            )
    nodes = _Nodes(
        small=small,
        gate=made_gate(large, switch, budget),
        uncertainty=measure,
        most=steps,
        separator=separator,
        finished=finished,
    )
    builder = StateGraph(SwitchingState, context_schema=RunContext)
    for function in (nodes.step, nodes.introspect, nodes.rewrite):
        builder.add_node(function.__name__, node(function, function.__name__))
    builder.add_edge(START, "step")
    builder.add_edge("step", "introspect")
    builder.add_conditional_edges("introspect", nodes.after_introspection, ["rewrite", "step", END])
    builder.add_conditional_edges("rewrite", nodes.after_step, ["step", END])
    config = {
        "small": small.describe(),
        "large": large.describe(),
        "uncertainty": measure.describe(),
        "steps": steps,
        "separator": separator,
        "finished": getattr(finished, "__qualname__", None) if finished else None,
        **nodes.gate.describe(),
    }
    # LangGraph stops after 25 nodes unless it is told of more.
    return finish(builder, "switching", config, **compile_options).with_config(recursion_limit=3 * steps + 5)
