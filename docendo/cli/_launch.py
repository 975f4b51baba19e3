"""Starting what `docendo run` was asked for, and starting it again from what was stored with the run."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docendo.cli._eval import run_folder
from docendo.errors import ConfigError, ResumeError
from docendo.loading import load_file
from docendo.records import Record
from docendo.registry import Recipe, Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch(Record):
    """What a run is started with, as JSON: enough to start it again.

    Attributes:
        what: A recipe's id or its FILE.py, or FILE.py:NAME of a graph.
        task: Of a graph: where its items come from.
        settings: Settings of the recipe, or of the graph's task.
        train: Of a graph: number of training items.
        limit: Only the first items; of a recipe, training and test items.
        seed: Seed of items and sampling.
        scale: Of a recipe: how large it is run.
        cwd: The folder that names of files in it are relative to.
    """

    what: str
    task: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    train: int | None = None
    limit: int | None = None
    seed: int = 0
    scale: Scale = "laptop"
    cwd: str = ""

    @property
    def recipe(self) -> bool:
        """Whether it is a recipe, and not a graph."""
        return ":" not in self.what

    def check(self) -> None:
        """Checks what does not need the task or the recipe.

        Raises:
            ConfigError: naming the option.
        """
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}", expected="1 or more")
        if self.recipe and (self.task is not None or self.train is not None):
            raise ConfigError(
                "--task and --train are for graphs",
                remedy="set a recipe's with --set task=... --set train=...",
            )
        if not self.recipe and self.scale != "laptop":
            raise ConfigError("--scale is for recipes", remedy="size a graph with --train or --limit")
        if not self.recipe and self.task is None:
            raise ConfigError(
                "a graph needs items", remedy="add --task reasoning_gym:chain_sum or a .jsonl file"
            )

    def changed(self, settings: Mapping[str, Any]) -> Launch:
        """Returns a copy with other values: of its own fields by name, and of settings by theirs.

        Example:
            >>> Launch(what="own-recipe", settings={"rounds": 1}).changed({"seed": 2, "rounds": 3}).to_json()
            {'what': 'own-recipe', 'task': None, 'settings': {'rounds': 3}, 'train': None, 'limit': None,
             'seed': 2, 'scale': 'laptop', 'cwd': ''}
        """
        own = {"seed", "limit"} if self.recipe else {"seed", "limit", "train", "task"}
        fields = {name: value for name, value in settings.items() if name in own}
        for name in fields.keys() & {"seed", "limit", "train"}:
            if not isinstance(fields[name], int) or isinstance(fields[name], bool):
                raise ConfigError(f"--set {name} is {fields[name]!r}", expected="a whole number")
        others = {name: value for name, value in settings.items() if name not in own}
        return self.replace(**fields, settings={**self.settings, **others})

    @classmethod
    def of(cls, origin: Mapping[str, Any], run: str) -> Launch:
        """What a stored run was started with.

        Raises:
            ResumeError: if it was started from Python, naming the call to make instead.
        """
        stored = origin.get("launch")
        if isinstance(stored, Mapping):
            known = cls.__dataclass_fields__
            return cls(**{name: value for name, value in stored.items() if name in known})
        folder = str(Path(str(origin.get("folder") or f"runs/{run}")).parent)
        raise ResumeError(
            f"run {run!r} was started from Python, with objects that are not stored",
            remedy=f"call docendo.run(graph, items, name={run!r}, folder={folder!r}, resume=True) with "
            "the same graph and items",
        )


def start(
    launch: Launch,
    *,
    name: str | None,
    folder: Path = Path("runs"),
    resume: bool,
    database: str | Path | None = None,
    parent: str | Path | None = None,
) -> dict[str, Any]:
    """Runs it into `folder/name` and returns the summary. What is printed meanwhile goes to stderr.

    Raises:
        ConfigError: if a value cannot be used.
        ResumeError: if the folder that it was started in is gone, or as `docendo.run`.
    """
    launch.check()
    if name is not None:
        run_folder(name)  # checks it
    launch = launch.replace(cwd=launch.cwd or os.getcwd())
    folder = folder.absolute()
    if database is not None and "://" not in str(database):
        database = Path(database).absolute()
    if not Path(launch.cwd).is_dir():
        raise ResumeError(
            f"the run was started in {launch.cwd}, which is gone",
            remedy="make it again, or start the run anew with docendo run",
        )
    with contextlib.chdir(launch.cwd), contextlib.redirect_stdout(sys.stderr):
        if launch.recipe:
            where = folder / (name or Path(launch.what).stem)
            return _recipe(launch, where, resume=resume, database=database, parent=parent)
        return _graph(launch, folder, name=name, resume=resume, database=database, parent=parent)


def _recipe(
    launch: Launch, folder: Path, *, resume: bool, database: str | Path | None, parent: str | Path | None
) -> dict[str, Any]:
    from docendo.memory import DATABASE, Database, copy_journal, launched
    from docendo.registry import get_recipe

    if database is not None:
        raise ConfigError("--database is for graphs", remedy="a recipe keeps its database in its folder")
    recipe = get_recipe(launch.what)
    settings = {"seed": launch.seed, **_sizes(recipe, launch.limit), **launch.settings}
    config = recipe.configure(settings, scale=launch.scale)
    origin: dict[str, Any] = {"folder": str(folder), "launch": launch.to_json()}
    if parent is not None:
        path = Path(parent)
        with (
            Database.open(path / DATABASE, read_only=True) as older,
            Database.open(folder / DATABASE) as ours,
        ):
            copy_journal(older, ours)
            origin["parent"] = {"run": path.name, "database": older.label}
    with launched(folder.name, origin):
        return recipe.run(config, folder=_relative(folder), resume=resume)


def _sizes(recipe: Recipe, limit: int | None) -> dict[str, int]:
    """What `--limit` sets of a recipe."""
    if limit is None:
        return {}
    known = recipe.config.__dataclass_fields__
    sizes = {name: limit for name in ("train", "test") if name in known}
    if not sizes:
        raise ConfigError(
            f"recipe {recipe.id!r} has no train or test items that --limit could be of",
            remedy=f"size it with --set; it has {', '.join(known)}",
        )
    return sizes


def _graph(
    launch: Launch,
    folder: Path,
    *,
    name: str | None,
    resume: bool,
    database: str | Path | None,
    parent: str | Path | None,
) -> dict[str, Any]:
    from docendo import evals, graphs
    from docendo.files import write_text
    from docendo.memory import launched

    if resume and name is None:
        raise ConfigError("--resume was given without --name", remedy="name the run to go on with")
    graph = load_graph(launch.what)
    train = (launch.limit or 100) if launch.train is None else launch.train
    made = evals.tasks(str(launch.task), train=train, test=0, seed=launch.seed, **launch.settings)
    name = name or f"{graphs.description(graph)['graph']}-{time.strftime('%Y%m%d-%H%M%S')}"
    options: dict[str, Any] = {
        "name": name,
        "folder": _relative(folder),
        "seed": launch.seed,
        "resume": resume,
    }
    with (
        launched(name, {"launch": launch.to_json()}),
        graphs.run(
            graph, made.train[: launch.limit], database=database, parent=parent, **options
        ) as finished,
    ):
        path = finished.folder / "report.html"
        write_text(path, evals.report(evals.run_report(finished)))
        return {**finished.summary(), "folder": str(finished.folder), "report": str(path)}


def _relative(folder: Path) -> Path:
    """As it is shown: short where it is below the working folder."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def load_graph(what: str) -> Any:
    """Imports the graph `FILE.py:NAME`; NAME may also be a function that returns the graph.

    Raises:
        ConfigError: if the file or the name is missing, or the file fails.
    """
    path, _, attribute = what.rpartition(":")
    expected = "FILE.py:NAME of a compiled graph"
    module = load_file(path, prefix="own_graph", expected=expected)
    graph = getattr(module, attribute, None)
    if callable(graph) and not hasattr(graph, "ainvoke"):
        graph = graph()
    if not hasattr(graph, "ainvoke"):
        raise ConfigError(f"{path} has no compiled graph {attribute!r}", expected=expected)
    return graph
