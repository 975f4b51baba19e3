"""When stacks of adapters are worth a copy of the base's weights, and which copies are kept.

The rule is that of the ski rental: a set of adapters gets a copy once it has met in as many passes as would
have paid for the packing. Where nothing has to give way for it, that costs at most twice what the best choice
with hindsight would.
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
#: The same for a set that a wider stack serves, beside which an own one saves some 3 ms a pass.
SERVED_AFTER = 128
#: Ranks that are fused together: 128 of them lengthen a product of 576 inputs by a fifth where it serves one
#: layer, by two thirds where it serves three.
FUSED_RANKS = 128
#: Memory for all copies. Packing one of 0.2 GB takes 0.3 s.
FUSED_BYTES = 1 << 30
#: Sets whose passes are counted.
COUNTED_SETS = 256


class Fusing(Generic[Adapter, Layer, Product]):
    """Chooses the stack of adapters through which a pass goes.

    A stack serves every pass whose adapters are among its own; one with fewer ranks is faster. While there is
    memory, each set of adapters that meets often gets its own. After that a set that none serves takes the
    place of those that have served least lately, together with the adapters of the last of them if they are
    not too many: those that take turns are better fused together than in turns.

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

    def choose(self, active: frozenset[Adapter], nbytes: Callable[[int], float]) -> frozenset[Adapter] | None:
        """The stack for a pass of these adapters, after counting it; None if it goes without.

        Args:
            active: The adapters of the pass.
            nbytes: Gives the size of a copy by its ranks; infinite if the weights cannot be fused.
        """
        if not active or not self.enabled:
            return None
        stack: frozenset[Adapter] | None = active
        if active not in self.stacks:
            serving = min(filter(active.issubset, self.stacks), key=self._ranks, default=None)
            stack = self._earned(active, serving is not None, nbytes) or serving
        if stack is not None:
            self.stacks[stack] = self.stacks.pop(stack, {})
        return stack

    def _earned(
        self, active: frozenset[Adapter], served: bool, nbytes: Callable[[int], float]
    ) -> frozenset[Adapter] | None:
        """The stack that the pass pays for, if it does; what stands in its way is let go."""
        if not active <= self._loaded:
            return None
        if active not in self._uses and len(self._uses) >= COUNTED_SETS:
            self._uses.clear()
        self._uses[active] += 1
        if self._uses[active] < (SERVED_AFTER if served else FUSED_AFTER):
            return None
        del self._uses[active]

        def fits(stack: frozenset[Adapter], *others: frozenset[Adapter]) -> bool:
            ranks = [self._ranks(one) for one in (stack, *others)]
            return ranks[0] <= FUSED_RANKS and sum(map(nbytes, ranks)) <= FUSED_BYTES

        if fits(active, *self.stacks):
            return active
        if served or not fits(active):
            return None
        while True:
            oldest = next(iter(self.stacks))
            del self.stacks[oldest]
            for stack in (active | oldest, active):
                if fits(stack, *self.stacks):
                    return stack

    def _ranks(self, stack: frozenset[Adapter]) -> int:
        return sum(map(self._rank, stack))

    def keep(self, loaded: set[Adapter]) -> None:
        """Says which adapters are loaded: a stack is let go when one of its own is not any more."""
        self._loaded = loaded
        self.stacks = {stack: products for stack, products in self.stacks.items() if stack <= loaded}
        self._uses = Counter({active: uses for active, uses in self._uses.items() if active <= loaded})

    def stop(self) -> None:
        """Fuses nothing from now on."""
        self.enabled, self.stacks, self._uses = False, {}, Counter()
