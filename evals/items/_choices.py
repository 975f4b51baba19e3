"""Multiple choice by likelihood: what a model scores for each choice, and which choice that picks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Literal, get_args

from docendo.checks import short
from docendo.errors import ConfigError, DataError
from docendo.evals.items._given import given_items
from docendo.evals.items._scorer import stem
from docendo.records import Item

#: How log-likelihoods of choices of unlike length are made comparable.
Norm = Literal["none", "characters", "bytes", "tokens", "unconditional"]


def choice_prompts(item: Item, *, gap: str = " ") -> tuple[str, tuple[str, ...]]:
    """The question without the list of its choices, and the text of each choice as it would follow.

    As in lm-eval, the space between belongs to the choice: a tokenizer that joins a space with the word after
    it then sees the choice as it stands in running text.

    Args:
        item: An item of multiple choice.
        gap: What is between: a space after plain text, nothing after a chat template.

    Raises:
        DataError: if it is no item, or has no choices.

    Example:
        >>> from docendo.evals import make_item
        >>> choice_prompts(make_item("Which is red?", "B", choices=["grass", "blood"]))
        ('Which is red?', (' grass', ' blood'))
    """
    (item,) = given_items((item,), "item")
    if not item.public.choices:
        raise DataError(f"item {item.id} has no choices", expected="an item of multiple choice")
    return stem(item.public), tuple(f"{gap}{choice}" for choice in item.public.choices)


def pick(
    logprobs: Sequence[float],
    *,
    norm: Norm = "none",
    choices: Sequence[str] = (),
    tokens: Sequence[int] = (),
    unconditional: Sequence[float] = (),
) -> int:
    """The place of the likeliest choice, from 0; of equal ones the first.

    Args:
        logprobs: Sum of the log-probabilities of each choice's tokens after the question, in nats.
        norm: What a sum is divided by. "none": nothing (`acc` of lm-eval). "characters" and "bytes": the
            length of the choice without the space before it (`acc_norm` and `acc_bytes`). "tokens": the
            number of its tokens. "unconditional": subtracts the log-probability of the choice without the
            question, which is their pointwise mutual information (Holtzman et al., 2021, arXiv:2104.08315;
            `acc_mutual_info`).
        choices: Texts of the choices, for "characters" and "bytes".
        tokens: Numbers of tokens, for "tokens".
        unconditional: Log-probabilities without the question, for "unconditional".

    Raises:
        ConfigError: if `norm` is none of these.
        DataError: if something is of another type, there are not as many of each, or one is NaN.

    Example:
        >>> pick([-4.0, -6.0]), pick([-4.0, -6.0], norm="tokens", tokens=[1, 3])
        (0, 1)
    """
    if norm not in get_args(Norm):
        raise ConfigError(f"norm is {short(norm)}", expected=f"one of {', '.join(get_args(Norm))}")
    totals = _numbers(logprobs, "logprobs")
    if not totals:
        raise DataError("there is no choice to pick", expected="at least one log-probability")
    if not isinstance(choices, (list, tuple)) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"choices is {short(choices)}", expected="a sequence of texts")
    scales: dict[str, Sequence[float]] = {
        "none": [1.0] * len(totals),
        "characters": [len(choice) for choice in choices],
        "bytes": [len(choice.encode("utf-8", "surrogatepass")) for choice in choices],
        "tokens": _numbers(tokens, "tokens"),
        "unconditional": _numbers(unconditional, "unconditional"),
    }
    scale = scales[norm]
    if len(scale) != len(totals):
        raise DataError(f"there are {len(totals)} log-probabilities and {len(scale)} for {norm!r}")
    if norm == "unconditional":
        judged = [total - alone for total, alone in zip(totals, scale, strict=True)]
    else:
        # An empty choice has no length; its sum of nothing is what it is.
        judged = [total / (length or 1) for total, length in zip(totals, scale, strict=True)]
    if any(math.isnan(value) for value in judged):
        raise DataError("a log-probability is NaN, or infinite without the question", expected="numbers")
    return max(range(len(judged)), key=judged.__getitem__)


def _numbers(values: object, name: str) -> list[float]:
    found = list(values) if isinstance(values, Iterable) else [None]
    try:
        numbers = [float(value) for value in found if isinstance(value, Real)]
    except OverflowError:
        numbers = []
    if len(numbers) < len(found):
        raise DataError(f"{name} is {short(values)}", expected="a sequence of numbers")
    return numbers
