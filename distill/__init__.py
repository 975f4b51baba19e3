"""Who learns: training sets from verified traces, LoRA training, adapters that can be checked.

Example:
    >>> from docendo import distill
    >>> distill.TrainConfig(max_steps=75).learning_rate
    0.001
"""

from typing import TYPE_CHECKING

from docendo.lazy import lazy_names

if TYPE_CHECKING:
    from docendo.distill._adapter import Adapter
    from docendo.distill._batches import Encoded, batch_order, encode, pack
    from docendo.distill._config import TrainConfig
    from docendo.distill._dataset import sft_dataset
    from docendo.distill._train import train
    from docendo.distill._trainer import ObjectiveTrainer

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
        "Adapter": "docendo.distill._adapter",
        "Encoded": "docendo.distill._batches",
        "ObjectiveTrainer": "docendo.distill._trainer",
        "TrainConfig": "docendo.distill._config",
        "batch_order": "docendo.distill._batches",
        "encode": "docendo.distill._batches",
        "pack": "docendo.distill._batches",
        "sft_dataset": "docendo.distill._dataset",
        "train": "docendo.distill._train",
    },
)
