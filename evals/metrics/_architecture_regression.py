"""Ridge regression of scores on what is known of a task and an architecture beforehand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from docendo.evals.metrics._architecture_runs import ArchitectureRun, predictors
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Record):
    """What an architecture costs on average: all that is known of it on a new task.

    Attributes:
        log_agents: ln(1 + agents).
        log_turns: ln(T / T_SAS); the paper's ln(1 + O%) with O as a share.
        message_density: Messages for each turn.
        redundancy: Mean pairwise cosine of outputs.
    """

    log_agents: float
    log_turns: float
    message_density: float
    redundancy: float


def _profiles(runs: Iterable[ArchitectureRun]) -> dict[str, Profile]:
    """Returns the mean profile of each architecture."""
    found: dict[str, list[ArchitectureRun]] = defaultdict(list)
    for run in runs:
        found[run.architecture].append(run)

    def mean(values: Iterable[float], n: int) -> float:
        return math.fsum(values) / n

    return {
        name: Profile(
            log_agents=mean((math.log1p(run.agents) for run in same), len(same)),
            log_turns=mean((math.log(run.turn_ratio) for run in same), len(same)),
            message_density=mean((run.message_density for run in same), len(same)),
            redundancy=mean((run.redundancy for run in same), len(same)),
        )
        for name, same in sorted(found.items())
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression(Record):
    """A fitted ridge regression.

    Attributes:
        features: Names of the tasks' own features.
        coefficients: Coefficient of each predictor, per standard deviation.
        centres: Mean of each predictor.
        scales: Standard deviation of each predictor; 0 if it is constant, and then it has no effect.
        intercept: Mean score of the runs.
        profiles: Mean cost of each architecture, by name.
        alpha: The penalty.
    """

    features: tuple[str, ...]
    coefficients: Mapping[str, float]
    centres: Mapping[str, float]
    scales: Mapping[str, float]
    intercept: float
    profiles: Mapping[str, Profile]
    alpha: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a regression stored by `to_json`."""
        known = {name: Profile(**one) for name, one in value["profiles"].items()}
        return cls(**{**value, "features": tuple(value["features"]), "profiles": known})

    @classmethod
    def fit(cls, runs: Sequence[ArchitectureRun], scores: Sequence[float], *, alpha: float) -> Self:
        """Fits scores of runs, which need not be their own."""
        import numpy as np

        features, known = tuple(sorted(runs[0].features)), _profiles(runs)
        names = predictors(features)
        table = np.array([_row(run.single, run.features, features, known[run.architecture]) for run in runs])
        centres, scales = table.mean(axis=0), table.std(axis=0)
        # What differs by rounding alone is constant.
        scales[scales <= 1e-12 * np.maximum(1.0, np.abs(centres))] = 0.0
        table = (table - centres) / np.where(scales > 0, scales, np.inf)
        intercept = math.fsum(scores) / len(scores)
        # Written as least squares, which is defined for collinear predictors and alpha = 0, too.
        penalty = math.sqrt(alpha) * np.eye(len(names))
        target = np.concatenate([np.array(scores) - intercept, np.zeros(len(names))])
        weights = np.linalg.lstsq(np.vstack([table, penalty]), target, rcond=None)[0]
        return cls(
            features=features,
            coefficients=dict(zip(names, map(float, weights), strict=True)),
            centres=dict(zip(names, map(float, centres), strict=True)),
            scales=dict(zip(names, map(float, scales), strict=True)),
            intercept=intercept,
            profiles=known,
            alpha=float(alpha),
        )

    def predict(self, run: ArchitectureRun) -> float:
        """The score that a run's task and architecture let expect."""
        return self.score(run.single, run.features, run.architecture)

    def score(self, single: float, features: Mapping[str, float], architecture: str) -> float:
        """The same of a task and the name of an architecture."""
        values = _row(single, features, self.features, self.profiles[architecture])
        return self.intercept + math.fsum(
            self.coefficients[name] * (value - self.centres[name]) / self.scales[name]
            for name, value in zip(predictors(self.features), values, strict=True)
            if self.scales[name] > 0
        )


def _row(single: float, features: Mapping[str, float], names: Sequence[str], profile: Profile) -> list[float]:
    """The values of the predictors, in the order of `predictors(names)`."""
    values = [math.log1p(features[name]) if name == "tools" else features[name] for name in names]
    return [
        single,
        profile.log_agents,
        profile.log_turns,
        profile.message_density,
        profile.redundancy,
        single * profile.log_agents,
        profile.redundancy * profile.log_agents,
        *values,
        *(value * profile.log_turns for value in values),
    ]
