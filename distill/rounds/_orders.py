"""Curricula over single items: from easy to hard, and those that are sometimes solved."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from docendo.checks import is_number
from docendo.distill.rounds._scheduler import Curriculum, Feedback, Plan, Pool, in_turn, require_step
from docendo.distill.rounds._success import SuccessTable, require_window
from docendo.errors import ConfigError, DataError
from docendo.hashing import derive_seed, digest

#: Difficulty of an item by its id; more is harder.
Difficulty: TypeAlias = "Mapping[str, float] | Callable[[str], float]"


class EasyToHard(Curriculum):
    """Items in order of a difficulty that is known beforehand (Bengio and others 2009), `size` a step.

    What follows the hardest is the easiest again. Of equal difficulty the order is drawn.

    Args:
        items: As in `Curriculum`.
        difficulty: A number for each item, by its id: a level, a loss, 1 − the success rate of a model.
        size: Items of a step, at most as many as there are; the last step of a pass holds what is left.
        seed: Seed of the order among equals.

    Raises:
        DataError: if an item has no difficulty, or one that is no finite number.

    Example:
        >>> terms = {"1+2+3": 3, "1+2": 2, "1+2+3+4": 4}
        >>> scheduler = EasyToHard({item: "sums" for item in terms}, difficulty=terms, size=2)
        >>> scheduler.plan(0).items, scheduler.plan(1).items
        (('1+2', '1+2+3'), ('1+2+3+4',))
    """

    def __init__(self, items: Pool, *, difficulty: Difficulty, size: int, seed: int = 0) -> None:
        super().__init__(items, size=size, seed=seed)
        self._difficulty = {item: _difficulty(difficulty, item) for item in self.items}

    def plan(self, step: int) -> Plan:
        """The next items; `weights` are their difficulties."""
        items = in_turn(self._sorted, step, self.size)
        return Plan(items=items, weights={item: self._difficulty[self._told(item)] for item in items})

    def _settings(self) -> dict[str, Any]:
        return {"difficulty": digest(self._difficulty)}

    def _sorted(self, number: int) -> list[str]:
        return sorted(self._order("pass", number), key=lambda item: self._difficulty[self._told(item)])


def _difficulty(difficulty: Difficulty, item: str) -> float:
    value = difficulty(item) if callable(difficulty) else difficulty.get(item)
    if not is_number(value):
        raise DataError(f"item {item!r} has the difficulty {value!r}", expected="a finite number")
    return float(value)


class BalancedWindow(Curriculum):
    """Items whose success rate lies in a window around 1/2, drawn without replacement.

    Balanced online difficulty filtering (Bae and others 2025, arXiv 2504.03380) as a choice of what is
    sampled at all: what can be learnt from an item is bounded by p(1 − p), which is 0 for items that are
    always or never solved. The paper filters groups that have been sampled; here the rate is that of earlier
    rounds, so nothing is sampled in vain, and `explore` keeps looking at the others, because the policy
    moves. An item that was never asked counts as inside, having the prior's rate.

    Args:
        items: As in `Curriculum`.
        size: Items of a step.
        low: Least success rate; 0.25 and 0.75 are our choice, symmetric as the theory asks.
        high: Highest success rate.
        explore: Weight of an item outside of the window, where one inside has 1; more than 0 keeps every
            item within reach.
        table: What is known of items beforehand: keys are ids. By default nothing, with the newest 16
            outcomes of an item kept (two rounds of 8 samples).
        seed: Seed of the draws.

    Example:
        >>> scheduler = BalancedWindow({"easy": "s", "fair": "s", "hard": "s"}, size=1, explore=1e-9)
        >>> for item, solved in (("easy", 8), ("fair", 4), ("hard", 0)):
        ...     rewards = (1.0,) * solved + (0.0,) * (8 - solved)
        ...     scheduler.observe(Feedback(items=(item,) * 8, rewards=rewards))
        >>> scheduler.plan(1).items
        ('fair',)
    """

    def __init__(
        self,
        items: Pool,
        *,
        size: int,
        low: float = 0.25,
        high: float = 0.75,
        explore: float = 0.1,
        table: SuccessTable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(items, size=size, seed=seed)
        require_window(low, high)
        if not (is_number(explore) and 0 < explore <= 1):
            raise ConfigError(f"explore is {explore!r}", expected="more than 0 and at most 1")
        self.low, self.high, self.explore = float(low), float(high), float(explore)
        self.table = SuccessTable(window=16) if table is None else table

    def plan(self, step: int) -> Plan:
        """Draws the items of a step; `weights` are those of all items."""
        require_step(step)
        weights = {item: self._weight(item) for item in self.items}
        draws = random.Random(derive_seed(self.seed, "window", step))
        # The largest of u^(1/w) are a draw without replacement (Efraimidis and Spirakis 2006).
        keys = {item: math.log(1 - draws.random()) / weights[item] for item in self.items}
        chosen = sorted(self.items, key=lambda item: (-keys[item], item))[: self.size]
        return Plan(items=tuple(chosen), weights=weights)

    def _weight(self, item: str) -> float:
        return 1.0 if self.table.inside(item, self.low, self.high) else self.explore

    def _learn(self, feedback: Feedback) -> None:
        for item, reward in zip(feedback.items, feedback.rewards, strict=True):
            self.table.add(item, [reward], version=feedback.version)

    def _forget(self) -> None:
        # What is known beforehand is known of others.
        state = self.table.state_dict()
        told = {self._told(key): outcomes for key, outcomes in state["outcomes"].items()}
        self.table = SuccessTable.from_state({**state, "outcomes": told})

    def _settings(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "explore": self.explore}

    def _state(self) -> dict[str, Any]:
        return {"table": self.table.state_dict()}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.table = SuccessTable.from_state(state["table"])
