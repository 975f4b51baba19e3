"""Attention of a packed pass over a `SlotCache`.

Rows that take one step each have few calls over slices of the cache, since their slots are neighbours;
pieces of prompts have a call each, and one together where neighbours are alike.

Rows that begin alike may share that beginning: its keys and values are held once, outside the slots, and
read once for all of them in a pass. What attention gives over it and over what the slots hold is put
together by the sums of the scores ("Hydragen", Juravsky et al. 2024, https://arxiv.org/abs/2402.05099,
section 3.1).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from docendo.agents._slots import KEY_BLOCK, Group, KVShape, Layout, Shared, SlotCache, whole_blocks

#: Name under which the attention function below is known to transformers.
ATTENTION = "docendo_slots"
#: Query positions of one call where keys are masked: what a whole block cannot see is then left out.
QUERY_BLOCK = 256
#: Attention that gives the logarithm of the scores' sum as well; None where torch has no such function.
_with_sums: Any = getattr(
    getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None), "default", None
)

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
    cache.sharing = cache.sharing and how.adds_up(cache.shape)
    if layout.shared and not cache.sharing:
        raise NotImplementedError("attention with a window or a cap over a shared beginning is not served")
    how = how._replace(sums=bool(layout.shared))
    parts: list[_Found] = []
    steps = len(layout.starts)
    if steps:
        parts += _steps(cache, layout, query[0, :, :steps], how)
    alone = (Group([one], one.width) for one in layout.stretches)
    for group in cache.groups(query.shape[1]) if how.fused(cache.shape) else alone:
        begin, last = group.stretches[0].offset, group.stretches[-1]
        tokens = query[0, :, begin : last.offset + last.width]
        parts.append(_stretches(cache, layout, group, tokens, how))
    found = _Found.cat(parts)
    for shared in layout.shared:
        found = _with_shared(cache, shared, query[0], found, how)
    return found.output[None].contiguous(), None  # some models take a view of it


class _How(NamedTuple):
    """How scores are made.

    Attributes:
        scaling: Their factor.
        window: How many tokens one sees; None is all.
        softcap: What they are squeezed into, or None.
        sums: Whether their sums are wanted.
    """

    scaling: float
    window: int | None
    softcap: float | None
    sums: bool = False

    def fused(self, shape: KVShape) -> bool:
        """Whether scores are never held in memory, so that a call may be of any size."""
        return not self.softcap and shape.key_size == shape.value_size

    def adds_up(self, shape: KVShape) -> bool:
        """Whether attention over a beginning and over the rest can be put together here."""
        return _with_sums is not None and self.fused(shape) and not self.window


class _Found(NamedTuple):
    """What attention gives, (..., value size), and if wanted the logarithms of the scores' sums, (..., 1)."""

    output: torch.Tensor
    sums: torch.Tensor | None = None

    def reshape(self, *sizes: int) -> _Found:
        """Both in another shape."""
        return _Found(*(one if one is None else one.reshape(sizes) for one in self))

    def permute(self, *dims: int) -> _Found:
        """Both with their axes in another order."""
        return _Found(*(one if one is None else one.permute(dims) for one in self))

    def index_select(self, dim: int, index: torch.Tensor | None) -> _Found:
        """Some of both; None is all."""
        if index is None:
            return self
        return _Found(*(one if one is None else one.index_select(dim, index) for one in self))

    @classmethod
    def cat(cls, parts: Sequence[_Found], dim: int = 0) -> _Found:
        """Both of all parts behind one another."""
        if len(parts) == 1:
            return parts[0]
        sums = [part.sums for part in parts if part.sums is not None]
        return cls(torch.cat([part.output for part in parts], dim), torch.cat(sums, dim) if sums else None)


def _with_shared(cache: SlotCache, shared: Shared, query: torch.Tensor, found: _Found, how: _How) -> _Found:
    """Adds a shared beginning to what tokens have found in their slots; query is (heads, tokens, size)."""
    heads, kv, places = query.shape[0], cache.shape.heads, shared.places
    if places is not None:
        query = query.index_select(1, places)
    tokens = query.shape[1]
    # As many queries of one row: keys are read once for all, and nothing is hidden from any.
    keys = shared.stored.keys[cache.layer].transpose(0, 1)[None]
    values = shared.stored.values[cache.layer].transpose(0, 1)[None]
    together = query.reshape(1, kv, heads // kv * tokens, -1)
    more = _attend(together, keys, values, None, how, causal=False)
    more = more.reshape(heads, tokens, -1).permute(1, 0, 2)
    own = found.index_select(0, places)
    if own.sums is None or more.sums is None:
        raise RuntimeError("attention has not given the sums that were asked for")
    # exp(a) / (exp(a) + exp(b)) is the share of the scores that lie on the beginning.
    share = torch.sigmoid(more.sums - own.sums)
    output = torch.lerp(own.output.to(share.dtype), more.output.to(share.dtype), share).to(query.dtype)
    return found._replace(output=output if places is None else found.output.index_copy_(0, places, output))


def _steps(cache: SlotCache, layout: Layout, query: torch.Tensor, how: _How) -> list[_Found]:
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
        found = _attend(grouped[begin:end], keys, values, mask, how)
        parts.append(found.reshape(end - begin, heads, -1))
    return parts


def _stretches(cache: SlotCache, layout: Layout, group: Group, query: torch.Tensor, how: _How) -> _Found:
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
        found = _Found.cat([_beginning(cache, slot + number, one, how) for number, one in enumerate(each)])
    else:
        found = _masked(cache, layout, group, query, how)
    return found.index_select(0, group.kept)


def _masked(cache: SlotCache, layout: Layout, group: Group, query: torch.Tensor, how: _How) -> _Found:
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
        high = whole_blocks(last)
        low = max(0, first - how.window + 1) // KEY_BLOCK * KEY_BLOCK if how.window else 0
        low = min(low, high - 2 * KEY_BLOCK)
        named = (how.window, heads, first - low, last - first, high - low)
        mask = layout.masks.get(named)
        if mask is None:
            seen = torch.arange(low, high, device=query.device)
            position = torch.arange(first, last, device=query.device)[:, None]
            mask = layout.masks[named] = _mask(seen, position, how.window, query).repeat(groups, 1)
        block = grouped[:, :, :, begin : begin + QUERY_BLOCK].reshape(pieces, kv, -1, size)
        found = _attend(block, keys[:, :, low:high], values[:, :, low:high], mask, how)
        parts.append(found.reshape(pieces, heads, last - first, -1).permute(0, 2, 1, 3))
    return _Found.cat(parts, dim=1).reshape(pieces * width, heads, -1)


def _beginning(cache: SlotCache, slot: int, query: torch.Tensor, how: _How) -> _Found:
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
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    how: _How,
    *,
    causal: bool = True,
) -> _Found:
    """Attention of (batch, heads, queries, size).

    Args:
        causal: Without a mask: whether every token sees only those up to itself.
    """
    if how.softcap:
        scores = torch.matmul(query, keys.transpose(-1, -2)).mul_(how.scaling / how.softcap)
        return _Found(torch.matmul(scores.tanh_().mul_(how.softcap).add_(mask).softmax(-1), values), None)
    causal = causal and mask is None
    if not how.sums:
        output = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=causal, scale=how.scaling
        )
        return _Found(output, None)
    output, sums = _with_sums(query, keys, values, 0.0, causal, attn_mask=mask, scale=how.scaling)
    return _Found(output, sums[..., None])


AttentionInterface.register(ATTENTION, slot_attention)
