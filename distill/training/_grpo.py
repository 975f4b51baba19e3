"""`train_grpo`: learning from rewards of the model's own answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from docendo.agents._templates import end_ids
from docendo.checks import is_count, is_number
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.training._arguments import processes
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._job import run_job
from docendo.distill.training._judge import Judge, check_rewards, identity_of
from docendo.distill.training._method import Build, Materials
from docendo.distill.training._prompts import Prompts, probe_of, read_prompts, require_prompts, text_of
from docendo.distill.training._rewards import Reward
from docendo.distill.training._trl import (
    GENTLE,
    drop_reference,
    require_no_weights,
    require_trl,
    settle,
    trl_arguments,
    without_telemetry,
)
from docendo.errors import ConfigError
from docendo.evals.items._identity import key_digest
from docendo.memory import Database
from docendo.records import Item
from docendo.scoring import Scorer

PolicyLoss = Literal["dapo", "grpo", "dr_grpo"]

_WATCHED = (
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "kl",
    "entropy",
    "completions/mean_length",
    "completions/clipped_ratio",
)


def train_grpo(
    model: str | Path,
    prompts: Iterable[Mapping[str, Any]],
    *,
    rewards: Mapping[str, Reward],
    output: str | Path,
    config: TrainConfig = GENTLE,
    items: Iterable[Item] = (),
    weights: Mapping[str, float] | None = None,
    num_generations: int = 8,
    max_completion_length: int = 256,
    temperature: float = 1.0,
    beta: float = 0.0,
    loss: PolicyLoss = "dapo",
    steps_per_generation: int = 1,
    parent: str | Path | None = None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains a LoRA adapter on rewards of its own answers by GRPO (arXiv 2402.03300).

    For each prompt the model samples a group of answers; an answer's advantage is its reward less the mean
    of its group, divided by the group's standard deviation. TRL's `GRPOTrainer` samples and computes the
    loss; docendo tokenises prompts and reads answers as its engine does. Nothing is sent anywhere.

    A group with equal rewards teaches nothing: `frac_reward_zero_std` is the share of such groups.

    Args:
        model: Folder, catalogue name or hub id of the base model.
        prompts: Rows as from `prompts_dataset`: `prompt`, and `item` where there is a scorer.
        rewards: What answers are worth, by name: a scorer (1 for a right answer, 0 for any other; partial
            credit does not count), a function of row and text, or a `GroupReward` such as `LengthReward`.
        output: Folder of the new adapter.
        config: Settings. By default a peak rate of 1e-5 (ten times TRL's 1e-6, as its page on PEFT advises
            for LoRA) and one epoch. `per_device_train_batch_size` counts answers, not prompts.
        items: The training items that scorers need: `task.train`.
        weights: Weights of the rewards in the sum; 1 by default.
        num_generations: Answers in a group (8: TRL's).
        max_completion_length: Most tokens of an answer (256: our choice, half of TRL's, for short answers).
        temperature: Of sampling, and of the probabilities in the loss (1: TRL's).
        beta: Weight of the divergence from the reference, which is `parent` or the base model (0: TRL's).
        loss: How token losses are averaged: over the tokens of the step ("dapo", arXiv 2503.14476: TRL's),
            over each answer ("grpo"), or by a constant ("dr_grpo", arXiv 2503.20783).
        steps_per_generation: Optimiser steps on the same answers (1: always the newest policy's).
        parent: Adapter to continue from.
        name: Name of the adapter; the name of the output folder by default.
        metadata: Facts of yours for the manifest, as JSON values.
        resume: Go on from a checkpoint, or return the adapter that was made from the same: model, prompts,
            settings, rewards (a function by its name) and gold answers. Checkpoints are made where answers
            are sampled anew, and going on from them gives the same adapter bit for bit.
        database: Where to record data set and adapter, as for `train`.
        quiet: Print no progress.

    Returns:
        The adapter. Its metrics hold the last `reward`, `reward_std`, `frac_reward_zero_std`, `kl`,
        `entropy`, `completions/mean_length`, `completions/clipped_ratio` and `rewards/NAME/mean`.

    Raises:
        ConfigError: if a setting is out of range, such as groups of one.
        DataError: if there are too few prompts, or a scorer lacks an item.
        LeakError: if an item that is scored is no training item.
        MissingExtra: if TRL is not installed.
        SilentNoOp: if rewards were equal in every group, or training changed nothing.
        TaskFailure: if a reward crashes or is no number.

    Example:
        >>> from docendo import distill, evals
        >>> task = evals.tasks("reasoning_gym:chain_sum", train=64, test=64)
        >>> prompts = distill.prompts_dataset(
        ...     items=task.train, exclude=task.test, student=student)  # doctest: +SKIP
        >>> adapter = distill.train_grpo(
        ...     "smollm2-135m-instruct", prompts, rewards={"verified": task.scorer}, items=task.train,
        ...     parent="adapters/sft", output="adapters/grpo")  # doctest: +SKIP
    """
    for key, value, least in (
        ("num_generations", num_generations, 2),
        ("max_completion_length", max_completion_length, 1),
        ("steps_per_generation", steps_per_generation, 1),
    ):
        if not is_count(value) or value < least:
            raise ConfigError(
                f"{key} is {value!r}",
                expected=f"a whole number, {least} or more",
                remedy="an answer is compared with the others of its group" if least == 2 else None,
            )
    if not is_number(temperature) or temperature <= 0:
        raise ConfigError(f"temperature is {temperature!r}", expected="a number above 0")
    if not is_number(beta) or beta < 0:
        raise ConfigError(f"beta is {beta!r}", expected="a number, 0 or more")
    if loss not in get_args(PolicyLoss):
        raise ConfigError(f"loss is {loss!r}", expected=", ".join(get_args(PolicyLoss)))
    shares = check_rewards(rewards, weights)
    require_trl()
    return run_job(
        model,
        prompts,
        _Rewarded(
            rewards=dict(rewards),
            weights=shares,
            items=tuple(items),
            num_generations=num_generations,
            max_completion_length=max_completion_length,
            temperature=float(temperature),
            beta=float(beta),
            loss=loss,
            steps_per_generation=steps_per_generation,
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
class _Rewarded:
    """GRPO."""

    rewards: Mapping[str, Reward]
    weights: Mapping[str, float]
    items: Sequence[Item]
    num_generations: int
    max_completion_length: int
    temperature: float
    beta: float
    loss: PolicyLoss
    steps_per_generation: int

    def identity(self) -> Mapping[str, Any]:
        settings = {
            key: getattr(self, key)
            for key in (
                "num_generations",
                "max_completion_length",
                "temperature",
                "beta",
                "loss",
                "steps_per_generation",
            )
        }
        rewards = {key: {**identity_of(r), "weight": self.weights[key]} for key, r in self.rewards.items()}
        scored = any(isinstance(reward, Scorer) for reward in self.rewards.values())
        return {
            "name": "grpo",
            "rewards": rewards,
            # Rows hold questions; what is right is in the items.
            **({"key": key_digest(self.items)} if scored else {}),
            **settings,
        }

    def build(self, materials: Materials) -> Build:
        from datasets import Dataset
        from trl import GRPOConfig

        from docendo.distill.training._trl_trainers import DurableGRPO

        require_no_weights(materials.rows)
        config, group = materials.config, self.num_generations
        prompts = read_prompts(materials, self.max_completion_length)
        self._require_groups(config, prompts)
        accumulated = config.gradient_accumulation_steps
        settings = GRPOConfig(
            **trl_arguments(materials, len(prompts.ids) * group),
            num_generations=group,
            max_completion_length=self.max_completion_length,
            temperature=self.temperature,
            beta=self.beta,
            loss_type=self.loss,
            steps_per_generation=self.steps_per_generation * accumulated,
            reward_weights=list(self.weights.values()),
        )
        judge = Judge(
            self.rewards,
            prompts.rows,
            items=self.items,
            decode=text_of(materials.tokenizer),
            ends=end_ids(materials.tokenizer, materials.model.generation_config),
            group=group,
        )
        with without_telemetry():
            trainer = DurableGRPO(
                materials.model,
                reward_funcs=judge.functions(),
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
            watched=[*_WATCHED, *(f"rewards/{name}/mean" for name in self.rewards)],
            close=lambda: drop_reference(materials.model),
        )

    def _require_groups(self, config: TrainConfig, prompts: Prompts) -> None:
        """Whole groups in each forward pass, and enough prompts for one round of sampling."""
        size, group = config.per_device_train_batch_size, self.num_generations
        answers = size * config.gradient_accumulation_steps * self.steps_per_generation
        if answers % group:
            raise ConfigError(
                f"{answers} answers are sampled at a time, in groups of num_generations={group}",
                expected="a multiple of it",
                remedy=f"set per_device_train_batch_size={group * max(1, round(size / group))}",
            )
        require_prompts(prompts, answers * processes() // group, "per_device_train_batch_size")
