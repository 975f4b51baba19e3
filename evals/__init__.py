"""What is true: tasks, scorers, evaluation, paired statistics and reports."""

from __future__ import annotations

from docendo.evals._compare import PairedComparison, Verdict, compare
from docendo.evals._evaluate import evaluate
from docendo.evals._lessons import lessons, run_report
from docendo.evals._report import Arm, Cost, ReportData, Transcript, Turn, costs, report, transcripts
from docendo.evals._results import EvalRecord, EvalResult
from docendo.evals._scorer import ExactScorer, make_item, normalise, read_answer
from docendo.evals._stats import detectable_difference, mcnemar, paired_bootstrap, wilson
from docendo.evals._tasks import Task, tasks

__all__ = [
    "Arm",
    "Cost",
    "EvalRecord",
    "EvalResult",
    "ExactScorer",
    "PairedComparison",
    "ReportData",
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
