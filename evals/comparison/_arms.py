"""Comparing methods: each is run with every seed at an equal budget, beside a control that must fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.checks import given_path, is_count, is_number, short
from docendo.errors import ConfigError, DataError, ResumeError
from docendo.evals.comparison._meter import Meter, Unit
from docendo.evals.comparison._outcome import Outcome
from docendo.evals.comparison._rules import Direction, Metric, Rules
from docendo.evals.comparison._runs import (
    LOCK,
    LOG,
    OUTCOME,
    SETTINGS,
    Run,
    Spending,
    alone,
    check_same_engines,
    check_same_items,
    check_same_model,
    digest_of_items,
    fingerprints,
    spent_on,
    stored_rules,
)
from docendo.evals.comparison._verdicts import judge_arms
from docendo.evals.harness._results import EvalResult
from docendo.files import write_json
from docendo.progress import progress

if TYPE_CHECKING:
    from docendo.agents import EngineProtocol

#: Names of arms are names of folders beside which those of seeds are looked for.
_NAME = re.compile(r"(?!seed--?[0-9]+$)\w[\w ,.+-]{0,59}")
#: A method: evaluates itself with a seed. It may do anything before, such as training a student.
Arm = Callable[[int], EvalResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Which of several methods is better than a baseline, at an equal budget, over several seeds.

    Every arm is run once with every seed, on the same items. What it spends is counted at the engines, and
    arms whose budgets differ by more than `tolerance` get no verdict. A method is called better only if it
    beats the baseline and, where there is one, also the control: an arm with the same plumbing whose
    signal is shuffled, so that what helps there is not the method's idea.

    Attributes:
        arms: The methods by name; each takes a seed and returns the evaluation of its result.
        baseline: Name of the arm that the others are compared with; by default the first.
        control: Name of the arm with the shuffled signal, or None.
        engines: The engines whose ledgers count what an arm spends. Without any, what its evaluation
            says counts, and what it did before goes uncounted.
        unit: What the budget is counted in.
        budget: What each run should spend; by default what the baseline spends with the same seed.
        tolerance: Largest difference to the budget, as a share of it; 0.02 is the usual bound.
        seeds: The seeds. With fewer than five, little can be said of how much they vary, and intervals
            are wide.
        metric: "correct", "value" (the scorer's own number), "confidence", or a function of a record that
            returns a number, or None to leave the item out.
        direction: Whether "more" or "less" of the metric is better.
        level: Confidence level of intervals and tests; the tests of several arms, against the baseline and
            against the control, are adjusted by Holm's method.

    Example:
        >>> from docendo.evals import ExactScorer, evaluate, make_item
        >>> items = [make_item(f"What is {n} + 1?", n + 1) for n in range(60)]
        >>> def arm(good):
        ...     def run(seed):
        ...         def answer(item):
        ...             n = int(item.question.split()[2])
        ...             return str(n + 1 if (n * 7 + seed) % 10 < good else n)
        ...         return evaluate(answer, items, scorer=ExactScorer(), quiet=True)
        ...     return run
        >>> outcome = Comparison(arms={"plain": arm(3), "taught": arm(8)}, unit="calls").run(quiet=True)
        >>> outcome.pairs[0].verdict
        'better'
    """

    arms: Mapping[str, Arm]
    baseline: str = ""
    control: str | None = None
    engines: Sequence[EngineProtocol] = ()
    unit: Unit = "tokens"
    budget: float | None = None
    tolerance: float = 0.02
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    metric: Metric = "correct"
    direction: Direction = "more"
    level: float = 0.95

    def __post_init__(self) -> None:
        """Checks everything that would otherwise fail after hours."""
        for name, good, expected in self._checks():
            if not good:
                raise ConfigError(f"{name} is {short(getattr(self, name))}", expected=expected)
        for name in self.arms:
            if not _NAME.fullmatch(name) or name in (SETTINGS, OUTCOME, LOCK):
                raise ConfigError(
                    f"an arm is named {short(name)}",
                    expected="up to 60 letters, digits, spaces, '.', '-', and not seed-N",
                )
        # Raises for a baseline or a control that is no arm.
        self._rules().checked(self.arms)

    def _checks(self) -> Iterator[tuple[str, bool, str]]:
        """Of each setting whether it is good, and what it should be; each may rely on those before it."""
        arms: object = self.arms
        yield "arms", isinstance(arms, Mapping), "a mapping of names to functions of a seed"
        named = all(isinstance(name, str) and callable(arm) for name, arm in self.arms.items())
        yield "arms", named, "a function of a seed for each name"
        yield "arms", len(self.arms) >= 2, "at least two"
        seeds: object = self.seeds
        sequence = isinstance(seeds, Sequence) and not isinstance(seeds, str)
        yield "seeds", sequence, "several whole numbers, such as range(5)"
        yield "seeds", bool(self.seeds) and all(map(is_count, self.seeds)), "whole numbers, at least one"
        yield "seeds", len(set(self.seeds)) == len(self.seeds), "each seed once"
        engines: object = self.engines
        yield "engines", isinstance(engines, Sequence), "a list of engines"
        yield "engines", all(hasattr(engine, "subscribe") for engine in self.engines), "a list of engines"
        yield "budget", self.budget is None or (is_number(self.budget) and self.budget > 0), "more than 0"
        yield "tolerance", is_number(self.tolerance) and 0 <= self.tolerance < 1, "a share such as 0.02"

    def run(self, *, folder: str | Path | None = None, quiet: bool = False) -> Outcome:
        """Runs what has not been run, and judges.

        Args:
            folder: Where every finished run is kept (`ARM/seed-N`), so that the same call after a crash
                goes on; None keeps nothing. What an interrupted run had spent at the engines counts when it
                goes on, so an arm should go on as well (`evaluate` does with a `folder`): one that begins
                anew spends its budget twice, unless its `ARM/seed-N` is removed.
            quiet: Show no progress.

        Raises:
            ResumeError: if the folder holds a comparison of other arms, engines, models or items.
            DataError: if an arm was not evaluated on the same items as the others, or on none.
            ConfigError: if an arm returns something else than an evaluation, or the folder is no path.
            StorageError: if the folder cannot be written, or another process runs a comparison in it.
        """
        if folder is None:
            return self._judged(self._all({}, None, quiet=quiet))
        place = given_path("folder", folder)
        with alone(place):
            finished = self._finished(place)
            write_json(place / SETTINGS, {"arms": list(self.arms), **self._rules().to_json()})
            outcome = self._judged(self._all(finished, place, quiet=quiet))
            write_json(place / OUTCOME, outcome.to_json())
        return outcome

    def _finished(self, folder: Path) -> dict[tuple[str, int], Run]:
        """The runs that a folder holds, checked to be of this comparison."""
        stored = stored_rules(folder)
        # More seeds or other rules of judging can be had from the same runs; other arms cannot.
        if stored is not None and not set(stored["arms"]) <= set(self.arms):
            raise ResumeError(
                f"{folder} holds a comparison of other arms ({', '.join(stored['arms'])})",
                expected="the same arms, or more",
                remedy="choose another folder",
            )
        found: dict[tuple[str, int], Run] = {}
        for name, seed in product(self.arms, self.seeds):
            run = Run.load(_place(folder, name, seed), arm=name, seed=seed)
            if run is not None:
                check_same_engines(run, self.engines)
                check_same_items(run, found.values())
                found[name, seed] = run
        return found

    def _all(
        self, finished: Mapping[tuple[str, int], Run], folder: Path | None, *, quiet: bool
    ) -> dict[tuple[str, int], Run]:
        """All runs, those that are not finished being run now."""
        runs = dict(finished)
        with progress("compare", len(self.arms) * len(self.seeds), quiet=quiet) as bar:
            # Seed by seed: what is there after an interruption is comparable.
            for seed, (name, arm) in product(self.seeds, self.arms.items()):
                if (name, seed) not in runs:
                    where = None if folder is None else _place(folder, name, seed)
                    new = _run(name, arm, seed, self.engines, where)
                    check_same_items(new, runs.values())
                    check_same_model(new, runs.values())
                    if where is not None:
                        new.save(where)
                    runs[name, seed] = new
                bar.advance(1)
        return runs

    def _judged(self, runs: Mapping[tuple[str, int], Run]) -> Outcome:
        by_arm = {name: [runs[name, seed] for seed in self.seeds] for name in self.arms}
        return judge_arms(
            {name: [run.result for run in each] for name, each in by_arm.items()},
            self._rules(),
            spent={name: [run.spending for run in each] for name, each in by_arm.items()},
        )

    def _rules(self) -> Rules:
        return Rules(
            baseline=self.baseline or next(iter(self.arms)),
            control=self.control,
            unit=self.unit,
            budget=self.budget,
            tolerance=self.tolerance,
            metric=self.metric,
            direction=self.direction,
            level=self.level,
            seeds=tuple(map(int, self.seeds)),
        )


def _place(folder: Path, arm: str, seed: int) -> Path:
    return folder / arm / f"seed-{seed}"


def _run(name: str, arm: Arm, seed: int, engines: Sequence[EngineProtocol], where: Path | None) -> Run:
    log = None if where is None else where / LOG
    with Meter(*engines, log=log) if engines else nullcontext() as meter:
        result: Any = arm(seed)
    if not isinstance(result, EvalResult):
        raise ConfigError(
            f"{name!r} with seed {seed} returned {_kind(result)}",
            expected="an EvalResult, as evaluate returns",
        )
    if not result.records:
        raise DataError(
            f"{name!r} with seed {seed} returned an evaluation of no item", expected="at least one item"
        )
    spending = spent_on(result)
    if meter is not None:
        before = meter.before
        spending = Spending(total=meter.spent, before=before if any(before.values()) else {})
    return Run(
        arm=name,
        seed=seed,
        result=result,
        spending=spending,
        items=digest_of_items(result),
        engines=fingerprints(engines),
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
