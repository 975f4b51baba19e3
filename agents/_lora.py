"""Serving many LoRA adapters (arXiv 2106.09685) on one base, in one batch.

Tokens of a long run, such as a prompt, are served by their adapter alone. Rows that take one step each
are served together: with A = [A1; A2; ...] and B = [B1 | B2 | ...] one product computes all adapters, and
a gate, 1 where a token's adapter owns the rank and 0 elsewhere, keeps every token to its own. So a mixed
batch costs two small products per layer whatever the number of adapters, in any order, where PEFT's
mixed batches loop over the adapters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from docendo.agents._linear import JointPart, Matrix, PackedLinear
from docendo.errors import AdapterError
from docendo.hashing import digest, file_sha256
from docendo.manifest import read_manifest

WEIGHTS = "adapter_model.safetensors"
#: From so many tokens on, an adapter's own small products are cheaper than its share of a stack, and plain
#: products in place cheaper than packed ones.
LONG_RUN = 64
#: Stacks that are kept: the sets of adapters that meet in passes repeat.
MAX_STACKS = 16
#: Beyond any prompt and completion.
NEVER = 1 << 62
#: Layers that take adapters.
Layer = nn.Linear | PackedLinear | JointPart
_PREFIX = "base_model.model."
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


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


def _rank(config: Mapping[str, Any]) -> int:
    """The rank of an adapter.

    Raises:
        ValueError: if it is less than 1.
    """
    rank = int(config["r"])
    if rank < 1:
        raise ValueError(f"r is {rank}; expected at least 1")
    return rank


def read_adapter(name: str, path: Path, model: nn.Module, fingerprint: str) -> LoadedAdapter:
    """Reads a PEFT LoRA folder and checks that it belongs to `model`.

    Raises:
        AdapterError: if files are missing or damaged, the adapter is of a kind that is not served, or it
            was made for another base model.
    """
    config_file, weights_file = path / "adapter_config.json", path / WEIGHTS
    for file in (config_file, weights_file):
        if not file.is_file():
            raise AdapterError(
                f"adapter {path} has no {file.name}", expected="a PEFT folder with safetensors weights"
            )
    manifest = read_manifest(path) if (path / "manifest.json").is_file() else {}
    made_for = manifest.get("base", {}).get("fingerprint")
    if made_for and made_for != fingerprint:
        base = manifest["base"].get("name", made_for[:12])
        raise AdapterError(
            f"adapter {path} was trained on another base model ({base})", remedy=f"load {base} instead"
        )
    try:
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
        rank, alpha = _rank(config), float(config["lora_alpha"])
        tensors = load_file(weights_file)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:  # ValueError: not JSON, not UTF-8
        raise AdapterError(
            f"adapter {path} is damaged: {error}", remedy="publish or download it again"
        ) from error
    _refuse_unserved(path, config)
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    pairs = {}
    # The loop calls the output layer itself, on chosen positions: it cannot be routed.
    output_layer = model.get_output_embeddings()
    modules = {key: module for key, module in model.named_modules() if module is not output_layer}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            if key.endswith(".lora_B.weight"):
                continue
            raise AdapterError(f"adapter {path} holds {key}", expected="LoRA weights of linear layers only")
        target = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        b = tensors.get(key.replace(".lora_A.", ".lora_B."))
        linear = modules.get(target)
        linear = linear.base if isinstance(linear, RoutedLinear) else linear
        if not isinstance(linear, Layer) or b is None:
            raise AdapterError(
                f"adapter {path} targets {target}, which the base model lacks or which is its output layer",
                remedy="use its own base, or train it on inner linear layers",
            )
        if (a.shape[0], b.shape[1]) != (rank, rank) or not (a.isfinite().all() and b.isfinite().all()):
            # A number that is not finite would reach the other rows of a batch: 0 x NaN is NaN.
            raise AdapterError(
                f"adapter {path} is damaged: {target} has rank {a.shape[0]} or numbers that are not finite",
                expected=f"rank {rank} and finite numbers",
                remedy="train it again",
            )
        if (a.shape[1], b.shape[0]) != (linear.in_features, linear.out_features):
            raise AdapterError(
                f"adapter {path} does not fit the base model: {target} maps {a.shape[1]} to {b.shape[0]}",
                expected=f"{linear.in_features} to {linear.out_features}",
                remedy="use the base model it was trained on",
            )
        like = linear.weight if isinstance(linear, nn.Linear) else linear
        pairs[target] = (
            a.to(like.device, like.dtype),
            (b.float() * scaling).to(like.device, like.dtype),
        )
    if not pairs:
        raise AdapterError(f"adapter {path} holds no LoRA weights", expected="lora_A and lora_B tensors")
    sha256 = file_sha256(weights_file)
    invocation = tuple(int(token) for token in config.get("alora_invocation_tokens") or ())
    return LoadedAdapter(
        name=name,
        sha256=sha256,
        key=digest(sha256, scaling, list(invocation)) if invocation else digest(sha256, scaling),
        rank=rank,
        pairs=pairs,
        weights=sum(a.numel() + b.numel() for a, b in pairs.values()),
        invocation=invocation,
    )


def _refuse_unserved(path: Path, config: dict[str, Any]) -> None:
    unserved = {
        "peft_type": config.get("peft_type", "LORA") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "modules_to_save": bool(config.get("modules_to_save")),
        "rank_pattern": bool(config.get("rank_pattern")),
        "alpha_pattern": bool(config.get("alpha_pattern")),
        "bias": config.get("bias", "none") != "none",
        # Others, such as PiSSA, change the base weights as well.
        "init_lora_weights": config.get("init_lora_weights", True) not in _PLAIN_INITS,
    }
    for name, found in unserved.items():
        if found:
            raise AdapterError(
                f"adapter {path} has {name}={config.get(name)!r}",
                expected="a plain LoRA",
                remedy="merge it into a model folder, or train it without",
            )


class _Part(NamedTuple):
    """Tokens `start` to `stop` of a pass, which the same adapters serve.

    Attributes:
        long: Whether there are so many tokens that their weights are better not packed.
        terms: Their terms by layers, as far as they have been needed.
        gate: Which ranks act on which token, (tokens, ranks); None if all do on all.
        gates: The gate for several layers at once, by their number.
    """

    start: int
    stop: int
    adapters: tuple[LoadedAdapter, ...]
    long: bool
    terms: dict[tuple[str, ...], _Term | None]
    gate: torch.Tensor | None
    gates: dict[int, torch.Tensor]

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


class AdapterRouter:
    """Which adapter acts on each token of the next forward pass. Shared by all `RoutedLinear` modules.

    Attributes:
        parts: The parts of the next pass on which adapters act.
    """

    def __init__(self) -> None:
        """Starts with no adapter."""
        self.parts: list[_Part] = []
        self._stacks: dict[tuple[tuple[LoadedAdapter, ...], bool], dict[tuple[str, ...], _Term | None]] = {}

    def route(
        self, runs: Sequence[tuple[LoadedAdapter | None, int]], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Sets the adapters of the next forward pass: which one, None for the base, for how many tokens.

        Long runs are served one by one, each by its adapter alone; short ones together, by a stack.
        """
        self.parts = []
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
            active = {(part.adapters, part.long) for part in self.parts}
            self._stacks = {key: terms for key, terms in self._stacks.items() if key in active}

    def _stack_up(
        self,
        start: int,
        runs: Sequence[tuple[LoadedAdapter | None, int]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        active = tuple(sorted({owner for owner, _ in runs if owner is not None}, key=id))
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
        self._add_part(start, sum(count for _, count in runs), active, gate)

    def _add_part(
        self, start: int, count: int, adapters: tuple[LoadedAdapter, ...], gate: torch.Tensor | None
    ) -> None:
        key = (adapters, count >= LONG_RUN)
        self.parts.append(_Part(start, start + count, *key, self._stacks.setdefault(key, {}), gate, {}))

    def add(self, layer: RoutedLinear, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Adds the adapters' terms to a layer's output, which is overwritten, and returns the sum."""
        flat, given = output.view(-1, output.shape[-1]), inputs.reshape(-1, inputs.shape[-1])
        for part in self.parts:
            if layer.names in part.terms:
                term = part.terms[layer.names]
            else:
                packed = not part.long and isinstance(layer.base, PackedLinear)
                term = part.terms[layer.names] = _term(part.adapters, layer, packed=packed)
            if term is None:
                continue
            gate = part.gate_for(term.layers)
            mine = flat[part.start : part.stop]
            total = term.up.onto(term.down.times(given[part.start : part.stop], gate), mine)
            if total is mine:
                continue
            if len(mine) == len(flat):
                flat = total
            else:
                mine.copy_(total)
        return flat.view(output.shape)


def _joined(runs: Sequence[tuple[LoadedAdapter | None, int]]) -> list[tuple[LoadedAdapter | None, int]]:
    """Neighbouring runs of the same adapter as one."""
    return [(owner, sum(count for _, count in same)) for owner, same in groupby(runs, key=itemgetter(0))]


def _term(adapters: tuple[LoadedAdapter, ...], layer: RoutedLinear, *, packed: bool) -> _Term | None:
    """Stacks adapters for the layers of one product; None if none of them targets any."""
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
    return _Term(Matrix(down, packed=packed), Matrix(up, packed=packed), len(used))


class RoutedLinear(nn.Module):
    """A linear layer, or several joined, to which a router adds LoRA terms."""

    def __init__(
        self, base: nn.Linear | PackedLinear, names: tuple[str, ...], widths: list[int], router: AdapterRouter
    ) -> None:
        """Wraps `base`, which computes the layers of these names and widths."""
        super().__init__()
        self.base, self.names, self.widths, self.router = base, names, widths, router

    @property
    def weight(self) -> torch.Tensor:
        """The base layer's weight; some models read it."""
        return self.base.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps (1, tokens, in) to (1, tokens, out), or batches of one adapter."""
        output: torch.Tensor = self.base(inputs)
        return self.router.add(self, inputs, output) if self.router.parts else output


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
