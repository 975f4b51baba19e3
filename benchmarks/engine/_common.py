"""What the engine's bars share: the model, requests of chosen lengths, and alternating measurement."""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from docendo import Engine, Request, SamplingParams
from docendo.agents import models

MODEL = "smollm2-135m-instruct"


def load() -> tuple[Engine, Any]:
    """The engine, and transformers' own copy of the same model in the same precision."""
    from transformers import AutoModelForCausalLM

    engine = Engine.load(MODEL)
    reference = AutoModelForCausalLM.from_pretrained(models.path(MODEL), dtype=engine.dtype).eval()
    # Every row generates as many tokens as it is asked for, on both sides.
    reference.generation_config.eos_token_id = None
    engine._worker.loop.ends = frozenset()
    return engine, reference


def prompts(lengths: Sequence[int], *, seed: int) -> list[tuple[int, ...]]:
    """Random token ids: no two prompts share a beginning, so prefix reuse has no part in the figures."""
    rng = random.Random(seed)
    return [tuple(rng.randrange(100, 40_000) for _ in range(length)) for length in lengths]


def engine_seconds(engine: Engine, asked: Sequence[tuple[int, ...]], news: Sequence[int]) -> float:
    """Wall seconds for all requests, submitted at once by as many callers."""
    began = time.perf_counter()
    futures = [
        engine.submit(Request(prompt=prompt, sampling=SamplingParams(max_tokens=new)))
        for prompt, new in zip(asked, news, strict=True)
    ]
    tokens = sum(future.result().usage.generated_tokens for future in futures)
    seconds = time.perf_counter() - began
    if tokens != sum(news):
        raise SystemExit(f"the engine generated {tokens} tokens, {sum(news)} were asked for")
    return seconds


def static_seconds(model: Any, asked: Sequence[tuple[int, ...]], news: Sequence[int], *, batch: int) -> float:
    """Wall seconds of `generate` on left-padded static batches, in the given order."""
    import torch

    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(asked), batch):
            part, limit = asked[start : start + batch], max(news[start : start + batch])
            width = max(map(len, part))
            ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in part])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=0,
                use_cache=True,
            )
    return time.perf_counter() - began


def compare(
    bar: str, target: float, ours: Callable[[int], float], theirs: Callable[[int], float], *, pairs: int = 5
) -> None:
    """Alternates both, prints one JSON line with the median ratio (reference seconds over ours)."""
    ours(-1), theirs(-1)  # first calls allocate and tune
    rows = []
    for number in range(pairs):
        first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        a, b = first(number), second(number)
        rows.append((a, b) if number % 2 == 0 else (b, a))
    ratios = [theirs_s / ours_s for ours_s, theirs_s in rows]
    value = statistics.median(ratios)
    detail = {
        "ratios": [round(r, 3) for r in ratios],
        "engine_seconds": [round(a, 2) for a, _ in rows],
        "reference_seconds": [round(b, 2) for _, b in rows],
    }
    print(
        json.dumps(
            {
                "bar": bar,
                "value": round(value, 3),
                "target": target,
                "pass": value >= target,
                "detail": detail,
            }
        )
    )
