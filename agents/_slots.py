"""A preallocated key-value cache in which every row has its own length.

Rows (slots) are dense: active rows are 0..count-1, so a decode step reads one slice and copies
nothing. A row that ends is filled with the last row. What a row holds beyond its own length is never
attended to, because the mask of a step ends at each row's position; so stale keys need no clearing
and right-padded prefill needs no extra mask.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache


class SlotCache(Cache):
    """Key-value storage of shape (rows, heads, length, head size) per layer, grown on demand.

    A head's keys lie together, which attention reads in a quarter less time than position by position.
    """

    def __init__(self, *, device: torch.device | str = "cpu", limit_bytes: int = 1 << 62) -> None:
        """Starts empty; a layer's tensors are made when its first keys arrive.

        Beyond `limit_bytes` the cache holds no spare room, only what `reserve` asks for.
        """
        super().__init__(layers=[])
        self.limit_bytes = limit_bytes
        self.device = torch.device(device)
        self.rows = 0
        self.length = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._first = 0
        self._count = 0
        self._span = 0
        self._start: int | None = None
        self._index: tuple[torch.Tensor, torch.Tensor] | None = None

    def reserve(self, rows: int, length: int) -> None:
        """Makes room for `rows` rows of `length` tokens, which must cover every row in use.

        Grows with spare room, so that it is rarely called for; contents are kept.
        """
        if rows <= self.rows and length <= self.length:
            return
        grown_rows = max(self.rows, -(-rows // 16) * 16)
        grown_length = self.length if length <= self.length else -(-length * 5 // 4 // 64) * 64
        if not self.keys:
            grown_rows, grown_length = rows, length
        elif grown_rows * grown_length * self.bytes_per_token > self.limit_bytes:
            # Spare length is worth more than spare rows: every step makes rows longer.
            fitting = self.limit_bytes // (rows * self.bytes_per_token)
            grown_rows, grown_length = rows, max(length, min(grown_length, fitting))
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = old.new_zeros(grown_rows, old.shape[1], grown_length, old.shape[3])
                kept = old[:grown_rows, :, :grown_length]
                new[: kept.shape[0], :, : kept.shape[2]] = kept
                store[layer] = new
        self.rows, self.length = grown_rows, grown_length

    def aim(self, first: int, starts: list[int], width: int) -> int:
        """Says where the next forward pass writes: `width` tokens per row, from `starts`, rows from `first`.

        Returns:
            The span: how many positions the pass can attend to.
        """
        self._first, self._count = first, len(starts)
        self._span = max(starts) + width
        if all(start == starts[0] for start in starts):
            self._start, self._index = starts[0], None
        else:
            row = torch.arange(first, first + len(starts), device=self.device)[:, None]
            position = torch.tensor(starts, device=self.device)[:, None] + torch.arange(
                width, device=self.device
            )
            self._start, self._index = None, (row, position)
        return self._span

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a layer's new keys and values, (rows, heads, width, size), and returns all of the span."""
        while len(self.keys) <= layer_idx:
            for store, states in ((self.keys, key_states), (self.values, value_states)):
                store.append(states.new_zeros(self.rows, states.shape[1], self.length, states.shape[3]))
        spans = []
        rows = slice(self._first, self._first + self._count)
        for store, states in ((self.keys[layer_idx], key_states), (self.values[layer_idx], value_states)):
            if self._index is None:
                start = self._start or 0
                store[rows, :, start : start + states.shape[2]] = states
            else:
                row, position = self._index
                store[row, :, position] = states.transpose(1, 2)
            spans.append(store[rows, :, : self._span])
        return spans[0], spans[1]

    def move(self, sources: list[int], targets: list[int], length: int) -> None:
        """Copies the first `length` tokens of rows `sources` onto rows `targets`."""
        if sources:
            source = torch.tensor(sources, device=self.device)
            target = torch.tensor(targets, device=self.device)
            for store in (*self.keys, *self.values):
                store[target, :, :length] = store[source, :, :length]

    def read(self, row: int, length: int) -> list[torch.Tensor]:
        """Returns a copy of a row's first `length` tokens: keys then values of every layer."""
        return [store[row, :, :length].clone() for store in (*self.keys, *self.values)]

    def write(self, row: int, stored: list[torch.Tensor], length: int) -> None:
        """Puts back the first `length` tokens of what `read` returned."""
        for store, part in zip((*self.keys, *self.values), stored, strict=True):
            store[row, :, :length] = part[:, :length]

    def clear(self, row: int) -> None:
        """Zeroes a row, so that values that are not finite cannot reach its successor."""
        for store in (*self.keys, *self.values):
            store[row].zero_()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The model never needs this: positions and masks are given explicitly."""
        return 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one row takes over all layers, 0 before the first pass."""
        return sum(
            store.shape[1] * store.shape[3] * store.element_size() for store in (*self.keys, *self.values)
        )
