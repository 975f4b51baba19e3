"""Where a completion ends, what it counts, and which requests are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from docendo.agents import Engine
from docendo.errors import AdapterError, ConfigError
from docendo.records import Origin, Request, SamplingParams, ScoreRequest

Make = Callable[..., Engine]
Passes = Callable[[Engine], list[tuple[int, int]]]


def byte_ids(text: str) -> list[int]:
    """The tiny tokenizer's ids: one per UTF-8 byte, found by the order of its alphabet."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [3 + alphabet.index(c) for piece, _ in table.pre_tokenize_str(text) for c in piece]


class Writer:
    """Makes the model write a fixed text after any prompt, by way of a forward hook on its head."""

    def __init__(self, engine: Engine, prompt_length: int, script: list[int]) -> None:
        self.script, self.start = script, prompt_length
        self.positions: list[int] = []
        engine._model.base_model.register_forward_pre_hook(self.note, with_kwargs=True)
        engine._worker.loop.head.register_forward_hook(self.write)

    def note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.positions = kwargs["position_ids"][:, -1].tolist()

    def write(self, module: Any, args: Any, output: Any) -> Any:
        output = output.clone()
        for row, position in enumerate(self.positions):
            output[row, self.script[position - self.start + 1]] = 1000.0
        return output


def write(engine: Engine, text: str, **settings: Any) -> Any:
    Writer(engine, 1, [*byte_ids(text), 2])
    return engine.generate(Request(prompt="?", sampling=SamplingParams(**settings))).completions[0]


def test_byte_ids_are_the_tokenizers(engine: Engine) -> None:
    assert byte_ids("añ日\n") == engine.tokenizer("añ日\n").input_ids


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two"), "one "),
        ("one two three", ("e two t",), "on"),
        ("one", ("one",), ""),
        ("one two", ("four",), "one two"),
        ("ababac tail", ("abac",), "ab"),
        ("line\n\nUser: x", ("\n\n",), "line"),
        # One character is up to four tokens here.
        ("x日本語日本語日本語日本語y", ("日本語日本語日本語",), "x"),
        ("ok 🎉🎉🎉🎉🎉 done", ("🎉🎉🎉🎉🎉",), "ok "),
    ],
)
def test_stop_strings(engine: Engine, text: str, stop: tuple[str, ...], expected: str) -> None:
    completion = write(engine, text, stop=stop)
    assert completion.text == expected
    assert completion.finish_reason == "stop"
    found = [text.find(s) + len(s) for s in stop if s in text]
    # Every generated token is listed, up to the one that completed the stop string.
    wanted = byte_ids(text[: min(found)]) if found else [*byte_ids(text), 2]
    assert list(completion.token_ids) == wanted
    assert len(completion.logprobs) == len(wanted)


def test_end_token_and_length(engine: Engine) -> None:
    whole = write(engine, "abc", max_tokens=10)
    assert (whole.text, whole.finish_reason, len(whole.token_ids)) == ("abc", "stop", 4)
    cut = engine.generate(Request(prompt="?", sampling=SamplingParams(max_tokens=2))).completions[0]
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("ab", "length", 2)
    exact = engine.generate(Request(prompt="?", sampling=SamplingParams(max_tokens=4))).completions[0]
    assert exact.finish_reason == "stop"


def test_every_end_token_of_the_generation_config_counts(tiny_model_dir: Any, make_engine: Make) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.generation_config.eos_token_id = [2, *byte_ids("z")]
    completion = write(make_engine(model), "abzc")
    assert (completion.text, completion.finish_reason) == ("ab", "stop")


def test_a_model_without_a_chat_template_stops_at_the_next_turn(tmp_path: Any, make_engine: Make) -> None:
    from docendo.agents import tiny_model

    engine = make_engine(tiny_model(tmp_path / "plain", chat=False))
    prompt = engine.render([{"role": "user", "content": "2 + 2?"}])
    assert prompt == "User: 2 + 2?\nAssistant:"
    Writer(engine, len(prompt), [*byte_ids(" 4\n\nUser: 3 + 3?"), 2])
    chat = engine.generate(Request(prompt=({"role": "user", "content": "2 + 2?"},)))
    assert chat.text == "4\n"
    text = engine.generate(Request(prompt=prompt))  # a plain text prompt has no turns
    assert text.text == "4\n\nUser: 3 + 3?"


def test_n_samples_share_one_prefill(make_engine: Make, watch: Passes) -> None:
    engine = make_engine()
    passes = watch(engine)
    prompt = tuple(range(10, 100))
    result = engine.generate(
        Request(prompt=prompt, sampling=SamplingParams(n=20, temperature=1.0, max_tokens=4))
    )
    assert [shape for shape in passes if shape[1] > 1] == [(1, 90)]
    assert len(result.completions) == 20
    assert result.usage.prompt_tokens == 90
    assert result.usage.generated_tokens == sum(len(c.token_ids) for c in result.completions)


@pytest.mark.parametrize("length", [5, 90])
def test_n_above_max_rows(make_engine: Make, watch: Passes, length: int) -> None:
    wide, narrow = make_engine(max_rows=64), make_engine(max_rows=4)
    passes = watch(narrow)
    asked = Request(
        prompt=tuple(range(10, 10 + length)),
        sampling=SamplingParams(n=19, temperature=1.0, max_tokens=6, seed=1),
    )
    left, right = wide.generate(asked), narrow.generate(asked)
    assert [c.token_ids for c in left.completions] == [c.token_ids for c in right.completions]
    assert max(rows for rows, _ in passes) == 4
    assert right.usage.prompt_tokens == length
    assert right.usage.cached_tokens == 0
    assert len(narrow.ledger()) == 1
    assert narrow.ledger()[0]["calls"] == 1


def test_counts_are_exact_and_unpadded(engine: Engine) -> None:
    with engine.paused():
        futures = [
            engine.submit(
                Request(
                    prompt=tuple(range(3, 4 + 13 * i)),
                    sampling=SamplingParams(n=1 + i % 3, temperature=1.0, max_tokens=1 + 3 * i),
                    origin=Origin(role="student" if i % 2 else "teacher", agent="a"),
                )
            )
            for i in range(8)
        ]
        scores = [
            engine.submit_score(
                ScoreRequest(prompt="ab", completion="c" * (i + 1), origin=Origin(role="verifier"))
            )
            for i in range(3)
        ]
    results = [future.result() for future in futures]
    for i, result in enumerate(results):
        assert result.usage.prompt_tokens == 1 + 13 * i
        assert result.usage.generated_tokens == sum(len(c.token_ids) for c in result.completions)
    assert [s.result().usage.prompt_tokens for s in scores] == [3, 4, 5]
    rows = {row["role"]: row for row in engine.ledger()}
    for role, start in (("teacher", 0), ("student", 1)):
        mine = results[start::2]
        assert rows[role]["calls"] == 4
        for count in ("prompt_tokens", "cached_tokens", "generated_tokens"):
            assert rows[role][count] == sum(getattr(r.usage, count) for r in mine)
        assert rows[role]["seconds"] == pytest.approx(sum(r.seconds for r in mine), abs=2e-3)
    assert rows["verifier"]["prompt_tokens"] == 12
    assert rows["verifier"]["calls"] == 3


def test_the_ledger_is_written_before_the_answer_is_given(engine: Engine) -> None:
    for i in range(50):
        engine.score(ScoreRequest(prompt="a", completion="b"))
        assert engine.ledger()[0]["calls"] == i + 1


def test_seconds_add_up_to_the_busy_time(engine: Engine) -> None:
    """Also for requests that end with their prefill: one token, or a score."""
    one = engine.generate(Request(prompt="x" * 500, sampling=SamplingParams(max_tokens=1)))
    assert 0 < one.seconds <= one.latency
    with engine.paused():
        futures = [
            engine.submit(Request(prompt="y" * 50 * i, sampling=SamplingParams(max_tokens=20)))
            for i in range(1, 9)
        ]
    results = [future.result() for future in futures]
    busy = max(r.latency for r in results)
    assert 0.3 * busy < sum(r.seconds for r in results) <= 1.05 * busy


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"),
        ((), "no messages"),
        ("x" * 2049, "2049 tokens"),
        ("x" * 2041, "at most 2048"),
        ((5, 259), "259"),
        ((-1, 5), "-1"),
    ],
)
def test_prompts_that_are_refused(engine: Engine, prompt: Any, words: str) -> None:
    sampling = SamplingParams(max_tokens=8)
    with pytest.raises(ConfigError, match=words):
        engine.submit(Request(prompt=prompt, sampling=sampling))
    assert engine.generate(Request(prompt="x" * 2040, sampling=sampling.replace(max_tokens=8)))


@pytest.mark.parametrize(
    ("prompt", "completion", "words"),
    [("a", "", "empty"), ("", "a", "empty"), ("a" * 2000, "b" * 49, "2049"), ("a", (5, 300), "300")],
)
def test_scores_that_are_refused(engine: Engine, prompt: Any, completion: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        engine.submit_score(ScoreRequest(prompt=prompt, completion=completion))


def test_unknown_adapter_is_refused(engine: Engine) -> None:
    with pytest.raises(AdapterError, match="'nobody' is not loaded"):
        engine.submit(Request(prompt="a", adapter="nobody"))


@pytest.mark.parametrize(
    "messages",
    [({"role": "user"},), ({"content": "x"},), ({"role": "user", "content": None},), ("x",)],
)
def test_malformed_messages_are_refused(engine: Engine, messages: Any) -> None:
    with pytest.raises(ConfigError, match="message"):
        engine.submit(Request(prompt=messages))
