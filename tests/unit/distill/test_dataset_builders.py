"""The other builders: labels, prompts, classes, contrast, lessons, and weights and conversations for SFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from docendo.distill import (
    classification_dataset,
    contrastive_dataset,
    dataset_manifest,
    encode,
    lessons_dataset,
    prompts_dataset,
    sft_dataset,
    unpaired_dataset,
)
from docendo.errors import ConfigError, DataError, LeakError
from docendo.memory import Artifacts, Blackboard, KnowledgeBase, StrategyLibrary, TraceStore
from docendo.records import Author, Gold, Item, Message, PublicItem, Trace

TEACHER, CHECKER = Author(agent="teacher", role="teacher"), Author(agent="checker", role="code")


class Prompter:
    def messages(self, item: PublicItem) -> tuple[Message, ...]:
        return ({"role": "system", "content": "Be brief."}, {"role": "user", "content": item.question})


def item(name: str, question: str, split: Any = "train") -> Item:
    return Item(public=PublicItem(id=name, question=question, split=split), gold=Gold("4"))


ITEMS = [item("a", "2 + 2"), item("b", "1 + 3")]
TEST = [item("t", "Add these numbers:\n7 + 8", "test")]
COMMON: dict[str, Any] = {"items": ITEMS, "exclude": TEST}


def turn(name: str, text: str, value: float | None = 1.0, of: str = "a", **changes: Any) -> Trace:
    fields: dict[str, Any] = {
        "id": name,
        "run": "r",
        "item": of,
        "author": Author(agent="student", role="student"),
        "messages": ({"role": "user", "content": f"item {of}"},),
        "completion": text,
        "split": "train",
        "rewards": {} if value is None else {"verified": value},
    }
    return Trace(**{**fields, **changes})


def left_out(data: Any) -> dict[str, int]:
    return dict(dataset_manifest(data).left_out)


class TestUnpaired:
    def test_answers_are_labelled_and_limited_by_item_and_label(self) -> None:
        traces = [turn(text, text, float(text in "AB")) for text in "ABxyz"]
        data = unpaired_dataset([*traces, turn("A2", "A"), turn("?", "?", None)], max_per_item=2, **COMMON)
        assert [(row["completion"][0]["content"], row["label"]) for row in data] == [
            ("A", True),
            ("B", True),
            ("x", False),
            ("y", False),
        ]
        assert left_out(data) == {"over 2 per item": 1, "repeated": 1, "without the reward verified": 1}
        assert data[0]["prompt"] == [{"role": "user", "content": "item a"}]

    def test_a_good_answer_that_was_not_promoted_is_no_row(self) -> None:
        data = unpaired_dataset(
            [turn("1", "4", trust="unverified"), turn("2", "5", 0.0, trust="unverified")],
            quiet=True,
            **COMMON,
        )
        assert data["label"][:] == [False]
        assert left_out(data) == {"not promoted": 1}


class TestPrompts:
    def test_items_become_the_students_prompts(self) -> None:
        items = [*ITEMS, item("d", "9 + 9", "dev")]
        data = prompts_dataset(items=items, exclude=TEST, student=Prompter(), answer=lambda one: one.id * 2)
        assert data[0] == {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2"}],
            "answer": "aa",
            "item": "a",
            "traces": [],
            "posts": [],
        }
        assert data["item"][:] == ["a", "b"]
        manifest = dataset_manifest(data)
        assert (manifest.seen, manifest.kept, dict(manifest.left_out)) == (3, 2, {"of split dev": 1})

    def test_prompts_that_were_sent_are_kept_once(self) -> None:
        other: tuple[Message, ...] = ({"role": "user", "content": "Check 5 for item a"},)
        traces = [turn("1", "x", None), turn("2", "y", None), turn("3", "z", None, messages=other)]
        data = prompts_dataset(traces, **COMMON)
        assert [row["prompt"][0]["content"] for row in data] == ["item a", "Check 5 for item a"]
        assert data["traces"][:] == [["1"], ["3"]]
        assert left_out(data) == {"repeated": 1}

    def test_leaks_and_missing_students_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="neither traces nor a student"):
            prompts_dataset(**COMMON)
        with pytest.raises(LeakError, match="training item 't2'"):
            prompts_dataset(items=[item("t2", "add these numbers:  7 + 8")], exclude=TEST, student=Prompter())
        with pytest.raises(LeakError, match="row of items a"):
            prompts_dataset(answer=lambda one: "Not add these numbers: 7 + 8", student=Prompter(), **COMMON)


class TestClassification:
    def test_what_was_said_is_the_class(self) -> None:
        messages: tuple[Message, ...] = (
            {"role": "system", "content": "Judge."},
            {"role": "user", "content": "Is 5 right?"},
        )
        data = classification_dataset(
            [
                turn("1", "no\n", None, messages=messages),
                turn("2", "maybe", None),
                turn("3", "yes", None, of="b"),
            ],
            labels=["yes", "no"],
            **COMMON,
        )
        assert [(row["text"], row["label"], row["item"]) for row in data] == [
            ("Is 5 right?", 1, "a"),
            ("item b", 0, "b"),
        ]
        assert left_out(data) == {"without a label": 1}
        assert dataset_manifest(data).settings["labels"] == ["yes", "no"]

    def test_probabilities_stand_in_the_order_of_the_labels(self) -> None:
        probs = {"1": {"no": 0.25, "yes": 0.75}, "2": {"no": 1.0}, "3": None}
        data = classification_dataset(
            [turn(name, "", None, of=of) for name, of in (("1", "a"), ("2", "b"), ("3", "b"))],
            labels=["yes", "no"],
            label_probs=lambda trace: probs[trace.id],
            **COMMON,
        )
        assert data["label"][:] == [0, 1]
        assert data["label_probs"][:] == [[0.75, 0.25], [0.0, 1.0]]
        named = classification_dataset(
            [turn("1", "", 0.7), turn("2", "", 0.2, of="b")],
            labels=["yes", "no"],
            label=lambda trace: "no",
            label_probs=lambda trace: probs[trace.id],
            reward="verified",
            threshold=0.5,
            **COMMON,
        )
        assert (named["label"][:], left_out(named)) == ([1], {"below verified 0.5": 1})

    @pytest.mark.parametrize(
        "probs", [{"yes": 0.5, "no": 0.6}, {"yes": -1.0, "no": 2.0}, {"yes": float("nan")}, {"perhaps": 1.0}]
    )
    def test_what_is_no_distribution_is_refused(self, probs: dict[str, float]) -> None:
        with pytest.raises(DataError, match="label_probs of trace '1'"):
            classification_dataset(
                [turn("1", "yes", None)], labels=["yes", "no"], label_probs=lambda trace: probs, **COMMON
            )

    @pytest.mark.parametrize("labels", ["yes", ["yes"], ["yes", "yes"], ["yes", ""]])
    def test_labels_are_different_texts(self, labels: Any) -> None:
        with pytest.raises(ConfigError, match="labels is"):
            classification_dataset([turn("1", "yes", None)], labels=labels, **COMMON)


class TestContrastive:
    def test_each_good_answer_is_an_anchor_with_the_others_and_the_bad_ones(self) -> None:
        traces = [turn(text, text, float(text in "ABC")) for text in "ABCvwxyz"]
        alone = [turn("b1", "D", of="b"), turn("b2", "u", 0.0, of="b")]
        data = contrastive_dataset([*traces, *alone], max_per_item=2, max_positives=1, **COMMON)
        assert [(r["completion"][0]["content"], r["positives"], r["negatives"]) for r in data] == [
            ("A", ["B"], ["v", "w", "x", "y"]),
            ("B", ["A"], ["v", "w", "x", "y"]),
        ]
        assert data[0]["traces"] == ["A", "B", "v", "w", "x", "y"]
        assert left_out(data) == {"over 2 per item": 1, "over 4 negatives": 1, "without a counterpart": 2}

    def test_answers_to_other_prompts_come_together_under_a_students_prompt(self) -> None:
        hint: tuple[Message, ...] = ({"role": "user", "content": "By a hint"},)
        traces = [turn("1", "4", messages=hint), turn("2", "four"), turn("3", "5", 0.0)]
        with pytest.raises(DataError, match="3 without a counterpart"):
            contrastive_dataset(traces, **COMMON)
        data = contrastive_dataset(traces, student=Prompter(), **COMMON)
        assert (
            data["prompt"][0] == data["prompt"][1] == [dict(m) for m in Prompter().messages(ITEMS[0].public)]
        )

    def test_limits_are_checked(self) -> None:
        with pytest.raises(ConfigError, match="max_negatives 0"):
            contrastive_dataset([turn("1", "4")], max_negatives=0, **COMMON)


def lessons_dataset_or_none(board: Blackboard) -> Any:
    try:
        return lessons_dataset(board, quiet=True, **COMMON)
    except DataError:
        return None


class TestLessons:
    def test_promoted_lessons_become_rows_with_what_they_are_from(self) -> None:
        with Blackboard.open(":memory:") as board:
            TraceStore(board.database).add([turn("1", "Carry.")])
            lesson = board.post(
                "lesson", {"text": " Carry. "}, author=TEACHER, key="1", item="a", traces=["1"]
            )
            raw = board.post("lesson", {"text": "Guess."}, author=TEACHER, key="2", item="a")
            board.post("lesson", {"text": "Lost."}, author=TEACHER, key="3", item="zzz")
            bare = KnowledgeBase(board).write("Of no item.", author=TEACHER, key="4")
            library = StrategyLibrary(board)
            strategy = library.add("a long sum", "Split it.", author=TEACHER, key="5")
            for post in (lesson, bare, strategy):
                board.trust(post.id, "verified", by=CHECKER, reason="read")
            data = lessons_dataset(board, database=board.database, quiet=True, **COMMON)
            assert [(row["completion"][0]["content"], row["item"]) for row in data] == [
                ("Carry.", "a"),
                ("Split it.", ""),
            ]
            assert data[0]["prompt"][0]["content"].endswith("\n\n2 + 2")
            assert data[1]["prompt"][0]["content"].endswith("\n\na long sum")
            assert (data[0]["traces"], data[0]["posts"]) == (["1"], [lesson.id])
            assert left_out(data) == {"not promoted": 1, "of other items": 1, "without a prompt": 1}
            board.quarantine(strategy.id, by=CHECKER, reason="wrong")
            assert [one.id for one in Artifacts(board.database).find()] == [dataset_manifest(data).digest]
            again = lessons_dataset(
                [raw, *board.posts()],
                prompt=lambda post: [{"role": "user", "content": f"Lesson {post.key}?"}],
                quiet=True,
                **COMMON,
            )
            assert [row["completion"][0]["content"] for row in again] == ["Carry.", "Of no item."]
            assert left_out(again)["quarantined"] == 1

    def test_a_post_that_is_given_twice_is_counted_twice_and_learnt_once(self) -> None:
        with Blackboard.open(":memory:") as board:
            post = board.post("lesson", {"text": "Carry."}, author=TEACHER, key="1", item="a")
            board.trust(post.id, "verified", by=CHECKER, reason="read")
            data = lessons_dataset([*board.posts(), *board.posts()], quiet=True, **COMMON)
            assert len(data) == 1
            assert left_out(data) == {"given twice": 1}

    @pytest.mark.parametrize("how", ["its own turn", "a post before it"])
    def test_a_lesson_that_was_drawn_from_a_test_item_is_a_leak(self, how: str) -> None:
        with Blackboard.open(":memory:") as board:
            TraceStore(board.database).add([turn("1", "15, by carrying.", of="t", split="test")])
            first = board.post("answer", {"text": "15"}, author=TEACHER, key="1", traces=["1"])
            link: dict[str, Any] = {"traces": ["1"]} if how == "its own turn" else {"parents": [first.id]}
            lesson = board.post("lesson", {"text": "Carry."}, author=TEACHER, key="2", item="a", **link)
            assert lessons_dataset_or_none(board) is None, "not promoted, so it is left out"
            board.trust(first.id, "verified", by=CHECKER, reason="read")
            board.trust(lesson.id, "verified", by=CHECKER, reason="read")
            with pytest.raises(LeakError, match="was made on the excluded item 't'"):
                lessons_dataset(board, **COMMON)

    def test_a_lesson_that_repeats_a_test_question_is_a_leak(self) -> None:
        with Blackboard.open(":memory:") as board:
            board.post("lesson", {"text": "Add these numbers: 7 + 8 is 15"}, author=TEACHER, key="1")
            with pytest.raises(LeakError, match="excluded item 't'"):
                lessons_dataset(board, **COMMON)
        with pytest.raises(DataError, match="a post is 'x'"):
            lessons_dataset(["x"], **COMMON)  # type: ignore[list-item]


class TestWeights:
    def test_a_number_a_reward_or_a_function(self) -> None:
        traces = [turn("1", "4", rewards={"verified": 1.0, "style": 0.5}), turn("2", "four")]
        common: dict[str, Any] = {"student": None, **COMMON}
        assert sft_dataset(traces, weight=2, **common)["weight"][:] == [2.0, 2.0]
        by_name = sft_dataset(traces, weight="style", **common)
        assert (by_name["weight"][:], left_out(by_name)) == ([0.5], {"without the reward style": 1})
        by_function = sft_dataset(traces, weight=lambda trace: float(trace.id == "2"), **common)
        assert (by_function["trace"][:], left_out(by_function)) == (["2"], {"of weight 0": 1})
        for bad in (float("nan"), -1.0, "1"):
            with pytest.raises(DataError, match="weight of trace '1'"):
                sft_dataset(traces, weight=lambda trace, bad=bad: bad, **common)  # type: ignore[misc]


def conversation() -> list[Trace]:
    """A wrong call, what the tool said, a better call, what it said, and the answer; each turn is a trace."""
    ask: Message = {"role": "user", "content": "By the tool: item a"}
    first, second = "call(2)", "call(2, 2)"
    so_far: list[Message] = [ask, {"role": "assistant", "content": first}, {"role": "tool", "content": "?"}]
    later: list[Message] = [
        *so_far,
        {"role": "assistant", "content": second},
        {"role": "tool", "content": "4"},
    ]
    return [
        turn("1", first, 0.0, messages=(ask,)),
        turn("2", second + "\n", None, messages=tuple(so_far), parents=("1",)),
        turn("3", "Answer: 4", 1.0, messages=tuple(later), parents=("2",)),
    ]


class TestConversations:
    def build(self, traces: list[Trace], **options: Any) -> Any:
        return sft_dataset(traces, **{"student": None, "conversations": True, **COMMON, **options})

    def test_the_students_good_turns_are_learnt_and_all_else_is_context(self) -> None:
        data = self.build(conversation())
        (row,) = data
        assert [message["content"] for message in row["prompt"]] == ["By the tool: item a", "call(2)", "?"]
        assert row["completion"] == [
            {"role": "assistant", "content": "call(2, 2)", "learn": True},
            {"role": "tool", "content": "4", "learn": False},
            {"role": "assistant", "content": "Answer: 4", "learn": True},
        ]
        assert (row["trace"], row["traces"], row["weight"]) == ("3", ["1", "2", "3"], 1.0)
        assert left_out(data) == {"below verified 1": 1, "without the reward verified": 1}

    def test_tokens_of_the_row_are_those_that_were_served(self, tiny_model_dir: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        ((example,), _) = encode(self.build(conversation()), tokenizer)
        assert example.mask is not None
        learnt = [token for token, on in zip(example.completion, example.mask, strict=True) if on]
        assert tokenizer.decode(learnt) == "call(2, 2)<|im_end|>Answer: 4<|im_end|>"

    def test_the_students_own_prompt_opens_the_conversation(self) -> None:
        row = self.build(conversation(), student=Prompter())[0]
        assert [message["content"] for message in row["prompt"]] == ["Be brief.", "2 + 2", "call(2)", "?"]

    def test_turns_of_others_that_look_like_the_students_are_context(self) -> None:
        traces = conversation()
        traces[1] = traces[1].replace(author=Author(agent="tutor", role="tutor"))
        row = self.build(traces, role="student")[0]
        assert [message["content"] for message in row["completion"]] == ["Answer: 4"]
        assert row["traces"] == ["1", "3"]

    def test_turns_with_space_around_them_are_context(self) -> None:
        traces = conversation()
        messages = tuple(
            {**message, "content": "\n" + message["content"]} if at == 3 else message
            for at, message in enumerate(traces[2].messages)
        )
        (row,) = self.build([*traces[:2], traces[2].replace(messages=messages)])
        assert row["traces"] == ["1", "2", "3"]
        assert [message["content"] for message in row["completion"]] == ["Answer: 4"]
        assert row["prompt"][3]["content"] == "\ncall(2, 2)"

    def test_turns_of_unverified_posts_are_context_and_quarantined_ones_end_it(self) -> None:
        traces = conversation()
        traces[1] = traces[1].replace(trust="unverified")
        assert [m["content"] for m in self.build(traces)[0]["completion"]] == ["Answer: 4"]
        traces[1] = traces[1].replace(trust="quarantined")
        with pytest.raises(DataError, match="2 quarantined"):
            self.build(traces, quiet=True)

    def test_one_row_for_each_branch_and_none_for_its_parts(self) -> None:
        traces = [trace.replace(rewards={"verified": 1.0}) for trace in conversation()]
        other = traces[2].replace(id="3b", completion="Answer: four")
        data = self.build([*traces, other])
        assert data["trace"][:] == ["3", "3b"]
        assert [[m["learn"] for m in row["completion"]] for row in data] == [[True, False] * 2 + [True]] * 2
        manifest = dataset_manifest(data)
        assert (manifest.kept, dict(manifest.left_out)) == (4, {})
