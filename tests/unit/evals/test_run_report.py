"""The report of a graph run is read from its blackboard."""

from __future__ import annotations

from pathlib import Path

import docendo
from docendo import ScriptedEngine, Student, Teacher, Tutor, Verifier, evals, graphs
from docendo.evals import ExactScorer, lessons, make_item, run_report
from docendo.records import Request


def _run(folder: Path) -> graphs.Run:
    items = [make_item("What is 2 + 2?", 4), make_item("What is 1 + 2?", 3)]

    def script(request: Request) -> list[str]:
        texts = {"student": "Answer: 3", "tutor": "count again", "teacher": "Answer: 4"}
        return [texts[request.origin.role]] * request.sampling.n

    engine = ScriptedEngine(script)
    graph = graphs.tutoring(
        student=Student(engine),
        tutor=Tutor(engine),
        teacher=Teacher(engine),
        verifier=Verifier(ExactScorer()),
    )
    return docendo.run(graph, items, name="told", folder=folder, quiet=True)


def test_lessons_show_the_taught_item_first_with_verdicts(tmp_path: Path) -> None:
    with _run(tmp_path) as run:
        first, second = lessons(run)
    assert first.question == "What is 2 + 2?"
    shown = [(turn.kind, turn.role, turn.correct) for turn in first.taught]
    assert shown == [
        ("attempt", "student", False),
        ("hint", "tutor", None),
        ("attempt", "student", False),
        ("demonstration", "teacher", True),
    ]
    assert [(turn.kind, turn.correct) for turn in second.taught] == [("attempt", True)]


def test_the_report_of_a_run_counts_what_happened(tmp_path: Path) -> None:
    with _run(tmp_path) as run:
        data = run_report(run)
        page = evals.report(data)
    assert data.notes[0] == "2 of 2 items were solved, 0 failed."
    assert {cost.role: cost.calls for cost in data.costs} == {"student": 3, "tutor": 1, "teacher": 1}
    assert "count again" in page
    assert evals.ReportData.from_json(data.to_json()) == data
