"""Small trainings that are interrupted and damaged: docendo's, and the same one on other trainers.

All of them adapt the tiny model with LoRA, with dropout, with a data pipeline that draws random numbers, or
with both, and save every few steps, in the middle of epochs as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from docendo.distill import ObjectiveTrainer, TrainConfig, train
from docendo.hashing import file_sha256

ROWS = [
    {"prompt": f"{a} + {b} =", "completion": f" {a + b}.", "item": f"{a}+{b}"}
    for a in range(5)
    for b in range(5)
]
#: What a training has: dropout, a pipeline that draws, both, neither.
VARIANTS = ((0.3, True), (0.0, False), (0.3, False), (0.0, True))
WEIGHTS = "adapter_model.safetensors"


#: Figures of the machine.
_MACHINE = ("seconds", "tokens_per_second", "peak_memory_gb")


def config(*, steps: int, save_steps: int, dropout: float) -> TrainConfig:
    """25 examples in batches of 3, two of them a step: an epoch has 5 steps, the last of one batch."""
    return TrainConfig(
        max_steps=steps,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lora_r=4,
        lora_dropout=dropout,
        dtype="float32",
        save_steps=save_steps,
    )


def docendo_training(
    model: Path,
    folder: Path,
    *,
    steps: int,
    save_steps: int,
    dropout: float,
    noisy: bool,
    resume: bool = True,
) -> dict[str, Any]:
    """Trains, or goes on; returns what an interruption must not change."""
    settings = config(steps=steps, save_steps=save_steps, dropout=dropout)
    with drawing(noisy):
        made = train(model, ROWS, output=folder / "adapter", config=settings, resume=resume, quiet=True)
    manifest = {
        name: value for name, value in made.manifest.items() if name not in ("created", "sha256", "files")
    }
    manifest["metrics"] = {name: value for name, value in made.metrics.items() if name not in _MACHINE}
    return {"weights": made.sha256, "manifest": manifest}


@contextmanager
def drawing(noisy: bool) -> Iterator[None]:
    """Has the collating of batches draw from all generators."""
    collate = ObjectiveTrainer.collate

    def draw(self: Any, examples: Any) -> Any:
        factors = [random.random() + np.random.random() + float(torch.rand(())) for _ in examples]
        return collate(self, [replace(one, weight=f) for one, f in zip(examples, factors, strict=True)])

    if noisy:
        ObjectiveTrainer.collate = draw  # type: ignore[method-assign]
    try:
        yield
    finally:
        ObjectiveTrainer.collate = collate  # type: ignore[method-assign]


# --- the same on other trainers -----------------------------------------------------------------------


def examples(model: Path) -> list[dict[str, list[int]]]:
    """The rows as token ids, all of one length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = [tokenizer(row["prompt"] + row["completion"])["input_ids"] for row in ROWS]
    short = min(map(len, ids))
    return [{"input_ids": one[:short], "labels": one[:short]} for one in ids]


def other_training(
    library: str, model: Path, folder: Path, *, steps: int, save_steps: int, dropout: float, noisy: bool
) -> str:
    """Trains with "transformers" or "trl"; goes on from the newest checkpoint if there is one."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_utils import get_last_checkpoint

    checkpoints = folder / "checkpoints"
    options: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "max_steps": steps,
        "save_steps": save_steps,
        "save_total_limit": 2,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": steps,
    }
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    settings = LoraConfig(
        r=4, lora_alpha=32, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = _builders()[library](
        get_peft_model(base, settings), options, examples(model), model, AutoTokenizer
    )
    if noisy:
        collate = trainer.data_collator

        def draw(rows: Any) -> Any:
            batch = collate(rows)
            batch["labels"] = batch["labels"].masked_fill(torch.rand(batch["labels"].shape) < 0.3, -100)
            return batch

        trainer.data_collator = draw
    found = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=found)
    trainer.model.save_pretrained(folder / "adapter")
    return file_sha256(folder / "adapter" / WEIGHTS)


def _builders() -> dict[str, Callable[..., Any]]:
    def transformers(peft: Any, options: Any, rows: Any, model: Path, tokenizers: Any) -> Any:
        from transformers import Trainer, TrainingArguments, default_data_collator

        arguments = TrainingArguments(**options)
        return Trainer(peft, arguments, train_dataset=rows, data_collator=default_data_collator)

    def trl(peft: Any, options: Any, rows: Any, model: Path, tokenizers: Any) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(**options, gradient_checkpointing=False, bf16=False)
        return SFTTrainer(
            peft,
            args=arguments,
            train_dataset=Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows]),
            processing_class=tokenizers.from_pretrained(model),
        )

    return {"transformers": transformers, "trl": trl}
