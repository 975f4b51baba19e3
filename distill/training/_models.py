"""The frozen base with its trainable adapter: loading, seeding, and writing what PEFT loads again."""

from __future__ import annotations

import ctypes
import json
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from docendo.agents._engine import best_dtype
from docendo.distill.adapters._adapter import SETTINGS, WEIGHTS, Adapter
from docendo.distill.training._config import TrainConfig
from docendo.errors import AdapterError, ModelNotFound, SilentNoOp
from docendo.progress import quiet_libraries


def load_base(source: Path, config: TrainConfig) -> Any:
    """The frozen base model in the precision of the settings."""
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(config.dtype) or best_dtype()
    with quiet_libraries():
        try:
            return AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelNotFound(f"cannot load {source}: {str(error).splitlines()[0]}") from error


def load_peft(source: Path, config: TrainConfig, older: Adapter | None) -> Any:
    """The frozen base with one trainable adapter called "default"."""
    base = load_base(source, config)
    with quiet_libraries():
        if older is not None:
            try:
                return PeftModel.from_pretrained(base, str(older.path), is_trainable=True)
            except SafetensorError as error:
                raise AdapterError(
                    f"{older.path / WEIGHTS} holds no safetensors ({error})", remedy="train it again"
                ) from error
        modules = (
            config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
        )
        settings = LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=modules,
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(base, settings)
        except ValueError as error:
            raise AdapterError(
                f"target_modules {modules!r} match no layer of {source.name}", remedy="use 'all-linear'"
            ) from error


def save_peft(model: Any, folder: Path, base_name: str, expected: Mapping[str, Any]) -> None:
    """Writes the PEFT files and reads the weights back; they have to be those of the `snapshot` given."""
    # The recorded base is a name, never a path of this machine.
    model.peft_config["default"].base_model_name_or_path = base_name
    try:
        with quiet_libraries():
            whole = {"state_dict": dict(expected)} if _is_sharded(model) else {}
            model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, **whole)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{WEIGHTS}: {error}") from error
    found = load_file(folder / WEIGHTS)
    kept = {key.replace(".default.weight", ".weight"): value for key, value in expected.items()}
    if found.keys() != kept.keys() or not all(torch.equal(found[key], kept[key]) for key in kept):
        raise SilentNoOp(
            f"The weights written to {WEIGHTS} are not the trained ones; check the version of peft."
        )


#: Where a trainer keeps layers that are trained along and are no part of the adapter.
HEADS = "objective_heads"


def snapshot(model: Any) -> dict[str, Any]:
    """Copies of the adapter's weights on the CPU; where they are sharded, all processes must ask at once."""
    return {
        key: _whole(p.detach())
        for key, p in model.named_parameters()
        if p.requires_grad and not key.startswith(f"{HEADS}.")
    }


def _whole(tensor: Any) -> Any:
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", copy=True)


def _is_sharded(model: Any) -> bool:
    """Whether processes hold the weights in parts (FSDP)."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def require_shape(older: Adapter, config: TrainConfig) -> None:
    settings = json.loads((older.path / SETTINGS).read_text(encoding="utf-8"))
    for ours, theirs in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
        if settings.get(theirs) != getattr(config, ours):
            raise AdapterError(
                f"parent {older.name!r} has {ours} {settings.get(theirs)}",
                expected=f"{getattr(config, ours)} as in the settings",
                remedy=f"set {ours}={settings.get(theirs)}",
            )


def base_name(model: str | Path) -> str:
    path = Path(model)
    return path.name if path.is_dir() else str(model)


@contextmanager
def released() -> Iterator[list[Any]]:
    """Empties the models that were put into the list, and gives memory back to the system.

    A trainer, its callbacks and layers whose forward was replaced refer to each other, so that weights would
    stay until Python looks for cycles, which takes long in a process that serves as well; and glibc keeps
    what was freed in pieces.
    """
    held: list[Any] = []
    try:
        yield held
    finally:
        with torch.no_grad():
            for model in held:
                for tensor in (*model.parameters(), *model.buffers()):
                    tensor.grad = None
                    tensor.data = tensor.data.new_empty(0)
        _trim()


def _trim() -> None:
    """Has glibc return what is free; other allocators do so themselves, or have no such call."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators inside and restores them, because Transformers seeds them anyway."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
