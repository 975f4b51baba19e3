"""When to switch to the large model: a threshold, a pace under a budget, and values learnt for a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from docendo.checks import check_count, is_number
from docendo.errors import ConfigError, DataError
from docendo.hashing import digest

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

#: No need is below or above these.
NEVER, ALWAYS = math.inf, -math.inf


class Switch(Protocol):
    """Decides from how much the large model is needed, and from what is left, whether it is asked."""

    def wants(self, need: float, *, calls: float, decisions: float) -> bool:
        """Whether the large model is to be asked.

        Args:
            need: How much it is needed, 0 to 1: a router's score or an answer's uncertainty.
            calls: Calls of the large model that the budget still pays for; infinite without a budget.
            decisions: Decisions still to come, this one included; infinite if that is not known.
        """

    def describe(self) -> dict[str, Any]:
        """The switch as JSON."""


class Threshold:
    """Switches where the need is at least a number. Knows no budget: it spends while there is some.

    Example:
        >>> Threshold(0.5).wants(0.5, calls=1, decisions=10), Threshold(0.5).wants(0.4, calls=1, decisions=1)
        (True, False)
    """

    def __init__(self, value: float) -> None:
        if not is_number(value) and value not in (NEVER, ALWAYS):
            raise ConfigError(f"the threshold is {value!r}", expected="a number")
        self.value = float(value)

    def wants(self, need: float, *, calls: float, decisions: float) -> bool:
        """Whether the need reaches the threshold."""
        return need >= self.value

    def describe(self) -> dict[str, Any]:
        """The switch as JSON."""
        value = self.value if math.isfinite(self.value) else str(self.value)
        return {"class": type(self).__name__, "value": value}


class Paced:
    """Spends a budget evenly: at each decision the threshold that would just use up what is left.

    The threshold is the quantile of the needs seen on held-out questions, at the share of calls left among
    decisions left. So a budget is used to the last call, however the needs have shifted.

    Args:
        needs: Needs on held-out questions.

    Example:
        >>> paced = Paced([0.1, 0.2, 0.3, 0.4])
        >>> [paced.wants(0.35, calls=calls, decisions=8) for calls in (0, 1, 2, 4, 8)]
        [False, False, False, True, True]
    """

    def __init__(self, needs: Sequence[float]) -> None:
        self._needs = sorted(_checked(needs))

    def wants(self, need: float, *, calls: float, decisions: float) -> bool:
        """Whether the need reaches what the calls left allow."""
        if not math.isfinite(decisions):
            raise ConfigError(
                "a paced switch does not know how many decisions are to come",
                remedy="give LargeBudget(decisions=...)",
            )
        if calls >= decisions:
            return True
        return need >= threshold_for_share(self._needs, calls / decisions)

    def describe(self) -> dict[str, Any]:
        """The switch as JSON."""
        return {"class": type(self).__name__, "needs": digest(self._needs)[:16]}


class BudgetedSwitch:
    """The best use of a hard budget of calls, learnt from decisions of which both outcomes were logged.

    MANSA (Mguni et al. 2023, arXiv 2302.05910) lets an agent learn by reinforcement when the dear policy is
    worth its cost, and keeps a fixed budget by adding what is left of it to the state. Here the state is
    (bin of the need, calls left, decisions left), and because both branches were logged, the values follow by
    backward induction, where MANSA needs Q-learning: with V(d, c) the value of c calls in the last d
    decisions, the large model is asked if its gain, less `cost`, exceeds V(d - 1, c) - V(d - 1, c - 1), which
    is what the call would be worth later.

    Args:
        calls: Calls of the large model in one episode.
        decisions: Decisions in one episode.
        cost: What a call must gain at least, MANSA's cost of switching; 0 makes the budget the only limit.
        bins: Bins of the need, of equal numbers of logged decisions.
        phases: In how many phases of an episode the needs are learnt apart, for needs that drift; 1 if every
            part of an episode is like every other.

    Example:
        >>> needs, gains = [0.1, 0.2, 0.8, 0.9] * 5, [0, 0, 1, 1] * 5
        >>> switch = BudgetedSwitch(calls=1, decisions=4, bins=2).fit(needs, gains)
        >>> switch.wants(0.9, calls=1, decisions=4), switch.wants(0.1, calls=1, decisions=1)
        (True, False)
    """

    def __init__(
        self, *, calls: int, decisions: int, cost: float = 0.0, bins: int = 10, phases: int = 1
    ) -> None:
        check_count("calls", calls, 0)
        check_count("decisions", decisions, 1)
        check_count("bins", bins, 1)
        check_count("phases", phases, 1, decisions)
        if not is_number(cost) or cost < 0:
            raise ConfigError(f"cost is {cost!r}", expected="a number, at least 0")
        self.calls, self.decisions, self.cost = calls, decisions, float(cost)
        self.bins, self.phases = bins, phases
        self._learnt = ""

    def fit(self, needs: Sequence[float], gains: Sequence[float]) -> Self:
        """Learns from logged decisions, in the order of an episode if there are phases.

        Args:
            needs: Need at each decision.
            gains: What the large model would have added there, such as 1, 0 or -1.

        Raises:
            DataError: if there are fewer decisions than phases, or the lengths differ.
        """
        import numpy as np

        need, gain = np.array(_checked(needs)), np.array(_checked(gains))
        if len(need) != len(gain) or len(need) < self.phases:
            raise DataError(
                f"{len(need)} needs and {len(gain)} gains", expected=f"as many, at least {self.phases}"
            )
        self._edges = np.unique(np.quantile(need, np.arange(1, self.bins) / self.bins))
        bins = self._bin(need)
        counts = np.bincount(bins, minlength=len(self._edges) + 1)
        sums = np.bincount(bins, weights=gain, minlength=len(counts))
        self._gains = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0) - self.cost
        phase = np.arange(len(need)) * self.phases // len(need)
        table = np.zeros((self.phases, len(counts)))
        np.add.at(table, (phase, bins), 1)
        self._values = self._induce(table / table.sum(1, keepdims=True))
        self._learnt = digest(need.tolist(), gain.tolist())
        return self

    def _bin(self, need: Any) -> Any:
        import numpy as np

        return np.searchsorted(self._edges, need, side="right")

    def _induce(self, shares: Array) -> Array:
        """V(d, c): most gain of c calls in the last d decisions, of shape (decisions + 1, calls + 1)."""
        import numpy as np

        values = np.zeros((self.decisions + 1, self.calls + 1))
        for left in range(1, self.decisions + 1):
            phase = (self.decisions - left) * self.phases // self.decisions
            later = values[left - 1]
            asked = np.full_like(later, -np.inf)
            asked[1:] = later[:-1]
            best = np.maximum(later[None], self._gains[:, None] + asked[None])
            values[left] = shares[phase] @ best
        return values

    def wants(self, need: float, *, calls: float, decisions: float) -> bool:
        """Whether the gain expected at this need exceeds what the call would be worth later.

        Raises:
            ConfigError: if it has learnt nothing, or there is no budget of calls and decisions.
        """
        if not self._learnt:
            raise ConfigError("the switch has learnt nothing", remedy="call fit first")
        if not (math.isfinite(calls) and math.isfinite(decisions)):
            raise ConfigError(
                "a budgeted switch was asked without a budget",
                remedy="give LargeBudget(tokens, decisions=...)",
            )
        left, paid = min(max(1, int(decisions)), self.decisions), min(int(calls), self.calls)
        if paid < 1:
            return False
        later = self._values[left - 1]
        return bool(self._gains[self._bin(need)] > later[paid] - later[paid - 1])

    def describe(self) -> dict[str, Any]:
        """The switch as JSON."""
        names = ("calls", "decisions", "cost", "bins", "phases")
        return {
            "class": type(self).__name__,
            **{name: getattr(self, name) for name in names},
            "learnt": self._learnt[:16],
        }


def decide_stream(switch: Switch, needs: Sequence[float], *, calls: int) -> list[bool]:
    """What a switch decides for a stream of questions under a hard budget of calls, without asking anybody.

    With outcomes of both models at hand, this is how switches are compared; `LargeBudget` enforces the same
    in a run.

    Args:
        switch: What decides.
        needs: Need of each question, in their order.
        calls: Calls of the large model that the budget pays for.

    Example:
        >>> decide_stream(Threshold(0.5), [0.9, 0.2, 0.6, 0.8], calls=2)
        [True, False, True, False]
    """
    check_count("calls", calls, 0)
    made = []
    for place, need in enumerate(_checked(needs)):
        made.append(calls > 0 and switch.wants(need, calls=float(calls), decisions=float(len(needs) - place)))
        calls -= made[-1]
    return made


def threshold_for_share(needs: Sequence[float], share: float) -> float:
    """The lowest threshold at which no more than a share of the needs reaches it.

    Args:
        needs: Needs on held-out questions; never those that are reported.
        share: Share of decisions that may go to the large model, 0 to 1. Where many needs are equal it is
            kept from below.

    Raises:
        DataError: if there are no needs.
        ConfigError: if the share is out of range.

    Example:
        >>> threshold_for_share([0.1, 0.2, 0.3, 0.4], 0.5), threshold_for_share([0.1, 0.2, 0.2, 0.2], 0.5)
        (0.3, inf)
    """
    if not (is_number(share) and 0 <= share <= 1):
        raise ConfigError(f"share is {share!r}", expected="0 to 1")
    ranked = sorted(_checked(needs), reverse=True)
    most = math.floor(share * len(ranked) + 1e-9)
    if most >= len(ranked):
        return ALWAYS
    reached = [need for need in ranked[:most] if need > ranked[most]]
    return reached[-1] if reached else NEVER


def threshold_for_value(
    needs: Sequence[float], small: Sequence[float], large: Sequence[float], *, at_least: float
) -> float:
    """The highest threshold whose mean value on held-out questions is at least a number.

    Args:
        needs: Need of each question.
        small: Value of the small model's answer.
        large: Value of the large model's answer.
        at_least: Mean value that is wanted.

    Raises:
        DataError: if the lengths differ, or no threshold reaches the value; the message says what is reached.

    Example:
        >>> threshold_for_value([0.9, 0.5, 0.1], [0, 0, 1], [1, 1, 1], at_least=0.6)
        0.9
    """
    need, low, high = _checked(needs), _checked(small), _checked(large)
    if not len(need) == len(low) == len(high):
        raise DataError(f"{len(need)} needs, {len(low)} and {len(high)} values", expected="as many of each")
    reached = -math.inf
    for threshold in (NEVER, *sorted(set(need), reverse=True)):
        answers = [h if n >= threshold else s for n, s, h in zip(need, low, high, strict=True)]
        value = math.fsum(answers) / len(answers)
        if value >= at_least - 1e-12:
            return threshold
        reached = max(reached, value)
    raise DataError(f"at_least is {at_least:g} and the best threshold reaches {reached:.3f}", expected="less")


def _checked(values: Sequence[float]) -> list[float]:
    found = [float(value) for value in values]
    if not found or not all(map(math.isfinite, found)):
        raise DataError(
            f"{len(found)} numbers were given, or one is not finite", expected="finite numbers, at least one"
        )
    return found
