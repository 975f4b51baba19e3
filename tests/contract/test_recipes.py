"""What holds for every recipe, whichever it is."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

from docendo.cli import main
from docendo.evals.experiments import Within, figures, page, result
from docendo.registry import ROOMS, Recipe, get_recipe, recipes, result_name, results_folder

RECIPES = recipes()
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)


def test_there_are_recipes() -> None:
    assert "teach-and-distill" in [recipe.id for recipe in RECIPES]
    order = [(ROOMS.index(recipe.room), recipe.id) for recipe in RECIPES]
    assert order == sorted(order)


@each
def test_the_card_is_complete(recipe: Recipe) -> None:
    card = recipe.card()
    words = {name: value for name, value in card.items() if name != "needs"}
    assert all(words.values())
    assert all("\n" not in value for value in words.values())
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
def test_it_has_a_tiny_scale_and_five_seeds(recipe: Recipe) -> None:
    assert "tiny" in recipe.has
    tiny, laptop = recipe.configure({}, scale="tiny"), recipe.config()
    assert tiny != laptop
    if hasattr(recipe.function, "rules"):
        assert laptop.seeds >= 5
        assert any(getattr(rule, "expected", "") == "gain" for rule in recipe.function.rules)
        assert any(getattr(rule, "expected", "") == "no gain" for rule in recipe.function.rules), "no control"


@each
def test_every_need_is_met_here(recipe: Recipe) -> None:
    assert recipe.missing() == ()


@pytest.mark.slow
@pytest.mark.timeout(600)
@each
def test_it_runs_at_the_tiny_scale_and_resumes(recipe: Recipe, tmp_path: Path) -> None:
    config = recipe.configure({}, scale="tiny")
    summary = recipe.run(config, folder=tmp_path / "run", quiet=True)
    for name in ("config.json", "summary.json", "docendo.db"):
        assert (tmp_path / "run" / name).is_file(), name
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    again = recipe.run(config, folder=tmp_path / "run", resume=True, quiet=True)
    same = ("findings", "arms", "facts", "difference", "verdict")
    assert {key: again[key] for key in same if key in again} == {k: summary[k] for k in same if k in summary}
    stored = result(recipe, "tiny", summary)
    assert stored["status"] == "runs"
    assert json.loads(json.dumps(stored)) == stored


@each
def test_what_is_stored_is_of_the_recipe_as_it_is_now(recipe: Recipe) -> None:
    for scale, stored in recipe.results().items():
        assert stored["config"] == json.loads(json.dumps(recipe.configure({}, scale=scale).to_json()))
        assert stored["commit"], "the commit is known"
        assert stored["versions"]["docendo"]
        assert (stored["id"], stored["scale"], stored["claim"]) == (recipe.id, scale, recipe.claim)
        rules = getattr(recipe.function, "rules", ())
        names = [rule.fact if isinstance(rule, Within) else rule.name for rule in rules]
        assert [row["name"] for row in stored.get("findings", [])] == names
        if rules and scale != "tiny":
            held = [row["holds"] for row in stored["findings"] if row["holds"] is not None]
            assert stored["status"] == ("reproduced" if all(held) else "not reproduced")


def test_every_stored_result_has_a_recipe() -> None:
    known = {result_name(recipe.id, scale) for recipe in RECIPES for scale in recipe.has}
    assert {path.name for path in results_folder().glob("*")} <= known


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the repository, not only the tests")
def test_the_page_is_made_from_the_registry_and_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(RECIPES), "run: make recipes-page"
    found = {path.name: path.read_text(encoding="utf-8") for path in (PAGE.parent / "figures").glob("*.svg")}
    assert found == figures(RECIPES), "run: make recipes-page"


def test_the_command_lists_and_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [recipe.card() for recipe in RECIPES]
    capsys.readouterr()
    for recipe in RECIPES:
        assert main(["recipes", "show", recipe.id, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["settings"] == json.loads(json.dumps(recipe.config().to_json()))
    assert main(["recipes", "show", "nothing"]) == 2
    assert "teach-and-distill" in capsys.readouterr().err
