"""What is true: tasks, scorers, evaluation, paired statistics and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docendo.evals.comparison._arms import Comparison
from docendo.evals.comparison._compare import PairedComparison, Verdict, compare
from docendo.evals.comparison._meter import Meter
from docendo.evals.comparison._outcome import ArmPair, ArmScore, Outcome
from docendo.evals.experiments import Scores, Trial, experiment, gain, no_gain, shown, within
from docendo.evals.harness._evaluate import evaluate
from docendo.evals.harness._records import EvalRecord, Sample
from docendo.evals.harness._results import EvalCost, EvalResult
from docendo.evals.interop._inspect_read import read_inspect_log
from docendo.evals.interop._inspect_write import to_inspect_log
from docendo.evals.interop._lm_eval_samples import read_lm_eval_samples
from docendo.evals.interop._load import load_result
from docendo.evals.items._baselines import baselines, strata_baselines
from docendo.evals.items._choices import choice_prompts, pick
from docendo.evals.items._listing import TaskInfo, task_info, task_names
from docendo.evals.items._math import MathScorer
from docendo.evals.items._mix import mix, require_disjoint
from docendo.evals.items._scorer import ExactScorer, make_item, normalise, read_answer
from docendo.evals.items._tasks import Task, tasks
from docendo.evals.metrics._abstention import Abstention, AbstentionScores, abstention
from docendo.evals.metrics._architecture import ArchitectureChoice, ArchitectureModel
from docendo.evals.metrics._architecture_runs import ArchitectureRun
from docendo.evals.metrics._calibration import Calibration, CalibrationBin, calibration
from docendo.evals.metrics._coordination import coordination_metrics
from docendo.evals.metrics._coordination_efforts import ItemEffort, item_efforts
from docendo.evals.metrics._coordination_report import CoordinationReport
from docendo.evals.metrics._coverage import CoveragePoint, CoverageRisk, coverage_risk
from docendo.evals.metrics._diversity import DiversityReport, DiversityScores, diversity
from docendo.evals.metrics._fuar import fuar
from docendo.evals.metrics._lifelong import LifelongLog, TaskMeasures
from docendo.evals.metrics._lifelong_log import LifelongBlock
from docendo.evals.metrics._measures import Measure
from docendo.evals.metrics._ood import OodGap, OodReport, ood_gap
from docendo.evals.metrics._passk import best_of_n, majority_at_k, pass_at_k, pass_hat_k
from docendo.evals.metrics._routing import RoutingCurve, RoutingPoint, oracle_scores, routing_curve
from docendo.evals.metrics._series import (
    forgetting_resilience,
    incremental_plasticity,
    windowed_forgetting,
    windowed_plasticity,
)
from docendo.evals.metrics._stages import StageMatrix
from docendo.evals.metrics._two_phase import TwoPhase
from docendo.evals.metrics._two_phase_state import TwoPhaseResult
from docendo.evals.reports._lessons import lessons, run_report
from docendo.evals.reports._page import report
from docendo.evals.reports._parts import Transcript, Turn
from docendo.evals.reports._plots import save_plots
from docendo.evals.reports._report import Arm, Cost, ReportData, costs
from docendo.evals.reports._results_report import results_report
from docendo.evals.reports._transcripts import transcripts
from docendo.evals.reports._worth import GraphWorth, graph_worth
from docendo.evals.search import (
    Attempt,
    Countdown,
    Judged,
    MiniSudoku,
    SearchWorld,
    WorldScorer,
    allotted,
    matched,
    solved_within,
)
from docendo.evals.statistics import (
    CrossedDifference,
    SequentialComparison,
    benjamini_hochberg,
    cluster_interval,
    crossed_detectable_difference,
    crossed_difference,
    crossed_sample_size,
    detectable_difference,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_interval,
    sample_size,
    sign_flip,
    simultaneous_level,
    tango,
    wilson,
)
from docendo.lazy import lazy_names

if TYPE_CHECKING:
    from docendo.evals.interop._inspect_model import inspect_model
    from docendo.evals.interop._lm_eval_model import DocendoLM

__all__ = [
    "Abstention",
    "AbstentionScores",
    "ArchitectureChoice",
    "ArchitectureModel",
    "ArchitectureRun",
    "Arm",
    "ArmPair",
    "ArmScore",
    "Attempt",
    "Calibration",
    "CalibrationBin",
    "Comparison",
    "CoordinationReport",
    "Cost",
    "Countdown",
    "CoveragePoint",
    "CoverageRisk",
    "CrossedDifference",
    "DiversityReport",
    "DiversityScores",
    "DocendoLM",
    "EvalCost",
    "EvalRecord",
    "EvalResult",
    "ExactScorer",
    "GraphWorth",
    "ItemEffort",
    "Judged",
    "LifelongBlock",
    "LifelongLog",
    "MathScorer",
    "Measure",
    "Meter",
    "MiniSudoku",
    "OodGap",
    "OodReport",
    "Outcome",
    "PairedComparison",
    "ReportData",
    "RoutingCurve",
    "RoutingPoint",
    "Sample",
    "Scores",
    "SearchWorld",
    "SequentialComparison",
    "StageMatrix",
    "Task",
    "TaskInfo",
    "TaskMeasures",
    "Transcript",
    "Trial",
    "Turn",
    "TwoPhase",
    "TwoPhaseResult",
    "Verdict",
    "WorldScorer",
    "abstention",
    "allotted",
    "baselines",
    "benjamini_hochberg",
    "best_of_n",
    "calibration",
    "choice_prompts",
    "cluster_interval",
    "compare",
    "coordination_metrics",
    "costs",
    "coverage_risk",
    "crossed_detectable_difference",
    "crossed_difference",
    "crossed_sample_size",
    "detectable_difference",
    "diversity",
    "evaluate",
    "experiment",
    "forgetting_resilience",
    "fuar",
    "gain",
    "graph_worth",
    "holm",
    "incremental_plasticity",
    "inspect_model",
    "item_efforts",
    "lessons",
    "load_result",
    "majority_at_k",
    "make_item",
    "matched",
    "mcnemar",
    "mix",
    "no_gain",
    "normalise",
    "ood_gap",
    "oracle_scores",
    "paired_bootstrap",
    "paired_interval",
    "pass_at_k",
    "pass_hat_k",
    "pick",
    "read_answer",
    "read_inspect_log",
    "read_lm_eval_samples",
    "report",
    "require_disjoint",
    "results_report",
    "routing_curve",
    "run_report",
    "sample_size",
    "save_plots",
    "shown",
    "sign_flip",
    "simultaneous_level",
    "solved_within",
    "strata_baselines",
    "tango",
    "task_info",
    "task_names",
    "tasks",
    "to_inspect_log",
    "transcripts",
    "wilson",
    "windowed_forgetting",
    "windowed_plasticity",
    "within",
]

# Their modules need the extras `lm-eval` and `inspect`, which `import docendo.evals` must not.
__getattr__, _ = lazy_names(
    __name__,
    {
        "DocendoLM": "docendo.evals.interop._lm_eval_model",
        "inspect_model": "docendo.evals.interop._inspect_model",
    },
)
