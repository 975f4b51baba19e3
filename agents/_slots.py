"""A preallocated key-value cache in which every row has its own length, and attention over it.

A forward pass is packed: the new tokens of all rows lie behind one another in one sequence, whatever
their number per row, so that no product is spent on padding. Rows that take one step each come first
and hold the slots 0..count-1 in order, so that their attention takes few calls over slices of the cache;
longer stretches of tokens (pieces of prompts) have a call each, and one together where neighbours are alike.

What a slot holds beyond its row's length is never attended to, so stale keys need no clearing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache

#: Name under which the attention function below is known to transformers.
ATTENTION = "docendo_slots"
#: Query positions of one call where keys are masked: what a whole block cannot see is then left out.
QUERY_BLOCK = 256
#: Share of tokens, the rest being padding, from which on short pieces are attended to together: at 0.75 that
#: takes 0.6 to 0.85 of the time of calls of their own.
LEAST_FILLED = 0.75
#: Beginnings of prompts longer than this are attended to without a mask, one by one: up to here a mask costs
#: nothing, and one call serves several prompts (20 of 100 tokens in 0.7 of the time).
LONG_BEGINNING = 512

#: What attention may read of one layer in vain before another call costs less, which takes some 20
#: microseconds and splits its work less evenly: of 32, 128 and 512 KB and no limit, the fastest on ragged
#: requests.
IDLE_READ_BYTES = 512 << 10


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


class Group(NamedTuple):
    """Neighbouring stretches of one start, and their greatest width.

    Attributes:
        spread: Where the tokens of all, padded to that width, are found among them; None if no one is padded.
        kept: Which of the padded tokens are theirs.
    """

    stretches: Sequence[Stretch]
    width: int
    spread: torch.Tensor | None = None
    kept: torch.Tensor | None = None

    @classmethod
    def of(cls, stretches: Sequence[Stretch], device: torch.device) -> Group:
        """The group of some stretches."""
        first, width = stretches[0].offset, max(one.width for one in stretches)
        if all(one.width == width for one in stretches):
            return cls(stretches, width)
        spread = [
            one.offset - first + min(place, one.width - 1) for one in stretches for place in range(width)
        ]
        kept = [row * width + place for row, one in enumerate(stretches) for place in range(one.width)]
        return cls(stretches, width, torch.tensor(spread, device=device), torch.tensor(kept, device=device))


@dataclass(slots=True, kw_only=True, eq=False)
class Layout:
    """Where the tokens of one forward pass belong.

    The first `len(starts)` tokens are single steps of the slots from `first`; the rest are stretches.
    """

    starts: list[int]
    stretches: list[Stretch]
    first: int = 0
    masks: dict[tuple[int | None, ...], torch.Tensor] = field(default_factory=dict)

    def segments(self, most: int) -> list[tuple[int, int, int]]:
        """The single steps in neighbouring groups that one call attends to: from, to, and positions read.

        A group ends where it would otherwise read more than `most` positions that no row of it needs.
        """
        found: list[tuple[int, int, int]] = []
        begin = span = total = 0
        for place, start in enumerate(self.starts):
            length = start + 1
            count, longest = place - begin + 1, max(span, length)
            if count > 1 and count * longest - total - length > most:
                found.append((begin, place, span))
                begin, span, total = place, length, length
            else:
                span, total = longest, total + length
        found.append((begin, len(self.starts), span))
        return found

    def alike(self) -> list[list[Stretch]]:
        """The stretches in groups that one call attends to: neighbours in pass and slots of the same start.

        Their widths are equal, or they are short and padding them to the longest is little work.
        """
        found: list[list[Stretch]] = []
        widest = total = 0
        for one in self.stretches:
            last = found[-1][-1] if found else None
            beside = last is not None and one[:3] == (last.slot + 1, last.start, last.offset + last.width)
            longest = max(widest, one.width)
            even = beside and longest * len(found[-1]) == total and one.width == longest
            padded = longest * (len(found[-1]) + 1) if beside else 0
            if even or (beside and longest <= QUERY_BLOCK and total + one.width >= LEAST_FILLED * padded):
                found[-1].append(one)
                widest, total = longest, total + one.width
            else:
                found.append([one])
                widest = total = one.width
        return found

    @property
    def windows(self) -> set[int | None]:
        """The windows that layers have asked for, of those that needed a mask."""
        return {window for window, *_ in self.masks}


class Stored(NamedTuple):
    """Some tokens' keys and values, both (layers, tokens, heads, size)."""

    keys: torch.Tensor
    values: torch.Tensor

    def part(self, start: int, stop: int) -> Stored:
        """A view of the tokens from `start` to `stop`."""
        return Stored(self.keys[:, start:stop], self.values[:, start:stop])

    def clone(self) -> Stored:
        """A copy, which keeps nothing else alive."""
        return Stored(self.keys.contiguous().clone(), self.values.contiguous().clone())


class SlotCache(Cache):
    """Keys and values, both (layers, slots, length, heads, size).

    A pass writes all its tokens with one call per layer, and attention reads a slice without a copy.
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
        self.long_beginning = LONG_BEGINNING
        self.free()

    def free(self) -> None:
        """Gives the memory back; every row is lost."""
        self.slots = self.length = 0
        self.keys, self.values = self._empty(0, 0)

    def _empty(self, slots: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        layers, heads, key_size, value_size = self.shape
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        return (
            torch.zeros(layers, slots, length, heads, key_size, **options),
            torch.zeros(layers, slots, length, heads, value_size, **options),
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
        keys[:, :slots, :length] = self.keys[:, :slots, :length]
        values[:, :slots, :length] = self.values[:, :slots, :length]
        self.keys, self.values, self.slots, self.length = keys, values, grown_slots, grown_length

    def aim(self, layout: Layout) -> None:
        """Says where the tokens of the next forward pass belong."""
        self.layout = layout
        places = [(layout.first + step) * self.length + start for step, start in enumerate(layout.starts)]
        for slot, start, _, width in layout.stretches:
            places += range(slot * self.length + start, slot * self.length + start + width)
        self._places = torch.tensor(places, device=self.device)
        idle = (
            IDLE_READ_BYTES * self.shape.layers // self.bytes_per_token
            if self.device.type == "cpu"
            else 1 << 62
        )
        self.segments = layout.segments(idle) if layout.starts else []
        self.alike = [Group.of(alike, self.device) for alike in layout.alike()]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a layer's new keys and values, both (1, heads, tokens, size); returns them as they are."""
        if self.layout is None:
            raise RuntimeError("aim() comes before a forward pass")
        for room, states in ((self.keys, key_states), (self.values, value_states)):
            room[layer_idx].flatten(0, 1).index_copy_(0, self._places, states[0].transpose(0, 1))
        self.layer = layer_idx
        return key_states, value_states

    def swap(self, left: int, right: int, length: int) -> None:
        """Exchanges the first `length` tokens of two slots."""
        if left != right:
            pair, turned = [left, right], [right, left]
            self.keys[:, pair, :length] = self.keys[:, turned, :length]
            self.values[:, pair, :length] = self.values[:, turned, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of slot `source` to slot `target`."""
        self.keys[:, target, :length] = self.keys[:, source, :length]
        self.values[:, target, :length] = self.values[:, source, :length]

    def read(self, slot: int, start: int, stop: int) -> Stored:
        """Returns a copy of a slot's tokens from `start` to `stop`."""
        return Stored(self.keys[:, slot, start:stop], self.values[:, slot, start:stop]).clone()

    def write(self, slot: int, start: int, stored: Stored) -> None:
        """Puts stored tokens into a slot, from `start`."""
        stop = start + stored.keys.shape[1]
        self.keys[:, slot, start:stop] = stored.keys
        self.values[:, slot, start:stop] = stored.values

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
    how = _How(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    parts: list[torch.Tensor] = []
    steps = len(layout.starts)
    if steps:
        parts += _steps(cache, layout, query[0, :, :steps], how)
    alone = (Group([one], one.width) for one in layout.stretches)
    for group in cache.alike if how.fused(cache.shape) else alone:
        begin, last = group.stretches[0].offset, group.stretches[-1]
        tokens = query[0, :, begin : last.offset + last.width]
        parts.append(_stretches(cache, layout, group, tokens, how))
    output = parts[0] if len(parts) == 1 else torch.cat(parts)
    return output[None].contiguous(), None  # some models take a view of it


class _How(NamedTuple):
    """Factor of the scores, how many tokens one sees (None: all), and what scores are squeezed into."""

    scaling: float
    window: int | None
    softcap: float | None

    def fused(self, shape: KVShape) -> bool:
        """Whether scores are never held in memory, so that a call may be of any size."""
        return not self.softcap and shape.key_size == shape.value_size


def _steps(cache: SlotCache, layout: Layout, query: torch.Tensor, how: _How) -> list[torch.Tensor]:
    """One query per slot, (heads, slots, size) -> (slots, heads, value size), in groups."""
    heads, steps, size = query.shape
    kv = cache.shape.heads
    # The query heads that share a key-value head stand where further positions would.
    grouped = query.transpose(0, 1).reshape(steps, kv, heads // kv, size)
    parts = []
    for begin, end, span in cache.segments:
        slots = slice(layout.first + begin, layout.first + end)
        keys = cache.keys[cache.layer, slots, :span].transpose(1, 2)
        values = cache.values[cache.layer, slots, :span].transpose(1, 2)
        mask = layout.masks.get((how.window, heads, begin))
        if mask is None:
            last = torch.tensor(layout.starts[begin:end], device=query.device)[:, None, None, None]
            mask = _mask(torch.arange(span, device=query.device), last, how.window, query)
            layout.masks[how.window, heads, begin] = mask = mask.expand(-1, -1, heads // kv, -1)
        parts.append(_attend(grouped[begin:end], keys, values, mask, how).reshape(end - begin, heads, -1))
    return parts


def _stretches(
    cache: SlotCache, layout: Layout, group: Group, query: torch.Tensor, how: _How
) -> torch.Tensor:
    """Pieces of neighbouring rows, each of which sees what its slot holds up to itself.

    (heads, tokens, size) -> (tokens, heads, value size).
    """
    if group.spread is not None:
        query = query.index_select(1, group.spread)
    (slot, start, *_), pieces, width = group.stretches[0], len(group.stretches), group.width
    if (
        start == 0
        and width > cache.long_beginning
        and not how.softcap
        and not (how.window and width > how.window)
    ):
        each = query.unflatten(1, (pieces, width)).unbind(1)
        found = torch.cat([_beginning(cache, slot + number, one, how) for number, one in enumerate(each)])
    else:
        found = _masked(cache, layout, group, query, how)
    return found if group.kept is None else found.index_select(0, group.kept)


def _masked(cache: SlotCache, layout: Layout, group: Group, query: torch.Tensor, how: _How) -> torch.Tensor:
    """Pieces padded to one width, (heads, pieces x width, size) -> (pieces x width, heads, value size).

    What a slot holds beyond a shorter piece is hidden from all tokens that are not padding.
    """
    (slot, start, *_), pieces, width = group.stretches[0], len(group.stretches), group.width
    heads, _, size = query.shape
    kv = cache.shape.heads
    groups = heads // kv
    keys = cache.keys[cache.layer, slot : slot + pieces].transpose(1, 2)
    values = cache.values[cache.layer, slot : slot + pieces].transpose(1, 2)
    # Query heads that share a key-value head stand where further positions would: keys are read once for all.
    grouped = query.view(kv, groups, pieces, width, size).permute(2, 0, 1, 3, 4)
    parts = []
    for begin in range(0, width, QUERY_BLOCK):
        first = start + begin
        last = first + min(QUERY_BLOCK, width - begin)
        low = max(0, first - how.window + 1) if how.window else 0
        named = (how.window, heads, first - low, last - first)
        mask = layout.masks.get(named)
        if mask is None:
            seen = torch.arange(low, last, device=query.device)
            position = torch.arange(first, last, device=query.device)[:, None]
            mask = layout.masks[named] = _mask(seen, position, how.window, query).repeat(groups, 1)
        block = grouped[:, :, :, begin : begin + QUERY_BLOCK].reshape(pieces, kv, -1, size)
        output = _attend(block, keys[:, :, low:last], values[:, :, low:last], mask, how)
        parts.append(output.reshape(pieces, heads, last - first, -1).transpose(1, 2))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return whole.reshape(pieces * width, heads, -1)


def _beginning(cache: SlotCache, slot: int, query: torch.Tensor, how: _How) -> torch.Tensor:
    """A long beginning of a prompt, (heads, width, size) -> (width, heads, value size).

    Without a mask half of the work is spared. Query heads that share a key-value head lie along the batch
    axis, where keys need no copies.
    """
    heads, width, size = query.shape
    kv = cache.shape.heads
    spread = (heads // kv, kv, width, -1)
    keys = cache.keys[cache.layer, slot, :width].transpose(0, 1).expand(spread)
    values = cache.values[cache.layer, slot, :width].transpose(0, 1).expand(spread)
    grouped = query.reshape(kv, heads // kv, width, size).transpose(0, 1)
    return _attend(grouped, keys, values, None, how).permute(2, 1, 0, 3).reshape(width, heads, -1)


def _mask(keys: torch.Tensor, position: torch.Tensor, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """0 where a token at `position` sees a key, minus infinity elsewhere."""
    hidden = keys > position
    if window:
        hidden |= keys <= position - window
    return torch.zeros(hidden.shape, device=like.device, dtype=like.dtype).masked_fill_(hidden, float("-inf"))


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, how: _How
) -> torch.Tensor:
    """Attention of (batch, heads, queries, size); without a mask every token sees those up to itself."""
    if how.softcap:
        scores = torch.matmul(query, keys.transpose(-1, -2)).mul_(how.scaling / how.softcap)
        return torch.matmul(scores.tanh_().mul_(how.softcap).add_(mask).softmax(-1), values)
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=mask is None, scale=how.scaling
    )


AttentionInterface.register(ATTENTION, slot_attention)
