"""`docendo board`: look at a blackboard, follow it, search it, check it, export it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docendo.cli._board_text import Lines, parse_since, safe, timeline_lines
from docendo.cli._export import choose_format, line, write_jsonl, write_parquet

if TYPE_CHECKING:
    from docendo.memory import Blackboard, Database, Post

app = typer.Typer(
    name="board",
    no_args_is_help=True,
    help="Show, follow, search, verify and export a blackboard.",
    add_completion=False,
)

# Text, not Path: a path would make one slash of the two in a URL.
_Path = Annotated[
    str, typer.Argument(help="A database file, a run folder that holds one, or postgresql://user@host/name.")
]
_Board = Annotated[str, typer.Option("--board", help="Name of the board.")]
_Kind = Annotated[str | None, typer.Option("--kind", help="Only this kind, such as attempt or verdict.")]
_Channel = Annotated[str | None, typer.Option("--channel", help="Only on this channel.")]
_Item = Annotated[str | None, typer.Option("--item", help="Only posts about this item.")]
_Run = Annotated[str | None, typer.Option("--run", help="Only posts of this run.")]
_Agent = Annotated[str | None, typer.Option("--agent", help="Only posts of this agent.")]
_Trust = Annotated[
    str | None, typer.Option("--trust", help="Only posts that are unverified, verified or quarantined.")
]
_After = Annotated[int, typer.Option("--after", min=0, help="Only posts after this sequence number.")]
_Since = Annotated[
    str | None, typer.Option("--since", help="Only posts since then: 90s, 2h, 3d ago, or a date (UTC).")
]
#: Boards with more records show progress while they are verified.
_LONG = 20_000
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command(epilog="Example: docendo board show runs/quickstart --kind hint --limit 10")
def show(
    path: _Path,
    board: _Board = "main",
    kind: _Kind = None,
    channel: _Channel = None,
    item: _Item = None,
    run: _Run = None,
    agent: _Agent = None,
    trust: _Trust = None,
    after: _After = 0,
    since: _Since = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many posts.")] = 50,
    newest: Annotated[bool, typer.Option("--newest", help="The last ones instead of the first.")] = False,
    as_json: _Json = False,
) -> None:
    """List posts in the order in which they were written: number, kind, author, trust, item, content.

    With --json each line is a post in full.
    """
    from docendo.memory import stream_posts

    with _open(path, board) as blackboard:
        filters = _filters(kind=kind, channel=channel, item=item, run=run, agent=agent, trust=trust)
        start = _since(blackboard, since)
        if newest:
            found = blackboard.posts(after=after, limit=limit, newest=True, **filters)
            posts = [post for post in found if start is None or post.created >= start]
        else:
            posts = [*stream_posts(blackboard, after=after, since=start, limit=limit + 1, **filters)]
        _require_board(blackboard)
    more, posts = len(posts) > limit, posts[:limit]
    if as_json:
        for post in posts:
            typer.echo(line(post.to_json()))
        return
    if not posts:
        typer.echo("No posts.")
        return
    lines = Lines()
    lines.fit(posts)
    for post in posts:
        typer.echo(lines.line(post))
    if more:
        typer.echo(f"More follow: add --after {posts[-1].seq}")


@app.command(epilog="Example: docendo board tail postgresql://tutor@server/class --kind verdict --json")
def tail(
    path: _Path,
    board: _Board = "main",
    kind: _Kind = None,
    channel: _Channel = None,
    item: _Item = None,
    run: _Run = None,
    agent: _Agent = None,
    trust: _Trust = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Show so many old posts first.")] = 10,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="End after so many seconds without a post.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show the last posts, then new ones of any process as they come, until Ctrl-C.

    --trust looks at the trust that a post has when it comes.
    """
    with _open(path, board) as blackboard:
        filters = _filters(kind=kind, channel=channel, item=item, run=run, agent=agent, trust=trust)
        newest = blackboard.posts(limit=1, newest=True)
        old = blackboard.posts(limit=lines, newest=True, **filters)
        if not newest:
            _say_boards(blackboard)
        shown = Lines()
        shown.fit(old)
        after = max((post.seq for post in (*newest, *old)), default=0)
        filters.pop("trust", None)
        coming: Iterable[Post] = blackboard.subscribe(after=after, timeout=timeout, **filters)
        for posts in (old, coming):
            for post in posts:
                if trust in (None, post.trust):
                    typer.echo(line(post.to_json()) if as_json else shown.line(post))


@app.command(epilog="Example: docendo board search runs/demo carry the one")
def search(
    path: _Path,
    words: Annotated[list[str], typer.Argument(help="What to look for; any of the words will do.")],
    board: _Board = "main",
    kind: _Kind = None,
    channel: _Channel = None,
    item: _Item = None,
    run: _Run = None,
    trust: _Trust = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many posts.")] = 10,
    as_json: _Json = False,
) -> None:
    """Find posts by their words, best first: score, then as in `show`.

    With --json each line is a score and a post in full.
    """
    with _open(path, board) as blackboard:
        filters = _filters(kind=kind, channel=channel, item=item, run=run, trust=trust)
        hits = blackboard.search(" ".join(words), limit=limit, **filters)
        _require_board(blackboard)
    if as_json:
        for hit in hits:
            typer.echo(line(hit.to_json()))
        return
    if not hits:
        typer.echo("No posts.")
    lines = Lines()
    lines.fit(hit.post for hit in hits)
    for hit in hits:
        typer.echo(lines.line(hit.post, first=f"{hit.score:6.2f}  "))


@app.command(epilog="Example: docendo board timeline runs/demo gsm8k-17")
def timeline(
    path: _Path,
    item: Annotated[str, typer.Argument(help="The item's id.")],
    board: _Board = "main",
    run: _Run = None,
    as_json: _Json = False,
) -> None:
    """Show what became of one item: posts, turns and changes of trust of all agents, in order.

    A post shows the numbers of the posts it answers to after "<-". A turn shows node and step, tokens and
    rewards. With --json each line is one entry in full.
    """
    from docendo import memory
    from docendo.errors import DataError

    with _open(path, board) as blackboard:
        entries = memory.timeline(blackboard, item, run=run)
        _require_board(blackboard)
        if not entries:
            where = f" of run {run!r}" if run else ""
            raise DataError(
                f"nothing on board {board!r} is about item {item!r}{where}",
                remedy="see the items with: docendo board show",
            )
    for text in (
        map(line, (entry.to_json() for entry in entries)) if as_json else timeline_lines(item, entries)
    ):
        typer.echo(text)


@app.command(epilog="Example: docendo board verify runs/quickstart")
def verify(path: _Path, as_json: _Json = False) -> None:
    """Recompute all checksums and name every damaged record; exit with code 1 if there is one.

    Covers all boards, the journal, the traces and the runs in the database.
    """
    from docendo import memory
    from docendo.progress import progress

    with _database(path) as database:
        total = memory.count_chained(database)
        with progress("records of boards", total, quiet=total < _LONG) as shown:
            reports = memory.verify(database, told=shown.advance)
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
            typer.echo(safe(str(report), 0))
    if damaged:
        raise typer.Exit(1)


@app.command(epilog="Example: docendo board export runs/demo --traces --output traces.parquet")
def export(
    path: _Path,
    board: _Board = "main",
    kind: _Kind = None,
    channel: _Channel = None,
    item: _Item = None,
    run: _Run = None,
    agent: _Agent = None,
    trust: _Trust = None,
    after: _After = 0,
    since: _Since = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="Export traces (for `docendo distill`) instead of posts.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write this file instead of stdout.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="jsonl or parquet; else as the file's name ends."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Write posts, or traces, as JSON lines or parquet.

    With --output the file appears whole or not at all. --json then prints what was written, on stdout.
    Traces are chosen by --run, --item and --limit alone.
    """
    from docendo.errors import ConfigError
    from docendo.memory import Post, TraceStore, stream_posts, stream_traces
    from docendo.records import Record, Trace

    chosen = choose_format(form, output)
    filters = _filters(kind=kind, channel=channel, agent=agent, trust=trust)
    if traces and (given := [*filters, *(["after"] if after else []), *(["since"] if since else [])]):
        raise ConfigError(f"--{given[0]} is given with --traces", expected="--run, --item or --limit")
    with _open(path, board) as blackboard:
        records: Iterable[Record]
        if traces:
            records = stream_traces(TraceStore(blackboard.database), run=run, item=item, limit=limit)
        else:
            _require_board(blackboard)
            start = _since(blackboard, since)
            filters |= _filters(run=run, item=item)
            records = stream_posts(blackboard, after=after, since=start, limit=limit, **filters)
        if output is None:
            for record in records:
                typer.echo(line(record.to_json()))
            return
        if chosen == "parquet":
            count = write_parquet(output, records, Trace if traces else Post)
        else:
            count = write_jsonl(output, records)
    result = {"output": str(output), "records": count}
    typer.echo(json.dumps(result) if as_json else f"Wrote {count} records to {output}")


@app.command(epilog="Example: docendo board reindex runs/demo")
def reindex(path: _Path, as_json: _Json = False) -> None:
    """Make the full-text index anew, for all boards of a database."""
    from docendo.memory import Blackboard

    with _database(path, read_only=False) as database:
        count = Blackboard(database).reindex()
    typer.echo(json.dumps({"path": path, "posts": count}) if as_json else f"Indexed {count} posts.")


@contextmanager
def _database(path: str, *, read_only: bool = True) -> Iterator[Database]:
    """Opens the database at a path or URL; a run folder may hold exactly one."""
    # Ctrl-C in the middle of a query: the connection is dropped, which is nothing to tell anybody.
    logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())
    from docendo.errors import DataError
    from docendo.memory import Database

    if "://" not in path and (folder := Path(path).expanduser()).is_dir():
        found = sorted(entry for pattern in ("*.db", "*.sqlite") for entry in folder.glob(pattern))
        if len(found) != 1:
            names = ", ".join(entry.name for entry in found) or "none"
            raise DataError(
                f"the folder {path} holds {len(found)} databases ({names})",
                expected="one",
                remedy="name the database file",
            )
        path = str(found[0])
    if "://" not in path and _is_something_else(Path(path)):
        raise DataError(f"{path} is no database", expected="a database made by docendo, or a run folder")
    with Database.open(path, create=False, read_only=read_only) as database:
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
def _open(path: str, board: str) -> Iterator[Blackboard]:
    from docendo.memory import Blackboard

    with _database(path) as database:
        yield Blackboard(database, name=board)


def _filters(**given: str | None) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _since(blackboard: Blackboard, text: str | None) -> float | None:
    return None if text is None else parse_since(text, blackboard.database.now())


def _require_board(blackboard: Blackboard) -> None:
    """A mistyped board name must not look like an empty board."""
    from docendo.errors import DataError

    names = blackboard.names(blackboard.database)
    if names and blackboard.name not in names:
        raise DataError(
            f"--board {blackboard.name!r} has no posts in {blackboard.database.label}",
            expected=f"one of {', '.join(names)}",
        )


def _say_boards(blackboard: Blackboard) -> None:
    """Says that nothing is there yet; a board that is followed may be written to later."""
    from docendo.progress import say

    names = ", ".join(blackboard.names(blackboard.database))
    others = f" (boards with posts: {names})" if names else ""
    say(f"waiting for the first post on board {blackboard.name!r}{others}")


# Further commands of the same name; below, because they use what is above.
from docendo.cli import _board_trust  # noqa: E402, F401
