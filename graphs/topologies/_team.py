"""Teams: who hears whom and who decides, in five topologies of one builder.

The topologies are those of "Towards a Science of Scaling Agent Systems" (Kim et al. 2025, arXiv 2512.08296):
single, independent, centralized, decentralized, hybrid. Each turn's trace names the turns that it answers to,
so `evals.coordination_metrics` reads messages, overhead and redundancy from the traces of any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext
from docendo.checks import check_count
from docendo.errors import ConfigError
from docendo.graphs._nodes import Grader, finish, node, require_agents
from docendo.graphs.topologies._delivery import Deliver, direct_delivery
from docendo.graphs.topologies._members import Member, Orchestrator, Order, Said, vote
from docendo.memory import Post
from docendo.records import Message

Topology = Literal["single", "independent", "centralized", "decentralized", "hybrid"]


class _Shape(NamedTuple):
    """What makes a topology: whether an orchestrator hands out work, and how often members speak again."""

    orchestrated: bool
    exchanges: int


# The paper's text does not fix the rounds of a debate; three are its commonly quoted setting.
_SHAPES: Mapping[Topology, _Shape] = {
    "single": _Shape(False, 0),
    "independent": _Shape(False, 0),
    "centralized": _Shape(True, 0),
    "decentralized": _Shape(False, 3),
    "hybrid": _Shape(True, 1),
}


class TeamState(TypedDict, total=False):
    """State of a team's graph: ids and small JSON only; texts live in traces and posts.

    Attributes:
        item: Item id.
        round: Rounds of work that were begun.
        exchange: How often members have spoken again in this round.
        order: Id of the last order's post; an empty text without an orchestrator.
        rounds: For each round the ids of its messages' posts.
        answer: The answer.
        solved: Whether the verifier accepts it, if there is one.
    """

    item: str
    round: int
    exchange: int
    order: str
    rounds: list[list[str]]
    answer: str
    solved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and the agents that act in them."""

    members: tuple[Member, ...]
    orchestrator: Orchestrator | None
    orchestrated: bool
    rounds: int
    exchanges: int
    read: Callable[[str], str]
    verifier: Grader | None
    deliver: Deliver

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]

    async def direct(self, state: TeamState, context: RunContext) -> dict[str, Any]:
        """The orchestrator hands out work, by its rule or by what its model writes, or answers."""
        item, chief, number = state["item"], _present(self.orchestrator), state.get("round", 0)
        rounds = [context.board.get(post) for ids in state.get("rounds", []) for post in ids]
        reports, public = self._reports(state, context), context.public(item)
        tasks, trace = chief.assign(public, members=self.names, reports=reports), ""
        order = Order(tasks=tasks or {})
        if tasks is None:
            messages = chief.messages(public, members=self.names, reports=reports)
            turn = await context.ask(
                chief, item, messages, node="direct", step=number, parents=_turns_of(rounds)
            )
            order, trace = chief.decide(turn.text, item=public, members=self.names), turn.trace
        if order.answer is not None:
            return await self._answer(state, context, order.answer, author=chief, traces=[trace])
        text = "\n".join(f"{name}: {task}" for name, task in order.tasks.items())
        body: dict[str, Any] = {"text": text, "tasks": dict(order.tasks)}
        post = context.post(
            "message",
            {**body, "trace": trace} if trace else body,
            author=chief.author,
            item=item,
            node="direct",
            step=number,
            parents=[post.id for post in rounds],
            traces=[trace] if trace else (),
        )
        return {"order": post.id}

    async def work(self, state: TeamState, context: RunContext) -> dict[str, Any]:
        """All members who have work do it at once, and hear nobody but the orchestrator."""
        said = await self._speak(state, context, "work", hearing=False)
        number = state.get("round", 0) + 1
        return {"round": number, "exchange": 0, "rounds": [*state.get("rounds", []), said]}

    async def confer(self, state: TeamState, context: RunContext) -> dict[str, Any]:
        """They hear what the others said last, and speak again."""
        said = await self._speak(state, context, "confer", hearing=True)
        *before, last = state["rounds"]
        return {"exchange": state["exchange"] + 1, "rounds": [*before, [*last, *said]]}

    async def _speak(self, state: TeamState, context: RunContext, where: str, *, hearing: bool) -> list[str]:
        order = context.board.get(state["order"]) if state.get("order") else None
        tasks: Mapping[str, str] = order.body["tasks"] if order else dict.fromkeys(self.names, "")
        last = _latest(context, state["rounds"][-1:] if hearing else ())
        step = state.get("round", 0) * (self.exchanges + 1) + (state["exchange"] + 1 if hearing else 0)
        said = await asyncio.gather(
            *(
                self._say(member, tasks[member.name], order, last, state["item"], context, where, step)
                for member in self.members
                if member.name in tasks
            )
        )
        return [post.id for post in said]

    async def _say(
        self,
        member: Member,
        task: str,
        order: Post | None,
        last: Mapping[str, Post],
        item: str,
        context: RunContext,
        where: str,
        step: int,
    ) -> Post:
        """One turn of a member and its message, which is the commonest of its samples."""
        own = last.get(member.name)
        if own is not None and own.trust == "quarantined":
            own = None
        others = {name: post for name, post in last.items() if name != member.name}
        texts = {name: self.deliver(context, post) for name, post in others.items()}
        messages: Sequence[Message] = member.messages(
            context.public(item),
            task=task,
            said=str(own.body["text"]) if own else "",
            heard=[(name, text) for name, text in texts.items() if text],
        )
        before = [post for post in (own, order) if post] + [
            others[name] for name, text in texts.items() if text
        ]
        place = f"{where}/{member.name}"
        turn = await context.ask(member, item, messages, node=place, step=step, parents=_turns_of(before))
        text = vote(turn.texts, read=self.read)
        return context.post(
            "message",
            {"text": text, "trace": turn.traces[turn.texts.index(text)]},
            author=member.author,
            item=item,
            node=place,
            step=step,
            parents=[post.id for post in before],
            traces=turn.traces,
        )

    async def conclude(self, state: TeamState, context: RunContext) -> dict[str, Any]:
        """The orchestrator answers, or the members' last texts are counted."""
        item, chief = state["item"], self.orchestrator
        if chief is None:
            last = _latest(context, state["rounds"])
            # What was taken out has no vote, unless nothing else is left.
            counted = {n: post for n, post in last.items() if post.trust != "quarantined"} or last
            owner = {trace: name for name, post in counted.items() for trace in post.traces}
            texts = {trace: context.traces.get(trace).completion for trace in owner}
            answer = vote(list(texts.values()), read=self.read)
            chosen = [trace for trace, text in texts.items() if self.read(text) == self.read(answer)]
            first = next(member for member in self.members if member.name == owner[chosen[0]])
            return await self._answer(state, context, answer, author=first, traces=chosen)
        heard = [context.board.get(post) for ids in state["rounds"] for post in ids]
        messages = chief.messages(
            context.public(item), members=self.names, reports=self._reports(state, context), last=True
        )
        turn = await context.ask(chief, item, messages, node="conclude", parents=_turns_of(heard))
        answer = vote([chief.answer(text) for text in turn.texts], read=self.read)
        chosen = [t for t, text in zip(turn.traces, turn.texts, strict=True) if chief.answer(text) == answer]
        return await self._answer(state, context, answer, author=chief, traces=chosen)

    async def _answer(
        self, state: TeamState, context: RunContext, answer: str, *, author: Agent, traces: Sequence[str]
    ) -> dict[str, Any]:
        """Posts the answer; where it is verified, its turns become rows to learn from."""
        item = state["item"]
        post = context.post(
            "answer",
            {"text": answer, "trace": traces[0]},
            author=author.author,
            item=item,
            node="answer",
            parents=[post for ids in state.get("rounds", []) for post in ids],
            traces=traces,
        )
        if self.verifier is None:
            return {"answer": answer}
        verdict = await self.verifier.grade(context, item, answer)
        with context.database.transaction():
            for trace in traces:
                context.traces.reward(trace, "verified", float(verdict.correct))
            if verdict.correct:
                context.promote(post.id, by=self.verifier.author, reason="passed the verifier")
        return {"answer": answer, "solved": verdict.correct}

    def _reports(self, state: TeamState, context: RunContext) -> list[list[Said]]:
        """What the orchestrator is told of each round: every message, in its order."""
        rounds = [[context.board.get(post) for post in ids] for ids in state.get("rounds", [])]
        return [
            [(post.author.agent, text) for post in said if (text := self.deliver(context, post))]
            for said in rounds
        ]

    def after_directing(self, state: TeamState) -> str:
        """To the end with an answer, else to work."""
        return END if "answer" in state else "work"

    def after_speaking(self, state: TeamState) -> str:
        """Members speak again, or the orchestrator hands out more work, or the end is near."""
        if state["exchange"] < self.exchanges:
            return "confer"
        return "direct" if self.orchestrated and state["round"] < self.rounds else "conclude"


def _present(agent: Orchestrator | None) -> Orchestrator:
    """The orchestrator; the graph's edges lead to its node only if there is one."""
    if agent is None:
        raise ConfigError("the graph was built without an orchestrator")
    return agent


def _latest(context: RunContext, rounds: Sequence[Sequence[str]]) -> dict[str, Post]:
    """The last message of each member, in the order in which they first spoke."""
    posts = [context.board.get(post) for ids in rounds for post in ids]
    return {post.author.agent: post for post in posts}


def _turns_of(posts: Sequence[Post]) -> list[str]:
    """The turns whose texts were posted; an order by a rule has none."""
    return [str(post.body["trace"]) for post in posts if "trace" in post.body]


def team(
    topology: Topology,
    members: Sequence[Member],
    *,
    orchestrator: Orchestrator | None = None,
    rounds: int = 1,
    exchanges: int | None = None,
    read: Callable[[str], str] = str.strip,
    verifier: Grader | None = None,
    deliver: Deliver = direct_delivery,
    **compile_options: Any,
) -> Any:
    """Builds the graph of a team.

    | topology | who hears whom | who answers |
    |---|---|---|
    | single | one member, nobody | its samples' vote |
    | independent | nobody | the members' vote, or an orchestrator who reads all |
    | centralized | the orchestrator hands out work and reads what comes back | the orchestrator |
    | decentralized | every member all others, `exchanges` times | the members' vote |
    | hybrid | as centralized, and members hear each other in each round | the orchestrator |

    Several samples of one turn (`sampling.n`) are one message, the commonest of them; in a vote each counts.

    Args:
        topology: One of the five.
        members: Who works: one for "single", else at least two of different names.
        orchestrator: Who hands out work and answers; of "independent" one who only answers.
        rounds: How often work is handed out.
        exchanges: How often members speak again in a round, after they have heard the others (a single one
            after it has seen what it said). None for 3 of "decentralized", 1 of "hybrid", else 0.
        read: Gives the answer in a text, for votes.
        verifier: Judges the answer: the state then says `solved`, and turns whose answer is right can be
            learnt from. None for no judgement.
        deliver: How a message reaches those that hear it, such as `Crossed` for a control.
        **compile_options: For `StateGraph.compile`, such as `checkpointer`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `TeamState`; run it with `docendo.run`.

    Raises:
        ConfigError: if the agents do not fit the topology, or a number cannot be used.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> from docendo.evals import make_item
        >>> engine, item = ScriptedEngine(["4", "5", "4", "4"]), make_item("2 + 2?", 4)
        >>> graph = team("decentralized", [Member(engine, name=n) for n in ("ann", "bob")], exchanges=1)
        >>> graph.invoke({"item": item.id}, context=RunContext.in_memory([item]))["answer"]
        '4'
    """
    if topology not in get_args(Topology):
        raise ConfigError(f"the topology is {topology!r}", expected=f"one of {', '.join(get_args(Topology))}")
    shape = _SHAPES[topology]
    _check(topology, members, orchestrator, shape)
    exchanges = shape.exchanges if exchanges is None else exchanges
    check_count("rounds", rounds, 1)
    check_count("exchanges", exchanges, 0)
    if rounds > 1 and not shape.orchestrated:
        raise ConfigError(
            f"rounds is {rounds} for {topology!r}, where nobody hands out work", remedy="use exchanges="
        )
    nodes = _Nodes(
        members=tuple(members),
        orchestrator=orchestrator,
        orchestrated=shape.orchestrated,
        rounds=rounds,
        exchanges=exchanges,
        read=read,
        verifier=verifier,
        deliver=deliver,
    )
    builder = StateGraph(TeamState, context_schema=RunContext)
    for function in (nodes.work, nodes.conclude):
        builder.add_node(function.__name__, node(function, function.__name__))
    onward = ["conclude"]
    if exchanges:
        builder.add_node("confer", node(nodes.confer, "confer"))
        onward.append("confer")
    if shape.orchestrated:
        builder.add_node("direct", node(nodes.direct, "direct"))
        builder.add_conditional_edges("direct", nodes.after_directing, ["work", END])
        onward.append("direct")
    builder.add_edge(START, "direct" if shape.orchestrated else "work")
    for name in ("work", "confer") if exchanges else ("work",):
        builder.add_conditional_edges(name, nodes.after_speaking, onward)
    builder.add_edge("conclude", END)
    config = {
        "members": [member.describe() for member in members],
        "orchestrator": orchestrator.describe() if orchestrator else None,
        "verifier": verifier.describe() if verifier else None,
        "rounds": rounds,
        "exchanges": exchanges,
        "deliver": getattr(deliver, "__name__", type(deliver).__name__),
    }
    return finish(builder, topology, config, **compile_options)


def _check(
    topology: Topology, members: Sequence[Member], orchestrator: Orchestrator | None, shape: _Shape
) -> None:
    require_agents(**{f"members[{place}]": member for place, member in enumerate(members)})
    names = [member.name for member in members]
    if len(set(names)) < len(names) or (orchestrator and orchestrator.name in names):
        named = [*names, *([orchestrator.name] if orchestrator else [])]
        raise ConfigError(f"the agents are {', '.join(named)}", expected="agents with different names")
    if topology == "single" and len(names) != 1:
        raise ConfigError(f"there are {len(names)} members", expected="one for 'single'")
    if topology != "single" and len(names) < 2:
        raise ConfigError(f"there are {len(names)} members", expected=f"at least two for {topology!r}")
    if shape.orchestrated and orchestrator is None:
        raise ConfigError(
            f"{topology!r} has no orchestrator", remedy="give one: orchestrator=Orchestrator(...)"
        )
    if orchestrator is not None and topology in ("single", "decentralized"):
        raise ConfigError(f"{topology!r} has an orchestrator", expected="none: its members decide")
