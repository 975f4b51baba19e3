"""How well a regression chooses architectures for task families that it has not seen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from docendo.evals.metrics._architecture_regression import Regression
from docendo.evals.metrics._architecture_runs import ArchitectureRun
from docendo.evals.metrics._measures import Measure, measured, resampled_means


def held_out(runs: Sequence[ArchitectureRun], scores: Sequence[float], alpha: float) -> list[float]:
    """Predicts each run by a fit to the runs of the other families."""
    predictions = [0.0] * len(runs)
    for family in sorted({run.family for run in runs}):
        inside = [run.family == family for run in runs]
        rest = [(run, score) for run, score, here in zip(runs, scores, inside, strict=True) if not here]
        fitted = Regression.fit([run for run, _ in rest], [score for _, score in rest], alpha=alpha)
        for place, run in enumerate(runs):
            if inside[place]:
                predictions[place] = fitted.predict(run)
    return predictions


def r2(
    runs: Sequence[ArchitectureRun], scores: Sequence[float], predictions: Sequence[float], single: str
) -> tuple[float, float]:
    """Held-out R2 of multi-agent runs against the mean of the other families, and the RMS error.

    Where nothing varies, which shuffling can lead to, nothing is explained: R2 is 0.
    """
    together = [
        (run.family, score, predicted)
        for run, score, predicted in zip(runs, scores, predictions, strict=True)
        if run.architecture != single
    ]
    means = {
        family: fmean(score for other, score, _ in together if other != family)
        for family in {family for family, _, _ in together}
    }
    wrong = math.fsum((score - predicted) ** 2 for _, score, predicted in together)
    spread = math.fsum((score - means[family]) ** 2 for family, score, _ in together)
    return (1 - wrong / spread if spread else 0.0), math.sqrt(wrong / len(together))


def shuffled_r2(
    runs: Sequence[ArchitectureRun], single: str, *, alpha: float, shuffles: int, seed: int
) -> tuple[float, ...]:
    """Held-out R2 of fits to scores that were shuffled among the runs."""
    import numpy as np

    generator = np.random.default_rng(seed)
    scores = np.array([run.score for run in runs])
    found = []
    for _ in range(shuffles):
        other = [float(score) for score in generator.permutation(scores)]
        found.append(r2(runs, other, held_out(runs, other, alpha), single)[0])
    return tuple(found)


def judged(
    runs: Sequence[ArchitectureRun],
    predictions: Sequence[float],
    single: str,
    *,
    resamples: int,
    level: float,
    seed: int,
) -> dict[str, Any]:
    """Mean scores of the choices that can be made on each task, and the gains of the model's choice."""
    import numpy as np

    tasks: dict[tuple[str, str], list[tuple[ArchitectureRun, float]]] = defaultdict(list)
    for run, predicted in zip(runs, predictions, strict=True):
        tasks[run.family, run.task].append((run, predicted))
    rows = [
        _choices(same, _ranking([run for run in runs if run.family != family]), single)
        for (family, _), same in sorted(tasks.items())
    ]
    names = ("chosen", "always_single", "always_best", "best")
    means = {name: fmean(row[name] for row in rows) for name in names}
    # A family's tasks are alike, so families are resampled, each with the mean of its tasks.
    families: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for (family, _), row in zip(sorted(tasks), rows, strict=True):
        families[family].append(row)
    gains: dict[str, Measure] = {}
    for name, other in (("gain_over_single", "always_single"), ("gain_over_best", "always_best")):
        columns = np.array(
            [[sum(row["chosen"] - row[other] for row in same), len(same)] for same in families.values()],
            dtype=float,
        )
        drawn = resampled_means(columns, resamples=resamples, seed=seed)
        value = means["chosen"] - means[other]
        gains[name] = measured(value, drawn[:, 0] / drawn[:, 1], level=level, reason="")
    return {**means, **gains}


def _ranking(runs: Sequence[ArchitectureRun]) -> list[str]:
    """Architectures by their mean score, the best first."""
    scores: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        scores[run.architecture].append(run.score)
    return sorted(scores, key=lambda name: (-fmean(scores[name]), name))


def _choices(
    same: Sequence[tuple[ArchitectureRun, float]], ranking: Sequence[str], single: str
) -> dict[str, float]:
    """What each way to choose reaches on one task."""
    scores: dict[str, list[float]] = defaultdict(list)
    predicted: dict[str, float] = {}
    for run, value in same:
        scores[run.architecture].append(run.score)
        predicted[run.architecture] = value
    reached = {name: fmean(values) for name, values in scores.items()}
    chosen = min(predicted, key=lambda name: (-round(predicted[name], 12), name))
    return {
        "chosen": reached[chosen],
        "always_single": reached[single],
        "always_best": reached[next(name for name in ranking if name in reached)],
        "best": max(reached.values()),
    }
