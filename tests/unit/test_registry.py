"""Registering recipes: every rule is enforced where the recipe is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docendo import registry
from docendo.errors import ConfigError
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Record):
    seed: int = 0


def function(config: Config, *, folder: Path, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    return {"seed": config.seed, "folder": str(folder), "resume": resume, "quiet": quiet}


@pytest.fixture(autouse=True)
def _registry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def register(id: str = "some-method", module: str = "docendo.distill.recipes.some") -> registry.Recipe:
    def method(config: Config, **options: Any) -> dict[str, Any]:
        return function(config, **options)

    method.__module__ = module
    settings = {"title": "t", "paper": "p", "claim": "c", "config": Config, "cost": "1 s"}
    registry.recipe(id=id, **settings)(method)  # type: ignore[arg-type]
    return registry._registered[id]


def test_a_recipe_knows_its_room_and_runs(tmp_path: Path) -> None:
    found = register()
    assert found.room == "distill"
    assert found.run(folder=tmp_path, quiet=True) == function(Config(), folder=tmp_path, quiet=True)
    assert found.run(found.configure({"seed": 4}), folder=str(tmp_path), resume=True)["seed"] == 4
    assert found.card()["status"] == "runs"


@pytest.mark.parametrize("id", ["", "Some", "some_method", "-some", "some--method"])
def test_the_id_is_lower_case_words(id: str) -> None:
    with pytest.raises(ConfigError, match="lower-case words with dashes"):
        register(id)


@pytest.mark.parametrize(
    "module", ["__main__", "docendo.recipes.some", "docendo.cli.recipes.some", "docendo.distill._some"]
)
def test_a_recipe_is_in_a_rooms_recipes(module: str) -> None:
    with pytest.raises(ConfigError, match=r"docendo\.<room>\.recipes\.<file>"):
        register(module=module)


def test_an_id_is_given_once_but_a_module_may_be_loaded_again() -> None:
    register()
    register()
    with pytest.raises(ConfigError, match=r"taken by docendo\.distill\.recipes\.some"):
        register(module="docendo.evals.recipes.other")


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'sed'; expected one of seed"):
        register().configure({"sed": 1})


def test_an_unknown_recipe_is_named_with_the_known_ones() -> None:
    register()
    with pytest.raises(ConfigError, match=r"no recipe 'nothing'; expected one of .*some-method"):
        registry.get_recipe("nothing")
