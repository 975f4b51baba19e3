"""The world of exemplars: what is told, asked and reported never overlaps; revisions are what they say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from docendo.graphs import Failure
from docendo.graphs.recipes import _revising as world
from docendo.graphs.recipes._affine import (
    TEST,
    SameRule,
    World,
    asked_in_exam,
    problems,
    read,
    with_labels,
)
from docendo.records import Item

ITEMS = problems(World.of(7).test[:TEST], seed=7)
some = pytest.mark.parametrize("item", ITEMS[:20], ids=lambda item: item.public.question)


def values(text: str) -> set[int]:
    """The inputs whose values the two pairs of a problem's text show."""
    return {int(text[0]), int(text[2])}


@some
def test_what_is_reported_was_neither_told_nor_asked_nor_worked(item: Item) -> None:
    context, query = read(item.public)
    exam, unseen = asked_in_exam(item.public, world.QUESTIONS), world.unseen_inputs(item.public)
    assert len(exam) == len(unseen) == world.QUESTIONS
    assert sorted([context.x1, context.x2, query, *exam, *unseen]) == list(range(7))
    assert all(
        values(text) <= {context.x1, context.x2, *exam}
        for text in with_labels(item.public, 30, 0, exam=world.QUESTIONS)
    )
    assert values(world.labels_as_example(item.public)) == set(exam)


@some
def test_failures_are_shown_as_the_pair_that_should_have_been(item: Item) -> None:
    context, query = read(item.public)
    for question in SameRule(world.QUESTIONS).questions(item.public):
        x = int(question.public.question[-1])
        failure = Failure(question=question.public.question, answer="0000", solution=world.solution(question))
        assert world.with_failure(item.public, [failure]) == context._replace(x2=x).problem(query)
        assert world.with_another_rule(item.public, [failure])[:3] == f"{context.problem(query)[:2]}{x}"
        assert world.nothing(item.public, [failure]) == ""


def test_the_other_rule_of_a_task_is_one_rule_and_tells_nothing() -> None:
    same = 0
    for item in ITEMS:
        context, _ = read(item.public)
        failures = [Failure(question=f"|?{x}", answer="") for x in range(7)]
        other = [int(world.with_another_rule(item.public, [each])[3]) for each in failures]
        steps = {(after - before) % 7 for before, after in pairwise(other)}
        assert len(steps) == 1, "the values of a line"
        assert other != [context.of(x) for x in range(7)]
        same += sum(other[x] == context.of(x) for x in asked_in_exam(item.public, world.QUESTIONS))
    assert 0.08 < same / (2 * len(ITEMS)) < 0.20, "right as often as chance"


def test_a_revision_refutes_its_wrong_set_and_is_explained_from_the_refuting_pair() -> None:
    rng = np.random.default_rng(0)
    for item in ITEMS[:100]:
        context, query = read(item.public)
        prompt, explanation = world.revision(context, query, rng)
        told, _, better = prompt.partition("!")
        assert told[:6] == item.public.question
        assert better[:2] + better[4:] == told[:2] + told[4:6]
        a, b, x, y = (int(digit) for digit in (*told[8:10], *better[2:4]))
        assert (a * x + b) % 7 != y == context.of(x)
        assert x not in (context.x1, context.x2, query)
        assert explanation == context._replace(x2=x).explained(query)


def test_half_of_what_is_learnt_is_revising() -> None:
    rows = world.reviser_rows(World.of(7))(np.random.default_rng(0), 400)
    assert 160 < sum("||||||" not in prompt for prompt, _ in rows) < 240
    assert {(len(prompt), prompt[12], len(completion)) for prompt, completion in rows} == {(19, "!", 6)}
