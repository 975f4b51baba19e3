"""What answers are worth in `train_grpo`: scorers, functions, and rewards that look at a whole group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from docendo.checks import is_number
from docendo.errors import ConfigError, DataError
from docendo.scoring import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledAnswer:
    """One answer of a group.

    Attributes:
        text: Its text, as the engine would give it.
        tokens: How many tokens it took, with the one that ends it.
        finished: Whether it ended by itself, and was not cut off.

    Example:
        >>> from docendo.distill import SampledAnswer
        >>> SampledAnswer(text="Answer: 5", tokens=6, finished=True).finished
        True
    """

    text: str
    tokens: int
    finished: bool


class GroupReward(ABC):
    """A reward that depends on the other answers to the same prompt. Subclass it as a frozen dataclass.

    Example:
        >>> from docendo.distill import GroupReward, SampledAnswer
        >>> class Finished(GroupReward):
        ...     def of_group(self, row, answers, others, *, progress):
        ...         return [float(answer.finished) for answer in answers]
        >>> group = [SampledAnswer(text="", tokens=9, finished=end) for end in (True, False)]
        >>> Finished().of_group({}, group, {}, progress=0.0)
        [1.0, 0.0]
    """

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
        >>> from docendo.distill import LengthReward, SampledAnswer
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
        >>> from docendo.distill import ExactLabel
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
