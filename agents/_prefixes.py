"""Stored key-value prefixes: prompts that start alike are computed once.

A radix tree per adapter: an edge holds some tokens and their keys and values, and every path from the
root is a beginning that can be reused. LoRA changes keys and values, so trees of different adapters
share nothing, except through activated LoRA (aLoRA), whose tokens before the invocation are the base's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from docendo.agents._slots import Stored

#: Shorter beginnings cost more to store and copy than to compute again.
MIN_PREFIX = 16
#: Tokens that are compared at once.
_STRETCH = 64


class _Node:
    """An edge of the tree and what follows it."""

    __slots__ = ("children", "parent", "stored", "tokens", "used")

    def __init__(
        self, tokens: tuple[int, ...], stored: Stored | None, parent: _Node | None, used: int
    ) -> None:
        self.tokens, self.stored, self.parent, self.used = tokens, stored, parent, used
        self.children: dict[int, _Node] = {}


class Match(NamedTuple):
    """How many leading tokens are stored, and their keys and values, piece by piece."""

    length: int
    pieces: tuple[Stored, ...] = ()

    def part(self, start: int, stop: int) -> list[Stored]:
        """Views of the keys and values of the tokens from `start` to `stop`."""
        found, offset = [], 0
        for piece in self.pieces:
            low, high = max(start - offset, 0), min(stop - offset, piece.length)
            if low < high:
                found.append(piece.part(low, high))
            offset += piece.length
        return found


@dataclass(slots=True, kw_only=True, eq=False)
class Beginning:
    """What running rows have in common: held once, read once a pass for all of them.

    Attributes:
        key: What the keys and values depend on besides the tokens.
        tokens: The tokens, or None if no other request may join: then it is of one request's samples.
        stored: Their keys and values.
    """

    key: str | None
    tokens: tuple[int, ...] | None
    stored: Stored

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.stored.length

    def begins(self, key: str | None, tokens: Sequence[int]) -> bool:
        """Whether a request with these tokens may share it."""
        return self.tokens is not None and key == self.key and tuple(tokens[: self.length]) == self.tokens


class PrefixTree:
    """The most recently used beginnings, up to a number of tokens."""

    def __init__(self, capacity: int) -> None:
        """`capacity` is the number of tokens kept over all adapters; 0 keeps none."""
        self.capacity = capacity
        self.tokens = 0
        #: Counts changes, so that a match can be remembered until it may be outdated.
        self.version = 0
        self._roots: dict[str | None, _Node] = {}
        self._clock = itertools.count(1)

    def match(self, adapter: str | None, tokens: Sequence[int], limit: int) -> Match:
        """Finds the longest stored beginning of `tokens` of at most `limit` tokens."""
        node, length, pieces = self._roots.get(adapter), 0, []
        now = next(self._clock)
        while node is not None and length < limit:
            child = node.children.get(tokens[length])
            if child is None or child.stored is None:
                break
            shared = shared_length(child.tokens, tokens[length:limit])
            child.used = now
            pieces.append(child.stored if shared == len(child.tokens) else child.stored.part(0, shared))
            length += shared
            if shared < len(child.tokens):
                break
            node = child
        return Match(length, tuple(pieces)) if length >= MIN_PREFIX else Match(0)

    def put(self, adapter: str | None, tokens: Sequence[int], read: Callable[[int, int], Stored]) -> None:
        """Keeps the keys and values of a beginning, dropping the least recently used ones for it.

        Args:
            adapter: What the keys and values depend on besides the tokens.
            tokens: The tokens, from the first.
            read: Gives a copy of the keys and values from one token to another; called for new ones only.
        """
        if not MIN_PREFIX <= len(tokens) <= self.capacity:
            return
        now = next(self._clock)
        node = self._roots.setdefault(adapter, _Node((), None, None, now))
        length = 0
        while length < len(tokens):
            child = node.children.get(tokens[length])
            if child is None:
                added = tuple(tokens[length:])
                node.children[added[0]] = _Node(added, read(length, len(tokens)), node, now)
                self.tokens += len(added)
                self.version += 1
                break
            shared = shared_length(child.tokens, tokens[length:])
            length += shared
            if shared < len(child.tokens) and length < len(tokens):
                child = self._split(child, shared)
            child.used = now
            node = child
        self._evict()

    def _split(self, node: _Node, at: int) -> _Node:
        """Cuts an edge in two; both halves are copies, so that dropping one frees its memory."""
        if node.stored is None or node.parent is None:
            raise RuntimeError("a root has no edge to split")
        upper = _Node(node.tokens[:at], node.stored.part(0, at).clone(), node.parent, node.used)
        node.parent.children[upper.tokens[0]] = upper
        upper.children[node.tokens[at]] = node
        node.stored = node.stored.part(at, len(node.tokens)).clone()
        node.tokens, node.parent = node.tokens[at:], upper
        return upper

    def _evict(self) -> None:
        if self.tokens <= self.capacity:
            return
        leaves = sorted(self._leaves(), key=lambda leaf: leaf.used)
        while self.tokens > self.capacity and leaves:
            leaf = leaves.pop(0)
            parent = leaf.parent
            if parent is None:
                continue
            del parent.children[leaf.tokens[0]]
            self.tokens -= len(leaf.tokens)
            self.version += 1
            if not parent.children and parent.parent is not None:
                # It was used at least as recently as the leaf; its place is found again.
                leaves.append(parent)
                leaves.sort(key=lambda leaf: leaf.used)
        self._roots = {key: root for key, root in self._roots.items() if root.children}

    def _leaves(self) -> Iterator[_Node]:
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            if node.children:
                stack.extend(node.children.values())
            elif node.parent is not None:
                yield node


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of leading tokens two sequences share.

    Example:
        >>> shared_length([1, 2, 3], [1, 2, 4, 5])
        2
    """
    length, index = min(len(left), len(right)), 0
    # Whole stretches first: they are compared without a step of Python for each token.
    while index < length and tuple(left[index : index + _STRETCH]) == tuple(right[index : index + _STRETCH]):
        index += _STRETCH
    while index < length and left[index] == right[index]:
        index += 1
    return min(index, length)
