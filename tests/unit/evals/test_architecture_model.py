"""The architecture model learns from runs, is judged on families it has not seen, and says what it lacks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from docendo.errors import ConfigError, DataError
from docendo.evals import (
    ArchitectureModel,
    ArchitectureRun,
    CoordinationReport,
    ItemEffort,
    Measure,
    coordination_metrics,
)
from docendo.evals.metrics._architecture_runs import predictors
from docendo.records import Author, Trace

COSTS = {
    "single": {"agents": 1},
    "vote": {"agents": 3, "turn_ratio": 1.6, "redundancy": 0.5},
    "star": {"agents": 4, "turn_ratio": 4.0, "message_density": 0.4, "redundancy": 0.4},
}


def runs(gain=0.1, noise=0.01, families=6, seed=0):
    """More turns help on tasks that decompose and hurt on sequential ones."""
    rng = np.random.default_rng(seed)
    made = []
    for family in range(families):
        sequential = family % 2
        for task in range(2):
            single = rng.uniform(0.2, 0.8)
            for name, costs in COSTS.items():
                effect = gain * (1 - 2 * sequential) * math.log(costs.get("turn_ratio", 1.0))
                made.append(
                    ArchitectureRun(
                        architecture=name,
                        family=f"f{family}",
                        task=f"t{family}{task}",
                        score=single + (effect + rng.normal(0, noise) if name != "single" else 0.0),
                        single=single,
                        features={"sequential": sequential},
                        **costs,
                    )
                )
    return made


def test_it_finds_who_is_better_where():
    model = ArchitectureModel.fit(runs())
    assert model.recommend(single=0.5, features={"sequential": 0}).architecture == "star"
    assert model.recommend(single=0.5, features={"sequential": 1}).architecture == "single"
    assert model.r2_held_out > 0.9
    assert max(model.r2_shuffled) < 0.5
    assert model.always_single <= model.chosen <= model.best
    assert model.gain_over_best.interval[0] > 0
    assert model.recommend(single=0.5, features={"sequential": 0}).note == ""


def test_a_prediction_on_a_held_out_family_uses_no_run_of_it():
    made = runs()
    spoilt = [
        run.replace(score=run.score + 5.0) if run.family == "f0" and run.architecture == "star" else run
        for run in made
    ]
    from docendo.evals.metrics._architecture_choice import held_out

    def predictions(rows):
        found = held_out(rows, [run.score for run in rows], 1.0)
        return [value for run, value in zip(rows, found, strict=True) if run.family == "f0"]

    assert predictions(spoilt) == predictions(made)


def test_coefficients_are_scikit_learns():
    made = runs(noise=0.05)
    model = ArchitectureModel.fit(made, alpha=2.5)
    names = predictors(("sequential",))

    def table():
        for run in made:
            agents, turns = math.log1p(run.agents), math.log(run.turn_ratio)
            feature = run.features["sequential"]
            yield [
                run.single,
                agents,
                turns,
                run.message_density,
                run.redundancy,
                run.single * agents,
                run.redundancy * agents,
                feature,
                feature * turns,
            ]

    x = np.array(list(table()))
    fitted = Ridge(alpha=2.5).fit((x - x.mean(0)) / x.std(0), [run.score for run in made])
    assert [model.regression.coefficients[name] for name in names] == pytest.approx(list(fitted.coef_))
    assert model.regression.intercept == pytest.approx(fitted.intercept_)
    expected = fitted.predict((x - x.mean(0)) / x.std(0))
    assert [model.regression.predict(run) for run in made] == pytest.approx(list(expected))
    assert model.r2 == pytest.approx(fitted.score((x - x.mean(0)) / x.std(0), [run.score for run in made]))


def test_leave_one_family_out_by_hand():
    made = runs(noise=0.05)
    model = ArchitectureModel.fit(made)
    wrong = spread = 0.0
    for family in {run.family for run in made}:
        inside = [run for run in made if run.family == family and run.architecture != "single"]
        rest = [run for run in made if run.family != family]
        fitted = ArchitectureModel.fit(rest, shuffles=0).regression
        mean = np.mean([run.score for run in rest if run.architecture != "single"])
        wrong += sum((run.score - fitted.predict(run)) ** 2 for run in inside)
        spread += sum((run.score - mean) ** 2 for run in inside)
    assert model.r2_held_out == pytest.approx(1 - wrong / spread)
    assert model.error == pytest.approx(math.sqrt(wrong / 24))


def test_noise_is_not_sold_as_knowledge():
    rng = np.random.default_rng(1)
    noise = [run.replace(score=float(rng.random()), single=float(rng.random())) for run in runs()]
    model = ArchitectureModel.fit(noise)
    assert model.r2_held_out < 0.3
    note = model.recommend(single=0.5, features={"sequential": 0}).note
    assert "not shown to beat one fixed architecture" in note


def test_a_task_far_from_all_runs_is_pointed_out():
    model = ArchitectureModel.fit(runs())
    assert "far from" in model.recommend(single=9.0, features={"sequential": 0}).note


def test_the_comparison_counts_every_task_once():
    made = runs()
    model = ArchitectureModel.fit(made)
    tasks = {run.task for run in made}
    best = [max(run.score for run in made if run.task == task) for task in tasks]
    single = [run.score for run in made if run.architecture == "single"]
    assert model.best == pytest.approx(np.mean(best))
    assert model.always_single == pytest.approx(np.mean(single))
    assert model.gain_over_single.value == pytest.approx(model.chosen - model.always_single)


def test_the_best_on_average_is_chosen_without_the_family_it_is_judged_on():
    # "star" is far ahead on the last family alone, so only its own runs could speak for it there.
    made = [
        run.replace(score=run.single + (9.0 if run.family == "f5" else -0.5))
        if run.architecture == "star"
        else run.replace(score=run.single + 0.1 * (run.architecture == "vote"))
        for run in runs()
    ]
    model = ArchitectureModel.fit(made)
    expected = [
        next(other.score for other in made if (other.task, other.architecture) == (run.task, best))
        for run in made
        if run.architecture == "single"
        for best in ["vote" if run.family == "f5" else "star"]
    ]
    # With f5 among the others, the mean of "star" is the highest: -0.5 everywhere but 9 there.
    assert model.always_best == pytest.approx(np.mean(expected))


def test_of_equal_predictions_the_cheaper_architecture_is_chosen():
    made = [run.replace(score=run.single) for run in runs()]
    model = ArchitectureModel.fit(made, alpha=0.0)
    found = model.recommend(single=0.5, features={"sequential": 0})
    assert max(found.predicted.values()) == pytest.approx(min(found.predicted.values()), abs=1e-9)
    assert found.architecture == "single"


def test_order_does_not_matter_and_json_keeps_it():
    made = runs(noise=0.05)
    model = ArchitectureModel.fit(made)
    assert ArchitectureModel.fit(made[::-1]) == model
    assert ArchitectureModel.from_json(json.loads(json.dumps(model.to_json()))) == model
    assert "held out" in str(model)


def test_too_few_runs_are_refused_with_the_number_needed():
    with pytest.raises(
        DataError, match="12 runs of 2 task families; expected at least 20 runs of 3 families"
    ):
        ArchitectureModel.fit(runs(families=2))
    with pytest.raises(DataError, match="0 runs"):
        ArchitectureModel.fit([])
    plain = [run.replace(features={}) for run in runs(families=3)]
    assert ArchitectureModel.fit(plain).n == 18  # without features seven predictors, so 16 are enough


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda run: run.replace(features={"other": 1.0}) if run.task == "t00" else run,
            "different features",
        ),
        (lambda run: run.replace(architecture="solo") if run.architecture == "single" else run, "no run of"),
        (
            lambda run: (
                run.replace(architecture="odd") if (run.task, run.architecture) == ("t00", "star") else run
            ),
            "'odd' was run on one task family",
        ),
        (lambda run: run.replace(architecture="single"), "only the architecture"),
        (lambda run: run.replace(score=0.5), "the same score"),
    ],
)
def test_runs_that_cannot_be_judged_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        ArchitectureModel.fit([change(run) for run in runs()])


@pytest.mark.parametrize("setting", [{"alpha": -1}, {"shuffles": -1}, {"resamples": 3}, {"level": 2}])
def test_settings_are_checked(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ArchitectureModel.fit(runs(), **setting)


@pytest.mark.parametrize(
    "fields", [{"score": math.nan}, {"agents": 0}, {"turn_ratio": 0}, {"features": {"tools": -1}}]
)
def test_a_run_holds_usable_numbers(fields):
    with pytest.raises(DataError, match=next(iter(fields))):
        ArchitectureRun(
            **{"architecture": "a", "family": "f", "task": "t", "score": 1, "single": 1, **fields}
        )


def test_the_features_of_a_task_must_be_those_of_the_runs():
    model = ArchitectureModel.fit(runs())
    for features in ({}, {"sequential": 1, "more": 2}, {"sequential": math.nan}):
        with pytest.raises(DataError, match="numbers for single, sequential"):
            model.recommend(single=0.5, features=features)


def test_a_row_is_made_of_coordination_metrics():
    def turn(id, agent, *parents):
        author = Author(agent=agent, role=agent)
        return Trace(id=id, run="r", item="i", author=author, messages=(), completion="4", parents=parents)

    traces = [turn("1", "one"), turn("2", "two", "1"), turn("3", "one", "2"), turn("4", "two")]
    single = [ItemEffort(item="i", correct=False, turns=2)]
    report = coordination_metrics(traces, {"i": True}, baseline=single, resamples=100)
    run = ArchitectureRun.of(report, architecture="pair", family="f", task="t", single=0.25)
    assert (run.score, run.agents, run.turn_ratio, run.message_density) == (1.0, 2, 2.0, 0.5)
    assert run.redundancy == 1.0
    alone = coordination_metrics(traces, {"i": True}, resamples=100)
    assert isinstance(alone, CoordinationReport)
    assert isinstance(alone.overhead, Measure)
    with pytest.raises(DataError, match="no overhead"):
        ArchitectureRun.of(alone, architecture="pair", family="f", task="t", single=0.25)
