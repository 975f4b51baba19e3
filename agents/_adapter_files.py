"""Reading LoRA adapters (arXiv 2106.09685) from PEFT folders, and refusing what the engine cannot serve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from docendo.agents._lora import Layer, LoadedAdapter, RoutedLinear
from docendo.errors import AdapterError
from docendo.hashing import digest, file_sha256
from docendo.manifest import read_manifest

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


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
