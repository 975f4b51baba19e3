"""`docendo recipes`: the published methods that are built in, and one's own."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

if TYPE_CHECKING:
    from docendo.registry import Recipe, Scale

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, write and run recipes.",
    epilog="Example: docendo recipes list --json",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_SCALE = typer.Option(help="tiny (does it run?), laptop or gpu (what is reported).")


@app.command("list")
def list_recipes(
    json_: Json = False, limit: Annotated[int | None, typer.Option(help="Show only the first ones.")] = None
) -> None:
    """List the recipes by room, with what their stored results show.

    Example: docendo recipes list
    """
    from docendo.errors import ConfigError
    from docendo.registry import recipes

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", expected="1 or more")
    cards = [each.card() for each in recipes()][:limit]
    if json_:
        print(json.dumps(cards, indent=2))
        return
    width = max((len(card["id"]) for card in cards), default=0)
    for card in cards:
        print(f"{card['id']:<{width}}  {card['room']:<8}  {card['status']:<14}  {card['title']}")


@app.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="Id of the recipe, or FILE.py of one's own.")],
    json_: Json = False,
) -> None:
    """Show a recipe: paper, claim, cost, settings, and what its stored results say.

    Example: docendo recipes show teach-and-distill
    """
    from docendo.evals import experiments
    from docendo.registry import get_recipe

    found = get_recipe(recipe)
    config = found.config()
    settings = {f.name: config.to_json()[f.name] for f in dataclasses.fields(config)}
    scales = {
        scale: {name: found.configure({}, scale=cast("Scale", scale)).to_json()[name] for name in changes}
        for scale, changes in found.scales.items()
    }
    if json_:
        facts = {**found.card(), "settings": settings, "scales": scales, "results": found.results()}
        print(json.dumps(facts, indent=2))
        return
    for name, value in found.card().items():
        shown = ", ".join(value) or "nothing" if isinstance(value, list) else value
        print(f"{name:<9}{shown}")
    print("settings")
    for name, value in settings.items():
        print(f"  {name} = {json.dumps(value)}")
    for scale, changes in scales.items():
        print(f"scale {scale}: {', '.join(f'{key} = {json.dumps(value)}' for key, value in changes.items())}")
    for scale, stored in found.results().items():
        print(f"result at scale {scale}, {stored['date']}, commit {stored['commit']}")
        if "findings" in stored:
            print(experiments.text(stored))


@app.command("run")
def run(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of recipes, or FILE.py of one's own.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Run all recipes that this machine can run.")] = False,
    scale: Annotated[str, _SCALE] = "tiny",
    seed: Annotated[int, typer.Option(help="First seed.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with runs that were stopped.")] = False,
    record: Annotated[
        Path | None, typer.Option(help="Store the results in this folder, such as evals/results.")
    ] = None,
    json_: Json = False,
) -> None:
    """Run recipes one after the other; writes runs/ID-SCALE for each (and -seed-SEED, if it is not 0).

    What has finished stays, so that an interrupted call goes on with --resume. A recipe whose claim does not
    hold has run like any other; the exit code is 1 only if one could not be run.

    Examples:
    docendo recipes run --all --scale tiny

    docendo recipes run teach-and-distill --scale laptop --record evals/results
    """
    from docendo.errors import ConfigError, DocendoError
    from docendo.files import require_writable
    from docendo.progress import say
    from docendo.registry import Scale, get_recipe, recipes

    if every == bool(ids):
        raise ConfigError("which recipes is not clear", expected="their ids, or --all")
    if scale not in get_args(Scale):
        raise ConfigError(f"--scale is {scale!r}", expected=f"one of {', '.join(get_args(Scale))}")
    if record is not None:
        require_writable(record)
    chosen = list(zip(ids, map(get_recipe, ids), strict=True)) if ids else [(r.id, r) for r in recipes()]
    rows = []
    for what, each in chosen:
        row: dict[str, Any] = {"id": each.id, "scale": scale}
        began = time.monotonic()
        if every and (lacking := each.missing()):
            row |= {"outcome": "skipped", "reason": "; ".join(lacking)}
        elif every and scale not in each.has:
            row |= {"outcome": "skipped", "reason": f"it has no scale {scale}"}
        else:
            say(f"{each.id}, scale {scale}")
            try:
                row |= _once(what, each, cast("Scale", scale), seed=seed, resume=resume, record=record)
            except DocendoError as error:
                if not every:
                    raise
                row |= {"outcome": "failed", "reason": str(error)}
        row["seconds"] = round(time.monotonic() - began, 1)
        rows.append(row)
    _tell(rows, json_=json_)
    if any(row["outcome"] == "failed" for row in rows):
        raise typer.Exit(1)


def _once(
    what: str, recipe: Recipe, scale: Scale, *, seed: int, resume: bool, record: Path | None
) -> dict[str, Any]:
    """Runs a recipe and stores its result, if a folder is given."""
    from docendo.cli._launch import Launch, start
    from docendo.errors import ResumeError
    from docendo.evals import experiments

    name = f"{recipe.id}-{scale}" + (f"-seed-{seed}" if seed else "")
    if not resume and Path("runs", name).exists():
        raise ResumeError(
            f"runs/{name} exists", remedy="add --resume to go on with it, or remove that folder"
        )
    summary = start(Launch(what=what, seed=seed, scale=scale), name=name, resume=resume)
    stored = experiments.result(recipe, scale, summary)
    row = {"outcome": stored["status"], "folder": f"runs/{name}"}
    if record is not None:
        row["result"] = str(experiments.store(stored, record))
    return row


def _tell(rows: list[dict[str, Any]], *, json_: bool) -> None:
    if json_:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(row["id"]) for row in rows)
    for row in rows:
        where = row.get("reason") or row.get("folder", "")
        print(f"{row['id']:<{width}}  {row['outcome']:<14}  {row['seconds']:>7.1f} s  {where}")


@app.command("new")
def new(
    id: Annotated[str, typer.Argument(help="Id of the new recipe: lower-case words with dashes.")],
    folder: Annotated[
        Path, typer.Option(help="Where its file goes: any folder, or recipes/ of a room of docendo.")
    ] = Path(),
) -> None:
    """Write the file of a new recipe, which runs as it is: fill in the method.

    Example: docendo recipes new my-method
    """
    from docendo.errors import ConfigError
    from docendo.evals.experiments import new_recipe
    from docendo.files import write_text

    text = new_recipe(id)
    path = folder / f"{id.replace('-', '_')}.py"
    if path.exists():
        raise ConfigError(f"{path} exists", remedy="choose another id or folder")
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", remedy="make it, or choose another")
    write_text(path, text)
    print(f"{path}\nrun it: docendo recipes run {path}")


@app.command("page")
def page(
    output: Annotated[Path | None, typer.Option(help="File to write; none prints it.")] = None,
) -> None:
    """Write the page of all recipes and their results, as Markdown, and its figures into figures/ beside it.

    Example: docendo recipes page --output docs/recipes.md
    """
    from docendo.evals import experiments
    from docendo.files import write_text
    from docendo.registry import recipes

    text = experiments.page(recipes())
    if output is None:
        print(text, end="")
        return
    for name, svg in experiments.figures(recipes()).items():
        write_text(output.parent / "figures" / name, svg)
    write_text(output, text)
