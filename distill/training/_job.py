"""One training from rows to an adapter folder, whatever the method.

A method says how rows become a trainer; everything else is done here once: what the adapter is made of,
whether there is one already, seeds, progress, the check that something was learnt, and the folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoTokenizer, TrainerCallback

from docendo.agents import models
from docendo.checks import is_number
from docendo.distill.adapters._adapter import CARD, WEIGHTS, Adapter, model_card
from docendo.distill.datasets._lineage import data_digest, lineage, record_dataset
from docendo.distill.training._arguments import arguments, is_first, processes
from docendo.distill.training._arguments import training_arguments as training_arguments
from docendo.distill.training._checkpoints import Checkpoint
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._durable import DurableTrainer
from docendo.distill.training._models import (
    base_name,
    load_peft,
    quiet_libraries,
    require_shape,
    save_peft,
    seeded,
    snapshot,
)
from docendo.distill.training._resume import checkpoints_of, holding, interrupted, keep
from docendo.errors import ConfigError, DataError, ModelFailure, SilentNoOp
from docendo.files import new_directory, require_writable, write_text
from docendo.manifest import MANIFEST, write_manifest
from docendo.memory import Artifacts, Database
from docendo.progress import Progress, progress, say


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What a method builds its trainer from.

    Attributes:
        rows: The rows to learn from.
        config: Settings.
        model: The `PeftModel`, its adapter called "default".
        tokenizer: The base model's tokenizer.
        source: Folder of the base model.
        scratch: Folder for what the trainer writes.
        parent: The adapter that is continued, or None.
    """

    rows: Sequence[Mapping[str, Any]]
    config: TrainConfig
    model: Any
    tokenizer: Any
    source: Path
    scratch: Path
    parent: Adapter | None

    def arguments(self, examples: int) -> dict[str, Any]:
        """Keyword arguments of `transformers.TrainingArguments` (or a subclass) for that many examples."""
        return arguments(self.config, self.config.total_steps(examples, processes()), str(self.scratch))


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A trainer that is ready to run, and what it will learn from.

    Attributes:
        trainer: The trainer, over `Materials.arguments`. Another library's has `DurableTrainer` mixed in.
        probe: Returns logits of a few examples; they must differ after training.
        data: Counts for the manifest: `examples`, `too_long`, `tokens`, `completion_tokens`.
        facts: Further numbers for the adapter's metrics.
        close: Frees what the method opened (an engine), whatever happens.
    """

    trainer: DurableTrainer
    probe: Callable[[], Any]
    data: Mapping[str, int]
    facts: Mapping[str, float] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


class Method(Protocol):
    """How rows become a trainer: supervised training, preferences, rewards."""

    def identity(self) -> Mapping[str, Any]:
        """What makes two trainings by this method the same, as JSON values; `name` among them."""
        ...

    def build(self, materials: Materials) -> Build:
        """Makes the trainer."""
        ...


def run_job(
    model: str | Path,
    dataset: Iterable[Mapping[str, Any]],
    method: Method,
    *,
    output: str | Path,
    config: TrainConfig,
    parent: str | Path | None = None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains an adapter by a method; arguments and errors as in `docendo.distill.train`."""
    output = Path(output)
    name = name or output.name
    source = models.resolve(model)
    fingerprint = models.fingerprint(source)
    rows = [_row(number, row) for number, row in enumerate(dataset)]
    _require_json(metadata or {})
    if not rows:
        raise DataError(
            "the dataset is empty", expected="at least one row", remedy="build it with sft_dataset"
        )
    older = Adapter.open(parent) if parent is not None else None
    if older is not None:
        older.require_base(fingerprint)
        require_shape(older, config)
    identity = {
        "base": {"name": base_name(model), "fingerprint": fingerprint},
        "parent": older.sha256 if older else None,
        "method": dict(method.identity()),
        "config": config.identity(),
    }
    made_of, made_from = data_digest(rows), lineage(rows, older.manifest if older else None)
    kept = checkpoints_of(output, {**identity, "data": made_of}, config)
    identity["metadata"] = dict(metadata or {})
    if resume and (output / MANIFEST).is_file():
        finished = Adapter.open(output)
        # What the rows come from may differ where what they say does not; taint has to know.
        if _same(finished, identity, made_of) and finished.manifest.get("lineage") == made_from:
            if is_first():
                _record(database, rows, finished.manifest)
                kept.clear()  # a process was killed when it had just finished
            return finished
    quiet = quiet or not is_first()
    if is_first():
        require_writable(output)
    with (
        holding(kept, config, resume=resume),
        tempfile.TemporaryDirectory() as scratch,
        seeded(config.seed),
    ):
        checkpoint = kept.newest() if resume else None
        materials = Materials(
            rows=rows,
            config=config,
            model=load_peft(source, config, older),
            tokenizer=AutoTokenizer.from_pretrained(source, trust_remote_code=False),
            source=source,
            scratch=Path(scratch),
            parent=older,
        )
        with quiet_libraries():
            built = method.build(materials)
        try:
            if built.data["too_long"] and not quiet:
                say(
                    f"{built.data['too_long']} of {len(rows)} examples have more than {config.max_length} "
                    "tokens and are left out."
                )
            keep(built.trainer, kept, config)
            trained = _fit(materials.model, built, config, checkpoint, title=f"train {name}", quiet=quiet)
        except KeyboardInterrupt:
            kept.tell(interrupted(built.trainer, kept))
            raise
        finally:
            built.close()
        facts = {
            "format": 1,
            "name": name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **identity,
            "data": {
                "digest": made_of,
                "items": len({row.get("item", index) for index, row in enumerate(rows)}),
                **built.data,
            },
            "lineage": made_from,
            "metrics": {**trained.metrics, **built.facts},
            "losses": trained.losses,
            "versions": {
                package: importlib.metadata.version(package)
                for package in ("docendo", "torch", "transformers", "peft")
            },
        }
        if is_first():
            with new_directory(output) as folder:
                save_peft(materials.model, folder, base_name(model), trained.weights)
                write_text(folder / CARD, model_card(facts))
                _record(database, rows, write_manifest(folder, facts))
            kept.clear()
        built.trainer.accelerator.wait_for_everyone()
    return Adapter.open(output)


def _record(database: Database | None, rows: list[dict[str, Any]], manifest: Mapping[str, Any]) -> None:
    """Records data set and adapter, before anybody can load it."""
    if database is None:
        return
    with database.transaction():
        Artifacts(database).adapter(
            manifest["files"][WEIGHTS],
            dataset=record_dataset(database, rows),
            parent=manifest["parent"],
            name=manifest["name"],
            base=manifest["base"]["fingerprint"],
        )


def _row(number: int, row: object) -> dict[str, Any]:
    """A row of the dataset that its digest can be made of; the method checks the rest."""
    if not isinstance(row, Mapping):
        raise DataError(f"row {number} of the dataset is {row!r}"[:200], expected="a mapping with a prompt")
    weight = row.get("weight", 1.0)
    if not is_number(weight):
        raise DataError(f"row {number} has the weight {weight!r}", expected="a finite number, 0 or more")
    return dict(row)


def _require_json(metadata: Mapping[str, Any]) -> None:
    """Refuses facts that the manifest cannot hold, before the training and not after it."""
    for key, value in metadata.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metadata.{key} is {value!r} ({error})", expected="JSON values") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What a training measured."""

    losses: list[tuple[int, float]]
    metrics: dict[str, float]
    weights: dict[str, Any]


def _fit(
    model: Any,
    built: Build,
    config: TrainConfig,
    checkpoint: Checkpoint | None,
    *,
    title: str,
    quiet: bool,
) -> _Trained:
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
    return _Trained(
        losses=losses,
        weights=after,
        metrics={
            "steps": total,
            "seconds": round(seconds, 3),
            "first_loss": losses[0][1],
            "final_loss": losses[-1][1],
            "delta_norm": change,
            "logit_shift": shift,
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        },
    )


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


def _same(adapter: Adapter, identity: Mapping[str, Any], made_of: str) -> bool:
    kept = adapter.manifest
    wanted = json.loads(json.dumps(identity))
    return kept["data"]["digest"] == made_of and all(kept.get(key) == value for key, value in wanted.items())


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
