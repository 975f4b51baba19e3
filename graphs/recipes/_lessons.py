"""What the recipes of learning by teaching do alike with explanations: exams, votes, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from docendo.agents import Engine
from docendo.graphs import choose, teaching_score
from docendo.graphs.recipes._affine import ANSWER, LastDigit, SameRule, answers
from docendo.graphs.teaching._choosing import By
from docendo.records import Completion, Item


class Examined(NamedTuple):
    """By problem and lesson its teaching score, and the tokens of its exam."""

    scores: list[list[float]]
    tokens: list[list[int]]


def examined(
    student: Engine, items: Sequence[Item], lessons: Sequence[Sequence[str]], *, repeats: int, seed: int
) -> Examined:
    """Sits the exam of each problem with each of its lessons.

    Args:
        student: Who sits it.
        items: The problems.
        lessons: Explanations of each.
        repeats: Answers to each question.
        seed: Seed of the answers.
    """
    exams = [SameRule().questions(item.public) for item in items]
    rows = [
        [f"{item.public.question}{lesson}{question.public.question}"] * repeats
        for item, row, exam in zip(items, lessons, exams, strict=True)
        for lesson in row
        for question in exam
    ]
    said = iter(answers(student, rows, length=ANSWER, temperature=0.7, seed=seed))
    found = Examined([], [])
    for row, exam in zip(lessons, exams, strict=True):
        sittings = [[next(said) for _ in exam] for _ in row]
        found.scores.append(
            [
                teaching_score(
                    right(question, one.text)
                    for question, given in zip(exam, sitting, strict=True)
                    for one in given
                )
                for sitting in sittings
            ]
        )
        found.tokens.append([tokens(sitting) for sitting in sittings])
    return found


def vote(
    rows: Sequence[Sequence[str]], scores: Sequence[Sequence[float]] | None = None, *, by: By = "sum"
) -> list[str]:
    """The chosen text of each row: by scores, or by the majority if there are none."""
    if scores is None:
        return [row[choose([answer(text) for text in row], by="count")] for row in rows]
    return [
        row[choose([answer(text) for text in row], given, by=by)]
        for row, given in zip(rows, scores, strict=True)
    ]


def tokens(rows: Sequence[Sequence[Completion]]) -> int:
    """Tokens as they were generated: an answer may end early."""
    return sum(len(one.token_ids) for row in rows for one in row)


def texts(rows: Sequence[Sequence[Completion]]) -> list[list[str]]:
    """What was said."""
    return [[completion.text for completion in row] for row in rows]


def answer(text: str) -> str | None:
    """The answer that an explanation ends with."""
    return text[-1:] or None


def right(item: Item, text: str) -> bool:
    """Whether a text ends with the right answer."""
    return LastDigit().score(item, text).correct
