"""`docendo runs`: what was run, what became of it, and how to go on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docendo.cli._eval import parse_settings
from docendo.cli._launch import Launch, start
from docendo.cli._run import show as show_summary
from docendo.errors import ConfigError, ResumeError

if TYPE_CHECKING:
    from docendo.graphs import Pruned, RunInfo

app = typer.Typer(
    name="runs",
    no_args_is_help=True,
    help="List, resume, fork, compare and delete runs.",
    add_completion=False,
)

_Name = Annotated[str, typer.Argument(help="The run's name.")]
_Where = Annotated[
    str, typer.Option("--in", help="A folder of runs, a run folder, a database file or a database URL.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@app.command("list", epilog="Example: docendo runs list --in runs")
def list_(
    where: _Where = "runs",
    every: Annotated[bool, typer.Option("--all", help="Also pruned runs, of which posts are left.")] = False,
    as_json: _Json = False,
) -> None:
    """List runs, oldest first: name, graph, status, items done, failed and in all, start, seconds, tokens.

    A run that says "stopped" was killed: it can be resumed.
    """
    from docendo.graphs import list_runs

    found = list_runs(where, pruned=every)
    if as_json:
        typer.echo(json.dumps([info.to_json() for info in found], indent=2))
        return
    if not found:
        typer.echo(f"No runs in {where}.")
        return
    rows = [("run", "graph", "status", "done", "failed", "items", "started", "seconds", "tokens")]
    rows += [_row(info) for info in found]
    for line in _table(rows, left=3):
        typer.echo(line)
    for info in found:
        if info.problem:
            typer.echo(f"{info.run}: {_one_line(info.problem)}", err=True)


@app.command(epilog="Example: docendo runs show quickstart")
def show(name: _Name, where: _Where = "runs", as_json: _Json = False) -> None:
    """Show a run: settings, outcomes, failures by reason, usage by role, files, and how to resume it."""
    from docendo.graphs import describe_run

    facts = describe_run(name, where)
    resume = _how_to_resume(name, where, facts)
    if as_json:
        typer.echo(json.dumps({**facts, "resume": resume}, indent=2))
        return
    for key in ("run", "graph", "status", "holder", "parent"):
        if facts[key]:
            typer.echo(f"{key:<10}{_one_line(facts[key])}")
    total = "" if facts["total"] is None else f" of {facts['total']}"
    typer.echo(
        f"{'items':<10}{facts['done']} done, {facts['failed']} failed{total}, {facts['solved']} solved"
    )
    for reason, count in facts["failures"].items():
        typer.echo(f"{'':<10}{count} x {_one_line(reason)}")
    typer.echo(f"{'started':<10}{_time(facts['started'])}, {facts['seconds']:.1f} s of work")
    typer.echo(f"{'stored':<10}{facts['posts']} posts, {facts['traces']} traces in {facts['database']}")
    if facts["usage"]:
        rows = [("role", "calls", "prompt tokens", "generated", "seconds")]
        rows += [
            (role, used["calls"], used["prompt_tokens"], used["generated_tokens"], f"{used['seconds']:.1f}")
            for role, used in sorted(facts["usage"].items())
        ]
        for line in _table(rows, left=1):
            typer.echo(f"{'':<10}{line}")
    for file in facts["files"]:
        typer.echo(f"{'file':<10}{file}")
    for key, value in facts["config"].items():
        typer.echo(f"{'setting':<10}{key} = {_one_line(json.dumps(value, ensure_ascii=False))}")
    typer.echo(f"{'resume':<10}{resume}")


@app.command(epilog="Example: docendo runs resume quickstart")
def resume(name: _Name, where: _Where = "runs", as_json: _Json = False) -> None:
    """Go on with a run that was stopped, with the arguments it was started with."""
    from docendo.graphs import find_run

    source, row = find_run(name, where)
    launch = Launch.of(row.origin, name)
    folder = _folder(source, row.origin, name)
    # The database is named only if it lies elsewhere; a stored URL would lack its password.
    database = None if folder / "docendo.db" == source else source
    summary = start(launch, name=name, folder=folder.parent, resume=True, database=database)
    show_summary(summary, json_=as_json)


@app.command(epilog="Example: docendo runs fork quickstart --set rounds=2 --name two-rounds")
def fork(
    name: _Name,
    where: _Where = "runs",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="What to change, name=value: seed, limit or a setting; repeatable."),
    ] = None,
    graph: Annotated[str | None, typer.Option(help="Another FILE.py:NAME.")] = None,
    new: Annotated[str | None, typer.Option("--name", help="Name of the new run; by default NAME-2.")] = None,
    as_json: _Json = False,
) -> None:
    """Start a new run from an old one, with changes; calls that have not changed are not made again.

    A call is the same if model, prompt, decoding settings and seed are. The old run is not touched.
    """
    from docendo.graphs import find_run, list_runs

    source, row = find_run(name, where)
    launch = Launch.of(row.origin, name).changed(parse_settings(settings or [], reserved=()))
    if graph is not None:
        if launch.recipe:
            raise ConfigError(
                "--graph is for runs of a graph", remedy="start another recipe with docendo run"
            )
        launch = launch.replace(
            what=str(Path(graph.rpartition(":")[0]).absolute()) + ":" + graph.rpartition(":")[2]
        )
    folder = _folder(source, row.origin, name)
    own = folder / "docendo.db" == source
    taken = {info.run for info in list_runs(where, pruned=True)}
    chosen = new or next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)
    if chosen in taken:
        raise ResumeError(f"run {chosen!r} exists already", remedy="choose another --name")
    summary = start(
        launch,
        name=chosen,
        folder=folder.parent,
        resume=False,
        database=None if own else source,
        parent=folder.absolute() if own else name,
    )
    show_summary(summary, json_=as_json)


@app.command(epilog="Example: docendo runs diff quickstart quickstart-2")
def diff(
    before: Annotated[str, typer.Argument(help="Name of the first run.")],
    after: Annotated[str, typer.Argument(help="Name of the second run.")],
    where: _Where = "runs",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many items.")] = 10,
    as_json: _Json = False,
) -> None:
    """Compare two runs: settings, items whose outcome differs, the first turn that differs, usage."""
    from docendo.graphs import diff_runs

    found = diff_runs(before, after, where=where)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    for change in found.config:
        typer.echo(f"setting  {_change(change)}")
    typer.echo(
        f"items    {found.same} the same, {len(found.items)} differ, "
        f"{len(found.only_before)} only in {before}, {len(found.only_after)} only in {after}"
    )
    for entry in found.items[:limit]:
        typer.echo(f"\nitem {_one_line(entry['item'])}")
        for change in entry["fields"]:
            typer.echo(f"  {_change(change)}")
        turn = entry["turn"]
        if turn is not None:
            why = " (asked otherwise)" if turn["prompt_differs"] else ""
            typer.echo(f"  first in {turn['node']}, step {turn['step']}, sample {turn['sample']}{why}")
            for side in ("before", "after"):
                text = "no such turn" if turn[side] is None else _one_line(turn[side])
                typer.echo(f"    {side:<7}{text}")
    if len(found.items) > limit:
        typer.echo(f"\n{len(found.items) - limit} more items differ: add --limit {len(found.items)}")
    for role, used in found.usage.items():
        sides = ", ".join(f"{side} {_used(used[side])}" for side in ("before", "after"))
        typer.echo(f"usage    {role}: {sides}")


@app.command(epilog="Example: docendo runs prune --status failed --older-than 7d --yes")
def prune(
    names: Annotated[list[str] | None, typer.Argument(help="Names of runs.")] = None,
    where: _Where = "runs",
    status: Annotated[
        list[str] | None, typer.Option(help="Only runs of this status, such as failed; repeatable.")
    ] = None,
    older_than: Annotated[str | None, typer.Option(help="Only runs started longer ago: 12h, 7d, 4w.")] = None,
    keep: Annotated[int | None, typer.Option(min=0, help="Leave the newest so many alone.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would go.")] = False,
    as_json: _Json = False,
) -> None:
    """Delete runs for good. Without --yes nothing is changed. Running runs are left alone.

    A run with its own database goes with its folder. From a database that runs share, its outcomes, traces
    and the calls that no other run asked for are taken; its posts stay, because a board is one chain from
    which nothing can be taken, and its name stays taken with them.
    """
    from docendo.graphs import prune_runs

    found = prune_runs(
        where,
        names=names or (),
        status=status or (),
        older_than=None if older_than is None else _seconds(older_than),
        keep=keep,
        dry=not yes,
    )
    if as_json:
        typer.echo(json.dumps({"deleted": yes, "runs": [done.to_json() for done in found]}, indent=2))
        return
    for done in found:
        typer.echo(f"{'deleted' if yes else 'would delete'}  {done.run} ({done.status}): {_what(done)}")
    if not found:
        typer.echo("No runs fit.")
    elif not yes:
        typer.echo("Nothing was changed: add --yes.")


def _row(info: RunInfo) -> tuple[Any, ...]:
    total = "-" if info.total is None else info.total
    counts = (info.done, info.failed, total)
    name = f"{info.run} < {info.parent}" if info.parent else info.run
    started = _time(info.started) if info.started else "-"
    return (name, info.graph or "-", info.status, *counts, started, f"{info.seconds:.1f}", info.tokens)


def _table(rows: Iterable[tuple[Any, ...]], *, left: int) -> list[str]:
    """Aligns columns: the first `left` to the left, the others to the right."""
    cells = [[_one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    aligned = (
        [
            cell.ljust(w) if n < left else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    )
    return ["  ".join(row).rstrip() for row in aligned]


def _how_to_resume(name: str, where: str, facts: Mapping[str, Any]) -> str:
    if facts["status"] == "running":
        return f"it is running in {facts['holder']}"
    if facts["status"] == "pruned":
        return "it was pruned: only its posts are left"
    try:
        Launch.of(facts["origin"], name)
    except ResumeError as error:
        return str(error.remedy)
    return f"docendo runs resume {name}" + ("" if where == "runs" else f" --in {where}")


def _folder(source: str | Path, origin: Mapping[str, Any], name: str) -> Path:
    """The run's folder: where its database lies now, or where it was started."""
    if isinstance(source, Path) and source.name == "docendo.db" and source.parent.name == name:
        return source.parent
    return Path(str(origin.get("folder") or Path("runs") / name))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smhdw])", text)
    if found is None:
        raise ConfigError(f"--older-than is {text!r}", expected="a number and s, m, h, d or w, such as 7d")
    return float(int(found[1]) * _UNITS[found[2]])


def _what(done: Pruned) -> str:
    parts = [f"folder {done.folder} ({done.bytes / 1e6:.1f} MB)"] if done.folder else []
    if done.removed is not None:
        gone = done.removed
        parts.append(
            f"{gone.items} outcomes, {gone.traces} traces, {gone.calls} calls from {done.database}; "
            f"{gone.posts} posts stay on the board"
        )
    return ", ".join(parts)


def _change(change: Mapping[str, Any]) -> str:
    sides = (
        _one_line(json.dumps(change[side], ensure_ascii=False)) if side in change else "not set"
        for side in ("before", "after")
    )
    return f"{change['field']}: {' -> '.join(sides)}"


def _used(used: Mapping[str, Any] | None) -> str:
    if used is None:
        return "no calls"
    return f"{used['calls']} calls, {used['prompt_tokens'] + used['generated_tokens']} tokens"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _one_line(text: str, width: int = 100) -> str:
    """One line that a terminal shows as it is: what a model wrote may hold control characters."""
    joined = " ".join(str(text).split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
    return shown if len(shown) <= width else shown[: width - 1] + "…"
