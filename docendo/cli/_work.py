"""`docendo work`: volunteers in a process of their own, which serve the requests of a board."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docendo.errors import ConfigError
from docendo.loading import load_named

if TYPE_CHECKING:
    from docendo.agents import Volunteer, Worker
    from docendo.agents._work import Event
    from docendo.memory import Database

_WIDTH = 60
_EXPECTED = "FILE.py:NAME of a volunteer"


def command(
    board: Annotated[str, typer.Option(help="Database file, run folder, or postgresql:// URL.")],
    helper: Annotated[
        list[str],
        typer.Option(help="FILE.py:NAME of a volunteer, or a function that makes some; repeatable."),
    ],
    model: Annotated[
        str | None, typer.Option(help="Model for functions that take an engine; as in `docendo eval`.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when there is nothing left to do.")] = False,
    lease: Annotated[
        float, typer.Option(help="Seconds until the claims of this process are free if it dies.")
    ] = 30.0,
    name: Annotated[
        str, typer.Option(help="Name that a restarted worker takes up its own claims by; unique.")
    ] = "",
    concurrency: Annotated[int, typer.Option(help="Most requests answered at once.")] = 4,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> None:
    """Answer the requests of a board with volunteers, until Ctrl-C.

    A volunteer is an object of docendo.agents.NoteKeeper, or a function under @docendo.agents.volunteers. Any
    number of workers may serve one board; a worker that dies is replaced when its lease runs out. The
    first Ctrl-C finishes what is claimed, the second gives it back at once.

    Example: docendo work --board runs/demo --helper examples/volunteers.py:birds
    """
    from docendo.agents import Worker, open_engine
    from docendo.memory import Blackboard

    loaded = [(what, load_named(what, prefix="own_helper", expected=_EXPECTED)) for what in helper]
    needing = [what for what, value in loaded if _wants_engine(value)]
    if needing and model is None:
        raise ConfigError(f"{needing[0]} makes its volunteers with a model", remedy="add --model")
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(_database(board))
        engine = None
        if model is not None:
            engine = stack.enter_context(contextlib.closing(open_engine(model)))
        volunteers = [one for what, value in loaded for one in _made(what, value, engine)]
        worker = Worker(
            Blackboard(database),
            volunteers,
            name=name,
            lease=lease,
            concurrency=concurrency,
            notify=(lambda event: None) if quiet else _show,
        )
        if not quiet:
            names = ", ".join(volunteer.name for volunteer in volunteers)
            _say(f"{worker.name} serves {database.label} with {names}; lease {lease:g} s; Ctrl-C ends it")
        answered = asyncio.run(_run(worker, once=once, quiet=quiet))
        if not quiet:
            _say(f"ended; {answered} answered")


async def _run(worker: Worker, *, once: bool, quiet: bool) -> int:
    stop = asyncio.Event()
    work = asyncio.ensure_future(worker.run(once=once, stop=stop))
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if stop.is_set():
            work.cancel()
            return
        stop.set()
        if not quiet:
            _say("stopping: finishes what is claimed; once more gives it back")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        return await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _show(event: Event) -> None:
    text = " ".join(event.request.split())
    shown = "".join(c if c.isprintable() else "?" for c in text[:_WIDTH]) + "…" * (len(text) > _WIDTH)
    note = f" ({event.confidence:.2f})" if event.what == "offered" else ""
    note = f" in {event.seconds:.1f} s" if event.what in ("answered", "late", "failed") else note
    _say(f"{event.volunteer} {event.what}{note}: {shown}")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def _database(board: str) -> Database:
    """Opens the database of a file, a run's folder or a server; it has to be there."""
    from docendo.memory import DATABASE, Database

    path = Path(board)
    if "://" not in board and path.is_dir():
        return Database.open(path / DATABASE, create=False)
    return Database.open(board, create=False)


def _wants_engine(value: Any) -> bool:
    if not callable(value) or _is_volunteer(value):
        return False
    required = [
        parameter
        for parameter in inspect.signature(value).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    return bool(required)


def _is_volunteer(value: Any) -> bool:
    from docendo.agents import Volunteer

    return isinstance(value, Volunteer) and not inspect.isclass(value)


def _made(what: str, value: Any, engine: Any) -> Sequence[Volunteer]:
    """The volunteers that a name stands for."""
    if callable(value) and not _is_volunteer(value):
        value = value(engine) if _wants_engine(value) else value()
    found = list(value) if isinstance(value, (list, tuple)) else [value]
    for one in found:
        if not _is_volunteer(one):
            raise ConfigError(
                f"{what} is a {type(one).__name__}",
                expected="a volunteer, a list of them, or a function that makes some",
                remedy="see docendo.agents.volunteers",
            )
    return found
