"""Nodes and links of a graph memory, and how observations of them are merged."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from docendo.errors import DataError
from docendo.hashing import digest
from docendo.memory.board._posts import Post
from docendo.records import Record

NodeType = Literal["fact", "experience", "goal", "plan", "concept", "exercise", "resource", "learner"]
EdgeType = Literal[
    "prerequisite", "part of", "supports", "blocks", "tests", "covers", "mastery", "about", "leads to"
]
Status = Literal["need", "in progress", "done", "blocked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Record):
    """A node as it is held now.

    Attributes:
        id: Its name in the graph.
        type: What it is.
        text: What it says.
        at: When it was last observed.
        source: Who observed it then.
        status: Of a goal or plan, or None.
        fields: Further values.
        post: Id of the post that counts.
        seq: That post's position on the board.
    """

    id: str
    type: NodeType
    text: str
    at: float
    source: str
    status: Status | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    post: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge(Record):
    """A link as it is held now.

    Attributes:
        origin: Where it begins; of a prerequisite, what comes first.
        type: What it means.
        target: Where it ends.
        weight: How strong it is: of a mastery link, the mastery. 0 if it was taken away.
        at: When it was last observed.
        source: Who observed it then.
        post: Id of the post that counts.
    """

    origin: str
    type: EdgeType
    target: str
    weight: float = 1.0
    at: float = 0.0
    source: str = ""
    post: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubGraph(Record):
    """A part of a graph.

    Attributes:
        nodes: The newest first.
        edges: Links between these nodes.
        text: The nodes in words, one a line.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    text: str


def node_id(type: str, text: str) -> str:
    """The name of a node that was given none: the same for texts that differ in case and spaces alone.

    Example:
        >>> node_id("fact", "Iron is north") == node_id("fact", "iron  is north ")
        True
    """
    return f"{type}/{digest(' '.join(text.lower().split()))[:12]}"


class GraphState:
    """Nodes and links after all posts that count."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.nodes: dict[str, Node] = {}
        self.edges: dict[tuple[str, EdgeType, str], Edge] = {}
        self.now = 0.0
        self._beside: dict[str, set[tuple[str, EdgeType, str]]] = defaultdict(set)

    @staticmethod
    def check(body: Mapping[str, Any]) -> None:
        """Raises `DataError` if a body is neither a node nor a link."""
        at = body.get("at")
        if isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at):
            raise DataError(f"the entry's at is {at!r}", expected="a finite number")
        weight = body.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise DataError(f"the entry's weight is {weight!r}", expected="a finite number")
        texts = ("from", "to", "source") if "edge" in body else ("node", "text", "source")
        for name in texts:
            if not isinstance(body.get(name), str) or not body[name].strip():
                raise DataError(f"the entry's {name} is {body.get(name)!r}", expected="text")
        choices = (
            (("edge", get_args(EdgeType)),)
            if "edge" in body
            else (("type", get_args(NodeType)), ("status", (None, *get_args(Status))))
        )
        for name, known in choices:
            if body.get(name) not in known:
                raise DataError(
                    f"the entry's {name} is {body.get(name)!r}",
                    expected=f"one of {', '.join(map(str, known))}",
                )

    def add(self, post: Post) -> None:
        """Merges one observation."""
        body: Mapping[str, Any] = post.body
        self.now = max(self.now, float(body["at"]))
        if "edge" in body:
            self._add_edge(post, body)
        else:
            self._add_node(post, body)

    def linked(self) -> Iterator[Edge]:
        """Links that are there: both ends known and not taken away."""
        for edge in self.edges.values():
            if self._there(edge):
                yield edge

    def beside(self, name: str) -> list[str]:
        """Neighbours of a node, in either direction."""
        edges = (self.edges[key] for key in sorted(self._beside.get(name, ())))
        return [edge.target if edge.origin == name else edge.origin for edge in edges if self._there(edge)]

    def needs(self, name: str) -> list[str]:
        """What has to be done before a node: its prerequisites and its parts."""
        edges = (self.edges[key] for key in sorted(self._beside.get(name, ())))
        return [
            edge.origin
            for edge in edges
            if edge.target == name and edge.type in ("prerequisite", "part of") and self._there(edge)
        ]

    def _there(self, edge: Edge) -> bool:
        return edge.weight != 0 and edge.origin in self.nodes and edge.target in self.nodes

    def _newer(self, at: float, source: str, held: Node | Edge) -> bool:
        """Newer wins; of two equally new ones the own; else the one that was posted last."""
        return (at, source == self.owner) >= (held.at, held.source == self.owner)

    def _add_node(self, post: Post, body: Mapping[str, Any]) -> None:
        node = Node(
            id=body["node"],
            type=body["type"],
            text=body["text"],
            at=float(body["at"]),
            source=body["source"],
            status=body["status"],
            fields=body["fields"],
            post=post.id,
            seq=post.seq,
        )
        held = self.nodes.get(node.id)
        if held is None:
            self.nodes[node.id] = node
        elif self._newer(node.at, node.source, held):
            # What the newer observation does not speak of is still known from the older one.
            self.nodes[node.id] = node.replace(
                status=node.status or held.status, fields={**held.fields, **node.fields}
            )
        else:
            self.nodes[node.id] = held.replace(
                status=held.status or node.status, fields={**node.fields, **held.fields}
            )

    def _add_edge(self, post: Post, body: Mapping[str, Any]) -> None:
        edge = Edge(
            origin=body["from"],
            type=body["edge"],
            target=body["to"],
            weight=float(body["weight"]),
            at=float(body["at"]),
            source=body["source"],
            post=post.id,
        )
        key = (edge.origin, edge.type, edge.target)
        held = self.edges.get(key)
        if held is None or self._newer(edge.at, edge.source, held):
            self.edges[key] = edge
            self._beside[edge.origin].add(key)
            self._beside[edge.target].add(key)
