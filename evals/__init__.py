"""What is true: tasks, scorers, evaluation, paired statistics and reports."""

from __future__ import annotations

from docendo.evals.comparison._compare import PairedComparison, Verdict, compare
from docendo.evals.harness._evaluate import evaluate
from docendo.evals.harness._records import EvalRecord, Sample
from docendo.evals.harness._results import EvalCost, EvalResult
from docendo.evals.items._scorer import ExactScorer, make_item, normalise, read_answer
from docendo.evals.items._tasks import Task, tasks
from docendo.evals.reports._lessons import lessons, run_report
from docendo.evals.reports._report import Arm, Cost, ReportData, Transcript, Turn, costs, report, transcripts
from docendo.evals.statistics._stats import detectable_difference, mcnemar, paired_bootstrap, wilson

__all__ = [
    "Arm",
    "Cost",
    "EvalCost",
    "EvalRecord",
    "EvalResult",
    "ExactScorer",
    "PairedComparison",
    "ReportData",
    "Sample",
    "Task",
    "Transcript",
    "Turn",
    "Verdict",
    "compare",
    "costs",
    "detectable_difference",
    "evaluate",
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
]
