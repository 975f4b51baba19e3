"""PEFT folders with random weights, as training would leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _work import load_reference


def save_adapters(
    model: str, folder: Path, names: Sequence[str], *, rank: int = 16, invocation: Sequence[int] | None = None
) -> dict[str, Path]:
    """Saves LoRAs on all linear layers; with `invocation` tokens they are activated LoRAs (aLoRA)."""
    import torch
    from peft import LoraConfig, get_peft_model

    saved = {}
    for seed, name in enumerate(names):
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            **({"alora_invocation_tokens": list(invocation)} if invocation else {}),
        )
        peft = get_peft_model(load_reference(model, torch.float32), config)
        torch.manual_seed(seed)
        for key, parameter in peft.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.01)
        saved[name] = folder / name
        peft.save_pretrained(saved[name])
    return saved


def load_peft(model: str, dtype: Any, adapters: dict[str, Path], *, wide: bool) -> Any:
    """A PEFT model with all adapters; `wide` keeps them in float32, as PEFT does if it is not told."""
    from peft import PeftModel

    folders = iter(adapters.items())
    name, folder = next(folders)
    base = load_reference(model, dtype)
    peft = PeftModel.from_pretrained(base, folder, adapter_name=name, autocast_adapter_dtype=wide)
    for name, folder in folders:
        peft.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=wide)
    return peft.eval()
