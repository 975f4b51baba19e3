"""What a request may ask for: its turn, its deadline, its place in the queue, its stream, its tokens."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from docendo.agents import Engine, _worker, tiny_model
from docendo.agents._loop import MIXED_TOKENS
from docendo.errors import DeadlineExceeded, EngineClosed
from docendo.records import EngineEvent, Grammar, Request, Result, SamplingParams, ScoreRequest

Make = Callable[..., Engine]
Passes = Callable[[Engine], list[tuple[int, int]]]
TEXT = tuple(range(40, 60))


def ask(prompt: Any = TEXT, count: int = 8, **settings: Any) -> Request:
    outer = {name: settings.pop(name) for name in ("priority", "timeout", "adapter") if name in settings}
    return Request(prompt=prompt, sampling=SamplingParams(max_tokens=count, **settings), **outer)


def endless(count: int = 1500, **settings: Any) -> Request:
    return ask(count=count, ignore_eos=True, **settings)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for nothing"
        time.sleep(0.002)


def assert_empty(engine: Engine) -> None:
    """Nothing of any request is left."""
    worker, loop = engine._worker, engine._worker.loop
    wait_for(lambda: not loop.busy and not worker._incoming)
    assert (worker._queued, len(worker._line), loop.rows, loop.desk.waiting) == (0, 0, [], [])


# --- turns -------------------------------------------------------------------------------------------


def test_a_long_prompt_does_not_hold_up_a_row_that_decodes(
    make_engine: Make, tmp_path: Path, watch: Passes
) -> None:
    engine = make_engine(tiny_model(tmp_path / "long", context=8192))
    steps: list[int] = []
    passes = watch(engine)
    engine._model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: steps.append(len(kwargs["past_key_values"].layout.starts)),
        with_kwargs=True,
    )
    decoding = engine.submit(endless(4000))
    wait_for(lambda: len(passes) > 5)
    before = len(passes)
    long = tuple(10 + (7 * i) % 240 for i in range(4000))
    result = engine.generate(ask(long, 2))
    decoding.cancel()
    pieces = [at for at in range(before, len(passes)) if passes[at][1]]
    assert sum(passes[at][1] for at in pieces) == len(long)
    assert len(pieces) >= len(long) // MIXED_TOKENS
    assert all(passes[at][1] <= MIXED_TOKENS for at in pieces)
    assert all(steps[at] == 1 for at in pieces), "a pass left out the row that decodes"
    assert result.completions[0].token_ids == engine.generate(ask(long, 2)).completions[0].token_ids


def test_lower_priority_numbers_go_first_then_those_who_came_first(make_engine: Make) -> None:
    engine = make_engine(max_rows=1, prefix_tokens=0)
    order: list[int] = []
    priorities = [5, 0, 5, -1, 0, 9, -1]
    with engine.paused():
        futures = []
        for number, priority in enumerate(priorities):
            future = engine.submit(ask((50 + number, 60), 1, priority=priority))
            future.add_done_callback(lambda _, number=number: order.append(number))
            futures.append(future)
    for future in futures:
        future.result(20)
    assert order == sorted(range(len(priorities)), key=lambda number: (priorities[number], number))


def test_scores_have_a_priority_as_well(make_engine: Make) -> None:
    engine = make_engine(max_rows=1, prefix_tokens=0)
    order: list[str] = []
    with engine.paused():
        first = engine.submit(ask(count=1))
        second = engine.submit_score(ScoreRequest(prompt=TEXT, completion=(50,), priority=-1))
        first.add_done_callback(lambda _: order.append("text"))
        second.add_done_callback(lambda _: order.append("score"))
    first.result(20)
    assert order == ["score", "text"]


# --- deadlines ---------------------------------------------------------------------------------------


def missed(future: Future[Any], *, within: float) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="not finished after"):
        future.result(20)
    assert time.monotonic() - began < within


def test_a_deadline_passes_in_the_queue(make_engine: Make) -> None:
    engine = make_engine(max_rows=1)
    seen: list[EngineEvent] = []
    engine.subscribe(seen.append)
    running = engine.submit(endless())
    wait_for(lambda: bool(engine._worker.loop.rows))
    late = engine.submit(ask((70, 71), timeout=0.05))
    late_score = engine.submit_score(ScoreRequest(prompt=(72,), completion=(50,), timeout=0.05))
    missed(late, within=5)
    missed(late_score, within=5)
    assert not running.done()
    running.cancel()
    assert engine.generate(ask(timeout=60)).completions
    assert [event.status for event in seen] == ["failed", "failed", "cancelled", "finished"]
    assert_empty(engine)


def test_a_deadline_passes_while_rows_run(engine: Engine) -> None:
    """All samples end, and the ledger counts what they had written."""
    expected = engine.generate(ask()).completions
    seen: list[EngineEvent] = []
    engine.subscribe(seen.append)
    missed(engine.submit(endless(1900, n=3, temperature=1.0, timeout=0.2)), within=5)
    wait_for(lambda: bool(seen))
    assert (seen[0].status, seen[0].error) == ("failed", "DeadlineExceeded")
    assert seen[0].usage.generated_tokens > 3
    assert engine.generate(ask()).completions[0].token_ids == expected[0].token_ids
    assert_empty(engine)


def test_a_deadline_passes_while_the_engine_is_paused(engine: Engine) -> None:
    with engine.paused():
        late = engine.submit(ask(timeout=0.05))
        on_time = engine.submit(ask())
        missed(late, within=5)
        assert not on_time.done()
    assert on_time.result(20).text
    assert_empty(engine)


def test_callers_that_submit_together_share_the_first_pass(
    engine: Engine, watch: Callable[[Engine], list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "HANDOVER", 0.5)
    monkeypatch.setattr(_worker, "MOST_HANDOVER", 10.0)
    passes = watch(engine)
    prompts = [tuple(range(10 * number, 10 * number + 20)) for number in range(1, 4)]
    futures = [engine.submit(ask(prompt, 1)) for prompt in prompts]
    for future in futures:
        future.result(20)
    assert passes == [(3, 60)]


def test_a_row_that_began_before_a_pause_keeps_its_deadline(engine: Engine) -> None:
    running = engine.submit(endless(1900, timeout=0.3))
    wait_for(lambda: bool(engine._worker.loop.rows))
    with engine.paused():
        missed(running, within=5)
    assert engine.generate(ask()).text
    assert_empty(engine)


def test_what_a_late_request_would_have_reused_is_not_given_to_another(
    engine: Engine, make_engine: Make
) -> None:
    """Requests that end in a pause leave nothing behind that a later one could be taken for."""
    stored, rest = tuple(range(30, 90)), tuple(10 + (7 * i + i * i) % 200 for i in range(1400))
    engine.generate(ask(stored, 1))
    worker = engine._worker
    decoding = engine.submit(endless())
    wait_for(lambda: bool(worker.loop.rows))
    entered, held = threading.Event(), threading.Event()

    def hold(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["past_key_values"].layout.stretches:
            entered.set()
            held.wait(10)

    hook = engine._model.base_model.register_forward_pre_hook(hold, with_kwargs=True)
    with engine.paused():
        # Beside a row that decodes its prompt takes two passes, for which the late one waits.
        first = engine.submit(ask(stored + rest, 1))
        late = engine.submit(ask((*stored, *rest, 7), 1, timeout=0.3))
    assert entered.wait(10)
    pausing = threading.Thread(target=worker.pause)
    pausing.start()
    held.set()
    pausing.join(10)
    hook.remove()
    try:
        assert not first.done()
        with pytest.raises(DeadlineExceeded):
            late.result(20)
        time.sleep(0.05)
        del late
        others = [ask((*range(100, 170), 10 + number), 6) for number in range(40)]
        futures = [engine.submit(other) for other in others]
    finally:
        worker.go_on()
        decoding.cancel()
    assert first.result(20).text is not None
    alone = make_engine(prefix_tokens=0)
    for other, future in zip(others, futures, strict=True):
        wanted = alone.generate(other).completions[0].token_ids
        assert future.result(20).completions[0].token_ids == wanted


# --- a full queue ------------------------------------------------------------------------------------


@pytest.fixture
def full(make_engine: Make) -> Iterator[Engine]:
    """An engine in a pause, whose queue of two is full."""
    engine = make_engine(max_queue=2)
    with engine.paused():
        engine.submit(ask((61, 62), 1))
        engine.submit(ask((63, 64), 1))
        yield engine


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Runs a call in a thread."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def test_submitting_waits_for_a_place(full: Engine) -> None:
    worker = full._worker
    blocked = [in_thread(lambda: full.submit(ask(count=1)).result(20)) for _ in range(3)]
    wait_for(lambda: len(worker._line) == 3)
    time.sleep(0.05)
    assert worker._queued == 2
    assert not any(outcome.done() for outcome in blocked)
    full._worker.go_on()
    try:
        assert [outcome.result(20).text for outcome in blocked] == [full.generate(ask(count=1)).text] * 3
        assert_empty(full)
    finally:
        full._worker.pause()


async def test_awaiting_a_place_leaves_the_event_loop_free(full: Engine) -> None:
    tasks = [asyncio.create_task(full.agenerate(ask(count=1))) for _ in range(3)]
    beats = 0
    while len(full._worker._line) < 3:
        await asyncio.sleep(0.001)
        beats += 1
    assert beats < 1000
    assert not any(task.done() for task in tasks)
    full._worker.go_on()
    results = await asyncio.gather(*tasks)
    assert len({result.text for result in results}) == 1
    await asyncio.to_thread(assert_empty, full)
    await asyncio.to_thread(full._worker.pause)


async def test_a_cancelled_task_gives_its_place_back(full: Engine) -> None:
    worker = full._worker
    tasks = [asyncio.create_task(full.agenerate(ask(count=1))) for _ in range(4)]
    while len(worker._line) < 4:
        await asyncio.sleep(0.001)
    for task in (tasks[0], tasks[2]):
        task.cancel()
    await asyncio.sleep(0.01)
    worker.go_on()
    assert all(await asyncio.gather(tasks[1], tasks[3]))
    assert tasks[0].cancelled()
    assert tasks[2].cancelled()
    await asyncio.to_thread(assert_empty, full)
    # Both places can be taken again.
    await asyncio.to_thread(worker.pause)
    for number in (65, 66):
        await asyncio.wait_for(asyncio.to_thread(full.submit, ask((number,), 1)), 5)
    assert worker._queued == 2


async def test_a_place_that_comes_as_the_task_is_cancelled_is_given_back(full: Engine) -> None:
    worker = full._worker
    task = asyncio.create_task(full.agenerate(ask(count=1)))
    while not worker._line:
        await asyncio.sleep(0.001)
    worker.go_on()
    # The event loop is not let in between the place's coming and the cancellation.
    wait_for(lambda: not worker._line)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(assert_empty, full)
    await asyncio.to_thread(worker.pause)


async def test_a_full_queue_and_deadlines(full: Engine) -> None:
    for call in (
        asyncio.to_thread(full.generate, ask(timeout=0.05)),
        full.agenerate(ask(timeout=0.05)),
        full.ascore(ScoreRequest(prompt=TEXT, completion=(50,), timeout=0.05)),
    ):
        with pytest.raises(DeadlineExceeded, match="queue of 2 requests stayed full"):
            await call
    assert full._worker._queued == 2
    full._worker.go_on()
    await asyncio.to_thread(assert_empty, full)
    await asyncio.to_thread(full._worker.pause)


async def test_closing_reaches_those_who_wait_for_a_place(full: Engine) -> None:
    thread = in_thread(lambda: full.submit(ask()))
    task = asyncio.create_task(full.agenerate(ask()))
    stream = in_thread(lambda: list(full.stream(ask())))
    while len(full._worker._line) < 3:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(full.close)
    for outcome in (thread, stream):
        with pytest.raises(EngineClosed):
            outcome.result(10)
    with pytest.raises(EngineClosed):
        await task


def test_a_request_cancelled_in_the_queue_makes_room(make_engine: Make) -> None:
    engine = make_engine(max_queue=2, max_rows=1)
    running = engine.submit(endless())
    wait_for(lambda: bool(engine._worker.loop.rows))
    waiting = [engine.submit(ask((60 + number,), 1)) for number in range(2)]
    blocked = in_thread(lambda: engine.submit(ask((90,), 1)))
    wait_for(lambda: bool(engine._worker._line))
    waiting[0].cancel()
    inner = blocked.result(10)
    assert not running.done()
    running.cancel()
    assert inner.result(20).text is not None
    assert_empty(engine)


def test_memory_that_runs_out_on_admission_costs_no_place(make_engine: Make) -> None:
    engine = make_engine(max_queue=2)
    cache = engine._worker.loop.cache
    reserve = cache.reserve

    def fail(*_: Any) -> None:
        raise RuntimeError("not enough memory")

    for _ in range(3):
        cache.reserve = fail
        with pytest.raises(Exception, match="not enough memory"):
            engine.submit(ask(timeout=5)).result(20)
        cache.reserve = reserve
    assert engine.submit(ask(timeout=5)).result(20).text
    assert_empty(engine)


# --- streams -----------------------------------------------------------------------------------------


def check_stream(engine: Engine, request: Request) -> None:
    """Chunks add up to the result, sample by sample."""
    whole, chunks = engine.generate(request), list(engine.stream(request))
    for index, completion in enumerate(whole.completions):
        mine = [chunk for chunk in chunks if chunk.index == index]
        assert "".join(chunk.text for chunk in mine) == completion.text
        assert sum((chunk.token_ids for chunk in mine), ()) == completion.token_ids
        assert sum((chunk.logprobs for chunk in mine), ()) == pytest.approx(completion.logprobs, abs=1e-4)
        assert [chunk.finish_reason for chunk in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == completion.finish_reason
        assert all(chunk.text for chunk in mine[:-1])
        assert not any("\ufffd" in chunk.text for chunk in mine[:-1] if not completion.text.count("\ufffd"))
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.generated_tokens == whole.usage.generated_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


@pytest.mark.parametrize("seed", range(4))
def test_streams_add_up(engine: Engine, seed: int) -> None:
    whole = engine.generate(ask(count=60, temperature=1.2, seed=seed)).text
    for stop in ((), (whole[20:23],), (whole[10:12] + "#", whole[30:34]), (whole[5:6],)):
        if all(stop):
            check_stream(engine, ask(count=60, temperature=1.2, seed=seed, n=3, stop=stop))


def write(engine: Engine, text: str) -> None:
    """Makes the model write a text, a byte at a time."""
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    head = engine._worker.loop.head
    state = {"at": 0}

    def steer(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(output, -50.0)
        forced[:, ids[state["at"] % len(ids)]] = 0.0
        state["at"] += 1
        return forced

    head.register_forward_hook(steer)


def test_no_half_characters(engine: Engine) -> None:
    text = "größer 日本語 🎉🎊 ñ"
    write(engine, text)
    chunks = list(engine.stream(ask(count=len(text.encode()))))
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.text for chunk in chunks] == list(text)
    assert not any("\ufffd" in chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("text", "stops", "expected", "held"),
    [
        ("the end. User: hi", ("User:",), "the end. ", "U"),
        ("aaab after", ("aab",), "a", "ab"),
        ("xyzxyzxyw tail", ("xyw", "never"), "xyzxyz", "w"),
        ("na\u00efve caf\u00e9 end", ("caf\u00e9",), "na\u00efve ", "c"),
    ],
)
def test_no_part_of_a_stop_string(
    engine: Engine, text: str, stops: tuple[str, ...], expected: str, held: str
) -> None:
    write(engine, text)
    chunks = list(engine.stream(ask(count=len(text.encode()), stop=stops)))
    assert "".join(chunk.text for chunk in chunks) == expected
    assert chunks[-1].finish_reason == "stop"
    assert not any(held in chunk.text for chunk in chunks)


def test_what_might_have_become_a_stop_string_is_sent_after_all(engine: Engine) -> None:
    write(engine, "abc Us")
    chunks = list(engine.stream(ask(count=6, stop=("User:",))))
    assert [chunk.text for chunk in chunks][-1] == "Us"
    assert "".join(chunk.text for chunk in chunks) == "abc Us"


async def test_a_closed_stream_frees_its_rows(engine: Engine) -> None:
    seen: list[EngineEvent] = []
    engine.subscribe(seen.append)
    stream = engine.stream(endless(n=3, temperature=1.0))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert_empty(engine)
    chunks = engine.astream(endless())
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(assert_empty, engine)
    assert [event.status for event in seen] == ["cancelled", "cancelled"]


async def test_a_late_stream_says_so(engine: Engine) -> None:
    texts: list[str] = []
    with pytest.raises(DeadlineExceeded):
        texts.extend(chunk.text for chunk in engine.stream(endless(1900, timeout=0.2)))
    assert texts
    late = engine.astream(endless(1900, timeout=0.2))
    with pytest.raises(DeadlineExceeded):
        [chunk async for chunk in late]
    await asyncio.to_thread(assert_empty, engine)


# --- what else is returned ---------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 20, 700, 1500])
@pytest.mark.parametrize("n", [1, 3])
def test_log_probabilities_of_the_prompt_are_its_score(make_engine: Make, length: int, n: int) -> None:
    engine, other = make_engine(max_rows=2), make_engine()
    prompt = tuple(10 + (11 * i + i * i) % 240 for i in range(length))
    for _ in range(2):  # the second time its beginning is stored
        result = engine.generate(ask(prompt, 2, prompt_logprobs=True, n=n, temperature=1.0))
        assert result.prompt_token_ids == prompt
        assert result.prompt_logprobs[0] is None
        assert len(result.completions) == n
        scored = other.score(ScoreRequest(prompt=prompt[:1], completion=prompt[1:]))
        assert result.prompt_logprobs[1:] == pytest.approx(scored.logprobs, abs=1e-4)
    plain = engine.generate(ask(prompt, 2))
    assert (plain.prompt_token_ids, plain.prompt_logprobs) == ((), ())


def test_log_probabilities_of_prompts_beside_other_rows(make_engine: Make) -> None:
    engine, alone = make_engine(), make_engine(max_rows=1, prefix_tokens=0)
    requests = [
        ask((50 + number, *range(60, 160), *(40,) * number), 12, ignore_eos=True, prompt_logprobs=number != 2)
        for number in range(6)
    ]
    with engine.paused():
        futures = [engine.submit(request) for request in requests]
        futures.insert(0, engine.submit(ask(count=3)))
    for request, future in zip(requests, futures[1:], strict=True):
        got, wanted = future.result(20), alone.generate(request)
        assert got.completions[0].token_ids == wanted.completions[0].token_ids
        assert got.prompt_token_ids == wanted.prompt_token_ids
        assert got.prompt_logprobs[1:] == pytest.approx(wanted.prompt_logprobs[1:], abs=1e-4)


def test_alternatives_agree_with_the_log_probabilities(engine: Engine) -> None:
    for settings in ({}, {"temperature": 1.5, "seed": 3}, {"repetition_penalty": 1.5}):
        for completion in engine.generate(ask(count=20, top_logprobs=5, n=2, **settings)).completions:
            assert len(completion.top_logprobs) == len(completion.token_ids)
            for token, logprob, position in zip(
                completion.token_ids, completion.logprobs, completion.top_logprobs, strict=True
            ):
                values = [value for _, value in position]
                assert len(position) == len(dict(position)) == 5
                assert values == sorted(values, reverse=True)
                found = dict(position)
                if token in found:
                    assert logprob == pytest.approx(found[token], abs=1e-6)
                else:
                    assert logprob <= values[-1] + 1e-6
                if not settings:
                    assert token == position[0][0]
    with engine.paused():  # each row of a batch gets as many as it asked for
        futures = [
            engine.submit(ask((50 + count, 51), 3, top_logprobs=count, ignore_eos=True))
            for count in (0, 1, 20, 2)
        ]
    counts = [[len(p) for p in f.result(20).completions[0].top_logprobs] for f in futures]
    assert counts == [[], [1] * 3, [20] * 3, [2] * 3]


# --- ends --------------------------------------------------------------------------------------------


def test_tokens_that_stop(engine: Engine) -> None:
    plain = engine.generate(ask(count=30, ignore_eos=True, temperature=1.0, seed=2)).completions[0]
    end = plain.token_ids[12]
    at = plain.token_ids.index(end)
    for ignoring in (True, False):
        stopped = engine.generate(
            ask(count=30, ignore_eos=ignoring, temperature=1.0, seed=2, stop_token_ids=(end, 4))
        ).completions[0]
        assert stopped.finish_reason == "stop"
        assert stopped.token_ids == plain.token_ids[: at + 1]
        assert stopped.text == engine.tokenizer.decode(plain.token_ids[:at], skip_special_tokens=True)


def test_end_tokens_may_be_ignored(engine: Engine) -> None:
    end = next(iter(engine._ends))
    head = engine._worker.loop.head
    head.register_forward_hook(lambda module, args, output: output.index_fill(1, torch.tensor([end]), 100.0))
    stopped = engine.generate(ask(count=5)).completions[0]
    assert (stopped.token_ids, stopped.finish_reason, stopped.text) == ((end,), "stop", "")
    ignored = engine.generate(ask(count=5, ignore_eos=True)).completions[0]
    assert (ignored.token_ids, ignored.finish_reason) == ((end,) * 5, "length")
    named = engine.generate(ask(count=5, ignore_eos=True, stop_token_ids=(end,))).completions[0]
    assert named.token_ids == (end,)


# --- grammars ----------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def is_person(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"name", "age"} and value["name"] in ("ann", "bob") and 0 <= value["age"] <= 99


GRAMMARS: dict[str, tuple[Grammar, Callable[[str], object]]] = {
    "json_schema": (Grammar.json_schema(SCHEMA), is_person),
    "regex": (Grammar.regex("[a-f]{3}-[0-9]{4}"), lambda text: re.fullmatch("[a-f]{3}-[0-9]{4}", text)),
    "choice": (Grammar.choice(["north", "north-east", "süd"]), ("north", "north-east", "süd").__contains__),
}


@pytest.mark.parametrize("kind", GRAMMARS)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_grammars_hold_for_every_sample(engine: Engine, kind: str, temperature: float) -> None:
    grammar, fits = GRAMMARS[kind]
    request = ask(count=400, grammar=grammar, n=6, temperature=temperature, seed=5)
    with engine.paused():  # beside rows without a grammar
        free = engine.submit(ask(count=30, temperature=1.0, seed=1))
        future = engine.submit(request)
    texts = [completion.text for completion in future.result(20).completions]
    assert all(fits(text) for text in texts), texts
    assert all(completion.finish_reason == "stop" for completion in future.result().completions)
    assert len(set(texts)) > 1 or temperature == 0
    alone = engine.generate(ask(count=30, temperature=1.0, seed=1))
    assert free.result(20).completions[0].token_ids == alone.completions[0].token_ids
    check_stream(engine, request)


@pytest.mark.parametrize("kind", GRAMMARS)
def test_a_grammar_that_max_tokens_cuts(engine: Engine, kind: str) -> None:
    grammar, fits = GRAMMARS[kind]
    settings: dict[str, Any] = {"grammar": grammar, "temperature": 1.0, "seed": 8, "n": 3}
    whole = engine.generate(ask(count=120, **settings))
    cut = engine.generate(ask(count=2, **settings))
    for short, long in zip(cut.completions, whole.completions, strict=True):
        assert short.finish_reason == "length"
        assert short.token_ids == long.token_ids[:2]
        assert not fits(short.text) if kind != "json_schema" else short.text.startswith("{")


def test_results_can_be_stored(engine: Engine) -> None:
    result = engine.generate(ask(n=2, top_logprobs=2, prompt_logprobs=True, temperature=1.0))
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
