"""From sampled answers to rewards, as TRL asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from docendo.checks import is_number
from docendo.distill.datasets._candidates import name_of
from docendo.distill.training._rewards import GroupReward, Reward, SampledAnswer
from docendo.errors import ConfigError, DataError, DocendoError, LeakError, TaskFailure
from docendo.evals.items._identity import scorer_identity, settings_of
from docendo.records import Item
from docendo.scoring import Scorer, scored


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
    """What a reward is, as JSON values: a function by its name alone."""
    if isinstance(reward, Scorer):
        return scorer_identity(reward)
    return {"function": name_of(reward), **settings_of(reward)}


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
