"""A world in which skills build on one another: a small model works them out of its own notes.

A skill is a row of seven digits. A basic one is told; any other is the sum of two others, digit by digit,
modulo 7, and its lesson names these two and no digit. The learner, a model trained from nothing, works the
new row out of the rows in its notebook and writes it down. Where it lacks one of the two it can only guess,
and what it got wrong is wrong in all that it builds on it. So a lesson needs its prerequisites because the
arithmetic does, slips and guesses are the model's own, and what a learner has truly mastered can be read in
its notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from docendo.agents import Agent, RunContext
from docendo.distill import PretrainConfig, pretrain
from docendo.distill.training._pretrain import Sampler
from docendo.evals import make_item
from docendo.graphs.teaching._course import Course
from docendo.graphs.teaching._learners import Lesson, Said
from docendo.hashing import derive_seed
from docendo.records import Author, Gold, Item, Message, PublicItem, Record

#: Digits of a row, and what they are counted in.
SIZE = P = 7
BLANK, ZEROS = "-" * SIZE, "0" * SIZE
ALPHABET = "0123456-+=?"
#: A skill is mastered if at most one digit of its row is wrong.
MASTERED = (SIZE - 1) / SIZE
#: Digits that are asked for while a learner is taught; the others are held out for the exam.
ASKED = 4
_BASIC, _GOALS = 5, 3
#: Chances that a learner comes with a basic skill, or with another one, and that its row is wrong otherwise.
_KNOWN, _BUILT, _WRONG = 0.5, 0.3, 0.2
_DEV = 192

Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skills(Record):
    """Skills that build on one another.

    Attributes:
        name: Of the course.
        needs: For each skill the two that it is the sum of; none of a basic one.
        rows: For each skill its row.
        goals: Skills that are to be reached.
    """

    name: str
    needs: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, str]
    goals: tuple[str, ...]

    @classmethod
    def drawn(cls, name: str, rng: np.random.Generator, size: int) -> Skills:
        """Draws a course: each skill that is not basic builds on two before it, each goal on such a one."""
        names = [chr(ord("A") + number) for number in range(size)]
        needs: dict[str, tuple[str, ...]] = dict.fromkeys(names[:_BASIC], ())
        rows = {skill: _written(rng.integers(0, P, SIZE)) for skill in names[:_BASIC]}
        for place, skill in enumerate(names[_BASIC:], start=_BASIC):
            # One of the two is not basic where there is such a one, so that paths are long.
            late = int(rng.integers(min(_BASIC, place - 1), place))
            early = int(rng.choice([other for other in range(place) if other != late]))
            first, second = sorted((names[late], names[early]))
            needs[skill], rows[skill] = (first, second), added(rows[first], rows[second])
        deep = [skill for skill in names if any(needs[need] for need in needs[skill])]
        goals = sorted(map(str, rng.choice(deep, min(_GOALS, len(deep)), replace=False)))
        return cls(name=name, needs=needs, rows=rows, goals=tuple(goals))

    def lessons(self) -> dict[str, str]:
        """What the tutor says of each skill."""
        return {skill: "+".join(needs) if needs else self.rows[skill] for skill, needs in self.needs.items()}

    def course(self, needs: Mapping[str, Sequence[str]] | None = None) -> Course:
        """The course, with the prerequisites that a planner is to believe in."""
        return Course(
            skills=needs or self.needs,
            goals=self.goals,
            questions={skill: self._questions(skill, range(ASKED)) for skill in self.needs},
            exam=[item for goal in self.goals for item in self._questions(goal, range(ASKED, SIZE))],
        )

    def _questions(self, skill: str, places: range) -> list[Item]:
        return [make_item(f"{skill}?{place}", self.rows[skill][place], task=self.name) for place in places]

    def shuffled(self, rng: np.random.Generator) -> dict[str, tuple[str, ...]]:
        """Prerequisites of the same shape among skills that changed places: they say nothing any more."""
        names = list(self.needs)
        moved = dict(zip(names, map(str, rng.permutation(names)), strict=True))
        found = {moved[skill]: tuple(moved[need] for need in needs) for skill, needs in self.needs.items()}
        return {skill: found[skill] for skill in names}

    def learners(self, rng: np.random.Generator, count: int) -> list[Item]:
        """Learners with what they have in their notebooks before the first lesson; no goal is right there."""
        found = []
        for number in range(count):
            notes = {}
            for skill, needs in self.needs.items():
                known, wrong = rng.random(2)
                if skill not in self.goals and known < (_BUILT if needs else _KNOWN):
                    notes[skill] = self.rows[skill]
                elif wrong < _WRONG:
                    notes[skill] = _written(rng.integers(0, P, SIZE))
            public = PublicItem(
                id=f"{self.name}, learner {number}",
                question=f"I want to learn {', '.join(self.goals)}.",
                metadata={"notes": notes},
            )
            found.append(Item(public=public, gold=Gold(None)))
        return found

    def mastered(self, notes: Mapping[str, str]) -> dict[str, float]:
        """What a notebook is worth: for each skill the share of right digits."""
        return {
            skill: sum(map(str.__eq__, notes.get(skill, BLANK), row)) / SIZE
            for skill, row in self.rows.items()
        }


def added(first: str, second: str) -> str:
    """The sum of two rows.

    Example:
        >>> added("0123456", "1111111")
        '1234560'
    """
    return _written((int(a) + int(b)) % P for a, b in zip(first, second, strict=True))


def _written(digits: Any) -> str:
    return "".join(str(digit) for digit in digits)


class Notebook:
    """A learner that knows what is in its notebook, and works new rows out of it with a model.

    Args:
        agent: The model.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    @property
    def author(self) -> Author:
        """The model."""
        return self.agent.author

    async def study(
        self, lesson: Lesson, lessons: Sequence[Lesson], context: RunContext, *, item: PublicItem, step: int
    ) -> Said:
        """Works the row of the lesson's skill out of two rows that are told, or in the notebook."""
        notes, told = noted(lessons, item), lesson.text.split("+")
        first, second = (notes.get(name, BLANK) for name in told) if len(told) == 2 else (*told, ZEROS)
        return await self._say(f"{first}+{second}=", SIZE, context, item=item, node="study", step=step)

    async def answer(
        self,
        question: PublicItem,
        lessons: Sequence[Lesson],
        context: RunContext,
        *,
        item: PublicItem,
        node: str,
        step: int,
    ) -> Said:
        """Looks a digit up; where the notebook has no row it guesses."""
        skill, place = question.question.split("?")
        row = noted(lessons, item).get(skill, BLANK)
        return await self._say(f"{row}?{place}", 1, context, item=item, node=node, step=step)

    async def _say(
        self, text: str, length: int, context: RunContext, *, item: PublicItem, node: str, step: int
    ) -> Said:
        prompt: tuple[Message, ...] = ({"role": "user", "content": text},)
        sampling = self.agent.sampling.replace(max_tokens=length)
        turn = await context.ask(self.agent, item.id, prompt, node=node, step=step, sampling=sampling)
        return Said(turn.text, turn.trace)

    def describe(self) -> dict[str, Any]:
        """The learner as JSON."""
        return {**self.agent.describe(), "class": type(self).__name__}


def noted(lessons: Sequence[Lesson], item: PublicItem) -> dict[str, str]:
    """A notebook: what the learner came with, and what it wrote since, the newest row of each skill."""
    return {**item.metadata["notes"], **{lesson.skill: lesson.note for lesson in lessons}}


def train_learner(courses: Sequence[Skills], output: Path, config: PretrainConfig, *, quiet: bool) -> Path:
    """Trains the model on rows that are in no course, until it works and looks up well but not without slips.

    It is stopped when of its sampled answers to development prompts 95 % of the digits of sums and of those
    looked up are right; so about one lesson in three has a slip in it.
    """
    known = {row for skills in courses for row in skills.rows.values()}
    dev = rows_of(np.random.default_rng(derive_seed("dev", config.seed)), _DEV, known, blank=0.0)
    parts = [[row for row in dev if row[0].endswith("=") is sums] for sums in (True, False)]

    def stop(sampler: Sampler, step: int) -> bool:
        return all(_right(sampler, rows, step) >= 0.95 for rows in parts)

    return pretrain(
        training_rows(known | {row for prompt, _ in dev for row in _rows_in(prompt)}),
        alphabet=ALPHABET,
        output=output,
        config=config,
        stop=stop,
        resume=True,
        quiet=quiet,
    )


def _right(sampler: Sampler, rows: Rows, seed: int) -> float:
    """The share of right digits among those that are sampled for these prompts."""
    prompts, wanted = zip(*rows, strict=True)
    said = sampler(prompts, length=len(wanted[0]), temperature=1.0, seed=seed)
    right = [a == b for texts in zip(said, wanted, strict=True) for a, b in zip(*texts, strict=True)]
    return sum(right) / len(right)


def training_rows(held_out: set[str]) -> Callable[[np.random.Generator, int], Rows]:
    """Fresh prompts none of whose rows is held out."""
    return lambda rng, batch: rows_of(rng, batch, held_out)


def rows_of(rng: np.random.Generator, count: int, held_out: set[str], *, blank: float = 0.15) -> Rows:
    """Sums and look-ups, some of them with blanks, where any digit is as likely as another."""

    def row() -> str:
        while (text := _written(rng.integers(0, P, SIZE))) in held_out:
            pass
        return text

    found: Rows = []
    for kind, first_blank, second_blank, zeros in rng.random((count, 4)):
        first = BLANK if first_blank < blank else row()
        if kind < 0.5:
            place = int(rng.integers(SIZE))
            digit = _guess(rng) if first == BLANK else first[place]
            found.append((f"{first}?{place}", digit))
            continue
        # A basic skill is told: its row and zeros.
        second = ZEROS if zeros < 0.2 else BLANK if second_blank < blank else row()
        unknown = BLANK in (first, second)
        sum_ = "".join(_guess(rng) for _ in range(SIZE)) if unknown else added(first, second)
        found.append((f"{first}+{second}=", sum_))
    return found


def _guess(rng: np.random.Generator) -> str:
    return str(int(rng.integers(P)))


def _rows_in(prompt: str) -> list[str]:
    return [
        part
        for part in prompt.rstrip("=").replace("?", "+").split("+")
        if len(part) == SIZE and part != ZEROS
    ]
