"""What holds for every recipe, whichever it is."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from docendo.cli import main
from docendo.distill import TrainConfig
from docendo.registry import ROOMS, Recipe, get_recipe, recipes

RECIPES = recipes()
each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)

#: The smallest settings, by name, for those of them that a recipe has.
TINY: dict[str, Any] = {
    "train": 28,
    "test": 12,
    "rounds": 1,
    "samples": 8,
    "examples": 4,
    "train_config": TrainConfig(max_steps=2, per_device_train_batch_size=4),
}


def test_there_are_recipes() -> None:
    assert "teach-and-distill" in [recipe.id for recipe in RECIPES]
    order = [(ROOMS.index(recipe.room), recipe.id) for recipe in RECIPES]
    assert order == sorted(order)


@each
def test_the_card_is_complete(recipe: Recipe) -> None:
    card = recipe.card()
    assert all(card.values())
    assert all("\n" not in value for value in card.values())
    assert re.search(r"arXiv \d{4}\.\d{4,5}|https://", recipe.paper)
    assert re.search(r"\b(19|20)\d\d\b", recipe.paper), "the paper has a year"
    assert recipe.claim.endswith(".")
    assert get_recipe(recipe.id) is recipe


@each
def test_the_file_has_the_one_shape(recipe: Recipe) -> None:
    module = sys.modules[recipe.function.__module__]
    assert module.__name__.startswith(f"docendo.{recipe.room}.recipes.")
    paper = re.search(r"arXiv \d{4}\.\d{4,5}|https://\S+", recipe.paper)
    assert paper is not None
    assert paper[0] in (module.__doc__ or ""), "the module's docstring cites the paper"
    assert recipe.function.__doc__
    parameters = inspect.signature(recipe.function).parameters
    assert [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == [
        "folder",
        "resume",
        "quiet",
    ]


@each
def test_the_config_is_frozen_with_defaults_and_json(recipe: Recipe) -> None:
    assert dataclasses.is_dataclass(recipe.config)
    config = recipe.config()
    assert recipe.config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert json.loads(json.dumps(config.to_json())) == config.to_json()
    assert recipe.configure({"seed": 3}).seed == 3
    for field in dataclasses.fields(recipe.config):
        assert re.search(rf"^ +{field.name}: ", recipe.config.__doc__ or "", flags=re.MULTILINE), field.name


@each
def test_it_runs_end_to_end_and_resumes(recipe: Recipe, guessing_model_dir: Path, tmp_path: Path) -> None:
    names = {field.name for field in dataclasses.fields(recipe.config)}
    settings = {name: value for name, value in TINY.items() if name in names}
    config = recipe.configure({"student": str(guessing_model_dir), **settings})
    summary = recipe.run(config, folder=tmp_path / "run", quiet=True)
    assert {"before", "after", "difference", "interval", "verdict"} <= set(summary)
    assert summary["before"]["n"] == 12
    assert summary["interval"][0] <= summary["difference"] <= summary["interval"][1]
    for name in ("config.json", "summary.json", "items.jsonl", "docendo.db", "report.html"):
        assert (tmp_path / "run" / name).is_file(), name
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    again = recipe.run(config, folder=tmp_path / "run", resume=True, quiet=True)
    assert [again[key] for key in ("difference", "verdict")] == [
        summary[key] for key in ("difference", "verdict")
    ]


def test_the_command_lists_and_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [recipe.card() for recipe in RECIPES]
    for recipe in RECIPES:
        assert main(["recipes", "show", recipe.id, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["settings"] == json.loads(json.dumps(recipe.config().to_json()))
    assert main(["recipes", "show", "nothing"]) == 2
    assert "teach-and-distill" in capsys.readouterr().err
