"""DUMP's curriculum over strata: a bandit that goes where advantages are large."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, Literal, get_args

from docendo.checks import is_count, is_number
from docendo.distill.rounds._scheduler import Curriculum, Feedback, Plan, Pool, require_step
from docendo.errors import ConfigError, DataError
from docendo.hashing import derive_seed

Count = Literal["completions", "prompts"]


class UCB(Curriculum):
    """Strata by how large their advantages are, and how little is known of them.

    DUMP (Wang and others 2025, arXiv 2504.09710): with L the mean |advantage| of a stratum's newest `window`
    samples, n its samples so far and N those of all strata,

        UCB = L + sqrt(2 ln(N + 1) / (n + 1)),    p = softmax(UCB / temperature).

    Of right and wrong answers L estimates 2√(p(1−p)): strata that are mastered and those out of reach both
    sink. Each item of a step is drawn by stratum and then evenly within it, each at most once; a stratum
    without items left is passed over.

    Args:
        items: As in `Curriculum`; the strata are the arms.
        size: Items of a step.
        window: Newest samples that a stratum's L is the mean of (300: the paper's).
        temperature: Of the softmax (0.1: the paper's).
        count: What n counts: "completions" as in the paper, or "prompts", with which exploration fades more
            slowly where an item has many samples.
        seed: Seed of the draws.

    Example:
        >>> strata = {f"{name}{n}": name for name in ("fair", "mastered") for n in range(4)}
        >>> scheduler = UCB(strata, size=2)
        >>> scheduler.probabilities()
        {'fair': 0.5, 'mastered': 0.5}
        >>> scheduler.observe(Feedback(items=("fair0",) * 4, rewards=(1, 0, 1, 0)))
        >>> scheduler.observe(Feedback(items=("mastered0",) * 4, rewards=(1, 1, 1, 1)))
        >>> scheduler.probabilities()["fair"] > 0.99
        True
    """

    def __init__(
        self,
        items: Pool,
        *,
        size: int,
        window: int = 300,
        temperature: float = 0.1,
        count: Count = "completions",
        seed: int = 0,
    ) -> None:
        super().__init__(items, size=size, seed=seed)
        if not (is_count(window) and window >= 1):
            raise ConfigError(f"window is {window!r}", expected="at least 1")
        if not (is_number(temperature) and temperature > 0):
            raise ConfigError(f"temperature is {temperature!r}", expected="more than 0")
        if count not in get_args(Count):
            raise ConfigError(f"count is {count!r}", expected='"completions" or "prompts"')
        self.window, self.temperature, self.count = window, float(temperature), count
        self.strata: tuple[str, ...] = tuple(sorted(set(self._strata.values())))
        self._sizes: dict[str, list[float]] = {stratum: [] for stratum in self.strata}
        self._seen: dict[str, int] = dict.fromkeys(self.strata, 0)

    def learnability(self) -> dict[str, float]:
        """Mean |advantage| of each stratum; 0 where nothing was seen."""
        return {name: math.fsum(sizes) / len(sizes) if sizes else 0.0 for name, sizes in self._sizes.items()}

    def bounds(self) -> dict[str, float]:
        """The upper confidence bound of each stratum."""
        total = sum(self._seen.values())
        return {
            name: learnt + math.sqrt(2 * math.log(total + 1) / (self._seen[name] + 1))
            for name, learnt in self.learnability().items()
        }

    def probabilities(self) -> dict[str, float]:
        """The probability of each stratum."""
        bounds = self.bounds()
        most = max(bounds.values())
        parts = {name: math.exp((bound - most) / self.temperature) for name, bound in bounds.items()}
        total = math.fsum(parts.values())
        return {name: part / total for name, part in parts.items()}

    def plan(self, step: int) -> Plan:
        """Draws the items of a step; `weights` are the probabilities of the strata."""
        require_step(step)
        weights = self.probabilities()
        draws = random.Random(derive_seed(self.seed, "ucb", step))
        left: dict[str, list[str]] = {stratum: [] for stratum in self.strata}
        for item in reversed(self._order("ucb", step)):
            left[self._strata[item]].append(item)
        chosen = []
        for _ in range(self.size):
            open_ = [name for name in self.strata if left[name]]
            # A hair of weight for all, should those that are left have none in floating point.
            name = draws.choices(open_, [weights[name] + 1e-300 for name in open_])[0]
            chosen.append(left[name].pop())
        return Plan(items=tuple(chosen), weights=weights)

    def _learn(self, feedback: Feedback) -> None:
        prompts: set[tuple[str, str]] = set()
        for item, size in zip(feedback.items, feedback.advantages, strict=True):
            stratum = self._strata[item]
            self._sizes[stratum] = [*self._sizes[stratum], size][-self.window :]
            prompts.add((stratum, item))
            self._seen[stratum] += self.count == "completions"
        if self.count == "prompts":
            for stratum, _ in prompts:
                self._seen[stratum] += 1

    def _forget(self) -> None:
        self._sizes = {stratum: [] for stratum in self.strata}
        self._seen = dict.fromkeys(self.strata, 0)

    def _settings(self) -> dict[str, Any]:
        return {"window": self.window, "temperature": self.temperature, "count": self.count}

    def _state(self) -> dict[str, Any]:
        return {"sizes": {name: list(sizes) for name, sizes in self._sizes.items()}, "seen": dict(self._seen)}

    def _load(self, state: Mapping[str, Any]) -> None:
        sizes = {name: [float(size) for size in state["sizes"][name]] for name in self.strata}
        seen = {name: state["seen"][name] for name in self.strata}
        if not all(is_count(n) and n >= 0 for n in seen.values()):
            raise DataError(f"a stratum was seen {seen!r} times", expected="whole numbers")
        self._sizes, self._seen = sizes, seen
