"""Experiments: rules fixed before, one trial for each seed, a status that can say no."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docendo import registry
from docendo.errors import ConfigError, DataError, IntegrityError, ResumeError
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown, within
from docendo.evals.experiments import new_recipe, text
from docendo.loading import load_file
from docendo.memory import RunStore
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Record):
    seed: int = 0
    seeds: int = 5
    effect: float = 0.3
    leak: float = 0.0
    cost: float = 100.0
    signal: float = 0.9


def coins(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
    rng = np.random.default_rng(seed)

    def arm(chance: float, cost: float = 100.0) -> Scores:
        return Scores(
            values={str(item): bool(rng.random() < chance) for item in range(200)}, spent={"tokens": cost}
        )

    return Trial(
        arms={
            "base": arm(0.4),
            "method": arm(0.4 + config.effect, config.cost),
            "shuffled": arm(0.4 + config.leak),
        },
        facts={"signal": config.signal if config.signal >= 0 else math.nan, "seed": seed},
    )


RULES = (
    gain("method", over="base", equal="tokens"),
    no_gain("shuffled", over="base"),
    shown("method", over="shuffled"),
    within("signal", 0.8),
)
run = experiment(*RULES)(coins)


def holds(summary: dict[str, Any]) -> list[bool | None]:
    return [row["holds"] for row in summary["findings"]]


def test_all_rules_hold(tmp_path: Path) -> None:
    summary = run(Settings(), folder=tmp_path / "run", quiet=True)
    assert summary["status"] == "reproduced"
    assert holds(summary) == [True, True, None, True]
    assert [row["role"] for row in summary["findings"]] == ["claim", "control", "shown", "check"]
    assert summary["seeds"] == [0, 1, 2, 3, 4]
    assert summary["facts"]["seed"] == {"mean": 2.0, "by_seed": [0, 1, 2, 3, 4]}
    assert summary["arms"]["base"]["spent"] == {"tokens": 100}
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summary))
    assert text(stored).endswith("reproduced (5 seeds)")


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({"effect": 0.0}, [False, True, None, True], "no effect shown"),
        ({"effect": -0.3}, [False, True, None, True], "loss"),
        ({"leak": 0.3}, [True, False, None, True], "CONTROL BROKEN"),
        ({"cost": 103.0}, [False, True, None, True], "103 and 100 tokens, which is not alike"),
        ({"signal": 0.7}, [True, True, None, False], "NOT as it must be: at least 0.8"),
        ({"signal": -1.0}, [True, True, None, False], "NOT as it must be"),
    ],
)
def test_a_rule_that_fails_is_a_result(
    changes: dict[str, float], expected: list[bool | None], words: str, tmp_path: Path
) -> None:
    summary = run(Settings(**changes), folder=tmp_path / "run", quiet=True)  # type: ignore[arg-type]
    assert summary["status"] == "not reproduced"
    assert holds(summary) == expected
    assert words in " ".join(row["verdict"] for row in summary["findings"])


def test_a_control_that_could_not_have_failed_decides_nothing(tmp_path: Path) -> None:
    """Four items: the claim is beyond doubt, and of the control nothing can be seen."""

    def few(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        noise = np.random.default_rng(seed).normal(0, 3, 4)
        items = [f"{seed}/{place}" for place in range(4)]
        return Trial(
            arms={
                "base": Scores(values=dict.fromkeys(items, 0.0)),
                "method": Scores(values=dict.fromkeys(items, 1.0)),
                "shuffled": Scores(values=dict(zip(items, map(float, noise), strict=True))),
            }
        )

    both = experiment(gain("method", over="base"), no_gain("shuffled", over="base"))
    summary = both(few)(Settings(), folder=tmp_path / "run", quiet=True)
    assert holds(summary) == [True, False]
    assert "control undecided: up to" in summary["findings"][1]["verdict"]
    assert summary["status"] == "not reproduced"
    less = experiment(gain("base", over="method", less=True), no_gain("shuffled", over="method", less=True))
    assert holds(less(few)(Settings(), folder=tmp_path / "less", quiet=True)) == [True, False]


def test_costs_within_two_percent_are_alike(tmp_path: Path) -> None:
    assert run(Settings(cost=102.0), folder=tmp_path / "run", quiet=True)["status"] == "reproduced"


def test_less_can_be_the_gain(tmp_path: Path) -> None:
    fewer = experiment(gain("base", over="method", less=True), no_gain("method", over="base", less=True))
    assert fewer(coins)(Settings(), folder=tmp_path / "run", quiet=True)["status"] == "reproduced"


def test_four_seeds_decide_nothing(tmp_path: Path) -> None:
    summary = run(Settings(seeds=4), folder=tmp_path / "run", quiet=True)
    assert summary["status"] == "runs"
    assert holds(summary) == [True, True, None, True]


def test_an_interrupted_experiment_goes_on_behind_what_has_finished(tmp_path: Path) -> None:
    began: list[int] = []

    def breaking(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        began.append(seed)
        if began.count(seed) == 1 and seed == 2:
            raise KeyboardInterrupt
        return coins(config, seed=seed, folder=folder, quiet=quiet)

    broken = experiment(*RULES)(breaking)
    with pytest.raises(KeyboardInterrupt):
        broken(Settings(), folder=tmp_path / "run", quiet=True)
    with pytest.raises(ResumeError, match="exists already"):
        broken(Settings(), folder=tmp_path / "run", quiet=True)
    with pytest.raises(ResumeError, match="effect"):
        broken(Settings(effect=0.1), folder=tmp_path / "run", resume=True, quiet=True)
    summary = broken(Settings(), folder=tmp_path / "run", resume=True, quiet=True)
    assert began == [0, 1, 2, 2, 3, 4]
    whole = run(Settings(), folder=tmp_path / "whole", quiet=True)
    assert {**summary, "seconds": 0} == {**whole, "seconds": 0}


def test_a_damaged_trial_is_named(tmp_path: Path) -> None:
    run(Settings(), folder=tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "seed-3" / "trial.json"
    whole = path.read_text()
    for damaged in (whole[:40], whole.replace("0.0", "NaN", 1), "[]"):
        path.write_text(damaged)
        with pytest.raises(IntegrityError, match=r"seed-3/trial\.json is damaged; remove it"):
            run(Settings(), folder=tmp_path / "run", resume=True, quiet=True)
    path.unlink()
    assert run(Settings(), folder=tmp_path / "run", resume=True, quiet=True)["status"] == "reproduced"


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    for rules in ([], [shown("a", over="b")], [no_gain("a", over="b"), within("signal", 0.5)]):
        with pytest.raises(ConfigError, match="an experiment claims nothing"):
            experiment(*rules)
    with pytest.raises(ConfigError, match="compares 'a' with itself"):
        no_gain("a", over="a")
    with pytest.raises(ConfigError, match="expected one end, or two in their order"):
        within("signal", 1.0, 0.5)
    with pytest.raises(DataError, match="no arm 'other', of which a rule speaks; expected one of base"):
        experiment(gain("other", over="base"))(coins)(Settings(), folder=tmp_path / "a", quiet=True)
    with pytest.raises(DataError, match="no fact 'other'"):
        experiment(*RULES, within("other", 0))(coins)(Settings(), folder=tmp_path / "b", quiet=True)
    for changes, words in (
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": 2.5}, "seeds is 2.5; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected a whole number, at least 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(Settings(**changes), folder=tmp_path / "c", quiet=True)  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda: gain(3, over="b"), "of is 3; expected the name of a method"),
        (lambda: no_gain("a", over=None), "over is None; expected the name of a method"),
        (lambda: shown("a", over="b", less="no"), "less is 'no'; expected True or False"),
        (lambda: gain("a", over="b", equal=2), "equal is 2; expected the name of a unit of cost, or None"),
        (lambda: within(["f"], 0), r"fact is \['f'\]; expected the name of a fact"),
        (lambda: within("f", "0.5"), "least is '0.5'; expected a finite number, or None"),
        (lambda: within("f", most=math.nan), "most is nan; expected a finite number, or None"),
        (lambda: experiment(gain("a", over="b"), "f"), "a rule is 'f'; expected what gain, no_gain"),
        (lambda: experiment(*RULES)(None), "the experiment is None; expected a function of one seed"),
    ],
)
def test_a_rule_of_another_type_is_refused(rule: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rule()


def test_what_an_experiment_is_run_with_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    given: dict[str, Any] = {"config": Settings(seeds=1), "folder": tmp_path / "run", "quiet": True}
    changes: dict[str, Any]
    for changes, words in (
        ({"config": {"seed": 0, "seeds": 1}}, "config is {.*}; expected the experiment's settings, a Record"),
        ({"folder": None}, "folder is None; expected a path"),
        ({"resume": "no"}, "resume is 'no'; expected True or False"),
        ({"quiet": 1}, "quiet is 1; expected True or False"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(**{**given, **changes})
    assert not list(tmp_path.iterdir())
    assert run(**{**given, "folder": str(tmp_path / "text")})["status"] == "runs"


def test_a_function_that_returns_no_trial_is_named(tmp_path: Path) -> None:
    def forgetful(config: Settings, *, seed: int, folder: Path, quiet: bool) -> None:
        coins(config, seed=seed, folder=folder, quiet=quiet)

    with pytest.raises(DataError, match="the experiment's function returned None; expected a Trial"):
        experiment(*RULES)(forgetful)(Settings(), folder=tmp_path / "run", quiet=True)  # type: ignore[arg-type]


def test_numbers_of_arrays_are_stored_as_any_other(tmp_path: Path) -> None:
    def arrays(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        each = Scores(values={"i": np.float32(0.5)}, spent={"tokens": np.int64(3)})  # type: ignore[dict-item]
        return Trial(arms={"a": each, "b": each}, facts={"f": np.float32(0.5)})  # type: ignore[dict-item]

    least: Any = np.float32(0.25)
    made = experiment(gain("a", over="b"), within("f", least))(arrays)
    assert made(Settings(seeds=1), folder=tmp_path / "run", quiet=True)["arms"]["a"]["spent"] == {"tokens": 3}


def test_trials_are_alike(tmp_path: Path) -> None:
    def changed(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        trial = coins(config, seed=seed, folder=folder, quiet=quiet)
        return trial.replace(facts={**trial.facts, f"seed {seed}": 1.0})

    with pytest.raises(DataError, match="differ in their facts: seed 0, seed 1"):
        experiment(*RULES)(changed)(Settings(), folder=tmp_path / "facts", quiet=True)

    def short(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        trial = coins(config, seed=seed, folder=folder, quiet=quiet)
        easy = {item: value for item, value in trial.arms["method"].values.items() if value}
        return trial.replace(arms={**trial.arms, "method": trial.arms["method"].replace(values=easy)})

    with pytest.raises(DataError, match=r"'method' and 'base' differ in \d+ items, the first of which"):
        experiment(*RULES)(short)(Settings(), folder=tmp_path / "items", quiet=True)


def test_seeds_that_gave_the_same_or_nothing_decide_nothing(tmp_path: Path) -> None:
    def same(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        return coins(config, seed=0, folder=folder, quiet=quiet)

    summary = experiment(*RULES)(same)(Settings(), folder=tmp_path / "same", quiet=True)
    assert all(holds(summary)[place] for place in (0, 1, 3))
    assert [row["seeds"] for row in summary["findings"]] == [1, 1, 1, 5]
    assert summary["status"] == "runs"

    def mute(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        trial = coins(config, seed=seed, folder=folder, quiet=quiet)
        none = trial.arms["method"].replace(values=dict.fromkeys(trial.arms["method"].values))
        return trial if seed < 3 else trial.replace(arms={**trial.arms, "method": none})

    summary = experiment(*RULES)(mute)(Settings(), folder=tmp_path / "mute", quiet=True)
    assert summary["findings"][0]["holds"]
    assert (summary["findings"][0]["seeds"], summary["status"]) == (3, "runs")


def test_trials_of_another_experiment_are_not_taken(tmp_path: Path) -> None:
    run(Settings(), folder=tmp_path / "run", quiet=True)
    later = experiment(*RULES[:3], within("signal", 0.95))
    with pytest.raises(ResumeError, match=r"seed-0/trial\.json is a trial of another experiment"):
        later(coins)(Settings(), folder=tmp_path / "run", resume=True, quiet=True)
    with RunStore.open(tmp_path / "run" / "docendo.db") as runs:
        assert runs.get("run").status == "finished", "what is refused leaves the run as it was"


def test_a_folder_whose_run_is_not_known_is_not_taken(tmp_path: Path) -> None:
    run(Settings(seeds=1), folder=tmp_path / "run", quiet=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    for resume in (True, False):
        with pytest.raises(ResumeError, match="its database knows no run 'moved'"):
            run(Settings(seeds=1, effect=0.0), folder=tmp_path / "moved", resume=resume, quiet=True)


def test_the_commit_is_that_of_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docendo.evals.experiments import _experiment, result
    from docendo.registry import Recipe

    def breaking(config: Settings, *, seed: int, folder: Path, quiet: bool) -> Trial:
        if seed == 1 and _experiment.commit() == "one":
            raise KeyboardInterrupt
        return coins(config, seed=seed, folder=folder, quiet=quiet)

    broken = experiment(*RULES)(breaking)
    monkeypatch.setattr(_experiment, "commit", lambda: "one")
    with pytest.raises(KeyboardInterrupt):
        broken(Settings(seeds=2), folder=tmp_path / "run", quiet=True)
    monkeypatch.setattr(_experiment, "commit", lambda: "two")
    summary = broken(Settings(seeds=2), folder=tmp_path / "run", resume=True, quiet=True)
    assert summary["commits"] == ["one", "two"]
    texts = dict.fromkeys(("id", "title", "room", "paper", "claim", "cost"), "x")
    card = Recipe(**texts, config=Settings, function=broken)
    assert result(card, "tiny", summary)["commit"] == "one, two"
    assert result(card, "tiny", {})["seed"] is None, "a recipe's summary may say nothing"


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", [1]])
def test_a_value_is_a_finite_number(value: Any) -> None:
    with pytest.raises(DataError, match="the value of item a is"):
        Scores(values={"a": value})


def test_scores_need_items_and_sane_costs() -> None:
    with pytest.raises(DataError, match="no items"):
        Scores(values={})
    with pytest.raises(DataError, match="tokens spent are -1"):
        Scores(values={"a": 1}, spent={"tokens": -1})
    assert Scores(values={"a": None, "b": True}).mean == 1.0
    assert math.isnan(Scores(values={"a": None}).mean)
    with pytest.raises(DataError, match="the id of an item is 3; expected text"):
        Scores(values={3: True})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="a unit of cost is None; expected text"):
        Scores(values={"a": 1}, spent={None: 1})  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"values is \[1\]; expected a mapping"):
        Scores(values=[1])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="result is None; expected an EvalResult"):
        Scores.of(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("fact", [math.inf, "0.5", None, True])
def test_a_fact_is_a_number_or_nan(fact: Any) -> None:
    with pytest.raises(DataError, match="the fact 'f' is"):
        Trial(arms={"a": Scores(values={"x": 1})}, facts={"f": fact})
    with pytest.raises(DataError, match=r"the arm 'a' is 0\.5; expected Scores"):
        Trial(arms={"a": 0.5})  # type: ignore[dict-item]


def test_the_names_of_a_trial_are_texts() -> None:
    scores = Scores(values={"x": 1})
    with pytest.raises(DataError, match="the name of an arm is 1; expected text"):
        Trial(arms={1: scores})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="the name of a fact is 1; expected text"):
        Trial(arms={"a": scores}, facts={1: 0.5})  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"facts is \[0.5\]; expected a mapping"):
        Trial(arms={"a": scores}, facts=[0.5])  # type: ignore[arg-type]


@pytest.mark.parametrize("id", ["scores", "trial", "record", "path", "my-method-2"])
def test_a_new_recipe_runs_whatever_it_is_called(
    id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    path = tmp_path / "new.py"
    path.write_text(new_recipe(id))
    load_file(path, prefix="own_recipe")
    (made,) = registry._registered.values()
    config = made.configure({"items": 5, "seeds": 1})
    assert made.run(config, folder=tmp_path / "run", quiet=True)["status"] == "runs"


@pytest.mark.parametrize("id", ["import", "lambda", "np", "Two", "2-methods", "a--b"])
def test_a_new_recipe_has_a_name(id: str) -> None:
    with pytest.raises(ConfigError, match="the recipe id is"):
        new_recipe(id)


def test_a_trial_survives_its_storage() -> None:
    trial = Trial(
        arms={"a": Scores(values={"x": True, "y": None}, spent={"calls": 2})}, facts={"f": math.nan, "g": 1}
    )
    again = Trial.from_json(json.loads(json.dumps(trial.to_json())))
    assert again.arms == trial.arms
    assert math.isnan(again.facts["f"])
    assert again.facts["g"] == 1
    stored: Any
    for stored in (None, [], {"arms": {}}, {"arms": {"a": None}, "facts": {}}, {"arms": 1, "facts": {}}):
        with pytest.raises(DataError, match=r"the trial is .*; expected what Trial.to_json returns"):
            Trial.from_json(stored)
