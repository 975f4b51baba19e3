"""Rows that begin alike read what they share once: no result may be another for it. float32, tiny model."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from docendo.agents import Engine, _attention, _loop, _sharing
from docendo.agents._slots import Layout
from docendo.errors import ModelFailure
from docendo.records import Request, Result, SamplingParams, ScoreRequest, ScoreResult

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Make = Callable[..., Engine]
CALL = (201, 202, 203)


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's keys and values are too few to be worth it."""
    monkeypatch.setattr(_sharing, "LEAST_SHARED_BYTES", 1)


@pytest.fixture(scope="module")
def folders(save_loras: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    return save_loras({"plain": {}, "activated": {"r": 8, "alora_invocation_tokens": list(CALL)}})


def layouts(engine: Engine) -> list[Layout]:
    """The layouts of all passes from now on."""
    found: list[Layout] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        found.append(kwargs["past_key_values"].layout)

    engine._model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return found


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    draw = random.Random(f"{count} {seed}")
    return tuple(draw.randrange(10, 200) for _ in range(count))


def ask(prompt: tuple[int, ...], **settings: Any) -> Request:
    adapter = settings.pop("adapter", None)
    return Request(
        prompt=prompt,
        adapter=adapter,
        sampling=SamplingParams(**{"max_tokens": 9, "ignore_eos": True, **settings}),
    )


def same(got: Result | ScoreResult, wanted: Result | ScoreResult) -> None:
    if isinstance(got, ScoreResult):
        assert isinstance(wanted, ScoreResult)
        assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        return
    assert isinstance(wanted, Result)
    for left, right in zip(got.completions, wanted.completions, strict=True):
        assert left.token_ids == right.token_ids
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)
    assert got.prompt_logprobs == pytest.approx(wanted.prompt_logprobs, abs=1e-4)


def submit(engine: Engine, one: Request | ScoreRequest) -> Any:
    return engine.submit_score(one) if isinstance(one, ScoreRequest) else engine.submit(one)


def check(engine: Engine, single: Engine, requests: list[Request | ScoreRequest]) -> None:
    with engine.paused():
        futures = [submit(engine, one) for one in requests]
    for one, future in zip(requests, futures, strict=True):
        same(future.result(30), submit(single, one).result(30))


def test_questions_behind_common_examples(make_engine: Make) -> None:
    """The first one computes them; the others never have them in their slots."""
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    seen = layouts(engine)
    common = ids(200)
    check(engine, single, [ask(common + ids(3 + number % 4, number)) for number in range(12)])
    later = seen[1:]
    assert all(len(layout.shared) == 1 for layout in later if len(layout.starts) > 1)
    assert all(layout.shared[0].stored.length == 192 for layout in later if layout.shared)
    assert max(start for layout in later for start in layout.starts[1:]) < 40
    assert engine._worker.loop.cache.sharing  # type: ignore[attr-defined]


def test_samples_of_one_prompt(make_engine: Make) -> None:
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    seen = layouts(engine)
    requests: list[Request | ScoreRequest] = [
        ask(ids(130), n=5, temperature=1.0, seed=3),
        ask(ids(64), n=3, temperature=1.0, seed=4),  # the last token is always computed
        ask(ids(65), n=3, temperature=1.0, seed=5),
    ]
    check(engine, single, requests)
    assert {shared.stored.length for layout in seen for shared in layout.shared} == {128, 64}


def test_samples_of_questions_behind_common_examples(make_engine: Make) -> None:
    """A short question is copied for each sample; one that is longer than the examples is shared too."""
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    seen = layouts(engine)
    sampling = {"n": 4, "temperature": 1.0, "max_tokens": 20}
    check(
        engine,
        single,
        [ask(ids(100) + ids(size, size), seed=size, **sampling) for size in (10, 11, 12, 150)],
    )
    assert {shared.stored.length for layout in seen for shared in layout.shared} == {96, 224}
    assert any(len(layout.shared) == 2 for layout in seen)


def test_beginnings_within_beginnings(make_engine: Make) -> None:
    """A system prompt, then one of two documents: rows share what spares most, and hold the rest."""
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    system, documents = ids(70), [ids(160, number) for number in range(2)]
    requests: list[Request | ScoreRequest] = [
        ask(system + documents[number % 2] + ids(5, number)) for number in range(12)
    ]
    requests += [ask(system + ids(4, number)) for number in range(3)]
    seen = layouts(engine)
    check(engine, single, requests)
    check(engine, single, requests[::-1])
    lengths = {shared.stored.length for layout in seen for shared in layout.shared}
    assert 64 in lengths
    assert 224 in lengths


def test_all_kinds_of_requests_together(serve: Make) -> None:
    """Adapters that act on all, from a call on, or not at all; texts to score; embeddings are left alone."""
    engine, single = serve(), serve(prefix_tokens=0, max_rows=1)
    common = ids(150)
    requests: list[Request | ScoreRequest] = []
    for number in range(4):
        prompt = common + ids(6, number)
        for adapter in (None, "plain", "activated"):
            requests += [
                ask((*prompt, *CALL, 5), adapter=adapter),
                ask(prompt, adapter=adapter, n=2, temperature=1.0, seed=number),
                ask(prompt, adapter=adapter, prompt_logprobs=True, max_tokens=2),
                ScoreRequest(prompt=prompt, completion=ids(70, number), adapter=adapter),
            ]
    seen = layouts(engine)
    for seed in range(3):
        random.Random(seed).shuffle(requests)
        check(engine, single, requests)
    assert max(len(layout.shared) for layout in seen) > 1  # the base's and an adapter's
    assert any(shared.places is not None for layout in seen for shared in layout.shared)


def test_many_with_a_short_opening_do_not_keep_others_from_sharing_documents(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what a longer beginning spares beyond a shorter one."""
    engine = make_engine()
    monkeypatch.setattr(_sharing, "LEAST_SHARED_BYTES", 256 * 300)
    opening, documents = ids(64), [ids(256, number) for number in range(4)]
    for document in documents:
        engine.generate(ask(opening + document, max_tokens=1))
    seen = layouts(engine)
    with engine.paused():
        futures = [
            engine.submit(ask(opening + documents[number % 4] + ids(5, number), max_tokens=3))
            for number in range(40)
        ]
    for future in futures:
        future.result(30)
    assert {shared.stored.length for layout in seen for shared in layout.shared} == {320}


def test_the_last_row_takes_its_beginning_back(make_engine: Make) -> None:
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    seen = layouts(engine)
    common = ids(100)
    check(
        engine,
        single,
        [ask(common + ids(4, number), max_tokens=30 if number == 2 else 5) for number in range(5)],
    )
    assert any(len(layout.starts) > 1 and layout.shared for layout in seen)
    alone = [layout for layout in seen if len(layout.starts) == 1 and not layout.stretches][-20:]
    assert not any(layout.shared for layout in alone)
    assert all(layout.starts[0] > 100 for layout in alone)


@pytest.mark.parametrize("length", [130, 128])
@pytest.mark.parametrize("adapter", [None, "plain", "activated"])
def test_samples_that_wait_join_what_the_others_share(serve: Make, length: int, adapter: str | None) -> None:
    engine, single = serve(max_rows=4), serve(prefix_tokens=0)
    seen = layouts(engine)
    prompt = (*ids(length - 5), *CALL, 7, 8)
    check(engine, single, [ask(prompt, adapter=adapter, n=14, temperature=1.0, seed=7)])
    assert all(len(layout.shared) <= 1 for layout in seen)
    assert all(layout.shared for layout in seen if len(layout.starts) > 1)
    assert max(start for layout in seen[1:] for start in layout.starts) < 60


def test_groups_that_follow_one_another_share(make_engine: Make) -> None:
    """A beginning whose second row is still waiting is not taken back because rows of others end."""
    engine, single = make_engine(max_rows=6), make_engine(prefix_tokens=0, max_rows=1)
    first, second = ids(128, 1), ids(128, 2)
    for common in (first, second):
        engine.generate(ask(common, max_tokens=1))
    seen = layouts(engine)
    check(
        engine,
        single,
        [
            ask(common + ids(4, number), max_tokens=4 + 3 * number)
            for common in (first, second)
            for number in range(8)
        ],
    )
    assert all(layout.shared for layout in seen if len(layout.starts) > 1)
    assert max(start for layout in seen[:-12] for start in layout.starts) < 60


def test_samples_of_short_questions_are_shared_where_that_spares_more(make_engine: Make) -> None:
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    common = ids(128)
    engine.generate(ask(common + ids(9), max_tokens=1))
    engine.generate(ask(common + ids(8), max_tokens=1))
    seen = layouts(engine)
    check(
        engine,
        single,
        [ask(common + ids(120, number), n=16, temperature=1.0, seed=number) for number in range(2)],
    )
    assert 224 in {shared.stored.length for layout in seen for shared in layout.shared}


@pytest.mark.parametrize("n", [1, 3])
def test_without_memory_for_a_beginning_rows_copy(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_sharing.Stored, "alone", fail)
    monkeypatch.setattr(_sharing.Sharing, "read", fail)
    monkeypatch.setattr(engine._worker.loop.prefixes, "put", lambda *_: None)  # it reads as well
    seen = layouts(engine)
    requests: list[Request | ScoreRequest] = [
        ask(ids(100) + ids(4, number), n=n, temperature=1.0, seed=number) for number in range(4)
    ]
    check(engine, single, requests)
    assert not any(layout.shared for layout in seen)


def test_a_failing_pass_drops_what_rows_share(make_engine: Make) -> None:
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    requests = [ask(ids(100) + ids(4, number), max_tokens=20) for number in range(5)]
    failing = [True]

    def fail(module: Any, args: Any, kwargs: Any) -> None:
        if failing[0] and kwargs["past_key_values"].layout.shared:
            failing[0] = False
            raise RuntimeError("out of memory")

    engine._model.base_model.register_forward_pre_hook(fail, with_kwargs=True)
    with engine.paused():
        futures = [engine.submit(one) for one in requests]
    errors = [future.exception(30) for future in futures]
    assert any(errors)
    check(engine, single, list(requests))


def test_a_swapped_adapter_does_not_meet_the_beginning_of_the_old_one(
    serve: Make, folders: dict[str, Path]
) -> None:
    engine, single = serve(), serve(prefix_tokens=0, max_rows=1)
    requests = [ask(ids(100) + ids(4, number), adapter="plain", max_tokens=30) for number in range(3)]
    wanted = [single.generate(one) for one in requests]
    with engine.paused():
        futures = [engine.submit(one) for one in requests]
    engine.load_adapter("plain", folders["activated"])
    single.load_adapter("plain", folders["activated"])
    check(engine, single, [one.replace(prompt=(*one.prompt, 9)) for one in requests])
    for future, one in zip(futures, wanted, strict=True):
        same(future.result(30), one)


@pytest.mark.parametrize("how", ["raises", "lies", "missing"])
def test_attention_that_gives_no_sums_costs_sharing_alone(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    real = _attention._with_sums

    def other(*args: Any, **options: Any) -> Any:
        if how == "raises":
            raise RuntimeError("not implemented")
        output, sums = real(*args, **options)
        return output, sums / math.log(2)  # as a logarithm of another base

    monkeypatch.setattr(_attention, "_with_sums", None if how == "missing" else other)
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    seen = layouts(engine)
    check(engine, single, [ask(ids(100) + ids(4, number), n=2) for number in range(4)])
    assert seen
    assert not any(layout.shared for layout in seen)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions(tiny_model_dir: Path, dtype: str) -> None:
    with Engine.load(tiny_model_dir, dtype=dtype, device="cpu") as engine:
        seen = layouts(engine)
        requests = [
            ScoreRequest(prompt=ids(100) + ids(4, number), completion=ids(8, number)) for number in range(4)
        ]
        with engine.paused():
            futures = [engine.submit_score(one) for one in requests]
        found = [future.result(30).logprobs for future in futures]
        assert any(layout.shared for layout in seen)
    with Engine.load(tiny_model_dir, dtype=dtype, device="cpu", prefix_tokens=0) as single:
        for one, logprobs in zip(requests, found, strict=True):
            assert logprobs == pytest.approx(single.score(one).logprobs, abs=0.05)


def test_rows_in_order_of_adapters_keep_their_turn(serve: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base comes first among the slots; the prompt that goes first is the more urgent one."""
    monkeypatch.setattr(_loop, "PREFILL_TOKENS", 64)
    monkeypatch.setattr(_loop, "MIXED_TOKENS", 64)
    engine = serve()
    seen = layouts(engine)
    with engine.paused():
        urgent = engine.submit(ask(ids(30), adapter="plain", max_tokens=1).replace(priority=-5))
        long = engine.submit(ask(ids(900), max_tokens=1))
    urgent.add_done_callback(lambda _: passes.append(len(seen)))
    passes: list[int] = []
    long.result(30)
    assert passes == [1]
    assert len(seen) > 10


# --- numbers that are not finite ----------------------------------------------------------------------

POISON = 250


@pytest.fixture
def spoilt(make_engine: Make) -> Engine:
    """An engine whose model gives NaN for one token."""
    engine = make_engine(max_rows=4, prefix_tokens=0)

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where((args[0] == POISON)[..., None], float("nan"), output)

    engine._model.get_input_embeddings().register_forward_hook(spoil)
    return engine


@pytest.mark.parametrize("how", ["embedding", "samples", "cancelled", "scored"])
def test_what_breaks_leaves_nothing_for_later_rows(
    spoilt: Engine, make_engine: Make, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = make_engine(prefix_tokens=0, max_rows=1)
    broken = (*ids(30), POISON, *ids(20))
    if how == "embedding":
        with pytest.raises(ModelFailure, match="not finite"):
            spoilt.submit_embedding(list(broken)).result(30)
    elif how == "samples":
        with pytest.raises(ModelFailure, match="not finite"):
            spoilt.generate(ask(broken, n=3))
    elif how == "scored":
        with pytest.raises(ModelFailure, match="not finite"):
            spoilt.score(ScoreRequest(prompt=broken, completion=(5, 6)))
    else:
        monkeypatch.setattr(_loop, "PREFILL_TOKENS", 40)
        future = spoilt.submit(ask((*broken, *ids(700))))
        time.sleep(0.05)
        future.cancel()
    for number in range(6):
        one = ask(ids(10, number), max_tokens=4)
        same(spoilt.generate(one), single.generate(one))


def test_rows_come_and_go_and_are_cancelled(make_engine: Make) -> None:
    engine, single = make_engine(max_rows=7, prefix_tokens=700), make_engine(prefix_tokens=0, max_rows=1)
    draw = random.Random(6)
    commons = [ids(size) for size in (80, 130, 300)]
    requests = [
        ask(
            draw.choice(commons) + ids(draw.randint(1, 30), number),
            max_tokens=draw.randint(1, 30),
            n=draw.choice([1, 1, 3]),
            temperature=1.0,
            seed=number,
        )
        for number in range(60)
    ]
    seen = layouts(engine)
    futures = []
    for one in requests:
        futures.append(engine.submit(one))
        if draw.random() < 0.3:
            draw.choice(futures).cancel()
        time.sleep(draw.random() * 0.004)
    finished = 0
    for one, future in zip(requests, futures, strict=True):
        if not future.cancelled():
            same(future.result(30), single.generate(one))
            finished += 1
    assert finished > 20
    assert any(layout.shared for layout in seen)
    deadline = time.monotonic() + 10
    while engine._worker.loop.rows and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not engine._worker.loop.rows


def test_invariance_shares_nothing(make_engine: Make) -> None:
    engine, single = make_engine(determinism="invariant"), make_engine(prefix_tokens=0, max_rows=1)
    seen = layouts(engine)
    check(engine, single, [ask(ids(200) + ids(5, number), n=2) for number in range(6)])
    assert not any(layout.shared for layout in seen)


def test_a_row_that_breaks_leaves_what_others_share(make_engine: Make) -> None:
    engine, single = make_engine(), make_engine(prefix_tokens=0, max_rows=1)
    common = ids(128)
    requests = [ask(common + ids(4, number), max_tokens=12) for number in range(5)]
    poison = 250

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where((args[0] == poison)[..., None], float("nan"), output)

    engine._model.get_input_embeddings().register_forward_hook(spoil)
    with engine.paused():
        futures = [engine.submit(one) for one in requests]
        broken = engine.submit(ask((*common, 7, poison, 8)))
    with pytest.raises(ModelFailure):
        broken.result(30)
    for one, future in zip(requests, futures, strict=True):
        same(future.result(30), single.generate(one))


def test_little_is_not_worth_sharing(make_engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    # Keys and values of two heads of 16 numbers each, in float32: 256 bytes a layer.
    monkeypatch.setattr(_sharing, "LEAST_SHARED_BYTES", 256 * 128 * 3)
    for count, shared in ((3, False), (5, True)):
        seen = layouts(engine)
        common = ids(130, count)
        with engine.paused():
            futures = [engine.submit(ask(common + ids(4, number))) for number in range(count)]
        for future in futures:
            future.result(30)
        assert any(layout.shared for layout in seen) == shared
