"""Judging several methods: paired by item and seed, adjusted for their number, held against a control."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from docendo.checks import is_number
from docendo.errors import DataError
from docendo.evals.comparison._control import BesideControl
from docendo.evals.comparison._differ import adjusted_for_number, differ, verdict_on
from docendo.evals.comparison._meter import Unit
from docendo.evals.comparison._outcome import ArmPair, ArmScore, Outcome
from docendo.evals.comparison._rules import Rules
from docendo.evals.comparison._runs import Spending
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats


def judge_arms(
    results: Mapping[str, Sequence[EvalResult]],
    rules: Rules,
    *,
    spent: Mapping[str, Sequence[Spending]],
) -> Outcome:
    """Compares finished evaluations.

    Args:
        results: For each arm one evaluation per seed.
        rules: How they are judged.
        spent: For each arm and seed what was spent.

    Raises:
        DataError: if an arm has another number of evaluations, another scorer, or none of the items.
    """
    rules.checked(results)
    _check_alike(results, rules.baseline)
    tables = _tables(results, rules)
    scores = {name: _score(name, tables[name], spent[name], results[name], rules.unit) for name in results}
    others = [name for name in results if name != rules.baseline]
    found = {name: differ(tables[rules.baseline], tables[name], rules.level) for name in others}
    methods = [name for name in others if name != rules.control]
    p_values = {name: found[name].p_value for name in methods}
    adjusted = adjusted_for_number(p_values)
    control = None
    if rules.control is not None:
        unlike = _unlike(scores[rules.control], scores[rules.baseline], rules)
        control = BesideControl.of(tables, p_values, rules, unlike=unlike)
    pairs = []
    for name in others:
        pair = found[name]
        p_value = adjusted.get(name, pair.p_value)
        verdict, reason = verdict_on(pair, p_value, rules)
        unlike = _unlike(scores[name], scores[rules.baseline], rules)
        if unlike is not None:
            verdict, reason = "budgets differ", unlike
        elif verdict == "better" and control is not None and name != rules.control:
            verdict, reason = control.verdict(name, reason)
        pairs.append(
            ArmPair(
                name=name,
                against=rules.baseline,
                difference=pair.difference,
                interval=pair.interval,
                p_value=pair.p_value,
                adjusted=p_value,
                n=pair.n,
                verdict=verdict,
                reason=reason,
            )
        )
    return Outcome(
        metric=rules.metric_name,
        direction=rules.direction,
        unit=rules.unit,
        arms=tuple(scores.values()),
        pairs=tuple(pairs),
        baseline=rules.baseline,
        control=rules.control,
        seeds=rules.seeds,
        level=rules.level,
    )


def _check_alike(results: Mapping[str, Sequence[EvalResult]], baseline: str) -> None:
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
    items = {name: {r.item for result in each for r in result.records} for name, each in results.items()}
    for name, own in items.items():
        if not own & items[baseline]:
            raise DataError(
                f"{name!r} and {baseline!r} have no item in common",
                expected="evaluations of the same items",
                remedy="use the same task, settings and seed for all",
            )


def _tables(results: Mapping[str, Sequence[EvalResult]], rules: Rules) -> dict[str, Floats]:
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
                value = _value(record, rules)
                if value is not None:
                    table[seed, places[record.item]] = value
        tables[name] = table
    return tables


def _value(record: EvalRecord, rules: Rules) -> float | None:
    if record.correct is None:
        return None
    if callable(rules.metric):
        found: Any = rules.metric(record)
        if found is None:
            return None
        if not (isinstance(found, bool) or is_number(found)):
            raise DataError(
                f"metric {rules.metric_name} is {found!r} for item {record.item}",
                expected="a finite number, or None to leave the item out",
            )
        return float(found)
    values = [getattr(sample, rules.metric) for sample in record.samples]
    if any(value is None for value in values):
        return None
    return math.fsum(values) / len(values)


def _score(
    name: str, table: Floats, spent: Sequence[Spending], results: Sequence[EvalResult], unit: Unit
) -> ArmScore:
    import numpy as np

    known = np.isfinite(table)
    before = tuple(each.before.get(unit, 0.0) for each in spent)
    return ArmScore(
        name=name,
        mean=float(table[known].mean()) if known.any() else math.nan,
        seeds=tuple(
            float(row[here].mean()) if here.any() else math.nan
            for row, here in zip(table, known, strict=True)
        ),
        spent=tuple(float(each.total[unit]) for each in spent),
        items=int(known.sum()),
        failed=sum(result.failed for result in results),
        before=before if any(before) else (),
    )


def _unlike(arm: ArmScore, baseline: ArmScore, rules: Rules) -> str | None:
    """What is wrong with the budgets, if anything."""
    if not rules.equal_budgets:
        return None
    for n, (own, others) in enumerate(zip(arm.spent, baseline.spent, strict=True)):
        target = others if rules.budget is None else rules.budget
        if own == others == 0:
            return f"No {rules.unit} were counted; name the engines, or another unit."
        for whose, value in (("It", own), ("The baseline", others)):
            if abs(value - target) > rules.tolerance * target:
                seed = f" with seed {rules.seeds[n]}" if len(rules.seeds) > n else ""
                due = (
                    f"where {target:,.0f} were due ({100 * (value / target - 1):+.1f} %, "
                    f"at most {100 * rules.tolerance:g} % are allowed)"
                    if target
                    else "where the baseline spent none"
                )
                return (
                    f"{whose} spent {value:,.0f} {rules.unit}{seed} {due}.{_interrupted((arm, baseline), n)}"
                )
    return None


def _interrupted(scores: Sequence[ArmScore], n: int) -> str:
    """What to do about runs that were interrupted and then may have begun anew."""
    broken = [score for score in scores if n < len(score.before) and score.before[n]]
    if not broken:
        return ""
    shown = " and ".join(f"{score.name!r} had spent {score.before[n]:,.0f}" for score in broken)
    return (
        f" Before an interruption {shown}: if it began anew then, remove what is stored of it with this seed "
        "and run it again."
    )
