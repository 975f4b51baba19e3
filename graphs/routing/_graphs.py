"""Two graphs that ask a large model only where it is needed: by the question, or by the small answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext, Turn
from docendo.errors import ConfigError
from docendo.graphs._nodes import finish, node, require_agents
from docendo.graphs.routing._gate import Gate, LargeBudget, made_gate
from docendo.graphs.routing._router import Router
from docendo.graphs.routing._switch import Switch
from docendo.graphs.routing._uncertainty import LogprobUncertainty, SmallTurn, Uncertainty
from docendo.hashing import digest
from docendo.records import Message


class RoutingState(TypedDict, total=False):
    """State of the graphs `route` and `cascade`: ids and small JSON only.

    Attributes:
        item: Item id.
        need: How much the large model is needed: the router's score, or the answer's uncertainty.
        large: Whether the large model was asked.
        answer: The answer's text.
        small_trace: Trace of the small model's answer, if it answered.
        large_trace: Trace of the large model's answer, if it answered.
        large_tokens: Tokens that the large model generated.
    """

    item: str
    need: float
    large: bool
    answer: str
    small_trace: str
    large_trace: str
    large_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of both graphs."""

    small: Agent
    gate: Gate
    router: Router | None = None
    uncertainty: Uncertainty | None = None

    async def route(self, state: RoutingState, context: RunContext) -> dict[str, Any]:
        """The router scores the question and the gate decides."""
        router, item = self.router, state["item"]
        if router is None:
            raise ConfigError("the graph was built without a router")
        question = context.public(item).question
        key = digest("route", router.describe(), question)
        stored = context.journal.get(key)
        if stored is None:
            # An embedder waits for its engine, which must not stop other items.
            need = await asyncio.to_thread(router.score, question)
            stored = context.journal.put(key, {"need": need})
        return self._decided(state, context, float(stored["need"]))

    async def small_answers(self, state: RoutingState, context: RunContext) -> dict[str, Any]:
        """The small model answers."""
        turn = await self._ask(self.small, state, context, "small")
        return {"answer": turn.text, "small_trace": turn.trace}

    async def decide(self, state: RoutingState, context: RunContext) -> dict[str, Any]:
        """The answer's uncertainty is measured and the gate decides."""
        if self.uncertainty is None:
            raise ConfigError("the graph was built without an uncertainty")
        item = state["item"]
        turn = Turn((state["answer"],), (state["small_trace"],))
        messages = self._messages(self.small, state, context)
        said = SmallTurn(item=item, small=self.small, messages=messages, turn=turn)
        need = await self.uncertainty.measure(context, said)
        return self._decided(state, context, need)

    async def large_answers(self, state: RoutingState, context: RunContext) -> dict[str, Any]:
        """The large model answers, and what it generated is booked."""
        turn = await self._ask(self.gate.large, state, context, "large")
        tokens = self.gate.settle(context, state["item"], turn)
        return {"answer": turn.text, "large_trace": turn.trace, "large_tokens": tokens}

    def after_decision(self, state: RoutingState) -> Literal["large", "small"]:
        """Who answers next."""
        return "large" if state["large"] else "small"

    def _decided(self, state: RoutingState, context: RunContext, need: float) -> dict[str, Any]:
        return {"need": need, "large": self.gate.open(context, state["item"], need), "large_tokens": 0}

    def _messages(self, agent: Agent, state: RoutingState, context: RunContext) -> tuple[Message, ...]:
        return agent.messages(context.public(state["item"]))

    async def _ask(self, agent: Agent, state: RoutingState, context: RunContext, name: str) -> Turn:
        parents = [state["small_trace"]] if "small_trace" in state else []
        messages = self._messages(agent, state, context)
        return await context.ask(agent, state["item"], messages, node=name, parents=parents)


def route(
    *,
    small: Agent,
    large: Agent,
    router: Router,
    switch: Switch | float,
    budget: LargeBudget | None = None,
    **compile_options: Any,
) -> Any:
    """Builds the graph that decides from the question alone which model answers it.

    Args:
        small: The cheap model.
        large: The dear model.
        router: Scores questions; fitted.
        switch: From which score the large model answers (`threshold_for_share`, `threshold_for_value`), or
            what decides under a budget: `Paced`, `BudgetedSwitch`.
        budget: Hard budget of the large model's tokens for a whole run, or None.
        **compile_options: For `StateGraph.compile`, such as `checkpointer`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `RoutingState`; run it with `docendo.run`.

    Raises:
        ConfigError: if an argument is not of its kind.

    Example:
        >>> from docendo.agents import RunContext, ScriptedEngine
        >>> from docendo.evals import make_item
        >>> from docendo.graphs.routing import LengthRouter, RoutingExample
        >>> rows = [RoutingExample(question=q, small=1, large=1) for q in ("1 + 1?", "12 + 34 + 56?")]
        >>> graph = route(small=Agent(ScriptedEngine(["2"])), large=Agent(ScriptedEngine(["102"])),
        ...               router=LengthRouter().fit(rows), switch=0.5)
        >>> item = make_item("12 + 34 + 56?", 102)
        >>> state = graph.invoke({"item": item.id}, context=RunContext.in_memory([item]))
        >>> state["answer"], state["large"]
        ('102', True)
    """
    require_agents(small=small, large=large, router=router)
    nodes = _Nodes(small=small, gate=made_gate(large, switch, budget), router=router)
    builder = StateGraph(RoutingState, context_schema=RunContext)
    builder.add_node("route", node(nodes.route, "route"))
    builder.add_node("small", node(nodes.small_answers, "small"))
    builder.add_node("large", node(nodes.large_answers, "large"))
    builder.add_edge(START, "route")
    builder.add_conditional_edges("route", nodes.after_decision, ["small", "large"])
    builder.add_edge("small", END)
    builder.add_edge("large", END)
    config = {"small": small.describe(), "large": large.describe(), "router": router.describe()}
    return finish(builder, "route", {**config, **nodes.gate.describe()}, **compile_options)


def cascade(
    *,
    small: Agent,
    large: Agent,
    switch: Switch | float,
    uncertainty: Uncertainty | None = None,
    budget: LargeBudget | None = None,
    **compile_options: Any,
) -> Any:
    """Builds the graph in which the small model answers first, and the large one where that is uncertain.

    Args:
        small: The cheap model, whose answers all questions cost.
        large: The dear model.
        switch: From which uncertainty the large model answers, or what decides under a budget.
        uncertainty: How uncertain an answer is: `LogprobUncertainty("mean")` by default,
            `AgreementUncertainty`, `VerifierUncertainty`.
        budget: Hard budget of the large model's tokens for a whole run, or None.
        **compile_options: For `StateGraph.compile`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `RoutingState`.

    Raises:
        ConfigError: if an argument is not of its kind.
    """
    measure = uncertainty if uncertainty is not None else LogprobUncertainty("mean")
    require_agents(small=small, large=large, uncertainty=measure)
    nodes = _Nodes(small=small, gate=made_gate(large, switch, budget), uncertainty=measure)
    builder = StateGraph(RoutingState, context_schema=RunContext)
    builder.add_node("small", node(nodes.small_answers, "small"))
    builder.add_node("decide", node(nodes.decide, "decide"))
    builder.add_node("large", node(nodes.large_answers, "large"))
    builder.add_edge(START, "small")
    builder.add_edge("small", "decide")
    builder.add_conditional_edges("decide", nodes.after_decision, {"large": "large", "small": END})
    builder.add_edge("large", END)
    config = {"small": small.describe(), "large": large.describe(), "uncertainty": measure.describe()}
    return finish(builder, "cascade", {**config, **nodes.gate.describe()}, **compile_options)
