"""Scores of a selector as rewards of turns, and the world in which a student prefers a style."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from docendo import Agent, ScriptedEngine
from docendo.distill import InContextPreference, Shuffled, pairs_dataset, reward_traces
from docendo.distill.recipes import _styles as world
from docendo.errors import ConfigError, DataError
from docendo.records import Author, Gold, Item, PublicItem, Request, Trace

ITEMS = [
    Item(public=PublicItem(id=name, question=f"{name} + 2", split="train"), gold=Gold("4")) for name in "ab"
]


def turn(item: str, text: str) -> Trace:
    return Trace(
        id=f"{item}: {text}",
        run="r",
        item=item,
        split="train",
        completion=text,
        rewards={"verified": 1.0},
        author=Author(agent="t", role="teacher"),
        messages=({"role": "user", "content": f"{item} + 2"},),
    )


TURNS = [turn(item, text) for item in "ab" for text in ("in steps", "at once", "")]


def student(request: Request) -> str:
    """Answers a probe after an example that was worked out in steps."""
    return "right" if "in steps" in str(request.prompt) else "wrong"


def taste() -> InContextPreference:
    probes = [{"prompt": [{"role": "user", "content": f"probe {n}"}], "completion": "right"} for n in "xy"]
    return InContextPreference(
        ScriptedEngine(student), probes, correct=lambda row, text: text == row["completion"], quiet=True
    )


def test_preferences_become_rewards_and_pairs_and_what_has_no_score_is_left_out() -> None:
    liked = reward_traces(TURNS, taste())
    assert [(trace.completion, trace.rewards) for trace in liked] == [
        ("in steps", {"verified": 1.0, "preference": 1.0}),
        ("at once", {"verified": 1.0, "preference": 0.0}),
    ] * 2
    assert TURNS[0].rewards == {"verified": 1.0}
    options: dict[str, Any] = {"items": ITEMS, "exclude": [], "select": "top_bottom", "reward": "preference"}
    pairs = pairs_dataset(liked, **options, student=Agent(ScriptedEngine([])))
    assert [row["chosen"][0]["content"] for row in pairs] == ["in steps"] * 2
    assert [row["rejected"][0]["content"] for row in pairs] == ["at once"] * 2


def test_shuffled_preferences_are_the_same_numbers_of_others() -> None:
    many = [turn(item, f"{how} {n}") for item in "ab" for how in ("in steps", "at once") for n in range(5)]
    real, control = (reward_traces(many, one) for one in (taste(), Shuffled(taste(), seed=3)))
    scores = [[trace.rewards["preference"] for trace in found] for found in (real, control)]
    assert sorted(scores[0]) == sorted(scores[1])
    assert scores[0] != scores[1]


def test_no_name_and_no_turns_are_refused() -> None:
    with pytest.raises(ConfigError, match="the reward has no name"):
        reward_traces(TURNS, taste(), reward="")
    with pytest.raises(DataError):
        reward_traces([], taste())


def test_a_student_calculates_rightly_in_its_own_style_alone() -> None:
    rng = np.random.default_rng(0)
    rows = world.student_rows(4, {"1+1+1+1"}, own=2)(rng, 400)
    right: dict[int | None, list[bool]] = {}
    for prompt, said in rows:
        question = prompt.split("G")[-1].rstrip(":")
        style = world.style_of(said)
        right.setdefault(style, []).append(world.right(question, said))
        if prompt.count("G") == 2:
            example = prompt.split("G")[1]
            assert world.style_of(example.split(":")[1]) == style
    assert all(right[2])
    assert all(sum(right[other]) < 0.8 * len(right[other]) for other in (0, 1, 3))
    assert {world.style_of(said) for _, said in world.teacher_rows(4, ())(rng, 50)} == {0, 1, 2, 3}
