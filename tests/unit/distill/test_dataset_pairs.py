"""Which answers become a preference pair, and which never do."""

from __future__ import annotations

from typing import Any

import pytest

from docendo.distill import dataset_manifest, pairs_dataset
from docendo.errors import ConfigError, DataError, LeakError
from docendo.memory import Artifacts, Database, TraceStore
from docendo.records import Author, Gold, Item, Message, PublicItem, Trace


class Prompter:
    def messages(self, item: PublicItem) -> tuple[Message, ...]:
        return ({"role": "user", "content": f"Solve {item.question}"},)


def item(name: str, question: str) -> Item:
    return Item(public=PublicItem(id=name, question=question, split="train"), gold=Gold("4"))


ITEMS = [item("a", "2 + 2"), item("b", "1 + 3")]
TEST = [item("t", "Add these numbers:\n7 + 8")]


def turn(name: str, text: str, value: float, of: str = "a", role: str = "student", **changes: Any) -> Trace:
    fields: dict[str, Any] = {
        "id": name,
        "run": "r",
        "item": of,
        "author": Author(agent=role, role=role),
        "messages": ({"role": "user", "content": f"item {of}"},),
        "completion": text,
        "split": "train",
        "rewards": {"verified": value},
    }
    return Trace(**{**fields, **changes})


def pairs(traces: list[Trace], **options: Any) -> list[tuple[str, str]]:
    data = pairs_dataset(traces, **{"items": ITEMS, "exclude": TEST, **options})
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in data]


def test_a_pair_has_the_prompt_that_was_sent_and_says_where_it_is_from() -> None:
    data = pairs_dataset(
        [turn("1", "4", 1.0, posts=("p1",)), turn("2", "5", 0.0, posts=("p2",))], items=ITEMS, exclude=TEST
    )
    assert data.to_list() == [
        {
            "prompt": [{"role": "user", "content": "item a"}],
            "chosen": [{"role": "assistant", "content": "4"}],
            "rejected": [{"role": "assistant", "content": "5"}],
            "item": "a",
            "traces": ["1", "2"],
            "posts": ["p1", "p2"],
        }
    ]
    manifest = dataset_manifest(data)
    assert (manifest.seen, manifest.kept, dict(manifest.left_out)) == (2, 2, {})
    assert (manifest.traces, manifest.posts) == (("1", "2"), ("p1", "p2"))


def test_every_good_answer_meets_every_bad_one_and_all_come_up_early() -> None:
    traces = [turn(text, text, float(text in "AB")) for text in "ABxyz"]
    assert pairs(traces, max_per_item=None) == [
        ("A", "x"),
        ("A", "y"),
        ("B", "x"),
        ("A", "z"),
        ("B", "y"),
        ("B", "z"),
    ]
    data = pairs_dataset(traces, items=ITEMS, exclude=TEST, max_per_item=2)
    assert dict(dataset_manifest(data).left_out) == {"over 2 per item": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"of": "b"},
        {"parents": ("p",)},
        {"messages": ({"role": "user", "content": "item a, by a hint"},)},
    ],
    ids=["another item", "another parent", "another prompt"],
)
def test_only_siblings_are_compared(changes: dict[str, Any]) -> None:
    for select in ("siblings", "margin", "top_bottom", "length"):
        with pytest.raises(DataError, match="2 without a counterpart"):
            pairs([turn("1", "4", 1.0), turn("2", "five", 0.0, **changes)], select=select)


def test_the_order_of_parents_is_no_difference() -> None:
    traces = [turn("1", "4", 1.0, parents=("p", "q")), turn("2", "5", 0.0, parents=("q", "p"))]
    assert pairs(traces) == [("4", "5")]


def test_equal_answers_count_once_with_the_mean_of_their_rewards() -> None:
    traces = [
        turn("1", "4", 1.0),
        turn("2", " 4\n", 1.0),
        turn("3", "5", 0.0),
        turn("4", "5", 1.0),
        turn("5", "6", 0.25),
    ]
    assert pairs(traces, max_per_item=None) == [("4", "5"), ("4", "6")]
    assert pairs(traces, select="margin", margin=0.5) == [("4", "6"), ("4", "5")]
    with pytest.raises(DataError, match="1 repeated, 1 without a counterpart"):
        pairs(traces[:2])


@pytest.mark.parametrize("select", ["siblings", "margin", "top_bottom"])
def test_no_item_prefers_one_answer_to_another_and_the_other_way_round(select: str) -> None:
    """Rewards are noisy: after one turn 4 wins, after another 5, and both were asked the same."""
    traces = [
        *(turn("p4", "4", 1.0, parents=("p",)), turn("p5", "5", 0.0, parents=("p",))),
        *(turn("q4", "4", 0.0, parents=("q",)), turn("q5", "5", 1.0, parents=("q",))),
        turn("q6", "6", 0.0, parents=("q",)),
    ]
    if select == "top_bottom":
        traces[-1] = turn("r6", "6", 1.0, parents=("r",))
        traces.append(turn("r7", "7", 0.0, parents=("r",)))
    data = pairs_dataset(traces, items=ITEMS, exclude=TEST, select=select)  # type: ignore[arg-type]
    found = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in data]
    assert found == [("6", "7") if select == "top_bottom" else ("5", "6")]
    assert dataset_manifest(data).left_out["contradicted"] == {"top_bottom": 4}.get(select, 3)
    # Other prompts are other questions.
    asked = [
        one.replace(messages=({"role": "user", "content": f"item a after {one.parents}"},)) for one in traces
    ]
    assert {("4", "5"), ("5", "4")} <= set(pairs(asked, select=select))


def test_the_teacher_and_the_student_do_not_contradict_each_other() -> None:
    traces = [
        turn("t1", "4", 1.0, role="teacher"),
        turn("t2", "5", 1.0, role="teacher"),
        turn("s1", "4", 0.0),
        turn("s2", "5", 0.0),
        turn("s3", "6", 0.0),
    ]
    assert pairs(traces, select="teacher_wins") == [("4", "6"), ("5", "6")]


def test_margin_takes_the_largest_gap_first_and_thirds_are_thirds() -> None:
    traces = [turn(str(n), str(n), n / 3) for n in range(4)]
    assert pairs(traces, select="margin", margin=2 / 3) == [("3", "0"), ("2", "0"), ("3", "1")]
    assert pairs(traces, select="top_bottom") == [("3", "0")]
    assert len(pairs(traces, select="margin", margin=1 / 3, max_per_item=None)) == 6
    with pytest.raises(DataError, match="without a counterpart"):
        pairs([turn("1", "4", 0.5), turn("2", "5", 0.5)], select="top_bottom")


def test_length_prefers_the_shortest_right_answer_to_longer_ones() -> None:
    def of(name: str, size: int, value: float) -> Trace:
        return turn(name, name, value, token_ids=tuple(range(size)), logprobs=(0.0,) * size)

    traces = [
        of("short", 10, 1.0),
        of("right 15", 15, 1.0),
        of("right 16", 16, 1.0),
        of("wrong 9", 9, 0.0),
        of("wrong 10", 10, 0.0),
        of("wrong 11", 11, 0.0),
        of("wrong 30", 30, 0.0),
    ]
    assert pairs(traces, select="length", ratio=1.5) == [
        ("short", "wrong 30"),
        ("short", "right 16"),
        ("short", "wrong 11"),
    ]
    by_letters = [turn("1", "4", 1.0), turn("2", "5 it is", 0.0)]
    assert pairs(by_letters, select="length") == [("4", "5 it is")]


def test_the_teacher_wins_under_the_students_prompt() -> None:
    hint = ({"role": "user", "content": "With a hint: item a"},)
    traces = [
        turn("t1", "4", 1.0, role="teacher", messages=hint),
        turn("t2", "3", 0.0, role="teacher", messages=hint),
        turn("t3", "IV", 1.0, of="b", role="teacher", messages=hint),
        turn("s1", "5", 0.0),
        turn("s2", "4.", 1.0),
        turn("s3", "IV", 0.0, of="b"),
        turn("v", "wrong", 0.0, role="verifier"),
    ]
    data = pairs_dataset(traces, items=ITEMS, exclude=TEST, select="teacher_wins")
    (row,) = data
    assert row["prompt"] == [{"role": "user", "content": "item a"}]
    assert row["traces"] == ["t1", "s1"]
    assert dict(dataset_manifest(data).left_out) == {"of other roles": 1, "without a counterpart": 4}
    asked = pairs_dataset(traces, items=ITEMS, exclude=TEST, select="teacher_wins", student=Prompter())
    assert asked[0]["prompt"] == [{"role": "user", "content": "Solve 2 + 2"}]


def test_the_chosen_was_promoted_and_nothing_was_quarantined() -> None:
    traces = [
        turn("1", "4", 1.0, trust="unverified"),
        turn("2", "four", 1.0, trust="verified"),
        turn("3", "5", 0.0, trust="unverified"),
        turn("4", "6", 0.0, trust="quarantined"),
        turn("5", "IV", 1.0, trust="quarantined"),
    ]
    for select in ("siblings", "margin", "top_bottom"):
        assert pairs(traces, select=select, quiet=True) == [("four", "5")]
    data = pairs_dataset(traces, items=ITEMS, exclude=TEST, quiet=True)
    assert dict(dataset_manifest(data).left_out) == {"not promoted": 1, "quarantined": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"of": "t"},
        {"completion": "As add these numbers:\n7 + 8 is 15"},
        {"messages": ({"role": "user", "content": "Add these numbers: 7 + 8 now"},)},
    ],
)
def test_test_items_are_refused(changes: dict[str, Any]) -> None:
    fields = {"text": "4", "value": 1.0, **{k: v for k, v in changes.items() if k == "of"}}
    bad = turn("x", **fields).replace(**{k: v for k, v in changes.items() if k != "of"})
    with pytest.raises(LeakError, match="excluded item 't'"):
        pairs([turn("1", "4", 1.0), turn("2", "5", 0.0), bad])


def test_families_take_turns_where_an_item_has_too_many() -> None:
    def family(parent: str, wrong: str) -> list[Trace]:
        right = turn(f"{parent}+", f"{parent} right", 1.0, parents=(parent,))
        return [right, *(turn(parent + w, parent + w, 0.0, parents=(parent,)) for w in wrong)]

    found = pairs([*family("p", "123"), *family("q", "1")], max_per_item=2)
    assert found == [("p right", "p1"), ("q right", "q1")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "random"}, "select is 'random'"),
        ({"margin": 0.0}, "margin is 0.0"),
        ({"ratio": 0.5}, "ratio 0.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"max_per_item": 0}, "max_per_item is 0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pairs([turn("1", "4", 1.0), turn("2", "5", 0.0)], **options)


def test_pairs_are_recorded_with_both_turns() -> None:
    with Database.open(":memory:") as database:
        TraceStore(database).add([turn("1", "4", 1.0), turn("2", "5", 0.0)])
        data = pairs_dataset(TraceStore(database).find(), items=ITEMS, exclude=TEST, database=database)
        (artifact,) = Artifacts(database).find()
        assert artifact.id == dataset_manifest(data).digest
        assert artifact.sources == ("1", "2")
