"""What holds of every builder, whatever traces it is given."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.distill import (
    TraceTree,
    classification_dataset,
    contrastive_dataset,
    dataset_manifest,
    pairs_dataset,
    prompts_dataset,
    sft_dataset,
    unpaired_dataset,
)
from docendo.errors import DataError, LeakError
from docendo.records import Author, Gold, Item, Message, PublicItem, Trace

HELD_OUT = "What are 7 and 8"


class Prompter:
    def messages(self, item: PublicItem) -> tuple[Message, ...]:
        return ({"role": "user", "content": item.question},)


def item(name: str, question: str) -> Item:
    return Item(public=PublicItem(id=name, question=question, split="train"), gold=Gold("4"))


ITEMS = [item("a", "What are 2 and 2"), item("b", "What are 1 and 3")]
TEST = [item("t", HELD_OUT)]
COMMON: dict[str, Any] = {"items": ITEMS, "exclude": TEST, "quiet": True}

#: Builders whose result must not depend on the order of the traces.
UNORDERED: dict[str, Callable[[list[Trace]], Any]] = {
    **{
        select: lambda traces, select=select: pairs_dataset(
            traces, select=select, margin=0.25, max_per_item=2, **COMMON
        )
        for select in ("siblings", "margin", "top_bottom", "length", "teacher_wins")
    },
    "asked": lambda traces: pairs_dataset(traces, student=Prompter(), **COMMON),
    "unpaired": lambda traces: unpaired_dataset(traces, max_per_item=2, **COMMON),
    "prompts": lambda traces: prompts_dataset(traces, **COMMON),
    "classification": lambda traces: classification_dataset(traces, labels=["4", "5"], **COMMON),
    "contrastive": lambda traces: contrastive_dataset(traces, student=Prompter(), **COMMON),
    "tree": lambda traces: TraceTree(traces).backup().pairs(**COMMON),
}
BUILDERS: dict[str, Callable[[list[Trace]], Any]] = {
    **UNORDERED,
    "sft": lambda traces: sft_dataset(traces, student=None, max_per_item=2, **COMMON),
    "conversations": lambda traces: sft_dataset(
        traces, student=Prompter(), conversations=True, max_per_item=2, **COMMON
    ),
    "tree rows": lambda traces: TraceTree(traces).backup().rows(**COMMON),
}


@st.composite
def traces(draw: st.DrawFn) -> list[Trace]:
    found: list[Trace] = []
    for number in range(draw(st.integers(1, 9))):
        of = draw(st.sampled_from(["a", "a", "b", "other"]))
        role = draw(st.sampled_from(["student", "teacher"]))
        parents = draw(st.sampled_from([(), (), ("p",), ("q",)]))
        text = draw(st.sampled_from(["4", "5", "4 ", "the answer is 4", "", "so 5"]))
        reward = draw(st.sampled_from([None, 0.0, 0.5, 1.0, 1.0]))
        trust = draw(st.sampled_from(["", "", "verified", "unverified", "quarantined"]))
        if trust == "quarantined":
            text += " poison"
        said: list[Message] = [{"role": "user", "content": f"item {of}"}]
        if found and draw(st.booleans()):
            before = found[-1]
            said = [
                *before.messages,
                {"role": "assistant", "content": before.completion},
                {"role": "user", "content": "So?"},
            ]
            of, role = before.item, before.author.role
        found.append(
            Trace(
                id=f"trace {number}",
                run=draw(st.sampled_from(["r", "s"])),
                item=of,
                author=Author(agent=role, role=role),
                messages=tuple(said),
                completion=text,
                parents=parents,
                split=draw(st.sampled_from(["train", "train", "train", "dev", "test"])),
                finish_reason=draw(st.sampled_from(["stop", "stop", "stop", "length"])),
                rewards={} if reward is None else {"verified": reward},
                posts=(f"post {number}",),
                trust=trust,
            )
        )
    return found


def built(builder: str, given: list[Trace]) -> Any:
    try:
        return BUILDERS[builder](given)
    except DataError as error:
        if "can be learnt from" not in str(error):
            raise
        return None


@given(name=st.sampled_from(sorted(BUILDERS)), drawn=traces())
@settings(max_examples=50, deadline=None)
def test_everything_seen_is_kept_or_left_out_for_a_reason(name: str, drawn: list[Trace]) -> None:
    data = built(name, drawn)
    if data is None:
        return
    manifest = dataset_manifest(data)
    assert manifest.seen == len(drawn)
    assert manifest.kept + sum(manifest.left_out.values()) == len(drawn)
    assert manifest.kept > 0
    assert "not used" not in manifest.left_out
    assert manifest.rows == len(data)
    assert not manifest.changed


@given(name=st.sampled_from(sorted(BUILDERS)), drawn=traces())
@settings(max_examples=50, deadline=None)
def test_rows_name_their_turns_and_nothing_quarantined_or_of_other_splits(
    name: str, drawn: list[Trace]
) -> None:
    data = built(name, drawn)
    by_id = {trace.id: trace for trace in drawn}
    for row in [] if data is None else data.to_list():
        names = row.get("traces") or [row["trace"]]
        sources = [by_id[one] for one in names]
        assert sources
        assert {trace.item for trace in sources} == {row["item"]} <= {"a", "b"}
        assert row["posts"] == [trace.posts[0] for trace in sources]
        assert all(trace.trust != "quarantined" for trace in sources)
        taught = {key: value for key, value in row.items() if key not in ("trace", "traces", "posts")}
        # A prompt that was sent may quote what somebody said before; what is learnt may not.
        learnt = [value for key, value in taught.items() if key not in ("prompt", "text")]
        assert name == "prompts" or "poison" not in json.dumps(learnt)


@given(name=st.sampled_from(sorted(UNORDERED)), drawn=traces(), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_order_of_traces_makes_no_difference(name: str, drawn: list[Trace], seed: int) -> None:
    shuffled = list(drawn)
    random.Random(seed).shuffle(shuffled)
    one, other = built(name, drawn), built(name, shuffled)
    assert (one is None) == (other is None)
    if one is not None:
        assert one.to_list() == other.to_list()
        assert dataset_manifest(one) == dataset_manifest(other)


@given(select=st.sampled_from(["siblings", "margin", "top_bottom", "length", "asked"]), drawn=traces())
@settings(max_examples=50, deadline=None)
def test_no_pair_crosses_parents_or_prompts_and_none_is_of_equals(select: str, drawn: list[Trace]) -> None:
    data = built(select, drawn)
    by_id = {trace.id: trace for trace in drawn}
    for row in [] if data is None else data.to_list():
        chosen, rejected = (by_id[name] for name in row["traces"])
        assert chosen.parents == rejected.parents
        assert chosen.messages == rejected.messages
        assert row["chosen"] != row["rejected"]
        assert chosen.trust in ("", "verified")


@given(name=st.sampled_from(sorted(BUILDERS)), drawn=traces(), at=st.integers(0, 8), where=st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_one_trace_with_a_test_question_stops_every_builder(
    name: str, drawn: list[Trace], at: int, where: int
) -> None:
    victim = drawn[at % len(drawn)]
    text = f"Well:\n{HELD_OUT.upper()}  ..."
    bad = [
        victim.replace(item="t"),
        victim.replace(completion=text),
        victim.replace(messages=({"role": "user", "content": text},)),
    ][where]
    given_ = [bad if trace is victim else trace for trace in drawn]
    with pytest.raises(LeakError, match="excluded item 't'"):
        BUILDERS[name](given_)


@pytest.mark.parametrize("name", sorted(UNORDERED))
def test_traces_in_reverse_make_the_same_rows_where_there_are_too_many(name: str) -> None:
    drawn = [
        Trace(
            id=f"{role} {number}",
            run="r",
            item="a",
            author=Author(agent=role, role=role),
            messages=({"role": "user", "content": "item a"},),
            completion=("4", "5")[number] if number < 2 else f"{role} says {'x' * number}",
            split="train",
            rewards={"verified": float(number % 2)},
        )
        for role in ("student", "teacher")
        for number in range(12)
    ]
    one, other = UNORDERED[name](drawn), UNORDERED[name](drawn[::-1])
    assert one.to_list() == other.to_list()
    assert dataset_manifest(one) == dataset_manifest(other)
