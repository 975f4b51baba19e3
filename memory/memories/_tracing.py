"""Bayesian knowledge tracing: how likely a learner has mastered a skill, given right and wrong answers.

Corbett and Anderson (1995), "Knowledge tracing: modeling the acquisition of procedural knowledge". A skill is
known or not; a known one is answered wrongly with the probability `slip`, an unknown one rightly with
`guess`, and each answer is an opportunity to learn it (`learn`). Nothing is forgotten.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from docendo.errors import ConfigError, DataError
from docendo.records import Record

# With slip or guess above one half a right answer would speak against mastery, so they are not fitted there.
_GRID = {
    "prior": (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98),
    "learn": (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4),
    "slip": (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4),
    "guess": (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing(Record):
    """The four parameters of a skill.

    Attributes:
        prior: Probability that the skill is known before the first answer, P(L0).
        learn: Probability of learning it at each opportunity, P(T).
        slip: Probability of a wrong answer although it is known, P(S).
        guess: Probability of a right answer although it is not known, P(G).

    Example:
        >>> skill = Tracing(prior=0.5, learn=0.1, slip=0.1, guess=0.2)
        >>> mastery = skill.update(skill.prior, True)
        >>> round(mastery, 4), round(skill.predict(mastery), 4)
        (0.8364, 0.7855)
    """

    prior: float = 0.3
    learn: float = 0.1
    slip: float = 0.1
    guess: float = 0.2

    def __post_init__(self) -> None:
        """Checks that these are probabilities, and that a right answer speaks for mastery."""
        for name in ("prior", "learn", "slip", "guess"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value!r}", expected="a probability, between 0 and 1")
        if self.slip + self.guess >= 1:
            raise ConfigError(
                f"slip + guess is {self.slip + self.guess:g}",
                expected="less than 1",
                remedy="lower one of them: a right answer must speak for mastery",
            )

    def predict(self, mastery: float) -> float:
        """Probability that the next answer is right."""
        return mastery * (1 - self.slip) + (1 - mastery) * self.guess

    def posterior(self, mastery: float, right: bool) -> float:
        """Mastery given an answer, before anything is learnt from it."""
        known = mastery * ((1 - self.slip) if right else self.slip)
        unknown = (1 - mastery) * (self.guess if right else (1 - self.guess))
        # Both are 0 only where the parameters rule the answer out; then it says nothing.
        return known / (known + unknown) if known + unknown > 0 else mastery

    def update(self, mastery: float, right: bool) -> float:
        """Mastery after an answer and the opportunity to learn that came with it."""
        seen = self.posterior(mastery, right)
        return seen + (1 - seen) * self.learn

    def trace(self, answers: Iterable[bool]) -> list[float]:
        """Mastery before the first answer and after each."""
        course = [self.prior]
        for right in answers:
            course.append(self.update(course[-1], right))
        return course

    @classmethod
    def fit(cls, sequences: Iterable[Sequence[bool]]) -> Self:
        """The likeliest parameters on a fixed grid, for one skill and many learners.

        A grid has no local optima, and its bounds keep slip and guess below one half.

        Args:
            sequences: For each learner the answers in order. Fit on other learners than those to be judged.

        Raises:
            DataError: if there is no answer at all.

        Example:
            >>> Tracing.fit([[False, False, True, True, True, True]] * 20)
            Tracing(prior=0.02, learn=0.4, slip=0.01, guess=0.01)
        """
        import numpy as np

        rows = [list(map(bool, row)) for row in sequences if len(row)]
        if not rows:
            raise DataError("there are no answers to fit", expected="at least one learner with an answer")
        grid = np.array(list(itertools.product(*_GRID.values())))
        prior, learn, slip, guess = grid.T
        total = np.zeros(len(grid))
        for answers, count in _counted(rows):
            mastery = prior.copy()
            for right in answers:
                known = mastery * ((1 - slip) if right else slip)
                chance = known + (1 - mastery) * (guess if right else (1 - guess))
                total += count * np.log(chance)
                seen = known / chance
                mastery = seen + (1 - seen) * learn
        best = grid[int(np.argmax(total))]
        return cls(**dict(zip(_GRID, map(float, best), strict=True)))


def _counted(rows: Sequence[Sequence[bool]]) -> list[tuple[tuple[bool, ...], int]]:
    """Equal courses of answers are computed once."""
    counts: dict[tuple[bool, ...], int] = {}
    for row in rows:
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    return list(counts.items())
