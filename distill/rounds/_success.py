"""How often each item or stratum is solved: one estimate that curricula of several kinds go by."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Self

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, DataError

_FORMAT = 1


def magnitude(rate: float) -> float:
    """2√(p(1−p)): the mean size of a group-normalised advantage of right and wrong answers.

    Largest at 1/2 and 0 where all answers are alike, as in what DUMP (arXiv 2504.09710) measures.

    Example:
        >>> [magnitude(rate) for rate in (0.0, 0.2, 0.5, 1.0)]
        [0.0, 0.8, 1.0, 0.0]
    """
    return 2 * math.sqrt(_rate(rate) * (1 - rate))


def inside(rate: float, low: float = 0.25, high: float = 0.75) -> bool:
    """Whether p is in a window, as in online difficulty filtering (arXiv 2504.03380); the ends belong to it.

    Example:
        >>> [inside(rate) for rate in (0.2, 0.25, 0.75, 1.0)]
        [False, True, True, False]
    """
    require_window(low, high)
    return low <= _rate(rate) <= high


def priority(rate: float) -> float:
    """1−p: what is rarely solved comes first (Kimi k1.5, arXiv 2501.12599).

    By itself it wastes samples on what cannot be solved.

    Example:
        >>> priority(0.25)
        0.75
    """
    return 1 - _rate(rate)


def require_window(low: float, high: float) -> None:
    """Refuses a window that is none.

    Raises:
        ConfigError: unless 0 <= low < high <= 1.
    """
    if not (is_number(low) and is_number(high) and 0 <= low < high <= 1):
        raise ConfigError(f"the window is {low!r} to {high!r}", expected="0 <= low < high <= 1")


class SuccessTable:
    """Success rates by key, such as an item's id or a stratum, as Beta counts of the newest outcomes.

    Each outcome is a reward in [0, 1] and the version of the policy that earned it. A key has the counts
    a = Σ w·reward and b = Σ w·(1 − reward) over its newest `window` outcomes, on top of the prior; an
    outcome that is k versions older than the newest of the table weighs `discount` to the power of k.

    Args:
        window: Most outcomes that are kept of a key, or None for all. 300 are DUMP's (arXiv 2504.09710).
        prior: The two counts of the Beta prior, more than 0; 1 and 1 is the uniform one, so that a key
            without outcomes has the rate 1/2.
        discount: Weight of an outcome that is one policy version old, in [0, 1]; 1 forgets nothing, 0 knows
            the newest policy alone.

    Example:
        >>> table = SuccessTable(window=4)
        >>> table.add("sums", [1, 1, 0, 1, 0], version=0)
        >>> table.counts("sums"), table.rate("sums"), table.rate("unseen")
        ((2.0, 2.0), 0.5, 0.5)
        >>> low, high = table.interval("sums")
        >>> f"{low:.3f} to {high:.3f}"
        '0.147 to 0.853'
    """

    def __init__(
        self,
        *,
        window: int | None = 300,
        prior: tuple[float, float] = (1.0, 1.0),
        discount: float = 1.0,
    ) -> None:
        if window is not None and not (is_count(window) and window >= 1):
            raise ConfigError(f"window is {window!r}", expected="at least 1, or None")
        if len(prior) != 2 or not all(is_number(count) and count > 0 for count in prior):
            raise ConfigError(f"prior is {prior!r}", expected="two numbers, more than 0")
        if not (is_number(discount) and 0 <= discount <= 1):
            raise ConfigError(f"discount is {discount!r}", expected="between 0 and 1")
        self.window, self.discount = window, float(discount)
        self.prior = (float(prior[0]), float(prior[1]))
        self.version = 0
        self._outcomes: dict[str, list[tuple[int, float]]] = {}

    def add(self, key: str, rewards: Iterable[float], *, version: int = 0) -> None:
        """Adds outcomes of a key.

        Args:
            key: Item or stratum.
            rewards: Numbers in [0, 1], True and False included, oldest first.
            version: Version of the policy, such as the round; late outcomes of an older one are welcome.

        Raises:
            DataError: if a reward is no number in [0, 1]; then nothing is added.
        """
        if not isinstance(key, str):
            raise DataError(f"the key is {key!r}", expected="the text of an item's id or a stratum")
        if not (is_count(version) and version >= 0):
            raise DataError(f"version is {version!r}", expected="a whole number, 0 or more")
        found = [(int(version), _reward(reward, key)) for reward in rewards]
        self.version = max(self.version, int(version))
        if found:
            self._outcomes[key] = self._newest([*self._outcomes.get(key, ()), *found])

    def _newest(self, outcomes: list[tuple[int, float]]) -> list[tuple[int, float]]:
        outcomes.sort(key=lambda outcome: outcome[0])  # stable: in order of arrival within a version
        return outcomes if self.window is None else outcomes[-self.window :]

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that have outcomes, sorted."""
        return tuple(sorted(self._outcomes))

    def seen(self, key: str) -> int:
        """Number of outcomes that are kept of a key."""
        return len(self._outcomes.get(key, ()))

    def counts(self, key: str) -> tuple[float, float]:
        """Successes and failures of a key, discounted, without the prior."""
        outcomes = self._outcomes.get(key, ())
        weights = [self.discount ** (self.version - version) for version, _ in outcomes]
        pairs = list(zip(weights, outcomes, strict=True))
        return (
            math.fsum(weight * reward for weight, (_, reward) in pairs),
            math.fsum(weight * (1 - reward) for weight, (_, reward) in pairs),
        )

    def rate(self, key: str) -> float:
        """The mean of the key's Beta posterior; that of the prior if nothing is known."""
        a, b = self._posterior(key)
        return a / (a + b)

    def interval(self, key: str, level: float = 0.95) -> tuple[float, float]:
        """The equal-tailed credible interval of the key's rate."""
        from scipy.special import betaincinv

        if not (is_number(level) and 0 < level < 1):
            raise ConfigError(f"level is {level!r}", expected="between 0 and 1, such as 0.95")
        a, b = self._posterior(key)
        return float(betaincinv(a, b, (1 - level) / 2)), float(betaincinv(a, b, (1 + level) / 2))

    def magnitude(self, key: str) -> float:
        """`magnitude` of the key's rate."""
        return magnitude(self.rate(key))

    def inside(self, key: str, low: float = 0.25, high: float = 0.75) -> bool:
        """`inside` of the key's rate."""
        return inside(self.rate(key), low, high)

    def priority(self, key: str) -> float:
        """`priority` of the key's rate."""
        return priority(self.rate(key))

    def merge(self, other: SuccessTable) -> SuccessTable:
        """A table with the outcomes of both, by workers that did not share one; a.merge(b) is b.merge(a).

        Of outcomes of one version those that are newest in their own table are the newest.

        Raises:
            ConfigError: if the two have other settings.
        """
        if self._settings() != other._settings():
            raise ConfigError("the tables have unlike window, prior or discount", expected="the same")
        merged = copy.copy(self)
        merged.version, merged._outcomes = max(self.version, other.version), {}
        for key in sorted({*self._outcomes, *other._outcomes}):
            aged = [*_aged(self._outcomes.get(key, ())), *_aged(other._outcomes.get(key, ()))]
            merged._outcomes[key] = merged._newest([(version, reward) for version, _, reward in sorted(aged)])
        return merged

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        outcomes = {key: [list(each) for each in self._outcomes[key]] for key in self.keys}
        return {"format": _FORMAT, **self._settings(), "version": self.version, "outcomes": outcomes}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuilds a table from `state_dict`.

        Raises:
            DataError: if it is something else.
        """
        try:
            prior = (state["prior"][0], state["prior"][1])
            table = cls(window=state["window"], prior=prior, discount=state["discount"])
            for key, outcomes in state["outcomes"].items():
                for version, reward in outcomes:
                    table.add(key, [reward], version=version)
            table.version = max(table.version, int(state["version"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"the state of a success table cannot be read ({type(error).__name__}: {error})",
                expected="what SuccessTable.state_dict returns",
            ) from None
        return table

    def _settings(self) -> dict[str, Any]:
        return {"window": self.window, "prior": list(self.prior), "discount": self.discount}

    def _posterior(self, key: str) -> tuple[float, float]:
        successes, failures = self.counts(key)
        return self.prior[0] + successes, self.prior[1] + failures


def _rate(rate: float) -> float:
    if not (is_number(rate) and 0 <= rate <= 1):
        raise DataError(f"the success rate is {rate!r}", expected="a number in [0, 1]")
    return rate


def _reward(reward: Any, key: str) -> float:
    value = float(reward) if isinstance(reward, bool) else reward
    if not (is_number(value) and 0 <= value <= 1):
        raise DataError(f"a reward of {key!r} is {reward!r}", expected="a number in [0, 1]")
    return float(value)


def _aged(outcomes: Sequence[tuple[int, float]]) -> list[tuple[int, int, float]]:
    """Outcomes with their place from the newest of their version: 0, before it -1, and so on."""
    versions = [version for version, _ in reversed(outcomes)]
    same = accumulate(
        range(1, len(versions)), lambda age, at: age + 1 if versions[at] == versions[at - 1] else 0, initial=0
    )
    ages = reversed(list(same)[: len(versions)])
    return [(version, -age, reward) for age, (version, reward) in zip(ages, outcomes, strict=True)]
