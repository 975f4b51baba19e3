"""The training itself, and the check that it had an effect."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from docendo.checks import is_number
from docendo.distill.training._checkpoints import Checkpoint
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._durable import MEMORY
from docendo.distill.training._method import Build
from docendo.distill.training._models import snapshot
from docendo.errors import ModelFailure, SilentNoOp
from docendo.progress import Progress, progress, quiet_libraries

SPEED = "tokens_per_second"

_APART = ("loss", "step", "epoch", "learning_rate", SPEED, MEMORY)
"""What is logged of a step and is kept elsewhere, or depends on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training measured.

    Attributes:
        losses: Step and loss.
        curves: Step and value of whatever else was logged of the steps, by name.
        metrics: Figures of the whole.
        weights: The adapter's weights.
    """

    losses: list[tuple[int, float]]
    curves: dict[str, list[tuple[int, float]]]
    metrics: dict[str, float]
    weights: dict[str, Any]


def fit(
    model: Any,
    built: Build,
    config: TrainConfig,
    checkpoint: Checkpoint | None,
    *,
    title: str,
    quiet: bool,
) -> Trained:
    """Trains and makes sure that it had an effect."""
    trainer, total = built.trainer, int(built.trainer.args.max_steps)
    with quiet_libraries():
        before, logits = snapshot(model), built.probe()
        with progress(title, total, quiet=quiet) as bar:
            trainer.add_callback(_Watch(bar))
            if checkpoint is not None:
                bar.advance(checkpoint.step, "resumed")
            trainer.go_on(checkpoint)
            seconds = trainer.seconds
        after = snapshot(model)
        change = _change(before, after)
        shift = float((built.probe() - logits).abs().max())
    if not math.isfinite(change) or not math.isfinite(shift):
        raise ModelFailure("The trained weights are not finite; lower the learning rate.")
    if change == 0.0 or shift == 0.0:
        what = "no LoRA weight" if change == 0.0 else "no prediction"
        raise SilentNoOp(
            f"Training changed {what} in {total} steps at learning rate {config.learning_rate:g}; "
            "raise the rate or the steps, or check target_modules."
        )
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in history]
    speeds = [entry[SPEED] for entry in history if SPEED in entry]
    return Trained(
        losses=losses,
        curves=_curves(history),
        weights=after,
        metrics={
            "steps": total,
            "seconds": round(seconds, 3),
            "first_loss": losses[0][1],
            "final_loss": losses[-1][1],
            "delta_norm": change,
            "logit_shift": shift,
            "trainable_parameters": sum(weight.numel() for weight in after.values()),
            "peak_memory_gb": round(max(entry.get(MEMORY, 0.0) for entry in history), 3),
            **({SPEED: round(statistics.fmean(speeds), 1)} if speeds else {}),
            **_last(trainer.state.log_history, built.watched),
        },
    )


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """What else was logged of the steps, by name: terms of the loss, shares of the gradient, rewards."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name not in _APART and is_number(value):
                curves.setdefault(name, []).append((int(entry["step"]), float(value)))
    return curves


def _last(history: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """The last logged values of some names. The history is in every checkpoint, so no kill loses them."""
    found: dict[str, float] = {}
    for entry in history:
        found |= {name: float(entry[name]) for name in names if is_number(entry.get(name))}
    return found


class _Watch(TrainerCallback):
    """Stops at the first loss that is not finite, moves the progress bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss) or not math.isfinite(float(logs.get("grad_norm", 0.0))):
            raise ModelFailure(
                f"Loss {loss} or its gradient is not finite at step {state.global_step}; "
                "lower the learning rate or check the data."
            )
        self.bar.advance(1, f"loss {loss:.3f}")


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    return math.sqrt(
        sum(float((after[key] - value).double().square().sum()) for key, value in before.items())
    )


def probe_logits(model: Any, batch: Mapping[str, Any]) -> Any:
    """Logits of the labels of a padded batch, by the model's own forward pass without dropout."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=batch["attention_mask"].to(model.device),
                use_cache=False,
            ).logits.cpu()
            return output.flatten(0, 1).index_select(0, batch["sources"]).float()
    finally:
        model.train(training)
