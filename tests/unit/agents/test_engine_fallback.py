"""Models that packed passes cannot serve run with `generate`: slower, with one warning, and as right."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig

from docendo.agents import Engine
from docendo.agents._generate import GenerateLoop
from docendo.agents._loop import DecodeLoop
from docendo.errors import DeadlineExceeded, InfrastructureError
from docendo.records import EngineEvent, Grammar, Request, SamplingParams, ScoreRequest

Make = Callable[..., Engine]
PROMPT = tuple(10 + (7 * i + i * i) % 180 for i in range(33))
SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS: dict[str, Any] = {
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
EXPERTS = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def mamba() -> Any:
    return transformers.MambaConfig(**SIZES, state_size=8)


def linear_attention() -> Any:
    return transformers.Qwen3NextConfig(
        **SIZES,
        **HEADS,
        **EXPERTS,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        shared_expert_intermediate_size=32,
        layer_types=["linear_attention", "full_attention"],
    )


def shared_keys() -> Any:
    return transformers.Gemma3nTextConfig(
        **{**SIZES, "num_hidden_layers": 4},
        **HEADS,
        head_dim=16,
        vocab_size_per_layer_input=259,
        hidden_size_per_layer_input=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        sliding_window=6,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4,
    )


def chunked() -> Any:
    return transformers.Llama4TextConfig(
        **{**SIZES, "num_hidden_layers": 4},
        **HEADS,
        head_dim=16,
        intermediate_size_mlp=96,
        attention_chunk_size=16,
        num_local_experts=2,
        interleave_moe_layer_step=1,
    )


def convolutions() -> Any:
    return transformers.Lfm2Config(**SIZES, **HEADS, layer_types=["conv", "full_attention"])


def mixtral() -> Any:
    return transformers.MixtralConfig(**SIZES, **HEADS, num_local_experts=4)


def qwen_experts() -> Any:
    return transformers.Qwen3MoeConfig(**SIZES, **HEADS, **EXPERTS)


REFUSED = {make.__name__: make for make in (mamba, linear_attention, shared_keys, chunked, convolutions)}
MIXTURES = {make.__name__: make for make in (mixtral, qwen_experts)}


def model_of(config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).float().eval()


def altered_llama() -> Any:
    """A Llama whose attention layers turn their heads' outputs by their own rule: packed logits are others.

    They look at the mask, which a packed pass does not have.
    """
    model = model_of(LlamaConfig(**SIZES, **HEADS))
    for layer in model.model.layers:
        attention = layer.self_attn
        forward = attention.forward

        def turned(*args: Any, forward: Any = forward, **kwargs: Any) -> Any:
            output, weights = forward(*args, **kwargs)
            packed = kwargs.get("past_key_values").__class__.__name__ == "SlotCache"
            return (output if packed else -output), weights

        attention.forward = turned
    return model


@pytest.fixture
def fallen(make_engine: Make, caplog: pytest.LogCaptureFixture) -> Engine:
    """An engine that runs `generate`."""
    engine = make_engine(altered_llama())
    assert isinstance(engine._worker.loop, GenerateLoop)
    return engine


def ask(prompt: Any = PROMPT, count: int = 12, **settings: Any) -> Request:
    timeout = settings.pop("timeout", None)
    settings.setdefault("ignore_eos", True)
    return Request(prompt=prompt, sampling=SamplingParams(max_tokens=count, **settings), timeout=timeout)


def greedy(model: Any, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return tuple(out[0, len(prompt) :].tolist())


def scores(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> list[float]:
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0]
    table = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return table.gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


def check(engine: Engine, twin: Any) -> None:
    """Greedy texts, their log-probabilities and scores are those of transformers."""
    for prompt in (PROMPT, PROMPT[:1], PROMPT * 3):
        completion = engine.generate(ask(prompt, 14)).completions[0]
        assert completion.token_ids == greedy(twin, prompt, 14)
        wanted = scores(twin, prompt, completion.token_ids)
        assert completion.logprobs == pytest.approx(wanted, abs=1e-3)
        scored = engine.score(ScoreRequest(prompt=prompt, completion=completion.token_ids))
        assert scored.logprobs == pytest.approx(wanted, abs=1e-4)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.name == "docendo.engine" and r.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_models_are_as_right_as_transformers(
    make_engine: Make, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    engine, twin = make_engine(model_of(REFUSED[kind]())), model_of(REFUSED[kind]())
    assert isinstance(engine._worker.loop, GenerateLoop)
    (message,) = warnings_of(caplog)
    assert "is run with `generate`" in message
    check(engine, twin)
    assert len(warnings_of(caplog)) == 1


def test_packed_logits_that_differ_are_noticed(make_engine: Make, caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine(altered_llama())
    assert isinstance(engine._worker.loop, GenerateLoop)
    (message,) = warnings_of(caplog)
    assert "packed logits differ from its own by" in message
    check(engine, altered_llama())
    plain = make_engine(model_of(LlamaConfig(**SIZES, **HEADS)))
    assert isinstance(plain._worker.loop, DecodeLoop)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_of_experts(make_engine: Make, kind: str) -> None:
    engine, twin = make_engine(model_of(MIXTURES[kind]())), model_of(MIXTURES[kind]())
    check(engine, twin)
    prompts = [(*PROMPT[start:], 50 + start) for start in range(12)]
    with engine.paused():
        futures = [engine.submit(ask(prompt, 8 + at)) for at, prompt in enumerate(prompts)]
    for at, (prompt, future) in enumerate(zip(prompts, futures, strict=True)):
        assert future.result(30).completions[0].token_ids == greedy(twin, prompt, 8 + at)


def test_samples_and_seeds(fallen: Engine) -> None:
    request = ask(temperature=1.3, seed=4, n=4)
    result = fallen.generate(request)
    tokens = [completion.token_ids for completion in result.completions]
    assert len(set(tokens)) == 4
    assert [c.token_ids for c in fallen.generate(request).completions] == tokens
    assert fallen.generate(ask(temperature=1.3, seed=4)).completions[0].token_ids == tokens[0]
    assert fallen.generate(ask(temperature=1.3, seed=5)).completions[0].token_ids != tokens[0]
    assert result.usage.generated_tokens == 48
    for completion in result.completions:
        scored = fallen.score(ScoreRequest(prompt=PROMPT, completion=completion.token_ids))
        assert completion.logprobs == pytest.approx(scored.logprobs, abs=1e-3)


def test_samples_that_end_at_different_times(fallen: Engine) -> None:
    whole = fallen.generate(ask(temperature=1.3, seed=4, n=4, count=30)).completions
    ends = (whole[0].token_ids[3], whole[1].token_ids[9])
    for cut, long in zip(
        fallen.generate(ask(temperature=1.3, seed=4, n=4, count=30, stop_token_ids=ends)).completions,
        whole,
        strict=True,
    ):
        at = next((at for at, token in enumerate(long.token_ids) if token in ends), 29)
        assert cut.token_ids == long.token_ids[: at + 1]


def test_stop_strings_streams_and_alternatives(fallen: Engine) -> None:
    whole = fallen.generate(ask(temperature=0.8, seed=1, count=40))
    stop = whole.text[10:12]
    request = ask(temperature=0.8, seed=1, count=40, stop=(stop,), top_logprobs=3, prompt_logprobs=True)
    result = fallen.generate(request)
    assert result.text == whole.text[: whole.text.index(stop)]
    assert result.completions[0].finish_reason == "stop"
    assert [len(position) for position in result.completions[0].top_logprobs] == [3] * len(
        result.completions[0].token_ids
    )
    scored = fallen.score(ScoreRequest(prompt=PROMPT[:1], completion=PROMPT[1:]))
    assert result.prompt_logprobs[1:] == pytest.approx(scored.logprobs, abs=1e-4)
    chunks = list(fallen.stream(request))
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert len(chunks) > 1
    assert chunks[-1].usage == result.usage


def test_grammars(fallen: Engine) -> None:
    choices = ("north", "north-east", "south")
    result = fallen.generate(
        ask(grammar=Grammar.choice(choices), n=5, temperature=1.0, count=20, ignore_eos=False)
    )
    assert all(completion.text in choices for completion in result.completions)


def begun(engine: Engine) -> None:
    deadline = time.monotonic() + 5
    while not engine._worker.loop.rows:
        assert time.monotonic() < deadline, "nothing has begun"
        time.sleep(0.001)


def test_cancelling_and_deadlines(fallen: Engine) -> None:
    seen: list[EngineEvent] = []
    fallen.subscribe(seen.append)
    running = fallen.submit(ask(count=1900))
    begun(fallen)
    running.cancel()
    with pytest.raises(CancelledError):
        running.result(0)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        fallen.generate(ask(count=1900, timeout=0.3))
    stream = fallen.stream(ask(count=1900))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert fallen.generate(ask(count=3)).completions
    assert time.monotonic() - began < 2
    assert [event.status for event in seen] == ["cancelled", "failed", "cancelled", "finished"]
    assert all(event.usage.generated_tokens > 0 for event in seen[1:])
    deadline = time.monotonic() + 5
    while fallen._worker.loop.rows and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (fallen._worker._queued, fallen._worker.loop.rows) == (0, [])


def test_a_deadline_passes_behind_a_long_request(fallen: Engine) -> None:
    with fallen.paused():
        running = fallen.submit(ask(count=1900))
        early = fallen.submit(ask((5, 6), 3, timeout=0.2))
    begun(fallen)
    late = fallen.submit(ask((7, 8), 3, timeout=0.2))
    for future in (early, late):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            future.result(5)
        assert time.monotonic() - began < 1
    assert not running.done()
    running.cancel()


@pytest.mark.parametrize("kind", ["score", "prompt_logprobs", "generate"])
def test_a_model_that_fails_reaches_its_caller_alone(fallen: Engine, kind: str) -> None:
    failing = [True]

    def crash(*_: Any) -> None:
        if failing[0]:
            failing[0] = False
            raise RuntimeError("out of memory")

    fallen._model.register_forward_pre_hook(crash)
    with fallen.paused():
        if kind == "score":
            broken: Any = fallen.submit_score(ScoreRequest(prompt=PROMPT, completion=(7, 8)))
        else:
            broken = fallen.submit(ask(prompt_logprobs=kind == "prompt_logprobs"))
        other = fallen.submit(ask((9, 9)))
    with pytest.raises(InfrastructureError, match="out of memory"):
        broken.result(5)
    assert other.result(20).completions


def test_a_request_cancelled_before_its_first_token_is_booked(fallen: Engine) -> None:
    seen: list[EngineEvent] = []
    fallen.subscribe(seen.append)
    cancelled: list[Any] = []
    with fallen.paused():
        cancelled.append(fallen.submit(ask(prompt_logprobs=True)))
        handle = fallen._model.register_forward_pre_hook(lambda *_: cancelled[0].cancel() and None)
    with pytest.raises(CancelledError):
        cancelled[0].result(10)
    handle.remove()
    fallen.generate(ask(count=1))
    assert [event.status for event in seen] == ["cancelled", "finished"]
