"""P2: 64 chat requests, prompts 30 to 200 and outputs 8 to 128 tokens; reference: static batches of 32."""

import random

from _harness import Bar, Options, Part, against, alternate, ratios, shown
from _peers import Continuous, InspectAI, peers
from _work import (
    Chats,
    engine_seconds,
    load_reference,
    load_tokenizer,
    requests,
    skewed,
    static_seconds,
)

from docendo import Engine


def measure(options: Options) -> Bar:
    """64 callers of the engine against left-padded batches; other ways to run the same work beside it."""
    engine = Engine.load(options.model)
    reference, tokenizer = load_reference(options.model, engine.dtype), load_tokenizer(options.model)
    chats = Chats(tokenizer)
    count, most = options.size(64, 6), options.size(128, 12)
    news = skewed(count, median=options.size(20, 9), most=most)
    rng = random.Random(0)
    lengths = [
        rng.randint(max(30, chats.least + 1), max(options.size(200, 50), chats.least + 20)) for _ in news
    ]

    def work(number: int) -> list:
        return chats.make(lengths, seed=number + 1)

    def static(number: int, batch: int) -> float:
        return static_seconds(reference, tokenizer, work(number), news, batch=batch)

    others, notes = peers(
        {
            "static batch of 64": lambda: (
                lambda asked, news: static_seconds(reference, tokenizer, asked, news, batch=64)
            ),
            "inspect_ai hf, one limit": lambda: _one_limit(InspectAI(options.model, engine.dtype)),
            "inspect_ai hf": lambda: InspectAI(options.model, engine.dtype),
            "continuous batching": lambda: Continuous(options.model, engine.dtype, tokenizer, tuned=False),
            "continuous batching, tuned": lambda: Continuous(
                options.model, engine.dtype, tokenizer, tuned=True
            ),
            "one after another": lambda: (
                lambda asked, news: static_seconds(reference, tokenizer, asked, news, batch=1)
            ),
        },
        wanted=options.peers,
    )
    costs = alternate(
        {
            "engine": lambda number: engine_seconds(engine, requests(work(number), news)),
            "reference": lambda number: static(number, 32),
        },
        rounds=options.rounds(),
        rare={name: lambda number, run=run: run(work(number), news) for name, run in others.items()},
        rare_rounds=1,
    )
    part = Part(name="64 ragged requests", target=2.2, ratios=ratios(costs["reference"], costs["engine"]))
    engine.close()
    steps = sum(
        max(news[start : start + 32]) * len(news[start : start + 32]) for start in range(0, count, 32)
    )
    return Bar(
        name="P2",
        parts=[part],
        peers={**against(costs, "reference", list(others)), **notes},
        detail={
            "requests": count,
            "prompt_tokens": sum(lengths),
            "shared_prompt_tokens": chats.shared(work(0)),
            "new_tokens": sum(news),
            "padded_row_steps_per_token": round(steps / sum(news), 2),
            "seconds": shown(costs),
            "dtype": str(engine.dtype),
            "attention": reference.config._attn_implementation,
        },
    )


def _one_limit(run: InspectAI):
    """All requests with the longest limit, so that inspect_ai may batch them."""
    return lambda chats, news: run(chats, [max(news)] * len(news))
