"""`docendo tasks`: what tasks there are, and what a question of one looks like."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(
    name="tasks", no_args_is_help=True, help="List and show generated tasks.", add_completion=False
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command("list", epilog="Example: docendo tasks list")
def list_tasks(as_json: _Json = False) -> None:
    """List the generators of reasoning_gym, with the attributes that have levels."""
    from docendo.evals import task_info, task_names

    rows = [task_info(name) for name in task_names()]
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows], indent=2, ensure_ascii=False))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        levels = ", ".join(f"{name} 0-{last}" for name, last in row.levels.items())
        typer.echo(
            f"{row.name:<{width}}  {'compact' if row.compact else '':<7}  {levels or 'no levels'}".rstrip()
        )


@app.command(epilog="Example: docendo tasks show chain_sum --level 2 --compact")
def show(
    name: Annotated[str, typer.Argument(help="Name of a generator.")],
    level: Annotated[int | None, typer.Option(help="Level of difficulty, from 0.")] = None,
    levels: Annotated[
        list[str] | None, typer.Option(help="Level of one attribute, such as num_terms=2; repeatable.")
    ] = None,
    compact: Annotated[bool, typer.Option(help="Show questions in their shortest form.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting such as max_terms=3; repeatable.")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of example questions.")] = 2,
    seed: Annotated[int, typer.Option(help="Which questions.")] = 0,
    as_json: _Json = False,
) -> None:
    """Show a generator's settings, its levels, and training questions with their answers."""
    from docendo.cli._eval import RESERVED_LEVELS, level_arguments, parse_settings
    from docendo.evals import task_info, tasks
    from docendo.evals.items._tasks import reference

    info = task_info(name)
    task = tasks(
        f"reasoning_gym:{name}",
        train=count,
        test=0,
        seed=seed,
        **parse_settings(settings or [], reserved=RESERVED_LEVELS),
        **level_arguments(level, levels, compact=compact),
    )
    shown = [
        {"question": item.public.question, "answer": reference(item) or "(can only be verified)"}
        for item in task.train
    ]
    in_force = {key: task.config[key] for key in info.settings}
    if as_json:
        line = {**info.to_json(), "settings": in_force, "examples": shown}
        typer.echo(json.dumps(line, indent=2, ensure_ascii=False))
        return
    for key, value in in_force.items():
        typer.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    for key, last in info.levels.items():
        typer.echo(f"levels of {key}: 0 to {last}")
    for example in shown:
        typer.echo(f"\n{example['question'].strip()}\n=> {example['answer']}")
