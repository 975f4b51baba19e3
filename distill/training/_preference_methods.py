"""How preference pairs and labelled answers become a trainer of TRL."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from docendo.distill.training._batches import Encoded, encode
from docendo.distill.training._method import Build, Materials
from docendo.distill.training._trl import (
    drop_reference,
    probe,
    require_no_weights,
    settle,
    trl_arguments,
    without_telemetry,
)
from docendo.errors import DataError
from docendo.hashing import derive_seed

PreferenceLoss = Literal["sigmoid", "ipo"]

_WATCHED_PAIRS = (
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "preference",
    "nll",
)
_WATCHED_LABELS = ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """DPO and its kin."""

    beta: float
    loss: PreferenceLoss
    nll_weight: float

    def identity(self) -> Mapping[str, Any]:
        return {"name": "dpo", "beta": self.beta, "loss": self.loss, "nll_weight": self.nll_weight}

    def build(self, materials: Materials) -> Build:
        from datasets import Dataset
        from trl import DPOConfig

        from docendo.distill.training._trl_trainers import DurableDPO

        require_no_weights(materials.rows)
        chosen = _answers(materials, "chosen")
        pairs = list(zip(chosen, _answers(materials, "rejected"), strict=True))
        for number, (good, bad) in enumerate(pairs):
            if good.completion == bad.completion:
                raise DataError(
                    f"row {number} of the dataset has the same answer as chosen and rejected",
                    expected="two different answers",
                    remedy="build the pairs with pairs_dataset",
                )
        most = materials.config.max_length
        short = [(good, bad) for good, bad in pairs if max(len(good), len(bad)) <= most]
        _require_some(short, len(pairs), most)
        settings = DPOConfig(
            **trl_arguments(materials, len(short)),
            beta=self.beta,
            loss_type=[self.loss, *(["sft"] if self.nll_weight else [])],
            loss_weights=[1.0, *([self.nll_weight] if self.nll_weight else [])],
            max_length=None,
        )
        columns = [
            {"prompt_ids": good.prompt, "chosen_ids": good.completion, "rejected_ids": bad.completion}
            for good, bad in short
        ]
        with without_telemetry():
            trainer = DurableDPO(
                materials.model,
                args=settings,
                train_dataset=Dataset.from_list(columns),
                processing_class=materials.tokenizer,
            )
        settle(trainer, materials)
        return Build(
            trainer=trainer,
            probe=probe(materials, [good for good, _ in short]),
            data=_counts([one for pair in short for one in pair], len(short), len(pairs) - len(short)),
            watched=_WATCHED_PAIRS,
            close=lambda: drop_reference(materials.model),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """KTO."""

    beta: float
    desirable: float | None
    undesirable: float | None

    def identity(self) -> Mapping[str, Any]:
        weights = {"desirable_weight": self.desirable, "undesirable_weight": self.undesirable}
        return {"name": "kto", "beta": self.beta, **weights}

    def build(self, materials: Materials) -> Build:
        from datasets import Dataset
        from trl import KTOConfig

        from docendo.distill.training._trl_trainers import DurableKTO

        require_no_weights(materials.rows)
        config = materials.config
        labels = [_label(number, row) for number, row in enumerate(materials.rows)]
        answers = list(zip(_answers(materials, "completion"), labels, strict=True))
        short = [(answer, good) for answer, good in answers if len(answer) <= config.max_length]
        _require_some(short, len(answers), config.max_length)
        good = sum(label for _, label in short)
        if good in (0, len(short)):
            raise DataError(
                f"all {len(short)} rows have the label {short[0][1]}", expected="good and bad answers"
            )
        desirable, undesirable = self._weights(good, len(short) - good)
        short = spread(short, config.seed)
        size = config.per_device_train_batch_size
        spares = [answer for answer, _ in short]
        others: list[Encoded] = []
        for start in range(0, len(short), size):
            others += mismatched(spares[start : start + size], spares)
        columns = [
            {
                "prompt_ids": answer.prompt,
                "completion_ids": answer.completion,
                "KL_completion_ids": other.completion,
                "label": label,
            }
            for (answer, label), other in zip(short, others, strict=True)
        ]
        settings = KTOConfig(
            **trl_arguments(materials, len(short)),
            beta=self.beta,
            desirable_weight=desirable,
            undesirable_weight=undesirable,
            max_length=None,
            train_sampling_strategy="sequential",
        )
        with without_telemetry():
            trainer = DurableKTO(
                materials.model,
                args=settings,
                train_dataset=Dataset.from_list(columns),
                processing_class=materials.tokenizer,
            )
        settle(trainer, materials)
        return Build(
            trainer=trainer,
            probe=probe(materials, [answer for answer, _ in short]),
            data=_counts([answer for answer, _ in short], len(short), len(answers) - len(short)),
            facts={"desirable_weight": desirable, "undesirable_weight": undesirable},
            watched=_WATCHED_LABELS,
            close=lambda: drop_reference(materials.model),
        )

    def _weights(self, good: int, bad: int) -> tuple[float, float]:
        if self.desirable is None and self.undesirable is None:
            return max(1.0, bad / good), max(1.0, good / bad)
        return self.desirable or 1.0, self.undesirable or 1.0


def spread(rows: Sequence[tuple[Encoded, bool]], seed: int) -> list[tuple[Encoded, bool]]:
    """Labelled answers in random order, those to one prompt as far apart as they go.

    Training takes them in this order: a batch then has few answers to the same prompt.
    """
    rng = random.Random(derive_seed("order of labelled rows", seed))
    groups: dict[tuple[int, ...], list[tuple[Encoded, bool]]] = {}
    for row in rows:
        groups.setdefault(row[0].prompt, []).append(row)
    placed = []
    for group in groups.values():
        rng.shuffle(group)
        start = rng.random()
        placed += [((place + start) / len(group), row) for place, row in enumerate(group)]
    return [row for _, row in sorted(placed, key=lambda one: one[0])]


def mismatched(batch: Sequence[Encoded], spares: Sequence[Encoded]) -> list[Encoded]:
    """The answers of a batch, moved on so that as few as possible stand after a prompt of their own.

    Args:
        batch: Answers.
        spares: What to take the answer of another prompt from where the batch has one row only.
    """
    answers = list(batch)
    if len(answers) == 1:
        return [next((one for one in spares if one.prompt != answers[0].prompt), spares[0])]

    def moved(by: int) -> list[Encoded]:
        return answers[by:] + answers[:by]

    def own(by: int) -> int:
        return sum(one.prompt == other.prompt for one, other in zip(answers, moved(by), strict=True))

    return moved(min(range(1, len(answers)), key=own))


def _answers(materials: Materials, column: str) -> list[Encoded]:
    """The rows with one column as the answer, tokenised as the engine serves them."""
    for number, row in enumerate(materials.rows):
        if row.get(column) is None:
            raise DataError(f"row {number} of the dataset has no {column!r}")
    rows = [
        {key: row[key] for key in ("prompt", "tools") if row.get(key) is not None}
        | {"completion": row[column]}
        for row in materials.rows
    ]
    answers, _ = encode(rows, materials.tokenizer, max_length=sys.maxsize)
    for number, answer in enumerate(answers):
        if answer.mask is not None:
            raise DataError(
                f"row {number} of the dataset has turns in {column!r} that are not learnt",
                expected="one assistant message",
            )
    return answers


def _label(number: int, row: Mapping[str, Any]) -> bool:
    label = row.get("label")
    if not isinstance(label, bool):
        raise DataError(f"row {number} of the dataset has the label {label!r}", expected="true or false")
    return label


def _counts(answers: Sequence[Encoded], examples: int, too_long: int) -> dict[str, int]:
    return {
        "examples": examples,
        "too_long": too_long,
        "tokens": sum(len(answer) for answer in answers),
        "completion_tokens": sum(len(answer.completion) for answer in answers),
    }


def _require_some(short: Sequence[Any], seen: int, most: int) -> None:
    if not short:
        raise DataError(
            f"none of {seen} examples can be trained on",
            expected=f"at least one of at most {most} tokens",
            remedy="raise max_length or check the dataset",
        )
