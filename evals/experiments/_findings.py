"""What the trials of an experiment show, rule by rule, and what follows for the method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docendo.checks import short
from docendo.errors import DataError
from docendo.evals.comparison._differ import differ, p_of, pairs_of
from docendo.evals.experiments._rules import Difference, Rule, Within
from docendo.evals.experiments._trial import Trial
from docendo.records import Record

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats

#: Fewer seeds than these decide nothing.
SEEDS = 5
#: Two methods spent alike if their costs differ by no more than this share; the same as in `Comparison`.
TOLERANCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Record):
    """What was found of one rule.

    Attributes:
        name: What was looked at.
        value: Mean difference, or mean of the fact; None if there is none.
        interval: 95 % interval of a difference.
        seeds: Seeds that it rests on: those that gave a pair of answers, and one if all gave the same.
        pairs: Pairs of answers that a difference rests on.
        role: "claim", "control", "check" or "shown".
        holds: Whether the rule holds; None for what is only shown.
        verdict: The same in words.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None
    seeds: int
    pairs: int
    role: str
    holds: bool | None
    verdict: str


def check_trial(rules: Sequence[Rule], trial: Trial, first: Trial | None = None) -> None:
    """Checks that a trial has what the rules speak of, and the same as the first one.

    Args:
        rules: What must be shown.
        trial: One seed.
        first: The first seed, if it is another.

    Raises:
        DataError: if it is no trial; or naming the arm or the fact that it lacks, or two arms with other
            items: those of one alone would drop out of the comparison without a word.
    """
    if not isinstance(trial, Trial):
        raise DataError(f"the experiment's function returned {short(trial)}", expected="a Trial")
    for rule in rules:
        what, names = ("fact", [rule.fact]) if isinstance(rule, Within) else ("arm", [rule.of, rule.over])
        known = trial.facts if isinstance(rule, Within) else trial.arms
        for name in names:
            if name not in known:
                raise DataError(
                    f"a trial has no {what} {name!r}, of which a rule speaks",
                    expected=f"one of {', '.join(known) or 'none'}",
                )
        if isinstance(rule, Difference):
            _check_items(rule, trial)
    for what, own, others in (
        ("arms", trial.arms, first.arms if first else {}),
        ("facts", trial.facts, first.facts if first else {}),
    ):
        if first is not None and (other := own.keys() ^ others.keys()):
            raise DataError(
                f"the first trial and this one differ in their {what}: {', '.join(sorted(other))}",
                expected="the same in every trial",
            )


def _check_items(rule: Difference, trial: Trial) -> None:
    own, other = (trial.arms[name].values.keys() for name in (rule.of, rule.over))
    if alone := sorted(own ^ other):
        raise DataError(
            f"{rule.of!r} and {rule.over!r} differ in {len(alone)} items, the first of which is {alone[0]!r}",
            expected="a value of both for each item, None where no answer came",
        )


def findings(rules: Sequence[Rule], trials: Sequence[Trial]) -> tuple[Finding, ...]:
    """What the trials show, rule by rule.

    Args:
        rules: What must be shown.
        trials: One for each seed, checked by `check_trial`.
    """
    found = [
        _within(rule, trials) if isinstance(rule, Within) else _difference(rule, trials) for rule in rules
    ]
    claimed = [abs(each.value) for each in found if each.role == "claim" and each.holds and each.value]
    return tuple(
        _powered(rule, each, min(claimed))
        if claimed and isinstance(rule, Difference) and rule.expected == "no gain"
        else each
        for rule, each in zip(rules, found, strict=True)
    )


def _powered(rule: Difference, found: Finding, claimed: float) -> Finding:
    """A control that holds only if it could have failed: its interval excludes the smallest claimed gain."""
    if not found.holds or found.interval is None:
        return found
    most = -found.interval[0] if rule.less else found.interval[1]
    if most < claimed:
        return found
    words = (
        f"control undecided: up to {most:.3f} is possible, and {claimed:.3f} is claimed; more items or seeds"
    )
    return found.replace(holds=False, verdict=words)


def _within(rule: Within, trials: Sequence[Trial]) -> Finding:
    values = [trial.facts[rule.fact] for trial in trials]
    mean = math.fsum(values) / len(values)
    holds = rule.holds(mean)
    words = f"{'as it must be' if holds else 'NOT as it must be'}: {rule.wanted} expected"
    return Finding(
        name=rule.fact,
        value=None if math.isnan(mean) else mean,
        interval=None,
        seeds=len(values),
        pairs=0,
        role="check",
        holds=holds,
        verdict=words,
    )


def _difference(rule: Difference, trials: Sequence[Trial]) -> Finding:
    sides = [[trial.arms[name] for trial in trials] for name in (rule.over, rule.of)]
    items = list(dict.fromkeys(item for side in sides for scores in side for item in scores.values))
    before, after = (_table([scores.values for scores in side], items) for side in sides)
    found = differ(before, after, 0.95)
    low, high = found.interval
    gained, lost = (high < 0, low > 0) if rule.less else (low > 0, high < 0)
    if found.problem:
        shown = f"nothing can be said: {found.problem}"
    else:
        effect = "gain" if gained else "loss" if lost else "no effect shown"
        shown = f"{effect} ({pairs_of(found)}, {p_of(found.p_value)})"
    unlike = _unlike(rule, trials)
    role = {"gain": "claim", "no gain": "control", "anything": "shown"}[rule.expected]
    holds: bool | None = None
    if rule.expected == "gain":
        holds = gained and unlike is None
    elif rule.expected == "no gain":
        holds = not gained and not found.problem
        shown = f"{'control as it must be' if holds else 'CONTROL BROKEN'}: {shown}"
    return Finding(
        name=rule.name,
        value=None if math.isnan(found.difference) else found.difference,
        interval=None if math.isnan(low) else (low, high),
        seeds=found.seeds,
        pairs=found.n,
        role=role,
        holds=holds,
        verdict=f"{shown}; {unlike}" if unlike else shown,
    )


def _table(rows: Sequence[Mapping[str, float | None]], items: Sequence[str]) -> Floats:
    import numpy as np

    return np.array(
        [[math.nan if row.get(item) is None else row[item] for item in items] for row in rows], dtype=float
    )


def _unlike(rule: Difference, trials: Sequence[Trial]) -> str | None:
    """What is wrong with the costs of the two, if anything."""
    if rule.equal is None:
        return None
    for trial in trials:
        own, other = (trial.arms[name].spent.get(rule.equal, 0.0) for name in (rule.of, rule.over))
        if not own or not other or abs(own - other) > TOLERANCE * other:
            return f"the two spent {own:,.0f} and {other:,.0f} {rule.equal}, which is not alike"
    return None


def status(found: Sequence[Finding]) -> str:
    """Whether all rules hold: "reproduced" or "not reproduced"; "runs" if a claim rests on too few seeds."""
    ruled = [finding for finding in found if finding.holds is not None]
    if not all(finding.holds for finding in ruled):
        return "not reproduced"
    return "reproduced" if min(finding.seeds for finding in ruled) >= SEEDS else "runs"
