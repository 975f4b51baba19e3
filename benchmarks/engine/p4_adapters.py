"""P4: a batch of 32 with four LoRAs (rank 16, all linear layers), and with one; reference: the base alone.

PEFT's own figures beside it: the same comparison in static batches, `adapter_names` for the mix.
"""

import itertools
import tempfile
import warnings
from pathlib import Path

from _adapters import load_peft, save_adapters
from _harness import Bar, Options, Part, alternate, ratios, shown
from _peers import peers
from _work import (
    engine_seconds,
    load_reference,
    load_tokenizer,
    random_ids,
    requests,
    static_seconds,
)

from docendo import Engine

NAMES = ("teacher", "student", "verifier", "tutor")


def measure(options: Options) -> Bar:
    """One engine that has never seen an adapter against one with four."""
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
    with tempfile.TemporaryDirectory() as scratch:
        saved = save_adapters(options.model, Path(scratch), NAMES)
        base, routed = Engine.load(options.model), Engine.load(options.model)
        for name, folder in saved.items():
            routed.load_adapter(name, folder)
        made, notes = peers(
            {
                "PEFT, adapters in its default float32": lambda: load_peft(
                    options.model, base.dtype, saved, wide=True
                ),
                "PEFT, adapters in the base's precision": lambda: load_peft(
                    options.model, base.dtype, saved, wide=False
                ),
                "transformers": lambda: load_reference(options.model, base.dtype),
            },
            wanted=options.peers,
        )
    count, length, new = options.size(32, 4), options.size(100, 20), options.size(35, 3)
    tokenizer = load_tokenizer(options.model)
    mixed = [NAMES[number % len(NAMES)] for number in range(count)]
    one = [NAMES[0]] * count

    fresh = itertools.count(1)

    def work() -> list:
        # New ones for every arm: an engine must not find what another arm has stored.
        return random_ids(base, [length] * count, seed=next(fresh))

    def ours(engine, adapters=None):
        return lambda _: engine_seconds(engine, requests(work(), [new] * count, adapters))

    def static(model, **more):
        return lambda _: static_seconds(model, tokenizer, work(), [new] * count, batch=count, **more)

    rare = {}
    for name, model in made.items():
        if name == "transformers":
            rare[name] = static(model)
        else:
            rare[f"{name}: mixed"] = static(model, adapter_names=mixed)
            rare[f"{name}: one"] = static(model)
    costs = alternate(
        {"base": ours(base), "mixed": ours(routed, mixed), "one": ours(routed, one)},
        # Short arms, so that more rounds are to be had.
        rounds=options.rounds(9),
        rare=rare,
    )
    parts = [
        Part(name="four adapters mixed", target=0.80, ratios=ratios(costs["base"], costs["mixed"])),
        Part(name="one adapter", target=0.85, ratios=ratios(costs["base"], costs["one"])),
    ]
    beside = {
        name: round(max(ratios(costs["transformers"], costs[name])), 3)
        for name in rare
        if name != "transformers" and "transformers" in costs
    }
    detail = {
        "requests": count,
        "prompt_tokens": length,
        "new_tokens": new,
        "rank": 16,
        "seconds": shown(costs),
        "dtype": str(base.dtype),
    }
    base.close(), routed.close()
    return Bar(name="P4", parts=parts, peers={**beside, **notes}, detail=detail)
