"""`train_dpo` and `train_kto`: learning which of two answers is better, or whether one is good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from docendo.checks import is_number
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._job import run_job
from docendo.distill.training._preference_methods import Labelled, Pairs, PreferenceLoss
from docendo.distill.training._trl import GENTLE, require_trl
from docendo.errors import ConfigError
from docendo.memory import Database


def train_dpo(
    model: str | Path,
    pairs: Iterable[Mapping[str, Any]],
    *,
    output: str | Path,
    config: TrainConfig = GENTLE,
    beta: float = 0.1,
    loss: PreferenceLoss = "sigmoid",
    nll_weight: float = 0.0,
    parent: str | Path | None = None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains a LoRA adapter on preference pairs by DPO (arXiv 2305.18290) or IPO (arXiv 2310.12036).

    TRL's `DPOTrainer` computes the loss; docendo tokenises the rows as the engine serves them, and does
    everything that `train` does. Nothing is sent anywhere.

    The reference is the model that training starts from: with `parent` a frozen copy of that adapter, which
    is what the papers ask for after supervised training; without it the base model. It is not part of the
    result.

    Args:
        model: Folder, catalogue name or hub id of the base model. It stays as it is.
        pairs: Rows as from `pairs_dataset`: `prompt`, `chosen` and `rejected`.
        output: Folder of the new adapter.
        config: Settings. By default a peak rate of 1e-5 (ten times TRL's 1e-6 for full fine-tuning, as its
            page on PEFT advises for LoRA) and one epoch (Tulu 3, arXiv 2411.15124).
        beta: How strongly the reference holds the student: the paper's beta, 0.1; for IPO its tau.
        loss: "sigmoid" (DPO) or "ipo". IPO's log-ratios are means over the tokens of an answer, as its
            authors confirmed to TRL; DPO's are sums.
        nll_weight: Weight of the chosen answers' negative log-likelihood, a mean over tokens, which keeps
            them likely (RPO, arXiv 2404.19733, takes 1). 0 leaves it out.
        parent: Adapter to continue from: usually that of the supervised training.
        name: Name of the adapter; the name of the output folder by default.
        metadata: Facts of yours for the manifest, as JSON values.
        resume: Go on from a checkpoint, or return the adapter that was made from the same.
        database: Where to record data set and adapter, as for `train`.
        quiet: Print no progress.

    Returns:
        The adapter. Its metrics hold the last `rewards/margins`, `rewards/accuracies`, `logps/chosen` and
        `logps/rejected`, and with `nll_weight` both terms: `preference` and `nll`.

    Raises:
        ConfigError: if a setting is out of range.
        DataError: if there are no pairs, or one has equal answers, weights or several turns.
        MissingExtra: if TRL is not installed.
        SilentNoOp: if training changed nothing.

    Example:
        >>> from docendo.distill import train_dpo
        >>> pairs = [{"prompt": [{"role": "user", "content": "2 + 3"}],
        ...           "chosen": [{"role": "assistant", "content": "5"}],
        ...           "rejected": [{"role": "assistant", "content": "6"}]}]
        >>> adapter = train_dpo("smollm2-135m-instruct", pairs, parent="adapters/sft",
        ...                     output="adapters/dpo")  # doctest: +SKIP
    """
    _require_beta(beta)
    if loss not in get_args(PreferenceLoss):
        raise ConfigError(f"loss is {loss!r}", expected=" or ".join(get_args(PreferenceLoss)))
    if not is_number(nll_weight) or nll_weight < 0:
        raise ConfigError(f"nll_weight is {nll_weight!r}", expected="a number, 0 or more")
    require_trl()
    return run_job(
        model,
        pairs,
        Pairs(beta=float(beta), loss=loss, nll_weight=float(nll_weight)),
        output=output,
        config=config,
        parent=parent,
        name=name,
        metadata=metadata,
        resume=resume,
        database=database,
        quiet=quiet,
    )


def train_kto(
    model: str | Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    output: str | Path,
    config: TrainConfig = GENTLE,
    beta: float = 0.1,
    desirable_weight: float | None = None,
    undesirable_weight: float | None = None,
    parent: str | Path | None = None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains a LoRA adapter on answers that are good or bad, by KTO (arXiv 2402.01306).

    TRL's `KTOTrainer` computes the loss. It compares each answer with what the batch's answers to other
    prompts would gain, so rows are shuffled once, and within a batch no prompt is paired with an answer of
    its own if that can be avoided.

    Args:
        model: Folder, catalogue name or hub id of the base model.
        rows: Rows as from `unpaired_dataset`: `prompt`, `completion` and `label`, true for good.
        output: Folder of the new adapter.
        config: Settings; defaults as for `train_dpo`. A forward pass needs at least two rows.
        beta: How strongly the reference holds the student (0.1: the paper's).
        desirable_weight: Weight of good answers. None, with the other None as well, raises the weight of
            the rarer kind so that both kinds weigh the same in all, which is within the paper's range (its
            eq. 8); TRL only warns.
        undesirable_weight: Weight of bad answers.
        parent: Adapter to continue from, and the reference, as in `train_dpo`.
        name: As in `train_dpo`.
        metadata: As in `train_dpo`.
        resume: As in `train_dpo`.
        database: As in `train_dpo`.
        quiet: Print no progress.

    Returns:
        The adapter. Its metrics hold the last `kl`, `rewards/chosen`, `rewards/rejected` and
        `rewards/margins`, and both weights.

    Raises:
        ConfigError: if a setting is out of range.
        DataError: if there are no rows, or none of one kind.
        MissingExtra: if TRL is not installed.
        SilentNoOp: if training changed nothing.

    Example:
        >>> from docendo.distill import train_kto
        >>> rows = [{"prompt": [{"role": "user", "content": "2 + 3"}], "label": sum == "5",
        ...          "completion": [{"role": "assistant", "content": sum}]} for sum in ("5", "6")]
        >>> adapter = train_kto("smollm2-135m-instruct", rows, output="adapters/kto")  # doctest: +SKIP
    """
    _require_beta(beta)
    for key, weight in (("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
        if weight is not None and (not is_number(weight) or weight <= 0):
            raise ConfigError(f"{key} is {weight!r}", expected="a number above 0, or None")
    if config.per_device_train_batch_size < 2:
        raise ConfigError(
            "per_device_train_batch_size is 1", expected="at least 2: KTO compares the rows of a batch"
        )
    require_trl()
    return run_job(
        model,
        rows,
        Labelled(beta=float(beta), desirable=desirable_weight, undesirable=undesirable_weight),
        output=output,
        config=config,
        parent=parent,
        name=name,
        metadata=metadata,
        resume=resume,
        database=database,
        quiet=quiet,
    )


def _require_beta(beta: Any) -> None:
    if not is_number(beta) or beta <= 0:
        raise ConfigError(f"beta is {beta!r}", expected="a number above 0")
