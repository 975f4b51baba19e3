"""`train`: from a dataset to an adapter that is known to have learnt something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from docendo.distill.adapters._adapter import Adapter
from docendo.distill.training._batches import encode, pad
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._job import Build, Materials, probe_logits, run_job, training_arguments
from docendo.distill.training._kernels import speed_up
from docendo.distill.training._trainer import ObjectiveTrainer
from docendo.memory import Database

_DEFAULTS = TrainConfig()


def train(
    model: str | Path,
    dataset: Iterable[Mapping[str, Any]],
    *,
    output: str | Path,
    config: TrainConfig = _DEFAULTS,
    parent: str | Path | None = None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains a LoRA adapter on the completions of chat examples and saves it as a PEFT folder.

    The folder appears at `output` when everything has been checked, and not before: an interrupted
    training leaves nothing, or the older adapter, there. Nothing is sent anywhere. The same model, data
    and settings give the same adapter on the same machine.

    Args:
        model: Folder, catalogue name or hub id of the base model. It stays as it is.
        dataset: Rows as from `sft_dataset`: `prompt`, `completion` and optionally `weight` and `item`.
        output: Folder of the new adapter; an adapter that is there is replaced.
        config: Settings.
        parent: Adapter folder to continue from, or None to start afresh.
        name: Name of the adapter; the name of the output folder by default.
        metadata: Facts of yours to keep in the manifest, as JSON values.
        resume: Return the adapter at `output` if it was made from the same model, data, settings and
            parent, instead of training it again.
        database: Where to record data set and adapter before the folder appears, so that `Blackboard.taint`
            finds them. The manifest names the turns and posts of the data in any case.
        quiet: Print no progress.

    Returns:
        The adapter.

    Raises:
        DataError: if the dataset is empty or malformed.
        AdapterError: if `parent` belongs to another base model or has another shape.
        ModelFailure: if the loss is not finite.
        SilentNoOp: if training changed no weight or no prediction, or what was saved is not what was trained.
        StorageError: if `output` cannot be written.

    Example:
        >>> from docendo.distill import train, TrainConfig
        >>> rows = [{"prompt": [{"role": "user", "content": "2 + 3"}],
        ...          "completion": [{"role": "assistant", "content": "5"}]}]
        >>> adapter = train("smollm2-135m-instruct", rows, output="adapters/sum",
        ...                 config=TrainConfig(max_steps=10))  # doctest: +SKIP
    """
    return run_job(
        model,
        dataset,
        _Supervised(),
        output=output,
        config=config,
        parent=parent,
        name=name,
        metadata=metadata,
        resume=resume,
        database=database,
        quiet=quiet,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Supervised:
    """Training on the completions of rows, by one objective."""

    def identity(self) -> Mapping[str, Any]:
        return {"name": "sft"}

    def build(self, materials: Materials) -> Build:
        config = materials.config
        examples, too_long = encode(materials.rows, materials.tokenizer, max_length=config.max_length)
        settings = training_arguments(config, config.total_steps(len(examples)), str(materials.scratch))
        trainer = ObjectiveTrainer(materials.model, settings, train_dataset=examples)
        # Before the probe: other rounding would look like an effect.
        kernels = speed_up(materials.model)
        return Build(
            trainer=trainer,
            probe=partial(probe_logits, trainer.base, pad(examples[:2])),
            data={
                "examples": len(examples),
                "too_long": too_long,
                "tokens": sum(len(example) for example in examples),
                "completion_tokens": sum(len(example.completion) for example in examples),
            },
            facts={"packed": int(trainer.packed), "fast_lora_layers": kernels["lora"]},
        )
