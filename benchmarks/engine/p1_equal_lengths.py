"""P1: 64 chat requests of 113 prompt and 35 new tokens; reference: one static `generate` batch of 64."""

from _harness import Bar, Options, Part, against, alternate, ratios, shown
from _peers import Continuous, InspectAI, peers
from _work import Chats, engine_seconds, load_reference, load_tokenizer, requests, static_seconds

from docendo import Engine


def measure(options: Options) -> Bar:
    """64 callers of the engine against one batch; inspect_ai and continuous batching beside it."""
    engine = Engine.load(options.model)
    reference, tokenizer = load_reference(options.model, engine.dtype), load_tokenizer(options.model)
    chats = Chats(tokenizer)
    count, length, new = options.size(64, 4), options.size(113, chats.least + 10), options.size(35, 3)
    news = [new] * count

    def work(number: int) -> list:
        return chats.make([length] * count, seed=number + 1)

    others, notes = peers(
        {
            "inspect_ai hf": lambda: InspectAI(options.model, engine.dtype),
            "generate_batch": lambda: Continuous(options.model, engine.dtype, tokenizer, tuned=False),
            "generate_batch, tuned": lambda: Continuous(options.model, engine.dtype, tokenizer, tuned=True),
        },
        wanted=options.peers,
    )
    costs = alternate(
        {
            "engine": lambda number: engine_seconds(engine, requests(work(number), news)),
            "reference": lambda number: static_seconds(reference, tokenizer, work(number), news, batch=count),
        },
        rounds=options.rounds(),
        rare={name: lambda number, run=run: run(work(number), news) for name, run in others.items()},
    )
    part = Part(name="64 equal requests", target=0.95, ratios=ratios(costs["reference"], costs["engine"]))
    engine.close()
    return Bar(
        name="P1",
        parts=[part],
        peers={**against(costs, "reference", list(others)), **notes},
        detail={
            "requests": count,
            "prompt_tokens": length,
            "shared_prompt_tokens": chats.shared(work(0)),
            "new_tokens": new,
            "seconds": shown(costs),
            "dtype": str(engine.dtype),
            "attention": reference.config._attn_implementation,
        },
    )
