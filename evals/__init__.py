"""What is true: tasks, scorers, evaluation, paired statistics and reports."""

from __future__ import annotations

from docendo.evals.comparison._compare import PairedComparison, Verdict, compare
from docendo.evals.harness._evaluate import evaluate
from docendo.evals.harness._records import EvalRecord, Sample
from docendo.evals.harness._results import EvalCost, EvalResult
from docendo.evals.items._scorer import ExactScorer, make_item, normalise, read_answer
from docendo.evals.items._tasks import Task, tasks
from docendo.evals.metrics._architecture import ArchitectureChoice, ArchitectureModel
from docendo.evals.metrics._architecture_runs import ArchitectureRun
from docendo.evals.metrics._coordination import coordination_metrics
from docendo.evals.metrics._coordination_efforts import ItemEffort, item_efforts
from docendo.evals.metrics._coordination_report import CoordinationReport
from docendo.evals.metrics._fuar import fuar
from docendo.evals.metrics._lifelong import LifelongLog, TaskMeasures
from docendo.evals.metrics._lifelong_log import LifelongBlock
from docendo.evals.metrics._measures import Measure
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
from docendo.evals.reports._report import Arm, Cost, ReportData, Transcript, Turn, costs, report, transcripts
from docendo.evals.reports._worth import GraphWorth, graph_worth
from docendo.evals.statistics._stats import detectable_difference, mcnemar, paired_bootstrap, wilson

__all__ = [
    "ArchitectureChoice",
    "ArchitectureModel",
    "ArchitectureRun",
    "Arm",
    "CoordinationReport",
    "Cost",
    "EvalCost",
    "EvalRecord",
    "EvalResult",
    "ExactScorer",
    "GraphWorth",
    "ItemEffort",
    "LifelongBlock",
    "LifelongLog",
    "Measure",
    "PairedComparison",
    "ReportData",
    "Sample",
    "StageMatrix",
    "Task",
    "TaskMeasures",
    "Transcript",
    "Turn",
    "TwoPhase",
    "TwoPhaseResult",
    "Verdict",
    "compare",
    "coordination_metrics",
    "costs",
    "detectable_difference",
    "evaluate",
    "forgetting_resilience",
    "fuar",
    "graph_worth",
    "incremental_plasticity",
    "item_efforts",
    "lessons",
    "make_item",
    "mcnemar",
    "normalise",
    "paired_bootstrap",
    "read_answer",
    "report",
    "run_report",
    "tasks",
    "transcripts",
    "wilson",
    "windowed_forgetting",
    "windowed_plasticity",
]
