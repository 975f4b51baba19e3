"""What is asked next: the protocol of curricula, what they are told, and the one that knows nothing."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, DataError
from docendo.hashing import derive_seed, digest
from docendo.records import Item, Record

#: Items, or their strata by id.
Pool: TypeAlias = "Iterable[Item] | Mapping[str, str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback(Record):
    """How samples fared; all fields that are given are parallel, one entry for each sample.

    Attributes:
        items: Id of the item of each sample. The samples of an item are one group.
        rewards: Reward of each, in [0, 1].
        advantages: Advantage of each, as a trainer used it; if empty, see `group_advantages`.
        losses: Loss of each, or empty.
        lengths: Generated tokens of each, or empty.
        version: Version of the policy that answered, such as the round.

    Example:
        >>> Feedback(items=("a", "a", "b"), rewards=(1.0, 0.0, 1.0)).sizes
        (1.0, 1.0, 0.0)
    """

    items: tuple[str, ...]
    rewards: tuple[float, ...]
    advantages: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    version: int = 0

    def __post_init__(self) -> None:
        """Checks lengths and numbers, so that a bad value fails before a curriculum has learnt from it."""
        if not all(isinstance(item, str) for item in self.items):
            raise DataError("an item of the feedback is no text", expected="ids")
        for name in ("rewards", "advantages", "losses", "lengths"):
            values = getattr(self, name)
            if len(values) != len(self.items) and (values or name == "rewards"):
                raise DataError(
                    f"the feedback has {len(values)} {name} of {len(self.items)} samples",
                    expected="one for each",
                )
            bad = [value for value in values if not is_number(value)]
            if bad:
                raise DataError(f"{name} of the feedback hold {bad[0]!r}", expected="finite numbers")
        if not all(0 <= reward <= 1 for reward in self.rewards):
            raise DataError("a reward of the feedback is outside of [0, 1]", expected="a number in [0, 1]")
        if not (is_count(self.version) and self.version >= 0):
            raise DataError(f"version is {self.version!r}", expected="a whole number, 0 or more")

    @property
    def sizes(self) -> tuple[float, ...]:
        """|advantage| of each sample: those given, else group-normalised ones."""
        found = self.advantages or group_advantages(self.items, self.rewards)
        return tuple(abs(value) for value in found)


def group_advantages(items: Sequence[str], rewards: Sequence[float]) -> tuple[float, ...]:
    """GRPO's advantages: (reward − mean) / standard deviation within each item's samples (arXiv 2402.03300).

    The deviation is that of the group itself, so that for right and wrong answers the mean size is
    2√(p(1−p)) exactly. A group of equal rewards has advantages of 0.

    Example:
        >>> group_advantages(["a", "a", "b", "b"], [1, 0, 1, 1])
        (1.0, -1.0, 0.0, 0.0)
    """
    groups: dict[str, list[float]] = {}
    for item, reward in zip(items, rewards, strict=True):
        groups.setdefault(item, []).append(float(reward))
    scale: dict[str, tuple[float, float]] = {}
    for item, group in groups.items():
        mean = math.fsum(group) / len(group)
        scale[item] = mean, math.sqrt(math.fsum((reward - mean) ** 2 for reward in group) / len(group))
    found = []
    for item, reward in zip(items, rewards, strict=True):
        mean, deviation = scale[item]
        found.append((float(reward) - mean) / deviation if deviation > 1e-9 else 0.0)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Record):
    """What is asked in a step.

    Attributes:
        items: Ids in the order in which they are asked, each once.
        weights: What the choice went by: probabilities of strata or items, or difficulties, by name.
    """

    items: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Scheduler(Protocol):
    """A curriculum; `plan` changes nothing: the same state and step give the same plan."""

    def plan(self, step: int) -> Plan:
        """What is asked in a step, counted from 0."""
        ...

    def observe(self, feedback: Feedback) -> None:
        """Learns from how it went."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learnt, as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        ...


class Curriculum:
    """What the schedulers of this room have in common. Subclass it and write `plan`, `_learn` and the state.

    Args:
        items: Items, whose strata are those of evaluations (`metadata["stratum"]`, else the task), or strata
            by id. Their order does not matter.
        size: Items of a step, at most as many as there are.
        seed: Seed of what is drawn.
    """

    def __init__(self, items: Pool, *, size: int, seed: int = 0) -> None:
        strata = _strata(items)
        if not strata:
            raise DataError("there is no item to schedule", expected="at least one")
        if not (is_count(size) and 1 <= size <= len(strata)):
            raise ConfigError(f"size is {size!r}", expected=f"1 to {len(strata)}, the number of items")
        if not is_count(seed):
            raise ConfigError(f"seed is {seed!r}", expected="a whole number")
        self.items: tuple[str, ...] = tuple(sorted(strata))
        self.size, self.seed = int(size), int(seed)
        self._strata = strata
        self._other: Mapping[str, str] = {}
        self._shuffled: int | None = None

    def shuffled(self, seed: int = 0) -> Self:
        """The negative control: a copy that takes what is known of an item for that of another, drawn once.

        A curriculum that helps no more than its control does not help by its signal.
        """
        if not is_count(seed):
            raise ConfigError(f"seed is {seed!r}", expected="a whole number")
        others = list(self.items)
        random.Random(derive_seed("shuffled", seed)).shuffle(others)
        control = copy.deepcopy(self)
        control._other, control._shuffled = dict(zip(self.items, others, strict=True)), int(seed)
        control._forget()
        return control

    def plan(self, step: int) -> Plan:
        """What is asked in a step, counted from 0."""
        raise NotImplementedError

    def observe(self, feedback: Feedback) -> None:
        """Learns from how it went.

        Raises:
            DataError: if an item is not among those that are scheduled.
        """
        for item in feedback.items:
            if item not in self._strata:
                raise DataError(f"the feedback is on item {item!r}", expected="an item of the scheduler")
        # Advantages belong to the group that was asked, so they are found before names are changed.
        told = feedback.replace(advantages=feedback.sizes, items=tuple(map(self._told, feedback.items)))
        self._learn(told)

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learnt, and the settings that plans depend on beside it, as JSON values."""
        settings = {"size": self.size, "seed": self.seed, "shuffled": self._shuffled, **self._settings()}
        return {
            "scheduler": type(self).__name__,
            "pool": digest(self.items, self._strata),
            "settings": settings,
            **self._state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned.

        Raises:
            DataError: if it is that of another kind of scheduler, of other items or other settings: the
                control of a scheduler does not go on with what that learnt.
        """
        own = self.state_dict()
        for name, what in (
            ("scheduler", "a scheduler of the kind"),
            ("pool", "the same items and strata"),
            ("settings", "the same settings, shuffled or not"),
        ):
            if state.get(name) != own[name]:
                raise DataError(
                    f"the state is of another {name} ({str(state.get(name))[:80]!r})", expected=what
                )
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the state of {own['scheduler']} cannot be read ({type(error).__name__}: {error})",
                expected="what state_dict returns",
            ) from None

    def _told(self, item: str) -> str:
        """The item that what was seen of this one is told about."""
        return self._other.get(item, item)

    def _order(self, *names: Any) -> list[str]:
        """All items in an order that is drawn for these names."""
        return sorted(self.items, key=lambda item: digest(self.seed, *names, item))

    def _forget(self) -> None:
        """Forgets what was learnt."""

    def _learn(self, feedback: Feedback) -> None:
        """Learns; `advantages` are sizes, of every sample."""

    def _settings(self) -> dict[str, Any]:
        """What plans depend on beside size, seed and what was learnt."""
        return {}

    def _state(self) -> dict[str, Any]:
        return {}

    def _load(self, state: Mapping[str, Any]) -> None:
        pass


class RandomScheduler(Curriculum):
    """Items in random order: none comes again before all have come. The baseline of every curriculum.

    The last step of a pass holds what is left. Args are those of `Curriculum`.

    Example:
        >>> scheduler = RandomScheduler({name: "sums" for name in "abcdef"}, size=3, seed=1)
        >>> sorted(scheduler.plan(0).items + scheduler.plan(1).items)
        ['a', 'b', 'c', 'd', 'e', 'f']
        >>> scheduler.plan(0) == scheduler.plan(0)
        True
    """

    def plan(self, step: int) -> Plan:
        """The next `size` items."""
        return Plan(items=in_turn(lambda number: self._order("pass", number), step, self.size))


def in_turn(order: Callable[[int], Sequence[str]], step: int, size: int) -> tuple[str, ...]:
    """The items of a step of endless passes, of which `order(n)` is the n-th; the last step has the rest."""
    require_step(step)
    number, at = divmod(step, math.ceil(len(order(0)) / size))
    return tuple(order(number)[at * size : (at + 1) * size])


def require_step(step: int) -> None:
    """Refuses a step that is none.

    Raises:
        ConfigError: unless it is a whole number of at least 0.
    """
    if not (is_count(step) and step >= 0):
        raise ConfigError(f"step is {step!r}", expected="a whole number, 0 or more")


def _strata(items: Pool) -> dict[str, str]:
    if isinstance(items, Mapping):
        found: dict[str, str] = dict(items)
        bad = [
            key for key, stratum in found.items() if not isinstance(key, str) or not isinstance(stratum, str)
        ]
        if bad:
            raise DataError(f"item {bad[0]!r} has the stratum {found[bad[0]]!r}", expected="two texts")
        return found
    found = {}
    for item in items:
        if not isinstance(item, Item):
            raise DataError(f"{item!r} is no item"[:120], expected="items, or strata by id")
        found[item.id] = str(item.public.metadata.get("stratum") or item.public.task)
    return found
