"""The hidden affine rule as a world of exemplars: what a teacher writes, revises and is shown, and the exam.

A set of exemplars is one worked example: the problem's two pairs and query, and the explanation with the rule
written out. A teacher that revises is shown its set and the problem once more, with a pair that the set's
rule gets wrong in place of the second one; one that proposes is shown no set, and the problem as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.graphs import Failure
from docendo.graphs.recipes._affine import (
    ALPHABET,
    LESSON,
    Context,
    P,
    Rows,
    World,
    another_rule,
    asked_in_exam,
    has_rule,
    problems,
    read,
)
from docendo.hashing import derive_seed
from docendo.records import Item, PublicItem

#: How a teacher is asked to propose and to revise: the problem, its set or none, the problem to be explained.
#: Both have one layout, so that what a small model learns of one it knows of the other.
PROPOSING = "{question}||||||!{question}"
REVISING = "{question}{exemplars}!{failures}"
#: Questions of an exam.
QUESTIONS = 2


def unseen_inputs(problem: PublicItem) -> list[int]:
    """The two inputs of which nothing is told, worked or asked in the exam."""
    context, query = read(problem)
    known = {query, *asked_in_exam(problem, QUESTIONS)}
    return [x for x in context.others if x not in known]


def solution(question: Item) -> str:
    """The right answer of an exam question, whose task is the problem that it belongs to."""
    context, _ = read(question.public.replace(question=question.public.task))
    return str(context.of(int(question.public.question[-1])))


def with_failure(problem: PublicItem, failures: Sequence[Failure]) -> str:
    """The problem with the first failure, as it should have been, in place of its second pair."""
    return _with_pair(problem, f"{failures[0].question[-1]}{failures[0].solution}")


def with_another_rule(problem: PublicItem, failures: Sequence[Failure]) -> str:
    """The same with the value of another rule, always the same one for a task: a control."""
    x = int(failures[0].question[-1])
    return _with_pair(problem, f"{x}{another_rule(problem).of(x)}")


def _with_pair(problem: PublicItem, pair: str) -> str:
    return problem.question[:2] + pair + problem.question[4:]


def nothing(problem: PublicItem, failures: Sequence[Failure]) -> str:
    """No failure is shown, so the teacher proposes anew."""
    return ""


def labels_as_example(problem: PublicItem) -> str:
    """The exam's labelled pairs in place of the problem's, without an explanation."""
    context, query = read(problem)
    x1, x2 = asked_in_exam(problem, QUESTIONS)
    return context._replace(x1=x1, x2=x2).problem(query)


def revision(context: Context, query: int, rng: np.random.Generator) -> tuple[str, str]:
    """A prompt with a wrong set and a pair that refutes it, and the right explanation from that pair."""
    while True:
        wrong = Context(int(rng.integers(1, P)), int(rng.integers(P)), context.x1, context.x2)
        refuting = [x for x in context.others if x != query and wrong.of(x) != context.of(x)]
        if refuting:
            break
    x = int(rng.choice(refuting))
    told = context.explained(query)[:2] + wrong.applied(query)
    better = context._replace(x2=x)
    prompt = REVISING.format(question=context.problem(query), exemplars=told, failures=better.problem(query))
    return prompt, better.explained(query)


def reviser_rows(world: World) -> Callable[[np.random.Generator, int], Rows]:
    """Problems with their explanations, and as many revisions of wrong ones."""

    def rows(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for place in rng.integers(0, len(world.train), batch):
            context = world.train[place]
            query = int(rng.choice(context.others))
            if rng.random() < 0.5:
                found.append(revision(context, query, rng))
            else:
                found.append((PROPOSING.format(question=context.problem(query)), context.explained(query)))
        return found

    return rows


def train_reviser(world: World, output: Path, config: PretrainConfig, *, quiet: bool) -> Path:
    """Trains a teacher until it finds a quarter of the rules, whether it proposes or revises.

    Both are looked at on the development contexts: sampled rules, of revisions those of random wrong sets.
    """
    items = [item.public for item in problems(world.dev, config.seed)]
    rng = np.random.default_rng(derive_seed("revisions", config.seed))
    kinds = (
        [PROPOSING.format(question=item.question) for item in items],
        [revision(*read(item), rng)[0] for item in items],
    )

    def stop(sampler: Sampler, step: int) -> bool:
        return all(
            fmean(
                has_rule(text, item)
                for text, item in zip(
                    sampler(prompts, length=LESSON, temperature=1.0, seed=step), items, strict=True
                )
            )
            >= 0.25
            for prompts in kinds
        )

    return pretrain(
        reviser_rows(world),
        alphabet=ALPHABET + "!",
        output=output,
        config=config,
        stop=stop,
        resume=True,
        quiet=quiet,
    )
