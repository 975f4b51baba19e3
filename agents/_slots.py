"""A preallocated key-value cache in which every row has its own length.

A forward pass is packed: the new tokens of all rows lie behind one another in one sequence, whatever
their number per row, so that no product is spent on padding. Rows that take one step each come first
and hold the slots 0..count-1 in order; longer stretches of tokens (pieces of prompts) follow. A `Layout`
says where the tokens of a pass belong, and which of them are attended to together.

What a slot holds beyond its row's length is masked, so stale keys need no clearing as long as they are
finite; those of a row that breaks are cleared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

#: Keys of one call are a multiple of this where tokens are many, and at least twice as many: torch multiplies
#: matrices of other numbers at a third of the speed. What is too much is masked.
KEY_BLOCK = 32
#: Scores in vain, a query's with a key that is padding, that take as long as another call: 90 microseconds,
#: Python's included, at 0.8 nanoseconds each on two cores.
CALL_SCORES = 100_000
#: Beginnings of prompts longer than this are attended to without a mask, one by one: up to here a mask costs
#: nothing, and one call serves several prompts (20 of 100 tokens in 0.7 of the time).
LONG_BEGINNING = 512

#: What attention may read of one layer in vain before another call costs less, which takes some 20
#: microseconds and splits its work less evenly: of 32, 128 and 512 KB and no limit, the fastest on ragged
#: requests.
IDLE_READ_BYTES = 512 << 10


def whole_blocks(keys: int) -> int:
    """How many keys a call reads for so many.

    Example:
        >>> whole_blocks(1), whole_blocks(65)
        (64, 96)
    """
    return max(2, -(-keys // KEY_BLOCK)) * KEY_BLOCK


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


class Stored(NamedTuple):
    """Some tokens' keys and values, both (layers, tokens, heads, size)."""

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.keys.shape[1]

    @classmethod
    def of(cls, pieces: Sequence[Stored]) -> Stored:
        """Pieces that follow one another; a single one is not copied."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(torch.cat([one.keys for one in pieces], 1), torch.cat([one.values for one in pieces], 1))

    def part(self, start: int, stop: int) -> Stored:
        """A view of the tokens from `start` to `stop`."""
        return Stored(self.keys[:, start:stop], self.values[:, start:stop])

    def clone(self) -> Stored:
        """A copy, which keeps nothing else alive."""
        whole = torch.contiguous_format
        return Stored(self.keys.clone(memory_format=whole), self.values.clone(memory_format=whole))

    def alone(self) -> Stored:
        """Itself, or a copy where it is the smaller part of what it keeps alive."""
        kept = self.keys.untyped_storage().nbytes()
        return self.clone() if kept > 2 * self.keys.numel() * self.keys.element_size() else self


class Shared(NamedTuple):
    """A beginning that rows have in common, and the tokens of a pass that see all of it.

    Attributes:
        stored: Its keys and values, in no slot.
        places: Where these tokens stand in the pass; None if they are all there are.
    """

    stored: Stored
    places: torch.Tensor | None


@dataclass(slots=True, kw_only=True, eq=False)
class Layout:
    """Where the tokens of one forward pass belong.

    The first `len(starts)` tokens are single steps of the slots from `first`; the rest are stretches.
    Positions are those in the slots, which do not hold what rows share.
    """

    starts: list[int]
    stretches: list[Stretch]
    first: int = 0
    shared: list[Shared] = field(default_factory=list)
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

    def alike(self, heads: int) -> list[list[Stretch]]:
        """The stretches in groups that one call attends to: neighbours in pass and slots of the same start.

        Their widths are equal, or padding them to the longest takes less time than another call.
        """
        found: list[list[Stretch]] = []
        scores = 0
        for one in self.stretches:
            alone = joined = heads * one.width * whole_blocks(one.start + one.width)
            last = found[-1][-1] if found else None
            if last is not None and one[:3] == (last.slot + 1, last.start, last.offset + last.width):
                widest = max(other.width for other in (*found[-1], one))
                joined = heads * (len(found[-1]) + 1) * widest * whole_blocks(one.start + widest)
                if joined - scores - alone <= CALL_SCORES:
                    found[-1].append(one)
                    scores = joined
                    continue
            found.append([one])
            scores = alone
        return found

    @property
    def windows(self) -> set[int | None]:
        """The windows that layers have asked for, of those that needed a mask."""
        return {window for window, *_ in self.masks}


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
        #: Whether rows may share beginnings: not once a layer has asked for attention that does not add up.
        self.sharing = self.device.type == "cpu"
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

        Grows with spare room, so that it is rarely called for; contents are kept. A row's room is a number
        of whole blocks of keys.
        """
        length = whole_blocks(length)
        if slots <= self.slots and length <= self.length:
            return
        grown_slots = max(self.slots, -(-slots // 16) * 16)
        grown_length = self.length if length <= self.length else -(-length * 5 // 4 // 64) * 64
        if grown_slots * grown_length * self.bytes_per_token > self.limit_bytes:
            # Spare length is worth more than spare slots: every step makes rows longer.
            fitting = self.limit_bytes // (slots * self.bytes_per_token)
            grown_slots, grown_length = (
                slots,
                max(length, min(grown_length, fitting // KEY_BLOCK * KEY_BLOCK)),
            )
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
        self._groups: dict[int, list[Group]] = {}

    def groups(self, heads: int) -> list[Group]:
        """The stretches of the pass by the calls that attend to them with so many heads."""
        if self.layout is None:
            raise RuntimeError("aim() comes before a forward pass")
        if heads not in self._groups:
            self._groups[heads] = [Group.of(alike, self.device) for alike in self.layout.alike(heads)]
        return self._groups[heads]

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
        return self.part(slot, start, stop).clone()

    def part(self, slot: int, start: int, stop: int) -> Stored:
        """Returns a view of a slot's tokens from `start` to `stop`."""
        return Stored(self.keys[:, slot, start:stop], self.values[:, slot, start:stop])

    def write(self, slot: int, start: int, stored: Stored) -> None:
        """Puts stored tokens into a slot, from `start`."""
        stop = start + stored.length
        self.keys[:, slot, start:stop] = stored.keys
        self.values[:, slot, start:stop] = stored.values

    def clear(self, slot: int) -> None:
        """Zeroes a slot, so that numbers that are not finite cannot reach its next row: 0 x NaN is NaN."""
        self.keys[:, slot].zero_()
        self.values[:, slot].zero_()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The model never needs this: positions are given explicitly."""
        return 0
