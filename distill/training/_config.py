"""Settings of one LoRA training, with the source of each default."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError
from docendo.records import Record

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Dtype = Literal["auto", "bfloat16", "float32"]

_OWN = {
    "output_dir": "train(output=...)",
    "max_steps": "max_steps",
    "num_train_epochs": "num_train_epochs",
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "per_device_train_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "auto_find_batch_size": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "warmup_ratio": "warmup_ratio",
    "warmup_steps": "warmup_ratio",
    "lr_scheduler_type": "lr_scheduler_type",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "seed": "seed",
    "data_seed": "seed",
    "save_strategy": "save_steps",
    "save_steps": "save_steps",
    "save_total_limit": "save_total_limit",
    "save_only_model": "save_steps",
    "load_best_model_at_end": None,
    "resume_from_checkpoint": "train(resume=True)",
    "ignore_data_skip": None,
    "dataloader_persistent_workers": None,
    "logging_strategy": None,
    "logging_steps": None,
    "logging_first_step": None,
    "logging_nan_inf_filter": None,
    "disable_tqdm": "train(quiet=True)",
}
"""Names of `transformers.TrainingArguments` that are settings of docendo's, and which."""
_NO_EFFECT = ("save_steps", "save_seconds", "save_total_limit")
_REPORTING = ("report_to", "run_name", "logging_dir", "log_level")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Record):
    """How an adapter is trained. Names follow `transformers.TrainingArguments` and `peft.LoraConfig`.

    Attributes:
        learning_rate: Peak rate of AdamW. 1e-3 suits LoRA on models of 0.1 to 1 B parameters (measured
            with SmolLM2-135M; LoRA wants about ten times the rate of full fine-tuning).
        max_steps: Optimiser steps, or -1 to count by `num_train_epochs` (the default of Transformers).
        num_train_epochs: Passes over the data if `max_steps` is -1 (3: the default of Transformers and TRL).
        per_device_train_batch_size: Examples per forward pass (16: fills two cores with short chats).
        gradient_accumulation_steps: Forward passes per optimiser step; the loss is the mean over all
            completion tokens of the step, so 2 x 8 examples train like 1 x 16.
        warmup_ratio: Share of the steps in which the rate rises (0.05: Alpaca-LoRA's 100 of some 2,000).
        lr_scheduler_type: How the rate falls after the warm-up (linear: the default of Transformers).
        weight_decay: AdamW's decay of the LoRA weights (0: the default of Transformers).
        max_grad_norm: Gradients are clipped to this norm (1: the default of Transformers).
        seed: Seed of the LoRA initialisation, the batch order and dropout.
        lora_r: Rank (16: TRL's `ModelConfig`).
        lora_alpha: Scale; the update is multiplied by `lora_alpha / lora_r` (32: TRL's `ModelConfig`).
        lora_dropout: Dropout before the LoRA branch (0: keeps the fast path and bit-equal repeats).
        target_modules: Names of the layers to adapt, or "all-linear" (the QLoRA paper, arXiv 2305.14314).
        dtype: Precision of the frozen base. "auto" is bfloat16 where the processor multiplies it natively
            and float32 elsewhere. LoRA weights and optimiser are float32 always.
        max_length: Examples with more tokens are left out and counted (1,024: TRL's `SFTConfig`).
        save_steps: Optimiser steps between checkpoints; None saves by the clock, 0 never.
        save_seconds: Seconds between checkpoints by the clock (60: what an interruption may cost). Saving
            takes 1 % of the time at most; where it is slow, it becomes rarer.
        save_total_limit: Checkpoints that are kept (2: one to fall back to).
        arguments: Further `transformers.TrainingArguments` by name, as JSON values: `fsdp`, `deepspeed`,
            `bf16`, `gradient_checkpointing`, `optim`, `report_to` and so on. Those not named are chosen by
            the hardware, or are the defaults of Transformers.
    """

    learning_rate: float = 1e-3
    max_steps: int = -1
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    warmup_ratio: float = 0.05
    lr_scheduler_type: Schedule = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    dtype: Dtype = "auto"
    max_length: int = 1024
    save_steps: int | None = None
    save_seconds: float = 60.0
    save_total_limit: int = 2
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks ranges, so that a bad value fails before a model is loaded."""
        modules: object = self.target_modules
        if not isinstance(modules, str) and isinstance(modules, Iterable):
            object.__setattr__(self, "target_modules", tuple(modules))
        checks = (
            ("learning_rate", _at_least(self.learning_rate, 0), "0 or more"),
            ("max_steps", _whole(self.max_steps, 1) or self.max_steps == -1, "at least 1, or -1 for epochs"),
            (
                "num_train_epochs",
                is_number(self.num_train_epochs) and (self.max_steps > 0 or self.num_train_epochs > 0),
                "more than 0",
            ),
            ("per_device_train_batch_size", _whole(self.per_device_train_batch_size, 1), "at least 1"),
            ("gradient_accumulation_steps", _whole(self.gradient_accumulation_steps, 1), "at least 1"),
            (
                "warmup_ratio",
                _at_least(self.warmup_ratio, 0) and self.warmup_ratio < 1,
                "0 or more, less than 1",
            ),
            (
                "lr_scheduler_type",
                self.lr_scheduler_type in get_args(Schedule),
                ", ".join(get_args(Schedule)),
            ),
            ("weight_decay", _at_least(self.weight_decay, 0), "0 or more"),
            ("max_grad_norm", _at_least(self.max_grad_norm, 0) and self.max_grad_norm > 0, "more than 0"),
            ("seed", is_count(self.seed), "a whole number"),
            ("lora_r", _whole(self.lora_r, 1), "at least 1"),
            ("lora_alpha", _at_least(self.lora_alpha, 0) and self.lora_alpha > 0, "more than 0"),
            (
                "lora_dropout",
                _at_least(self.lora_dropout, 0) and self.lora_dropout < 1,
                "0 or more, less than 1",
            ),
            (
                "target_modules",
                bool(modules) and isinstance(modules, Iterable),
                "layer names or 'all-linear'",
            ),
            ("dtype", self.dtype in get_args(Dtype), ", ".join(get_args(Dtype))),
            ("max_length", _whole(self.max_length, 2), "at least 2"),
            ("save_steps", self.save_steps is None or _whole(self.save_steps, 0), "None, or 0 or more"),
            ("save_seconds", _at_least(self.save_seconds, 0), "0 or more"),
            ("save_total_limit", _whole(self.save_total_limit, 1), "at least 1"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", expected=expected)
        _require_arguments(self.arguments)

    def identity(self) -> dict[str, Any]:
        """What of the settings makes two trainings the same: all but when checkpoints and reports are made.

        Example:
            >>> TrainConfig(save_steps=10).identity() == TrainConfig().identity()
            True
        """
        found = {name: value for name, value in self.to_json().items() if name not in _NO_EFFECT}
        further = {name: value for name, value in found.pop("arguments").items() if name not in _REPORTING}
        return {**found, "arguments": further} if further else found

    def total_steps(self, examples: int, processes: int = 1) -> int:
        """Number of optimiser steps for that many examples."""
        if self.max_steps > 0:
            return self.max_steps
        batches = math.ceil(examples / (self.per_device_train_batch_size * processes))
        return math.ceil(self.num_train_epochs * math.ceil(batches / self.gradient_accumulation_steps))

    def warmup_steps(self, total: int) -> int:
        """Number of warm-up steps among `total`; never all, because the first has a rate of 0."""
        return min(math.ceil(self.warmup_ratio * total), total - 1)


def require_batch_size(batch_size: Any) -> None:
    """Refuses anything but a whole number of examples, 1 or more."""
    if not _whole(batch_size, 1):
        raise ConfigError(f"batch_size is {batch_size!r}", expected="a whole number, 1 or more")


def _whole(value: Any, least: int) -> bool:
    return is_count(value) and value >= least


def _at_least(value: Any, least: float) -> bool:
    return is_number(value) and value >= least


def _require_arguments(given: Any) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"arguments is {given!r}", expected="TrainingArguments by name")
    for name, value in given.items():
        if name in _OWN:
            raise ConfigError(
                f"arguments.{name} is set by docendo",
                remedy=f"use {_OWN[name]}" if _OWN[name] else "leave it out",
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"arguments.{name} is {value!r} ({error})", expected="JSON values") from None
