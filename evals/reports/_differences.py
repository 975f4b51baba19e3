"""How the results of a report differ: the rows of its forest plot, with their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from docendo.errors import DataError
from docendo.evals.comparison._compare import PairedComparison, compare
from docendo.evals.comparison._control import beside_control
from docendo.evals.comparison._differ import adjusted_for_number, p_of
from docendo.evals.comparison._outcome import shown_p
from docendo.evals.comparison._rules import Rules
from docendo.evals.comparison._runs import spent_on
from docendo.evals.comparison._verdicts import judge_arms
from docendo.evals.reports._parts import Difference
from docendo.evals.reports._sources import Source
from docendo.evals.reports._subjects import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What came of comparing the results of a report.

    Attributes:
        rows: One for each pair that could be compared, those of comparisons first.
        compared: The paired comparisons among them.
        notes: What could not be compared, and why, one sentence each.
    """

    rows: tuple[Difference, ...]
    compared: tuple[PairedComparison, ...]
    notes: tuple[str, ...]


def differences_of(sources: Sequence[Source], *, control: str | None, level: float) -> Differences:
    """Compares every result with what it is said to be compared with.

    A comparison's verdicts are those of its own outcome. Single results are compared by `compare`, results of
    several seeds as a comparison of arms does; a verdict of several must also hold adjusted for their number
    (Holm 1979), and "better" must hold against the control as well.

    Args:
        sources: What the report is made of.
        control: Name of the single result whose signal is shuffled, or None.
        level: Confidence level.
    """
    by_name = {subject.name: subject for source in sources for subject in source.subjects}
    rows: list[Difference] = []
    singles: list[Difference] = []
    compared: list[PairedComparison] = []
    notes: list[str] = []
    for source in sources:
        if source.outcome is not None:
            own = (arm.name for arm in source.outcome.arms)
            names = dict(zip(own, (subject.name for subject in source.subjects), strict=True))
            rows += Difference.of_outcome(source.outcome, names)
            left_out = [pair for pair in source.outcome.pairs if pair.difference != pair.difference]  # NaN
            notes += [_not_compared(names[p.name], names[p.against], p.reason) for p in left_out]
            continue
        for subject in source.subjects:
            if subject.against is None:
                continue
            first = by_name[subject.against]
            try:
                row, pair = _compared(first, subject, level)
            except DataError as error:
                notes.append(_not_compared(subject.name, first.name, str(error)))
                continue
            singles.append(row.replace(control=subject.name == control))
            compared += [pair] if pair is not None else []
    singles = _adjusted(singles)
    if control is not None:
        singles = _held(singles, by_name, control, level)
    return Differences(rows=(*rows, *singles), compared=tuple(compared), notes=tuple(notes))


def _not_compared(name: str, against: str, why: str) -> str:
    return f"{name} is not compared with {against}: {why}"


def _adjusted(rows: Sequence[Difference]) -> list[Difference]:
    """Takes verdicts back that several tests at once do not bear; that of the control stands alone."""
    methods = [row for row in rows if not row.control]
    if len(methods) < 2:
        return list(rows)
    by_name = adjusted_for_number({row.name: row.p_value for row in methods})
    found = []
    for row in rows:
        if row.control:
            found.append(row)
            continue
        p_value = by_name[row.name]
        taken = row.verdict in ("better", "worse") and p_value >= 1 - row.level
        reason = (
            f"{row.reason} But adjusted for {len(methods)} comparisons nothing is shown (p = {p_value:.3f})."
        )
        changed = {"verdict": "no effect shown", "reason": reason} if taken else {}
        found.append(row.replace(adjusted=p_value, **changed))
    return found


def _held(
    rows: Sequence[Difference], by_name: Mapping[str, Subject], control: str, level: float
) -> list[Difference]:
    """The rows, of which "better" also holds against the control, by the rules of `Comparison`."""
    found: dict[str, Difference | DataError] = {}
    for row in rows:
        if not row.control and row.against != control:
            try:
                found[row.name], _ = _compared(by_name[control], by_name[row.name], level)
            except DataError as error:
                found[row.name] = error
    p_values = {row.name: row.p_value for row in rows if row.name in found}
    for name, beside in found.items():
        p_values[name] = 1.0 if isinstance(beside, DataError) else max(p_values[name], beside.p_value)
    adjusted = adjusted_for_number(p_values)
    return [
        _beside(row, found[row.name], control, adjusted)
        if row.verdict == "better" and row.name in found
        else row
        for row in rows
    ]


def _beside(
    row: Difference, found: Difference | DataError, control: str, adjusted: Mapping[str, float]
) -> Difference:
    if isinstance(found, DataError):
        verdict, reason = beside_control(
            "no effect shown", row.reason, control=control, grounds="", problem=str(found).rstrip(".")
        )
        return row.replace(verdict=verdict, reason=reason)
    p_value = adjusted[row.name]
    grounds = f"{found.n} pairs, {p_of(found.p_value)}"
    if len(adjusted) > 1:
        grounds += f", adjusted {shown_p(p_value)}"
    shown = found.verdict if p_value < 1 - row.level else "no effect shown"
    verdict, reason = beside_control(shown, row.reason, control=control, grounds=grounds)
    return row.replace(verdict=verdict, reason=reason)


def _compared(first: Subject, second: Subject, level: float) -> tuple[Difference, PairedComparison | None]:
    """Compares two single results item by item, results of several seeds as a comparison of arms does."""
    if first.seeds != second.seeds:
        own, other = (", ".join(map(str, each.seeds)) or "none" for each in (second, first))
        raise DataError(f"{second.name} has the seeds {own}, {first.name} has {other}", expected="the same")
    if not first.seeds:
        before = first.results[0].replace(name=first.name)
        found = compare(before, second.results[0].replace(name=second.name), level=level)
        return Difference.of(found, name=second.name, against=first.name), found
    arms = {each.name: each.results for each in (first, second)}
    rules = Rules(baseline=first.name, seeds=first.seeds, level=level, equal_budgets=False)
    spent = {name: [spent_on(result) for result in results] for name, results in arms.items()}
    outcome = judge_arms(arms, rules, spent=spent)
    rows = Difference.of_outcome(outcome, {name: name for name in arms})
    if not rows:
        raise DataError(outcome.pairs[0].reason)
    return rows[0], None
