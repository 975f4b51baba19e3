"""P3: one 8-token call; reference: `generate` called directly. The engine must have no waiting window."""

from _common import compare, engine_seconds, load, prompts, static_seconds

if __name__ == "__main__":
    engine, reference = load()
    compare(
        "P3",
        1 / 1.15,
        lambda seed: engine_seconds(engine, prompts([40], seed=seed), [8]),
        lambda seed: static_seconds(reference, prompts([40], seed=seed), [8], batch=1),
        pairs=15,
    )
