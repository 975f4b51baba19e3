"""P8: LoRA training on chat completions; reference: TRL's `SFTTrainer` with its default batching.

Both train the same 512 examples with the same LoRA settings, precision of the base,
attention kernel, optimiser and batch size; the rates count tokens of the examples, never padding.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from typing import Any

import torch
from _harness import Arm, Bar, Options, Part, against, alternate, ratios
from _training import Clock, chats
from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer, PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from docendo.agents import models
from docendo.distill import Encoded, ObjectiveTrainer, TrainConfig, encode
from docendo.distill.training._arguments import training_arguments
from docendo.distill.training._kernels import speed_up
from docendo.distill.training._models import load_peft


def docendo_trainer(model: Any, examples: list[Encoded], config: TrainConfig, folder: str) -> Any:
    """As `docendo.distill.train` makes it."""
    speed_up(model)
    settings = training_arguments(config, config.max_steps, folder)
    return ObjectiveTrainer(model, settings, train_dataset=examples)


def trl_trainer(
    model: Any, examples: list[Encoded], config: TrainConfig, folder: str, tokenizer: Any, *, grouped: bool
) -> Any:
    """TRL with batches at random or grouped by length; no gradient checkpointing: it only costs time."""
    rows = [
        {
            "input_ids": [*example.prompt, *example.completion],
            "completion_mask": [0] * len(example.prompt) + [1] * len(example.completion),
        }
        for example in examples
    ]
    settings = SFTConfig(
        folder,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        per_device_train_batch_size=config.per_device_train_batch_size,
        seed=config.seed,
        completion_only_loss=True,
        optim="adamw_torch_fused",
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        train_sampling_strategy="group_by_length" if grouped else "random",
    )
    return SFTTrainer(model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def run(arm: str, source: Any, examples: list[Encoded], tokenizer: Any, *, steps: int, seed: int) -> Any:
    """Trains one arm; returns its rates and the loss of the untrained model on 16 fixed examples."""
    config = TrainConfig(max_steps=steps, seed=seed, dtype="bfloat16", warmup_ratio=0.0)
    torch.manual_seed(0)
    model = load_peft(source, config, None)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        if arm.startswith("trl"):
            trainer = trl_trainer(
                model, examples, config, folder, tokenizer, grouped=arm == "trl, grouped by length"
            )
            collate = trainer.data_collator
            rows = list(trainer.train_dataset.select(range(16)))
            trainer.data_collator = clock.counting(collate)
        else:
            trainer = docendo_trainer(model, examples, config, folder)
            trainer.forward.share = trainer.forward.share and arm == "docendo"
            collate = trainer.collate
            rows = examples[:16]
            trainer.collate = clock.counting(collate)
        with torch.no_grad():
            loss = trainer.compute_loss(model, collate(rows)).item()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
    return *clock.rates(), loss


def measure(options: Options) -> Bar:
    """Trains with both in turn, from the same weights and on the same batches."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    warnings.simplefilter("ignore")
    source = models.resolve(options.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    examples, _ = encode(chats(options.size(512, 32)), tokenizer)
    steps = options.size(8, 2)
    processor: dict[str, list[float]] = {
        "docendo": [],
        "trl": [],
        "trl, grouped by length": [],
        "docendo, prefixes not shared": [],
    }
    losses: dict[str, float] = {}

    def arm(name: str) -> Arm:
        def train(number: int) -> float:
            if number < 0:
                return 0.0  # every run's first step is its own warm-up
            wall, spent, loss = run(name, source, examples, tokenizer, steps=steps, seed=number)
            processor[name].append(spent)
            losses.setdefault(name, round(loss, 4))
            return 1 / wall

        return train

    ours, theirs, grouped, apart = processor
    costs = alternate(
        {ours: arm(ours), theirs: arm(theirs), grouped: arm(grouped)},
        rounds=options.rounds(),
        rare={apart: arm(apart)} if options.peers else {},
    )
    lengths = [len(example) for example in examples]
    return Bar(
        name="P8",
        parts=[
            Part(name="over its default batching", target=3.0, ratios=ratios(costs[theirs], costs[ours])),
            Part(
                name="over batches grouped by length", target=1.9, ratios=ratios(costs[grouped], costs[ours])
            ),
        ],
        peers=against(costs, theirs, [apart] if options.peers else []),
        detail={
            "tokens_per_second": {name: [round(1 / cost) for cost in row] for name, row in costs.items()},
            "processor_time_ratio": round(statistics.median(ratios(processor[ours], processor[theirs])), 2),
            "first_loss": losses,
            "steps": steps,
            "tokens": {"least": min(lengths), "most": max(lengths), "sum": sum(lengths)},
            "dtype": "torch.bfloat16",
        },
    )
