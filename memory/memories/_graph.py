"""A knowledge graph as a memory: typed nodes (facts, goals, concepts, ...) and typed links between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docendo.errors import ConfigError, DataError
from docendo.hashing import digest
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._channels import PostKind
from docendo.memory.board._fold import Fold
from docendo.memory.board._posts import Post
from docendo.memory.memories._budget import Budget, Entry
from docendo.memory.memories._graph_state import (
    Edge,
    EdgeType,
    GraphState,
    Node,
    NodeType,
    Status,
    SubGraph,
    node_id,
)
from docendo.memory.memories._memory import BoardMemory
from docendo.memory.memories._messages import StructuredMessage, facts
from docendo.memory.memories._similarity import words
from docendo.records import JSON, Author


class GraphMemory(BoardMemory):
    """One agent's picture of the world, as a graph; each entry is a node or a link, and a post.

    A node that is added again is merged with what is there: the newer observation counts, and of two
    equally new ones the own. What others say comes in with its sender and the time of the
    observation (`merge`). Perceived facts lose weight with age; stale ones are not read.

    Time is a number in whatever clock the agents share: steps of a world, or seconds.

    Args:
        board: The blackboard.
        owner: Whose memory it is. What others are the source of is hearsay.
        channel: The channel of the entries; by default one per owner, so that memories do not mix.
        half_life: Age at which a fact's weight is one half; None keeps facts for ever.
        floor: Facts with less weight are not read.
        hops: How far `read` goes from what the query names.

    Example:
        >>> from docendo.memory import Blackboard
        >>> board = Blackboard.open(":memory:")
        >>> ann = GraphMemory(board, owner=Author(agent="ann", role="student"))
        >>> table = ann.add("goal", "a table", at=0, status="need")
        >>> wood = ann.add("goal", "some wood", at=0, status="need")
        >>> link = ann.link(wood.id, "prerequisite", table.id, at=0)
        >>> ann.next_goal(table.id).text
        'some wood'
        >>> done = ann.set_status(wood.id, "done", at=3)
        >>> ann.next_goal(table.id).text
        'a table'
        >>> [entry.text for entry in ann.read("a table", Budget(entries=2))]
        ['goal some wood (done)', 'goal a table (need)']
        >>> board.close()
    """

    default_kind: PostKind = "fact"

    def __init__(
        self,
        board: Blackboard,
        *,
        owner: Author,
        channel: str | None = None,
        half_life: float | None = None,
        floor: float = 0.25,
        hops: int = 2,
    ) -> None:
        super().__init__(board, channel=channel or f"graph/{owner.agent}")
        if half_life is not None and not half_life > 0:
            raise ConfigError(f"half_life is {half_life!r}", expected="more than 0, or None")
        if not 0 <= floor <= 1 or hops < 0:
            raise ConfigError(f"floor is {floor!r} and hops is {hops}", expected="0 to 1, and 0 or more")
        self.owner, self.half_life, self.floor, self.hops = owner, half_life, floor, hops
        self._fold = Fold(
            board,
            channel=self.channel,
            kinds=(self.kind,),
            start=lambda: GraphState(owner.agent),
            step=GraphState.add,
        )

    def add(
        self,
        type: NodeType,
        text: str,
        *,
        at: float,
        id: str = "",
        status: Status | None = None,
        fields: Mapping[str, JSON] | None = None,
        source: str = "",
        parents: Sequence[str] = (),
    ) -> Node:
        """Adds a node, or what is new about it, and returns it as it is held now.

        Args:
            type: What it is.
            text: What it says.
            at: When it was observed.
            id: Its name in the graph; by default made of type and text, so that equal ones are merged.
            status: Of a goal or plan; None leaves it as it is.
            fields: Further values; those of an older observation are kept where they are not named.
            source: Who observed it; by default the owner.
            parents: Ids of the posts that it comes from.
        """
        name = id or node_id(type, text)
        body: dict[str, JSON] = {
            "node": name,
            "type": type,
            "text": text,
            "at": at,
            "status": status,
            "fields": dict(fields or {}),
            "source": source or self.owner.agent,
        }
        self._post(body, parents)
        return self.node(name)

    def link(
        self,
        origin: str,
        type: EdgeType,
        target: str,
        *,
        at: float,
        weight: float = 1.0,
        source: str = "",
        parents: Sequence[str] = (),
    ) -> Edge:
        """Links two nodes; a weight of 0 takes the link away.

        Raises:
            DataError: if one of the nodes is not in the graph.
        """
        known = self._fold().nodes
        for name in (origin, target):
            if name not in known:
                raise DataError(f"the graph has no node {name!r}", remedy="add it first")
        body: dict[str, JSON] = {
            "edge": type,
            "from": origin,
            "to": target,
            "at": at,
            "weight": weight,
            "source": source or self.owner.agent,
        }
        self._post(body, parents)
        return self._fold().edges[origin, type, target]

    def set_status(self, id: str, status: Status, *, at: float) -> Node:
        """Says how far a goal or plan is; nothing changes if it is there already."""
        node = self.node(id)
        if node.status == status and node.source == self.owner.agent:
            return node
        return self.add(node.type, node.text, at=at, id=id, status=status)

    def forget(self, id: str, *, by: Author, reason: str) -> None:
        """Evicts a node with all observations of it; its links lead nowhere then."""
        self.node(id)
        for post in self.entries():
            if post.body.get("node") == id:
                self.evict(post.id, by=by, reason=reason)

    def merge(self, post: Post) -> list[Node]:
        """Takes over what a structured message says, as hearsay of its sender, with its time.

        The nodes have the message as a parent: if it is quarantined, they are gone.
        """
        message = StructuredMessage.from_json(post.body)
        if message.sender == self.owner.agent:
            return []
        return [
            self.add(
                "plan" if status else "fact",
                text,
                at=message.at,
                id=name,
                status=status,
                fields=fields,
                source=message.sender,
                parents=(post.id,),
            )
            for name, text, status, fields in facts(message)
        ]

    @property
    def now(self) -> float:
        """The newest time that the graph knows of."""
        return self._fold().now

    def node(self, id: str) -> Node:
        """A node as it is held now.

        Raises:
            DataError: if there is none of this name.
        """
        node = self.get(id)
        if node is None:
            raise DataError(f"the graph has no node {id!r}", remedy="add it first")
        return node

    def get(self, id: str) -> Node | None:
        """A node as it is held now, or None."""
        return self._fold().nodes.get(id)

    def nodes(self, type: NodeType | None = None, *, status: Status | None = None) -> list[Node]:
        """Nodes that are not stale, the oldest first."""
        state = self._fold()
        found = (
            node
            for node in state.nodes.values()
            if (type is None or node.type == type) and (status is None or node.status == status)
        )
        return sorted((node for node in found if self._fresh(node, state.now)), key=lambda n: (n.at, n.id))

    def edges(
        self, type: EdgeType | None = None, *, origin: str | None = None, target: str | None = None
    ) -> list[Edge]:
        """Links, filtered, in the order of their ends."""
        return sorted(
            (
                edge
                for edge in self._fold().linked()
                if (type is None or edge.type == type)
                and (origin is None or edge.origin == origin)
                and (target is None or edge.target == target)
            ),
            key=lambda edge: (edge.origin, edge.type, edge.target),
        )

    def prerequisites(self, type: NodeType = "concept") -> dict[str, tuple[str, ...]]:
        """For each node of a type those that come before it: what `PathPlanner` plans over."""
        nodes = {node.id: node for node in self.nodes(type)}
        edges = self.edges("prerequisite")
        return {
            name: tuple(edge.origin for edge in edges if edge.target == name and edge.origin in nodes)
            for name in nodes
        }

    def next_goal(self, goal: str) -> Node | None:
        """What to do next for a goal: a part of it that is not done and whose prerequisites are.

        What is in progress goes before what is not, nearer ones before farther ones. None if the goal is
        done, or all that is left is blocked or waits for something blocked.
        """
        state = self._fold()
        waiting: deque[str] = deque([self.node(goal).id])
        seen, ready = {goal}, []
        while waiting:
            node = state.nodes[waiting.popleft()]
            if node.status == "done":
                continue
            parts = [name for name in state.needs(node.id) if name in state.nodes]
            open_parts = [name for name in parts if state.nodes[name].status != "done"]
            if not open_parts and node.status != "blocked":
                ready.append(node)
            for name in open_parts:
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return next((node for node in ready if node.status == "in progress"), ready[0] if ready else None)

    def subgraph(
        self, goal: str, *, hops: int | None = None, budget: Budget | None = None, now: float | None = None
    ) -> SubGraph:
        """What is around a node, the newest first, as much as the budget holds.

        Args:
            goal: The node.
            hops: How many links away.
            budget: What the texts may take.
            now: The present; by default the newest time in the graph.
        """
        around = self._around([self.node(goal).id], self.hops if hops is None else hops, now)
        entries = map(self._entry, around)
        kept = list(entries) if budget is None else budget.fill(entries, gaps=self.gaps)
        names = {entry.post.id for entry in kept}
        nodes = tuple(node for node in around if node.post in names)
        inside = {node.id for node in nodes}
        return SubGraph(
            nodes=nodes,
            edges=tuple(edge for edge in self.edges() if edge.origin in inside and edge.target in inside),
            text="\n".join(entry.text for entry in kept),
        )

    def text(self, post: Post) -> str:
        """A node or link in words."""
        body: Mapping[str, Any] = post.body
        if "edge" in body:
            return f"{body['from']} {body['edge']} {body['to']}"
        state = f" ({body['status']})" if body["status"] else ""
        return f"{body['type']} {body['text']}{state}"

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterable[Entry]:
        wanted = set(words(query))
        state = self._fold()
        match = {
            node.id: len(wanted & set(words(node.text)))
            for node in state.nodes.values()
            if self._fresh(node, state.now)
        }
        most = max(match.values(), default=0)
        seeds = [name for name, count in match.items() if count == most] if most or not wanted else []
        for node in self._around(seeds, self.hops if wanted else 0, None):
            entry = self._entry(node)
            if (run is None or entry.post.run == run) and (item is None or entry.post.item == item):
                yield entry

    def _checked(self, body: Mapping[str, JSON]) -> Mapping[str, JSON]:
        if "node" not in body and "edge" not in body:
            text = body.get("text")
            if not isinstance(text, str):
                raise DataError("the entry is neither node nor edge", expected="'node', 'edge' or 'text'")
            body = {"node": node_id("fact", text), "type": "fact", "at": self.now, **body}
        filled = {"status": None, "fields": {}, "source": self.owner.agent, **body}
        if "edge" in body:
            filled = {"weight": 1.0, "source": self.owner.agent, **body}
        GraphState.check(filled)
        return filled

    def _post(self, body: Mapping[str, JSON], parents: Sequence[str]) -> Post:
        return self.write(body, author=self.owner, key=digest(body, list(parents))[:24], parents=parents)

    def _entry(self, node: Node) -> Entry:
        post = self.board.get(node.post)
        state = f" ({node.status})" if node.status else ""
        heard = "" if node.source == self.owner.agent else f" [{node.source}]"
        return Entry(post=post, text=f"{node.type} {node.text}{state}{heard}", score=node.at)

    def _around(self, names: Sequence[str], hops: int, now: float | None) -> list[Node]:
        state = self._fold()
        reached, edge = set(names), list(names)
        for _ in range(hops):
            beside = dict.fromkeys(other for name in edge for other in state.beside(name))
            edge = [name for name in beside if name not in reached]
            reached.update(edge)
        moment = state.now if now is None else now
        found = [state.nodes[name] for name in reached if self._fresh(state.nodes[name], moment)]
        return sorted(found, key=lambda node: (-node.at, -node.seq))

    def _fresh(self, node: Node, now: float) -> bool:
        if self.half_life is None or node.type != "fact":
            return True
        return 0.5 ** (max(0.0, now - node.at) / self.half_life) >= self.floor
