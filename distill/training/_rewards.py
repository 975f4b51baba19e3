"""What answers are worth in `train_grpo`: scorers, functions, and rewards that look at a whole group."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from docendo.checks import is_number
from docendo.distill.datasets._candidates import name_of
from docendo.errors import ConfigError, DataError, DocendoError, LeakError, TaskFailure
from docendo.records import Item
from docendo.scoring import Scorer, scored


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledAnswer:
    """One answer of a group.

    Attributes:
        text: Its text, as the engine would give it.
        tokens: How many tokens it took, with the one that ends it.
        finished: Whether it ended by itself, and was not cut off.
    """

    text: str
    tokens: int
    finished: bool


class GroupReward(ABC):
    """A reward that depends on the other answers to the same prompt. Subclass it as a frozen dataclass."""

    @abstractmethod
    def of_group(
        self,
        row: Mapping[str, Any],
        answers: Sequence[SampledAnswer],
        others: Mapping[str, Sequence[float]],
        *,
        progress: float,
    ) -> Sequence[float]:
        """Rewards of the answers of one group.

        Args:
            row: The row of the prompt.
            answers: The G answers.
            others: The G values of each reward named before this one.
            progress: Share of the optimiser steps that are done, from 0 to 1.
        """


Reward: TypeAlias = "Scorer | GroupReward | Callable[[Mapping[str, Any], str], float]"
"""A scorer (1 for a right answer, 0 for any other), a group reward, or a function of row and text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthReward(GroupReward):
    """Prefers the shorter answers of a group (Kimi k1.5, arXiv 2501.12599, section 2.3.3).

    With lambda = 0.5 - (length - shortest) / (longest - shortest), over the lengths in tokens of a group, a
    right answer gets lambda and a wrong one min(0, lambda); all get 0 where all are equally long. The paper
    trains without it first, then with a constant weight.

    Attributes:
        correct: Name of the reward, given before this one, that is at least 1 for right answers.
        warmup: Share of the steps without it (0: our choice; the paper gives no number).

    Example:
        >>> reward = LengthReward()
        >>> group = [SampledAnswer(text="", tokens=n, finished=True) for n in (10, 15, 20, 20)]
        >>> reward.of_group({}, group, {"verified": [1, 1, 1, 0]}, progress=0)
        [0.5, 0.0, -0.5, -0.5]
    """

    correct: str = "verified"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Checks the range."""
        if not is_number(self.warmup) or not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup!r}", expected="0 or more, less than 1")

    def of_group(
        self,
        row: Mapping[str, Any],
        answers: Sequence[SampledAnswer],
        others: Mapping[str, Sequence[float]],
        *,
        progress: float,
    ) -> list[float]:
        """Rewards of one group."""
        if self.correct not in others:
            raise ConfigError(
                f"LengthReward needs the reward {self.correct!r}",
                expected="a reward of that name, given before it",
            )
        lengths = [answer.tokens for answer in answers]
        shortest, longest = min(lengths), max(lengths)
        if shortest == longest or progress < self.warmup:
            return [0.0] * len(answers)
        values = [0.5 - (length - shortest) / (longest - shortest) for length in lengths]
        right = [value >= 1 for value in others[self.correct]]
        return [value if good else min(0.0, value) for value, good in zip(values, right, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactLabel:
    """1 for an answer that is the row's label and nothing else, 0 for any other (CLS-RL, arXiv 2503.16188).

    Case and surrounding space do not matter. A label inside a longer answer does not count: a model would
    learn to name all labels.

    Attributes:
        column: The column of the label; `prompts_dataset(answer=...)` makes "answer".

    Example:
        >>> reward = ExactLabel()
        >>> row = {"answer": "cat"}
        >>> reward(row, " Cat"), reward(row, "a cat"), reward(row, "cat dog")
        (1.0, 0.0, 0.0)
    """

    column: str = "answer"

    def __call__(self, row: Mapping[str, Any], text: str) -> float:
        """The reward of one answer.

        Raises:
            DataError: if the row has no label.
        """
        label = row.get(self.column)
        if not isinstance(label, str) or not label.strip():
            raise DataError(
                f"a row has the {self.column} {label!r}",
                expected="a label",
                remedy="prompts_dataset(answer=...)",
            )
        return float(text.strip().casefold() == label.strip().casefold())


class Judge:
    """Computes all rewards of sampled answers, once, and hands them to TRL name by name.

    Args:
        rewards: Rewards by name.
        rows: The rows of the prompts, by the number that stands for a prompt.
        items: The items that scorers need.
        decode: From token ids to text.
        ends: Tokens that end an answer.
        group: Answers to one prompt.

    Raises:
        DataError: if a scorer lacks the item of a row.
        LeakError: if such an item is no training item.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        rows: Sequence[Mapping[str, Any]],
        *,
        items: Iterable[Item],
        decode: Callable[[Sequence[int]], str],
        ends: frozenset[int],
        group: int,
    ) -> None:
        self.rewards, self.rows, self.decode, self.ends, self.group = rewards, rows, decode, ends, group
        self.items = {item.id: item for item in items}
        self._last: tuple[Any, dict[str, list[float]]] = (None, {})
        if any(isinstance(reward, Scorer) for reward in rewards.values()):
            _require_items(rows, self.items)

    def functions(self) -> list[Callable[..., list[float]]]:
        """Reward functions with TRL's interface, named as the rewards are."""
        return [self._function(name) for name in self.rewards]

    def _function(self, name: str) -> Callable[..., list[float]]:
        def reward(prompts: Any, completion_ids: Any, trainer_state: Any, **_: Any) -> list[float]:
            # TRL asks for each reward in turn, with the same answers.
            if self._last[0] is not completion_ids:
                progress = trainer_state.global_step / max(trainer_state.max_steps, 1)
                self._last = (completion_ids, self.values(prompts, completion_ids, progress))
            return self._last[1][name]

        reward.__name__ = name
        return reward

    def values(
        self, prompts: Sequence[str], completions: Sequence[Sequence[int]], progress: float
    ) -> dict[str, list[float]]:
        """Each reward of each answer; answers to one prompt stand together."""
        found: dict[str, list[float]] = {name: [] for name in self.rewards}
        for start in range(0, len(prompts), self.group):
            row = self.rows[int(prompts[start])]
            answers = [
                SampledAnswer(
                    text=self.decode(ids), tokens=len(ids), finished=bool(ids) and ids[-1] in self.ends
                )
                for ids in completions[start : start + self.group]
            ]
            here: dict[str, list[float]] = {}
            for name, reward in self.rewards.items():
                here[name] = self._of_group(name, reward, row, answers, here, progress)
                found[name] += here[name]
        return found

    def _of_group(
        self,
        name: str,
        reward: Reward,
        row: Mapping[str, Any],
        answers: Sequence[SampledAnswer],
        others: Mapping[str, Sequence[float]],
        progress: float,
    ) -> list[float]:
        if isinstance(reward, Scorer):
            item = self.items[row["item"]]
            return [float(scored(reward, item, answer.text).correct) for answer in answers]
        try:
            if isinstance(reward, GroupReward):
                values = list(reward.of_group(row, answers, others, progress=progress))
            else:
                values = [reward(row, answer.text) for answer in answers]
        except (DocendoError, OSError, MemoryError):
            raise
        except Exception as error:  # a user's function may crash in any way
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise TaskFailure(f"the reward {name!r} failed on an answer ({reason}); mend it.") from error
        numbers = [
            float(value) if is_number(value) or isinstance(value, bool) else math.nan for value in values
        ]
        if len(numbers) != len(answers) or not all(math.isfinite(value) for value in numbers):
            raise TaskFailure(
                f"the reward {name!r} gave {values!r} for {len(answers)} answers; "
                "it must give a finite number for each."
            )
        return numbers


def check_rewards(rewards: object, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Checks rewards and weights; returns the weight of each reward, 1 where none is given.

    Raises:
        ConfigError: if there is none, or one is malformed.
    """
    if not isinstance(rewards, Mapping) or not rewards:
        raise ConfigError(f"rewards is {rewards!r}"[:200], expected='rewards by name, {"verified": scorer}')
    for name, reward in rewards.items():
        good = isinstance(reward, Scorer | GroupReward) or callable(reward)
        if not isinstance(name, str) or not name or not good or isinstance(reward, type):
            raise ConfigError(
                f"the reward {name!r} is {reward!r}"[:200],
                expected="a scorer, a GroupReward or a function of row and text",
            )
    given = dict(weights or {})
    for name, weight in given.items():
        if name not in rewards or not is_number(weight):
            raise ConfigError(
                f"the weight of reward {name!r} is {weight!r}",
                expected=f"a number for one of {', '.join(rewards)}",
            )
    found = {name: float(given.get(name, 1.0)) for name in rewards}
    if not any(found.values()):
        raise ConfigError("every reward has the weight 0", expected="one that is not 0")
    return found


def identity_of(reward: Reward) -> dict[str, Any]:
    """What a reward is, as JSON values."""
    if isinstance(reward, Scorer):
        return {"scorer": reward.name}
    settings = asdict(reward) if hasattr(reward, "__dataclass_fields__") else {}  # type: ignore[call-overload]
    return {"function": name_of(reward), **settings}


def _require_items(rows: Sequence[Mapping[str, Any]], items: Mapping[str, Item]) -> None:
    for number, row in enumerate(rows):
        item = items.get(row.get("item", ""))
        if item is None:
            raise DataError(
                f"row {number} has the item {row.get('item')!r}, which a scorer needs and does not have",
                expected="items=task.train, with the item of every row",
            )
        if item.public.split != "train":
            raise LeakError(
                f"item {item.id!r} is of the split {item.public.split}",
                expected="training items alone",
                remedy="take the items from task.train",
            )
