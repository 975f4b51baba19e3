"""P9: distillation from a teacher's stored log-probabilities; reference: the teacher run beside the student.

Teacher and student are the same base, the teacher with an adapter of its own, and both arms minimise the same
divergence over the same batches of P8's conversations. The time to store once is not in the ratio but in the
detail: it is what one epoch of the live teacher costs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _harness import Arm, Bar, Options, Part, alternate, ratios
from _training import Clock, chats
from datasets import disable_progress_bars
from transformers import AutoTokenizer
from transformers.utils import logging

from docendo.agents import models
from docendo.distill import KL, Adapter, Encoded, ObjectiveTrainer, TrainConfig, encode, store_teacher, train
from docendo.distill.training._arguments import training_arguments
from docendo.distill.training._kernels import speed_up
from docendo.distill.training._live import load_teacher
from docendo.distill.training._models import load_peft
from docendo.distill.training._teachers import StoredTeacher


def run(examples: list[Encoded], source: Path, teacher: Any, *, steps: int, seed: int) -> tuple[float, float]:
    """Seconds a step after the first, and the loss of the first."""
    config = TrainConfig(max_steps=steps, seed=seed, dtype="bfloat16", warmup_ratio=0.0)
    torch.manual_seed(0)
    model = load_peft(source, config, None)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = ObjectiveTrainer(
            model,
            training_arguments(config, steps, folder),
            train_dataset=examples,
            objective=KL(),
            teacher=teacher,
        )
        speed_up(model)
        trainer.add_callback(clock)
        trainer.train()
    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return (clock.wall[-1] - clock.wall[0]) / (steps - 1), first


def measure(options: Options) -> Bar:
    """Trains with both in turn, from the same weights and on the same batches."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    warnings.simplefilter("ignore")
    source = models.resolve(options.model)
    rows, steps = chats(options.size(512, 32)), options.size(8, 2)
    plain, _ = encode(rows, AutoTokenizer.from_pretrained(source))
    losses: dict[str, list[float]] = {"stored": [], "live": []}
    with tempfile.TemporaryDirectory() as folder:
        adapter = train(
            source, rows[:16], output=Path(folder, "teacher"), config=TrainConfig(max_steps=3), quiet=True
        )
        start = time.monotonic()
        stored = store_teacher(
            source, rows, output=Path(folder, "stored"), adapter=adapter.path, dtype="bfloat16", quiet=True
        )
        storing = time.monotonic() - start
        size = sum(file.stat().st_size for file in stored.path.rglob("*") if file.is_file())
        told = _told(stored, plain)
        live = load_teacher(source, Adapter.open(adapter.path), "bfloat16")

        def arm(name: str) -> Arm:
            def once(number: int) -> float:
                if number < 0:
                    return 0.0  # every run's first step is its own warm-up
                examples, teacher = (told, None) if name == "stored" else (plain, live)
                cost, first = run(examples, source, teacher, steps=steps, seed=number)
                losses[name].append(first)
                return cost

            return once

        costs = alternate({name: arm(name) for name in losses}, rounds=options.rounds())
    return Bar(
        name="P9",
        parts=[
            Part(name="steps per second", target=1.5, ratios=ratios(costs["live"], costs["stored"])),
        ],
        detail={
            "seconds_a_step": {name: [round(cost, 3) for cost in row] for name, row in costs.items()},
            "first_loss": {name: [round(loss, 5) for loss in row] for name, row in losses.items()},
            "top": stored.top,
            "mass": round(stored.mass, 5),
            "bytes_a_label": round(size / stored.manifest["labels"]),
            "seconds_to_store": round(storing, 1),
            "seconds_of_a_live_epoch": round(statistics.median(costs["live"]) * len(rows) / 16, 1),
            "dtype": "torch.bfloat16",
        },
    )


def _told(stored: StoredTeacher, examples: list[Encoded]) -> list[Encoded]:
    """The examples with what the teacher says of them."""
    return [replace(example, columns=stored.columns(example)) for example in examples]
