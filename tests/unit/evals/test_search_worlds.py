"""Search trees that are written down: their traces, their paths, their controls and their verifier."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from docendo.errors import ConfigError, DataError
from docendo.evals import Attempt, Countdown, MiniSudoku, SearchWorld, WorldScorer, allotted, matched
from docendo.evals import solved_within as within
from docendo.evals.search._sudoku import PLACED

WORLDS = pytest.mark.parametrize("world", [Countdown(), MiniSudoku()], ids=lambda world: world.name)
SIZES = {"test": 40, "dev": 20, "train": 100}


@WORLDS
def test_parts_share_no_problem_and_repeat(world: SearchWorld) -> None:
    parts = world.problems(3, SIZES)
    assert {split: len(part) for split, part in parts.items()} == SIZES
    assert len(set().union(*parts.values())) == sum(SIZES.values())
    assert parts == world.problems(3, SIZES)
    assert parts != world.problems(4, SIZES)


@WORLDS
def test_paths_traces_and_shuffled_traces_end_in_a_solution(world: SearchWorld) -> None:
    mixed = 0
    for problem in world.problems(1, {"test": 60})["test"]:
        path, trace = world.path(problem), world.trace(problem)
        shuffled = world.shuffled(problem, random.Random(1))
        for text in (path, trace, shuffled):
            assert set(problem + text) <= set(world.alphabet)
            assert world.judge(problem, text).length == len(text) - 1
        assert world.judge(problem, trace).fault is None
        assert len(path) - 1 == world.depth(problem) * world.width
        assert sorted(shuffled) == sorted(trace)
        mixed += shuffled != trace
    assert mixed > 20


@WORLDS
def test_the_items_have_no_gold_and_are_judged_by_the_rules(world: SearchWorld) -> None:
    item = world.items(world.problems(2, {"test": 1})["test"], "test")[0]
    scorer = WorldScorer(world)
    assert item.public.split == "test"
    assert scorer.open(item) is None
    right = scorer.score(item, world.trace(item.public.question) + "whatever is written behind it")
    assert right.correct
    assert right.parsed is not None
    assert right.parsed + world.end == world.trace(item.public.question)
    assert not scorer.score(item, "").correct
    assert not scorer.score(item, "nonsense <<<<:").correct
    assert scorer.leaks(item, world.path(item.public.question))


def test_items_are_told_apart_by_capital_and_small_letters() -> None:
    world = Countdown()
    assert len({item.id for item in world.items(["23EZ:", "23Ez:"], "test")}) == 2
    parts = world.problems(0, {"test": 4000})
    assert len({item.id for item in world.items(parts["test"], "test")}) == 4000


def test_a_search_backtracks_as_it_is_written() -> None:
    world = Countdown()
    # 2, 3 and 7: 3 + 2 leads nowhere near 27, 3 x 2 neither; 7 + 2 gives 9, and 9 x 3 is 27.
    tried, path = world.search("237R:")
    assert path == ("7+29", "9*3R")
    assert "".join(tried).startswith("3+257+5C7-527*5Z<3-21")
    assert world.judge("237R:", "7+299*3R;").length == 8


def test_a_step_that_is_not_allowed_leads_nowhere_until_it_is_taken_back() -> None:
    world = Countdown()
    wrong = world.judge("237R:", "7+289*3R;")
    assert (wrong.solved, wrong.fault) == (False, 0)
    assert world.judge("237R:", "7+28<7+299*3R;").length == 13
    assert world.judge("237R:", "7+299-36;9*3R").length is None, "nothing counts behind the end"
    assert world.judge("237R:", "<<7+299*3R").length == 10, "there is nothing to take back"


def test_all_grids_and_only_puzzles_with_one_solution() -> None:
    from docendo.evals.search._sudoku import _grids, _solutions

    assert len(_grids()) == len(set(_grids())) == 288
    world = MiniSudoku(givens=5)
    parts = world.problems(0, {"test": 30, "train": 30})
    grids = {
        split: {"".join(sorted(problem[:-1] + world.path(problem)[:-1])) for problem in part}
        for split, part in parts.items()
    }
    assert not grids["test"] & grids["train"], "the parts share no solved grid"
    for problem in itertools.chain(*parts.values()):
        assert len(problem) == 6
        assert _solutions(problem[:-1]) == 1


def test_settings_that_make_no_world_are_refused() -> None:
    with pytest.raises(ConfigError, match="numbers is 1; expected a whole number of 2 to 61"):
        Countdown(numbers=1)
    with pytest.raises(ConfigError, match="givens is 3; expected a whole number of 4 to 15"):
        MiniSudoku(givens=3)
    with pytest.raises(ConfigError, match="nothing is left of countdown for train"):
        Countdown(largest=3).problems(0, {"test": 1000, "train": 1})
    with pytest.raises(DataError, match="'22z:' has no solution"):
        Countdown().path("22z:")


@pytest.mark.parametrize(
    "problem", ["", ":", "358G", "35:", "3 8G:", "308G:", "358G:x", "\ud800", b"358G:", None, ["358G:"]]
)
def test_what_is_no_problem_of_countdown_is_refused(problem: Any) -> None:
    refuse(Countdown(), problem, "one of countdown, such as '358G:'")


@pytest.mark.parametrize("problem", ["", ":", "7OVav", "7O_av:", ":7OVav", PLACED[:16] + ":", None, ["7O:"]])
def test_what_is_no_puzzle_is_refused(problem: Any) -> None:
    refuse(MiniSudoku(), problem, "one of sudoku, such as '7OVav:'")


def refuse(world: SearchWorld, problem: Any, expected: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: world.start(problem),
        lambda: world.path(problem),
        lambda: world.shuffled(problem, random.Random(0)),
        lambda: world.judge(problem, ";"),
        lambda: world.items([problem], "test"),
    ]
    for call in calls:
        with pytest.raises(DataError, match=f"the problem is .*; expected {expected}"):
            call()


def test_two_digits_in_one_cell_are_no_puzzle() -> None:
    with pytest.raises(DataError, match="'67OVav:' has two digits in cell 1; expected one"):
        MiniSudoku().start("67OVav:")


@WORLDS
def test_what_a_world_is_asked_for_is_checked(world: SearchWorld) -> None:
    asked: Any
    for asked, words in (
        ({"tests": 3}, "sizes has the part 'tests'; expected some of test, dev, train"),
        ({"user": 3}, "sizes has the part 'user'"),
        ({"test": 1.5}, r"sizes\['test'\] is 1.5; expected a whole number"),
        ({"test": -1}, r"sizes\['test'\] is -1; expected a whole number, at least 0"),
        (20, "sizes is 20; expected a number of problems for each part"),
    ):
        with pytest.raises(ConfigError, match=words):
            world.problems(0, asked)
    with pytest.raises(ConfigError, match="seed is None"):
        world.problems(None, {"test": 1})  # type: ignore[arg-type]
    problem = world.problems(0, {"test": 1})["test"][0]
    with pytest.raises(DataError, match="split is 'exam'; expected one of train, dev, test, user"):
        world.items([problem], "exam")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"rng is 0; expected a random\.Random"):
        world.shuffled(problem, 0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="text is None; expected the text of an answer"):
        world.judge(problem, None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="item is None; expected an item"):
        WorldScorer(world).score(None, "")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="world is 'countdown'; expected a SearchWorld"):
        WorldScorer("countdown")  # type: ignore[arg-type]


NO, YES = Attempt(solved=False, cost=3), Attempt(solved=True, cost=3)


def test_a_budget_is_met_in_rounds() -> None:
    attempts = {name: [NO] * 5 for name in "abcd"}
    assert allotted(attempts, 3 * 10) == {"a": 3, "b": 3, "c": 2, "d": 2}
    assert allotted(attempts, 31.4) == allotted(attempts, 30)
    assert allotted(attempts, 31.6) == {"a": 3, "b": 3, "c": 3, "d": 2}
    assert allotted(attempts, 1000) == dict.fromkeys("abcd", 5)
    assert allotted(attempts, 1) == dict.fromkeys("abcd", 0)
    with pytest.raises(ConfigError, match="budget is 0"):
        allotted(attempts, 0)
    with pytest.raises(DataError, match="an attempt cost 0"):
        Attempt(solved=True, cost=0)
    with pytest.raises(DataError, match="solved is 'no'; expected True or False"):
        Attempt(solved="no", cost=1)  # type: ignore[arg-type]


def test_attempts_are_checked_before_they_are_counted() -> None:
    calls: list[Callable[..., object]] = [allotted, matched, within]
    for call in calls:
        with pytest.raises(DataError, match=r"attempts is \[1\]; expected for each item its attempts"):
            call([1], 3)
        with pytest.raises(DataError, match=r"attempts\['a'\]\[1\] is None; expected attempts, in the order"):
            call({"a": [NO, None]}, 3)
        with pytest.raises(ConfigError, match="the budget is nan; expected a number above 0"):
            call({"a": [NO]}, float("nan"))
    with pytest.raises(ConfigError, match="until_solved is 'no'; expected True or False"):
        allotted({"a": [NO]}, 3, until_solved="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unit is 3; expected the name of a unit"):
        matched({"a": [NO]}, 3, unit=3)  # type: ignore[arg-type]


def test_best_of_n_counts_what_was_bought_and_nothing_else() -> None:
    attempts = {"a": [NO, NO, YES], "b": [YES, NO, NO]}
    few, more = matched(attempts, 12, unit="tokens"), matched(attempts, 18)
    assert (dict(few.values), dict(few.spent)) == ({"a": 0.0, "b": 1.0}, {"tokens": 12.0})
    assert (more.mean, dict(more.spent)) == (1.0, {"flops": 18.0})
    early = matched(attempts, 12, until_solved=True)
    assert (early.mean, early.spent["flops"]) == (1.0, 12.0), "what b does not need is spent on a"


def test_a_curve_counts_finished_attempts() -> None:
    attempts = {"a": [NO, YES], "b": [NO, NO]}
    assert [within(attempts, budget) for budget in (2, 5.9, 6, 100)] == [0, 0, 0.5, 0.5]
    with pytest.raises(DataError, match="no items"):
        within({}, 1)
