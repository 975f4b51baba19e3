"""Recipes: published methods, each one file in the `recipes/` folder of the room of its novel part.

A recipe file has one shape: a docstring with the paper, a frozen config, one decorated function. Lists and
tables of recipes are made from this registry and never kept by hand. A recipe's status is not declared: it
is read from the stored result of its largest run, so that a smaller one cannot outvote it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from docendo.errors import CapabilityError, ConfigError, DataError, DocendoError, IntegrityError
from docendo.loading import load_file
from docendo.records import Record
from docendo.settings import with_settings

Status = Literal["runs", "reproduced", "not reproduced"]
Scale = Literal["tiny", "laptop", "gpu"]
F = TypeVar("F", bound=Callable[..., dict[str, Any]])

ROOMS = ("memory", "agents", "graphs", "evals", "distill")
#: The room of recipes that live outside docendo.
OWN = "own"
#: Entry points of this group name modules of recipes in other distributions.
GROUP = "docendo.recipes"
#: From which scale a status is taken, the largest first: a tiny run shows only that it runs.
DECIDING: tuple[Scale, ...] = ("gpu", "laptop")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Record):
    """A published method.

    Attributes:
        id: Lower-case name with dashes.
        title: One line.
        room: The room of its novel part; "own" for one outside docendo.
        paper: Where it was published.
        claim: One measurable sentence.
        cost: What a run at the scale "laptop" costs on two cores.
        config: Its settings, a frozen dataclass whose fields all have defaults: those of the scale "laptop".
        function: Called as `function(config, folder=..., resume=..., quiet=...)`; returns the summary.
        needs: What it needs beside docendo, at every scale: "model:NAME", "package:NAME" or "gpu".
        scales: For other scales the settings that differ.
        figure: Draws a stored result as the text of an SVG file, for the page of recipes; None for no figure.
    """

    id: str
    title: str
    room: str
    paper: str
    claim: str
    cost: str
    config: type[Any]
    function: Callable[..., dict[str, Any]]
    needs: tuple[str, ...] = ()
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    figure: Callable[[Mapping[str, Any]], str] | None = None

    @property
    def status(self) -> Status:
        """What the stored result of its largest scale shows; one with too few seeds decides nothing."""
        found = [result["status"] for scale, result in self.results().items() if scale in DECIDING]
        return next((status for status in found if status != "runs"), "runs")

    def results(self) -> dict[Scale, dict[str, Any]]:
        """The stored results by scale, the deciding ones first.

        Raises:
            IntegrityError: if a file cannot be read.
        """
        found: dict[Scale, dict[str, Any]] = {}
        for scale in (*DECIDING, "tiny"):
            path = results_folder() / result_name(self.id, scale)
            if path.is_file():
                found[scale] = _stored(path)
        return found

    def card(self) -> dict[str, Any]:
        """The facts about the recipe, for tables and `docendo recipes list --json`."""
        names = ("id", "title", "room", "paper", "claim", "status", "cost", "needs")
        return {name: getattr(self, name) for name in names} | {"needs": list(self.needs)}

    def configure(self, settings: Mapping[str, Any], *, scale: Scale = "laptop") -> Any:
        """Makes the recipe's config from settings by name, over those of a scale.

        Raises:
            ConfigError: if a name or the scale is unknown (the message lists the known ones), or a value is
                of another type than its setting.
        """
        if scale not in get_args(Scale):
            raise ConfigError(f"the scale is {scale!r}", expected=f"one of {', '.join(get_args(Scale))}")
        if scale != "laptop" and scale not in self.scales:
            raise ConfigError(
                f"recipe {self.id!r} has no scale {scale!r}", expected=f"one of {', '.join(self.has)}"
            )
        of = f"recipe {self.id!r}"
        sized = with_settings(self.config(), self.scales.get(scale, {}), of=of)
        return with_settings(sized, settings, of=of)

    @property
    def has(self) -> tuple[str, ...]:
        """Its scales."""
        return tuple(scale for scale in get_args(Scale) if scale == "laptop" or scale in self.scales)

    def missing(self) -> tuple[str, ...]:
        """Which of its needs this machine does not meet, each with what to do."""
        return tuple(problem for need in self.needs if (problem := _problem(need)))

    def run(
        self, config: Any = None, *, folder: str | Path, resume: bool = False, quiet: bool = False
    ) -> dict[str, Any]:
        """Runs the recipe into a folder and returns its summary.

        Raises:
            CapabilityError: if the machine lacks what the recipe needs.
            DataError: if what its function returns is no summary.
        """
        missing = self.missing()
        if missing:
            raise CapabilityError(f"recipe {self.id!r} cannot run here: {'; '.join(missing)}")
        summary: Any = self.function(config or self.config(), folder=Path(folder), resume=resume, quiet=quiet)
        if not isinstance(summary, dict):
            raise DataError(f"recipe {self.id!r} returned {summary!r}", expected="its summary, a dictionary")
        return summary


_registered: dict[str, Recipe] = {}


def recipe(
    *,
    id: str,
    title: str,
    paper: str,
    claim: str,
    config: type[Any],
    cost: str,
    needs: tuple[str, ...] = (),
    scales: Mapping[str, Mapping[str, Any]] = _NOTHING,
    figure: Callable[[Mapping[str, Any]], str] | None = None,
) -> Callable[[F], F]:
    """Registers the decorated function as a recipe. The arguments are the attributes of `Recipe`.

    A recipe outside docendo belongs to the room "own": it is found by the entry points `docendo.recipes` of
    installed distributions, or by its file's path.

    Raises:
        ConfigError: if the id is taken or not lower-case words with dashes, the function is in a part of
            docendo other than a room's `recipes` package, the config has a field without a default, or a need
            or a scale is of no known kind.
    """
    _check_config(id, config)
    for need in needs:
        if need != "gpu" and need.partition(":")[0] not in ("model", "package"):
            raise ConfigError(
                f"recipe {id!r} needs {need!r}", expected="model:NAME, package:NAME or gpu in each place"
            )
    for scale in scales:
        if scale not in ("tiny", "gpu"):
            raise ConfigError(
                f"recipe {id!r} has settings of a scale {scale!r}",
                expected="tiny or gpu; the defaults of its config are those of laptop",
            )
        with_settings(config(), scales[scale], of=f"the scale {scale} of recipe {id!r}")

    def register(function: F) -> F:
        parts = function.__module__.split(".")
        if parts[0] == "docendo" and (len(parts) != 4 or parts[1] not in ROOMS or parts[2] != "recipes"):
            raise ConfigError(
                f"recipe {id!r} is defined in {function.__module__}", expected="docendo.<room>.recipes.<file>"
            )
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id):
            raise ConfigError(f"the recipe id is {id!r}", expected="lower-case words with dashes")
        known = _registered.get(id)
        if known is not None and known.function.__module__ != function.__module__:
            raise ConfigError(
                f"the recipe id {id!r} is taken by {known.function.__module__}", remedy="choose another"
            )
        _registered[id] = Recipe(
            id=id,
            title=title,
            room=parts[1] if parts[0] == "docendo" else OWN,
            paper=paper,
            claim=claim,
            cost=cost,
            config=config,
            function=function,
            needs=tuple(needs),
            scales={name: dict(settings) for name, settings in scales.items()},
            figure=figure,
        )
        return function

    return register


def recipes() -> tuple[Recipe, ...]:
    """All recipes, by room and id: docendo's, and those of installed distributions."""
    for room in ROOMS:
        package = importlib.import_module(f"docendo.{room}.recipes")
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in importlib.metadata.entry_points(group=GROUP):
        _load_entry(entry)
    order = (*ROOMS, OWN)
    return tuple(sorted(_registered.values(), key=lambda r: (order.index(r.room), r.id)))


def get_recipe(id: str) -> Recipe:
    """The recipe of that id, or the one that a file defines.

    Args:
        id: The recipe's id, or the path of a Python file of one's own.

    Raises:
        ConfigError: if there is none, naming those there are; or if the file defines none or several.
    """
    if id.endswith(".py"):
        return _of_file(Path(id))
    known = {r.id: r for r in recipes()}
    if id not in known:
        raise ConfigError(
            f"there is no recipe {id!r}", expected=f"a file FILE.py, or one of {', '.join(sorted(known))}"
        )
    return known[id]


def _of_file(path: Path) -> Recipe:
    recipes()  # so that an id of theirs is refused: its stored results are not those of the file
    before = dict(_registered)
    try:
        module = load_file(path, prefix="own_recipe", expected="a Python file with a recipe")
        found = [
            r
            for r in _registered.values()
            if r.function.__module__ == module.__name__ and before.get(r.id) != r
        ]
        if len(found) != 1:
            raise ConfigError(
                f"{path} defines {len(found)} recipes", expected="one function under @recipe(...)"
            )
    except BaseException:
        _registered.clear()
        _registered.update(before)
        raise
    return found[0]


def _check_config(id: str, config: Any) -> None:
    """Refuses a config that could not be made from settings, stored or resumed."""
    fields: Mapping[str, Any] | None = getattr(config, "__dataclass_fields__", None)
    if fields is None or not (isinstance(config, type) and issubclass(config, Record)):
        raise ConfigError(
            f"the config of recipe {id!r} is {config!r}", expected="a frozen dataclass that is a Record"
        )
    for each in fields.values():
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"{config.__name__}.{each.name} has no default", expected="one for each setting"
            )


def _load_entry(entry: importlib.metadata.EntryPoint) -> None:
    try:
        entry.load()
    except DocendoError:
        raise
    except Exception as error:  # whatever another distribution does when it is imported
        raise ConfigError(
            f"the recipes of {entry.dist.name if entry.dist else entry.name} cannot be loaded: "
            f"{type(error).__name__}: {error}",
            remedy="mend or uninstall that distribution",
        ) from error


def _stored(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is not JSON: {error}; run the recipe again") from error
    if not isinstance(result, dict) or result.get("status") not in get_args(Status):
        raise IntegrityError(f"{path} is no recipe's result; run the recipe again")
    return result


def results_folder() -> Path:
    """Where the results that come with docendo are kept: one file for each recipe and scale."""
    spec = importlib.util.find_spec("docendo.evals")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("docendo.evals is not installed", remedy="install docendo again")
    return Path(next(iter(spec.submodule_search_locations))) / "results"


def result_name(id: str, scale: str) -> str:
    """The name of a result's file.

    Example:
        >>> result_name("teaching-scores", "laptop")
        'teaching-scores.laptop.json'
    """
    return f"{id}.{scale}.json"


def _problem(need: str) -> str:
    """Why a need is not met, with what to do; empty if it is."""
    kind, _, name = need.partition(":")
    if kind == "model":
        from docendo.agents import models

        catalogued = name in [card.name for card in models.catalogue()]
        if catalogued and not models.is_cached(name):
            return f"model {name} is not here; get it with docendo models pull {name}"
    elif kind == "package":
        if importlib.util.find_spec(name) is None:
            return f"package {name} is not installed; pip install {name}"
    else:
        import torch

        if not torch.cuda.is_available():
            return "it needs a GPU, and none is here"
    return ""
