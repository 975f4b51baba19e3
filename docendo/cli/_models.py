"""`docendo models`: list, fetch and locate models."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="models", no_args_is_help=True, help="List, fetch and locate models.", add_completion=False
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command("list", epilog="Example: docendo models list --json")
def list_models(as_json: _Json = False) -> None:
    """List the models that need no hub, with size, licence and whether they are here already.

    Hub models (org/name) and local folders work everywhere a model is asked for and are not listed.
    """
    from docendo.agents import models

    rows: list[dict[str, Any]] = []
    for card in models.catalogue():
        row = {
            "name": card.name,
            "description": card.description,
            "megabytes": card.megabytes,
            "parameters": card.parameters,
            "license": card.license,
            "license_url": card.license_url or None,
            "chat": card.chat,
            "path": str(models.path(card.name)) if models.is_cached(card.name) else None,
        }
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        here = "here" if row["path"] else f"{row['megabytes']} MB"
        typer.echo(f"{row['name']:<{width}}  {here:>6}  {row['license']:<18}  {row['description']}")


@app.command(epilog="Example: docendo models pull smollm2-135m-instruct")
def pull(
    name: Annotated[str, typer.Argument(help="A catalogue name, or a hub id such as org/name.")],
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept the model's terms, which `models list` names.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch and convert again, even if it is here.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Fetch a model, check it, convert it once, and print its folder.

    Does nothing if the model is already in the cache (DOCENDO_CACHE, else the user's cache folder).
    """
    from docendo.agents import models

    _show(name, models.pull(name, accept_license=accept_license, force=force), as_json)


@app.command(epilog="Example: ls $(docendo models path smollm2-135m-instruct)")
def path(
    name: Annotated[str, typer.Argument(help="A catalogue name.")],
    as_json: _Json = False,
) -> None:
    """Print the folder of a model that has been fetched."""
    from docendo.agents import models

    _show(name, models.path(name), as_json)


def _show(name: str, folder: Any, as_json: bool) -> None:
    typer.echo(json.dumps({"name": name, "path": str(folder)}) if as_json else str(folder))
