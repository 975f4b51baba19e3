"""Who learns: training sets from verified traces, LoRA training, adapters that can be checked.

Example:
    >>> from docendo import distill
    >>> distill.TrainConfig(max_steps=75).learning_rate
    0.001
"""

from typing import TYPE_CHECKING

from docendo.lazy import lazy_names

if TYPE_CHECKING:
    from docendo.distill.adapters._adapter import Adapter
    from docendo.distill.datasets._sft import sft_dataset
    from docendo.distill.training._batches import Encoded, batch_order, encode, pack
    from docendo.distill.training._config import TrainConfig
    from docendo.distill.training._train import train
    from docendo.distill.training._trainer import ObjectiveTrainer

__all__ = [
    "Adapter",
    "Encoded",
    "ObjectiveTrainer",
    "TrainConfig",
    "batch_order",
    "encode",
    "pack",
    "sft_dataset",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Adapter": "docendo.distill.adapters._adapter",
        "Encoded": "docendo.distill.training._batches",
        "ObjectiveTrainer": "docendo.distill.training._trainer",
        "TrainConfig": "docendo.distill.training._config",
        "batch_order": "docendo.distill.training._batches",
        "encode": "docendo.distill.training._batches",
        "pack": "docendo.distill.training._batches",
        "sft_dataset": "docendo.distill.datasets._sft",
        "train": "docendo.distill.training._train",
    },
)
