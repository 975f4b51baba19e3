"""A small world for learning by teaching: the hidden affine rule.

A problem shows two worked pairs of y = a x + b modulo 7 and asks for a third. An explanation writes the
differences, the rule (a and b, in one jump: that is where a teacher errs), the product and the answer; a
student who is shown it can use the rule for other questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from docendo.agents import Engine
from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.evals import make_item
from docendo.hashing import derive_seed
from docendo.records import Completion, Item, Message, PublicItem, Request, SamplingParams, Split
from docendo.scoring import Score, Scorer

P = 7
ALPHABET = "0123456?|"
#: Contexts to train on, to stop training by, and to be asked: of 1,764.
TRAIN, DEV, TEST = 1200, 164, 400
#: Characters of an explanation with its answer, and of an exam answer.
LESSON, ANSWER = 6, 4


class Context(NamedTuple):
    """A rule and two inputs.

    Attributes:
        a: Factor, 1 to 6.
        b: Summand.
        x1: First input.
        x2: Second input, another one.
    """

    a: int
    b: int
    x1: int
    x2: int

    def of(self, x: int) -> int:
        """The rule's value."""
        return (self.a * x + self.b) % P

    def problem(self, query: int) -> str:
        """Two pairs and a question."""
        return f"{self.x1}{self.of(self.x1)}{self.x2}{self.of(self.x2)}?{query}"

    def explained(self, query: int) -> str:
        """The right explanation with the answer."""
        dx, dy = (self.x1 - self.x2) % P, (self.of(self.x1) - self.of(self.x2)) % P
        return f"{dx}{dy}{self.applied(query)}"

    def applied(self, query: int) -> str:
        """The rule, the product and the answer: what a student writes in an exam."""
        return f"{self.a}{self.b}{self.a * query % P}{self.of(query)}"

    @property
    def others(self) -> list[int]:
        """Inputs of which nothing is shown."""
        return [x for x in range(P) if x not in (self.x1, self.x2)]


class World(NamedTuple):
    """The contexts of one seed, by text disjoint: a problem shows its context whole.

    Attributes:
        train: To train on.
        dev: To stop training by.
        test: To be asked.
    """

    train: list[Context]
    dev: list[Context]
    test: list[Context]

    @classmethod
    def of(cls, seed: int) -> World:
        """Shares all contexts out at random."""
        contexts = [
            Context(a, b, x1, x2)
            for a in range(1, P)
            for b in range(P)
            for x1 in range(P)
            for x2 in range(P)
            if x1 != x2
        ]
        order = np.random.default_rng(derive_seed("affine", seed)).permutation(len(contexts))
        mixed = [contexts[place] for place in order]
        return cls(mixed[:TRAIN], mixed[TRAIN : TRAIN + DEV], mixed[TRAIN + DEV : TRAIN + DEV + TEST])


def problems(contexts: Sequence[Context], seed: int, split: Split = "test") -> list[Item]:
    """One problem for each context, about an input of which nothing is shown."""
    rng = np.random.default_rng(derive_seed("queries", seed))
    items = []
    for context in contexts:
        query = int(rng.choice(context.others))
        items.append(make_item(context.problem(query), context.of(query), task="affine", split=split))
    return items


def read(problem: PublicItem) -> tuple[Context, int]:
    """The context and the query of a problem, as its text shows them."""
    x1, y1, x2, y2, _, query = (int(c) if c.isdigit() else 0 for c in problem.question)
    a = (y1 - y2) * pow(x1 - x2, -1, P) % P
    return Context(a, (y1 - a * x1) % P, x1, x2), query


class LastDigit(Scorer):
    """An answer is right if its last character is."""

    name = "last digit"

    def score(self, item: Item, text: str) -> Score:
        """Compares the last character with the gold."""
        right = text[-1:] == self.open(item).text
        return Score(correct=right, value=float(right), parsed=text[-1:] or None)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether a text ends in the answer."""
        return text[-1:] == self.open(item).text


class SameRule:
    """The exam: other inputs of the problem's own rule, of which the problem shows nothing.

    Args:
        count: How many; 3 at most.
    """

    def __init__(self, count: int = 3) -> None:
        self.count = count

    def questions(self, problem: PublicItem) -> list[Item]:
        """The questions with their answers."""
        context, query = read(problem)
        free = [x for x in context.others if x != query]
        rng = np.random.default_rng(derive_seed("exam", problem.question))
        return [
            make_item(f"|?{x}", context.of(x), task=problem.question, split="train")
            for x in sorted(int(x) for x in rng.choice(free, 3, replace=False))[: self.count]
        ]

    def describe(self) -> dict[str, Any]:
        """The exam as JSON."""
        return {"exam": "inputs of the same rule", "count": self.count}


def another_rule(problem: PublicItem) -> Context:
    """The problem's inputs with another rule, always the same one."""
    context, _ = read(problem)
    rng = np.random.default_rng(derive_seed("another rule", problem.question))
    rules = [(a, b) for a in range(1, P) for b in range(P) if (a, b) != (context.a, context.b)]
    return Context(*rules[int(rng.integers(len(rules)))], context.x1, context.x2)


def of_another_rule(problem: PublicItem, answers: Sequence[Sequence[str]]) -> float:
    """The share of exam answers that would be right if the exam had been about another rule."""
    other = another_rule(problem)
    asked = asked_in_exam(problem)
    verdicts = [
        text[-1:] == str(other.of(x)) for x, texts in zip(asked, answers, strict=True) for text in texts
    ]
    return sum(verdicts) / len(verdicts)


def with_labels(problem: PublicItem, draws: int, seed: int, *, exam: int = 3) -> list[str]:
    """The problem with two of its labelled pairs, drawn anew each time: its own two and those of its exam.

    A teacher that reads two pairs is told in this way what the exam's answers tell.
    """
    context, query = read(problem)
    known = [context.x1, context.x2, *asked_in_exam(problem, exam)]
    rng = np.random.default_rng(derive_seed("labels", seed, problem.question))
    pairs = (rng.choice(known, 2, replace=False) for _ in range(draws))
    return [Context(context.a, context.b, int(x1), int(x2)).problem(query) for x1, x2 in pairs]


def asked_in_exam(problem: PublicItem, count: int = 3) -> list[int]:
    """The inputs that the problem's exam of so many questions asks about."""
    return [int(question.public.question[-1]) for question in SameRule(count).questions(problem)]


def answers(
    engine: Engine,
    rows: Sequence[Sequence[str]],
    *,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
    adapter: str | None = None,
) -> list[list[Completion]]:
    """One answer to each prompt of each row; equal prompts of a row are samples of one request."""
    pending = []
    for place, row in enumerate(rows):
        asked = {}
        for text, count in Counter(row).items():
            drawn = derive_seed("answers", seed, place, text) % 2**31
            sampling = SamplingParams(n=count, temperature=temperature, max_tokens=length, seed=drawn)
            prompt: tuple[Message, ...] = ({"role": "user", "content": text},)
            asked[text] = engine.submit(Request(prompt=prompt, sampling=sampling, adapter=adapter))
        pending.append(asked)
    found = []
    for row, asked in zip(rows, pending, strict=True):
        given = {text: iter(future.result().completions) for text, future in asked.items()}
        found.append([next(given[text]) for text in row])
    return found


Rows = list[tuple[str, str]]


def teacher_rows(world: World, drill: float) -> Callable[[np.random.Generator, int], Rows]:
    """Problems with their explanations; a share of them drills how a rule, right or not, is applied.

    In a drill the written rule is drawn at random and only product and answer are learnt, so that the
    teacher errs in finding rules and not in applying them.
    """

    def rows(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for place in rng.integers(0, len(world.train), batch):
            context = world.train[place]
            query = int(rng.choice(context.others))
            text = context.explained(query)
            if rng.random() < drill:
                other = Context(int(rng.integers(1, P)), int(rng.integers(0, P)), 0, 1)
                written = f"{text[:2]}{other.a}{other.b}"
                found.append((context.problem(query) + written, other.applied(query)[2:]))
            else:
                found.append((context.problem(query), text))
        return found

    return rows


def student_rows(world: World) -> Callable[[np.random.Generator, int], Rows]:
    """Exam questions, seven of ten behind a right explanation; the others have none."""

    def rows(rng: np.random.Generator, batch: int) -> Rows:
        found = []
        for place in rng.integers(0, len(world.train), batch):
            context = world.train[place]
            query, asked = (int(x) for x in rng.choice(context.others, 2, replace=False))
            lesson = context.explained(query) if rng.random() < 0.7 else ""
            found.append((f"{context.problem(query)}{lesson}|?{asked}", context.applied(asked)))
        return found

    return rows


def has_rule(text: str, problem: PublicItem) -> bool:
    """Whether an explanation writes the right rule."""
    context, _ = read(problem)
    return text[2:4] == f"{context.a}{context.b}"


def errors(texts: Sequence[str], asked: Sequence[PublicItem]) -> tuple[float, float]:
    """Shares of explanations with a wrong rule, and with the right rule but a wrong answer."""
    wrong = slips = 0
    for text, problem in zip(texts, asked, strict=True):
        context, query = read(problem)
        found = has_rule(text, problem)
        wrong, slips = wrong + (not found), slips + (found and text[-1:] != str(context.of(query)))
    return wrong / len(texts), slips / len(texts)


def train_teacher(
    world: World, output: Path, config: PretrainConfig, drill: float, *, least: float = 0.25, quiet: bool
) -> Path:
    """Trains a teacher until it is right often enough and applies written rules without slips.

    The rule was fixed before any result: sampled accuracy of at least `least` and at most 0.02 right rules
    with a wrong answer, on the development contexts. (A wrong rule with the right answer counts as wrong
    here.)
    """
    asked = [item.public for item in problems(world.dev, config.seed)]
    prompts = [item.question for item in asked]

    def stop(sampler: Sampler, step: int) -> bool:
        wrong, slips = errors(sampler(prompts, length=LESSON, temperature=1.0, seed=step), asked)
        return 1 - wrong - slips >= least and slips <= 0.02

    return pretrain(
        teacher_rows(world, drill),
        alphabet=ALPHABET,
        output=output,
        config=config,
        stop=stop,
        resume=True,
        quiet=quiet,
    )


def train_student(world: World, output: Path, config: PretrainConfig, *, quiet: bool) -> Path:
    """Trains a student until it follows right explanations, on the development contexts."""
    asked = [(context, context.others[0], context.others[1]) for context in world.dev]
    prompts = [f"{c.problem(query)}{c.explained(query)}|?{other}" for c, query, other in asked]
    wanted = [c.applied(other) for c, _, other in asked]
    return train_follower(student_rows(world), prompts, wanted, output, config, quiet=quiet)


def train_follower(
    rows: Callable[[np.random.Generator, int], Rows],
    prompts: Sequence[str],
    wanted: Sequence[str],
    output: Path,
    config: PretrainConfig,
    *,
    quiet: bool,
) -> Path:
    """Trains a student until it says what follows from an explanation to 98 % of the prompts."""

    def stop(sampler: Sampler, step: int) -> bool:
        found = sampler(prompts, length=ANSWER)
        return sum(map(str.__eq__, found, wanted)) >= 0.98 * len(wanted)

    return pretrain(
        rows,
        alphabet=ALPHABET,
        output=output,
        config=config,
        stop=stop,
        resume=True,
        quiet=quiet,
    )
