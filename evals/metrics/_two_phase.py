"""The two-phase protocol: settings are chosen on some task families and judged, once, on others.

Choosing the settings on the data they are reported on flatters a method. Cha and Cho (2024, arXiv 2403.09066)
found that many results of continual learning do not survive when the settings come from another data set.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any, TypeAlias

from docendo.checks import check_kind, entries, given_path, is_count, is_number, short
from docendo.errors import ConfigError, DataError
from docendo.evals.items._tasks import Task
from docendo.evals.metrics._two_phase_state import (
    Family,
    Ledger,
    TwoPhaseResult,
    check_disjoint,
    family_name,
)
from docendo.hashing import digest
from docendo.progress import progress

Config: TypeAlias = Mapping[str, Any]
#: Trains and measures: gets settings, a family as it was given, and a seed; returns the score.
RunOnce: TypeAlias = "Callable[[dict[str, Any], Any, int], float]"


class TwoPhase:
    """Chooses settings on the families `tune` and judges the winner on the families `evaluate`.

    Phase 1 runs every setting (or as many as the budget allows, drawn by their digests) on every family and
    seed of `tune` and freezes the one with the best mean. Phase 2 runs that one alone, once for each family
    and seed of `evaluate`. Only after that, `conventional` may run the other settings there, to show how much
    better a result looks whose settings were chosen on the data it is reported on.

    Everything that has finished is kept in the state file, so that the same calls after a crash repeat no
    finished run.

    Args:
        search_space: Values of each setting, all combinations of which are tried; or a list of settings.
        tune: Families of phase 1: names, or tasks.
        evaluate: Families of phase 2. None may share a name, a task source (another seed of the same
            generator is the same source) or, where tasks are given, a question with one of `tune`.
        metric: Name of the score, for messages.
        seeds: Seeds of each setting and family.
        budget: Most runs of phase 1; None tries everything.
        maximise: Whether a higher score is better.
        state: The JSON file of what has finished; None keeps it in memory.

    Raises:
        ConfigError: if families overlap, a setting occurs twice or is no JSON, or the budget allows
            fewer than two settings.
        ResumeError: if the state file is of another protocol.

    Example:
        >>> protocol = TwoPhase({"rate": [0.1, 0.5]}, tune=["sums"], evaluate=["products"], seeds=[0, 1])
        >>> def run(config, family, seed):
        ...     return config["rate"] if family == "sums" else 1 - config["rate"]
        >>> protocol.tune(run, quiet=True)
        {'rate': 0.5}
        >>> protocol.evaluate(run, quiet=True).score
        0.5
        >>> print(protocol.conventional(run, quiet=True))
        two-phase score      0.500  settings {"rate": 0.5}, chosen on sums
          products           0.500  0.500 0.500
        conventional         0.900  settings {"rate": 0.1}, the best on products itself
        optimism gap         0.400
        phase 1: 4 runs, phase 2: 2 runs, conventional: 2 runs
    """

    def __init__(
        self,
        search_space: Mapping[str, Sequence[Any]] | Sequence[Config],
        *,
        tune: Sequence[Family],
        evaluate: Sequence[Family],
        metric: str = "score",
        seeds: Sequence[int] = (0, 1, 2),
        budget: int | None = None,
        maximise: bool = True,
        state: str | Path | None = None,
    ) -> None:
        check_kind("metric", metric, str, "the name of the score")
        check_kind("maximise", maximise, bool, "True or False")
        self.metric, self.maximise = metric, maximise
        self.seeds = _seeds(seeds)
        self._tune, self._evaluate = _families(tune, "tune"), _families(evaluate, "evaluate")
        check_disjoint(self._tune.values(), self._evaluate.values())
        self.configs = self._affordable(_configs(search_space), budget)
        self._ledger = Ledger(
            None if state is None else given_path("state", state),
            {
                "configs": list(self.configs),
                "tune": [_identity(family) for family in self._tune.values()],
                "evaluate": [_identity(family) for family in self._evaluate.values()],
                "metric": metric,
                "maximise": maximise,
                "seeds": list(self.seeds),
            },
        )
        self._check_frozen()

    def _affordable(
        self, configs: dict[str, dict[str, Any]], budget: int | None
    ) -> dict[str, dict[str, Any]]:
        """As many configurations as the budget allows, drawn by their digests."""
        if budget is None:
            return configs
        cost = len(self._tune) * len(self.seeds)
        if not is_count(budget) or budget < 2 * cost:
            raise ConfigError(
                f"budget is {short(budget)} runs, and a setting takes {cost}", expected=f"at least {2 * cost}"
            )
        return dict(itertools.islice(configs.items(), min(budget // cost, len(configs))))

    def _check_frozen(self) -> None:
        """What was frozen must still follow from what phase 1 found."""
        frozen = self._ledger.frozen
        if frozen is not None and (self._missing("tune", self.configs) or self._best("tune") != frozen):
            raise self._ledger.damaged("its frozen setting is not the best of phase 1")

    def tune(self, run: RunOnce, *, quiet: bool = False) -> dict[str, Any]:
        """Phase 1: returns the settings with the best mean score on the families `tune`, and freezes them.

        Args:
            run: Trains and measures; called as `run(config, family, seed)`.
            quiet: Show no progress.

        Raises:
            DataError: if a score is not a finite number.
        """
        if self._ledger.frozen is None:
            self._run("tune", run, self.configs, quiet=quiet)
            self._ledger.freeze(self._best("tune"))
        return copy.deepcopy(self.configs[self._winner()])

    def evaluate(self, run: RunOnce, config: Config | None = None, *, quiet: bool = False) -> TwoPhaseResult:
        """Phase 2: runs the frozen settings once for each family and seed of `evaluate`.

        What has been run is reported again and not run again.

        Args:
            run: As in `tune`.
            config: The settings, to make sure that they are the frozen ones; by default those.
            quiet: Show no progress.

        Raises:
            ConfigError: if phase 1 has not ended, or `config` differs from what it froze.
            DataError: if a score is not a finite number.
        """
        winner = self._winner()
        if config is not None and _hash(config) != winner:
            raise ConfigError(
                f"phase 2 was given the settings {dict(config)!r}",
                expected=f"those that phase 1 froze, {self.configs[winner]!r}",
                remedy="tune again, in a protocol of its own, to judge others",
            )
        self._run("evaluate", run, [winner], quiet=quiet)
        return self._result()

    def conventional(self, run: RunOnce, *, quiet: bool = False) -> TwoPhaseResult:
        """Runs the other settings on the families `evaluate`, too, and adds the best of them to the result.

        Raises:
            ConfigError: if phase 2 has not ended: nothing may be seen of these families before.
            DataError: if a score is not a finite number.
        """
        if self._missing("evaluate", [self._winner()]):
            raise ConfigError("phase 2 has not ended", remedy="call evaluate first")
        self._run("evaluate", run, self.configs, quiet=quiet)
        return self._result()

    def _winner(self) -> str:
        if self._ledger.frozen is None:
            raise ConfigError("phase 1 has not ended", remedy="call tune first")
        return self._ledger.frozen

    def _grid(self, phase: str, configs: Iterable[str]) -> list[tuple[str, str, int]]:
        families = self._tune if phase == "tune" else self._evaluate
        return list(itertools.product(configs, families, self.seeds))

    def _missing(self, phase: str, configs: Iterable[str]) -> list[tuple[str, str, int]]:
        return [cell for cell in self._grid(phase, configs) if not self._ledger.has(phase, *cell)]

    def _run(self, phase: str, run: RunOnce, configs: Iterable[str], *, quiet: bool) -> None:
        grid = self._grid(phase, configs)
        families = self._tune if phase == "tune" else self._evaluate
        with progress(f"two-phase {phase}", len(grid), quiet=quiet) as bar:
            for config, family, seed in grid:
                if not self._ledger.has(phase, config, family, seed):
                    began, settings = time.monotonic(), copy.deepcopy(self.configs[config])
                    score = run(settings, families[family], seed)
                    if not is_number(score):
                        raise DataError(
                            f"{self.metric} on {family!r} with seed {seed} and {settings!r} is {score!r}"[
                                :300
                            ],
                            expected="a finite number",
                        )
                    seconds = time.monotonic() - began
                    self._ledger.add(phase, config, family, seed, score=float(score), seconds=seconds)
                bar.advance()

    def _best(self, phase: str) -> str:
        """The configuration with the best mean; of equal ones that with the smallest digest."""
        sign = -1 if self.maximise else 1
        return min(self.configs, key=lambda config: (sign * self._mean(phase, config), config))

    def _mean(self, phase: str, config: str) -> float:
        scores = [self._ledger.score(phase, *cell) for cell in self._grid(phase, [config])]
        return fsum(scores) / len(scores)

    def _result(self) -> TwoPhaseResult:
        winner = self._winner()
        scores = {
            family: tuple(self._ledger.score("evaluate", winner, family, seed) for seed in self.seeds)
            for family in self._evaluate
        }
        rival = None if self._missing("evaluate", self.configs) else self._best("evaluate")
        return TwoPhaseResult(
            metric=self.metric,
            maximise=self.maximise,
            config=copy.deepcopy(self.configs[winner]),
            config_hash=winner,
            seeds=self.seeds,
            tuned_on=tuple(self._tune),
            tuned=self._mean("tune", winner),
            scores=scores,
            score=self._mean("evaluate", winner),
            conventional=None if rival is None else self._mean("evaluate", rival),
            conventional_config=None if rival is None else copy.deepcopy(self.configs[rival]),
            runs=self._ledger.count(),
            seconds=self._ledger.seconds(),
        )


def _seeds(given: Sequence[int]) -> tuple[int, ...]:
    seeds = entries("seeds", given, error=ConfigError)
    if not seeds or not all(map(is_count, seeds)) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"the seeds are {short(seeds)}", expected="different whole numbers, at least one")
    return tuple(sorted(seeds))


def _families(given: Sequence[Family], name: str) -> dict[str, Family]:
    families = entries(name, given, expected="names or tasks, at least one", error=ConfigError)
    if not families:
        raise ConfigError(f"{name} is []", expected="names or tasks, at least one")
    found = {family_name(family): family for family in families}
    if len(found) < len(families):
        raise ConfigError(f"{name} has a family twice", expected="each family once")
    return dict(sorted(found.items()))


def _identity(family: Family) -> str:
    return digest("family", family.name, family.fingerprint) if isinstance(family, Task) else family


def _configs(space: Mapping[str, Sequence[Any]] | Sequence[Config]) -> dict[str, dict[str, Any]]:
    """The configurations by their digests, in the order of these."""
    if isinstance(space, Mapping):
        for name, values in space.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ConfigError(f"the values of {name!r} are {values!r}", expected="a list, not empty")
        chosen = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    else:
        chosen = [
            dict(config)
            for config in entries("search_space", space, Mapping, "settings by name", ConfigError)
        ]
    found = {_hash(config): config for config in chosen}
    if len(found) < len(chosen) or len(chosen) < 2:
        raise ConfigError(
            f"the search space has {len(chosen)} settings, {len(found)} of them different",
            expected="different ones, two or more",
        )
    return dict(sorted(found.items()))


def _hash(config: Config) -> str:
    try:
        return digest("two-phase config", dict(config))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the settings {short(config)} cannot be stored ({error})", expected="JSON values"
        ) from error
