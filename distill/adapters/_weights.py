"""The factors of LoRA adapters (arXiv 2106.09685), and exact arithmetic on the changes they make.

An adapter changes a layer's weight by scaling x B A, with A of shape (rank, in) and B of shape (out, rank). A
sum of such changes is again a product of two factors, [s1 B1 | s2 B2] and [A1; A2]. Norms, inner products and
singular values of a product follow from matrices of the size of the ranks: the change itself, of shape
(out, in), is never formed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from docendo.checks import is_count, is_number
from docendo.distill.adapters._adapter import SETTINGS, WEIGHTS, Adapter, opened
from docendo.distill.adapters._store import settings_of
from docendo.errors import AdapterError

#: A and B of one layer in float64; the scaling is part of B.
Factors = tuple[torch.Tensor, torch.Tensor]

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
#: Settings that do not change what scaling x B A says, and those that are read here.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
#: Ways to begin that leave the base as it is; others, such as PiSSA, change its weights as well.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoraWeights:
    """A plain LoRA adapter in memory.

    Attributes:
        adapter: The adapter.
        settings: Its PEFT settings.
        rank: Its rank.
        scaling: `lora_alpha / r`, or `lora_alpha / sqrt(r)` with rsLoRA (arXiv 2312.03732).
        layers: A and B of each layer, the scaling in B.
    """

    adapter: Adapter
    settings: Mapping[str, Any]
    rank: int
    scaling: float
    layers: Mapping[str, Factors]


def read_weights(adapter: Adapter, *, purpose: str) -> LoraWeights:
    """Reads an adapter after checking its files.

    Args:
        adapter: The adapter.
        purpose: What it is read for, such as "merged"; for messages.

    Raises:
        AdapterError: if it is no plain LoRA (DoRA, trained biases, whole modules, ranks that differ by layer,
            changed base weights), or damaged.
        IntegrityError: if a file does not match the manifest.
    """
    adapter = opened(adapter)
    settings = settings_of(adapter)
    _require_plain(adapter, settings, purpose)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not is_count(rank) or rank < 1 or not is_number(alpha):
        raise AdapterError(
            f"{adapter.path / SETTINGS} has r {rank!r} and lora_alpha {alpha!r}",
            expected="a whole number and a number",
        )
    scaling = float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    try:
        tensors = load_file(adapter.path / WEIGHTS)
    except SafetensorError as error:
        raise AdapterError(f"{adapter.path / WEIGHTS} holds no safetensors ({error})") from error
    layers = _pairs(adapter, tensors, int(rank), purpose)
    return LoraWeights(
        adapter=adapter,
        settings=settings,
        rank=int(rank),
        scaling=scaling,
        layers={name: (a.double(), scaling * b.double()) for name, (a, b) in layers.items()},
    )


def _require_plain(adapter: Adapter, settings: Mapping[str, Any], purpose: str) -> None:
    found = [
        key
        for key, value in sorted(settings.items())
        if key not in _HARMLESS and value and not (key == "bias" and value == "none")
    ]
    if settings.get("init_lora_weights", True) not in _PLAIN_INITS:
        found.append("init_lora_weights")
    if settings.get("peft_type", "LORA") != "LORA":
        found.append("peft_type")
    if found:
        raise AdapterError(
            f"adapter {adapter.name!r} has {found[0]}={settings[found[0]]!r}, so it cannot be {purpose}",
            expected="a plain LoRA, which changes weights by scaling x B A and nothing else",
            remedy="train it without",
        )


def _pairs(
    adapter: Adapter, tensors: Mapping[str, torch.Tensor], rank: int, purpose: str
) -> dict[str, Factors]:
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        match = _KEY.fullmatch(key)
        if match is None or tensor.ndim != 2:
            raise AdapterError(
                f"adapter {adapter.name!r} holds {key}, so it cannot be {purpose}",
                expected="LoRA weights of linear layers only",
            )
        if not tensor.isfinite().all():
            raise AdapterError(f"adapter {adapter.name!r} has numbers in {key} that are not finite")
        sides.setdefault(match[1], {})[match[2]] = tensor
    if not sides:
        raise AdapterError(f"adapter {adapter.name!r} holds no LoRA weights")
    for name, side in sides.items():
        if side.keys() != {"A", "B"} or side["A"].shape[0] != rank or side["B"].shape[1] != rank:
            shapes = {key: tuple(value.shape) for key, value in side.items()}
            raise AdapterError(
                f"adapter {adapter.name!r} is damaged: {name} has {shapes}",
                expected=f"A and B of rank {rank}",
            )
    return {name: (side["A"], side["B"]) for name, side in sides.items()}


def weighted_sum(parts: list[tuple[float, Factors]]) -> Factors:
    """The factors of a weighted sum of changes of one layer; its rank is the sum of the ranks."""
    return (
        torch.cat([a for _, (a, _) in parts], dim=0),
        torch.cat([weight * b for weight, (_, b) in parts], dim=1),
    )


def inner(left: Factors, right: Factors) -> float:
    """The inner product of two changes: tr((B1 A1)^T B2 A2) = the sum of (B1^T B2) * (A1 A2^T)."""
    (a, b), (c, d) = left, right
    return float(((b.T @ d) * (a @ c.T)).sum())


def norm(factors: Factors) -> float:
    """The Frobenius norm of a change."""
    return float(torch.linalg.matrix_norm(_core(factors)))


def distance(left: Factors, right: Factors) -> float:
    """The Frobenius norm of the difference of two changes.

    From the factors of the difference, not from norms and inner products, in which the digits of two changes
    that are nearly equal would cancel.
    """
    return norm(weighted_sum([(1.0, left), (-1.0, right)]))


def singular(factors: Factors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The thin singular value decomposition of a change: U (out, k), the values (k), V^T (k, in).

    k is the least of in, out and the rank of the factors.
    """
    a, b = factors
    left, upper = torch.linalg.qr(b)
    right, lower = torch.linalg.qr(a.T)
    u, values, vt = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ u, values, vt @ right.T


def _core(factors: Factors) -> torch.Tensor:
    """A small matrix with the singular values of the change: that of two triangles."""
    a, b = factors
    _, upper = torch.linalg.qr(b, mode="r")
    _, lower = torch.linalg.qr(a.T, mode="r")
    return upper @ lower.T
