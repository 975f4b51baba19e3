"""The promotion gate: a candidate takes the incumbent's place only if a paired test says it is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, DataError, SilentNoOp
from docendo.evals import EvalResult, PairedComparison, Task, compare
from docendo.records import Record

GateVerdictName = Literal["better", "worse", "no effect shown", "regression"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict(Record):
    """What a gate decided, and on what grounds.

    Attributes:
        verdict: "better" promotes. "regression" is better on the task, with a loss on the regression set
            that cannot be ruled out.
        reason: The grounds in one sentence.
        adapter: SHA-256 of the candidate's weights.
        incumbent: That of the incumbent, or None for the base model.
        gate: How many gates there have been for the adapter's name or on these test items, this one included.
        alpha: Level of this gate.
        comparison: The incumbent and the candidate on the fresh items, as of `PairedComparison.to_json`.
        regression: The same on the regression set, or None without one.
        margin: Loss that was to be ruled out there.
    """

    verdict: GateVerdictName
    reason: str
    adapter: str
    incumbent: str | None
    gate: int
    alpha: float
    comparison: Mapping[str, Any]
    regression: Mapping[str, Any] | None = None
    margin: float = 0.0

    @property
    def promotes(self) -> bool:
        """Whether the candidate takes the incumbent's place."""
        return self.verdict == "better"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a verdict stored by `to_json`."""
        return cls(**value)

    def __str__(self) -> str:
        return f"{'promoted' if self.promotes else 'kept the incumbent'}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate(Record):
    """When a candidate is promoted.

    It has to win on fresh held-out items: McNemar's exact test and Tango's interval at the level of this gate
    both say that it is better. And on the regression set, if there is one, it must not have lost more than
    `margin`: the lower end of Tango's interval at 1 - `alpha` lies above it (non-inferiority).

    Each gate is one more chance to promote what is no better. Gate k of an adapter's name, whatever the
    alias, and gate k on the same test items, whoever the candidate, is held at `alpha` / (k (k + 1)), so that
    all gates together, however many, come to `alpha` (a union bound); as a promotion needs the one direction
    of a two-sided test, a wrong one ever happens with a probability of alpha / 2 at most. With `spend=False`
    every gate has `alpha`: of 20 candidates that are no better, one is then promoted with a probability of up
    to 40 % (1 - 0.975^20).

    Attributes:
        alpha: Level of all gates together.
        margin: Largest loss on the regression set that is put up with, as a share (0.05: what 200 items can
            rule out where one answer in twenty changes).
        regression: Items of what must not be lost; its test items are asked, at each gate the same.
        size: Fresh items of a gate, or None for all test items that are fresh.
        spend: Whether later gates are stricter.

    Example:
        >>> [round(Gate().level(gate), 5) for gate in (1, 2, 3)]
        [0.025, 0.00833, 0.00417]
        >>> Gate().least(1)
        7
    """

    alpha: float = 0.05
    margin: float = 0.05
    regression: Task | None = None
    size: int | None = None
    spend: bool = True

    def __post_init__(self) -> None:
        """Checks ranges."""
        checks = (
            ("alpha", is_number(self.alpha) and 0 < self.alpha < 1, "between 0 and 1, such as 0.05"),
            ("margin", is_number(self.margin) and 0 < self.margin < 1, "between 0 and 1, such as 0.05"),
            ("size", self.size is None or (is_count(self.size) and self.size >= 1), "at least 1, or None"),
            ("spend", isinstance(self.spend, bool), "True or False"),
            ("regression", self.regression is None or isinstance(self.regression, Task), "a Task or None"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} of the gate is {getattr(self, name)!r}"[:120], expected=expected)
        if self.regression is not None and not self.regression.test:
            raise ConfigError("the regression task has no test items", remedy="make it with tasks(test=200)")

    def to_json(self) -> dict[str, Any]:
        """The settings; the regression task by its fingerprint."""
        plain = Record.to_json(self.replace(regression=None))
        return plain | {"regression": self.regression.fingerprint if self.regression is not None else None}

    def level(self, gate: int) -> float:
        """The level of a gate by its number, from 1."""
        if not (is_count(gate) and gate >= 1):
            raise ConfigError(f"gate is {gate!r}", expected="a number from 1")
        return self.alpha / (gate * (gate + 1)) if self.spend else self.alpha

    def least(self, gate: int) -> int:
        """The fewest items that can show anything at this gate: if all of them go from wrong to right."""
        return math.floor(1 + math.log2(1 / self.level(gate))) + 1

    def judge(
        self,
        incumbent: EvalResult,
        candidate: EvalResult,
        *,
        gate: int = 1,
        regression: tuple[EvalResult, EvalResult] | None = None,
    ) -> GateVerdict:
        """Decides by finished evaluations.

        An item that the candidate failed to answer counts as wrong; one that the incumbent failed to answer
        is left out.

        Args:
            incumbent: The incumbent on the fresh items.
            candidate: The candidate on the same.
            gate: Number of this gate.
            regression: Both on the regression set, in the same order; needed where the gate has one.

        Raises:
            SilentNoOp: if both were answered by the same weights.
            DataError: if the two have no answered item in common, or so few that nothing could be shown.
            ConfigError: if there is a regression set, and no evaluations on it.
        """
        if (self.regression is None) != (regression is None):
            raise ConfigError(
                "the gate has " + ("no regression set" if regression else "a regression set"),
                expected="evaluations of incumbent and candidate on it, or neither",
            )
        pairs = ((incumbent, candidate), *([regression] if regression else []))
        for before, after in pairs:
            if (before.model, before.adapter) == (after.model, after.adapter):
                raise SilentNoOp(
                    "The candidate was answered by the incumbent's own weights "
                    f"({(after.adapter or after.model)[:12]}): "
                    "the adapter is not applied, or it is the incumbent."
                )
        alpha = self.level(gate)
        found = compare(incumbent, _strict(candidate), level=1 - alpha)
        if found.n < self.least(gate):
            raise DataError(
                f"{found.n} pairs can show nothing at gate {gate} (level {alpha:.2g})",
                expected=f"at least {self.least(gate)}",
                remedy="ask for more test items",
            )
        guarded = None
        if regression is not None:
            guarded = compare(regression[0], _strict(regression[1]), level=1 - self.alpha)
        verdict, reason = self._decide(found, guarded, same=_same_answers(incumbent, candidate))
        return GateVerdict(
            verdict=verdict,
            reason=reason,
            adapter=candidate.adapter or "",
            incumbent=incumbent.adapter,
            gate=gate,
            alpha=alpha,
            comparison=found.to_json(),
            regression=guarded.to_json() if guarded is not None else None,
            margin=self.margin,
        )

    def _decide(
        self, found: PairedComparison, guarded: PairedComparison | None, *, same: bool
    ) -> tuple[GateVerdictName, str]:
        grounds = (
            f"{_points(found.difference)} points on {found.n} fresh items "
            f"({100 * found.level:.4g} % interval {_points(found.interval[0])} to "
            f"{_points(found.interval[1])}, McNemar p = {found.p_value:.2g})"
        )
        if same:
            return "no effect shown", (
                f"All {found.n} answers are the same as the incumbent's, word for word; "
                "is the adapter applied, and did the training do anything?"
            )
        if found.verdict == "worse":
            return "worse", f"The candidate is worse: {grounds}."
        if found.verdict != "better":
            return "no effect shown", (
                f"No effect shown: {grounds}; so many items show a difference of "
                f"{100 * found.detectable:.1f} points or more with 80 % power."
            )
        if guarded is None:
            return "better", f"The candidate is better: {grounds}; there was no regression set."
        kept = (
            f"{_points(guarded.difference)} points on {guarded.n} items of the regression set "
            f"({100 * guarded.level:.4g} % interval {_points(guarded.interval[0])} to "
            f"{_points(guarded.interval[1])})"
        )
        margin = f"{100 * self.margin:.4g} points"
        if guarded.interval[0] <= -self.margin:
            return "regression", (
                f"The candidate is better ({grounds}), but a loss of {margin} is not ruled out: {kept}."
            )
        return "better", f"The candidate is better: {grounds}; a loss of {margin} is ruled out: {kept}."


def _strict(result: EvalResult) -> EvalResult:
    """The result with failed items as wrong ones: failing must not be a way to be left out."""
    records = tuple(
        record.replace(correct=False) if record.correct is None else record for record in result.records
    )
    return result.replace(records=records)


def _same_answers(incumbent: EvalResult, candidate: EvalResult) -> bool:
    first = {record.item: (record.text, record.failure) for record in incumbent.records}
    second = {record.item: (record.text, record.failure) for record in candidate.records}
    return first == second


def _points(share: float) -> str:
    return f"{100 * share + 0.0:+.1f}"
