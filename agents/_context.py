"""What the nodes of one run share: its items, its memory, and the one way to call a model.

Every call goes through `RunContext.ask`: finished calls are in the journal, so a node that runs twice
(LangGraph may replay a finished node after a crash) generates nothing twice; and every turn is stored as
a trace. Posts and traces carry keys made of run, item, node and step, so effects happen once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from docendo.agents._roles import Agent
from docendo.agents._turns import turn_traces
from docendo.errors import ConfigError
from docendo.hashing import derive_seed, digest
from docendo.memory import Blackboard, BoardView, Database, Journal, Post, TraceStore
from docendo.quoting import special_tokens
from docendo.records import (
    JSON,
    Author,
    Item,
    Message,
    Origin,
    PublicItem,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
)


class Turn(NamedTuple):
    """One agent's turn: the sampled texts and the ids of their traces, in the same order."""

    texts: tuple[str, ...]
    traces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The first text."""
        return self.texts[0]

    @property
    def trace(self) -> str:
        """The first trace's id."""
        return self.traces[0]


class RunContext:
    """The context of a run, given to graphs as LangGraph's `context`.

    Attributes:
        run: Run id.
        graph: Name of the graph, for traces.
        thread: Beginning of LangGraph's thread ids, unique to this run.
        seed: Seed of the run; seeds of calls are derived from it and from item, node and step.
        board: The shared blackboard.
        traces: The trace store.
        journal: Finished calls.
    """

    def __init__(
        self, items: Iterable[Item], database: Database, *, run: str = "run", graph: str = "", seed: int = 0
    ) -> None:
        """Binds items and memory; every store lives in `database`."""
        self.run, self.graph, self.seed = run, graph, seed
        self.thread = run
        self.database = database
        self.board = Blackboard(database)
        self.traces = TraceStore(database)
        self.journal = Journal(database)
        self._items: Mapping[str, Item] = {item.id: item for item in items}

    @classmethod
    def in_memory(cls, items: Iterable[Item], *, seed: int = 0) -> Self:
        """A context that keeps nothing: for trying a graph with `graph.invoke`."""
        return cls(items, Database.open("sqlite://"), seed=seed)

    def public(self, item: str) -> PublicItem:
        """What agents may see of an item."""
        return self.item(item).public

    def item(self, item: str) -> Item:
        """The item with its sealed gold, for scorers."""
        if item not in self._items:
            raise ConfigError(f"item {item!r} is not part of this run", remedy="pass it in the run's items")
        return self._items[item]

    async def ask(
        self,
        agent: Agent,
        item: str,
        messages: Sequence[Message],
        *,
        node: str,
        step: int = 0,
        parents: Iterable[str] = (),
        sampling: SamplingParams | None = None,
    ) -> Turn:
        """Lets an agent speak once and stores its turn.

        Args:
            agent: Who speaks.
            item: Id of the item it is about.
            messages: The prompt (`agent.messages(...)`).
            node: Name of the graph's node.
            step: Ordinal of this turn within run, item and node.
            parents: Ids of the traces it answers to.
            sampling: Decoding settings; by default the agent's own.

        Returns:
            The texts and trace ids of the turn's samples.
        """
        sampling = sampling or agent.sampling
        # A seed of its own for each turn, also where the agent has one: with one for all items, every
        # item would draw the same numbers.
        seed = self.seed if sampling.seed is None else sampling.seed
        sampling = sampling.replace(seed=derive_seed(seed, item, node, step))
        adapter = agent.engine.adapter_hash(agent.adapter)
        key = digest("generate", agent.engine.fingerprint, adapter, list(messages), sampling.to_json())
        stored = self.journal.get(key)
        if stored is not None:
            result = Result.from_json(stored)
        else:
            origin = Origin(run=self.run, role=agent.role, agent=agent.name, node=node, item=item)
            result = await agent.engine.agenerate(
                Request(prompt=tuple(messages), sampling=sampling, adapter=agent.adapter, origin=origin)
            )
        with self.database.transaction():
            if stored is None:
                result = Result.from_json(self.journal.put(key, result.to_json()))
            traces = turn_traces(
                agent,
                self.public(item),
                messages,
                result,
                run=self.run,
                node=node,
                sampling=sampling,
                graph=self.graph,
                step=step,
                parents=tuple(parents),
            )
            self.traces.add(traces)
        return Turn(tuple(c.text for c in result.completions), tuple(t.id for t in traces))

    async def score(self, agent: Agent, messages: Sequence[Message], completion: str) -> ScoreResult:
        """Log-probabilities of a completion under an agent's model; journaled like `ask`."""
        adapter = agent.engine.adapter_hash(agent.adapter)
        key = digest("score", agent.engine.fingerprint, adapter, list(messages), completion)
        stored = self.journal.get(key)
        if stored is None:
            result = await agent.engine.ascore(
                ScoreRequest(
                    prompt=tuple(messages),
                    completion=completion,
                    adapter=agent.adapter,
                    origin=Origin(run=self.run, role=agent.role, agent=agent.name),
                )
            )
            stored = self.journal.put(key, result.to_json())
        return ScoreResult.from_json(stored)

    def post(
        self,
        kind: str,
        body: Mapping[str, JSON],
        *,
        author: Author,
        item: str,
        node: str,
        step: int = 0,
        parents: Sequence[str] = (),
        traces: Sequence[str] = (),
        channel: str = "main",
    ) -> Post:
        """Posts to the blackboard, once per run, item, node, step and kind.

        Name the turns whose text is posted in `traces`: what is not linked to its post is not learnt from.
        """
        return self.board.post(
            kind,
            body,
            author=author,
            key=f"{self.run}/{item}/{node}/{step}/{kind}",
            run=self.run,
            item=item,
            parents=parents,
            traces=traces,
            channel=channel,
        )

    def promote(self, post_id: str, *, by: Author, reason: str) -> bool:
        """Raises a post to verified if `by` may judge it, and returns whether it may.

        Where the judge runs the very weights that wrote the post, the verdict is worth recording, but no
        independent judgement, and the post stays as it is.
        """
        if self.board.objection(post_id, by=by) is not None:
            return False
        self.board.trust(post_id, "verified", by=by, reason=reason)
        return True

    def view(self, agent: Agent) -> BoardView:
        """The blackboard as an agent may see it: by its role, as marked text, and under its own name."""
        return self.board.view(agent.author, tokens=special_tokens(agent.engine))
