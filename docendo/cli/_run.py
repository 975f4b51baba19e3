"""`docendo run`: a recipe, or a graph of one's own, over a task."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from docendo.cli._eval import RESERVED as _RESERVED
from docendo.cli._eval import parse_settings, run_folder
from docendo.errors import ConfigError

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Setting of the recipe or task, name=value; repeatable.")
]


def command(
    what: Annotated[str, typer.Argument(help="A recipe's id, or FILE.py:NAME of a compiled graph.")],
    task: Annotated[
        str | None, typer.Option(help="For a graph: reasoning_gym:NAME, a .jsonl file, or datasets:PATH.")
    ] = None,
    settings: Settings = None,
    train: Annotated[
        int | None, typer.Option(help="For a graph: number of training items (100, or --limit).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Run only the first items (for a recipe: train and test items).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of items and sampling.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the run; its folder is runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run of this name that was stopped.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a recipe, or a graph over a task's training items; writes runs/NAME.

    Examples:
    docendo run teach-and-distill --set rounds=1 --name one-round

    docendo run examples/tutoring.py:graph --task reasoning_gym:chain_sum --set max_terms=3 --limit 20
    """
    chosen = parse_settings(settings or [], reserved=_RESERVED if ":" in what else ("seed",))
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", expected="1 or more")
    if ":" in what:
        summary = _graph(what, task, chosen, train=train, limit=limit, seed=seed, name=name, resume=resume)
    else:
        from docendo.registry import get_recipe

        if task is not None or train is not None:
            raise ConfigError(
                "--task and --train are for graphs",
                remedy="set a recipe's with --set task=... --set train=...",
            )
        recipe = get_recipe(what)
        sizes = {"train": limit, "test": limit} if limit is not None else {}
        config = recipe.configure({"seed": seed, **sizes, **chosen})
        summary = recipe.run(config, folder=run_folder(name or what), resume=resume)
    if json_:
        print(json.dumps(summary, indent=2))
        return
    for key, value in summary.items():
        if not isinstance(value, (dict, list)):
            print(f"{key:<14}{value}")


def _graph(
    what: str, task: str | None, settings: dict[str, Any], *, limit: int | None, **options: Any
) -> dict[str, Any]:
    from docendo import evals, graphs
    from docendo.files import write_text

    if task is None:
        raise ConfigError("a graph needs items", remedy="add --task reasoning_gym:chain_sum or a .jsonl file")
    if options["resume"] and options["name"] is None:
        raise ConfigError("--resume was given without --name", remedy="name the run to go on with")
    graph = load_graph(what)
    train = options.pop("train")
    train = (limit or 100) if train is None else train
    made = evals.tasks(task, train=train, test=0, seed=options["seed"], **settings)
    with graphs.run(graph, made.train[:limit], **options) as finished:
        path = finished.folder / "report.html"
        write_text(path, evals.report(evals.run_report(finished)))
        return {**finished.summary(), "folder": str(finished.folder), "report": str(path)}


def load_graph(what: str) -> Any:
    """Imports the graph `FILE.py:NAME`; NAME may also be a function that returns the graph.

    Raises:
        ConfigError: if the file or the name is missing.
    """
    path, _, attribute = what.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path!r}", expected="FILE.py:NAME of a compiled graph")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file", expected="FILE.py:NAME of a compiled graph")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    graph = getattr(module, attribute, None)
    if callable(graph) and not hasattr(graph, "ainvoke"):
        graph = graph()
    if not hasattr(graph, "ainvoke"):
        raise ConfigError(
            f"{path} has no compiled graph {attribute!r}", expected="FILE.py:NAME of a compiled graph"
        )
    return graph
