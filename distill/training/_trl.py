"""What all trainers of TRL need: settings, silence, the reference adapter, and a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from huggingface_hub import constants
from transformers import PrinterCallback

from docendo.distill.training._batches import Encoded
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._fit import probe_logits
from docendo.distill.training._method import Materials
from docendo.distill.training._packing import pad
from docendo.errors import CapabilityError, DataError, MissingExtra, SilentNoOp

GENTLE = TrainConfig(learning_rate=1e-5, num_train_epochs=1.0)
"""Ten times TRL's rate for full fine-tuning, as its page on PEFT advises, and one pass over the data."""

REFERENCE = "ref"
"""The name that TRL gives to its frozen copy of the adapter called "default"."""


def require_trl() -> None:
    """Checks that TRL is there.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import trl  # noqa: F401
    except ImportError:
        raise MissingExtra("trl", "trl") from None


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Inside, TRL's trainers send nothing: each would report itself when it is made.

    The switch is that of the environment variable HF_HUB_DISABLE_TELEMETRY, which has been read by now.
    """
    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def trl_arguments(materials: Materials, examples: int) -> dict[str, Any]:
    """Keyword arguments of one of TRL's configs: those of `transformers.TrainingArguments`.

    TRL turns gradient checkpointing on under its old name, whatever the new one says.
    """
    given = materials.arguments(examples)
    recompute = given.get("gradient_checkpointing", given.get("activation_checkpointing", False))
    names = [name for name in ("gradient_checkpointing", "activation_checkpointing") if name in given]
    return {**given, **dict.fromkeys([*names, "gradient_checkpointing"], recompute)}


def settle(trainer: Any, materials: Materials) -> None:
    """Makes a new trainer quiet, and its reference right.

    The reference of an adapter that is continued is a frozen copy of it. That of a fresh one is the base,
    which TRL takes where there is no copy; its copy of a fresh adapter would only cost time.

    Raises:
        SilentNoOp: if the copy is not the parent.
    """
    trainer.remove_callback(PrinterCallback)
    model = materials.model
    if REFERENCE not in model.peft_config:
        return
    if materials.parent is None:
        drop_reference(model)
        return
    for name, parameter in model.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.requires_grad_(False)
            if not torch.equal(parameter, model.get_parameter(name.replace(f".{REFERENCE}.", ".default."))):
                raise SilentNoOp(
                    f"The reference differs from the parent in {name}; check the version of trl."
                )


def drop_reference(model: Any) -> None:
    """Removes the reference, so that it is never published with the result."""
    if REFERENCE in model.peft_config:
        model.delete_adapter(REFERENCE)


def probe(materials: Materials, examples: Sequence[Encoded]) -> Callable[[], Any]:
    """Logits of the labels of the first two examples."""
    return partial(probe_logits, materials.model, pad(examples[:2]))


def require_hooks(trainer: type, *names: str) -> None:
    """Checks that TRL still has the methods that are replaced; else it would tokenise rows its own way.

    Raises:
        CapabilityError: if it does not.
    """
    import trl

    for name in names:
        if not hasattr(trainer, name):
            raise CapabilityError(
                f"trl {trl.__version__} has no {trainer.__name__}.{name}",
                expected="a version that docendo was tested with, such as 1.16",
                remedy="install it with: pip install 'trl==1.16.0'",
            )


def require_no_weights(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuses weights of rows, which TRL's losses would ignore.

    Raises:
        DataError: if a row has another weight than 1.
    """
    for number, row in enumerate(rows):
        if row.get("weight", 1.0) != 1:
            raise DataError(
                f"row {number} has the weight {row['weight']!r}",
                expected="no weights: these losses have none",
                remedy="choose the rows with a selector",
            )
