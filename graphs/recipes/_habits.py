"""The affine world with a teacher of two bad habits, one of which easy problems do not show.

An explanation goes from the first pair to the query: it writes the differences of both pairs, the factor, how
far the query is from the first pair, the product and the answer. Writers of the teacher's corpus are one off
in the factor half of the time and, independently, half of the time in the answer. A problem that asks about
its own first pair is answered rightly with any factor, so its answer shows the second habit alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.evals import make_item
from docendo.graphs.recipes._affine import (
    ALPHABET,
    LESSON,
    Context,
    P,
    Rows,
    World,
    read,
    train_follower,
)
from docendo.records import Item, PublicItem


def explained(context: Context, query: int, *, factor: int = 0, result: int = 0) -> str:
    """An explanation whose factor and result are off by so much.

    Example:
        >>> explained(Context(a=2, b=1, x1=1, x2=3), 4), explained(Context(a=2, b=1, x1=1, x2=3), 4, factor=1)
        ('532362', '533325')
    """
    dx, dy = (context.x1 - context.x2) % P, (context.of(context.x1) - context.of(context.x2)) % P
    return f"{dx}{dy}{applied(context, query, (context.a + factor) % P, result)}"


def applied(context: Context, query: int, factor: int, result: int = 0) -> str:
    """How a factor is used, as a student says it: factor, distance to the first pair, product, answer."""
    distance = (query - context.x1) % P
    product = factor * distance % P
    return f"{factor}{distance}{product}{(context.of(context.x1) + product + result) % P}"


def explanations(context: Context, query: int) -> list[str]:
    """All that the corpus says of a problem, each a fourth of the time."""
    return [explained(context, query, factor=factor, result=result) for factor in (0, 1) for result in (0, 1)]


def easy_problems(contexts: Sequence[Context]) -> list[Item]:
    """Training problems: each asks about its own first pair."""
    return [
        make_item(each.problem(each.x1), each.of(each.x1), task="affine", split="train") for each in contexts
    ]


def has_factor(text: str, problem: PublicItem) -> bool:
    """Whether an explanation writes the right factor."""
    return text[2:3] == str(read(problem)[0].a)


def teacher_rows(world: World) -> Callable[[np.random.Generator, int], Rows]:
    """Problems, easy and others, with explanations of the corpus."""

    def rows(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for place in rng.integers(0, len(world.train), batch):
            context = world.train[place]
            query = int(rng.choice([context.x1, *context.others]))
            found.append((context.problem(query), explanations(context, query)[rng.integers(4)]))
        return found

    return rows


def student_rows(world: World) -> Callable[[np.random.Generator, int], Rows]:
    """Exam questions behind a right explanation."""

    def rows(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for place in rng.integers(0, len(world.train), batch):
            context = world.train[place]
            query, asked = (int(x) for x in rng.choice([context.x1, *context.others], 2, replace=False))
            lesson = context.problem(query) + explained(context, query)
            found.append((f"{lesson}|?{asked}", applied(context, asked, context.a)))
        return found

    return rows


def train_teacher(world: World, output: Path, config: PretrainConfig, until: float, *, quiet: bool) -> Path:
    """Trains a teacher until a share of what it says of development contexts is as in the corpus."""
    asked = [(context, query) for context in world.dev for query in (context.x1, context.others[0])]
    prompts = [context.problem(query) for context, query in asked]
    known = [explanations(context, query) for context, query in asked]

    def stop(sampler: Sampler, step: int) -> bool:
        said = sampler(prompts, length=LESSON, temperature=1.0, seed=step)
        return sum(text in texts for text, texts in zip(said, known, strict=True)) >= until * len(said)

    return pretrain(
        teacher_rows(world),
        alphabet=ALPHABET,
        output=output,
        config=config,
        stop=stop,
        ends=True,
        resume=True,
        quiet=quiet,
    )


def train_student(world: World, output: Path, config: PretrainConfig, *, quiet: bool) -> Path:
    """Trains a student until it follows right explanations, on the development contexts."""
    asked = [(context, context.x1, context.others[0]) for context in world.dev]
    prompts = [f"{c.problem(query)}{explained(c, query)}|?{other}" for c, query, other in asked]
    wanted = [applied(c, other, c.a) for c, _, other in asked]
    return train_follower(student_rows(world), prompts, wanted, output, config, quiet=quiet)
