"""The world in which an answer does not tell whether its explanation is right."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from docendo.evals import make_item
from docendo.graphs.recipes._affine import Context, LastDigit, SameRule, World, asked_in_exam, problems, read
from docendo.graphs.recipes._habits import (
    applied,
    easy_problems,
    explained,
    explanations,
    has_factor,
    student_rows,
    teacher_rows,
)

WORLD = World.of(0)
SCORER = LastDigit()


@pytest.mark.parametrize("place", range(0, 164, 20))
def test_only_easy_problems_hide_a_wrong_factor(place: int) -> None:
    context = WORLD.dev[place]
    easy = easy_problems([context])[0]
    right, late, wrong, both = explanations(context, context.x1)
    assert [SCORER.score(easy, text).correct for text in (right, late, wrong, both)] == [
        True,
        False,
        True,
        False,
    ]
    assert [has_factor(text, easy.public) for text in (right, late, wrong, both)] == [
        True,
        True,
        False,
        False,
    ]
    other = problems([context], seed=1)[0]
    query = read(other.public)[1]
    assert query != context.x1
    assert SCORER.score(other, explained(context, query)).correct
    assert not SCORER.score(other, explained(context, query, factor=1)).correct


@pytest.mark.parametrize("place", range(0, 164, 20))
def test_the_exam_tells_the_factors_apart(place: int) -> None:
    context = WORLD.dev[place]
    easy = easy_problems([context])[0].public
    for question, asked in zip(SameRule().questions(easy), asked_in_exam(easy), strict=True):
        assert SCORER.score(question, applied(context, asked, context.a)).correct
        assert not SCORER.score(question, applied(context, asked, (context.a + 1) % 7)).correct


def test_the_corpus_has_each_habit_half_of_the_time() -> None:
    rows = teacher_rows(WORLD)(np.random.default_rng(0), 4000)
    kinds = Counter()
    for prompt, said in rows:
        context, query = read(make_item(prompt, 0).public)
        assert said in explanations(context, query)
        kinds[explanations(context, query).index(said)] += 1
    assert all(abs(count / len(rows) - 0.25) < 0.03 for count in kinds.values())
    assert len(kinds) == 4


def test_models_learn_from_training_contexts_alone() -> None:
    hidden = {context.problem(0)[:4] for context in (*WORLD.dev, *WORLD.test)}
    rng = np.random.default_rng(0)
    for rows in (teacher_rows(WORLD)(rng, 500), student_rows(WORLD)(rng, 500)):
        assert not any(prompt[:4] in hidden for prompt, _ in rows)


def test_a_student_learns_right_answers_behind_right_explanations() -> None:
    for prompt, said in student_rows(WORLD)(np.random.default_rng(0), 100):
        context, query = read(make_item(prompt[:6], 0).public)
        assert prompt[6:12] == explained(context, query)
        asked = int(prompt[-1])
        assert asked != query
        assert said == applied(context, asked, context.a)
        assert said[-1] == str(context.of(asked))


def test_an_explanation_by_hand() -> None:
    assert explained(Context(a=2, b=1, x1=1, x2=3), 4) == "532362"
