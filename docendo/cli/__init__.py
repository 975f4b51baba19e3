"""The command line. `main` is the console command `docendo`.

A command's module is imported when the command is used, so `docendo --help` needs neither torch nor
transformers. Each module `docendo/cli/_<name>.py` (of `lm-eval`: `_lm_eval.py`) exposes either `app`, a
`typer.Typer` with sub-commands, or `command`, a function.

Exit codes: 0 done; 1 a failure of a model or of the machine; 2 wrong input or configuration, or a file or
folder that cannot be read or written;
130 stopped with Ctrl-C; 141 the reader of the output went away.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from docendo.errors import ConfigError, DocendoError, UserError

__all__ = ["app", "main"]

_COMMANDS = {
    "quickstart": "Teach a small model; measure before and after.",
    "models": "List, fetch and locate models.",
    "run": "Run a graph or a recipe over a task.",
    "runs": "List, resume, fork, compare and delete runs.",
    "tasks": "List and show generated tasks.",
    "eval": "Measure a model on a task.",
    "compare": "Compare evaluations of the same items.",
    "report": "Show evaluations on one page.",
    "lm-eval": "Run lm-eval on this engine.",
    "distill": "Train a LoRA adapter from verified traces.",
    "learn": "Train a candidate; promote it only if it is better.",
    "adapters": "Keep, compare, promote, merge and export adapters.",
    "board": "Show, follow, search, verify and export a blackboard.",
    "work": "Answer the requests of a board in a process of its own.",
    "recipes": "List the published methods.",
}


class _LazyGroup(TyperGroup):
    """Knows each command's name and summary; loads the command itself only to run it or to show its help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in _COMMANDS:
            self.commands[name] = _load(name)
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    """Imports one command and returns it in click's form."""
    module_name = f"{__name__}._{name.replace('-', '_')}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ConfigError(
            f"the command {name!r} is not part of this version", remedy="see `docendo --help` for the others"
        ) from error
    sub = getattr(module, "app", None)
    if sub is None:
        sub = typer.Typer(name=name, add_completion=False)
        sub.command(name=name)(module.command)
    # Plain help: square brackets in a docstring are text, not markup.
    sub.rich_markup_mode = None
    loaded = typer.main.get_command(sub)
    loaded.name = name
    return loaded


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"docendo {version('docendo')}")
        raise typer.Exit


app = typer.Typer(
    name="docendo",
    cls=_LazyGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: docendo quickstart. `docendo COMMAND --help` explains a command, with an example.",
)


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Local language models that teach each other, remember, and learn from it."""


def _placeholder() -> None:
    """Stands in the group until `_LazyGroup` loads the command."""


for _name, _summary in _COMMANDS.items():
    app.command(_name, help=_summary)(_placeholder)


# The root of what typer raises for wrong arguments, wherever the installed version keeps it.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


def _usage(error: Any) -> str:
    """One line for wrong arguments; a group that lacks its command says what there is."""
    message = str(error.format_message()).strip()
    if "\n" in message:
        return message
    command = error.ctx.command_path if getattr(error, "ctx", None) else "docendo"
    return f"error: {message.rstrip('.')}; see `{command} --help`."


# Not `_run`: importing the module of that name, the command `run`, would take its place.
def _dispatch(args: list[str] | None) -> int:
    try:
        code = typer.main.get_command(app)(args=args, prog_name="docendo", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _CommandLineError as error:
        print(_usage(error), file=sys.stderr)
        return 2
    except typer.Abort:  # what Ctrl-C becomes on its way
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer turns it into exit code 1
            raise stop.__context__ from None
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except DocendoError as error:
        kind = "error" if isinstance(error, UserError) else f"error ({error.code})"
        print(f"{kind}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def main(args: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code; an error docendo knows is one line on stderr.

    Example:
        >>> main(["models", "path", "no-such-model"])
        2
    """
    try:
        try:
            code = _dispatch(args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`docendo models list | head -1`). Python would complain once more when it
        # flushes at exit, so the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if code == 130:
        print("stopped", file=sys.stderr)
    return code
