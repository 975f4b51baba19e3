"""Arithmetic modulo 7 in six written steps: each step can be checked, and a small model errs in some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.evals import make_item
from docendo.graphs.recipes._questions import all_of, fresh, shared_out
from docendo.records import Item, Split

MODULUS, STEPS = 7, 6
DIGITS, SIGNS, RIGHT, WRONG = "0123456", "+-*", "y", "n"
#: Tokens of a step: a digit and the sign behind it.
STEP = 2


def draw(rng: np.random.Generator) -> tuple[str, str]:
    """A question and its steps.

    Example:
        >>> draw(np.random.default_rng(0))
        ('5+4+3*1-2*0-0=', '2;5;5;3;0;0;')
    """
    values, signs = rng.integers(0, MODULUS, STEPS + 1), rng.integers(0, len(SIGNS), STEPS)
    question, value, steps = DIGITS[values[0]], int(values[0]), ""
    for number, sign in zip(values[1:], signs, strict=True):
        question += SIGNS[sign] + DIGITS[number]
        value = apply(SIGNS[sign], value, int(number))
        steps += f"{value};"
    return f"{question}=", steps


def apply(sign: str, value: int, number: int) -> int:
    """One operation."""
    return {"+": value + number, "-": value - number, "*": value * number}[sign] % MODULUS


def right_step(item: Item, written: str, step: str) -> bool:
    """The rule of the examination: whether a step follows from the one before it."""
    question, done = item.public.question, len(written) // 2
    before = written[-2] if written else question[0]
    if before not in DIGITS:  # nothing follows from what is no number
        return False
    return step == f"{apply(question[2 * done + 1], int(before), int(question[2 * done + 2]))};"


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
            split: tuple(make_item(question, steps[-STEP], split=split) for question, steps in rows.items())
            for split, rows in parts.items()
        }
        return cls(items=items, solved=all_of(parts))

    def train_models(
        self,
        folder: Path,
        *,
        small_accuracy: float,
        small_steps: int,
        large_steps: int,
        seed: int,
        quiet: bool,
    ) -> None:
        """Trains the models `small` and `large` in a folder, unless they are there.

        The small one could learn it all, so its training ends when it answers a share of the dev questions.
        """
        common: dict[str, Any] = {"context": 32, "batch": 128, "seed": seed}
        small = PretrainConfig(
            hidden=24,
            layers=1,
            heads=2,
            learning_rate=6e-3,
            initializer_range=0.1,
            every=10,
            steps=small_steps,
            **common,
        )
        large = PretrainConfig(hidden=64, layers=2, learning_rate=4e-3, steps=large_steps, **common)
        for name, config, share in (("small", small, small_accuracy), ("large", large, 0.995)):
            pretrain(
                self._rows,
                alphabet=f"{DIGITS}{SIGNS}=;{RIGHT}{WRONG}",
                output=folder / name,
                config=config,
                stop=partial(self._solved, share=share),
                resume=True,
                quiet=quiet,
            )

    def _rows(self, rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
        """Questions to train models on: none that is asked later."""
        return fresh(draw, rng, batch, self.solved)

    def _solved(self, sampler: Sampler, step: int, *, share: float) -> bool:
        """Whether a model in training answers this share of the dev questions."""
        questions = [item.public.question for item in self.items["dev"]]
        said = sampler(questions, length=STEP * STEPS)
        right = sum(t[-STEP] == self.solved[q][-STEP] for q, t in zip(questions, said, strict=True))
        return right >= share * len(questions)
