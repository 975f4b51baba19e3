"""Methods at equal compute: what attempts cost, and what is solved for as much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from docendo.checks import check_kind, entries, is_number, short
from docendo.errors import ConfigError, DataError
from docendo.evals.experiments._trial import Scores
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Record):
    """One attempt at an item.

    Attributes:
        solved: Whether the verifier accepts it.
        cost: What it cost, in one unit for all attempts that are compared. FLOPs count the attention to a
            long trace, which tokens do not (`docendo.agents.FlopsModel`).

    Raises:
        DataError: if `solved` is neither True nor False, or the cost no number above 0.
    """

    solved: bool
    cost: float

    def __post_init__(self) -> None:
        """Checks both."""
        if not isinstance(self.solved, bool):
            raise DataError(f"solved is {short(self.solved)}", expected="True or False")
        if not is_number(self.cost) or self.cost <= 0:
            raise DataError(f"an attempt cost {short(self.cost)}", expected="a number above 0")


#: For each item its attempts, in the order in which they were drawn.
Attempts = Mapping[str, Sequence[Attempt]]


def _checked(attempts: Attempts, budget: float) -> dict[str, list[Attempt]]:
    """The attempts, after a check of them and of the budget."""
    if not is_number(budget) or budget <= 0:
        raise ConfigError(f"the budget is {short(budget)}", expected="a number above 0")
    if not isinstance(attempts, Mapping):
        raise DataError(f"attempts is {short(attempts)}", expected="for each item its attempts")
    return {
        item: entries(f"attempts[{short(item)}]", drawn, Attempt, "attempts, in the order drawn")
        for item, drawn in attempts.items()
    }


def allotted(attempts: Attempts, budget: float, *, until_solved: bool = False) -> dict[str, int]:
    """How many attempts of each item a budget pays.

    They are taken in rounds, one for each item in turn, for as long as the next comes closer to the budget.
    So all items have n or n + 1 of them, and their sum meets a budget that no whole n would meet.

    Args:
        attempts: For each item its attempts, in the order drawn; the order of the items should be random.
            An item whose attempts are used up gets no more.
        budget: What all items together may cost.
        until_solved: Whether items that are solved get no further attempts, which leaves more for the others.

    Raises:
        ConfigError: if the budget is no number above 0, or `until_solved` is neither True nor False.
        DataError: if the attempts of an item are none.

    Example:
        >>> no, yes = Attempt(solved=False, cost=2), Attempt(solved=True, cost=2)
        >>> allotted({"a": [yes, no], "b": [no, no]}, 6)
        {'a': 2, 'b': 1}
        >>> allotted({"a": [yes, no], "b": [no, no]}, 6, until_solved=True)
        {'a': 1, 'b': 2}
    """
    check_kind("until_solved", until_solved, bool, "True or False")
    drawn = _checked(attempts, budget)
    taken, spent = dict.fromkeys(drawn, 0), 0.0
    waiting = [item for item, some in drawn.items() if some]
    while waiting:
        for item in waiting:
            cost = drawn[item][taken[item]].cost
            if abs(spent + cost - budget) >= abs(spent - budget):
                return taken
            spent += cost
            taken[item] += 1
        waiting = [
            item
            for item in waiting
            if taken[item] < len(drawn[item]) and not (until_solved and drawn[item][taken[item] - 1].solved)
        ]
    return taken


def matched(attempts: Attempts, budget: float, *, unit: str = "flops", until_solved: bool = False) -> Scores:
    """What best-of-n with a verifier solves for a budget: an item counts if one of its attempts is right.

    Args:
        attempts: As for `allotted`.
        budget: What all items together may cost.
        unit: The unit's name.
        until_solved: As for `allotted`.

    Returns:
        The items' values and what was spent, so that a rule with `equal=unit` notices if it is not alike.

    Raises:
        ConfigError: as for `allotted`, or if the unit is no text.
        DataError: as for `allotted`, or if there is no item.

    Example:
        >>> no, yes = Attempt(solved=False, cost=2), Attempt(solved=True, cost=2)
        >>> found = matched({"a": [no, yes], "b": [no, no]}, 7)
        >>> found.mean, found.spent
        (0.5, {'flops': 6.0})
    """
    check_kind("unit", unit, str, "the name of a unit of cost")
    bought = {
        item: attempts[item][:count]
        for item, count in allotted(attempts, budget, until_solved=until_solved).items()
    }
    return Scores(
        values={item: any(attempt.solved for attempt in some) for item, some in bought.items()},
        spent={unit: float(sum(attempt.cost for some in bought.values() for attempt in some))},
    )


def solved_within(attempts: Attempts, budget: float) -> float:
    """The share of items that are solved if each may spend a budget: a point of a curve.

    An attempt counts when it is finished, a long one later than a short one.

    Args:
        attempts: For each item its attempts, in the order drawn.
        budget: What one item may cost.

    Raises:
        ConfigError: if the budget is no number above 0.
        DataError: if there is no item, or the attempts of one are none.

    Example:
        >>> solved_within({"a": [Attempt(solved=False, cost=2), Attempt(solved=True, cost=2)]}, 3)
        0.0
    """
    checked = _checked(attempts, budget)
    if not checked:
        raise DataError("there are no items", expected="one at least")
    return sum(_within(drawn, budget) for drawn in checked.values()) / len(checked)


def _within(drawn: Sequence[Attempt], budget: float) -> bool:
    spent = 0.0
    for attempt in drawn:
        spent += attempt.cost
        if attempt.solved or spent > budget:
            return spent <= budget
    return False
