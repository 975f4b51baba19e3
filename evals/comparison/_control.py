"""Holding methods against a control, whose signal is shuffled: what it does as well is not their merit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from docendo.evals.comparison._differ import Found, adjusted_for_number, differ, p_of, pairs_of, verdict_on
from docendo.evals.comparison._outcome import ArmVerdict, shown_p
from docendo.evals.comparison._rules import Rules

if TYPE_CHECKING:
    from docendo.evals.statistics._checks import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideControl:
    """How the methods differ from the control.

    A claim says that a method beats both baseline and control, so the larger of the two p-values tests it
    (Berger 1982), and these are adjusted for the number of methods: with each at the level alone, of ten
    methods that do what the control does one would often seem to beat it.
    """

    rules: Rules
    found: Mapping[str, Found]
    adjusted: Mapping[str, float]
    unlike: str | None

    @classmethod
    def of(
        cls,
        tables: Mapping[str, Floats],
        p_values: Mapping[str, float],
        rules: Rules,
        *,
        unlike: str | None,
    ) -> BesideControl:
        """Compares each of the methods with the control.

        Args:
            tables: For each arm its numbers as [seeds, items].
            p_values: Of each method that against the baseline.
            rules: How they are judged.
            unlike: What is wrong with the control's budget, if anything.
        """
        control = tables[rules.control or ""]
        found = {name: differ(control, tables[name], rules.level) for name in p_values}
        larger = {name: max(found[name].p_value, p_value) for name, p_value in p_values.items()}
        return cls(rules=rules, found=found, adjusted=adjusted_for_number(larger), unlike=unlike)

    def verdict(self, name: str, reason: str) -> tuple[ArmVerdict, str]:
        """The verdict on a method that beats the baseline for this reason."""
        control = self.rules.control or ""
        if self.unlike is not None:
            return "budgets differ", f"Of the control {control!r}: {self.unlike}"
        found, adjusted = self.found[name], self.adjusted[name]
        if found.problem:
            return beside_control(
                "no effect shown", reason, control=control, grounds="", problem=found.problem
            )
        verdict, _ = verdict_on(found, adjusted, self.rules)
        grounds = f"{pairs_of(found)}, {p_of(found.p_value)}"
        if len(self.found) > 1:
            grounds += f", adjusted {shown_p(adjusted)}"
        return beside_control(verdict, reason, control=control, grounds=grounds)


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
        f"It beats the baseline, but not the control {control!r} ({grounds}): "
        "that its signal helps is not shown."
    )
