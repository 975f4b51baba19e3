"""What the engine decodes: the same as transformers, whatever else is in the batch. float32, tiny models.

Tolerance: log-probabilities within 1e-4, tokens equal. The random models' likeliest token leads by far
more than that, so equal tokens are no matter of luck.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from docendo.agents import Engine
from docendo.records import Completion, Request, SamplingParams, ScoreRequest

CLOSE = 1e-4
Passes = Callable[[Engine], list[tuple[int, int]]]
Make = Callable[..., Engine]
Greedy = Callable[..., tuple[list[int], list[float]]]


def prompts(count: int, *, seed: int = 0, longest: int = 60) -> list[tuple[int, ...]]:
    """Random token ids of very different lengths, without the end token."""
    draw = random.Random(seed)
    return [tuple(draw.randrange(3, 259) for _ in range(draw.randint(1, longest))) for _ in range(count)]


def request(prompt: tuple[int, ...], **settings: Any) -> Request:
    return Request(prompt=prompt, sampling=SamplingParams(**{"max_tokens": 12, **settings}))


def same(left: Completion, right: Completion) -> None:
    assert left.token_ids == right.token_ids
    assert (left.text, left.finish_reason) == (right.text, right.finish_reason)
    assert left.logprobs == pytest.approx(right.logprobs, abs=CLOSE)


def test_ragged_batch_equals_transformers(
    engine: Engine, reference: Any, greedy_by_transformers: Greedy, watch: Passes
) -> None:
    asked = prompts(24)
    passes = watch(engine)
    with engine.paused():
        futures = [engine.submit(request(p)) for p in asked]
    for prompt, future in zip(asked, futures, strict=True):
        tokens, logprobs = greedy_by_transformers(reference, list(prompt), 12)
        completion = future.result().completions[0]
        assert list(completion.token_ids) == tokens
        assert completion.logprobs == pytest.approx(logprobs, abs=CLOSE)
    assert max(rows for rows, _ in passes) >= 20, "they were not batched"
    assert len(passes) < 60


def test_single_requests_equal_the_batch(make_engine: Make) -> None:
    together, alone = make_engine(), make_engine(max_rows=1, prefix_tokens=0)
    asked = prompts(12, seed=1)
    with together.paused():
        futures = [together.submit(request(p)) for p in asked]
    for prompt, future in zip(asked, futures, strict=True):
        same(future.result().completions[0], alone.generate(request(prompt)).completions[0])


def test_rows_join_and_leave(make_engine: Make, watch: Passes) -> None:
    """Rows end at different steps and new ones arrive in between: no row may notice."""
    busy, alone = make_engine(max_rows=6), make_engine(max_rows=1, prefix_tokens=0)
    passes = watch(busy)
    draw = random.Random(2)
    asked = [request(p, max_tokens=draw.randint(1, 30)) for p in prompts(40, seed=2)]
    futures = []
    for one in asked:
        futures.append(busy.submit(one))
        time.sleep(draw.random() * 0.004)
    for one, future in zip(asked, futures, strict=True):
        same(future.result().completions[0], alone.generate(one).completions[0])
    decoded = [rows for rows, prompt in passes if not prompt]
    assert max(decoded) <= 6
    assert len(set(decoded)) >= 4, "the batch never changed its size"


def test_prefix_cache_changes_nothing(make_engine: Make) -> None:
    cached, plain = make_engine(), make_engine(prefix_tokens=0)
    shared = tuple(random.Random(3).randrange(3, 259) for _ in range(100))
    asked = [request(shared + tail) for tail in prompts(8, seed=3, longest=20)]
    asked += [request(shared), request((*shared[:60], 7, 8)), request(shared[:10])]
    reused = []
    for one in asked:
        left, right = cached.generate(one), plain.generate(one)
        same(left.completions[0], right.completions[0])
        assert right.usage.cached_tokens == 0
        reused.append(left.usage.cached_tokens)
    assert reused[0] == 0
    assert all(100 <= tokens < 110 for tokens in reused[1:8]), "tails were not kept apart"
    # The whole of each prompt is stored by now; its last token is always computed.
    again = [cached.generate(one).usage.cached_tokens for one in asked[:8]]
    assert again == [len(one.prompt) - 1 for one in asked[:8]]
    assert cached.generate(asked[8]).usage.cached_tokens == 99
    assert cached.generate(asked[9]).usage.cached_tokens == 61
    # A prompt shorter than a useful prefix is never stored.
    assert cached.generate(asked[10]).usage.cached_tokens == 0


def test_a_shared_beginning_is_computed_once_within_a_burst(make_engine: Make, watch: Passes) -> None:
    engine = make_engine()
    passes = watch(engine)
    shared = tuple(random.Random(4).randrange(3, 259) for _ in range(200))
    with engine.paused():
        futures = [engine.submit(request((*shared, 5 + i), max_tokens=2)) for i in range(10)]
    results = [future.result() for future in futures]
    assert [r.usage.cached_tokens for r in results] == [0] + [200] * 9
    assert sum(prompt for _, prompt in passes) < 2 * 201


MIXED = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 1.0, "seed": 2, "top_k": 3},
    {"temperature": 0.7, "seed": 3, "top_p": 0.4},
    {"temperature": 2.0, "seed": 4, "min_p": 0.3},
    {"temperature": 1.5, "seed": 5, "top_k": 20, "top_p": 0.8, "min_p": 0.01},
    {"repetition_penalty": 1.8},
    {"temperature": 1.0, "seed": 6, "repetition_penalty": 1.3, "n": 3},
    {"temperature": 1.0, "n": 4},
    {"temperature": 1.0, "seed": 7, "stop": ("a", "e", "i", "o", "u"), "max_tokens": 40},
    {"max_tokens": 1},
    {"temperature": 1e-6, "seed": 8},
    {"temperature": 3.0, "seed": 9, "max_tokens": 25},
    {"temperature": 1.0, "seed": 1},
]


def test_settings_do_not_bleed_between_rows(make_engine: Make) -> None:
    """Each row of a batch of mixed settings equals its single run, on the same and on other prompts."""
    together, alone = make_engine(), make_engine(max_rows=1, prefix_tokens=0)
    one, *others = prompts(len(MIXED) + 1, seed=5)
    for asked in ([one] * len(MIXED), others):
        requests = [request(p, **settings) for p, settings in zip(asked, MIXED, strict=True)]
        with together.paused():
            futures = [together.submit(r) for r in requests]
        results = [future.result() for future in futures]
        for wanted, got in zip(requests, results, strict=True):
            single = alone.generate(wanted)
            assert got.seed == single.seed
            assert len(got.completions) == wanted.sampling.n
            for left, right in zip(got.completions, single.completions, strict=True):
                same(left, right)
        # The settings did something: the same prompt gave different texts, but equal seeds equal ones.
        if asked[0] == asked[1]:
            assert len({r.completions[0].token_ids for r in results}) >= 10
            assert results[1].completions[0].token_ids == results[13].completions[0].token_ids
            assert results[0].completions[0].token_ids == results[11].completions[0].token_ids


def test_a_request_without_a_seed_repeats(engine: Engine) -> None:
    asked = Request(prompt="hello", sampling=SamplingParams(max_tokens=8, temperature=1.0, n=3))
    first, second = engine.generate(asked), engine.generate(asked)
    assert first.completions == second.completions
    assert first.seed == second.seed
    assert len({c.token_ids for c in first.completions}) == 3
    other = engine.generate(Request(prompt="hello!", sampling=asked.sampling))
    assert other.seed != first.seed


def test_repetition_penalty_equals_transformers(engine: Engine, reference: Any) -> None:
    prompt = prompts(1, seed=6)[0]
    with torch.inference_mode():
        out = reference.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=20, repetition_penalty=1.4, pad_token_id=0
        )
    got = engine.generate(request(prompt, max_tokens=20, repetition_penalty=1.4)).completions[0]
    assert list(got.token_ids) == out[0, len(prompt) :].tolist()


def test_scores_equal_a_direct_forward(engine: Engine, reference: Any) -> None:
    asked = [(p, c) for p, c in zip(prompts(10, seed=8), prompts(10, seed=9, longest=300), strict=True)]
    with engine.paused():
        futures = [engine.submit_score(ScoreRequest(prompt=p, completion=c)) for p, c in asked]
        mixed = engine.submit(request(asked[0][0]))
    for (prompt, completion), future in zip(asked, futures, strict=True):
        with torch.inference_mode():
            table = torch.log_softmax(reference(torch.tensor([prompt + completion])).logits[0], dim=-1)
        places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        wanted = [float(table[place, token]) for place, token in zip(places, completion, strict=True)]
        result = future.result()
        assert result.token_ids == completion
        assert result.logprobs == pytest.approx(wanted, abs=CLOSE)
        assert result.total == pytest.approx(sum(wanted), abs=CLOSE * len(wanted))
        assert result.usage.prompt_tokens == len(prompt) + len(completion)
    same(mixed.result().completions[0], engine.generate(request(asked[0][0])).completions[0])


def test_scores_of_what_was_generated_are_its_log_probabilities(engine: Engine) -> None:
    prompt = prompts(1, seed=10, longest=90)[0]
    made = engine.generate(request(prompt, temperature=1.0, max_tokens=20)).completions[0]
    for _ in range(2):  # the second time from the stored prefix
        scored = engine.score(ScoreRequest(prompt=prompt, completion=made.token_ids))
        assert scored.logprobs == pytest.approx(made.logprobs, abs=CLOSE)
