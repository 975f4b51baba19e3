"""`docendo board taint | quarantine | release`: what descends from a post, and taking it out."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docendo.cli import _board as cli
from docendo.cli._board import app

if TYPE_CHECKING:
    from docendo.memory import Taint
    from docendo.records import Author

_Post = Annotated[str, typer.Argument(help="Id of the post, as `docendo board show --json` prints it.")]
_Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept with the post.")]
_By = Annotated[str, typer.Option("--by", help="Who decides; by default the user of this machine.")]


@app.command(epilog="Example: docendo board taint runs/demo 54defbe390bcde97")
def taint(path: cli._Path, post: _Post, board: cli._Board = "main", as_json: cli._Json = False) -> None:
    """Show what descends from a post: posts, turns, rows of data sets, adapters."""
    with cli._open(path, board) as blackboard:
        _show(blackboard.taint(post), as_json=as_json)


@app.command(epilog="Example: docendo board quarantine runs/demo 54defbe390bcde97 --reason 'made up'")
def quarantine(
    path: cli._Path,
    post: _Post,
    reason: _Reason,
    by: _By = "",
    board: cli._Board = "main",
    as_json: cli._Json = False,
) -> None:
    """Take a post out, with all that follows from it: views do not show it and training leaves it out."""
    _decide("quarantine", path, post, reason=reason, by=by, board=board, as_json=as_json)


@app.command(epilog="Example: docendo board release runs/demo 54defbe390bcde97 --reason 'checked by hand'")
def release(
    path: cli._Path,
    post: _Post,
    reason: _Reason,
    by: _By = "",
    board: cli._Board = "main",
    as_json: cli._Json = False,
) -> None:
    """End a post's quarantine, and that of all that was quarantined because of it and nothing else."""
    _decide("release", path, post, reason=reason, by=by, board=board, as_json=as_json)


def _decide(what: str, path: str, post: str, *, reason: str, by: str, board: str, as_json: bool) -> None:
    from docendo.memory import Blackboard

    with cli._database(path, read_only=False) as database:
        blackboard: Any = Blackboard(database, name=board)
        _show(getattr(blackboard, what)(post, by=_person(by), reason=reason), as_json=as_json)


def _person(name: str) -> Author:
    from docendo.records import Author

    return Author(agent=name or getpass.getuser(), role="person")


def _show(found: Taint, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    typer.echo(f"{found} ({'quarantined' if found.quarantined else 'not quarantined'})")
    for name, ids in (("posts", found.posts), ("data sets", found.datasets), ("adapters", found.adapters)):
        for one in ids:
            typer.echo(f"  {name}: {one}")
