"""Serving many LoRA adapters (arXiv 2106.09685) on one base, in one batch.

Tokens of a long run, such as a prompt, are served by their adapter alone. Rows that take one step each
are served together: with A = [A1; A2; ...] and B = [B1 | B2 | ...] one product computes all adapters, and
a gate, 1 where a token's adapter owns the rank and 0 elsewhere, keeps every token to its own. So a mixed
batch costs two small products per layer whatever the number of adapters, in any order, where PEFT's
mixed batches loop over the adapters.

Activated adapters act on the end of a prompt: in a pass of many tokens those on which none acts are left
out.

Such products are so small that calling them costs more than computing them. So adapters that have met in
many passes are fused with a packed base: with [W | B] one product gives the base and all terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

import torch
from torch import nn

from docendo.agents._fusing import Fusing
from docendo.agents._linear import JointPart, Matrix, PackedLinear

#: From so many tokens on, an adapter's own small products are cheaper than its share of a stack, and plain
#: products in place cheaper than packed ones.
LONG_RUN = 64
#: From so many tokens on, adapters that act on half of them or less compute only these: more than the rows of
#: a step, which are better served by one fused product.
SPARSE_TOKENS = 256
#: Stacks that are kept: the sets of adapters that meet in passes repeat.
MAX_STACKS = 16
#: Beyond any prompt and completion.
NEVER = 1 << 62
#: Layers that take adapters.
Layer = nn.Linear | PackedLinear | JointPart


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedAdapter:
    """An adapter in memory. Immutable: a hot swap binds the name to another object.

    Attributes:
        name: The name it was loaded under.
        sha256: Digest of the weights file.
        key: Digest of weights and scaling: what keys and values computed with it depend on.
        rank: Rank of the adapter.
        invocation: Tokens that activate it (aLoRA, arXiv 2504.12397): it acts from where they last begin in
            a prompt, and not at all in a prompt without them. Empty for a plain LoRA, which always acts.
        weights: Number of its weights.
        pairs: Per module name: A of shape (rank, in) and B, scaling included, of shape (out, rank).
    """

    name: str
    sha256: str
    key: str
    rank: int
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
    weights: int
    invocation: tuple[int, ...] = ()

    def activation(self, prompt: Sequence[int]) -> int:
        """The first token of `prompt` that it acts on."""
        if not self.invocation:
            return 0
        size = len(self.invocation)
        for start in range(len(prompt) - size, -1, -1):
            if tuple(prompt[start : start + size]) == self.invocation:
                return start
        return NEVER


class _Part(NamedTuple):
    """Tokens `start` to `stop` of a pass, which the same adapters serve.

    Attributes:
        long: Whether there are so many tokens that their weights are better not packed.
        terms: Their terms by layers, as far as they have been needed.
        gate: Which ranks act on which token, (tokens, ranks); None if all do on all.
        places: Where in the pass the tokens stand if the part is of some only; they are what is counted then.
        gates: The gate for several layers at once, by their number.
    """

    start: int
    stop: int
    adapters: tuple[LoadedAdapter, ...]
    long: bool
    terms: dict[RoutedLinear, _Term | None]
    gate: torch.Tensor | None
    gates: dict[int, torch.Tensor]
    places: torch.Tensor | None = None

    def gate_for(self, layers: int) -> torch.Tensor | None:
        """The gate, repeated for so many layers."""
        if self.gate is None:
            return None
        found = self.gates.get(layers)
        if found is None:
            found = self.gates[layers] = self.gate.repeat(1, layers)
        return found


class _Term(NamedTuple):
    """What adapters add to a product: all A, (layers x ranks, in), and all B, (out, layers x ranks)."""

    down: Matrix
    up: Matrix
    layers: int


class _Fused(NamedTuple):
    """All A of a stack, (layers x ranks, in), and the base's weight beside all B, (out, in + ...)."""

    down: Matrix
    product: Matrix
    layers: int


class AdapterRouter:
    """Which adapter acts on each token of the next forward pass. Shared by all `RoutedLinear` modules.

    Attributes:
        parts: The parts of the next pass on which adapters act.
        layers: The modules that it serves.
    """

    def __init__(self, *, fusing: bool = True) -> None:
        """Starts with no adapter. Without `fusing` a pass has the same bits whatever came before it."""
        self.parts: list[_Part] = []
        self.layers: list[RoutedLinear] = []
        self.fusing: Fusing[LoadedAdapter, RoutedLinear, _Fused | None] = Fusing(
            attrgetter("rank"), enabled=fusing
        )
        self._fused: frozenset[LoadedAdapter] | None = None
        self._stacks: dict[tuple[tuple[LoadedAdapter, ...], bool], dict[RoutedLinear, _Term | None]] = {}

    def route(
        self, runs: Sequence[tuple[LoadedAdapter | None, int]], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Sets the adapters of the next forward pass: which one, None for the base, for how many tokens.

        Long runs are served one by one, each by its adapter alone; short ones together, by a stack; and all
        together where the stack is fused.
        """
        self.parts = []
        active = frozenset(owner for owner, _ in runs if owner is not None)
        self._fused = None if _sparse(runs) else self.fusing.choose(active, self._fused_bytes)
        if self._fused is not None:
            self._stack_up(0, runs, device, dtype)
            return
        short: list[tuple[LoadedAdapter | None, int]] = []
        start = position = 0
        for owner, count in _joined(runs):
            if count >= LONG_RUN:
                self._stack_up(start, short, device, dtype)
                if owner is not None:
                    self._add_part(position, count, (owner,), None)
                short, start = [], position + count
            else:
                short.append((owner, count))
            position += count
        self._stack_up(start, short, device, dtype)
        if len(self._stacks) > MAX_STACKS:
            current = {(part.adapters, part.long) for part in self.parts}
            self._stacks = {key: terms for key, terms in self._stacks.items() if key in current}

    def _stack_up(
        self,
        start: int,
        runs: Sequence[tuple[LoadedAdapter | None, int]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        places = None
        if _sparse(runs):
            # Activated adapters (aLoRA) act on the end of a prompt: the rest is no work of theirs.
            places = _active_places(start, runs).to(device)
            runs = [(owner, count) for owner, count in runs if owner is not None]
        owners_here = self._fused or {owner for owner, _ in runs if owner is not None}
        active = tuple(sorted(owners_here, key=id))
        if not active:
            return
        gate = None
        if len(active) > 1 or any(owner is None for owner, _ in runs):
            owners = torch.repeat_interleave(
                torch.arange(len(active)), torch.tensor([adapter.rank for adapter in active])
            )
            index = {adapter: number for number, adapter in enumerate(active)}
            mine = torch.repeat_interleave(
                torch.tensor([-1 if owner is None else index[owner] for owner, _ in runs]),
                torch.tensor([count for _, count in runs]),
            )
            gate = (mine[:, None] == owners).to(device, dtype)
        self._add_part(start, sum(count for _, count in runs), active, gate, places)

    def _add_part(
        self,
        start: int,
        count: int,
        adapters: tuple[LoadedAdapter, ...],
        gate: torch.Tensor | None,
        places: torch.Tensor | None = None,
    ) -> None:
        key = (adapters, count >= LONG_RUN)
        terms = self._stacks.setdefault(key, {})
        self.parts.append(_Part(start, start + count, *key, terms, gate, {}, places))

    def _fused_bytes(self, ranks: int) -> float:
        """Bytes of all weights that adapters act on, fused with so many ranks each."""
        total = 0.0
        for layer in self.layers:
            if not isinstance(layer.base, PackedLinear):
                return math.inf
            more = ranks * len(layer.names) * (layer.base.in_features + layer.base.out_features)
            total += layer.base.weight_bytes + more * layer.base.dtype.itemsize
        return total

    def apply(self, layer: RoutedLinear, inputs: torch.Tensor) -> torch.Tensor:
        """A layer's output with the adapters' terms."""
        if self._fused is None:
            return self.add(layer, inputs, layer.base(inputs))
        (part,), products = self.parts, self.fusing.stacks[self._fused]
        if layer not in products:
            try:
                products[layer] = _fused(part.adapters, layer)
            except RuntimeError:
                # No memory for another copy: this pass and later ones go without.
                self.fusing.stop()
                self._fused = None
                return self.add(layer, inputs, layer.base(inputs))
        fused = products[layer]
        if fused is None:
            return layer.base(inputs)
        flat = inputs.reshape(-1, inputs.shape[-1])
        terms = fused.down.times(flat, part.gate_for(fused.layers))
        return fused.product.times(torch.cat((flat, terms), dim=1)).view(*inputs.shape[:-1], -1)

    def add(self, layer: RoutedLinear, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Adds the adapters' terms to a layer's output, which is overwritten, and returns the sum."""
        flat, given = output.view(-1, output.shape[-1]), inputs.reshape(-1, inputs.shape[-1])
        for part in self.parts:
            if layer in part.terms:
                term = part.terms[layer]
            else:
                packed = not part.long and isinstance(layer.base, PackedLinear)
                term = part.terms[layer] = _term(part.adapters, layer, packed=packed)
            if term is None:
                continue
            gate = part.gate_for(term.layers)
            if part.places is not None:
                active = flat.index_select(0, part.places)
                active = term.up.onto(term.down.times(given.index_select(0, part.places), gate), active)
                flat.index_copy_(0, part.places, active)
                continue
            if part.stop - part.start == len(flat):
                flat = term.up.onto(term.down.times(given, gate), flat)
                continue
            mine = flat[part.start : part.stop]
            total = term.up.onto(term.down.times(given[part.start : part.stop], gate), mine)
            if total is not mine:
                mine.copy_(total)
        return flat.view(output.shape)


def _sparse(runs: Sequence[tuple[LoadedAdapter | None, int]]) -> bool:
    """Whether adapters act on few of many tokens, which are those of prompts then."""
    total = sum(count for _, count in runs)
    return total >= SPARSE_TOKENS and 2 * sum(count for owner, count in runs if owner is not None) <= total


def _active_places(start: int, runs: Sequence[tuple[LoadedAdapter | None, int]]) -> torch.Tensor:
    """Where the tokens stand that adapters act on, if the first one stands at `start`."""
    places: list[int] = []
    for owner, count in runs:
        if owner is not None:
            places += range(start, start + count)
        start += count
    return torch.tensor(places, dtype=torch.long)


def _joined(runs: Sequence[tuple[LoadedAdapter | None, int]]) -> list[tuple[LoadedAdapter | None, int]]:
    """Neighbouring runs of the same adapter as one."""
    return [(owner, sum(count for _, count in same)) for owner, same in groupby(runs, key=itemgetter(0))]


def _term(adapters: tuple[LoadedAdapter, ...], layer: RoutedLinear, *, packed: bool) -> _Term | None:
    """Stacks adapters for the layers of one product; None if none of them targets any."""
    stacked = _stacked(adapters, layer)
    if stacked is None:
        return None
    down, up, layers = stacked
    return _Term(Matrix(down, packed=packed), Matrix(up, packed=packed), layers)


def _fused(adapters: tuple[LoadedAdapter, ...], layer: RoutedLinear) -> _Fused | None:
    """Stacks adapters beside the weight of a packed layer; None if none of them targets it."""
    stacked = _stacked(adapters, layer)
    if stacked is None:
        return None
    down, up, layers = stacked
    weight = torch.cat((layer.base.weight, up), dim=1)
    return _Fused(Matrix(down, packed=True), Matrix(weight, packed=True, bias=layer.base.bias), layers)


def _stacked(
    adapters: tuple[LoadedAdapter, ...], layer: RoutedLinear
) -> tuple[torch.Tensor, torch.Tensor, int] | None:
    """All A, all B, and for how many of a product's layers; None if the adapters target none of them."""
    used = [name for name in layer.names if any(name in adapter.pairs for adapter in adapters)]
    if not used:
        return None
    ranks = sum(adapter.rank for adapter in adapters)
    like = next(adapter.pairs[used[0]][0] for adapter in adapters if used[0] in adapter.pairs)
    down = like.new_zeros(len(used) * ranks, like.shape[1])
    up = like.new_zeros(sum(layer.widths), len(down))
    row = 0
    for name in used:
        number = layer.names.index(name)
        first = sum(layer.widths[:number])
        for adapter in adapters:
            if name in adapter.pairs:
                a, b = adapter.pairs[name]
                down[row : row + adapter.rank] = a
                up[first : first + layer.widths[number], row : row + adapter.rank] = b
            row += adapter.rank
    return down, up, len(used)


class RoutedLinear(nn.Module):
    """A linear layer, or several joined, to which a router adds LoRA terms."""

    def __init__(
        self, base: nn.Linear | PackedLinear, names: tuple[str, ...], widths: list[int], router: AdapterRouter
    ) -> None:
        """Wraps `base`, which computes the layers of these names and widths."""
        super().__init__()
        self.base, self.names, self.widths, self.router = base, names, widths, router
        router.layers.append(self)

    @property
    def weight(self) -> torch.Tensor:
        """The base layer's weight; some models read it."""
        return self.base.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps (1, tokens, in) to (1, tokens, out), or batches of one adapter."""
        output: torch.Tensor = self.router.apply(self, inputs) if self.router.parts else self.base(inputs)
        return output


def install_router(model: nn.Module, targets: Sequence[str], router: AdapterRouter) -> None:
    """Replaces the named linear layers, or the products that they are part of, by routed ones, once each."""
    for name in targets:
        module = model.get_submodule(name)
        if isinstance(module, JointPart):
            joint = module.joint
            if not isinstance(joint.product, RoutedLinear):
                joint.product = RoutedLinear(joint.product, joint.names, joint.widths, router)
        elif not isinstance(module, RoutedLinear):
            model.set_submodule(name, RoutedLinear(module, (name,), [module.out_features], router))
