"""Blackboard: a main agent asks for what it needs, and agents that find they know something answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from docendo.agents import Asker, RunContext, Volunteer
from docendo.agents._work import fulfil, offer
from docendo.errors import ConfigError, ModelFailure
from docendo.graphs._nodes import finish, node
from docendo.memory import LEASE, BoardRequest, Outcome, Requests

#: Seconds between two looks at a request that others work on: the first, and the longest.
_GLANCES = (0.02, 0.5)


class BlackboardState(TypedDict, total=False):
    """State of the blackboard graph: ids and small JSON only; texts live in traces and posts.

    Attributes:
        item: Item id.
        turns: Trace ids of the main agent's turns; empty for requests made before its first one.
        asked: Ids of the requests that followed each turn.
        responses: Post ids of the responses it was given.
        unanswered: How many requests got no response.
        answer: The main agent's answer.
    """

    item: str
    turns: list[str]
    asked: list[list[str]]
    responses: list[str]
    unanswered: int
    answer: str


class _Errand(TypedDict):
    """What a volunteer's node is sent."""

    item: str
    volunteer: int
    requests: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and the agents that act in them."""

    main: Asker
    helpers: tuple[Volunteer, ...]
    max_rounds: int
    places: int
    deadline: float | None
    window: float
    patience: float | None
    quorum: int | None
    lease: float

    async def plan(self, state: BlackboardState, context: RunContext) -> dict[str, Any]:
        """The main agent asks, or answers."""
        item, main = state["item"], self.main
        turns, asked = state.get("turns", []), state.get("asked", [])
        public, requests = context.public(item), _requests(self.main, context)
        first = main.first(public) if not asked else ()
        if first:
            return {"turns": [""], "asked": [self._ask(context, requests, item, first, 0)]}
        last = len(asked) >= self.max_rounds
        history = [
            (context.traces.get(turn).completion if turn else "", self._told(requests, ids))
            for turn, ids in zip(turns, asked, strict=True)
        ]
        messages = list(main.messages(public, history=history))
        if last:
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{main.last_round}"}
        heard = [t for t in turns[-1:] if t] + self._heard(requests, asked[-1] if asked else ())
        turn = await context.ask(main, item, messages, node="plan", step=len(turns), parents=heard)
        decision = main.decide(turn.text, item=public, rounds=len(asked))
        if decision.requests and not last:
            ids = self._ask(context, requests, item, decision.requests, len(asked), turn.trace)
            return {"turns": [*turns, turn.trace], "asked": [*asked, ids]}
        answer = decision.answer or turn.text.strip()
        context.post(
            "answer",
            {"text": answer, "trace": turn.trace},
            author=main.author,
            item=item,
            node="plan",
            step=len(turns),
            parents=state.get("responses", []),
        )
        return {"turns": [*turns, turn.trace], "answer": answer}

    def _ask(
        self,
        context: RunContext,
        requests: Requests,
        item: str,
        texts: Sequence[str],
        number: int,
        turn: str = "",
    ) -> list[str]:
        split = context.public(item).split
        return [
            requests.ask(
                {"text": text, "split": split, "step": 100 * number + place, "turn": turn},
                author=self.main.author,
                key=f"{context.run}/{item}/request/{number}/{place}",
                deadline=self.deadline,
                window=self.window,
                patience=self.patience,
                places=self.places,
                run=context.run,
                item=item,
            ).id
            for place, text in enumerate(texts[:100])
        ]

    def _heard(self, requests: Requests, ids: Sequence[str]) -> list[str]:
        """The volunteers' turns whose responses the main agent is told."""
        outcomes = [requests.collect(requests.get(request), reader=self.main.author) for request in ids]
        told = [response.details.get("trace") for outcome in outcomes for response in outcome.responses]
        return [str(trace) for trace in told if trace]

    def _told(self, requests: Requests, ids: Sequence[str]) -> str:
        found = [requests.get(request) for request in ids]
        # They were closed by `merge`, so this is what it was told then.
        outcomes = [requests.collect(request, reader=self.main.author) for request in found]
        return "\n".join(self.main.told(r.text, o) for r, o in zip(found, outcomes, strict=True))

    async def volunteer(self, errand: _Errand, context: RunContext) -> dict[str, Any]:
        """A volunteer judges the new requests and offers to answer some."""
        helper, requests = self.helpers[errand["volunteer"]], _requests(self.main, context)
        for request in map(requests.get, errand["requests"]):
            try:
                await offer(requests, request, helper, context)
            except ModelFailure:
                continue  # it does not volunteer
        return {}

    async def respond(self, state: BlackboardState, context: RunContext) -> dict[str, Any]:
        """The volunteers of this process that get places answer, after all of them have offered."""
        requests = _requests(self.main, context)
        found = [requests.get(request) for request in state["asked"][-1]]
        await asyncio.gather(*(self._served(requests, request, context) for request in found))
        return {}

    async def _served(self, requests: Requests, request: BoardRequest, context: RunContext) -> None:
        tasks: dict[asyncio.Task[Any], str] = {}
        glance = _GLANCES[0]
        try:
            while True:
                left = self._claimed(requests, request, context, tasks)
                if not tasks and (not left or requests.settled(request, quorum=self.quorum)):
                    return
                pause = min(glance, _until(requests, request, context))
                if tasks:
                    # What another one here could claim, it could have claimed just now.
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        del tasks[task]
                        await task
                else:
                    await asyncio.sleep(pause)
                    glance = min(2 * glance, _GLANCES[1])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _claimed(
        self,
        requests: Requests,
        request: BoardRequest,
        context: RunContext,
        tasks: dict[asyncio.Task[Any], str],
    ) -> bool:
        """Claims what is free, the most confident first; whether there is one that might claim later."""
        here, left = {helper.name: helper for helper in self.helpers}, False
        for name in (post.author.agent for post in requests.offers(request, reader=self.main.author)):
            if name not in here or name in tasks.values():
                continue
            helper = here[name]
            # Nobody else runs this run, so what it claimed before it was killed is its own.
            worker = f"run {context.run}"
            claim = requests.claim(request, author=helper.author, worker=worker, lease=self.lease)
            if claim is not None:
                work = fulfil(requests, claim, helper, context, lease=self.lease)
                tasks[asyncio.create_task(work)] = name
            else:
                left = left or requests.may_claim(request, author=helper.author, worker=worker)
        return left

    async def merge(self, state: BlackboardState, context: RunContext) -> dict[str, Any]:
        """Closes the requests of this round, after waiting for volunteers elsewhere if there are some."""
        requests = _requests(self.main, context)
        found = [requests.get(request) for request in state["asked"][-1]]
        outcomes = await asyncio.gather(*(self._closed(requests, request, context) for request in found))
        given = [response.post for outcome in outcomes for response in outcome.responses]
        unanswered = sum(outcome.state == "unanswered" for outcome in outcomes)
        return {
            "responses": list(dict.fromkeys([*state.get("responses", []), *given])),
            "unanswered": state.get("unanswered", 0) + unanswered,
        }

    async def _closed(self, requests: Requests, request: BoardRequest, context: RunContext) -> Outcome:
        glance = _GLANCES[0]
        while True:
            outcome = requests.settle(
                request, reader=self.main.author, quorum=self.quorum, force=self.deadline is None
            )
            if outcome is not None:
                return outcome
            await asyncio.sleep(min(glance, _until(requests, request, context)))
            glance = min(2 * glance, _GLANCES[1])

    def after_planning(self, state: BlackboardState) -> Any:
        """To the end with an answer, else to the volunteers."""
        if "answer" in state:
            return END
        errands = [
            Send("volunteer", _Errand(item=state["item"], volunteer=number, requests=state["asked"][-1]))
            for number in range(len(self.helpers))
        ]
        return errands or "merge"


def _requests(main: Asker, context: RunContext) -> Requests:
    return Requests(context.board, askers=(main.role,))


def _until(requests: Requests, request: BoardRequest, context: RunContext) -> float:
    """Seconds until time alone changes something, at least a moment."""
    left = requests.moment(request) - context.database.now()
    return max(0.001, left) if left < math.inf else math.inf


def blackboard(
    main: Asker,
    helpers: Sequence[Volunteer],
    *,
    max_rounds: int = 6,
    places: int = 3,
    deadline: float | None = None,
    window: float = 0.0,
    patience: float | None = 1.0,
    quorum: int | None = None,
    lease: float = LEASE,
    **compile_options: Any,
) -> Any:
    """Builds the blackboard graph.

    The main agent asks for what it needs to know; its requests go to the board and name nobody. Each
    volunteer judges by itself whether it can help and offers with a confidence; the most confident answer.
    The main agent is told their responses, or that nobody volunteered, and goes on until it answers.

    Volunteers may also run in other processes (`docendo work`), on the run's database. Then give a
    `deadline`, and a `window` in which their offers are gathered.

    Args:
        main: Who asks and answers.
        helpers: Volunteers in this process; may be empty if there is a deadline.
        max_rounds: How often the main agent may ask; after that it has to answer.
        places: Most volunteers that answer one request.
        deadline: Seconds that volunteers in other processes have for a request; None if there are none.
        window: Seconds in which offers are gathered before the most confident may claim.
        patience: Seconds after that until others may claim, in case the most confident are gone.
        quorum: Responses that are enough; by default all that can still be expected.
        lease: Seconds until the claim of a process that was killed is free.
        **compile_options: For `StateGraph.compile`, such as `checkpointer`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `BlackboardState`; run it with `docendo.run`.

    Raises:
        ConfigError: if there can be no volunteer, two have one name, or a number cannot be used.
    """
    names = [helper.name for helper in helpers]
    if len(set(names)) < len(names) or main.name in names:
        raise ConfigError(
            f"the agents are {', '.join([main.name, *names])}", expected="agents with different names"
        )
    if not helpers and deadline is None:
        raise ConfigError(
            "there are no volunteers", remedy="give some, or a deadline for those in other processes"
        )
    if max_rounds < 1:
        raise ConfigError(f"max_rounds is {max_rounds}", expected="at least 1")
    settings = {
        "max_rounds": max_rounds,
        "places": places,
        "deadline": deadline,
        "window": window,
        "patience": patience,
        "quorum": quorum,
        "lease": lease,
    }
    nodes = _Nodes(main=main, helpers=tuple(helpers), **settings)  # type: ignore[arg-type]
    builder = StateGraph(BlackboardState, context_schema=RunContext)
    for function in (nodes.plan, nodes.volunteer, nodes.respond, nodes.merge):
        builder.add_node(function.__name__, node(function, function.__name__))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", nodes.after_planning, ["volunteer", "merge", END])
    builder.add_edge("volunteer", "respond")
    builder.add_edge("respond", "merge")
    builder.add_edge("merge", "plan")
    config = {"main": main.describe(), "helpers": [helper.describe() for helper in helpers], **settings}
    return finish(builder, "blackboard", config, **compile_options)
