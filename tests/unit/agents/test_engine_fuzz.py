"""What a seed promises: under "invariant" every bit of a result, whatever else the engine is asked for."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from docendo.agents import Engine
from docendo.agents._sampling import draw
from docendo.errors import ConfigError
from docendo.records import Grammar, Request, Result, SamplingParams, ScoreRequest, ScoreResult

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Make = Callable[..., Engine]
CALL = (201, 202, 203)
GRAMMARS = (
    Grammar.json_schema({"type": "object", "properties": {"a": {"enum": [1, 22]}}, "required": ["a"]}),
    Grammar.regex("[a-f]{2,9}-[0-9]{1,4}"),
    Grammar.choice(["yes", "no", "it depends"]),
)


@pytest.fixture(scope="module")
def folders(save_loras: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    """A plain and an activated LoRA with random weights, saved by PEFT."""
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "queries": {"r": 3, "target_modules": ["q_proj", "down_proj"]},
        "activated": {"r": 8, "alora_invocation_tokens": list(CALL)},
    }
    return save_loras(kinds)


class Draws:
    """Random requests, many of which begin alike."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.beginnings = [self.ids(length) for length in (20, 90, 255, 256, 300, 700)]

    def ids(self, count: int) -> tuple[int, ...]:
        return tuple(self.random.randrange(10, 200) for _ in range(count))

    def prompt(self) -> Any:
        chance = self.random.random()
        if chance < 0.1:
            return "text " * self.random.randint(1, 80)
        if chance < 0.2:
            return ({"role": "user", "content": "question " * self.random.randint(1, 40)},)
        call = CALL if self.random.random() < 0.5 else ()
        ids = self.random.choice([(), *self.beginnings]) + self.ids(self.random.randint(1, 40))
        return ids + call + self.ids(self.random.randint(0, 3))

    def maybe(self, chance: float, value: Callable[[], Any], other: Any) -> Any:
        return value() if self.random.random() < chance else other

    def sampling(self) -> SamplingParams:
        draws, maybe = self.random, self.maybe
        return SamplingParams(
            max_tokens=draws.randint(1, 24),
            temperature=maybe(0.6, lambda: draws.uniform(0.1, 2.5), 0.0),
            top_k=maybe(0.3, lambda: draws.randint(1, 50), 0),
            top_p=maybe(0.3, lambda: draws.uniform(0.1, 1.0), 1.0),
            min_p=maybe(0.3, lambda: draws.uniform(0.0, 0.5), 0.0),
            repetition_penalty=maybe(0.3, lambda: draws.uniform(0.7, 2.0), 1.0),
            seed=maybe(0.5, lambda: draws.randrange(1 << 40), None),
            stop=maybe(0.3, lambda: tuple(draws.sample("abcdefghij", 2)), ()),
            n=maybe(0.3, lambda: draws.randint(2, 6), 1),
            stop_token_ids=maybe(0.3, lambda: tuple(draws.sample(range(3, 250), 3)), ()),
            ignore_eos=draws.random() < 0.5,
            top_logprobs=maybe(0.3, lambda: draws.randint(1, 20), 0),
            prompt_logprobs=draws.random() < 0.2,
            grammar=maybe(0.3, lambda: draws.choice(GRAMMARS), None),
        )

    def request(self) -> Request | ScoreRequest:
        adapter = self.random.choice((None, None, "plain", "queries", "activated", "activated"))
        priority = self.random.randint(-2, 2)
        if self.random.random() < 0.2:
            completion = self.ids(self.random.randint(1, 400))
            return ScoreRequest(
                prompt=self.prompt(), completion=completion, adapter=adapter, priority=priority
            )
        return Request(prompt=self.prompt(), sampling=self.sampling(), adapter=adapter, priority=priority)


def essence(result: Result | ScoreResult) -> Any:
    """What must be the same, bit for bit; `repr` of a float tells all of its bits."""
    if isinstance(result, ScoreResult):
        return repr((result.token_ids, result.logprobs, result.adapter))
    return repr(
        (result.completions, result.seed, result.adapter, result.prompt_token_ids, result.prompt_logprobs)
    )


def alone(engine: Engine, request: Request | ScoreRequest) -> Any:
    return essence(engine.score(request) if isinstance(request, ScoreRequest) else engine.generate(request))


def streamed(engine: Engine, request: Request) -> Any:
    """A stream's samples as (text, tokens, log-probabilities, reason)."""
    parts: dict[int, list[Any]] = {}
    for chunk in engine.stream(request):
        parts.setdefault(chunk.index, []).append(chunk)
    return repr(
        [
            (
                "".join(chunk.text for chunk in chunks),
                sum((chunk.token_ids for chunk in chunks), ()),
                sum((chunk.logprobs for chunk in chunks), ()),
                chunks[-1].finish_reason,
            )
            for _, chunks in sorted(parts.items())
        ]
    )


def run_together(
    engine: Engine, requests: list[Request | ScoreRequest], seed: int, *, threads: int = 5
) -> dict[int, Any]:
    """Runs requests from several threads, among others that are cancelled; streams under negative keys."""
    found: dict[int, Any] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        draws = Draws(1000 * seed + number)
        try:
            pending: list[tuple[int, Future[Any]]] = []
            victims: list[Future[Any]] = []
            for index in range(number, len(requests), threads):
                request = requests[index]
                if draws.random.random() < 0.5:
                    other = draws.request()
                    submit: Any = engine.submit_score if isinstance(other, ScoreRequest) else engine.submit
                    victims.append(submit(other))
                if isinstance(request, ScoreRequest):
                    pending.append((index, engine.submit_score(request)))
                elif draws.random.random() < 0.3:
                    found[-1 - index] = streamed(engine, request)
                else:
                    pending.append((index, engine.submit(request)))
                if victims and draws.random.random() < 0.6:
                    victims.pop(draws.random.randrange(len(victims))).cancel()
            for victim in victims:
                victim.cancel()
            for index, future in pending:
                found[index] = essence(future.result(50))
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    if errors:
        raise errors[0]
    return found


def differing(engine: Engine, single: Engine, requests: list[Request | ScoreRequest], seed: int) -> list[str]:
    """Descriptions of requests whose result is another than their own run gives."""
    together = run_together(engine, requests, seed)
    assert len(together) == len(requests)
    wrong = []
    for key, got in together.items():
        request = requests[key if key >= 0 else -1 - key]
        if key >= 0:
            wanted = alone(single, request)
        else:
            assert isinstance(request, Request)
            wanted = repr(
                [
                    (c.text, c.token_ids, c.logprobs, c.finish_reason)
                    for c in single.generate(request).completions
                ]
            )
        if got != wanted:
            wrong.append(f"{request}\n  got    {got}\n  wanted {wanted}")
    return wrong


#: `DOCENDO_FAULTS=full` asks for the long form.
LONG = os.environ.get("DOCENDO_FAULTS") == "full"
ROOMS: dict[str, dict[str, Any]] = {
    "roomy": {},
    "three rows": {"max_rows": 3, "max_queue": 4},
    "little memory": {"cache_bytes": 3000 * 512},
    "few prefixes": {"prefix_tokens": 600},
}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_whatever_else_runs_no_bit_changes(serve: Make, room: str, seed: int) -> None:
    engine = serve(determinism="invariant", **ROOMS[room])
    single = serve(determinism="invariant", prefix_tokens=0)
    draws = Draws(seed)
    requests = [draws.request() for _ in range(40)]
    wrong = differing(engine, single, requests, seed)
    assert not wrong, f"{len(wrong)} of {len(requests)} differ, such as\n{wrong[0][:3000]}"


@pytest.mark.parametrize("name", [None, "plain", "activated"])
def test_the_first_request_of_an_engine_has_the_bits_of_later_ones(serve: Make, name: str | None) -> None:
    ids = Draws(3).ids
    for length in (1, 3, 40, 70, 300):
        engine = serve(determinism="invariant", prefix_tokens=0)
        prompt = ids(length) + CALL + ids(2)
        request = Request(
            prompt=prompt, adapter=name, sampling=SamplingParams(max_tokens=8, prompt_logprobs=True)
        )
        first = alone(engine, request)
        for other in ("plain", "queries", "activated"):
            engine.generate(request.replace(adapter=other))
        assert alone(engine, request) == first


@pytest.mark.parametrize("name", [None, "plain", "activated"])
def test_stored_beginnings_have_the_bits_of_computed_ones(serve: Make, name: str | None) -> None:
    """Shorter prompts were computed in shorter pieces: nothing of them may stand for a whole piece."""
    ids = Draws(4).ids(1000)
    sampling = SamplingParams(max_tokens=6, ignore_eos=True)
    requests = [
        Request(prompt=(*ids[:length], 7), adapter=name, sampling=sampling)
        for length in (17, 40, 61, 100, 133, 200, 254, 300, 330, 450, 509, 512, 600, 900)
    ]
    single = serve(determinism="invariant", prefix_tokens=0)
    wanted = [alone(single, request) for request in requests]
    wanted = [alone(single, request) for request in requests]  # after whatever is prepared once
    engine = serve(determinism="invariant")
    alone(engine, requests[0])
    assert [alone(engine, request) for request in requests] == wanted
    assert engine.generate(requests[-1]).usage.cached_tokens == 768


def test_without_invariance_bits_do_change(serve: Make) -> None:
    """What the checks above would see."""
    engine, single = serve(), serve(prefix_tokens=0)
    draws = Draws(0)
    assert differing(engine, single, [draws.request() for _ in range(60)], 0)


# --- processor threads --------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_samples_drawn_together_have_the_bits_of_those_drawn_alone(make_engine: Make) -> None:
    """How many samples find room with the first must not matter, however large the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    roomy, narrow = (make_engine(determinism="invariant", max_rows=rows) for rows in (8, 2))
    params = SamplingParams(temperature=1.0, top_logprobs=2)

    def drawn(engine: Engine, logits: torch.Tensor, count: int) -> list[float]:
        """First log-probabilities of a request's samples, on an engine with logits of a large vocabulary."""
        loop = engine._worker.loop
        rooms = [min(count, loop.max_rows)] * (count // min(count, loop.max_rows))
        return [
            logprob
            for room in rooms
            for logprob in draw(
                logits.expand(room, -1), [params] * room, [1] * room, [0] * room, [()] * room
            ).logprobs
        ]

    for _ in range(20):
        logits = torch.randn(1, 49_152, generator=generator) * 3
        assert drawn(roomy, logits, 8) == drawn(narrow, logits, 8)


# --- the other levels ---------------------------------------------------------------------------------


def test_seeded_is_the_default_and_gives_equal_tokens(serve: Make) -> None:
    engine, single = serve(), serve(prefix_tokens=0, max_rows=1)
    assert engine.capabilities.determinism == "seeded"
    ids = Draws(5).ids
    requests = [
        Request(
            prompt=ids(20 + 11 * number),
            adapter=(None, "plain", "activated")[number % 3],
            sampling=SamplingParams(
                max_tokens=20, temperature=1.3, seed=(number, None)[number % 2], n=1 + number % 3
            ),
        )
        for number in range(30)
    ]
    with engine.paused():
        futures = [engine.submit(request) for request in requests]
    for request, future in zip(requests, futures, strict=True):
        wanted, got = single.generate(request), future.result(30)
        assert got.seed == wanted.seed
        assert [c.token_ids for c in got.completions] == [c.token_ids for c in wanted.completions]


def test_none_draws_a_fresh_seed_for_requests_without_one(make_engine: Make) -> None:
    engine = make_engine(determinism="none")
    assert engine.capabilities.determinism == "none"
    free = Request(prompt="a prompt", sampling=SamplingParams(max_tokens=12, temperature=1.5))
    results = [engine.generate(free) for _ in range(4)]
    assert len({result.completions[0].token_ids for result in results}) == 4
    assert len({result.seed for result in results}) == 4
    # What it says it has used repeats it.
    again = engine.generate(free.replace(sampling=free.sampling.replace(seed=results[0].seed)))
    assert again.completions[0].token_ids == results[0].completions[0].token_ids
    seeded = make_engine()
    assert len({seeded.generate(free).completions[0].token_ids for _ in range(3)}) == 1


@pytest.mark.parametrize("level", ["", "Seeded", "bitwise", None])
def test_levels_that_are_none_are_refused(make_engine: Make, level: Any) -> None:
    with pytest.raises(ConfigError, match=r"determinism is .* expected one of none, seeded, invariant"):
        make_engine(determinism=level)
