"""P1: 64 requests of 113 prompt and 35 new tokens each; reference: one static `generate` batch of 64."""

from _common import compare, engine_seconds, load, prompts, static_seconds

if __name__ == "__main__":
    engine, reference = load()
    news = [35] * 64
    compare(
        "P1",
        0.95,
        lambda seed: engine_seconds(engine, prompts([113] * 64, seed=seed), news),
        lambda seed: static_seconds(reference, prompts([113] * 64, seed=seed), news, batch=64),
    )
