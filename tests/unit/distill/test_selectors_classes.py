"""LLKD: thresholds and weights by hand, state, and its control."""

from __future__ import annotations

import json
from math import exp, log
from typing import Any

import pytest

from docendo.agents import ScriptedEngine
from docendo.distill import LLKD, Shuffled, label_probs
from docendo.errors import CapabilityError, ConfigError, DataError
from docendo.records import Capabilities, ScoreRequest


def entropy(*shares: float) -> float:
    return -sum(p * log(p) for p in shares if p) / log(len(shares))


def row(name: str, teacher: float, student: float) -> dict[str, Any]:
    return {
        "prompt": name,
        "label_probs": {"yes": teacher, "no": 1 - teacher},
        "student_probs": {"yes": student, "no": 1 - student},
    }


FIRST = [row("a", 0.9, 0.5), row("b", 0.8, 0.9), row("c", 0.3, 0.4), row("d", 0.49, 0.5)]
SECOND = [row("e", 0.95, 0.6), row("f", 0.6, 0.5)]


def test_thresholds_are_those_of_a_hand_calculation() -> None:
    table = LLKD().score(FIRST)
    sure = [0.9, 0.8, 0.7, 0.51]  # a, b: yes; c, d: no
    unsure = [1.0, entropy(0.9, 0.1), entropy(0.4, 0.6), 1.0]
    overall = sum(sure) / 4
    yes, no = (0.9 + 0.8) / 2, (0.7 + 0.51) / 2
    high = [overall, overall, overall * no / yes, overall * no / yes]
    doubt, doubt_yes, doubt_no = sum(unsure) / 4, sum(unsure[:2]) / 2, sum(unsure[2:]) / 2
    low = [doubt * doubt_yes / doubt_no] * 2 + [doubt] * 2
    assert table.columns["confidence"] == pytest.approx(sure)
    assert table.columns["uncertainty"] == pytest.approx(unsure)
    assert table.columns["confidence_threshold"] == pytest.approx(high)
    assert table.columns["uncertainty_threshold"] == pytest.approx(low)
    assert table.scores == pytest.approx(
        [min(c - s, u - t) for c, s, u, t in zip(sure, high, unsure, low, strict=True)]
    )
    # b is what the student is sure of already; d is what the teacher is not sure of.
    chosen = LLKD().select(FIRST)
    assert chosen.indices == (0, 2)
    assert chosen.weights == pytest.approx((0.9, 0.7 * unsure[2]))


def test_means_move_by_the_decay() -> None:
    selector = LLKD(decay=0.5)
    selector.score(FIRST)
    table = selector.score(SECOND)
    before, now = (0.9 + 0.8 + 0.7 + 0.51) / 4, (0.95 + 0.6) / 2
    # Both new rows are "yes", whose mean is the highest of all labels.
    assert table.columns["confidence_threshold"] == pytest.approx([0.5 * before + 0.5 * now] * 2)


@pytest.mark.parametrize(
    ("weight", "expected"), [("mean", (0.9 + 1) / 2), ("confidence", 0.9), ("uncertainty", 1.0)]
)
def test_other_weights(weight: Any, expected: float) -> None:
    assert LLKD(weight=weight).select(FIRST).weights[0] == pytest.approx(expected)


def test_a_state_that_was_stored_goes_on_as_if_nothing_had_happened() -> None:
    one, two = LLKD(), LLKD()
    one.score(FIRST)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert one.score(SECOND) == two.score(SECOND)
    assert one.state_dict() == two.state_dict()
    assert LLKD().score(SECOND) != two.score(SECOND)
    with pytest.raises(DataError, match="cannot be read"):
        two.load_state_dict({"confidence": {}})


def test_a_student_that_is_sure_of_everything_stops_nothing() -> None:
    rows = [row("a", 0.9, 1.0), row("b", 0.9, 0.0)]
    assert LLKD().select(rows).weights == (0.0, 0.0)


def test_the_control_keeps_as_many_rows_with_the_same_weights() -> None:
    rows = [row(str(n), 0.5 + n / 100, 0.5 + (7 * n % 50) / 100) for n in range(50)]
    real = LLKD().select(rows)
    controls = [Shuffled(LLKD(), seed=seed).select(rows) for seed in range(3)]
    for control in controls:
        assert sorted(control.weights) == sorted(real.weights)
        assert control.indices != real.indices


def test_labels_are_scored_per_token_by_both_models() -> None:
    def says(request: ScoreRequest) -> float:
        # The long label has three words; its mean is what counts.
        return {"good": -1.0, "not so good": -6.0}[str(request.completion)]

    engine = ScriptedEngine([], name="teacher", scores=says)
    rows = [{"prompt": "fine"}, {"prompt": "bad"}]
    found = label_probs(rows, engine, ["good", "not so good"], quiet=True)
    share = exp(-1) / (exp(-1) + exp(-2))
    assert found[0] == pytest.approx({"good": share, "not so good": 1 - share})

    even = ScriptedEngine([], name="student", scores=lambda asked: -float(len(str(asked.completion).split())))
    table = LLKD(engine, even, labels=["good", "not so good"], quiet=True).score(rows)
    assert table.columns["confidence"] == pytest.approx((share, share))
    assert table.columns["uncertainty"] == pytest.approx((1.0, 1.0))
    assert table.usage.prompt_tokens == 2 * 2 * (1 + 1 + 1 + 3)


def test_what_cannot_be_asked_is_refused() -> None:
    engine = ScriptedEngine([])
    for labels in ([], ["a"], ["a", "a"], "ab", ["a", " "]):
        with pytest.raises(ConfigError):
            label_probs([{"prompt": "?"}], engine, labels)
    with pytest.raises(ConfigError, match="there are no labels"):
        LLKD(engine)
    with pytest.raises(ConfigError, match="decay is 1"):
        LLKD(decay=1)
    with pytest.raises(ConfigError, match="weight is"):
        LLKD(weight="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the teacher is a str"):
        LLKD("large", labels=["a", "b"])
    mute = ScriptedEngine([], capabilities=Capabilities(features=frozenset()))
    with pytest.raises(CapabilityError):
        LLKD(mute, labels=["a", "b"])
    with pytest.raises(DataError, match="student_probs of row 0"):
        LLKD().score([{"prompt": "?", "label_probs": {"a": 1.0, "b": 0.0}}])
