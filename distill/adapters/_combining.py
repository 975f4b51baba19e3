"""The arithmetic of merging: weighted sums of changes, exactly or by one of PEFT's methods, and the check."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from docendo.distill.adapters._peft_merge import peft_layers
from docendo.distill.adapters._weights import (
    Factors,
    LoraWeights,
    distance,
    norm,
    singular,
    weighted_sum,
)
from docendo.errors import AdapterError, SilentNoOp

#: How far an exact merge, written in float32, may be from the sum, as a share of the norms of its terms.
TOLERANCE = 1e-6
#: Singular values below this share of the largest are rounding of float64.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Factors of the merged adapter, all of one rank, and what was cut off."""

    layers: Mapping[str, Factors]
    rank: int
    cut: float = 0.0


def layer_sums(sources: Sequence[LoraWeights], numbers: Sequence[float]) -> dict[str, Factors]:
    """The weighted sum of each layer that any of them changes."""
    shapes: dict[str, tuple[int, int]] = {}
    for source in sources:
        for layer, (a, b) in source.layers.items():
            shape = (b.shape[0], a.shape[1])
            if shapes.setdefault(layer, shape) != shape:
                raise AdapterError(
                    f"adapters differ in the shape of {layer}", expected="adapters of one base model"
                )
    return {
        layer: weighted_sum(
            [
                (weight, source.layers[layer])
                for source, weight in zip(sources, numbers, strict=True)
                if layer in source.layers
            ]
        )
        for layer in sorted(shapes)
    }


def combine(
    sources: Sequence[LoraWeights],
    numbers: Sequence[float],
    sums: Mapping[str, Factors],
    *,
    method: str,
    rank: int | None,
    density: float | None,
    seed: int,
) -> Merged:
    """Merges by a method; the arguments are those of `merge_adapters`, and have been checked."""
    if method == "average":
        return _average(sums, rank)
    layers = (
        sums
        if method == "cat"
        else peft_layers(
            sources,
            numbers,
            sums,
            combination=method.removeprefix("peft:"),
            rank=rank,
            density=density,
            seed=seed,
        )
    )
    return _padded(layers)


def _average(sums: Mapping[str, Factors], rank: int | None) -> Merged:
    """Factors each sum by its singular values, as U sqrt(S) and sqrt(S) V^T."""
    parts = {layer: singular(factors) for layer, factors in sums.items()}
    needed = [int((values > _ROUNDING * values.max()).sum()) for _, values, _ in parts.values()]
    kept = min(max([*needed, 1]), rank or max([*needed, 1]))
    layers, cut, total = {}, 0.0, 0.0
    for layer, (u, values, vt) in parts.items():
        root = values[:kept].sqrt()
        layers[layer] = (root[:, None] * vt[:kept], u[:, :kept] * root)
        cut += float(values[kept:].square().sum())
        total += float(values.square().sum())
    padded = _padded(layers)
    # Exactly 0 if only rounding was cut off.
    error = math.sqrt(cut / total) if total and kept < max(needed) else 0.0
    return Merged(layers=padded.layers, rank=padded.rank, cut=error)


def _padded(layers: Mapping[str, Factors]) -> Merged:
    """All layers at one rank, as PEFT's settings state one: rows and columns of zeros change nothing."""
    rank = max(a.shape[0] for a, _ in layers.values())
    padded = {}
    for layer, (a, b) in layers.items():
        more = rank - a.shape[0]
        padded[layer] = (
            torch.nn.functional.pad(a, (0, 0, 0, more)),
            torch.nn.functional.pad(b, (0, more)),
        )
    return Merged(layers=padded, rank=rank)


def sum_error(
    sources: Sequence[LoraWeights],
    numbers: Sequence[float],
    sums: Mapping[str, Factors],
    merged: Merged,
    *,
    exact: bool,
) -> float:
    """The distance from the weighted sum, as a share of its norm, in the precision that is written.

    Raises:
        SilentNoOp: if the sum is zero, or, where it is exact, the distance is more than rounding.
    """
    written = {layer: (a.float().double(), b.float().double()) for layer, (a, b) in merged.layers.items()}
    errors = {layer: distance(written[layer], sums[layer]) for layer in sums}
    terms = {
        layer: sum(
            abs(weight) * norm(source.layers[layer])
            for source, weight in zip(sources, numbers, strict=True)
            if layer in source.layers
        )
        for layer in sums
    }
    total = total_norm(norm(factors) for factors in sums.values())
    if total <= TOLERANCE * total_norm(terms.values()):
        raise SilentNoOp(
            "The weighted sum of the adapters is zero: they undo each other. Choose other weights."
        )
    wrong = [layer for layer, error in errors.items() if not error <= TOLERANCE * terms[layer]]
    if exact and wrong:
        raise SilentNoOp(
            f"The merged {wrong[0]} is not the weighted sum; check the versions of torch and numpy."
        )
    return total_norm(errors.values()) / total


def total_norm(norms: Iterable[float]) -> float:
    """The norm of all layers together, from theirs."""
    return math.sqrt(sum(one * one for one in norms))
