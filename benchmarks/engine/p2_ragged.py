"""P2: 64 ragged requests (prompts 30 to 200, outputs 8 to 128 tokens); reference: static batches of 32."""

import random

from _common import compare, engine_seconds, load, prompts, static_seconds

if __name__ == "__main__":
    engine, reference = load()
    rng = random.Random(0)
    lengths = [rng.randint(30, 200) for _ in range(64)]
    # Half of the outputs are short, the others spread up to 128 tokens.
    news = [rng.randint(8, 20) if rng.random() < 0.5 else rng.randint(20, 128) for _ in range(64)]
    compare(
        "P2",
        2.2,
        lambda seed: engine_seconds(engine, prompts(lengths, seed=seed), news),
        lambda seed: static_seconds(reference, prompts(lengths, seed=seed), news, batch=32),
    )
