"""`docendo board`: look at a blackboard, check it, export it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from docendo.memory import Blackboard, Database, Post

app = typer.Typer(
    name="board", no_args_is_help=True, help="Show, verify and export a blackboard.", add_completion=False
)

_Path = Annotated[Path, typer.Argument(help="A database file, or a run folder that holds one.")]
_Board = Annotated[str, typer.Option("--board", help="Name of the board.")]
_Kind = Annotated[
    str | None, typer.Option("--kind", help="Only task, attempt, verdict, hint, demonstration or lesson.")
]
_Item = Annotated[str | None, typer.Option("--item", help="Only posts about this item.")]
_Run = Annotated[str | None, typer.Option("--run", help="Only posts of this run.")]
_After = Annotated[int, typer.Option("--after", help="Only posts after this sequence number.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

_TEXT_WIDTH = 72


@app.command(epilog="Example: docendo board show runs/quickstart --kind hint --limit 10")
def show(
    path: _Path,
    board: _Board = "main",
    kind: _Kind = None,
    item: _Item = None,
    run: _Run = None,
    after: _After = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many posts.")] = 50,
    as_json: _Json = False,
) -> None:
    """List posts in the order in which they were written: number, kind, author, trust, item, content.

    With --json each line is a post in full.
    """
    with _open(path, board) as blackboard:
        posts = _posts(blackboard, kind=kind, item=item, run=run, after=after, limit=limit + 1)
        _require_board(blackboard)
    more, posts = len(posts) > limit, posts[:limit]
    if as_json:
        for post in posts:
            typer.echo(_line(post.to_json()))
        return
    if not posts:
        typer.echo("No posts.")
        return
    width = max(len(str(posts[-1].seq)), 3)
    agents = max(len(_safe(post.author.agent, 16)) for post in posts)
    for post in posts:
        agent, name, text = (
            _safe(post.author.agent, 16),
            _safe(post.item, 12),
            _safe(_summary(post), _TEXT_WIDTH),
        )
        facts = f"{post.seq:>{width}}  {post.kind:<13}  {agent:<{agents}}  {post.trust:<11}  {name:<12}"
        typer.echo(f"{facts}  {text}".rstrip())
    if more:
        typer.echo(f"More follow: add --after {posts[-1].seq}")


@app.command(epilog="Example: docendo board verify runs/quickstart")
def verify(path: _Path, as_json: _Json = False) -> None:
    """Recompute all checksums and name every damaged record; exit with code 1 if there is one.

    Covers all boards, the journal, the traces and the runs in the database.
    """
    from docendo import memory

    with _database(path) as database:
        reports = memory.verify(database)
    damaged = sum(len(report.damage) for report in reports)
    if as_json:
        value = {
            "path": str(path),
            "ok": damaged == 0,
            "reports": [{**report.to_json(), "ok": report.ok} for report in reports],
        }
        typer.echo(json.dumps(value, indent=2))
    else:
        for report in reports:
            typer.echo(_safe(str(report), 0))
    if damaged:
        raise typer.Exit(1)


@app.command(epilog="Example: docendo board export runs/demo --traces --output traces.jsonl")
def export(
    path: _Path,
    board: _Board = "main",
    kind: _Kind = None,
    item: _Item = None,
    run: _Run = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="Export traces (for `docendo distill`) instead of posts.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write this file instead of stdout.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Write posts, or traces, as JSON lines.

    With --output the file appears whole or not at all. --json then prints what was written, on stdout.
    """
    from docendo.files import write_text
    from docendo.memory import TraceStore

    records: list[Any]
    if traces:
        with _database(path) as database:
            records = [*TraceStore(database).find(run=run, item=item)][:limit]
    else:
        with _open(path, board) as blackboard:
            records = [*_posts(blackboard, kind=kind, item=item, run=run, limit=limit)]
            _require_board(blackboard)
    lines = [_line(record.to_json()) for record in records]
    if output is None:
        for line in lines:
            typer.echo(line)
        return
    write_text(output, "".join(f"{line}\n" for line in lines))
    result = {"output": str(output), "records": len(lines)}
    typer.echo(json.dumps(result) if as_json else f"Wrote {len(lines)} records to {output}")


@contextmanager
def _database(path: Path) -> Iterator[Database]:
    """Opens the database at a path read-only; a run folder may hold exactly one."""
    from docendo.errors import DataError
    from docendo.memory import Database

    if path.is_dir():
        found = sorted(entry for pattern in ("*.db", "*.sqlite") for entry in path.glob(pattern))
        if len(found) != 1:
            names = ", ".join(entry.name for entry in found) or "none"
            raise DataError(
                f"the folder {path} holds {len(found)} databases ({names})",
                expected="one",
                remedy="name the database file",
            )
        path = found[0]
    if _is_something_else(path):
        raise DataError(f"{path} is no database", expected="a database made by docendo, or a run folder")
    with Database.open(path, read_only=True) as database:
        yield database


def _is_something_else(path: Path) -> bool:
    """Whether a file cannot even be a damaged database: most of the bytes all databases begin with differ."""
    magic = b"SQLite format 3\0"
    try:
        with path.open("rb") as file:
            start = file.read(len(magic))
    except OSError:
        return False  # opening it says why
    return bool(start.strip(b"\0")) and sum(a == b for a, b in zip(start, magic, strict=False)) < 8


@contextmanager
def _open(path: Path, board: str) -> Iterator[Blackboard]:
    from docendo.memory import Blackboard

    with _database(path) as database:
        yield Blackboard(database, name=board)


def _posts(blackboard: Blackboard, *, kind: str | None, **filters: Any) -> list[Post]:
    return blackboard.posts(kind=kind, **filters)


def _require_board(blackboard: Blackboard) -> None:
    """A mistyped board name must not look like an empty board."""
    from docendo.errors import DataError

    names = blackboard.names(blackboard.database)
    if names and blackboard.name not in names:
        raise DataError(
            f"--board {blackboard.name!r} has no posts in {blackboard.database.label}",
            expected=f"one of {', '.join(names)}",
        )


def _line(value: Any) -> str:
    # Escaped as ASCII where text holds lone surrogates, which no stream can encode.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _summary(post: Post) -> str:
    """Returns the text of a post if it has one, else its body as JSON."""
    for field in ("text", "question", "answer", "hint"):
        value = post.body.get(field)
        if isinstance(value, str) and value:
            return value
    return json.dumps(post.body, ensure_ascii=False)


def _safe(text: str, width: int) -> str:
    """Makes text that a model wrote harmless for a terminal: no control or formatting characters.

    Args:
        width: Cuts the text to this many characters; 0 keeps it all, line breaks included.
    """
    kept = "\n" if not width else ""
    joined = text if not width else " ".join(text.split())
    shown = "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in joined
    )
    return shown if not width or len(shown) <= width else shown[: width - 1] + "…"
