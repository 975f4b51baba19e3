"""Comparing methods: each is run with every seed at an equal budget, beside a control that must fail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, ResumeError
from docendo.evals.comparison._meter import UNITS, Meter, Unit
from docendo.evals.comparison._outcome import Outcome
from docendo.evals.comparison._verdicts import Direction, Metric, Rules, judge_arms
from docendo.evals.harness._results import EvalResult
from docendo.files import write_json
from docendo.progress import progress

if TYPE_CHECKING:
    from docendo.agents import EngineProtocol

#: A method: evaluates itself with a seed. It may do anything before, such as training a student.
Arm = Callable[[int], EvalResult]
_SETTINGS, _SPENT = "comparison.json", "spent.json"


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
        level: Confidence level of intervals and tests; those of several arms are adjusted by Holm's method.

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
        seeds = tuple(self.seeds)
        checks = (
            ("arms", len(self.arms) >= 2, "at least two"),
            ("budget", self.budget is None or (is_number(self.budget) and self.budget > 0), "more than 0"),
            ("tolerance", is_number(self.tolerance) and 0 <= self.tolerance < 1, "a share such as 0.02"),
            ("seeds", bool(seeds) and all(map(is_count, seeds)), "whole numbers, at least one"),
            ("seeds", len(set(seeds)) == len(seeds), "each seed once"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", expected=expected)
        for name in self.arms:
            if not re.fullmatch(r"[\w][\w ,.+-]*", name):
                raise ConfigError(f"an arm is named {name!r}", expected="letters, digits, spaces, '.', '-'")
        # Raises for a baseline or a control that is no arm.
        self._rules().checked(self.arms)

    def run(self, *, folder: str | Path | None = None, quiet: bool = False) -> Outcome:
        """Runs what has not been run, and judges.

        Args:
            folder: Where every finished run is kept (`ARM/seed-N`), so that the same call after a crash
                goes on; None keeps nothing.
            quiet: Show no progress.

        Raises:
            ResumeError: if the folder holds another comparison.
            DataError: if the arms were not evaluated on the same items.
        """
        place = None if folder is None else self._opened(Path(folder))
        results: dict[str, list[EvalResult]] = {name: [] for name in self.arms}
        spent: dict[str, list[Mapping[str, float]]] = {name: [] for name in self.arms}
        with progress("compare", len(self.arms) * len(self.seeds), quiet=quiet) as bar:
            # Seed by seed: what is there after an interruption is comparable.
            for seed in self.seeds:
                for name, arm in self.arms.items():
                    where = None if place is None else place / name / f"seed-{seed}"
                    result, cost = _stored(where) or _run(arm, seed, where, self.engines)
                    results[name].append(result)
                    spent[name].append(cost)
                    bar.advance(1)
        outcome = judge_arms(results, self._rules(), spent=spent)
        if place is not None:
            write_json(place / "outcome.json", outcome.to_json())
        return outcome

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
            seeds=tuple(self.seeds),
        )

    def _opened(self, folder: Path) -> Path:
        """The folder, with these settings written into it or found there."""
        wanted = {"arms": list(self.arms), **self._rules().to_json()}
        stored = stored_rules(folder)
        # More seeds or other rules of judging can be had from the same runs; other arms cannot.
        if stored is not None and not set(stored["arms"]) <= set(wanted["arms"]):
            raise ResumeError(f"{folder} holds a comparison of other arms", remedy="choose another folder")
        write_json(folder / _SETTINGS, wanted)
        return folder


def _run(
    arm: Arm, seed: int, where: Path | None, engines: Sequence[EngineProtocol]
) -> tuple[EvalResult, Mapping[str, float]]:
    with Meter(*engines) if engines else nullcontext() as meter:
        result: Any = arm(seed)
    if not isinstance(result, EvalResult):
        raise ConfigError(
            f"an arm returned a {type(result).__name__}", expected="an EvalResult, as evaluate returns"
        )
    spent = spent_on(result) if meter is None else meter.spent
    if where is not None:
        result.save(where)
        # Written last: a run counts as finished when what it spent is there.
        write_json(where / _SPENT, spent)
    return result, spent


def _stored(where: Path | None) -> tuple[EvalResult, Mapping[str, float]] | None:
    spent = None if where is None else stored_spending(where)
    return None if where is None or spent is None else (EvalResult.load(where), spent)


def stored_rules(folder: Path) -> dict[str, Any] | None:
    """The arms and rules of the comparison that a folder holds, or None if it holds none.

    Raises:
        ResumeError: if they cannot be read.
    """
    path = folder / _SETTINGS
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {**stored, "arms": [str(name) for name in stored["arms"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"cannot read {path} ({error})", remedy="choose another folder") from error


def stored_spending(folder: Path) -> dict[str, float] | None:
    """What a finished run of an arm spent, or None if the folder holds none."""
    path = folder / _SPENT
    if not path.exists():
        return None
    try:
        spent = json.loads(path.read_text(encoding="utf-8"))
        return {unit: float(spent[unit]) for unit in UNITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"cannot read {path} ({error})", remedy=f"remove {folder}") from error


def spent_on(result: EvalResult) -> dict[str, float]:
    """What the evaluation itself spent, by its own account."""
    cost = result.cost
    return {
        "tokens": cost.prompt_tokens + cost.generated_tokens,
        "generated tokens": cost.generated_tokens,
        "calls": len(result.records),
        "flops": cost.flops or 0.0,
        "seconds": cost.seconds,
    }
