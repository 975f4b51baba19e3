"""Registering recipes: every rule is enforced where the recipe is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docendo import registry
from docendo.errors import CapabilityError, ConfigError, DataError, IntegrityError
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
    "module", ["docendo.recipes.some", "docendo.cli.recipes.some", "docendo.distill._some"]
)
def test_a_recipe_is_in_a_rooms_recipes(module: str) -> None:
    with pytest.raises(ConfigError, match=r"docendo\.<room>\.recipes\.<file>"):
        register(module=module)


def test_a_recipe_outside_docendo_is_ones_own() -> None:
    assert register(module="my_package.methods").room == "own"


def test_a_need_and_a_scale_are_of_known_kinds() -> None:
    settings: dict[str, Any] = {"title": "t", "paper": "p", "claim": "c", "config": Config, "cost": "1 s"}
    with pytest.raises(ConfigError, match="needs 'patience'; expected model:NAME"):
        registry.recipe(id="some", needs=("patience",), **settings)
    with pytest.raises(ConfigError, match="of a scale 'huge'; expected tiny or gpu"):
        registry.recipe(id="some", scales={"huge": {}}, **settings)


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path) -> None:
    found = register().replace(needs=("package:no_such_package", "package:json"))
    assert found.missing() == ("package no_such_package is not installed; pip install no_such_package",)
    with pytest.raises(CapabilityError, match="'some-method' cannot run here: package no_such_package"):
        found.run(folder=tmp_path)


def test_a_scale_changes_the_settings() -> None:
    found = register().replace(scales={"tiny": {"seed": 7}})
    assert found.configure({}, scale="tiny").seed == 7
    assert found.configure({"seed": 1}, scale="tiny").seed == 1
    assert found.configure({}).seed == 0
    with pytest.raises(ConfigError, match="has no scale 'gpu'; expected one of tiny, laptop"):
        found.configure({}, scale="gpu")
    with pytest.raises(ConfigError, match="the scale is 'big'"):
        found.configure({}, scale="big")  # type: ignore[arg-type]


def test_the_status_is_read_from_the_stored_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "results_folder", lambda: tmp_path)
    found = register()

    def store(scale: str, status: str) -> None:
        (tmp_path / registry.result_name(found.id, scale)).write_text(f'{{"status": "{status}"}}')

    assert found.status == "runs"
    store("tiny", "reproduced")
    assert found.status == "runs", "a tiny run decides nothing"
    store("laptop", "reproduced")
    assert found.status == "reproduced"
    store("gpu", "not reproduced")
    assert found.status == "not reproduced", "a smaller run does not outvote a larger one"
    store("gpu", "runs")
    assert found.status == "reproduced", "too few seeds decide nothing"
    assert list(found.results()) == ["gpu", "laptop", "tiny"]
    for text, words in (("{", "is not JSON"), ("[]", "is no recipe's result"), ("{}", "is no recipe's")):
        (tmp_path / registry.result_name(found.id, "gpu")).write_text(text)
        with pytest.raises(IntegrityError, match=words):
            found.results()


def test_a_file_of_ones_own_is_a_recipe(tmp_path: Path) -> None:
    from docendo.evals.experiments import new_recipe

    path = tmp_path / "my_method.py"
    path.write_text(new_recipe("my-method"))
    found = registry.get_recipe(str(path))
    assert (found.id, found.room) == ("my-method", "own")
    assert registry.get_recipe(str(path)).id == "my-method", "it may be loaded again"
    summary = found.run(found.configure({}, scale="tiny"), folder=tmp_path / "run", quiet=True)
    assert summary["status"] == "runs"
    path.write_text("x = 1")
    registry._registered.clear()
    with pytest.raises(ConfigError, match=r"my_method\.py defines 0 recipes"):
        registry.get_recipe(str(path))
    with pytest.raises(ConfigError, match="there is no file"):
        registry.get_recipe(str(tmp_path / "none.py"))


def test_files_of_one_name_are_two_recipes_and_a_changed_one_is_loaded_anew(tmp_path: Path) -> None:
    from docendo.evals.experiments import new_recipe

    paths = [tmp_path / folder / "method.py" for folder in ("a", "b")]
    for path, id in zip(paths, ("first", "second"), strict=True):
        path.parent.mkdir()
        path.write_text(new_recipe(id))
    assert [registry.get_recipe(str(path)).id for path in paths] == ["first", "second"]
    paths[0].write_text(new_recipe("third"))
    assert registry.get_recipe(str(paths[0])).id == "third"


def test_a_file_cannot_take_the_id_and_so_the_results_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docendo.evals.experiments import new_recipe

    monkeypatch.setattr(registry, "recipes", lambda: (register("known-method"),))
    path = tmp_path / "mine.py"
    path.write_text(new_recipe("known-method"))
    with pytest.raises(ConfigError, match=r"'known-method' is taken by docendo\.distill\.recipes\.some"):
        registry.get_recipe(str(path))
    path.write_text(new_recipe("one") + new_recipe("two").replace("from __future__ import annotations", ""))
    with pytest.raises(ConfigError, match="defines 2 recipes"):
        registry.get_recipe(str(path))
    assert list(registry._registered) == ["known-method"], "what was refused leaves nothing behind"


def test_a_config_has_defaults_and_a_scale_only_its_settings() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Bare(Record):
        seed: int

    settings: dict[str, Any] = {"id": "some", "title": "t", "paper": "p", "claim": "c", "cost": "1 s"}
    with pytest.raises(ConfigError, match=r"Bare\.seed has no default"):
        registry.recipe(config=Bare, **settings)
    with pytest.raises(ConfigError, match="expected a frozen dataclass that is a Record"):
        registry.recipe(config=dict, **settings)
    with pytest.raises(ConfigError, match="the scale tiny of recipe 'some' has no setting 'sed'"):
        registry.recipe(config=Config, scales={"tiny": {"sed": 1}}, **settings)


def test_a_value_of_another_type_is_refused() -> None:
    for value in ("1", 1.5, True, None, [1]):
        with pytest.raises(ConfigError, match=r"seed of recipe 'some-method' is .*; expected a whole number"):
            register().configure({"seed": value})


def test_what_is_returned_is_a_summary(tmp_path: Path) -> None:
    found = register().replace(function=lambda config, **options: None)
    with pytest.raises(DataError, match="'some-method' returned None; expected its summary"):
        found.run(folder=tmp_path)


def test_another_distribution_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    broken = EntryPoint(name="theirs", value="no_such_module_anywhere", group=registry.GROUP)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [broken])
    with pytest.raises(ConfigError, match=r"recipes of theirs cannot be loaded: ModuleNotFoundError"):
        registry.recipes()


def test_an_id_is_given_once_but_a_module_may_be_loaded_again() -> None:
    register()
    register()
    with pytest.raises(ConfigError, match=r"taken by docendo\.distill\.recipes\.some"):
        register(module="docendo.evals.recipes.other")


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="recipe 'some-method' has no setting 'sed'; expected one of seed"):
        register().configure({"sed": 1})


def test_an_unknown_recipe_is_named_with_the_known_ones() -> None:
    register()
    with pytest.raises(
        ConfigError, match=r"no recipe 'nothing'; expected a file FILE.py, or one of .*some-method"
    ):
        registry.get_recipe("nothing")
