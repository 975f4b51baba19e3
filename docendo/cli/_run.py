"""`docendo run`: a recipe, or a graph of one's own, over a task."""

from __future__ import annotations

import json
from typing import Annotated, Any, cast

import typer

from docendo.cli._eval import RESERVED as _RESERVED
from docendo.cli._eval import parse_settings
from docendo.cli._launch import Launch, start

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Setting of the recipe or task, name=value; repeatable.")
]


def command(
    what: Annotated[
        str, typer.Argument(help="A recipe's id or its FILE.py, or FILE.py:NAME of a compiled graph.")
    ],
    task: Annotated[
        str | None, typer.Option(help="For a graph: reasoning_gym:NAME, a .jsonl file, or datasets:PATH.")
    ] = None,
    settings: Settings = None,
    train: Annotated[
        int | None, typer.Option(help="For a graph: number of training items (100, or --limit).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Run only the first items (for a recipe: train and test items).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of items and sampling.")] = 0,
    scale: Annotated[
        str, typer.Option(help="For a recipe: tiny (does it run?), laptop or gpu (what is reported).")
    ] = "laptop",
    name: Annotated[str | None, typer.Option(help="Name of the run; its folder is runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run of this name that was stopped.")] = False,
    database: Annotated[
        str | None, typer.Option(help="For a graph: a database file or URL that several runs share.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a recipe, or a graph over a task's training items; writes runs/NAME.

    What it was called with is kept with the run: `docendo runs resume NAME` goes on with it.

    Examples:
    docendo run teach-and-distill --set rounds=1 --name one-round

    docendo run examples/tutoring.py:graph --task reasoning_gym:chain_sum --set max_terms=3 --limit 20
    """
    launch = Launch(what=what, task=task, train=train, limit=limit, seed=seed, scale=cast(Any, scale))
    reserved = ("seed",) if launch.recipe else _RESERVED
    launch = launch.replace(settings=parse_settings(settings or [], reserved=reserved))
    show(start(launch, name=name, resume=resume, database=database), json_=json_)


def show(summary: dict[str, Any], *, json_: bool) -> None:
    """Prints a summary: as JSON, or its numbers and names a line each."""
    if json_:
        print(json.dumps(summary, indent=2))
        return
    for key, value in summary.items():
        if not isinstance(value, (dict, list)):
            print(f"{key:<14}{value}")
