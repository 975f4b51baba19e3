"""Trees of turns: values from the leaves upwards, pairs among siblings."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.distill import TraceTree, dataset_manifest
from docendo.errors import ConfigError, DataError, LeakError
from docendo.records import Author, Gold, Item, PublicItem, Trace

ITEMS = [
    Item(public=PublicItem(id="i", question="2 + 2", split="train"), gold=Gold("4")),
    Item(public=PublicItem(id="j", question="2 + 3", split="train"), gold=Gold("5")),
]
COMMON: dict[str, Any] = {"items": ITEMS, "exclude": []}


def turn(name: str, *parents: str, role: str = "solver", **changes: Any) -> Trace:
    fields: dict[str, Any] = {
        "id": name,
        "run": "r",
        "item": "i",
        "node": role,
        "author": Author(agent=role, role=role),
        "messages": ({"role": "user", "content": f"after {' '.join(sorted(parents))}"},),
        "completion": f"text of {name}",
        "split": "train",
        "parents": parents,
    }
    return Trace(**{**fields, **changes})


def malt_figure() -> list[Trace]:
    """One generator's answer, three critiques, three refinements of each: 3, 1 and 1 of 3 are right."""
    right = {"v0": 3, "v1": 1, "v2": 1}
    traces = [turn("g", role="generator")]
    for critique, count in right.items():
        traces.append(turn(critique, "g", role="verifier"))
        for n in range(3):
            traces.append(
                turn(f"{critique}r{n}", critique, role="refiner", rewards={"verified": float(n < count)})
            )
    return traces


def test_the_values_of_the_papers_figure() -> None:
    tree = TraceTree(malt_figure()).backup("verified")
    assert [Fraction(tree.values[v]).limit_denominator(9) for v in ("v0", "v1", "v2")] == [
        Fraction(3, 3),
        Fraction(1, 3),
        Fraction(1, 3),
    ]
    assert Fraction(tree.values["g"]).limit_denominator(9) == Fraction(5, 9)


def test_pairs_of_a_role_by_the_threshold_of_the_paper() -> None:
    tree = TraceTree(malt_figure()).backup()
    critiques = tree.pairs("verifier", **COMMON)
    assert [row["traces"] for row in critiques] == [["v0", "v1"], ["v0", "v2"]]
    refinements = tree.pairs("refiner", **COMMON)
    assert {tuple(row["traces"]) for row in refinements} == {
        (f"{v}r0", f"{v}r{n}") for v in ("v1", "v2") for n in (1, 2)
    }
    # One generator's answer has nothing to be compared with.
    with pytest.raises(DataError, match="1 without a counterpart"):
        tree.pairs("generator", **COMMON)
    assert tree.rows("generator", **COMMON)["trace"][:] == ["g"]
    assert tree.rows("verifier", **COMMON)["trace"][:] == ["v0"]
    assert tree.rows("verifier", theta=0.3, **COMMON)["trace"][:] == ["v0", "v1", "v2"]


def test_interval_and_top_bottom() -> None:
    tree = TraceTree(malt_figure()).backup()
    by_gap = tree.pairs(node="verifier", select="interval", gap=2 / 3, **COMMON)
    assert [row["traces"] for row in by_gap] == [["v0", "v1"], ["v0", "v2"]]
    with pytest.raises(DataError, match="3 without a counterpart"):
        tree.pairs("verifier", select="interval", gap=0.7, **COMMON)
    best = tree.pairs("verifier", select="top_bottom", **COMMON)
    assert [row["traces"] for row in best] == [["v0", "v1"]]


def test_a_value_at_the_threshold_is_not_above_it() -> None:
    traces = [turn("g"), turn("a", "g", rewards={"verified": 1.0}), turn("b", "g", rewards={"verified": 0.5})]
    pairs = TraceTree(traces).backup().pairs(**COMMON)
    assert [row["traces"] for row in pairs] == [["a", "b"]]
    assert dict(dataset_manifest(pairs).left_out) == {"without a counterpart": 1}


def test_max_and_discount() -> None:
    tree = TraceTree(malt_figure())
    assert tree.backup(reduce="max").values["g"] == 1.0
    discounted = tree.backup(reduce="max", gamma=0.5).values
    assert (discounted["v1r0"], discounted["v1"], discounted["g"]) == (1.0, 0.5, 0.25)
    assert tree.backup(lambda trace: 2.0, gamma=1.0).values["g"] == 2.0


def test_partial_trees_go_by_the_leaves_that_are_there() -> None:
    traces = [
        turn("g"),
        turn("a", "g"),
        turn("a1", "a", rewards={"verified": 1.0}),
        turn("a2", "a"),
        turn("b", "g", rewards={"verified": 0.0}),
        turn("c", "g"),
        turn("lost", "gone", rewards={"verified": 1.0}),
    ]
    tree = TraceTree(traces).backup()
    assert dict(tree.values) == {"g": 0.5, "a": 1.0, "a1": 1.0, "b": 0.0, "lost": 1.0}
    assert tree.missing == ("gone",)
    assert [trace.id for trace in tree.roots] == ["g", "lost"]
    with pytest.raises(DataError, match="1 without the reward value"):
        TraceTree([turn("x")]).backup().pairs(**COMMON)


def test_what_is_quarantined_counts_for_nobody() -> None:
    traces = [
        turn("g"),
        turn("a", "g", rewards={"verified": 0.0}),
        turn("b", "g", rewards={"verified": 1.0}, trust="quarantined"),
        turn("c", "g", trust="quarantined"),
        turn("c1", "c", rewards={"verified": 1.0}),
        turn("alone", trust="quarantined", rewards={"verified": 1.0}),
    ]
    assert dict(TraceTree(traces).backup().values) == {"g": 0.0, "a": 0.0, "c1": 1.0}
    assert dict(TraceTree(traces).backup(reduce="max").values) == {"g": 0.0, "a": 0.0, "c1": 1.0}


def test_a_turn_with_several_parents_counts_for_each() -> None:
    traces = [
        turn("p"),
        turn("q"),
        turn("pq", "p", "q", rewards={"verified": 1.0}),
        turn("only q", "q", rewards={"verified": 0.0}),
    ]
    tree = TraceTree(traces).backup()
    assert (tree.values["p"], tree.values["q"]) == (1.0, 0.5)
    assert [trace.id for trace in tree.parents("pq")] == ["p", "q"]
    assert [[trace.id for trace in path] for path in tree.paths()] == [
        ["p", "pq"],
        ["q", "only q"],
        ["q", "pq"],
    ]
    assert [leaf.id for leaf in tree.leaves("p")] == ["pq"]
    assert tree.siblings("pq") == ()


def test_siblings_answer_to_the_same_turns_in_the_same_node() -> None:
    tree = TraceTree([*malt_figure(), turn("other", "g", role="critic"), turn("v9", "gone", role="verifier")])
    assert [trace.id for trace in tree.siblings("v0")] == ["v1", "v2"]
    assert [trace.id for trace in tree.children("g")] == ["other", "v0", "v1", "v2"]
    assert len(tree) == 15


def test_turns_of_other_items_and_runs_are_no_parents() -> None:
    traces = [turn("g"), turn("a", "g", item="j"), turn("b", "g", run="s")]
    tree = TraceTree(traces)
    assert tree.children("g") == ()
    assert tree.missing == ("g",)


def test_circles_and_doubled_ids_are_refused() -> None:
    with pytest.raises(DataError, match=r"in a circle \(among them a, b\)"):
        TraceTree([turn("a", "b"), turn("b", "a"), turn("c")])
    with pytest.raises(DataError, match="circle"):
        TraceTree([turn("a", "a")])
    with pytest.raises(DataError, match="two different traces have the id 'a'"):
        TraceTree([turn("a"), turn("a", completion="else")])
    assert len(TraceTree([turn("a"), turn("a")])) == 1


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="reward of trace 'a' is nan"):
        TraceTree([turn("a", rewards={"verified": float("nan")})]).backup()
    tree = TraceTree([turn("a")])
    with pytest.raises(ConfigError, match="gamma is 0"):
        tree.backup(gamma=0)
    with pytest.raises(ConfigError, match="reduce is 'sum'"):
        tree.backup(reduce="sum")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the tree has no values"):
        tree.pairs(**COMMON)
    with pytest.raises(ConfigError, match="select is 'best'"):
        tree.backup().pairs(select="best", **COMMON)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the tree has no trace 'z'"):
        tree.children("z")


def test_test_items_and_traces_left_as_they_were() -> None:
    traces = malt_figure()
    tree = TraceTree(traces).backup()
    with pytest.raises(LeakError):
        tree.pairs("verifier", items=ITEMS[1:], exclude=ITEMS[:1])
    valued = tree.valued("verifier")
    assert [trace.rewards["value"] for trace in valued] == pytest.approx([1.0, 1 / 3, 1 / 3])
    assert [dict(trace.rewards) for trace in traces if trace.author.role == "verifier"] == [{}] * 3


@st.composite
def graphs(draw: st.DrawFn) -> list[Trace]:
    """Any graph without cycles: a turn answers to turns before it, of two items."""
    traces: list[Trace] = []
    for number in range(draw(st.integers(1, 14))):
        item = draw(st.sampled_from(["i", "j"]))
        before = [trace.id for trace in traces if trace.item == item]
        parents = draw(st.lists(st.sampled_from(before), max_size=2, unique=True)) if before else []
        reward = draw(st.sampled_from([None, 0.0, 0.5, 1.0]))
        rewards = {} if reward is None else {"verified": reward}
        traces.append(
            turn(f"t{number}", *parents, item=item, rewards=rewards, role=draw(st.sampled_from(["a", "b"])))
        )
    return traces


def naive_value(name: str, traces: dict[str, Trace]) -> float | None:
    """The definition, by recursion."""
    children = [trace.id for trace in traces.values() if name in trace.parents]
    if not children:
        return traces[name].rewards.get("verified")
    known = [value for child in children if (value := naive_value(child, traces)) is not None]
    return sum(known) / len(known) if known else None


@settings(max_examples=60, deadline=None)
@given(traces=graphs(), seed=st.integers(0, 99))
def test_values_are_those_of_the_definition_in_any_order(traces: list[Trace], seed: int) -> None:
    tree = TraceTree(traces).backup()
    by_id = {trace.id: trace for trace in traces}
    expected = {name: naive_value(name, by_id) for name in by_id}
    assert dict(tree.values) == pytest.approx({n: v for n, v in expected.items() if v is not None})
    shuffled = list(traces)
    random.Random(seed).shuffle(shuffled)
    again = TraceTree(shuffled).backup()
    assert list(again.traces) == list(tree.traces)
    assert dict(again.values) == dict(tree.values)
    order = {name: at for at, name in enumerate(tree.traces)}
    assert all(order[parent] < order[trace.id] for trace in traces for parent in trace.parents)


@settings(max_examples=50, deadline=None)
@given(traces=graphs(), select=st.sampled_from(["threshold", "interval", "top_bottom"]))
def test_no_pair_crosses_parents_items_or_nodes_and_none_is_equal(traces: list[Trace], select: Any) -> None:
    tree = TraceTree(traces).backup()
    try:
        rows = tree.pairs(select=select, gap=0.25, **COMMON).to_list()
    except DataError:
        return
    for row in rows:
        chosen, rejected = (tree.traces[name] for name in row["traces"])
        assert rejected in tree.siblings(chosen.id)
        assert tree.values[chosen.id] > tree.values[rejected.id]
        assert row["chosen"] != row["rejected"]
