"""P8: LoRA training on chat completions, against TRL's `SFTTrainer` with its default batching.

Prints one JSON line. Both train the same 512 examples with the same LoRA settings, precision of the base,
attention kernel, optimiser and batch size; the rates count tokens of the examples, never padding.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
import warnings
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.simplefilter("ignore")

import torch  # noqa: E402
from datasets import Dataset, disable_progress_bars  # noqa: E402
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback  # noqa: E402
from transformers.utils import logging  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from docendo.agents import models  # noqa: E402
from docendo.distill import Encoded, ObjectiveTrainer, TrainConfig, encode  # noqa: E402
from docendo.distill._kernels import speed_up  # noqa: E402
from docendo.distill._train import _arguments, _load  # noqa: E402

WORDS = (
    "the",
    "cat",
    "dog",
    "river",
    "house",
    "stone",
    "green",
    "quick",
    "slow",
    "runs",
    "reads",
    "near",
    "far",
)


def chats(count: int) -> list[dict[str, Any]]:
    """Questions of 2 to 60 words and answers of 2 to 48, so that examples have about 32 to 138 tokens."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        question = " ".join(rng.choices(WORDS, k=rng.randint(2, 60)))
        answer = " ".join(rng.choices(WORDS, k=rng.randint(2, 48)))
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
        )
    return rows


class Clock(TrainerCallback):
    """Counts tokens and times the steps; the first step is warm-up."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Notes when a step ended."""
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())

    def counting(self, collate: Any) -> Any:
        """Returns `collate` with a count of the tokens it is given."""

        def counted(batch: Any) -> Any:
            self.tokens.append(
                sum(len(one["input_ids"]) if isinstance(one, dict) else len(one) for one in batch)
            )
            return collate(batch)

        return counted

    def rates(self) -> tuple[float, float]:
        """Tokens per wall second and per processor second after the first step."""
        tokens = sum(self.tokens[1 : len(self.wall)])
        return tokens / (self.wall[-1] - self.wall[0]), tokens / (self.processor[-1] - self.processor[0])


def docendo_trainer(
    model: Any, examples: list[Encoded], config: TrainConfig, folder: str, share: bool
) -> Any:
    """As `docendo.distill.train` makes it."""
    speed_up(model)
    settings = _arguments(config, config.max_steps, folder)
    trainer = ObjectiveTrainer(model, settings, train_dataset=examples)
    trainer.share = share
    return trainer


def trl_trainer(model: Any, examples: list[Encoded], config: TrainConfig, folder: str, tokenizer: Any) -> Any:
    """TRL with its default batching, and without gradient checkpointing, which only costs time here."""
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
    )
    return SFTTrainer(model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def run(arm: str, source: Any, examples: list[Encoded], tokenizer: Any, *, steps: int, seed: int) -> Any:
    """Trains one arm; returns its rates and the loss of the untrained model on 16 fixed examples."""
    config = TrainConfig(max_steps=steps, seed=seed, dtype="bfloat16", warmup_ratio=0.0)
    torch.manual_seed(0)
    model = _load(source, config, None)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        if arm == "trl":
            trainer = trl_trainer(model, examples, config, folder, tokenizer)
            collate = trainer.data_collator
            rows = list(trainer.train_dataset.select(range(16)))
            trainer.data_collator = clock.counting(collate)
        else:
            trainer = docendo_trainer(model, examples, config, folder, arm != "unshared")
            collate = trainer.collate
            rows = examples[:16]
            trainer.collate = clock.counting(collate)
        with torch.no_grad():
            loss = trainer.compute_loss(model, collate(rows)).item()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
    return *clock.rates(), loss


def main() -> None:
    """Runs alternating rounds and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--unshared", action="store_true", help="compute common prefixes once per example")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    source = models.resolve(options.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    examples, _ = encode(chats(512), tokenizer)
    arms = {"trl": [], "unshared" if options.unshared else "docendo": []}
    for pair in range(options.pairs):
        for arm, results in arms.items():
            results.append(run(arm, source, examples, tokenizer, steps=options.steps, seed=pair))
    theirs, ours = arms.values()
    wall, processor = (
        [mine[kind] / other[kind] for mine, other in zip(ours, theirs, strict=True)] for kind in (0, 1)
    )
    lengths = [len(example) for example in examples]
    value = statistics.median(wall)
    detail = {
        "ratios": [round(ratio, 2) for ratio in wall],
        "processor_time_ratio": round(statistics.median(processor), 2),
        "docendo_tokens_per_second": [round(result[0]) for result in ours],
        "trl_tokens_per_second": [round(result[0]) for result in theirs],
        "first_loss": {"docendo": round(ours[0][2], 4), "trl": round(theirs[0][2], 4)},
        "pairs": options.pairs,
        "steps": options.steps,
        "tokens": {"least": min(lengths), "most": max(lengths), "sum": sum(lengths)},
        "shared_prefixes": not options.unshared,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(
        json.dumps(
            {"bar": "P8", "value": round(value, 2), "target": 3.0, "pass": value >= 3, "detail": detail}
        )
    )


if __name__ == "__main__":
    main()
