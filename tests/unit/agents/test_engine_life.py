"""Pausing, cancelling, closing, failing, memory, and many callers at once."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch

from docendo.agents import Engine
from docendo.errors import ConfigError, EngineClosed, InfrastructureError, ModelFailure
from docendo.records import Request, SamplingParams, ScoreRequest

Make = Callable[..., Engine]
Passes = Callable[[Engine], list[tuple[int, int]]]
LONG = SamplingParams(max_tokens=1500, temperature=3.0, repetition_penalty=1.01)


def ask(text: str = "hello", count: int = 5) -> Request:
    return Request(prompt=text, sampling=SamplingParams(max_tokens=count))


def endless(engine: Engine) -> None:
    """Lets no completion end by itself."""
    engine._ends = frozenset()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for nothing"
        time.sleep(0.002)


def test_no_step_runs_while_paused(engine: Engine, watch: Passes) -> None:
    endless(engine)
    passes = watch(engine)
    running = engine.submit(Request(prompt="a", sampling=LONG))
    wait_for(lambda: len(passes) > 5)
    with engine.paused(), engine.paused():
        before = len(passes)
        later = engine.submit(ask())
        time.sleep(0.05)
        assert len(passes) == before
        assert not later.done()
    assert later.result(20).text
    running.cancel()


def test_cancelling_frees_rows(make_engine: Make, watch: Passes) -> None:
    engine = make_engine(max_rows=3)
    endless(engine)
    passes = watch(engine)
    running = [engine.submit(Request(prompt="abc", sampling=LONG.replace(n=3)))]
    waiting = [engine.submit(Request(prompt="xyz", sampling=LONG)) for _ in range(4)]
    wait_for(lambda: (3, 0) in passes)
    for future in (*running, *waiting):
        assert future.cancel()
    assert len(engine.generate(ask()).completions[0].token_ids) == 5
    assert passes[-1] == (1, 0), "cancelled rows still run"
    wait_for(lambda: not engine._worker.loop.rows)  # the last row leaves just after its answer is given
    rows = engine.ledger()
    assert rows[0]["generated_tokens"] > 5, "what cancelled requests have used counts as well"
    with pytest.raises(CancelledError):
        running[0].result()


async def test_cancelling_a_task_cancels_its_request(engine: Engine, watch: Passes) -> None:
    endless(engine)
    passes = watch(engine)
    task = asyncio.create_task(engine.agenerate(Request(prompt="abc", sampling=LONG)))
    while len(passes) < 3:
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await engine.agenerate(ask())).text
    assert passes[-1] == (1, 0)


def test_closing_fails_what_is_pending(make_engine: Make, watch: Passes) -> None:
    engine = make_engine(max_rows=2)
    endless(engine)
    passes = watch(engine)
    futures = [engine.submit(Request(prompt="abc", sampling=LONG)) for _ in range(5)]
    wait_for(lambda: len(passes) > 3)
    engine.close()
    for future in futures:
        with pytest.raises(EngineClosed, match="closed"):
            future.result(0)
    with pytest.raises(EngineClosed):
        engine.submit(ask())
    engine.close()  # a second time does nothing


def test_closing_while_paused(make_engine: Make) -> None:
    engine = make_engine()
    with engine.paused():
        future = engine.submit(ask())
        engine.close()
    with pytest.raises(EngineClosed):
        future.result(0)


def test_an_engine_is_a_context_manager_and_its_thread_ends(make_engine: Make) -> None:
    with make_engine() as engine:
        thread = engine._worker._thread
        assert thread.is_alive()
    assert not thread.is_alive()


def test_an_unused_engine_is_collected(tiny_model_dir: Any) -> None:
    engine = Engine.load(tiny_model_dir, dtype="float32", device="cpu")
    engine.generate(ask())
    thread = engine._worker._thread
    del engine
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


class Poison:
    """Makes the model's keys, values and logits NaN for prompts that hold a token, while switched on."""

    def __init__(self, engine: Engine, token: int) -> None:
        self.token, self.on = token, True
        engine._model.get_input_embeddings().register_forward_hook(self.spoil)

    def spoil(self, module: Any, args: Any, output: Any) -> Any:
        if not self.on:
            return output
        return output.masked_fill((args[0] == self.token)[..., None], float("nan"))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("scored", [False, True])
def test_nan_is_a_model_failure_and_stays_with_its_row(make_engine: Make, samples: int, scored: bool) -> None:
    engine, healthy = make_engine(), make_engine(max_rows=1, prefix_tokens=0)
    draw = random.Random(0)
    good = [tuple(draw.randrange(10, 250) for _ in range(draw.randint(25, 40))) for _ in range(8)]
    bad = [(5, *prompt) for prompt in good[:4]]
    wanted = [healthy.generate(Request(prompt=p, sampling=SamplingParams(max_tokens=6))) for p in good]
    poison = Poison(engine, 5)
    sampling = SamplingParams(max_tokens=6, n=samples)
    with engine.paused():
        futures: list[Any] = []
        for i, prompt in enumerate(good):
            if i < len(bad):
                futures.append(
                    engine.submit_score(ScoreRequest(prompt=bad[i], completion=(7, 8)))
                    if scored
                    else engine.submit(Request(prompt=bad[i], sampling=sampling))
                )
            futures.append(engine.submit(Request(prompt=prompt, sampling=SamplingParams(max_tokens=6))))
    for i, future in enumerate(futures):
        if i < 2 * len(bad) and i % 2 == 0:
            with pytest.raises(ModelFailure, match="not finite"):
                future.result(20)
        else:
            expected = wanted[i // 2 if i < 2 * len(bad) else i - len(bad)]
            assert future.result(20).completions[0].token_ids == expected.completions[0].token_ids
    assert not engine._worker.loop.busy
    assert sum(row["calls"] for row in engine.ledger()) == len(futures)
    # Short and long rows in the same slots afterwards, and the same prompts once the model is well again.
    poison.on = False
    with engine.paused():
        after = [engine.submit(Request(prompt=p, sampling=SamplingParams(max_tokens=6))) for p in good]
        after += [engine.submit(Request(prompt=(9, 9), sampling=SamplingParams(max_tokens=60)))]
        healed = [engine.submit(Request(prompt=p, sampling=sampling)) for p in bad]
    for future, expected in zip(after, wanted, strict=False):
        assert future.result(20).completions[0].token_ids == expected.completions[0].token_ids
    for prompt, future in zip(bad, healed, strict=True):
        assert future.result(20).usage.cached_tokens == 0, "a poisoned prefix was kept"
        single = healthy.generate(Request(prompt=prompt, sampling=sampling))
        assert future.result().completions[0].token_ids == single.completions[0].token_ids
    assert after[-1].result(20)


def test_a_slot_that_held_nan_is_clean_for_the_row_moved_into_it(make_engine: Make) -> None:
    engine, healthy = make_engine(prefix_tokens=0), make_engine(max_rows=1)
    Poison(engine, 5)
    good = Request(prompt=tuple(range(10, 42)), sampling=SamplingParams(max_tokens=30))
    engine.generate(good)
    with engine.paused():
        # Beside a longer row, so that attention reaches over all that the slot holds.
        engine.submit(Request(prompt=tuple(range(10, 210)), sampling=SamplingParams(max_tokens=50)))
        bad = engine.submit_score(ScoreRequest(prompt=(5, *range(10, 46)), completion=(7, 8, 9)))
        moved = engine.submit(good)
    with pytest.raises(ModelFailure):
        bad.result(20)
    assert moved.result(20).completions[0].token_ids == healthy.generate(good).completions[0].token_ids


@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_a_crashing_step_reaches_its_callers_and_not_later_ones(engine: Engine, when: str) -> None:
    shared = "a prompt that is long enough to be stored as a prefix; "
    first = engine.generate(ask(shared))
    failing = [True]

    def crash(module: Any, args: Any, kwargs: Any) -> None:
        if failing[0] and (not kwargs["past_key_values"].layout.stretches) == (when == "decode"):
            raise RuntimeError("out of memory")

    engine._model.base_model.register_forward_pre_hook(crash, with_kwargs=True)
    with engine.paused():
        futures = [engine.submit(ask("another prompt " * 3 + str(i))) for i in range(3)]
        futures.append(engine.submit_score(ScoreRequest(prompt="a" * 40, completion="bcd")))  # type: ignore[arg-type]
    for future in futures[: 4 if when == "prefill" else 3]:
        with pytest.raises(InfrastructureError, match="RuntimeError: out of memory"):
            future.result(20)
    failing[0] = False
    assert engine.generate(ask(shared)).completions == first.completions


def cache_bytes(engine: Engine) -> int:
    cache = engine._worker.loop.cache
    return sum(t.numel() * t.element_size() for t in (*cache.keys, *cache.values))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("n", [1, 30])
def test_cache_memory_limit(make_engine: Make, watch: Passes, warm: bool, n: int) -> None:
    """Room for ten rows of 100 tokens, which take whole blocks of 32: the others wait."""
    per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, key-value heads, head size, bytes
    limit = 10 * 128 * per_token
    small, large = make_engine(cache_bytes=limit), make_engine()
    if warm:
        small.generate(ask("x"))
        assert small._worker.loop.cache.bytes_per_token == per_token
    passes = watch(small)
    sampling = SamplingParams(max_tokens=40, temperature=1.0, seed=1, n=n)
    asked = [Request(prompt=(i, *range(10, 69)), sampling=sampling) for i in range(40, 40 + 30 // n)]
    largest = 0

    def note(module: Any, args: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, cache_bytes(small))

    small._model.register_forward_hook(note)
    small._worker.loop.head.register_forward_hook(note)
    with small.paused():
        futures = [small.submit(one) for one in asked]
    for one, future in zip(asked, futures, strict=True):
        tokens = [c.token_ids for c in future.result(60).completions]
        assert tokens == [c.token_ids for c in large.generate(one).completions]
    assert max(rows for rows, _ in passes) == 10
    assert 0 < largest <= limit


def test_a_request_above_the_memory_limit_runs_alone(make_engine: Make, watch: Passes) -> None:
    engine = make_engine(cache_bytes=1000)
    passes = watch(engine)
    with engine.paused():
        futures = [engine.submit(ask("x" * 50)) for _ in range(3)]
    assert len({f.result(20).completions[0].token_ids for f in futures}) == 1
    assert {rows for rows, _ in passes} == {1}


def test_many_threads_and_event_loops(engine: Engine, make_engine: Make) -> None:
    """Six threads, three of them with an event loop, with tokenising, chat, scoring and an adapter query."""
    alone = make_engine(max_rows=1, prefix_tokens=0)
    texts = [f"thread {t} asks {i} " * (1 + i % 3) for t in range(6) for i in range(8)]
    wanted = {text: alone.generate(ask(text)).completions[0].token_ids for text in texts}
    scores = {text: alone.score(ScoreRequest(prompt=text, completion="yes")).total for text in texts[::4]}
    got: dict[str, Any] = {}
    scored: dict[str, float] = {}
    errors: list[BaseException] = []

    async def as_loop(mine: list[str]) -> None:
        results = await asyncio.gather(*(engine.agenerate(ask(text)) for text in mine))
        got.update({text: r.completions[0].token_ids for text, r in zip(mine, results, strict=True)})
        for text in scores.keys() & set(mine):
            scored[text] = (await engine.ascore(ScoreRequest(prompt=text, completion="yes"))).total

    def as_thread(number: int) -> None:
        mine = texts[number * 8 : number * 8 + 8]
        try:
            if number % 2:
                asyncio.run(as_loop(mine))
            else:
                for text in mine:
                    got[text] = engine.generate(ask(text)).completions[0].token_ids
                    engine.render([{"role": "user", "content": text}])
                for text in scores.keys() & set(mine):
                    scored[text] = engine.score(ScoreRequest(prompt=text, completion="yes")).total
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=as_thread, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert got == wanted
    assert scored == pytest.approx(scores, abs=1e-4)
    assert sum(row["calls"] for row in engine.ledger()) == len(texts) + len(scores)


def test_a_long_prompt_does_not_starve(make_engine: Make) -> None:
    engine = make_engine(max_rows=4)
    with engine.paused():
        order: list[int] = []
        futures = []
        for i in range(40):
            future = engine.submit(ask("x" * (1500 if i == 5 else 10), 2))
            future.add_done_callback(lambda _, i=i: order.append(i))
            futures.append(future)
    for future in futures:
        future.result(30)
    assert order.index(5) < 20


def test_loading_errors_say_what_to_do(tiny_model_dir: Any) -> None:
    with pytest.raises(ConfigError, match="dtype is 'float8'"):
        Engine.load(tiny_model_dir, dtype="float8")  # type: ignore[arg-type]


def test_half_precision_runs_and_stays_close(tiny_model_dir: Any, engine: Engine) -> None:
    """bfloat16 keeps 8 bits of the mantissa: log-probabilities within 0.15 here."""
    with Engine.load(tiny_model_dir, dtype="bfloat16", device="cpu") as half:
        assert half.dtype is torch.bfloat16
        scored = ScoreRequest(prompt="a prompt", completion="some text")
        assert half.score(scored).logprobs == pytest.approx(engine.score(scored).logprobs, abs=0.15)
