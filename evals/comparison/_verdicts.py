"""Judging several methods: paired by item and seed, adjusted for their number, held against a control."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from docendo.checks import is_number
from docendo.errors import DataError
from docendo.evals.comparison._meter import Unit
from docendo.evals.comparison._outcome import ArmPair, ArmScore, ArmVerdict, Outcome, shown_p
from docendo.evals.comparison._rules import Rules
from docendo.evals.comparison._runs import Spending
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult
from docendo.evals.statistics import crossed_difference, holm

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
    found = {name: _differ(tables[rules.baseline], tables[name], rules.level) for name in others}
    methods = [name for name in others if name != rules.control]
    adjusted = dict(zip(methods, holm([found[name].p_value for name in methods]), strict=True))
    pairs = []
    for name in others:
        pair = found[name]
        p_value = adjusted.get(name, pair.p_value)
        verdict, reason = _verdict(pair, p_value, rules)
        unlike = _unlike(scores[name], scores[rules.baseline], rules)
        if unlike is not None:
            verdict, reason = "budgets differ", unlike
        elif verdict == "better" and rules.control not in (None, name):
            verdict, reason = _beside_control(tables, scores, name, rules, reason)
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


class _Found(NamedTuple):
    """How two arms differ, and what a verdict on that must say beside it."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    n: int
    seeds: int
    #: Whether the seeds gave the same answers, so that the items were counted once.
    once: bool = False
    #: Why nothing can be said, or empty.
    problem: str = ""


def _differ(before: Floats, after: Floats, level: float) -> _Found:
    """The difference of two arms. Seeds with the same answers count once: they are no further evidence."""
    import numpy as np

    known = np.isfinite(before) & np.isfinite(after)
    answered = known.any(axis=0)
    if not answered.any():
        return _nothing(0, "no item was answered by both")
    first, second = (np.where(known, table, np.nan)[:, answered] for table in (before, after))
    seeds = int(known.any(axis=1).sum())
    most, least = (tuple(pick(side, axis=0) for side in (first, second)) for pick in (np.nanmax, np.nanmin))
    # Of items that mostly have one value nothing can be seen: each seed then has its own.
    once = bool(np.median(known.sum(axis=0)[answered]) > 1 and np.array_equal(most, least))
    if once:
        (first, second), seeds = most, 1
    try:
        found = crossed_difference(first, second, level=level)
    except DataError as error:  # one item, of whose spread nothing is known
        return _nothing(int(known.sum()), str(error).rstrip("."))
    return _Found(found.difference, found.interval, found.p_value, found.n, seeds, once)


def _nothing(n: int, problem: str) -> _Found:
    return _Found(math.nan, (math.nan, math.nan), 1.0, n, 0, problem=problem)


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


def _verdict(found: _Found, p_value: float, rules: Rules) -> tuple[ArmVerdict, str]:
    if found.problem:
        return "no effect shown", f"Nothing can be said: {found.problem}."
    low, high = found.interval
    once = " All seeds gave the same answers, so that they count once." if found.once else ""
    if p_value >= 1 - rules.level or low <= 0 <= high:
        reason = f"{_pairs(found)} do not show a difference ({_p(p_value)}).{once}"
        return "no effect shown", reason
    good = (found.difference > 0) == (rules.direction == "more")
    reason = f"{_pairs(found)} show the difference ({_p(p_value)}).{once}"
    return ("better" if good else "worse"), reason


def _pairs(found: _Found) -> str:
    return f"{found.n} pairs over {found.seeds} seeds" if found.seeds > 1 else f"{found.n} pairs"


def _p(p_value: float) -> str:
    return f"p {shown_p(p_value)}" if p_value < 0.001 else f"p = {shown_p(p_value)}"


def _beside_control(
    tables: Mapping[str, Floats],
    scores: Mapping[str, ArmScore],
    name: str,
    rules: Rules,
    reason: str,
) -> tuple[ArmVerdict, str]:
    control = rules.control or ""
    unlike = _unlike(scores[control], scores[rules.baseline], rules)
    if unlike is not None:
        return "budgets differ", f"Of the control {control!r}: {unlike}"
    found = _differ(tables[control], tables[name], rules.level)
    if found.problem:
        return beside_control("no effect shown", reason, control=control, grounds="", problem=found.problem)
    verdict, _ = _verdict(found, found.p_value, rules)
    return beside_control(verdict, reason, control=control, grounds=f"{_pairs(found)}, {_p(found.p_value)}")


def beside_control(
    verdict: str, reason: str, *, control: str, grounds: str, problem: str = ""
) -> tuple[Literal["better", "no effect shown"], str]:
    """The verdict on a method that beats the baseline, now that it was held against the control.

    Args:
        verdict: That of the method against the control.
        reason: The grounds of its verdict against the baseline.
        control: Name of the control.
        grounds: What the verdict against the control rests on.
        problem: Why nothing can be said of the two, or empty.
    """
    if problem:
        return "no effect shown", (
            f"It beats the baseline, but cannot be held against the control {control!r}: {problem}."
        )
    if verdict == "better":
        return "better", f"{reason} It also beats the control ({grounds})."
    return "no effect shown", (
        f"It beats the baseline, but not the control {control!r} ({grounds}): what helps is not its signal."
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
