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
    from docendo.distill.objectives._objective import (
        Labels,
        Objective,
        PathObjective,
        StateObjective,
        TokenObjective,
    )
    from docendo.distill.objectives._path import DCO
    from docendo.distill.objectives._state import TripletHidden
    from docendo.distill.objectives._token import KL, BalancedKL, CrossEntropy
    from docendo.distill.training._batches import Encoded, batch_order, encode
    from docendo.distill.training._config import TrainConfig
    from docendo.distill.training._packing import pack
    from docendo.distill.training._teachers import StoredTeacher, store_teacher
    from docendo.distill.training._train import train
    from docendo.distill.training._trainer import ObjectiveTrainer

__all__ = [
    "DCO",
    "KL",
    "Adapter",
    "BalancedKL",
    "CrossEntropy",
    "Encoded",
    "Labels",
    "Objective",
    "ObjectiveTrainer",
    "PathObjective",
    "StateObjective",
    "StoredTeacher",
    "TokenObjective",
    "TrainConfig",
    "TripletHidden",
    "batch_order",
    "encode",
    "pack",
    "sft_dataset",
    "store_teacher",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DCO": "docendo.distill.objectives._path",
        "KL": "docendo.distill.objectives._token",
        "Adapter": "docendo.distill.adapters._adapter",
        "BalancedKL": "docendo.distill.objectives._token",
        "CrossEntropy": "docendo.distill.objectives._token",
        "Encoded": "docendo.distill.training._batches",
        "Labels": "docendo.distill.objectives._objective",
        "Objective": "docendo.distill.objectives._objective",
        "ObjectiveTrainer": "docendo.distill.training._trainer",
        "PathObjective": "docendo.distill.objectives._objective",
        "StateObjective": "docendo.distill.objectives._objective",
        "StoredTeacher": "docendo.distill.training._teachers",
        "TokenObjective": "docendo.distill.objectives._objective",
        "TrainConfig": "docendo.distill.training._config",
        "TripletHidden": "docendo.distill.objectives._state",
        "batch_order": "docendo.distill.training._batches",
        "encode": "docendo.distill.training._batches",
        "pack": "docendo.distill.training._packing",
        "sft_dataset": "docendo.distill.datasets._sft",
        "store_teacher": "docendo.distill.training._teachers",
        "train": "docendo.distill.training._train",
    },
)
