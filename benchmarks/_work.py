"""What the engine's bars share: the models, requests of chosen lengths, and the two ways to run them.

Both sides get the same prompts, generate as many tokens as they are asked for, and are timed from text or
ids to text.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from statistics import NormalDist
from typing import Any, TypeAlias

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from docendo import Engine, Request, SamplingParams
from docendo.agents import models

Chat: TypeAlias = "tuple[dict[str, str], ...]"
Ids: TypeAlias = "tuple[int, ...]"


def load_reference(model: str, dtype: Any) -> Any:
    """Transformers' own copy of the model, which does not stop at end tokens either."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(models.resolve(model), dtype=dtype).eval()
    loaded.generation_config.eos_token_id = None
    loaded.generation_config.pad_token_id = 0
    return loaded


def load_tokenizer(model: str) -> Any:
    """A tokenizer of its own for the reference, padding on the left."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.resolve(model), padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# --- work ----------------------------------------------------------------------------------------


def random_ids(engine: Engine, lengths: Sequence[int], *, seed: int) -> list[Ids]:
    """Random token ids: no two prompts share a beginning, so prefix reuse has no part in the figures."""
    rng = random.Random(seed)
    size = engine.config.get_text_config().vocab_size
    return [tuple(rng.randrange(size // 20, size * 4 // 5) for _ in range(length)) for length in lengths]


class Chats:
    """Makes chats whose rendered prompts have exactly the lengths that are asked for."""

    def __init__(self, tokenizer: Any) -> None:
        """Finds the words that are one token wherever they stand."""
        self._tokenizer = tokenizer
        texts = {token: tokenizer.decode([token]) for token in range(min(len(tokenizer), 20_000))}
        words = [text for text in texts.values() if text.isascii() and text.strip().isalpha()]
        alone = [text for text in words if text.startswith(" ") and len(text) > 2] or [
            text for text in words if len(text) == 1
        ]
        self._words = [w for w in alone if len(tokenizer(w + w, add_special_tokens=False).input_ids) == 2]
        self.least = len(self._ids(""))

    def _ids(self, text: str) -> list[int]:
        messages = [{"role": "user", "content": text}]
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def make(self, lengths: Sequence[int], *, seed: int) -> list[Chat]:
        """One chat per length, of random words; the same seed gives the same chats."""
        rng = random.Random(seed)
        made = []
        for length in lengths:
            text = "".join(rng.choices(self._words, k=length - self.least))
            if len(self._ids(text)) != length:
                raise SystemExit(f"a chat has {len(self._ids(text))} tokens instead of {length}")
            made.append(({"role": "user", "content": text},))
        return made

    def shared(self, chats: Sequence[Chat]) -> int:
        """Tokens at the beginning that all of them have in common, such as the default system prompt."""
        prompts = [self._ids(chat[0]["content"]) for chat in chats]
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))


def skewed(count: int, *, least: int = 8, median: int = 20, most: int = 128, seed: int = 0) -> list[int]:
    """Output lengths: log-normal around the median, clipped, shuffled.

    Their spread makes static batches of 32 decode about 3.3 times as many row-steps as there are tokens.
    """
    spread = NormalDist(mu=math.log(median), sigma=0.95)
    lengths = [round(math.exp(spread.inv_cdf((i + 0.5) / count))) for i in range(count)]
    lengths = [min(max(length, least), most) for length in lengths]
    random.Random(seed).shuffle(lengths)
    return lengths


def requests(
    prompts: Sequence[Any], news: Sequence[int], adapters: Sequence[str | None] | None = None
) -> list[Request]:
    """Greedy requests for exactly the given numbers of tokens."""
    return [
        Request(prompt=prompt, sampling=SamplingParams(max_tokens=new, ignore_eos=True), adapter=adapter)
        for prompt, new, adapter in zip(prompts, news, adapters or [None] * len(news), strict=True)
    ]


# --- ways to run it ------------------------------------------------------------------------------


def engine_seconds(engine: Engine, asked: Sequence[Request]) -> float:
    """Wall seconds of all requests, each from a caller of its own."""
    began = time.perf_counter()
    if len(asked) == 1:
        results = [engine.generate(asked[0])]
    else:
        with ThreadPoolExecutor(len(asked)) as callers:
            results = list(callers.map(engine.generate, asked))
    spent = time.perf_counter() - began
    for request, result in zip(asked, results, strict=True):
        if result.usage.generated_tokens != request.sampling.max_tokens:
            raise SystemExit(
                f"the engine generated {result.usage.generated_tokens} tokens, "
                f"{request.sampling.max_tokens} were asked for"
            )
    return spent


def static_seconds(
    model: Any, tokenizer: Any, prompts: Sequence[Any], news: Sequence[int], *, batch: int, **options: Any
) -> float:
    """Wall seconds of `generate` on left-padded static batches, in the given order, each to its longest."""
    import torch

    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(prompts), batch):
            part, limit = prompts[start : start + batch], max(news[start : start + batch])
            inputs = padded(tokenizer, part)
            ids = model.generate(**inputs, max_new_tokens=limit, do_sample=False, use_cache=True, **options)
            tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return time.perf_counter() - began


def padded(tokenizer: Any, prompts: Sequence[Any]) -> Any:
    """Chats or ids as a left-padded batch with its attention mask."""
    if isinstance(prompts[0][0], int):
        return tokenizer.pad({"input_ids": [list(prompt) for prompt in prompts]}, return_tensors="pt")
    return tokenizer.apply_chat_template(
        [list(chat) for chat in prompts],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
