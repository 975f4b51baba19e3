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
    from docendo.distill.adapters._diff import AdapterDiff, diff_adapters
    from docendo.distill.adapters._export import export_adapter
    from docendo.distill.adapters._hub import push_to_hub
    from docendo.distill.adapters._index import Promotion
    from docendo.distill.adapters._lineage import Lineage, Registered
    from docendo.distill.adapters._merge import merge_adapters
    from docendo.distill.adapters._registry import AdapterRegistry
    from docendo.distill.datasets._answers import prompts_dataset, unpaired_dataset
    from docendo.distill.datasets._classes import classification_dataset
    from docendo.distill.datasets._contrastive import contrastive_dataset
    from docendo.distill.datasets._feedback import feedback_dataset
    from docendo.distill.datasets._lessons import lessons_dataset
    from docendo.distill.datasets._manifest import (
        DatasetManifest,
        dataset_manifest,
        load_dataset,
        save_dataset,
    )
    from docendo.distill.datasets._mix import mix_datasets
    from docendo.distill.datasets._pairs import pairs_dataset
    from docendo.distill.datasets._sft import sft_dataset
    from docendo.distill.datasets._tree import TraceTree
    from docendo.distill.objectives._align import align, byte_ends, token_bytes
    from docendo.distill.objectives._alm import ALM
    from docendo.distill.objectives._objective import (
        Labels,
        Objective,
        PathObjective,
        StateObjective,
        TokenObjective,
    )
    from docendo.distill.objectives._path import DCO
    from docendo.distill.objectives._state import FeatureMSE, TripletHidden
    from docendo.distill.objectives._token import KL, BalancedKL, CrossEntropy
    from docendo.distill.rounds._expert import expert_iteration
    from docendo.distill.rounds._gate import Gate, GateVerdict
    from docendo.distill.rounds._learn import consider, learn
    from docendo.distill.rounds._ledger import GateLedger, GateRecord
    from docendo.distill.rounds._orders import BalancedWindow, EasyToHard
    from docendo.distill.rounds._promotion import LearnResult
    from docendo.distill.rounds._report import RoundRow, RoundsReport
    from docendo.distill.rounds._round import Round
    from docendo.distill.rounds._rounds import Rounds
    from docendo.distill.rounds._scheduler import Feedback, Plan, RandomScheduler, Scheduler
    from docendo.distill.rounds._success import SuccessTable
    from docendo.distill.rounds._tailored import tailored_rounds
    from docendo.distill.rounds._ucb import UCB
    from docendo.distill.selectors._coverage import KCenter, PCoreSet, greedy_k_center
    from docendo.distill.selectors._difference import DifferenceSampling
    from docendo.distill.selectors._difficulty import DifficultyWindow
    from docendo.distill.selectors._discrimination import discriminative_items
    from docendo.distill.selectors._in_context import InContextPreference
    from docendo.distill.selectors._labels import label_probs
    from docendo.distill.selectors._llkd import LLKD
    from docendo.distill.selectors._quality import QualityClassifier
    from docendo.distill.selectors._rewarding import reward_traces
    from docendo.distill.selectors._selection import Selection
    from docendo.distill.selectors._selector import Selector, Shuffled
    from docendo.distill.selectors._simple import Random, ShortestCorrect, Verified
    from docendo.distill.selectors._table import ScoreTable
    from docendo.distill.training._batches import Encoded, batch_order, encode
    from docendo.distill.training._config import TrainConfig
    from docendo.distill.training._grpo import train_grpo
    from docendo.distill.training._on_policy import distill_on_policy
    from docendo.distill.training._packing import pack
    from docendo.distill.training._paths import teacher_paths
    from docendo.distill.training._preferences import train_dpo, train_kto
    from docendo.distill.training._pretrain import PretrainConfig, Sampler, pretrain
    from docendo.distill.training._rewards import ExactLabel, GroupReward, LengthReward, SampledAnswer
    from docendo.distill.training._role import train_role
    from docendo.distill.training._teachers import StoredTeacher, store_teacher
    from docendo.distill.training._train import train
    from docendo.distill.training._trainer import ObjectiveTrainer

__all__ = [
    "ALM",
    "DCO",
    "KL",
    "LLKD",
    "UCB",
    "Adapter",
    "AdapterDiff",
    "AdapterRegistry",
    "BalancedKL",
    "BalancedWindow",
    "CrossEntropy",
    "DatasetManifest",
    "DifferenceSampling",
    "DifficultyWindow",
    "EasyToHard",
    "Encoded",
    "ExactLabel",
    "FeatureMSE",
    "Feedback",
    "Gate",
    "GateLedger",
    "GateRecord",
    "GateVerdict",
    "GroupReward",
    "InContextPreference",
    "KCenter",
    "Labels",
    "LearnResult",
    "LengthReward",
    "Lineage",
    "Objective",
    "ObjectiveTrainer",
    "PCoreSet",
    "PathObjective",
    "Plan",
    "PretrainConfig",
    "Promotion",
    "QualityClassifier",
    "Random",
    "RandomScheduler",
    "Registered",
    "Round",
    "RoundRow",
    "Rounds",
    "RoundsReport",
    "SampledAnswer",
    "Sampler",
    "Scheduler",
    "ScoreTable",
    "Selection",
    "Selector",
    "ShortestCorrect",
    "Shuffled",
    "StateObjective",
    "StoredTeacher",
    "SuccessTable",
    "TokenObjective",
    "TraceTree",
    "TrainConfig",
    "TripletHidden",
    "Verified",
    "align",
    "batch_order",
    "byte_ends",
    "classification_dataset",
    "consider",
    "contrastive_dataset",
    "dataset_manifest",
    "diff_adapters",
    "discriminative_items",
    "distill_on_policy",
    "encode",
    "expert_iteration",
    "export_adapter",
    "feedback_dataset",
    "greedy_k_center",
    "label_probs",
    "learn",
    "lessons_dataset",
    "load_dataset",
    "merge_adapters",
    "mix_datasets",
    "pack",
    "pairs_dataset",
    "pretrain",
    "prompts_dataset",
    "push_to_hub",
    "reward_traces",
    "save_dataset",
    "sft_dataset",
    "store_teacher",
    "tailored_rounds",
    "teacher_paths",
    "token_bytes",
    "train",
    "train_dpo",
    "train_grpo",
    "train_kto",
    "train_role",
    "unpaired_dataset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Sampler": "docendo.distill.training._pretrain",
        "pretrain": "docendo.distill.training._pretrain",
        "PretrainConfig": "docendo.distill.training._pretrain",
        "ALM": "docendo.distill.objectives._alm",
        "DCO": "docendo.distill.objectives._path",
        "KL": "docendo.distill.objectives._token",
        "LLKD": "docendo.distill.selectors._llkd",
        "UCB": "docendo.distill.rounds._ucb",
        "Adapter": "docendo.distill.adapters._adapter",
        "AdapterDiff": "docendo.distill.adapters._diff",
        "AdapterRegistry": "docendo.distill.adapters._registry",
        "BalancedKL": "docendo.distill.objectives._token",
        "BalancedWindow": "docendo.distill.rounds._orders",
        "CrossEntropy": "docendo.distill.objectives._token",
        "DatasetManifest": "docendo.distill.datasets._manifest",
        "DifferenceSampling": "docendo.distill.selectors._difference",
        "DifficultyWindow": "docendo.distill.selectors._difficulty",
        "EasyToHard": "docendo.distill.rounds._orders",
        "Encoded": "docendo.distill.training._batches",
        "ExactLabel": "docendo.distill.training._rewards",
        "FeatureMSE": "docendo.distill.objectives._state",
        "Feedback": "docendo.distill.rounds._scheduler",
        "Gate": "docendo.distill.rounds._gate",
        "GateLedger": "docendo.distill.rounds._ledger",
        "GateRecord": "docendo.distill.rounds._ledger",
        "GateVerdict": "docendo.distill.rounds._gate",
        "GroupReward": "docendo.distill.training._rewards",
        "InContextPreference": "docendo.distill.selectors._in_context",
        "KCenter": "docendo.distill.selectors._coverage",
        "Labels": "docendo.distill.objectives._objective",
        "LearnResult": "docendo.distill.rounds._promotion",
        "LengthReward": "docendo.distill.training._rewards",
        "Lineage": "docendo.distill.adapters._lineage",
        "Objective": "docendo.distill.objectives._objective",
        "ObjectiveTrainer": "docendo.distill.training._trainer",
        "PCoreSet": "docendo.distill.selectors._coverage",
        "PathObjective": "docendo.distill.objectives._objective",
        "Plan": "docendo.distill.rounds._scheduler",
        "Promotion": "docendo.distill.adapters._index",
        "QualityClassifier": "docendo.distill.selectors._quality",
        "Random": "docendo.distill.selectors._simple",
        "RandomScheduler": "docendo.distill.rounds._scheduler",
        "Registered": "docendo.distill.adapters._lineage",
        "Round": "docendo.distill.rounds._round",
        "RoundRow": "docendo.distill.rounds._report",
        "Rounds": "docendo.distill.rounds._rounds",
        "RoundsReport": "docendo.distill.rounds._report",
        "SampledAnswer": "docendo.distill.training._rewards",
        "Scheduler": "docendo.distill.rounds._scheduler",
        "ScoreTable": "docendo.distill.selectors._table",
        "Selection": "docendo.distill.selectors._selection",
        "Selector": "docendo.distill.selectors._selector",
        "ShortestCorrect": "docendo.distill.selectors._simple",
        "Shuffled": "docendo.distill.selectors._selector",
        "StateObjective": "docendo.distill.objectives._objective",
        "StoredTeacher": "docendo.distill.training._teachers",
        "SuccessTable": "docendo.distill.rounds._success",
        "TokenObjective": "docendo.distill.objectives._objective",
        "TraceTree": "docendo.distill.datasets._tree",
        "TrainConfig": "docendo.distill.training._config",
        "TripletHidden": "docendo.distill.objectives._state",
        "Verified": "docendo.distill.selectors._simple",
        "align": "docendo.distill.objectives._align",
        "batch_order": "docendo.distill.training._batches",
        "byte_ends": "docendo.distill.objectives._align",
        "classification_dataset": "docendo.distill.datasets._classes",
        "consider": "docendo.distill.rounds._learn",
        "contrastive_dataset": "docendo.distill.datasets._contrastive",
        "dataset_manifest": "docendo.distill.datasets._manifest",
        "diff_adapters": "docendo.distill.adapters._diff",
        "discriminative_items": "docendo.distill.selectors._discrimination",
        "distill_on_policy": "docendo.distill.training._on_policy",
        "encode": "docendo.distill.training._batches",
        "expert_iteration": "docendo.distill.rounds._expert",
        "export_adapter": "docendo.distill.adapters._export",
        "feedback_dataset": "docendo.distill.datasets._feedback",
        "greedy_k_center": "docendo.distill.selectors._coverage",
        "label_probs": "docendo.distill.selectors._labels",
        "learn": "docendo.distill.rounds._learn",
        "lessons_dataset": "docendo.distill.datasets._lessons",
        "load_dataset": "docendo.distill.datasets._manifest",
        "merge_adapters": "docendo.distill.adapters._merge",
        "mix_datasets": "docendo.distill.datasets._mix",
        "pack": "docendo.distill.training._packing",
        "pairs_dataset": "docendo.distill.datasets._pairs",
        "prompts_dataset": "docendo.distill.datasets._answers",
        "push_to_hub": "docendo.distill.adapters._hub",
        "save_dataset": "docendo.distill.datasets._manifest",
        "reward_traces": "docendo.distill.selectors._rewarding",
        "sft_dataset": "docendo.distill.datasets._sft",
        "store_teacher": "docendo.distill.training._teachers",
        "tailored_rounds": "docendo.distill.rounds._tailored",
        "teacher_paths": "docendo.distill.training._paths",
        "token_bytes": "docendo.distill.objectives._align",
        "train": "docendo.distill.training._train",
        "train_dpo": "docendo.distill.training._preferences",
        "train_grpo": "docendo.distill.training._grpo",
        "train_kto": "docendo.distill.training._preferences",
        "train_role": "docendo.distill.training._role",
        "unpaired_dataset": "docendo.distill.datasets._answers",
    },
)
