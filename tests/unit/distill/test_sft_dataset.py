"""What may become training data, and what must not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from docendo.distill import sft_dataset
from docendo.errors import ConfigError, DataError, LeakError
from docendo.memory import Artifacts, Blackboard, TraceStore
from docendo.records import Author, Gold, Item, Message, PublicItem, Trace


class Prompter:
    """A student's prompt, without a model."""

    def messages(self, item: PublicItem) -> tuple[Message, ...]:
        return ({"role": "system", "content": "Be brief."}, {"role": "user", "content": item.question})


def item(name: str, question: str) -> Item:
    return Item(public=PublicItem(id=name, question=question), gold=Gold("4"))


def trace(name: str, of: str, text: str = "Answer: 4", **changes: Any) -> Trace:
    fields: dict[str, Any] = {
        "id": name,
        "run": "r",
        "item": of,
        "author": Author(agent="teacher", role="teacher"),
        "messages": ({"role": "user", "content": f"Example: 1 + 1\n\nNow teach item {of}."},),
        "completion": text,
        "split": "train",
        "rewards": {"verified": 1.0},
    }
    return Trace(**{**fields, **changes})


TRAIN = [item("a", "2 + 2"), item("b", "1 + 3")]
TEST = [item("t", "Add these numbers:\n7 + 8")]


def build(traces: Iterable[Trace], **options: Any) -> Any:
    options = {"student": Prompter(), "items": TRAIN, "exclude": TEST, **options}
    return sft_dataset(traces, **options)


def test_rows_hold_the_students_own_prompt_and_one_assistant_message() -> None:
    (row,) = build([trace("1", "a")])
    assert row == {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2"}],
        "completion": [{"role": "assistant", "content": "Answer: 4"}],
        "item": "a",
        "trace": "1",
        "posts": [],
        "weight": 1.0,
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"split": "test"}, "1 of split test"),
        ({"split": "user"}, "1 of split user"),
        ({"rewards": {}}, "1 without the reward verified"),
        ({"rewards": {"verified": 0.99}}, "1 below verified 1"),
        ({"rewards": {"verified": float("nan")}}, "1 below verified 1"),
        ({"completion": " \n"}, "1 empty"),
        ({"finish_reason": "length"}, "1 cut off"),
        ({"item": "unknown"}, "1 of other items"),
    ],
)
def test_unfit_traces_are_left_out_and_the_error_says_why(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        build([trace("1", "a", **changes)])
    assert build([trace("1", "a", **changes), trace("2", "b")])["trace"] == ["2"]


def test_no_traces_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no traces given"):
        build([])


def test_equal_answers_to_an_item_are_kept_once_and_at_most_max_per_item() -> None:
    texts = ["4", "4 ", "four", "IV", "2+2=4"]
    data = build([trace(str(n), "a", text) for n, text in enumerate(texts)], max_per_item=3)
    assert data["trace"] == ["0", "2", "3"]
    with pytest.raises(ConfigError, match="max_per_item is 0"):
        build([trace("1", "a")], max_per_item=0)


def test_order_follows_items_then_traces() -> None:
    given = [trace("1", "b", "x"), trace("2", "a", "y"), trace("3", "b", "z")]
    assert build(given)["trace"] == ["2", "1", "3"]
    assert build(iter(given)).to_list() == build(given).to_list()


def test_threshold_and_reward_name() -> None:
    given = [trace("1", "a", rewards={"style": 0.6}), trace("2", "b", rewards={"style": 0.4})]
    assert build(given, reward="style", threshold=0.5)["trace"] == ["1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"item": "t"},
        {
            "messages": (
                {"role": "user", "content": "Hint for Question: ADD these  numbers:\n\n7 + 8\nThink."},
            )
        },
        {"messages": ({"role": "user", "content": "Question: ADD these  numbers:\n\n7 + 8\nThink."},)},
        {"completion": "As with\nadd these numbers:\n7 + 8\nwe get 15"},
    ],
    ids=["by id", "inside a sentence", "in the prompt", "in the answer"],
)
def test_a_trace_of_an_excluded_item_is_a_leak(changes: dict[str, Any]) -> None:
    with pytest.raises(LeakError, match="excluded item 't'"):
        build([trace("ok", "b"), trace("1", "a", **changes)])


def test_a_leak_is_reported_even_if_the_trace_would_be_left_out() -> None:
    with pytest.raises(LeakError):
        build([trace("ok", "b"), trace("1", "t", rewards={"verified": 0.0})])


def test_items_that_are_also_excluded_are_a_leak() -> None:
    with pytest.raises(LeakError, match="'a2'"):
        build([trace("1", "a")], items=[*TRAIN, item("a2", "add THESE numbers:\n7  + 8")])


def test_part_of_an_excluded_question_is_no_leak() -> None:
    message: Message = {"role": "user", "content": "Add these numbers:\n7 + 88"}
    assert len(build([trace("1", "a", messages=(message,))])) == 1


@pytest.mark.parametrize(
    ("trust", "why"), [("quarantined", "1 quarantined"), ("unverified", "1 not promoted")]
)
def test_what_is_not_promoted_is_not_learnt(trust: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=why):
        build([trace("1", "a", trust=trust)])
    kept = build([trace("1", "a", trust=trust), trace("2", "b", trust="verified", posts=("p2",))])
    assert kept["trace"] == ["2"]
    assert kept["posts"] == [["p2"]]
    assert f"Of 2 traces left out: {why}." in capsys.readouterr().err
    build([trace("1", "a", trust=trust), trace("2", "b")], quiet=True)
    assert capsys.readouterr().err == ""


def test_an_equal_answer_that_was_promoted_is_learnt() -> None:
    traces = [trace("1", "a", trust="unverified"), trace("2", "a", trust="verified")]
    assert build(traces)["trace"] == ["2"]


def test_a_data_set_is_recorded_and_found_by_taint(database_url: str) -> None:
    with Blackboard.open(database_url) as board:
        TraceStore(board.database).add([trace("1", "a"), trace("2", "b"), trace("3", "b", "so 4")])
        teacher, checker = Author(agent="teacher", role="teacher"), Author(agent="checker", role="code")
        posts = [
            board.post("demonstration", {"text": "4"}, author=teacher, key=t, run="r", traces=[t])
            for t in ("1", "2")
        ]
        for post in posts:
            board.trust(post.id, "verified", by=checker, reason="right")
        made = build(TraceStore(board.database).find(), database=board.database)
        assert made["trace"] == ["1", "2"]
        (artifact,) = Artifacts(board.database).find()
        assert artifact.sources == ("1", "2")
        assert artifact.posts == tuple(post.id for post in posts)
        taint = board.quarantine(posts[0].id, by=checker, reason="an order")
        assert taint.rows == ((artifact.id, "1"),)
        assert build(TraceStore(board.database).find(), quiet=True)["trace"] == ["2"]
