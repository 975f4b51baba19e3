"""`train`: from a dataset to an adapter that is known to have learnt something."""

from __future__ import annotations

import importlib.metadata
import json
import math
import random
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments

from docendo.agents import models
from docendo.agents._engine import best_dtype
from docendo.checks import is_number
from docendo.distill._adapter import CARD, SETTINGS, WEIGHTS, Adapter, model_card
from docendo.distill._batches import Encoded, encode, pad
from docendo.distill._config import TrainConfig
from docendo.distill._kernels import speed_up
from docendo.distill._lineage import data_digest, lineage, record_dataset
from docendo.distill._trainer import ObjectiveTrainer
from docendo.errors import AdapterError, ConfigError, DataError, ModelFailure, ModelNotFound, SilentNoOp
from docendo.files import new_directory, require_writable, write_text
from docendo.manifest import MANIFEST, write_manifest
from docendo.memory import Artifacts, Database
from docendo.progress import Progress, progress, say

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
        _require_shape(older, config)
    identity = {
        "base": {"name": _base_name(model), "fingerprint": fingerprint},
        "parent": older.sha256 if older else None,
        "config": config.to_json(),
        "metadata": dict(metadata or {}),
    }
    made_of, made_from = data_digest(rows), lineage(rows, older.manifest if older else None)
    if resume and (output / MANIFEST).is_file():
        finished = Adapter.open(output)
        # What the rows come from may differ where what they say does not; taint has to know.
        if _same(finished, identity, made_of) and finished.manifest.get("lineage") == made_from:
            _record(database, rows, finished.manifest)
            return finished
    require_writable(output)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    examples, too_long = encode(rows, tokenizer, max_length=config.max_length)
    if too_long and not quiet:
        say(f"{too_long} of {len(rows)} examples have more than {config.max_length} tokens and are left out.")
    with _seeded(config.seed):
        peft_model = _load(source, config, older)
        trained = _fit(peft_model, examples, config, title=f"train {name}", quiet=quiet)
    facts = {
        "format": 1,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **identity,
        "data": {
            "digest": made_of,
            "examples": len(examples),
            "too_long": too_long,
            "items": len({row.get("item", index) for index, row in enumerate(rows)}),
            "tokens": sum(len(example) for example in examples),
            "completion_tokens": sum(len(example.completion) for example in examples),
        },
        "lineage": made_from,
        "metrics": trained.metrics,
        "losses": trained.losses,
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("docendo", "torch", "transformers", "peft")
        },
    }
    with new_directory(output) as folder:
        _save(peft_model, folder, _base_name(model))
        write_text(folder / CARD, model_card(facts))
        _record(database, rows, write_manifest(folder, facts))
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
    """A row of the dataset that its digest can be made of; `encode` checks the rest."""
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


class _Trained:
    """What a training measured."""

    def __init__(self, losses: list[tuple[int, float]], metrics: dict[str, float]) -> None:
        self.losses, self.metrics = losses, metrics


def _fit(
    model: Any, examples: Sequence[Encoded], config: TrainConfig, *, title: str, quiet: bool
) -> _Trained:
    """Trains and makes sure that it had an effect."""
    batches = math.ceil(len(examples) / config.per_device_train_batch_size)
    per_epoch = math.ceil(batches / config.gradient_accumulation_steps)
    total = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * per_epoch)
    probe = pad(examples[:2])
    with tempfile.TemporaryDirectory() as scratch, _quiet_libraries():
        trainer = ObjectiveTrainer(model, _arguments(config, total, scratch), train_dataset=examples)
        kernels = speed_up(model)
        # With the kernels of training on both sides: other rounding would look like an effect.
        before, logits = _snapshot(model), _probe(trainer, probe)
        with progress(title, total, quiet=quiet) as bar:
            watch = _Watch(bar)
            trainer.add_callback(watch)
            start = time.monotonic()
            trainer.train()
            seconds = time.monotonic() - start
        change = _change(before, _snapshot(model))
        shift = float((_probe(trainer, probe) - logits).abs().max())
    if not math.isfinite(change) or not math.isfinite(shift):
        raise ModelFailure("The trained weights are not finite; lower the learning rate.")
    if change == 0.0 or shift == 0.0:
        what = "no LoRA weight" if change == 0.0 else "no prediction"
        raise SilentNoOp(
            f"Training changed {what} in {total} steps at learning rate {config.learning_rate:g}; "
            "raise the rate or the steps, or check target_modules."
        )
    losses = [loss for _, loss in watch.losses]
    return _Trained(
        watch.losses,
        {
            "steps": total,
            "seconds": round(seconds, 3),
            "first_loss": losses[0],
            "final_loss": losses[-1],
            "delta_norm": change,
            "logit_shift": shift,
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "packed": int(trainer.packed),
            "fast_lora_layers": kernels["lora"],
        },
    )


class _Watch(TrainerCallback):
    """Keeps the losses, stops at the first that is not finite, moves the progress bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.losses = bar, list[tuple[int, float]]()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss) or not math.isfinite(float(logs.get("grad_norm", 0.0))):
            raise ModelFailure(
                f"Loss {loss} or its gradient is not finite at step {state.global_step}; "
                "lower the learning rate or check the data."
            )
        self.losses.append((state.global_step, loss))
        self.bar.advance(1, f"loss {loss:.3f}")


def _arguments(config: TrainConfig, total: int, scratch: str) -> TrainingArguments:
    return TrainingArguments(
        scratch,
        max_steps=total,
        learning_rate=config.learning_rate,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        warmup_steps=config.warmup_steps(total),
        lr_scheduler_type=config.lr_scheduler_type,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        optim="adamw_torch_fused",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        use_cpu=True,
    )


def _load(source: Path, config: TrainConfig, older: Adapter | None) -> Any:
    """The frozen base with one trainable adapter called "default"."""
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(config.dtype) or best_dtype()
    with _quiet_libraries():
        try:
            base = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelNotFound(f"cannot load {source}: {str(error).splitlines()[0]}") from error
        if older is not None:
            try:
                return PeftModel.from_pretrained(base, str(older.path), is_trainable=True)
            except SafetensorError as error:
                raise AdapterError(
                    f"{older.path / WEIGHTS} holds no safetensors ({error})", remedy="train it again"
                ) from error
        modules = (
            config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
        )
        settings = LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=modules,
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(base, settings)
        except ValueError as error:
            raise AdapterError(
                f"target_modules {modules!r} match no layer of {source.name}", remedy="use 'all-linear'"
            ) from error


def _save(model: Any, folder: Path, base_name: str) -> None:
    """Writes the PEFT files and reads the weights back."""
    expected = {key: value.clone() for key, value in _snapshot(model).items()}
    # The recorded base is a name, never a path of this machine.
    model.peft_config["default"].base_model_name_or_path = base_name
    try:
        with _quiet_libraries():
            model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{WEIGHTS}: {error}") from error
    found = load_file(folder / WEIGHTS)
    kept = {key.replace(".default.weight", ".weight"): value for key, value in expected.items()}
    if found.keys() != kept.keys() or not all(torch.equal(found[key], kept[key]) for key in kept):
        raise SilentNoOp(
            f"The weights written to {WEIGHTS} are not the trained ones; check the version of peft."
        )


def _snapshot(model: Any) -> dict[str, Any]:
    return {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    return math.sqrt(
        sum(float((after[key] - value).double().square().sum()) for key, value in before.items())
    )


def _probe(trainer: ObjectiveTrainer, batch: Mapping[str, Any]) -> Any:
    training = trainer.base.training
    trainer.base.eval()
    with torch.no_grad():
        logits = trainer.logits(dict(batch)).float()
    trainer.base.train(training)
    return logits


def _same(adapter: Adapter, identity: Mapping[str, Any], data_digest: str) -> bool:
    kept = adapter.manifest
    wanted = json.loads(json.dumps(identity))
    return kept["data"]["digest"] == data_digest and all(
        kept.get(key) == value for key, value in wanted.items()
    )


def _require_shape(older: Adapter, config: TrainConfig) -> None:
    settings = json.loads((older.path / SETTINGS).read_text(encoding="utf-8"))
    for ours, theirs in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
        if settings.get(theirs) != getattr(config, ours):
            raise AdapterError(
                f"parent {older.name!r} has {ours} {settings.get(theirs)}",
                expected=f"{getattr(config, ours)} as in the settings",
                remedy=f"set {ours}={settings.get(theirs)}",
            )


def _base_name(model: str | Path) -> str:
    path = Path(model)
    return path.name if path.is_dir() else str(model)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators inside and restores them, because Transformers seeds them anyway."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps progress bars and deprecation notes of the libraries off the user's terminal."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
