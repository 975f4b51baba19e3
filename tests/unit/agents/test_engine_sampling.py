"""Sampling: the distribution is the one asked for. Seeds are fixed, so nothing here is flaky."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from docendo.agents import Engine
from docendo.agents._sampling import draw, sample_seed, uniform
from docendo.records import Request, SamplingParams

DRAWS = 20_000
LIKELY = [0.5, 0.25, 0.15, 0.07, 0.03]


def frequencies(logits: torch.Tensor, history: tuple[int, ...] = (), **options: Any) -> Counter[int]:
    """Token counts over many seeds, all drawn in one batch."""
    params = SamplingParams(**{"temperature": 1.0, **options})
    batch = logits.expand(DRAWS, -1)
    drawn = draw(batch, [params] * DRAWS, range(DRAWS), [0] * DRAWS, [history] * DRAWS)
    return Counter(drawn.tokens)


def check(seen: Counter[int], expected: Mapping[int, float]) -> None:
    support = {token for token, p in expected.items() if p > 0}
    assert set(seen) <= support, "a token of probability zero was drawn"
    tokens = sorted(support)
    if len(tokens) > 1:
        total = sum(expected.values())  # one but for rounding
        wanted = [expected[t] / total * DRAWS for t in tokens]
        assert chisquare([seen[t] for t in tokens], wanted).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, LIKELY),
        # Temperature 0.5 squares the probabilities: .25 .0625 .0225 .0049 .0009, sum .3408.
        (
            {"temperature": 0.5},
            [0.25 / 0.3408, 0.0625 / 0.3408, 0.0225 / 0.3408, 0.0049 / 0.3408, 0.0009 / 0.3408],
        ),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_k": 99}, LIKELY),
        # The smallest set with 0.6 is the first two: 0.5 alone is not enough.
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.8}, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0, 0]),
        # Less than 0.2 x 0.5 is dropped.
        ({"min_p": 0.2}, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]),
        # Top-k first: of the renormalised .556 .278 .167, 0.8 takes two.
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.97, "min_p": 0.31}, [0.5 / 0.75, 0.25 / 0.75, 0, 0, 0]),
    ],
)
def test_distribution_by_hand(options: dict[str, float], expected: list[float]) -> None:
    # Shuffled, so that rank and token id differ.
    order = [3, 0, 4, 1, 2]
    logits = torch.tensor([LIKELY[i] for i in order]).log()
    check(frequencies(logits, **options), {token: expected[i] for token, i in enumerate(order)})


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 7},
        {"temperature": 1.0, "top_p": 0.55},
        {"temperature": 2.0, "min_p": 0.2},
        {"temperature": 0.9, "top_k": 12, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.5},
    ],
)
def test_distribution_equals_transformers(options: dict[str, Any]) -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) * 2
    history = (1, 5, 5, 9, 30)
    steps = LogitsProcessorList()
    if "repetition_penalty" in options:
        steps.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    steps.append(TemperatureLogitsWarper(options["temperature"]))
    if "top_k" in options:
        steps.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        steps.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        steps.append(MinPLogitsWarper(options["min_p"]))
    wanted = torch.softmax(steps(torch.tensor([history]), logits), dim=-1)[0].tolist()
    check(frequencies(logits, history, **options), dict(enumerate(wanted)))


def test_engine_samples_from_the_models_distribution(
    make_engine: Callable[..., Engine], reference: Any
) -> None:
    """3,000 samples of one request, in many batches; also `n` far above `max_rows`."""
    engine = make_engine(max_rows=256)
    prompt = tuple(range(40, 70))
    result = engine.generate(
        Request(
            prompt=prompt, sampling=SamplingParams(max_tokens=1, temperature=1.0, n=3000, seed=3, top_k=12)
        )
    )
    with torch.inference_mode():
        table = torch.softmax(reference(torch.tensor([prompt])).logits[0, -1], dim=-1)
    best, order = table.topk(12)
    seen = Counter(c.token_ids[0] for c in result.completions)
    assert set(seen) <= set(order.tolist())
    wanted = best / best.sum() * 3000
    assert (
        chisquare([seen[t] for t in order.tolist()], wanted.double().tolist(), sum_check=False).pvalue > 1e-3
    )
    for completion in result.completions[:50]:  # log-probabilities are those before temperature and filters
        assert completion.logprobs[0] == pytest.approx(math.log(table[completion.token_ids[0]]), abs=1e-4)


def test_uniforms_are_uniform_and_independent() -> None:
    for values in (
        [uniform(seed, 0) for seed in range(5000)],
        [uniform(7, position) for position in range(5000)],
        [uniform(sample_seed(11, index), 0) for index in range(5000)],
    ):
        assert kstest(values, "uniform").pvalue > 1e-3
        left, right = torch.tensor(values[:-1]), torch.tensor(values[1:])
        assert abs(float(torch.corrcoef(torch.stack([left, right]))[0, 1])) < 0.05
        assert len(set(values)) == 5000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=30),
    st.floats(1e-40, 50, exclude_min=True),
    st.integers(0, 40),
    st.floats(0.001, 1.0),
    st.floats(0.0, 0.99),
    st.integers(-(2**63), 2**63 - 1),
)
def test_any_settings_draw_a_token_that_is_allowed(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    logits = torch.tensor([values])
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    drawn = draw(logits, [params], [seed], [0], [[]])
    token = drawn.tokens[0]
    assert 0 <= token < len(values)
    assert math.isfinite(drawn.logprobs[0])
    better = int((logits[0] > logits[0, token]).sum())
    assert better < (top_k or len(values))
    assert float(torch.softmax((logits[0] - logits[0].max()) / max(temperature, 1e-30), dim=-1)[token]) > 0


def test_tiny_temperatures_are_greedy() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.9]])
    for temperature in (1e-3, 1e-20, 1e-40, 5e-324):
        drawn = draw(logits, [SamplingParams(temperature=temperature)], [1], [0], [[]])
        assert drawn.tokens == [1]


def test_logits_that_are_not_finite_are_told_apart() -> None:
    rows = torch.tensor([[0.0, float("nan"), 1.0], [0.0, float("inf"), 1.0], [0.0, 2.0, 1.0]])
    for options in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 2}):
        drawn = draw(rows, [SamplingParams(**options)] * 3, [0, 0, 0], [0, 0, 0], [[]] * 3)
        assert [math.isfinite(value) for value in drawn.logprobs] == [False, False, True]
