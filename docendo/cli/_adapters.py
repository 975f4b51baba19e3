"""`docendo adapters`: keep, compare, promote, merge and export adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from docendo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from docendo.distill import Adapter, AdapterRegistry, Promotion

app = typer.Typer(
    name="adapters",
    no_args_is_help=True,
    help="Keep, compare, promote, merge and export adapters.",
    add_completion=False,
)

_Ref = Annotated[str, typer.Argument(help="NAME, NAME@ALIAS, or 8 or more digits of the SHA-256.")]
_Alias = Annotated[str, typer.Argument(help="NAME@ALIAS, such as student@prod.")]
_Where = Annotated[Path, typer.Option("--in", help="Folder of the registry.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
_HERE = Path("registry")


@app.command("add", epilog="Example: docendo adapters add runs/quickstart/adapter student")
def add(
    folder: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    name: Annotated[str, typer.Argument(help="Its name in the registry.")],
    where: _Where = _HERE,
    as_json: _Json = False,
) -> None:
    """Keep a copy of an adapter under a name; adding it again changes nothing."""
    _show(_registry(where).add(folder, name), as_json)


@app.command("list", epilog="Example: docendo adapters list --in registry")
def list_(where: _Where = _HERE, as_json: _Json = False) -> None:
    """List adapters: name, SHA-256, aliases, base model, method, when it was added.

    Every file is checked; what is damaged is said on stderr.
    """
    found = _registry(where).list()
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in found], indent=2))
        return
    if not found:
        typer.echo(f"No adapters in {where}.")
        return
    rows = [("name", "sha256", "aliases", "base", "method", "added")]
    for row in found:
        aliases = " ".join(alias.partition("@")[2] for alias in row.aliases)
        method = "damaged" if row.problem else row.method
        rows.append(
            (row.name, row.sha256[:12], aliases or "-", row.base or "-", method or "-", row.added[:19])
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for line in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for row in found:
        if row.problem:
            typer.echo(f"{row.name}: {' '.join(row.problem.split())}", err=True)


@app.command("show", epilog="Example: docendo adapters show student@prod")
def show(ref: _Ref, where: _Where = _HERE, as_json: _Json = False) -> None:
    """Show an adapter: metrics, all that it descends from, and the moves of its aliases."""
    registry = _registry(where)
    adapter, lineage = registry.get(ref), registry.lineage(ref)
    rows = [row for row in registry.list() if row.sha256 == adapter.sha256]
    moves = [move for row in rows for alias in row.aliases for move in registry.history(alias)]
    if as_json:
        facts = {
            **_facts(adapter),
            "aliases": [alias for row in rows for alias in row.aliases],
            "lineage": lineage.to_json(),
            "history": [move.to_json() for move in moves],
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{'name':<10}{', '.join(row.name for row in rows)}")
    typer.echo(f"{'sha256':<10}{adapter.sha256}")
    typer.echo(f"{'path':<10}{adapter.path}")
    typer.echo(f"{'aliases':<10}{', '.join(alias for row in rows for alias in row.aliases) or 'none'}")
    typer.echo(f"{'learnt':<10}{lineage.turns} turns, {lineage.posts} posts")
    for key, value in adapter.metrics.items():
        typer.echo(f"{'metric':<10}{key} = {value:g}")
    for line in str(lineage).splitlines():
        typer.echo(f"{'lineage':<10}{line}")
    for move in moves:
        typer.echo(f"{'history':<10}{_move(move)}")


@app.command("diff", epilog="Example: docendo adapters diff student@prod student")
def diff(before: _Ref, after: _Ref, where: _Where = _HERE, as_json: _Json = False) -> None:
    """Compare two adapters: settings, data, metrics, and the changes that they make to each layer."""
    found = _registry(where).diff(before, after)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else str(found))


@app.command(
    "promote",
    epilog="Example: docendo compare runs/before runs/after --json > verdict.json && "
    "docendo adapters promote student prod --verdict verdict.json",
)
def promote(
    ref: _Ref,
    alias: Annotated[str, typer.Argument(help="The alias, such as prod.")],
    where: _Where = _HERE,
    verdict: Annotated[
        Path | None, typer.Option(help="JSON of docendo compare, or with verdict and reason.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Without evidence that it is better.")] = False,
    reason: Annotated[str, typer.Option(help="Why it is forced; kept in the history.")] = "",
    as_json: _Json = False,
) -> None:
    """Point an alias to an adapter, if a comparison says that it is better.

    Without --verdict, or with another verdict than "better", it is refused; --force and --reason overrule it.
    """
    said = _verdict(verdict) if verdict is not None else None
    _show_move(_registry(where).promote(ref, alias, verdict=said, force=force, reason=reason), as_json)


@app.command("rollback", epilog="Example: docendo adapters rollback student@prod")
def rollback(
    alias: _Alias,
    where: _Where = _HERE,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    as_json: _Json = False,
) -> None:
    """Point an alias back to what it pointed to before."""
    _show_move(_registry(where).rollback(alias, reason=reason), as_json)


@app.command("merge", epilog="Example: docendo adapters merge long short --name both --weights 0.5,0.5")
def merge(
    refs: Annotated[list[str], typer.Argument(help="Two or more adapters of one base model.")],
    name: Annotated[str, typer.Option(help="Name of the merged adapter.")],
    where: _Where = _HERE,
    weights: Annotated[
        str | None, typer.Option(help="A number for each, such as 0.5,0.5; equal ones by default.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="cat (exact), average (exact, least rank), or peft:ties and the like.")
    ] = "cat",
    rank: Annotated[
        int | None, typer.Option(help="Cut the average to this rank; the error is shown.")
    ] = None,
    density: Annotated[float | None, typer.Option(help="Share of values that pruning keeps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random pruning.")] = 0,
    unknown_lineage: Annotated[
        bool, typer.Option("--unknown-lineage", help="Also where some name the turns they learnt from.")
    ] = False,
    database: Annotated[
        str | None, typer.Option(help="Refuse what is quarantined there, and record the merge.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Merge adapters into one and add it to the registry; exact unless it says otherwise."""
    registry = _registry(where)
    with _database(database) as opened:
        merged = registry.merge(
            refs,
            name=name,
            weights=_numbers(weights),
            method=method,
            rank=rank,
            density=density,
            seed=seed,
            unknown_lineage=unknown_lineage,
            database=opened,
        )
    _show(merged, as_json)


@app.command("export", epilog="Example: docendo adapters export student@prod share/student --format merged")
def export(
    ref: _Ref,
    folder: Annotated[Path, typer.Argument(help="Folder to write; an adapter there is replaced.")],
    where: _Where = _HERE,
    format: Annotated[
        str, typer.Option(help="peft, or merged: the base model with the adapter in it.")
    ] = "peft",
    model: Annotated[
        str | None, typer.Option(help="For merged: the base model, if not the name that was recorded.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="For merged: auto (that of the base), float32, bfloat16.")
    ] = "auto",
    as_json: _Json = False,
) -> None:
    """Write an adapter for others, with a model card; a merged model is checked by its logits."""
    registry = _registry(where)
    path = registry.export(ref, folder, format=cast(Any, format), model=model, dtype=cast(Any, dtype))
    facts = {"path": str(path), "sha256": registry.resolve(ref), "format": format}
    typer.echo(json.dumps(facts, indent=2) if as_json else str(path))


def _registry(where: Path) -> AdapterRegistry:
    from docendo.distill import AdapterRegistry

    return AdapterRegistry(where)


def _facts(adapter: Adapter) -> dict[str, Any]:
    return {
        "name": adapter.name,
        "sha256": adapter.sha256,
        "path": str(adapter.path),
        "base": adapter.base,
        "metrics": dict(adapter.metrics),
    }


def _show(adapter: Adapter, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_facts(adapter), indent=2))
        return
    errors = [
        f", {key.replace('_', ' ')} {adapter.metrics[key]:.2g}"
        for key in ("sum_error", "truncation_error")
        if key in adapter.metrics
    ]
    typer.echo(f"{adapter.name} {adapter.sha256[:12]} in {adapter.path}{''.join(errors)}")


def _show_move(move: Promotion, as_json: bool) -> None:
    typer.echo(json.dumps(move.to_json(), indent=2) if as_json else _move(move))


def _move(move: Promotion) -> str:
    said = f", {(move.verdict or {}).get('verdict')}" if move.verdict else ""
    forced = ", forced" if move.forced else ""
    reason = f": {' '.join(move.reason.split())}" if move.reason else ""
    return f"{move.at[:19]} {move.action} {move.alias} to {move.sha256[:12]}{said}{forced}{reason}"


def _verdict(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"--verdict {path} cannot be read ({error})", expected="JSON as docendo compare --json prints it"
        ) from error


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights is {text!r}", expected="numbers such as 0.5,0.5") from None


@contextmanager
def _database(where: str | None) -> Iterator[Any]:
    from docendo.memory import Database

    if where is None:
        yield None
        return
    if "://" not in where and not Path(where).is_file():
        raise DataError(f"there is no database at {where}", expected="a file written by a run, or a URL")
    with Database.open(where) as database:
        yield database
