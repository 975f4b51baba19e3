"""Which choice a model finds likeliest, and what it is asked."""

import math
import random

import numpy as np
import pytest

from docendo.errors import ConfigError, DataError
from docendo.evals import choice_prompts, make_item, pick


def test_a_choice_is_asked_as_running_text():
    item = make_item("Which is red?\n", "B", choices=["grass", "blood"])
    assert choice_prompts(item) == ("Which is red?", (" grass", " blood"))
    assert choice_prompts(item, gap="") == ("Which is red?", ("grass", "blood"))
    with pytest.raises(DataError, match="has no choices"):
        choice_prompts(make_item("Which is red?", "blood"))


def test_each_norm_picks_as_the_definitions_of_lm_eval_say():
    draw = random.Random(0)
    for _ in range(200):
        choices = ["".join(draw.choices("aé☃ ", k=draw.randint(1, 9))) for _ in range(4)]
        logprobs = [draw.uniform(-30, -1) for _ in choices]
        alone = [draw.uniform(-30, -1) for _ in choices]
        tokens = [draw.randint(1, 9) for _ in choices]
        sums = np.array(logprobs)
        assert pick(logprobs) == np.argmax(sums)
        lengths = np.array([float(len(choice)) for choice in choices])
        assert pick(logprobs, norm="characters", choices=choices) == np.argmax(sums / lengths)
        sizes = np.array([float(len(choice.encode())) for choice in choices])
        assert pick(logprobs, norm="bytes", choices=choices) == np.argmax(sums / sizes)
        assert pick(logprobs, norm="tokens", tokens=tokens) == np.argmax(sums / np.array(tokens))
        assert pick(logprobs, norm="unconditional", unconditional=alone) == np.argmax(sums - np.array(alone))


def test_equal_empty_and_impossible_choices():
    assert pick([-2.0, -1.0, -1.0]) == 1
    assert pick([-1.0, -3.0], norm="bytes", choices=["", "abc"]) == 0
    assert pick([-math.inf, -9.0], norm="bytes", choices=["a", "b"]) == 1
    assert pick([-math.inf, -math.inf]) == 0


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"logprobs": []}, DataError, "no choice to pick"),
        ({"logprobs": [-1.0], "norm": "letters"}, ConfigError, "norm is 'letters'; expected one of none"),
        ({"logprobs": [-1.0, -2.0], "norm": "tokens", "tokens": [1]}, DataError, "2 log-probabilities and 1"),
        ({"logprobs": [-1.0, math.nan]}, DataError, "is NaN"),
        (
            {"logprobs": [-math.inf], "norm": "unconditional", "unconditional": [-math.inf]},
            DataError,
            "infinite without the question",
        ),
    ],
)
def test_what_cannot_be_picked_from(options, error, line):
    with pytest.raises(error, match=line):
        pick(**options)
