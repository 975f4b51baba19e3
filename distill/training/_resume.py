"""Where a training's checkpoints are, who may write them, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docendo.distill.training._arguments import is_first, processes
from docendo.distill.training._checkpoints import Checkpoints
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._durable import DurableTrainer
from docendo.errors import ResumeError
from docendo.progress import say


def checkpoints_of(output: Path, identity: Mapping[str, Any], config: TrainConfig) -> Checkpoints:
    """The checkpoints of the training whose adapter will be at `output`: a folder beside it."""
    return Checkpoints(
        output.with_name(f"{output.name}.checkpoints"),
        {**identity, "processes": processes()},
        keep=config.save_total_limit,
        tell=say if is_first() else lambda line: None,
    )


@contextmanager
def holding(kept: Checkpoints, config: TrainConfig, *, resume: bool) -> Iterator[None]:
    """Holds the folder of the checkpoints while a training runs.

    Raises:
        ResumeError: if there are checkpoints and the training would not go on from them: hours of work are
            neither thrown away nor mixed with others without being asked.
        StorageError: if another process trains into it.
    """
    steps = kept.steps()
    if steps and not resume:
        raise ResumeError(
            f"{kept.folder} holds step {steps[0]} of a training that was interrupted",
            expected="resume=True, to go on from there",
            remedy=f"or remove {kept.folder} to train afresh",
        )
    if is_first() and (steps or config.save_steps != 0):
        with kept.held():
            yield
    else:
        yield


def keep(trainer: DurableTrainer, kept: Checkpoints, config: TrainConfig) -> None:
    """Has the trainer make checkpoints, where it can."""
    if config.save_steps == 0:
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        kept.tell("A sharded training (FSDP, DeepSpeed) makes no checkpoints: it cannot be resumed.")
        return
    trainer.keep_checkpoints(kept, steps=config.save_steps, seconds=config.save_seconds)


def interrupted(trainer: DurableTrainer, kept: Checkpoints) -> str:
    """What is said at Ctrl-C."""
    steps = kept.steps()
    at = f"Interrupted after step {trainer.state.global_step} of {trainer.args.max_steps}"
    if not steps:
        return f"{at}, before the first checkpoint: the same call starts afresh."
    return f"{at}. The same call with resume=True goes on from step {steps[0]}."
