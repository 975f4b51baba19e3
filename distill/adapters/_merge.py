"""Merging adapters of one base: exactly, as the weighted sum of the changes that they make.

Adding up A and B separately is not that: (B1 + B2)(A1 + A2) has terms that mix the two. `cat` puts the
factors side by side; `average` factors the sum anew by its singular values, so the rank is the least that
holds it. What is written is compared with the sum, layer by layer, and read back.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from docendo.checks import is_count, is_number
from docendo.distill.adapters._adapter import CARD, SETTINGS, WEIGHTS, Adapter, opened, require_replaceable
from docendo.distill.adapters._card import model_card
from docendo.distill.adapters._combining import Merged, combine, layer_sums, sum_error, total_norm
from docendo.distill.adapters._descent import merged_lineage, record_merge, require_clean
from docendo.distill.adapters._peft_merge import PREFIX, PRUNING, combinations
from docendo.distill.adapters._weights import LoraWeights, norm, read_weights
from docendo.errors import ConfigError, SilentNoOp
from docendo.files import new_directory, write_json, write_text
from docendo.hashing import digest
from docendo.manifest import write_manifest
from docendo.memory import Database, Taint


def merge_adapters(
    adapters: Sequence[Adapter | str | Path],
    *,
    output: str | Path,
    weights: Sequence[float] | None = None,
    method: str = "cat",
    name: str | None = None,
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
    taint: Iterable[Taint] = (),
    unknown_lineage: bool = False,
    database: Database | None = None,
) -> Adapter:
    """Merges plain LoRA adapters of one base model into one, an ordinary adapter folder.

    The order of the adapters does not matter. The merge's manifest names them ("parents") and the union of
    the turns and posts that they learnt from.

    Args:
        adapters: At least two different adapters, or their folders.
        output: Folder of the merged adapter; an adapter that is there is replaced.
        weights: A number for each; equal ones that sum to 1 by default. Negative ones subtract.
        method: "cat" (the exact sum; the rank is the sum of the ranks), "average" (the exact sum at its least
            rank), or one of PEFT's, such as "peft:ties" (TIES, arXiv 2306.01708) or "peft:dare_linear" (DARE,
            arXiv 2311.03099). PEFT's is used only if it gives back each single adapter at weight 1 and, where
            it promises a weighted sum, that.
        name: Name of the merged adapter; the name of the output folder by default.
        rank: For "average" and PEFT's "svd" methods: keep this many singular values. What is cut off, as a
            share of the sum's norm, is in `metrics["truncation_error"]` ("average" alone).
        density: For PEFT's pruning methods: the share of values to keep, more than 0 and at most 1.
        seed: Seed of PEFT's random pruning.
        taint: Refuse adapters that learnt from what these posts led to (`Blackboard.taint`).
        unknown_lineage: Merge adapters of which some name the turns that they learnt from and others do not.
        database: Refuse adapters that learnt from a post that is quarantined there, and record the merge.

    Returns:
        The merged adapter. Its `metrics` hold `rank`, `delta_norm` and `sum_error`: the distance of what was
        written from the weighted sum, as a share of the sum's norm.

    Raises:
        AdapterError: if one is no plain LoRA or tainted, they belong to different base models, or PEFT's
            method fails its check.
        ConfigError: if an argument cannot be used, or the output folder holds something else.
        SilentNoOp: if the weighted sum is zero, or what was written is not the sum.

    Example:
        >>> merged = merge_adapters(["adapters/long", "adapters/short"], output="adapters/both",
        ...                         weights=[0.5, 0.5])  # doctest: +SKIP
        >>> merged.metrics["sum_error"] < 1e-6  # doctest: +SKIP
        True
    """
    output = Path(output)
    require_replaceable(output)
    given = [opened(one) for one in adapters]
    numbers = _weights(weights, len(given))
    _require_options(method, rank, density, seed)
    # In one order, whatever the caller's: floating-point sums depend on it.
    pairs = sorted(zip(given, numbers, strict=True), key=lambda pair: pair[0].sha256)
    given, numbers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    _require_alike(given)
    lineage = merged_lineage(given, unknown=unknown_lineage)
    require_clean(given, taint, database)
    sources = [read_weights(adapter, purpose="merged") for adapter in given]
    sums = layer_sums(sources, numbers)
    merged = combine(sources, numbers, sums, method=method, rank=rank, density=density, seed=seed)
    combination = {"combination": method, "weights": numbers}
    options = {"rank": rank, "density": density, "seed": seed if method.startswith("peft:dare") else None}
    facts = {
        "format": 1,
        "name": name or output.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": dict(given[0].manifest["base"]),
        "parent": None,
        "parents": [adapter.sha256 for adapter in given],
        "method": {"name": "merge", **combination, **{k: v for k, v in options.items() if v is not None}},
        "config": {
            "lora_r": merged.rank,
            "lora_alpha": merged.rank,
            "target_modules": sorted(merged.layers),
        },
        "metadata": {},
        "data": _data(given),
        "lineage": lineage,
        "metrics": {
            "rank": merged.rank,
            "delta_norm": total_norm(norm(factors) for factors in merged.layers.values()),
            "sum_error": sum_error(sources, numbers, sums, merged, exact=rank is None and ":" not in method),
            **({"truncation_error": merged.cut} if method == "average" else {}),
        },
        "losses": [],
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("docendo", "torch", *(("peft",) if ":" in method else ()))
        },
    }
    with new_directory(output) as folder:
        tensors = {
            f"{PREFIX}{layer}.lora_{side}.weight": factor.float().contiguous()
            for layer, factors in merged.layers.items()
            for side, factor in zip("AB", factors, strict=True)
        }
        _save(tensors, folder / WEIGHTS)
        write_json(folder / SETTINGS, _settings(sources[0], merged))
        write_text(folder / CARD, model_card(facts))
        record_merge(database, given, write_manifest(folder, facts))
    return Adapter.open(output)


def _save(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Writes the weights and reads them back."""
    try:
        save_file(dict(tensors), file, metadata={"format": "pt"})
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{WEIGHTS}: {error}") from error
    found = load_file(file)
    if found.keys() != tensors.keys() or not all(torch.equal(found[key], tensors[key]) for key in tensors):
        raise SilentNoOp(f"The weights written to {WEIGHTS} are not the merged ones; check the disk.")


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if count < 2:
        raise ConfigError(f"{count} adapters are to be merged", expected="at least 2")
    if weights is None:
        return [1.0 / count] * count
    if not isinstance(weights, (list, tuple)) or len(weights) != count:
        raise ConfigError(f"weights is {weights!r}"[:120], expected=f"{count} numbers, one for each adapter")
    for weight in weights:
        if not is_number(weight) or weight == 0:
            raise ConfigError(f"a weight is {weight!r}", expected="finite numbers other than 0")
    return [float(weight) for weight in weights]


def _require_options(method: object, rank: object, density: object, seed: object) -> None:
    known = ("cat", "average", *(f"peft:{one}" for one in combinations()))
    if not isinstance(method, str) or method not in known:
        raise ConfigError(f"method is {method!r}", expected=f"one of {', '.join(known)}")
    if rank is not None and (not is_count(rank) or rank < 1):
        raise ConfigError(f"rank is {rank!r}", expected="at least 1, or None")
    if rank is not None and not (method == "average" or method.endswith("svd")):
        raise ConfigError(
            f"rank is given with method {method!r}", expected='method="average"', remedy="leave it out"
        )
    prunes = method.removeprefix("peft:") in PRUNING
    if prunes and not (is_number(density) and 0 < density <= 1):
        raise ConfigError(
            f"density is {density!r} with method {method!r}", expected="more than 0 and at most 1"
        )
    if density is not None and not prunes:
        raise ConfigError(f"density is given with method {method!r}", remedy="leave it out")
    if not is_count(seed):
        raise ConfigError(f"seed is {seed!r}", expected="a whole number")


def _require_alike(adapters: Sequence[Adapter]) -> None:
    """Checks that they are different adapters of one base model."""
    for adapter in adapters[1:]:
        adapter.require_base(adapters[0].base)
    if len({adapter.sha256 for adapter in adapters}) < len(adapters):
        raise ConfigError(
            "an adapter is merged with itself",
            expected="different adapters",
            remedy="raise its weight instead",
        )


def _data(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Digests of the data that the adapters learnt from, and one of all of them."""
    sources = sorted({adapter.manifest["data"]["digest"] for adapter in adapters})
    return {"digest": digest("merge", sources), "sources": sources}


def _settings(like: LoraWeights, merged: Merged) -> dict[str, Any]:
    """PEFT's settings: like those of a part, but a scaling of 1, and the layers by their full names."""
    return {
        **like.settings,
        "r": merged.rank,
        "lora_alpha": merged.rank,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "eva_config": None,
        "inference_mode": True,
        "target_modules": sorted(merged.layers),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
