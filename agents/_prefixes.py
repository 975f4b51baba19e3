"""Stored key-value prefixes: prompts that start alike are computed once.

A stored sequence serves any prompt that shares its beginning, for any shared length, so the list works
like a radix tree while it stays a list. Keys depend on the adapter, because LoRA changes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch

#: Shorter matches cost more to copy than to compute again.
MIN_PREFIX = 24


_Key: TypeAlias = "tuple[str | None, tuple[int, ...]]"


class Match(NamedTuple):
    """How many leading tokens are stored, and their keys and values (`SlotCache.read`)."""

    length: int
    stored: list[torch.Tensor] | None


class PrefixStore:
    """The most recently used prefixes, up to a number of tokens."""

    def __init__(self, capacity: int) -> None:
        """`capacity` is the number of tokens kept over all prefixes; 0 keeps none."""
        self.capacity = capacity
        self.tokens = 0
        #: Counts changes, so that a match can be remembered until it may be outdated.
        self.version = 0
        self._entries: OrderedDict[_Key, list[torch.Tensor]] = OrderedDict()
        # Prefixes that can match at all start with the same MIN_PREFIX tokens.
        self._families: dict[_Key, list[_Key]] = {}

    def match(self, adapter: str | None, tokens: Sequence[int]) -> Match:
        """Finds the longest stored beginning of `tokens`."""
        best, best_key = 0, None
        for key in self._families.get((adapter, tuple(tokens[:MIN_PREFIX])), ()):
            length = shared_length(key[1], tokens)
            if length > best:
                best, best_key = length, key
        if best_key is None:
            return Match(0, None)
        self._entries.move_to_end(best_key)
        return Match(best, self._entries[best_key])

    def worth_storing(self, matched: int, length: int) -> bool:
        """Whether a prompt of `length` tokens, of which `matched` are stored, adds enough to be kept."""
        return MIN_PREFIX <= length <= self.capacity and length >= 2 * matched

    def put(self, adapter: str | None, tokens: Sequence[int], stored: list[torch.Tensor]) -> None:
        """Keeps the keys and values of a prompt, dropping the least recently used ones for it."""
        key = (adapter, tuple(tokens))
        if key in self._entries or not MIN_PREFIX <= len(tokens) <= self.capacity:
            return
        self.version += 1
        self._entries[key] = stored
        self._families.setdefault((adapter, key[1][:MIN_PREFIX]), []).append(key)
        self.tokens += len(tokens)
        while self.tokens > self.capacity:
            old, _ = self._entries.popitem(last=False)
            self.tokens -= len(old[1])
            family = (old[0], old[1][:MIN_PREFIX])
            self._families[family].remove(old)
            if not self._families[family]:
                del self._families[family]


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of leading tokens two sequences share.

    Example:
        >>> shared_length([1, 2, 3], [1, 2, 4, 5])
        2
    """
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
