"""Learning paths: order, cost, and the bound of the greedy cover."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError
from docendo.memory.memories._planner import LearningPath, PathPlanner, StepCost, _greedy, harmonic

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


@st.composite
def graphs(draw):
    """Graphs of up to 12 concepts, with mastery, difficulty and goals."""
    size = draw(st.integers(1, 12))
    names = [f"c{i:02}" for i in range(size)]
    share = st.floats(0, 1)
    needs = {
        name: tuple(draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=3)) if i else ())
        for i, name in enumerate(names)
    }
    mastery = {name: draw(share) for name in names}
    difficulty = {name: draw(share) for name in names}
    goals = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    return needs, mastery, difficulty, goals


def cheapest(candidates, wanted):
    """The least cost of a cover, by trying all of them."""
    best = math.inf
    for size in range(len(candidates) + 1):
        for chosen in itertools.combinations(candidates, size):
            if wanted <= {concept for path in chosen for concept in path.covers}:
                best = min(best, sum(path.cost for path in chosen))
    return best


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_a_plan_covers_what_the_goals_need_in_order_and_within_the_bound(graph):
    needs, mastery, difficulty, goals = graph
    plan = PathPlanner().plan(needs, mastery=mastery, difficulty=difficulty, goals=goals)
    weak = {name for name in needs if mastery[name] < 0.6}
    wanted = set(goals) & weak
    for _ in needs:
        wanted |= {need for name in wanted for need in needs[name] if need in weak}
    # What is weak behind a mastered concept is needed as well, where a path leads over it.
    assert wanted <= set(plan.steps) <= weak
    assert set(plan.uncovered) == weak - set(plan.steps)
    place = {name: number for number, name in enumerate(plan.steps)}
    assert all(place[need] < place[name] for name in plan.steps for need in needs[name] if need in weak)
    if plan.candidates:
        best = cheapest(plan.candidates, set(plan.steps))
        assert best <= plan.cost + 1e-9
        assert plan.cost <= plan.bound * best + 1e-9
        assert plan.bound <= 1 + math.log(len(weak)) + 1e-9


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.frozensets(st.sampled_from("abcdefgh"), min_size=1), st.floats(0, 10)),
        min_size=1,
        max_size=8,
    )
)
def test_the_greedy_cover_keeps_its_bound_on_any_sets(sets):
    paths = [
        LearningPath(concepts=(str(i),), covers=tuple(sorted(covers)), cost=cost)
        for i, (covers, cost) in enumerate(sets)
    ]
    wanted = {concept for path in paths for concept in path.covers}
    chosen = _greedy(paths, wanted)
    assert {concept for path in chosen for concept in path.covers} == wanted
    bound = harmonic(max(len(path.covers) for path in paths))
    assert sum(path.cost for path in chosen) <= bound * cheapest(paths, wanted) + 1e-9


def test_the_bound_is_reached_where_it_is_tight():
    """The textbook case: greedy takes the single concepts one by one."""
    singles = [LearningPath(concepts=(str(i),), covers=(str(i),), cost=1 / (4 - i)) for i in range(4)]
    whole = LearningPath(concepts=("all",), covers=("0", "1", "2", "3"), cost=1.0 + 1e-6)
    chosen = _greedy([*singles, whole], {"0", "1", "2", "3"})
    assert len(chosen) == 4
    assert sum(path.cost for path in chosen) == pytest.approx(harmonic(4))


def test_paths_begin_at_mastered_concepts_next_to_weak_ones():
    plan = PathPlanner(cost=StepCost(base=1, difficulty=0, weakness=0, missing=0)).plan(
        {"a": (), "b": ("a",), "c": ("b",), "d": ("c",)}, mastery={"a": 0.9, "b": 0.8}, goals=["d"]
    )
    assert [path.concepts for path in plan.candidates] == [("b", "c", "d")]
    assert (plan.steps, plan.cost) == (("c", "d"), 2.0)


def test_the_cheaper_of_two_ways_is_taken():
    easy = PathPlanner().plan(DIAMOND, mastery={"a": 1.0}, goals=["d"], difficulty={"b": 3.0})
    assert easy.candidates[0].concepts == ("a", "c", "d")
    assert set(easy.steps) == {"b", "c", "d"}
    assert PathPlanner().plan(DIAMOND, mastery={}, goals=["d"], difficulty={"c": 3.0}).steps[0] == "a"


def test_what_no_goal_needs_is_named_and_left_out():
    plan = PathPlanner().plan({**DIAMOND, "e": ()}, mastery={}, goals=["b"])
    assert plan.steps == ("a", "b")
    assert plan.uncovered == ("c", "d", "e")


def test_nothing_is_planned_where_all_is_mastered():
    plan = PathPlanner().plan(DIAMOND, mastery=dict.fromkeys(DIAMOND, 1.0))
    assert (plan.steps, plan.paths, plan.cost, plan.bound) == ((), (), 0, 0)
    assert PathPlanner().plan({}, mastery={}).steps == ()


def test_sources_that_lead_nowhere_cover_nothing():
    plan = PathPlanner().plan({"a": (), "b": ("a",), "x": ()}, mastery={}, goals=["b"], sources=["x"])
    assert plan.steps == ()
    assert plan.uncovered == ("a", "b", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goals": ["z"]}, "goal 'z' is not in the graph"),
        ({"sources": ["z"]}, "source 'z' is not in the graph"),
        ({"mastery": {"a": 1.5}}, "mastery of 'a' is 1.5"),
        ({"mastery": {"a": math.nan}}, "mastery of 'a' is nan"),
        ({"difficulty": {"a": -1}}, "difficulty of 'a' is -1"),
    ],
)
def test_what_cannot_be_planned_is_an_error(change, message):
    with pytest.raises(DataError, match=message):
        PathPlanner().plan(DIAMOND, **{"mastery": {}, **change})


def test_circles_are_named():
    with pytest.raises(DataError, match=r"go in a circle: (a, b, a|b, a, b)"):
        PathPlanner().plan({"a": ("b",), "b": ("a",)}, mastery={})


def test_costs_are_never_negative():
    with pytest.raises(ConfigError, match="missing is -1"):
        StepCost(missing=-1)
    with pytest.raises(ConfigError, match="threshold is 0"):
        PathPlanner(threshold=0)
