"""Recipes: published methods, each one file in the `recipes/` folder of the room of its novel part.

A recipe file has one shape: a docstring with the paper, a frozen config, one decorated function. Lists and
tables of recipes are made from this registry and never kept by hand.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from docendo.errors import ConfigError
from docendo.records import Record

Status = Literal["runs", "reproduced", "not reproduced"]
F = TypeVar("F", bound=Callable[..., dict[str, Any]])

ROOMS = ("memory", "agents", "graphs", "evals", "distill")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Record):
    """A published method.

    Attributes:
        id: Lower-case name with dashes.
        title: One line.
        room: The room of its novel part.
        paper: Where it was published.
        claim: One measurable sentence.
        status: "runs", or whether its claim was reproduced here.
        cost: What a run costs on two cores.
        config: Its settings, a frozen dataclass whose fields all have defaults.
        function: Called as `function(config, folder=..., resume=..., quiet=...)`; returns the summary.
    """

    id: str
    title: str
    room: str
    paper: str
    claim: str
    status: Status
    cost: str
    config: type[Any]
    function: Callable[..., dict[str, Any]]

    def card(self) -> dict[str, str]:
        """The facts about the recipe, for tables and `docendo recipes --json`."""
        names = ("id", "title", "room", "paper", "claim", "status", "cost")
        return {name: str(getattr(self, name)) for name in names}

    def configure(self, settings: Mapping[str, Any]) -> Any:
        """Makes the recipe's config from settings by name.

        Raises:
            ConfigError: if a name is unknown; the message lists the known ones.
        """
        known = [field.name for field in dataclasses.fields(self.config)]
        for name in settings:
            if name not in known:
                raise ConfigError(
                    f"recipe {self.id!r} has no setting {name!r}", expected=f"one of {', '.join(known)}"
                )
        return self.config(**settings)

    def run(
        self, config: Any = None, *, folder: str | Path, resume: bool = False, quiet: bool = False
    ) -> dict[str, Any]:
        """Runs the recipe into a folder and returns its summary."""
        return self.function(config or self.config(), folder=Path(folder), resume=resume, quiet=quiet)


_registered: dict[str, Recipe] = {}


def recipe(
    *, id: str, title: str, paper: str, claim: str, config: type[Any], cost: str, status: Status = "runs"
) -> Callable[[F], F]:
    """Registers the decorated function as a recipe.

    Raises:
        ConfigError: if the id is taken or not lower-case words with dashes, or the function is not in a
            room's `recipes` package.
    """

    def register(function: F) -> F:
        parts = function.__module__.split(".")
        if len(parts) != 4 or parts[1] not in ROOMS or parts[2] != "recipes":
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
            room=parts[1],
            paper=paper,
            claim=claim,
            status=status,
            cost=cost,
            config=config,
            function=function,
        )
        return function

    return register


def recipes() -> tuple[Recipe, ...]:
    """All recipes, by room and id."""
    for room in ROOMS:
        package = importlib.import_module(f"docendo.{room}.recipes")
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_registered.values(), key=lambda r: (ROOMS.index(r.room), r.id)))


def get_recipe(id: str) -> Recipe:
    """The recipe of that id.

    Raises:
        ConfigError: if there is none; the message lists those there are.
    """
    known = {r.id: r for r in recipes()}
    if id not in known:
        raise ConfigError(f"there is no recipe {id!r}", expected=f"one of {', '.join(sorted(known))}")
    return known[id]
