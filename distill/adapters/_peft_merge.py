"""PEFT's own ways to combine adapters, used only where they pass a numerical check.

Some give silently wrong adapters, for instance with rsLoRA, whose scaling the combined adapter applies once
more. So each adapter is first combined alone with weight 1, which must give it back; and a method that
promises the weighted sum must give that, when it prunes nothing. The base model is not needed: layers of its
shapes without memory stand for it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from docendo.distill.adapters._weights import Factors, LoraWeights, distance, norm
from docendo.errors import AdapterError, ConfigError

PREFIX = "base_model.model."
#: Methods that drop a share of the values.
PRUNING = (
    "ties",
    "ties_svd",
    "dare_ties",
    "dare_linear",
    "dare_ties_svd",
    "dare_linear_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
)
#: Methods whose result, when nothing is pruned, is the weighted sum of the changes.
_SUMS = ("cat", "svd", "dare_linear_svd", "magnitude_prune_svd")
#: PEFT computes in float32.
_TOLERANCE = 1e-5


def combinations() -> tuple[str, ...]:
    """The methods of `peft.LoraModel.add_weighted_adapter`."""
    return ("cat", "linear", "svd", *PRUNING)


def peft_layers(
    sources: Sequence[LoraWeights],
    numbers: Sequence[float],
    sums: Mapping[str, Factors],
    *,
    combination: str,
    rank: int | None,
    density: float | None,
    seed: int,
) -> dict[str, Factors]:
    """Combines adapters by a method of PEFT's; returns the factors of each layer.

    Raises:
        AdapterError: if a single adapter does not come back, or a promised sum is not kept.
        ConfigError: if PEFT refuses the adapters.
    """
    # PEFT draws from the global generator.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        model, every = _model(sources), range(len(sources))
        for number, source in enumerate(sources):
            alone = _combined(model, [number], [1.0], combination, rank=source.rank, density=1.0, seed=seed)
            _require_equal(
                alone, source.layers, combination, f"{source.adapter.name!r} alone, with weight 1,"
            )
        # Without a rank of its own PEFT cuts the sum to the largest rank of a part.
        full = sum(source.rank for source in sources)
        if combination in _SUMS:
            whole = _combined(model, every, numbers, combination, rank=full, density=1.0, seed=seed)
            _require_equal(whole, sums, combination, "the weighted sum")
        return _combined(model, every, numbers, combination, rank=rank or full, density=density, seed=seed)


def _model(sources: Sequence[LoraWeights]) -> Any:
    """A PEFT model of the adapters, called "0", "1" and so on, on layers that hold no memory."""
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    base = nn.Module()
    for source in sources:
        for layer, (a, b) in source.layers.items():
            _place(base, layer, a.shape[1], b.shape[0])
    model: Any = None
    for number, source in enumerate(sources):
        settings = source.settings
        config = LoraConfig(
            r=source.rank,
            lora_alpha=settings["lora_alpha"],
            use_rslora=bool(settings.get("use_rslora")),
            target_modules=sorted(source.layers),
        )
        if model is None:
            model = PeftModel(base, config, adapter_name="0")
        else:
            model.add_adapter(str(number), config)
        tensors = {
            f"{PREFIX}{layer}.lora_{side}.weight": factor.float()
            for layer, (a, b) in source.layers.items()
            for side, factor in (("A", a), ("B", b / source.scaling))
        }
        set_peft_model_state_dict(model, tensors, adapter_name=str(number))
    return model


def _place(root: nn.Module, name: str, inputs: int, outputs: int) -> None:
    """Puts a linear layer at a dotted name; its weight is one number, seen as a whole matrix."""
    *folders, last = name.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = root.get_submodule(folder)
    if hasattr(root, last):
        return
    layer = nn.Linear(1, 1, bias=False)
    layer.in_features, layer.out_features = inputs, outputs
    layer.weight = nn.Parameter(torch.zeros(()).expand(outputs, inputs), requires_grad=False)
    root.add_module(last, layer)


def _combined(
    model: Any,
    numbers: Sequence[int],
    weights: Sequence[float],
    combination: str,
    *,
    rank: int,
    density: float | None,
    seed: int,
) -> dict[str, Factors]:
    """What PEFT would serve: the factors of each layer, with the scaling that its layers apply."""
    name = "combined"
    svd = {"svd_rank": rank, "svd_full_matrices": False} if combination.endswith("svd") else {}
    pruning = {"density": density} if combination in PRUNING else {}
    try:
        torch.manual_seed(seed)
        model.base_model.add_weighted_adapter(
            [str(number) for number in numbers],
            list(weights),
            name,
            combination_type=combination,
            **svd,
            **pruning,
        )
    except ValueError as error:
        raise ConfigError(f"peft refuses {combination!r}: {str(error).splitlines()[0]}") from error
    try:
        return {
            layer.removeprefix(PREFIX): (
                module.lora_A[name].weight.detach().double().clone(),
                module.scaling[name] * module.lora_B[name].weight.detach().double(),
            )
            for layer, module in model.named_modules()
            if name in getattr(module, "lora_A", ())
        }
    finally:
        model.delete_adapter(name)


def _require_equal(
    found: Mapping[str, Factors], expected: Mapping[str, Factors], combination: str, what: str
) -> None:
    """Compares changes layer by layer; layers that only `found` has must not change anything."""
    error = math.sqrt(
        sum(
            (distance(factors, expected[layer]) if layer in expected else norm(factors)) ** 2
            for layer, factors in found.items()
        )
    )
    size = math.sqrt(sum(norm(factors) ** 2 for factors in expected.values()))
    if not expected.keys() <= found.keys() or not error <= _TOLERANCE * size:
        share = "all" if not size else f"{100 * error / size:.3g} %"
        raise AdapterError(
            f"peft's {combination!r} does not give {what} back: the change is off by {share}",
            expected="an exact copy",
            remedy='use method="cat" or "average", which are exact',
        )
