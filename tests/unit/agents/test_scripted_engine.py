"""The scripted engine: the engines' interface without a model."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from docendo.agents import ScriptedEngine
from docendo.errors import AdapterError, CapabilityError, ConfigError, DeadlineExceeded
from docendo.hashing import file_sha256
from docendo.records import Capabilities, Completion, Origin, Request, Result, SamplingParams, ScoreRequest


def ask(prompt: Any = "2 + 2", **settings: Any) -> Request:
    return Request(
        prompt=prompt, sampling=SamplingParams(**settings), origin=Origin(role="student", agent="s")
    )


def test_plays_lists_generators_and_callables() -> None:
    engine = ScriptedEngine(["one", ["two", "three"]])
    assert engine.generate(ask()).text == "one"
    assert [c.text for c in engine.generate(ask(n=2)).completions] == ["two", "three"]
    assert ScriptedEngine(str(i) for i in range(3)).generate(ask()).text == "0"
    echo = ScriptedEngine(lambda request: f"{request.prompt}!")
    assert echo.generate(ask("hey")).text == "hey!"
    whole = Result(completions=(Completion(text="x", finish_reason="length"),))
    assert ScriptedEngine([whole]).generate(ask()) is whole
    assert [r.prompt for r in engine.requests] == ["2 + 2", "2 + 2"]


def test_one_call_too_many_is_an_error() -> None:
    engine = ScriptedEngine(["one"])
    engine.generate(ask())
    with pytest.raises(ConfigError, match="no more answers"):
        engine.generate(ask())


def test_the_number_of_samples_is_checked() -> None:
    with pytest.raises(ConfigError, match="2 texts; expected n = 3"):
        ScriptedEngine([["a", "b"]]).generate(ask(n=3))
    assert len(ScriptedEngine(["same"]).generate(ask(n=3)).completions) == 3


def test_errors_of_a_script_arrive_through_the_future() -> None:
    def fail(request: Request) -> str:
        raise ConfigError("no")

    future = ScriptedEngine(fail).submit(ask())
    with pytest.raises(ConfigError, match="no"):
        future.result()


def test_counts_words() -> None:
    engine = ScriptedEngine(lambda _: "a b c")
    engine.generate(ask("one two"))
    usage = engine.generate(ask(({"role": "user", "content": "one two three"},), n=2)).usage
    assert (usage.prompt_tokens, usage.generated_tokens) == (3, 6)
    (row,) = engine.ledger()
    assert (row["role"], row["calls"], row["prompt_tokens"], row["generated_tokens"]) == ("student", 2, 5, 9)


def test_scores() -> None:
    request = ScoreRequest(prompt="q", completion="a b")
    assert ScriptedEngine([]).score(request).total == pytest.approx(-2)
    engine = ScriptedEngine([], scores=lambda r: -0.1 if r.completion == "a b" else -9)
    assert engine.score(request).total == pytest.approx(-0.1)
    assert asyncio.run(engine.ascore(request)).total == pytest.approx(-0.1)


def test_adapters(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda _: "x")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    sha256 = engine.load_adapter("a", tmp_path)
    assert sha256 == file_sha256(tmp_path / "adapter_model.safetensors")
    assert engine.generate(ask().replace(adapter="a")).adapter == sha256
    assert engine.adapters() == {"a": sha256}
    engine.drop_adapter("a")
    with pytest.raises(AdapterError):
        engine.generate(ask().replace(adapter="a"))
    with pytest.raises(AdapterError):
        engine.adapter_hash("a")


def test_is_a_context_manager_and_pauses() -> None:
    with ScriptedEngine(["x"]) as engine, engine.paused():
        assert asyncio.run(engine.agenerate(ask())).text == "x"
        assert engine.render([{"role": "user", "content": "hey"}]) == "user: hey"


def test_texts_end_at_stop_strings() -> None:
    engine = ScriptedEngine(["one. two. three"])
    result = engine.generate(ask(stop=("!", ". ")))
    assert (result.text, result.usage.generated_tokens) == ("one", 1)


def test_streams_word_by_word() -> None:
    engine = ScriptedEngine([["  one two\n", ""]])
    chunks = list(engine.stream(ask(n=2)))
    assert [(c.text, c.index, c.token_ids) for c in chunks] == [
        ("  one ", 0, (0,)),
        ("two\n", 0, (1,)),
        ("", 1, ()),
    ]
    assert [c.finish_reason for c in chunks] == [None, "stop", "stop"]


def test_offers_less_if_asked_to() -> None:
    engine = ScriptedEngine(["x"], capabilities=Capabilities(features=frozenset({"n"})))
    with pytest.raises(CapabilityError, match="the request needs messages, tools, which the engine"):
        engine.generate(ask(({"role": "user", "content": "q"},)).replace(tools=({"type": "function"},)))
    assert engine.requests == []
    assert engine.generate(ask(n=3)).text == "x"


def test_a_slow_script_misses_its_deadline() -> None:
    engine = ScriptedEngine(lambda _: time.sleep(0.02) or "late")
    with pytest.raises(DeadlineExceeded):
        engine.generate(ask().replace(timeout=0.01))
    assert engine.generate(ask().replace(timeout=60)).text == "late"
