"""From docendo's settings to those of Transformers, and which of several processes this one is."""

from __future__ import annotations

import dataclasses
import difflib
import os
from typing import Any

import torch
from transformers import TrainingArguments

from docendo.agents._engine import best_dtype
from docendo.distill.training._config import TrainConfig
from docendo.errors import ConfigError


def arguments(config: TrainConfig, total: int, scratch: str) -> dict[str, Any]:
    """The settings as keyword arguments of `transformers.TrainingArguments`.

    Precision and gradient checkpointing follow the hardware: on an accelerator bfloat16, unless the settings
    say float32, and gradient checkpointing (the default of TRL); on processors neither.

    Raises:
        ConfigError: if `TrainConfig.arguments` names one that does not exist.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name in config.arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"arguments.{name} is no argument of transformers.TrainingArguments",
                remedy=f"did you mean {near[0]}" if near else None,
            )
    accelerated = (
        torch.accelerator.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"
    )
    # The old name is an alias that warns.
    recompute = (
        "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    )
    return {
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "bf16": accelerated and config.dtype != "float32" and best_dtype("cuda") is torch.bfloat16,
        "use_cpu": not accelerated,
        # Looking for them takes a pass over the graph at every step, and LoRA weights all take part.
        "ddp_find_unused_parameters": False,
        **({} if "gradient_checkpointing" in config.arguments else {recompute: accelerated}),
        **config.arguments,
        "output_dir": scratch,
        "max_steps": total,
        "learning_rate": config.learning_rate,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "warmup_steps": config.warmup_steps(total),
        "lr_scheduler_type": config.lr_scheduler_type,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def training_arguments(config: TrainConfig, total: int, scratch: str) -> TrainingArguments:
    """`transformers.TrainingArguments` of the settings."""
    return TrainingArguments(**arguments(config, total, scratch))


def processes() -> int:
    """How many processes train together, as their launcher (accelerate, torchrun) says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"
