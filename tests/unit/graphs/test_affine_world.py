"""The world of hidden affine rules: what it tells, what it keeps apart."""

from __future__ import annotations

import numpy as np
import pytest

from docendo.graphs.recipes._affine import (
    ALPHABET,
    DEV,
    TEST,
    TRAIN,
    Context,
    LastDigit,
    SameRule,
    World,
    asked_in_exam,
    errors,
    has_rule,
    of_another_rule,
    problems,
    read,
    student_rows,
    teacher_rows,
    with_labels,
)

WORLD = World.of(3)
RNG = np.random.default_rng(0)


def test_a_rule_by_hand() -> None:
    context = Context(a=3, b=2, x1=1, x2=4)
    assert context.problem(5) == "1540?5"
    assert context.explained(5) == "45" + "32" + "1" + "3"
    assert context.applied(0) == "3202"


def test_the_parts_have_no_text_in_common_and_others_with_another_seed() -> None:
    parts = [{context.problem(0)[:4] for context in part} for part in (WORLD.train, WORLD.dev, WORLD.test)]
    assert [len(part) for part in parts] == [TRAIN, DEV, TEST]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert World.of(4).test != WORLD.test
    assert World.of(3) == WORLD


def test_a_problem_is_read_as_it_was_made() -> None:
    for context, item in zip(WORLD.test, problems(WORLD.test, 0), strict=True):
        found, query = read(item.public)
        assert found == context
        assert query in context.others
        assert LastDigit().score(item, context.explained(query)).correct
        assert has_rule(context.explained(query), item.public)


def test_an_exam_asks_what_the_problem_does_not_show() -> None:
    for item in problems(WORLD.test[:50], 0):
        context, query = read(item.public)
        asked = asked_in_exam(item.public)
        assert len(set(asked)) == 3
        assert not set(asked) & {context.x1, context.x2, query}
        for question in SameRule().questions(item.public):
            x = int(question.public.question[-1])
            assert LastDigit().score(question, context.applied(x)).correct


def test_an_exam_of_another_rule_says_nothing() -> None:
    items = problems(WORLD.test, 0)
    right = [
        of_another_rule(
            item.public, [[read(item.public)[0].applied(x)] * 2 for x in asked_in_exam(item.public)]
        )
        for item in items
    ]
    assert np.mean(right) == pytest.approx(1 / 7, abs=0.05)


def test_labels_are_of_the_same_rule_and_never_the_asked_one() -> None:
    for item in problems(WORLD.test[:50], 0):
        context, query = read(item.public)
        for text in with_labels(item.public, 8, 0):
            shown, asked = int(text[0]), int(text[-1])
            assert asked == query
            assert query not in (shown, int(text[2]))
            assert (context.of(shown), context.of(int(text[2]))) == (int(text[1]), int(text[3]))


def test_training_rows_are_of_training_contexts_alone() -> None:
    known = {context.problem(0)[:4] for context in WORLD.train}
    for rows in (teacher_rows(WORLD, 0.5), student_rows(WORLD)):
        for prompt, completion in rows(RNG, 300):
            assert prompt[:4] in known
            assert set(prompt + completion) <= set(ALPHABET)
    for prompt, completion in teacher_rows(WORLD, 1.0)(RNG, 50):  # drills: any rule, rightly applied
        a, b, query = int(prompt[-2]), int(prompt[-1]), int(prompt[5])
        assert completion == f"{a * query % 7}{(a * query + b) % 7}"


def test_errors_are_told_apart() -> None:
    context = Context(a=3, b=2, x1=1, x2=4)
    item = problems([context], 0)[0].public
    query = read(item)[1]
    good = context.explained(query)
    slip = good[:-1] + str((int(good[-1]) + 1) % 7)
    wrong = good[:2] + "11" + good[4:]
    assert errors([good, slip, wrong, wrong], [item] * 4) == (0.5, 0.25)
