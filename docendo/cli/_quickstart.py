"""`docendo quickstart`: the main job, with its defaults."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from docendo.cli._launch import Launch, start


def command(
    student: Annotated[
        str, typer.Option(help="Model that learns: catalogue name, folder or hub id.")
    ] = "smollm2-135m-instruct",
    teacher: Annotated[
        str | None,
        typer.Option(help="Model that demonstrates; by default the student's base with more compute."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Use only so many training and test items each, for a trial.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of teaching and training.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of items, sampling and training.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the run; its folder is runs/NAME.")] = "quickstart",
    resume: Annotated[bool, typer.Option(help="Go on with a run of this name that was stopped.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Teach a small model: measure it, let agents teach it, fine-tune it, measure again.

    Writes runs/NAME with summary.json, items.jsonl, the database, the adapters and report.html.

    Example: docendo quickstart --teacher smollm2-135m-instruct --seed 1 --name second-seed
    """
    from docendo.progress import say

    settings: dict[str, Any] = {"student": student, "teacher": teacher}
    if rounds is not None:
        settings["rounds"] = rounds
    launch = Launch(what="teach-and-distill", settings=settings, limit=limit, seed=seed)
    summary = start(launch, name=name, resume=resume)
    if json_:
        print(json.dumps(summary, indent=2))
        return
    before, after = summary["before"], summary["after"]
    low, high = summary["interval"]
    say("")
    print(f"before   {before['accuracy']:6.1%}  ({before['correct']}/{before['n']})")
    print(f"after    {after['accuracy']:6.1%}  ({after['correct']}/{after['n']})")
    print(f"change   {summary['difference']:+6.1%}  (95 % interval {low:+.1%} to {high:+.1%})")
    print(f"p        {summary['p_value']:.2g}  (exact McNemar)")
    print(f"verdict  {summary['verdict']}")
    print(f"report   {summary['report']}")
