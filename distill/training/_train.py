"""`train`: from a dataset to an adapter that is known to have learnt something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, TrainingArguments

from docendo.agents import models
from docendo.agents._templates import completion_ids
from docendo.checks import short
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.objectives._objective import Objective
from docendo.distill.objectives._token import CrossEntropy, require_columns, require_stored
from docendo.distill.training._batches import Encoded, encode
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._fit import probe_logits
from docendo.distill.training._job import run_job
from docendo.distill.training._kernels import speed_up
from docendo.distill.training._live import load_teacher, require_vocabulary
from docendo.distill.training._method import Build, Materials
from docendo.distill.training._packing import pad
from docendo.distill.training._teachers import StoredTeacher
from docendo.distill.training._trainer import ObjectiveTrainer, needs_teacher
from docendo.errors import ConfigError, DataError
from docendo.memory import Database

_DEFAULTS = TrainConfig()


def train(
    model: str | Path,
    dataset: Iterable[Mapping[str, Any]],
    *,
    output: str | Path,
    config: TrainConfig = _DEFAULTS,
    objective: Objective | None = None,
    teacher: str | Path | StoredTeacher | None = None,
    teacher_adapter: str | Path | None = None,
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
        objective: What is minimised: `CrossEntropy()` by default, `KL()`, `DCO()`, `ALM()`, or a sum such as
            `0.5 * CrossEntropy() + KL()`.
        teacher: For objectives that need one: a model with the same tokenizer (catalogue name, folder or hub
            id), which then runs beside the student, or a `StoredTeacher`, which is not run again.
        teacher_adapter: A LoRA adapter of a live teacher.
        parent: Adapter folder to continue from, or None to start afresh.
        name: Name of the adapter; the name of the output folder by default.
        metadata: Facts of yours to keep in the manifest, as JSON values.
        resume: Go on from the newest checkpoint of a training that was interrupted, to the same adapter bit
            for bit; return the adapter at `output` if it was made from the same model, data, settings and
            parent. Checkpoints lie in `<output>.checkpoints` until the adapter is published.
        database: Where to record data set and adapter before the folder appears, so that `Blackboard.taint`
            finds them. The manifest names the turns and posts of the data in any case.
        quiet: Print no progress.

    Returns:
        The adapter.

    Raises:
        ConfigError: if there is a teacher that the objective never asks, or an adapter of none.
        DataError: if the dataset is empty or malformed, or the teacher has another vocabulary.
        AdapterError: if `parent` belongs to another base model or has another shape.
        ModelFailure: if the loss is not finite.
        SilentNoOp: if training changed no weight or no prediction, or what was saved is not what was trained.
        ResumeError: if checkpoints belong to another training, or there are some and `resume` is not given.
        StorageError: if `output` cannot be written, or another process trains into it.

    Example:
        >>> from docendo.distill import train, TrainConfig
        >>> rows = [{"prompt": [{"role": "user", "content": "2 + 3"}],
        ...          "completion": [{"role": "assistant", "content": "5"}]}]
        >>> adapter = train("smollm2-135m-instruct", rows, output="adapters/sum",
        ...                 config=TrainConfig(max_steps=10))  # doctest: +SKIP
    """
    objective = objective or CrossEntropy()
    _require_asked(objective, teacher, teacher_adapter)
    return run_job(
        model,
        dataset,
        _Supervised(objective=objective, teacher=teacher, teacher_adapter=teacher_adapter),
        output=output,
        config=config,
        parent=parent,
        name=name,
        metadata=metadata,
        resume=resume,
        database=database,
        quiet=quiet,
    )


def _require_asked(objective: Objective, teacher: Any, adapter: Any) -> None:
    """Refuses a teacher, or an adapter of one, that would change nothing, or cannot say what is asked."""
    if teacher is not None and not any(needs_teacher(term) for _, term in objective.terms):
        names = " and ".join(term.name for _, term in objective.terms)
        raise ConfigError(
            f"there is a teacher, and {names} never asks it",
            expected="an objective that learns from one, such as KL()",
            remedy="add one, or leave the teacher out",
        )
    if isinstance(teacher, StoredTeacher):
        require_stored(objective)
    if adapter is not None and (teacher is None or isinstance(teacher, StoredTeacher)):
        raise ConfigError(
            f"teacher_adapter is {str(adapter)!r} and there is no live teacher",
            expected="the model it was trained on as the teacher",
            remedy="give a stored teacher's to store_teacher",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Supervised:
    """Training on the completions of rows, by one objective."""

    objective: Objective
    teacher: str | Path | StoredTeacher | None
    teacher_adapter: str | Path | None

    def identity(self) -> Mapping[str, Any]:
        return {"name": "sft", "objective": self.objective.identity(), "teacher": self._teacher_identity()}

    def _teacher_identity(self) -> Mapping[str, Any] | None:
        if self.teacher is None:
            return None
        if isinstance(self.teacher, StoredTeacher):
            return {"stored": self.teacher.manifest["sha256"]}
        adapter = Adapter.open(self.teacher_adapter).sha256 if self.teacher_adapter is not None else None
        return {"model": models.fingerprint(models.resolve(self.teacher)), "adapter": adapter}

    def build(self, materials: Materials) -> Build:
        config = materials.config
        if isinstance(self.teacher, StoredTeacher):
            # Before the examples are read: with other tokens it would know none of them.
            self.teacher.require_vocabulary(materials.tokenizer)
        examples, too_long = encode(
            materials.rows,
            materials.tokenizer,
            max_length=config.max_length,
            extend=partial(self._extend, materials.tokenizer),
        )
        teacher = self._live(materials)
        settings = TrainingArguments(**materials.arguments(len(examples)))
        trainer = ObjectiveTrainer(
            materials.model,
            settings,
            train_dataset=examples,
            objective=self.objective,
            teacher=teacher,
        )
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
            models=[] if teacher is None else [teacher],
        )

    def _live(self, materials: Materials) -> Any:
        """The live teacher, or None."""
        if self.teacher is None or isinstance(self.teacher, StoredTeacher):
            return None
        source = models.resolve(self.teacher)
        theirs = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        require_vocabulary(theirs, materials.tokenizer, str(self.teacher))
        adapter = Adapter.open(self.teacher_adapter) if self.teacher_adapter is not None else None
        return load_teacher(source, adapter, materials.config.dtype)

    def _extend(self, tokenizer: Any, row: Mapping[str, Any], example: Encoded) -> Encoded:
        """Adds what the terms and the stored teacher say of an example."""
        columns: dict[str, Any] = {}
        if isinstance(self.teacher, StoredTeacher):
            columns |= self.teacher.columns(example)
        for _, term in self.objective.terms:
            columns |= term.encode(row, example.completion, tokenizer)
        require_columns(columns, example.completion, row.get("item", ""))
        positives, negatives = (
            tuple(tuple(completion_ids(tokenizer, text)) for text in _texts(row, name))
            for name in ("positives", "negatives")
        )
        return replace(example, columns=columns, positives=positives, negatives=negatives)


def _texts(row: Mapping[str, Any], name: str) -> list[str]:
    """The texts of the answers in a column.

    Raises:
        DataError: if one is neither a text nor one assistant message.
    """
    answers = row.get(name) or []
    found = [_text(answer) for answer in answers] if isinstance(answers, (list, tuple)) else [None]
    texts = [text for text in found if text is not None]
    if len(texts) < len(found):
        raise DataError(
            f"the row of item {row.get('item', '')!r} has the {name} {short(answers)}",
            expected="a list of answers, each a text or one assistant message",
        )
    return texts


def _text(answer: Any) -> str | None:
    if isinstance(answer, (list, tuple)) and len(answer) == 1 and isinstance(answer[0], Mapping):
        answer = answer[0].get("content")
    return answer if isinstance(answer, str) else None
