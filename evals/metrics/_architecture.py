"""Which architecture suits a task: a regression on one's own runs, judged on task families it has not seen.

The form follows "Towards a Science of Scaling Agent Systems" (2025, arXiv 2512.08296); its coefficients and
constants are not used. Everything is fitted to the runs at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, DataError
from docendo.evals.metrics._architecture_choice import held_out, judged, r2, shuffled_r2
from docendo.evals.metrics._architecture_regression import Regression
from docendo.evals.metrics._architecture_runs import ArchitectureRun, checked
from docendo.evals.metrics._measures import Measure
from docendo.evals.statistics._checks import check_resampling
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureChoice(Record):
    """What a model recommends for a task.

    Attributes:
        architecture: The architecture with the highest predicted score; of equal ones that with fewer turns.
        predicted: Predicted score of each architecture.
        error: Root mean square error of such predictions on families that were held out.
        note: What speaks against trusting it, or empty.
    """

    architecture: str
    predicted: Mapping[str, float]
    error: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureModel(Record):
    """A ridge regression of scores on what is known of a task and an architecture before it is run.

    Figures marked "held out" are of predictions for a task family by a model fitted without it.

    Attributes:
        single: Name of the single agent's architecture.
        regression: The fit to all runs.
        n: Number of runs.
        families: Number of task families.
        r2: Explained share of the variance of scores, on the very runs it was fitted to.
        r2_held_out: The same held out, against the mean of the other families. Of multi-agent runs only: the
            single agent's score is nearly known. Below 0 it predicts worse than that mean.
        r2_shuffled: `r2_held_out` of fits to scores shuffled among the runs: what no information looks like.
        error: Root mean square error, held out, of multi-agent runs.
        chosen: Mean score, over tasks, of the architecture recommended, held out.
        always_single: Mean score of the single agent.
        always_best: Mean score of the architecture that is best on average in the other families.
        best: Mean score of the best architecture of each task: what no choice can exceed.
        gain_over_single: `chosen - always_single`, with its bootstrap interval over families.
        gain_over_best: `chosen - always_best`, likewise.

    Example:
        >>> gains = (("single", 1, 0.0), ("pair", 2, 0.1), ("team", 4, 0.2))
        >>> runs = [
        ...     ArchitectureRun(architecture=name, family=f"f{f}", task=f"t{f}", score=0.1 * f + gain,
        ...                     single=0.1 * f, agents=agents, turn_ratio=agents)
        ...     for f in range(6) for name, agents, gain in gains
        ... ]
        >>> model = ArchitectureModel.fit(runs)
        >>> model.recommend(single=0.3).architecture, model.always_best == model.best
        ('team', True)
    """

    single: str
    regression: Regression
    n: int
    families: int
    r2: float
    r2_held_out: float
    r2_shuffled: tuple[float, ...]
    error: float
    chosen: float
    always_single: float
    always_best: float
    best: float
    gain_over_single: Measure
    gain_over_best: Measure

    @classmethod
    def fit(
        cls,
        runs: Sequence[ArchitectureRun],
        *,
        single: str = "single",
        alpha: float = 1.0,
        shuffles: int = 20,
        seed: int = 0,
        resamples: int = 10_000,
        level: float = 0.95,
    ) -> Self:
        """Fits the model to runs and judges it by leaving out one task family at a time.

        Predictors are standardised. An architecture enters by its mean costs in the runs fitted to, never by
        those of the run that is predicted, which nobody knows beforehand.

        Args:
            runs: The runs, at least two for each predictor and the constant, of three families or more.
            single: Name of the single agent's architecture; every task needs a run of it.
            alpha: Ridge penalty on standardised predictors; 0 is least squares.
            shuffles: How many fits to shuffled scores to make as a control.
            seed: Seed of shuffles and bootstrap.
            resamples: Number of bootstrap resamples.
            level: Confidence level.

        Raises:
            DataError: if there are too few runs or families (it says how many are needed), a task has no run
                of the single agent, or features differ.
            ConfigError: if a setting is out of range.
        """
        if not is_number(alpha) or alpha < 0:
            raise ConfigError(f"alpha is {alpha!r}", expected="0 or more")
        if not is_count(shuffles) or shuffles < 0:
            raise ConfigError(f"shuffles is {shuffles!r}", expected="0 or more")
        check_resampling(resamples, seed, level)
        runs = checked(runs, single)
        scores = [run.score for run in runs]
        regression = Regression.fit(runs, scores, alpha=alpha)
        predictions = held_out(runs, scores, alpha)
        r2_held_out, error = r2(runs, scores, predictions, single)
        mean = math.fsum(scores) / len(scores)
        residuals = [run.score - regression.predict(run) for run in runs]
        spread = math.fsum((score - mean) ** 2 for score in scores)
        return cls(
            single=single,
            regression=regression,
            n=len(runs),
            families=len({run.family for run in runs}),
            r2=1 - math.fsum(value**2 for value in residuals) / spread,
            r2_held_out=r2_held_out,
            r2_shuffled=shuffled_r2(runs, single, alpha=alpha, shuffles=shuffles, seed=seed),
            error=error,
            **judged(runs, predictions, single, resamples=resamples, level=level, seed=seed),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a model stored by `to_json`."""
        return cls(
            **{
                **value,
                "regression": Regression.from_json(value["regression"]),
                "r2_shuffled": tuple(value["r2_shuffled"]),
                "gain_over_single": Measure.from_json(value["gain_over_single"]),
                "gain_over_best": Measure.from_json(value["gain_over_best"]),
            }
        )

    def recommend(self, *, single: float, features: Mapping[str, float] | None = None) -> ArchitectureChoice:
        """Recommends an architecture for a task.

        Args:
            single: What the single agent reaches on the task, on dev items.
            features: The task's features, by the names the model was fitted with.

        Raises:
            DataError: if a feature is missing, unknown or not a number.
        """
        given, regression = dict(features or {}), self.regression
        if set(given) != set(regression.features) or not all(map(is_number, (single, *given.values()))):
            raise DataError(
                f"the task has the features {', '.join(sorted(given)) or 'none'} and single={single!r}",
                expected=f"numbers for {', '.join(('single', *regression.features))}",
            )
        predicted = {name: regression.score(single, given, name) for name in regression.profiles}
        turns = {name: one.log_turns for name, one in regression.profiles.items()}
        chosen = min(predicted, key=lambda name: (-round(predicted[name], 12), turns[name], name))
        return ArchitectureChoice(
            architecture=chosen, predicted=predicted, error=self.error, note=self._note(single)
        )

    def _note(self, single: float) -> str:
        notes = []
        interval = self.gain_over_best.interval
        if interval is None or interval[0] <= 0:
            notes.append("On held-out families its choice is not shown to beat one fixed architecture.")
        if self.r2_shuffled and self.r2_held_out <= max(self.r2_shuffled):
            notes.append("It predicts held-out families no better than fits to shuffled scores.")
        centre, scale = self.regression.centres["single"], self.regression.scales["single"]
        if abs(single - centre) > 3 * scale:
            notes.append("The single agent's score lies far from those of the runs it was fitted to.")
        return " ".join(notes)

    def __str__(self) -> str:
        shuffled, known = max(self.r2_shuffled, default=math.nan), len(self.regression.profiles)
        return "\n".join(
            [
                f"{self.n} runs of {self.families} task families, {known} architectures",
                f"R2 fitted {self.r2:.3f}, held out {self.r2_held_out:.3f}, best of shuffled {shuffled:.3f}",
                f"mean score by its choice {self.chosen:.3f}, always {self.single} {self.always_single:.3f}, "
                f"always the best on average {self.always_best:.3f}, best possible {self.best:.3f}",
                f"gain over always {self.single}: {self.gain_over_single}",
                f"gain over always the best on average: {self.gain_over_best}",
            ]
        )
