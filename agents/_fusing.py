"""When stacks of adapters are worth a copy of the base's weights, and which copies are kept.

The rule is that of the ski rental: a stack is fused once it has met in as many passes as would have paid
for the packing, so that it never costs more than twice what the best choice with hindsight would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Adapter = TypeVar("Adapter", bound=Hashable)
Layer = TypeVar("Layer", bound=Hashable)
Product = TypeVar("Product")

#: Passes after which a stack is fused: then what they would have saved is what the packing takes (0.3 s, some
#: 10 ms a pass).
FUSED_AFTER = 32
#: Ranks that are fused together: 128 of them lengthen a product of 576 inputs by a fifth where it serves one
#: layer, by two thirds where it serves three.
FUSED_RANKS = 128
#: Memory for all copies of the base's weights. Packing one takes 0.3 s for 0.2 GB.
FUSED_BYTES = 1 << 30
#: Stacks whose passes are counted.
COUNTED_STACKS = 256


class Fusing(Generic[Adapter, Layer, Product]):
    """Chooses the stack of adapters through which a pass goes.

    A stack serves every pass whose adapters are among its own; one with fewer ranks is faster. While there is
    memory, each set of adapters gets its own. After that a set takes the place of the stack that has served
    least lately, together with its adapters if they are not too many: those that take turns are better
    fused together than in turns.

    Attributes:
        stacks: The fused products by layers, as far as they have been needed, by stacks, the one that has
            served last at the end.
    """

    def __init__(self, rank: Callable[[Adapter], int], *, enabled: bool = True) -> None:
        """Starts with no stack.

        Args:
            rank: An adapter's rank.
            enabled: Without, nothing is ever fused.
        """
        self.stacks: dict[frozenset[Adapter], dict[Layer, Product]] = {}
        self.enabled = enabled
        self._rank = rank
        self._uses: Counter[frozenset[Adapter]] = Counter()
        self._loaded: set[Adapter] = set()

    def choose(self, active: frozenset[Adapter], nbytes: Callable[[], int]) -> frozenset[Adapter] | None:
        """The stack for a pass of these adapters, after counting it; None if it goes without.

        Args:
            active: The adapters of the pass.
            nbytes: Gives the size of one copy; beyond any limit if the weights cannot be fused.
        """
        if not active or not self.enabled:
            return None
        stack = active if active in self.stacks else self._wanted(active, nbytes)
        if stack is None:
            stack = min(filter(active.issubset, self.stacks), key=self._ranks, default=None)
        if stack is not None:
            self.stacks[stack] = self.stacks.pop(stack, {})
        return stack

    def _wanted(self, active: frozenset[Adapter], nbytes: Callable[[], int]) -> frozenset[Adapter] | None:
        """The stack that the pass pays for, if it does; what stands in its way is let go."""
        if active not in self._uses and len(self._uses) >= COUNTED_STACKS:
            self._uses.clear()
        self._uses[active] += 1
        if self._uses[active] < FUSED_AFTER or not active <= self._loaded:
            return None
        del self._uses[active]
        room = FUSED_BYTES // max(nbytes(), 1)
        if not room:
            self.stop()
            return None
        if len(self.stacks) < room:
            return active if self._ranks(active) <= FUSED_RANKS else None
        if any(map(active.issubset, self.stacks)):
            # Served already, if by more ranks than need be: no reason to let another go.
            return None
        oldest = next(iter(self.stacks))
        fusible = [one for one in (active | oldest, active) if self._ranks(one) <= FUSED_RANKS]
        if not fusible:
            return None
        del self.stacks[oldest]
        return fusible[0]

    def _ranks(self, stack: frozenset[Adapter]) -> int:
        return sum(map(self._rank, stack))

    def keep(self, loaded: set[Adapter]) -> None:
        """Says which adapters are loaded: a stack is let go when one of its own is not any more."""
        self._loaded = loaded
        self.stacks = {stack: products for stack, products in self.stacks.items() if stack <= loaded}

    def stop(self) -> None:
        """Fuses nothing from now on."""
        self.enabled, self.stacks = False, {}
