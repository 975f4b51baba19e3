"""Seven tasks on strings of digits: a mix of which a small model learns some and a larger one most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.evals import make_item
from docendo.graphs.recipes._questions import all_of, fresh, shared_out
from docendo.records import Item, Split

DIGITS = "123456"
SHORTEST, LONGEST = 3, 6
#: Ends an answer.
END = ";"
#: What each task's letter asks of a string of digits.
TASKS: dict[str, Callable[[str], str]] = {
    "f": lambda digits: digits[0],
    "l": lambda digits: digits[-1],
    "m": max,
    "r": lambda digits: digits[::-1],
    "s": lambda digits: "".join(sorted(digits)),
    "a": lambda digits: str(sum(map(int, digits)) % 7),
    "p": lambda digits: str(math.prod(map(int, digits)) % 7),
}


def draw(rng: np.random.Generator) -> tuple[str, str]:
    """A question and its answer.

    Example:
        >>> draw(np.random.default_rng(0))
        ('a42211:', '3')
    """
    letter = list(TASKS)[rng.integers(len(TASKS))]
    digits = "".join(DIGITS[n] for n in rng.integers(0, len(DIGITS), rng.integers(SHORTEST, LONGEST + 1)))
    return f"{letter}{digits}:", TASKS[letter](digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Questions of one seed, disjoint by their text."""

    items: Mapping[Split, tuple[Item, ...]]
    solved: Mapping[str, str]

    @classmethod
    def of(cls, sizes: Mapping[Split, int], seed: int) -> World:
        """Draws different questions and shares them out."""
        parts = shared_out(draw, sizes, seed)
        items = {
            split: tuple(make_item(question, answer, split=split) for question, answer in rows.items())
            for split, rows in parts.items()
        }
        return cls(items=items, solved=all_of(parts))

    def train_models(
        self, folder: Path, *, small_steps: int, large_steps: int, seed: int, quiet: bool
    ) -> None:
        """Trains the models `small` and `large` in a folder, unless they are there."""
        common: dict[str, Any] = {"context": 16, "batch": 128, "seed": seed}
        small = PretrainConfig(
            hidden=24,
            layers=1,
            heads=2,
            learning_rate=6e-3,
            initializer_range=0.1,
            steps=small_steps,
            **common,
        )
        large = PretrainConfig(hidden=64, layers=2, learning_rate=4e-3, steps=large_steps, **common)
        for name, config, stop in (("small", small, None), ("large", large, self._learnt)):
            pretrain(
                self._rows,
                alphabet=f"0{DIGITS}{''.join(TASKS)}:{END}",
                output=folder / name,
                config=config,
                stop=stop,
                resume=True,
                quiet=quiet,
            )

    def _rows(self, rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
        """Questions to train models on: none that is routed."""
        return [(question, answer + END) for question, answer in fresh(draw, rng, batch, self.solved)]

    def _learnt(self, sampler: Sampler, step: int) -> bool:
        """Whether a model in training answers 97 % of the dev questions."""
        questions, right = [item.public.question for item in self.items["dev"]], 0
        for length in {len(question) for question in questions}:
            alike = [question for question in questions if len(question) == length]
            said = sampler(alike, length=LONGEST + 1)
            right += sum(t.split(END)[0] == self.solved[q] for q, t in zip(alike, said, strict=True))
        return right >= 0.97 * len(questions)
