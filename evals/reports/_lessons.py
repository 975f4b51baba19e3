"""Reports of graph runs: how items were taught, read from the blackboard."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from docendo.evals.reports._parts import Transcript, Turn
from docendo.evals.reports._report import ReportData, costs

if TYPE_CHECKING:
    from docendo.graphs import Run


def lessons(run: Run, *, most: int = 2) -> tuple[Transcript, ...]:
    """How items were taught: the first `most`, by id, that were solved after a failure, then any others.

    Args:
        run: A finished run of a graph that posts attempts, hints, verdicts and demonstrations.
        most: Most items to show.
    """

    def late(item: str) -> bool:
        outcome = run.outcomes[item]
        return not (outcome.get("solved") and len(outcome.get("attempts", ())) > 1)

    chosen = sorted(run.outcomes, key=lambda item: (late(item), item))[:most]
    return tuple(_lesson(run, item) for item in chosen)


def run_report(run: Run) -> ReportData:
    """The report of a graph run: outcomes, cost per role and a few lessons. Render it with `report`."""
    summary = run.summary()
    config = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    return ReportData(
        title=run.name,
        task=str(config.get("graph", "")),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        costs=costs({"role": role, **used} for role, used in summary["usage"].items()),
        phases=(("run", run.seconds),),
        transcripts=lessons(run, most=5),
        config=config,
        seed=config.get("seed"),
        notes=(
            f"{summary['solved']} of {summary['items']} items were solved, {summary['failed']} failed.",
            f"Hints refused because they stated the answer: {summary['hints_refused']}.",
        ),
    )


def _lesson(run: Run, item: str) -> Transcript:
    turns: list[Turn] = []
    question = ""
    for post in run.board.posts(run=run.name, item=item):
        if post.kind == "task":
            question = str(post.body["question"])
        elif post.kind == "verdict" and turns:
            turns[-1] = turns[-1].replace(correct=bool(post.body["correct"]))
        elif "text" in post.body:
            shown = True if post.kind == "demonstration" else None
            turns.append(
                Turn(kind=post.kind, role=post.author.role, text=str(post.body["text"]), correct=shown)
            )
    return Transcript(question=question, taught=tuple(turns))
