"""P3: one 8-token call, and eight at once; reference: `generate` called directly, on a batch of eight."""

from _harness import Bar, Options, Part, against, alternate, ratios, shown
from _peers import InspectAI, peers
from _work import Chats, engine_seconds, load_reference, load_tokenizer, requests, static_seconds

from docendo import Engine


def measure(options: Options) -> Bar:
    """What the engine adds to a short call: it must not wait for others to come."""
    engine = Engine.load(options.model)
    reference, tokenizer = load_reference(options.model, engine.dtype), load_tokenizer(options.model)
    chats = Chats(tokenizer)
    length, new = max(60, chats.least + 10), 8

    def work(number: int, count: int) -> list:
        return chats.make([length] * count, seed=100 * number + count)

    def ours(count: int):
        return lambda number: engine_seconds(engine, requests(work(number, count), [new] * count))

    def theirs(count: int):
        return lambda number: static_seconds(
            reference, tokenizer, work(number, count), [new] * count, batch=count
        )

    made, notes = peers(
        {"inspect_ai hf": lambda: InspectAI(options.model, engine.dtype)}, wanted=options.peers
    )
    rare = {
        f"{name}, {count}": lambda number, run=run, count=count: run(work(number, count), [new] * count)
        for name, run in made.items()
        for count in (1, 8)
    }
    costs = alternate(
        {"engine, 1": ours(1), "reference, 1": theirs(1), "engine, 8": ours(8), "reference, 8": theirs(8)},
        rounds=options.rounds(15),
        rare=rare,
    )
    parts = [
        Part(
            name=f"{'one call' if count == 1 else 'eight at once'}: time over generate's",
            target=1.15,
            at_most=True,
            ratios=ratios(costs[f"engine, {count}"], costs[f"reference, {count}"]),
        )
        for count in (1, 8)
    ]
    engine.close()
    beside = {
        name: round(1 / ratio, 2)
        for count in (1, 8)
        for name, ratio in against(
            costs, f"reference, {count}", [name for name in rare if name.endswith(f", {count}")]
        ).items()
    }
    return Bar(
        name="P3",
        parts=parts,
        peers={**beside, **notes},
        detail={
            "prompt_tokens": length,
            "shared_prompt_tokens": chats.shared(work(0, 8)),
            "new_tokens": new,
            "seconds": shown(costs, 4),
            "dtype": str(engine.dtype),
            "attention": reference.config._attn_implementation,
        },
    )
