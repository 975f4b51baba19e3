"""Doses: pools have the errors that they say and the same share of right answers, and slopes are slopes."""

from __future__ import annotations

import numpy as np
import pytest

from docendo.graphs.recipes import teaching_dose as dose
from docendo.graphs.recipes._affine import ANSWER, LESSON, Context, problems
from docendo.graphs.recipes._lessons import right

CONTEXT = Context(a=2, b=3, x1=0, x2=1)
ITEM = problems([CONTEXT], seed=0)[0]
QUERY = int(ITEM.public.question[-1])
RIGHT = CONTEXT.explained(QUERY)
SLIP = RIGHT[:-1] + str((CONTEXT.of(QUERY) + 1) % 7)
RULE = RIGHT[:2] + "14" + SLIP[4:]
LUCKY = RIGHT[:2] + "14" + RIGHT[4:]


def explanations(texts: list[str]) -> list[dose.Explanation]:
    return [dose.Explanation(text, len(text)) for text in texts]


def test_explanations_are_told_apart_and_luck_is_left_out() -> None:
    kinds = dose.by_kind(ITEM, explanations([SLIP, RIGHT, RULE, LUCKY, RIGHT]))
    assert {kind: [one.text for one in row] for kind, row in kinds.items()} == {
        "right": [RIGHT, RIGHT],
        "rule": [RULE],
        "slip": [SLIP],
    }


def test_pools_differ_in_their_errors_alone() -> None:
    kinds = dose.by_kind(ITEM, explanations([RIGHT] * 20 + [RULE] * 20 + [SLIP] * 20))
    assert dose.has_enough(kinds)
    for share in dose.DOSES:
        few, many = (dose.pool(kinds, share, times, np.random.default_rng(0)) for times in (1, dose.ALIKE))
        for pool, times in ((few, 1), (many, dose.ALIKE)):
            assert len(pool) == times * (dose.RIGHT + dose.ERRORS)
            assert sum(right(ITEM, one.text) for one in pool) == times * dose.RIGHT
            assert sum(one.text == RULE for one in pool) == share * times * dose.ERRORS


def test_a_problem_with_too_few_of_a_kind_is_left_out() -> None:
    for kind in ("right", "rule", "slip"):
        kinds = dose.by_kind(ITEM, explanations([RIGHT] * 20 + [RULE] * 20 + [SLIP] * 20))
        del kinds[kind][2:]
        assert not dose.has_enough(kinds)


def test_the_vote_costs_what_a_pool_and_its_exams_cost() -> None:
    spent = LESSON + dose.QUESTIONS * ANSWER
    assert spent == dose.ALIKE * LESSON


@pytest.mark.parametrize("values", [[0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
def test_the_slope_is_that_of_least_squares(values: list[float]) -> None:
    assert dose.slope(dose.DOSES, values) == pytest.approx(np.polyfit(dose.DOSES, values, 1)[0], abs=1e-12)


def test_the_figure_shows_every_arm_at_every_dose() -> None:
    arms = {
        dose.at(arm, share): {"mean": 0.5, "by_seed": [0.4, 0.6]}
        for arm in (dose.M1, dose.VOTE, dose.SHUFFLED)
        for share in dose.DOSES
    }
    svg = dose.figure({"arms": arms})
    assert svg.count("<path") == 3 * len(dose.DOSES) + 3, "marks, and those of the legend"
    assert svg.count('class="whisker') == 3 * len(dose.DOSES)
