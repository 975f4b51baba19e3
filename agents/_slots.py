"""A preallocated key-value cache in which every row has its own length, and attention over it.

A forward pass is packed: the new tokens of all rows lie behind one another in one sequence, whatever
their number per row, so that no product is spent on padding. Rows that take one step each come first
and hold the slots 0..count-1 in order, so that their attention is one batched product over a slice;
every longer stretch of tokens (a piece of a prompt) is attended to by itself.

What a slot holds beyond its row's length is never attended to, so stale keys need no clearing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache

#: Name under which the attention function below is known to transformers.
ATTENTION = "docendo_slots"
#: Scores of one stretch of a prompt are computed for so many query positions at a time.
QUERY_BLOCK = 256


class KVShape(NamedTuple):
    """Layers, key-value heads, and sizes of a head's key and value."""

    layers: int
    heads: int
    key_size: int
    value_size: int


class Stretch(NamedTuple):
    """`width` tokens of one row in a pass: from `offset` in the pass, from position `start` in the slot."""

    slot: int
    start: int
    offset: int
    width: int


@dataclass(slots=True, kw_only=True, eq=False)
class Layout:
    """Where the tokens of one forward pass belong.

    The first `len(starts)` tokens are single steps of the slots from `first`; the rest are stretches.
    """

    starts: list[int]
    stretches: list[Stretch]
    first: int = 0
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    @property
    def span(self) -> int:
        """How many positions the single steps can attend to."""
        return max(self.starts) + 1


class Stored(NamedTuple):
    """Some tokens' keys (layers, heads, key size, tokens) and values (layers, heads, tokens, value size)."""

    keys: torch.Tensor
    values: torch.Tensor

    def part(self, start: int, stop: int) -> Stored:
        """A view of the tokens from `start` to `stop`."""
        return Stored(self.keys[..., start:stop], self.values[..., start:stop, :])

    def clone(self) -> Stored:
        """A copy, which keeps nothing else alive."""
        return Stored(self.keys.contiguous().clone(), self.values.contiguous().clone())


class SlotCache(Cache):
    """Keys (layers, slots, heads, size, length) and values (layers, slots, heads, length, size).

    Keys lie transposed: the product with a step's queries, which reads all of them, then runs along
    memory, in bfloat16 about 1.7 times as fast as attention over position-major keys.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        limit_bytes: int = 1 << 62,
    ) -> None:
        """Starts empty. Beyond `limit_bytes` it holds no spare room, only what `reserve` asks for."""
        super().__init__(layers=[])
        self.shape, self.dtype, self.device = shape, dtype, torch.device(device)
        self.limit_bytes = limit_bytes
        self.bytes_per_token = (
            shape.layers * shape.heads * (shape.key_size + shape.value_size) * dtype.itemsize
        )
        self.layout: Layout | None = None
        self.layer = 0
        self.free()

    def free(self) -> None:
        """Gives the memory back; every row is lost."""
        self.slots = self.length = 0
        self.keys, self.values = self._empty(0, 0)

    def _empty(self, slots: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        layers, heads, key_size, value_size = self.shape
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        return (
            torch.zeros(layers, slots, heads, key_size, length, **options),
            torch.zeros(layers, slots, heads, length, value_size, **options),
        )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.slots * self.length * self.bytes_per_token

    def reserve(self, slots: int, length: int) -> None:
        """Makes room for `slots` rows of `length` tokens, which must cover every row in use.

        Grows with spare room, so that it is rarely called for; contents are kept.
        """
        if slots <= self.slots and length <= self.length:
            return
        grown_slots = max(self.slots, -(-slots // 16) * 16)
        grown_length = self.length if length <= self.length else -(-length * 5 // 4 // 64) * 64
        if grown_slots * grown_length * self.bytes_per_token > self.limit_bytes:
            # Spare length is worth more than spare slots: every step makes rows longer.
            fitting = self.limit_bytes // (slots * self.bytes_per_token)
            grown_slots, grown_length = slots, max(length, min(grown_length, fitting))
        keys, values = self._empty(grown_slots, grown_length)
        slots, length = min(self.slots, grown_slots), min(self.length, grown_length)
        keys[:, :slots, ..., :length] = self.keys[:, :slots, ..., :length]
        values[:, :slots, :, :length] = self.values[:, :slots, :, :length]
        self.keys, self.values, self.slots, self.length = keys, values, grown_slots, grown_length

    def aim(self, layout: Layout) -> None:
        """Says where the tokens of the next forward pass belong."""
        self.layout = layout
        self._steps = torch.arange(layout.first, layout.first + len(layout.starts), device=self.device)
        self._positions = torch.tensor(layout.starts, device=self.device, dtype=torch.long)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a layer's new keys and values, both (1, heads, tokens, size); returns them as they are."""
        if self.layout is None:
            raise RuntimeError("aim() comes before a forward pass")
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        steps = len(self.layout.starts)
        if steps:
            keys[self._steps, :, :, self._positions] = key_states[0, :, :steps].transpose(0, 1)
            values[self._steps, :, self._positions] = value_states[0, :, :steps].transpose(0, 1)
        for slot, start, offset, width in self.layout.stretches:
            new = slice(offset, offset + width)
            keys[slot, :, :, start : start + width] = key_states[0, :, new].transpose(1, 2)
            values[slot, :, start : start + width] = value_states[0, :, new]
        self.layer = layer_idx
        return key_states, value_states

    def swap(self, left: int, right: int, length: int) -> None:
        """Exchanges the first `length` tokens of two slots."""
        if left != right:
            pair, turned = [left, right], [right, left]
            self.keys[:, pair, ..., :length] = self.keys[:, turned, ..., :length]
            self.values[:, pair, :, :length] = self.values[:, turned, :, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of slot `source` to slot `target`."""
        self.keys[:, target, ..., :length] = self.keys[:, source, ..., :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def read(self, slot: int, start: int, stop: int) -> Stored:
        """Returns a copy of a slot's tokens from `start` to `stop`."""
        return Stored(self.keys[:, slot, ..., start:stop], self.values[:, slot, :, start:stop]).clone()

    def write(self, slot: int, start: int, stored: Stored) -> None:
        """Puts stored tokens into a slot, from `start`."""
        stop = start + stored.keys.shape[-1]
        self.keys[:, slot, ..., start:stop] = stored.keys
        self.values[:, slot, :, start:stop] = stored.values

    def clear(self, slot: int) -> None:
        """Zeroes a slot, so that numbers that are not finite cannot reach its next row: 0 x NaN is NaN."""
        self.keys[:, slot].zero_()
        self.values[:, slot].zero_()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The model never needs this: positions are given explicitly."""
        return 0


# --- attention ------------------------------------------------------------------------------------

# transformers looks attention functions up by name, so the cache of the pass that runs is found here.
# An engine runs its passes on a thread of its own.
_current = threading.local()


def attending(cache: SlotCache | None) -> None:
    """Says which cache the next forward pass on this thread reads, None after it."""
    _current.cache = cache


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed pass over the cache that `attending` named.

    Args:
        module: The attention layer; not read.
        query: Shape (1, heads, tokens, size).
        key: The pass's own keys, shape (1, key-value heads, tokens, size).
        value: The pass's own values.
        attention_mask: Not read: the layout says what a token sees.
        scaling: Factor of the scores, by default 1 / sqrt(size).
        sliding_window: A token sees so many tokens, itself included; None is all.
        softcap: Scores are squeezed into plus or minus this (Gemma 2), or None.
        **kwargs: What else the model passes; attention sinks are refused.

    Returns:
        Shape (1, tokens, heads, value size), and None for the weights.
    """
    cache: SlotCache | None = getattr(_current, "cache", None)
    if cache is None or cache.layout is None:
        raise RuntimeError(f"the attention {ATTENTION!r} works inside an engine only")
    for unserved in ("s_aux", "position_bias"):
        if kwargs.get(unserved) is not None:
            raise NotImplementedError(f"attention with {unserved} is not served")
    layout = cache.layout
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    parts: list[torch.Tensor] = []
    steps = len(layout.starts)
    if steps:
        parts.append(_step(cache, layout, query[0, :, :steps], scaling, sliding_window, softcap))
    for stretch in layout.stretches:
        new = slice(stretch.offset, stretch.offset + stretch.width)
        if stretch.start == 0 and not softcap and (not sliding_window or stretch.width <= sliding_window):
            parts.append(_fresh(query[0, :, new], key[0, :, new], value[0, :, new], scaling))
        else:
            parts.append(_stretch(cache, stretch, query[0, :, new], scaling, sliding_window, softcap))
    output = parts[0] if len(parts) == 1 else torch.cat(parts)
    return output[None].contiguous(), None  # some models take a view of it


def _step(
    cache: SlotCache,
    layout: Layout,
    query: torch.Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """One query per slot, (heads, slots, size) -> (slots, heads, value size)."""
    heads, steps, size = query.shape
    kv = cache.shape.heads
    slots, span = slice(layout.first * kv, (layout.first + steps) * kv), layout.span
    keys = cache.keys[cache.layer].flatten(0, 1)[slots, :, :span]
    values = cache.values[cache.layer].flatten(0, 1)[slots, :span]
    # The query heads that share a key-value head become rows of one product.
    grouped = query.transpose(0, 1).reshape(steps * kv, heads // kv, size)
    mask = layout.masks.get(window)
    if mask is None:
        mask = _step_mask(layout, window, query).expand(-1, kv, heads // kv, -1).flatten(0, 1)
        layout.masks[window] = mask
    scores = (
        torch.baddbmm(mask, grouped, keys, alpha=scaling)
        if not softcap
        else _capped(torch.bmm(grouped, keys), scaling, softcap).add_(mask)
    )
    return torch.bmm(scores.softmax(-1), values).view(steps, heads, -1)


def _step_mask(layout: Layout, window: int | None, like: torch.Tensor) -> torch.Tensor:
    last = torch.tensor(layout.starts, device=like.device)[:, None, None, None]
    keys = torch.arange(layout.span, device=like.device)
    seen = keys <= last
    if window:
        seen &= keys > last - window
    return torch.zeros(seen.shape, device=like.device, dtype=like.dtype).masked_fill_(~seen, float("-inf"))


def _fresh(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """The beginning of a row: it sees itself alone. (heads, width, size) -> (width, heads, value size)."""
    heads, width, size = query.shape
    kv = key.shape[0]
    groups = heads // kv
    # Query heads that share a key-value head lie along the batch axis, where keys need no copies.
    output = scaled_dot_product_attention(
        query.view(kv, groups, width, size).transpose(0, 1) if groups > 1 else query[None],
        key.expand(groups, -1, -1, -1),
        value.expand(groups, -1, -1, -1),
        is_causal=True,
        scale=scaling,
    )
    return output.permute(2, 1, 0, 3).reshape(width, heads, -1)


def _stretch(
    cache: SlotCache,
    stretch: Stretch,
    query: torch.Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """A later piece of a row: it sees what its slot holds, up to itself."""
    heads, width, size = query.shape
    kv = cache.shape.heads
    grouped = query.view(kv, heads // kv, width, size)
    parts = []
    for begin in range(0, width, QUERY_BLOCK):
        count = min(QUERY_BLOCK, width - begin)
        last = stretch.start + begin + count
        # Keys that even the block's first token cannot see are left out.
        low = max(0, stretch.start + begin - window + 1) if window else 0
        keys = cache.keys[cache.layer][stretch.slot, :, :, low:last]
        values = cache.values[cache.layer][stretch.slot, :, low:last]
        position = torch.arange(last - count, last, device=query.device)[:, None]
        seen = torch.arange(low, last, device=query.device)
        hidden = seen > position
        if window:
            hidden |= seen <= position - window
        block = grouped[:, :, begin : begin + count].reshape(kv, -1, size)
        scores = torch.bmm(block, keys).view(kv, -1, count, last - low)
        scores = _capped(scores, scaling, softcap) if softcap else scores.mul_(scaling)
        weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
        mixed = torch.bmm(weights.view(kv, -1, last - low), values)
        parts.append(mixed.view(heads, count, -1).transpose(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _capped(scores: torch.Tensor, scaling: float, softcap: float) -> torch.Tensor:
    return scores.mul_(scaling / softcap).tanh_().mul_(softcap)


AttentionInterface.register(ATTENTION, slot_attention)
