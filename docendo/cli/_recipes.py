"""`docendo recipes`: the published methods that are built in."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="List and show recipes.", epilog="Example: docendo recipes list --json"
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_recipes(
    json_: Json = False, limit: Annotated[int | None, typer.Option(help="Show only the first ones.")] = None
) -> None:
    """List the recipes by room.

    Example: docendo recipes list
    """
    from docendo.registry import recipes

    cards = [each.card() for each in recipes()][:limit]
    if json_:
        print(json.dumps(cards, indent=2))
        return
    width = max((len(card["id"]) for card in cards), default=0)
    for card in cards:
        print(f"{card['id']:<{width}}  {card['room']:<8}  {card['status']:<14}  {card['title']}")


@app.command("show")
def show(recipe: Annotated[str, typer.Argument(help="Id of the recipe.")], json_: Json = False) -> None:
    """Show a recipe: paper, claim, cost and settings.

    Example: docendo recipes show teach-and-distill
    """
    from docendo.registry import get_recipe

    found = get_recipe(recipe)
    config = found.config()
    settings = {f.name: config.to_json()[f.name] for f in dataclasses.fields(config)}
    if json_:
        print(json.dumps({**found.card(), "settings": settings}, indent=2))
        return
    for name, value in found.card().items():
        print(f"{name:<9}{value}")
    print("settings")
    for name, value in settings.items():
        print(f"  {name} = {json.dumps(value)}")
