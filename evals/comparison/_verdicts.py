"""Judging several methods: paired by item and seed, adjusted for their number, held against a control."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from docendo.checks import is_number
from docendo.errors import ConfigError, DataError
from docendo.evals.comparison._meter import UNITS, Unit
from docendo.evals.comparison._outcome import ArmPair, ArmScore, ArmVerdict, Outcome, shown_p
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult
from docendo.evals.statistics import crossed_difference, holm
from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np

Direction = Literal["more", "less"]
#: The number that is compared: of a record's samples the mean. A function may leave an item out with None.
Metric = Literal["correct", "value", "confidence"] | Callable[[EvalRecord], float | None]
_METRICS = ("correct", "value", "confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Record):
    """How arms are judged; the fields are those of `Comparison`."""

    baseline: str
    control: str | None = None
    unit: Unit = "tokens"
    budget: float | None = None
    tolerance: float = 0.02
    metric: Metric = "correct"
    direction: Direction = "more"
    level: float = 0.95
    seeds: tuple[int, ...] = ()
    #: Whether unlike budgets forbid a verdict.
    equal_budgets: bool = True

    def checked(self, arms: Mapping[str, Any]) -> Rules:
        """Returns the rules if they fit the arms.

        Raises:
            ConfigError: if baseline or control is no arm, or a setting is unknown.
        """
        for name in (self.baseline, self.control):
            if name is not None and name not in arms:
                raise ConfigError(f"there is no arm {name!r}", expected=f"one of {', '.join(arms)}")
        if self.control == self.baseline:
            raise ConfigError(f"{self.control!r} is the baseline and the control", expected="two arms")
        if not callable(self.metric) and self.metric not in _METRICS:
            raise ConfigError(
                f"metric is {self.metric!r}",
                expected=f"one of {', '.join(_METRICS)}, or a function of a record",
            )
        if self.direction not in get_args(Direction):
            raise ConfigError(f"direction is {self.direction!r}", expected='"more" or "less"')
        if self.unit not in UNITS:
            raise ConfigError(f"unit is {self.unit!r}", expected=f"one of {', '.join(UNITS)}")
        if not (is_number(self.level) and 0 < self.level < 1):
            raise ConfigError(f"level is {self.level!r}", expected="between 0 and 1, such as 0.95")
        return self

    @property
    def metric_name(self) -> str:
        """The metric's name."""
        return getattr(self.metric, "__name__", "metric") if callable(self.metric) else self.metric

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON; a function by its name."""
        return Record.to_json(self.replace(metric="correct")) | {"metric": self.metric_name}


def judge_arms(
    results: Mapping[str, Sequence[EvalResult]],
    rules: Rules,
    *,
    spent: Mapping[str, Sequence[Mapping[str, float]]],
) -> Outcome:
    """Compares finished evaluations.

    Args:
        results: For each arm one evaluation per seed.
        rules: How they are judged.
        spent: For each arm and seed what was spent, by unit.

    Raises:
        DataError: if an arm has another number of evaluations, another scorer, or none of the items.
    """
    rules.checked(results)
    _check_alike(results)
    tables = _tables(results, rules.metric)
    costs = {name: tuple(float(each[rules.unit]) for each in spent[name]) for name in results}
    others = [name for name in results if name != rules.baseline]
    plain = {
        name: crossed_difference(tables[rules.baseline], tables[name], level=rules.level) for name in others
    }
    methods = [name for name in others if name != rules.control]
    adjusted = dict(zip(methods, holm([plain[name].p_value for name in methods]), strict=True))
    pairs = []
    for name in others:
        found, p_value = plain[name], adjusted.get(name, plain[name].p_value)
        verdict, reason = _verdict(found, p_value, rules)
        unlike = _unlike(costs[name], costs[rules.baseline], rules) if rules.equal_budgets else None
        if unlike is not None:
            verdict, reason = "budgets differ", unlike
        elif verdict == "better" and rules.control not in (None, name):
            verdict, reason = _beside_control(tables, costs, name, rules, reason)
        pairs.append(
            ArmPair(
                name=name,
                against=rules.baseline,
                difference=found.difference,
                interval=found.interval,
                p_value=found.p_value,
                adjusted=p_value,
                n=found.n,
                verdict=verdict,
                reason=reason,
            )
        )
    return Outcome(
        metric=rules.metric_name,
        direction=rules.direction,
        unit=rules.unit,
        arms=tuple(_score(name, tables[name], costs[name], results[name]) for name in results),
        pairs=tuple(pairs),
        baseline=rules.baseline,
        control=rules.control,
        seeds=rules.seeds,
        level=rules.level,
    )


def _check_alike(results: Mapping[str, Sequence[EvalResult]]) -> None:
    counts = {name: len(each) for name, each in results.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"the arms have unlike numbers of evaluations ({shown})", expected="one for each seed"
        )
    scorers = {result.scorer: name for name, each in results.items() for result in each}
    if len(scorers) > 1:
        shown = ", ".join(f"{name} by {scorer!r}" for scorer, name in scorers.items())
        raise DataError(
            f"the arms were scored by different scorers ({shown})",
            remedy="evaluate again with the same scorer",
        )


def _tables(results: Mapping[str, Sequence[EvalResult]], metric: Metric) -> dict[str, np.ndarray]:
    """For each arm a table of seeds by items; NaN where there is no number."""
    import numpy as np

    order = {record.item: None for each in results.values() for result in each for record in result.records}
    places = {item: n for n, item in enumerate(order)}
    tables = {}
    for name, each in results.items():
        table = np.full((len(each), len(places)), np.nan)
        for seed, result in enumerate(each):
            twice = [item for item, n in Counter(r.item for r in result.records).items() if n > 1]
            if twice:
                raise DataError(f"{name!r} has item {twice[0]} more than once", expected="each item once")
            for record in result.records:
                value = _value(record, metric)
                if value is not None:
                    table[seed, places[record.item]] = value
        tables[name] = table
    first = next(iter(tables))
    for name, table in tables.items():
        if not (np.isfinite(table) & np.isfinite(tables[first])).any():
            raise DataError(
                f"{name!r} and {first!r} have no answered item in common",
                expected="evaluations of the same items",
                remedy="use the same task, settings and seed for all",
            )
    return tables


def _value(record: EvalRecord, metric: Metric) -> float | None:
    if record.correct is None:
        return None
    if callable(metric):
        value = metric(record)
        return None if value is None else float(value)
    values = [getattr(sample, metric) for sample in record.samples]
    if any(value is None for value in values):
        return None
    return math.fsum(values) / len(values)


def _score(name: str, table: np.ndarray, spent: tuple[float, ...], results: Sequence[EvalResult]) -> ArmScore:
    import numpy as np

    known = np.isfinite(table)
    return ArmScore(
        name=name,
        mean=float(table[known].mean()) if known.any() else math.nan,
        seeds=tuple(
            float(row[here].mean()) if here.any() else math.nan
            for row, here in zip(table, known, strict=True)
        ),
        spent=spent,
        items=int(known.sum()),
        failed=sum(result.failed for result in results),
    )


def _verdict(found: Any, p_value: float, rules: Rules) -> tuple[ArmVerdict, str]:
    low, high = found.interval
    grounds = f"p {shown_p(p_value)}" if p_value < 0.001 else f"p = {shown_p(p_value)}"
    shown = p_value < 1 - rules.level and not low <= 0 <= high
    if not shown:
        return "no effect shown", f"{found.n} pairs do not show a difference ({grounds})."
    good = (found.difference > 0) == (rules.direction == "more")
    seeds = f" over {len(rules.seeds)} seeds" if len(rules.seeds) > 1 else ""
    return ("better" if good else "worse"), f"{found.n} pairs{seeds} show the difference ({grounds})."


def _beside_control(
    tables: Mapping[str, np.ndarray],
    costs: Mapping[str, Sequence[float]],
    name: str,
    rules: Rules,
    reason: str,
) -> tuple[ArmVerdict, str]:
    control = rules.control or ""
    unlike = _unlike(costs[control], costs[rules.baseline], rules) if rules.equal_budgets else None
    if unlike is not None:
        return "budgets differ", f"Of the control {control!r}: {unlike}"
    found = crossed_difference(tables[control], tables[name], level=rules.level)
    verdict, _ = _verdict(found, found.p_value, rules)
    if verdict == "better":
        return "better", f"{reason} It also beats the control, p {shown_p(found.p_value)}."
    return "no effect shown", (
        f"It beats the baseline, but not the control {control!r} (p {shown_p(found.p_value)}): "
        "what helps is not its signal."
    )


def _unlike(spent: Sequence[float], baseline: Sequence[float], rules: Rules) -> str | None:
    """What is wrong with the budgets, if anything."""
    for n, (own, others) in enumerate(zip(spent, baseline, strict=True)):
        target = others if rules.budget is None else rules.budget
        if own == others == 0:
            return f"No {rules.unit} were counted; name the engines, or another unit."
        for whose, value in (("It", own), ("The baseline", others)):
            if abs(value - target) > rules.tolerance * target:
                seed = f" with seed {rules.seeds[n]}" if len(rules.seeds) > n else ""
                return (
                    f"{whose} spent {value:,.0f} {rules.unit}{seed} where {target:,.0f} were due "
                    f"({100 * (value / target - 1):+.1f} %, at most {100 * rules.tolerance:g} % are allowed)."
                    if target
                    else f"{whose} spent {value:,.0f} {rules.unit}{seed} where the baseline spent none."
                )
    return None
