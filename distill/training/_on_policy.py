"""`distill_on_policy`: the student answers, and the teacher says at every token what it would have said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from docendo.agents import models
from docendo.checks import is_count, is_number
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.training._arguments import processes
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._job import run_job
from docendo.distill.training._live import load_teacher, require_vocabulary
from docendo.distill.training._method import Build, Materials
from docendo.distill.training._prompts import probe_of, read_prompts, require_prompts
from docendo.distill.training._trl import (
    GENTLE,
    require_no_weights,
    require_trl,
    settle,
    trl_arguments,
    without_telemetry,
)
from docendo.errors import ConfigError, DataError
from docendo.memory import Database


def distill_on_policy(
    student: str | Path,
    prompts: Iterable[Mapping[str, Any]],
    *,
    teacher: str | Path,
    output: str | Path,
    config: TrainConfig = GENTLE,
    teacher_adapter: str | Path | None = None,
    beta: float = 1.0,
    temperature: float = 1.0,
    max_completion_length: int = 256,
    parent: str | Path | None = None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains a LoRA adapter towards a teacher on the student's own answers (GKD, arXiv 2306.13649).

    TRL's `DistillationTrainer` samples answers at every step and computes the divergence from the teacher at
    each of their tokens; docendo tokenises prompts as its engine does. Nothing is sent anywhere.

    Args:
        student: Folder, catalogue name or hub id of the base model.
        prompts: Rows as from `prompts_dataset`: `prompt`.
        teacher: A model with the same tokenizer: catalogue name, folder or hub id. It runs beside the
            student.
        output: Folder of the new adapter.
        config: Settings. By default a peak rate of 1e-5 (ten times TRL's 1e-6, as its page on PEFT advises
            for LoRA) and one epoch.
        teacher_adapter: A LoRA adapter of the teacher.
        beta: As in `KL`: 0 is KL(teacher || student), 1 is KL(student || teacher) (1: TRL's), and between
            them the generalised Jensen-Shannon divergence.
        temperature: Of sampling, and of both models in the divergence (1: TRL's). Unlike that of `KL`, TRL's
            loss is not multiplied by its square.
        max_completion_length: Most tokens of an answer (256: our choice, half of TRL's).
        parent: Adapter to continue from.
        name: Name of the adapter; the name of the output folder by default.
        metadata: Facts of yours for the manifest, as JSON values.
        resume: Go on from a checkpoint, or return the adapter that was made from the same.
        database: Where to record data set and adapter, as for `train`.
        quiet: Print no progress.

    Returns:
        The adapter. Its metrics hold the last `entropy`, `completions/mean_length` and
        `completions/clipped_ratio`.

    Raises:
        ConfigError: if a setting is out of range.
        DataError: if the teacher has another vocabulary, or there are fewer prompts than a step takes.
        MissingExtra: if TRL is not installed.
        SilentNoOp: if training changed nothing.

    Example:
        >>> from docendo.distill import distill_on_policy
        >>> prompts = [{"prompt": [{"role": "user", "content": f"{n} + 3"}]} for n in range(16)]
        >>> adapter = distill_on_policy(
        ...     "smollm2-135m-instruct", prompts, teacher="HuggingFaceTB/SmolLM2-360M-Instruct",
        ...     output="adapters/on-policy")  # doctest: +SKIP
    """
    if not is_number(beta) or not 0 <= beta <= 1:
        raise ConfigError(f"beta is {beta!r}", expected="a number from 0 to 1")
    if not is_number(temperature) or temperature <= 0:
        raise ConfigError(f"temperature is {temperature!r}", expected="a number above 0")
    if not is_count(max_completion_length) or max_completion_length < 1:
        raise ConfigError(
            f"max_completion_length is {max_completion_length!r}", expected="a whole number, 1 or more"
        )
    require_trl()
    return run_job(
        student,
        prompts,
        _OnPolicy(
            teacher=teacher,
            teacher_adapter=teacher_adapter,
            beta=float(beta),
            temperature=float(temperature),
            max_completion_length=max_completion_length,
        ),
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
class _OnPolicy:
    """On-policy distillation."""

    teacher: str | Path
    teacher_adapter: str | Path | None
    beta: float
    temperature: float
    max_completion_length: int

    def identity(self) -> Mapping[str, Any]:
        adapter = Adapter.open(self.teacher_adapter).sha256 if self.teacher_adapter is not None else None
        return {
            "name": "on-policy",
            "teacher": {"model": models.fingerprint(models.resolve(self.teacher)), "adapter": adapter},
            "beta": self.beta,
            "temperature": self.temperature,
            "max_completion_length": self.max_completion_length,
        }

    def build(self, materials: Materials) -> Build:
        from datasets import Dataset
        from trl import DistillationConfig

        from docendo.distill.training._trl_trainers import DurableOnPolicy

        require_no_weights(materials.rows)
        config = materials.config
        prompts = read_prompts(materials, self.max_completion_length)
        step = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes()
        require_prompts(prompts, step, "per_device_train_batch_size")
        settings = DistillationConfig(
            **trl_arguments(materials, len(prompts.ids)),
            beta=self.beta,
            temperature=self.temperature,
            max_completion_length=self.max_completion_length,
        )
        teacher = self._load(materials)
        with without_telemetry():
            trainer = DurableOnPolicy(
                materials.model,
                teacher_model=teacher,
                args=settings,
                train_dataset=Dataset.from_dict({"prompt": [str(n) for n in range(len(prompts.ids))]}),
                processing_class=materials.tokenizer,
                prompts=prompts.ids,
            )
        settle(trainer, materials)
        return Build(
            trainer=trainer,
            probe=probe_of(materials, prompts),
            data=prompts.counts(),
            watched=["entropy", "completions/mean_length", "completions/clipped_ratio"],
            models=[teacher],
        )

    def _load(self, materials: Materials) -> Any:
        """The teacher; its head is cut to the student's width, which is beyond all tokens in either."""
        source = models.resolve(self.teacher)
        theirs = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        require_vocabulary(theirs, materials.tokenizer, str(self.teacher))
        adapter = Adapter.open(self.teacher_adapter) if self.teacher_adapter is not None else None
        teacher = load_teacher(source, adapter, materials.config.dtype)
        width = materials.model.config.get_text_config().vocab_size
        if teacher.config.get_text_config().vocab_size < width:
            raise DataError(
                f"the head of teacher {str(self.teacher)!r} is narrower than the student's {width} rows",
                expected="one as wide: both are padded beyond the same tokens",
                remedy="use train(objective=KL(beta=1.0)) on stored answers of the student",
            )
        if teacher.config.get_text_config().vocab_size > width:
            teacher.resize_token_embeddings(width)
        return teacher
