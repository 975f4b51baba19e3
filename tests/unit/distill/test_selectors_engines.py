"""Selectors that ask models: against transformers' own numbers, and how answers are kept and refused."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

import pytest

from docendo.agents import Engine, ScriptedEngine, Student, tiny_model
from docendo.agents._templates import completion_ids, prompt_ids
from docendo.distill import DifferenceSampling, InContextPreference, Shuffled, label_probs
from docendo.errors import AdapterError, CapabilityError, ConfigError, DataError, ModelFailure
from docendo.memory import Journal
from docendo.records import Capabilities, ScoreRequest

Row = dict[str, Any]


def chat(question: str, answer: str, **columns: Any) -> Row:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
        **columns,
    }


ROWS = [
    chat("2 + 2?", "4"),
    chat("Name a colour.", "Blue, or ünlike blue."),
    {"prompt": "Once", "completion": "upon a time"},
    chat("Why?", "Because of the rain, which fell for days."),
]


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1, hidden=32, layers=1)


@pytest.fixture(scope="module")
def large(tiny_model_dir: Path) -> Iterator[Engine]:
    with Engine.load(tiny_model_dir, dtype="float32") as engine:
        yield engine


@pytest.fixture(scope="module")
def small(other_dir: Path) -> Iterator[Engine]:
    with Engine.load(other_dir, dtype="float32") as engine:
        yield engine


def direct(folder: Path, prompt: Any, text: str) -> list[float]:
    """Log-probabilities of a text's tokens, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before, after = prompt_ids(tokenizer, prompt), completion_ids(tokenizer, text, end=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return [float(logprobs[len(before) - 1 + at, token]) for at, token in enumerate(after)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def answer(row: Row) -> str:
    said = row["completion"]
    return said if isinstance(said, str) else str(said[0]["content"])


def test_differences_are_those_of_transformers(
    large: Engine, small: Engine, tiny_model_dir: Path, other_dir: Path
) -> None:
    table = DifferenceSampling(large, small, quiet=True).score(ROWS)
    for index, row in enumerate(ROWS):
        teacher = -mean(direct(tiny_model_dir, row["prompt"], answer(row)))
        reference = -mean(direct(other_dir, row["prompt"], answer(row)))
        assert table.columns["teacher_nll"][index] == pytest.approx(teacher, abs=1e-4)
        assert table.columns["reference_nll"][index] == pytest.approx(reference, abs=1e-4)
        assert table.scores[index] == pytest.approx(reference - teacher, abs=1e-4)
    assert table.settings["unit"] == "token"
    assert table.usage.prompt_tokens > sum(len(answer(row).encode()) for row in ROWS) * 2


def test_plain_text_is_scored_from_its_second_token(
    large: Engine, small: Engine, tiny_model_dir: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    selector = DifferenceSampling(large, small, on="text", quiet=True)
    table = selector.score([{"completion": "three blind mice"}, {"prompt": "see how", "completion": None}])
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tiny_model_dir)("three blind mice").input_ids])
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)  # the mean over all tokens but the first
    assert table.columns["teacher_nll"][0] == pytest.approx(loss, abs=1e-4)
    assert selector.score([{"completion": "x"}, {"completion": "xy"}, {}]).reasons == (
        "a single token, which nothing precedes",
        "",
        "no text to score",
    )
    with pytest.raises(DataError, match="row 0 has chat messages"):
        selector.score(ROWS[:1])


def test_a_conversation_is_scored_turn_by_turn(large: Engine, small: Engine, tiny_model_dir: Path) -> None:
    said: list[Row] = [
        {"role": "assistant", "content": "Hm.", "learn": None},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "thinking", "learn": False},
        {"role": "assistant", "content": "Five."},
    ]
    row = {"prompt": [{"role": "user", "content": "2 + 3?"}], "completion": said}
    table = DifferenceSampling(large, small, quiet=True).score([row])
    plain = [{"role": one["role"], "content": one["content"]} for one in said]
    found = [
        *direct(tiny_model_dir, row["prompt"], "Hm."),
        *direct(tiny_model_dir, [*row["prompt"], *plain[:3]], "Five."),
    ]
    assert table.columns["teacher_nll"][0] == pytest.approx(-mean(found), abs=1e-4)


def scripted(name: str, scores: Any = None, **options: Any) -> ScriptedEngine:
    return ScriptedEngine([], name=name, scores=scores, **options)


class Letters(ScriptedEngine):
    """Has one token for each letter, and gives each a log-probability of -1/2."""

    def submit_score(self, request: ScoreRequest) -> Any:
        size = len(str(request.completion))
        future = super().submit_score(request)
        result = future.result()
        future = type(future)()
        future.set_result(result.replace(token_ids=tuple(range(size)), logprobs=(-0.5,) * size))
        return future


def test_unlike_tokenizers_are_compared_by_byte() -> None:
    rows = [chat("?", "uno due"), chat("?", "tré")]
    words = scripted("words")  # -1 for a word
    table = DifferenceSampling(words, Letters([], name="letters"), quiet=True).score(rows)
    assert table.settings["unit"] == "byte"
    assert table.columns["teacher_nll"] == pytest.approx((2 / 7, 1 / 4))
    assert table.columns["reference_nll"] == pytest.approx((3.5 / 7, 1.5 / 4))
    per_token = DifferenceSampling(words, Letters([], name="letters"), unit="token", quiet=True).score(rows)
    assert per_token.scores == pytest.approx((-0.5, -0.5))


def test_the_ratio_is_kept_in_order_with_a_quota() -> None:
    value = {"a": 0.0, "b": 3.0, "c": 2.0, "d": 1.0}
    reference = scripted("small", lambda asked: -value[asked.completion])
    rows = [chat("?", name, domain="rare" if name == "a" else "common") for name in "abcd"]
    selector = DifferenceSampling(scripted("large", lambda asked: 0.0), reference, quiet=True)
    assert selector.select(rows).indices == (1, 2)
    assert selector.select(rows, quota=1, group="domain").groups == {
        "common": {"rows": 3, "kept": 1},
        "rare": {"rows": 1, "kept": 1},
    }


def test_a_reference_that_is_the_teacher_is_refused(tmp_path: Path) -> None:
    engine = scripted("one")
    with pytest.raises(ConfigError, match="the same weights"):
        DifferenceSampling(engine, scripted("one"))
    engine.load_adapter("warm", tmp_path)
    DifferenceSampling(engine, Student(engine, adapter="warm"))
    with pytest.raises(AdapterError):
        DifferenceSampling(engine, Student(engine, adapter="cold"))
    for bad in ({"ratio": 0}, {"on": "prompt"}, {"unit": "word"}):
        with pytest.raises(ConfigError):
            DifferenceSampling(engine, scripted("two"), **bad)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_is_scored_as_such(large: Engine, tiny_model_dir: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
            LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        )
    model.save_pretrained(tmp_path / "adapter")
    large.load_adapter("other", tmp_path / "adapter")
    try:
        table = DifferenceSampling(large, Student(large, adapter="other"), quiet=True).score(ROWS)
        assert all(abs(score or 0) > 1e-4 for score in table.scores)
    finally:
        large.drop_adapter("other")


def test_rows_that_a_model_refuses_are_dropped_with_the_reason(large: Engine, small: Engine) -> None:
    rows = [chat("?", "short"), chat("?", "long " * 600), chat("?", "  ")]
    chosen = DifferenceSampling(large, small, quiet=True).select(rows, ratio=1)
    assert chosen.indices == (0,)
    assert "refused by the teacher: prompt and completion have" in chosen.dropped[0].reason
    assert chosen.dropped[1].reason == "no text to score"
    with pytest.raises(DataError, match="can answer none of 1 requests"):
        DifferenceSampling(large, small, quiet=True).select(rows[1:2])


def test_what_no_engine_could_answer_fails_at_once() -> None:
    for rows, message in (
        ([{"prompt": "?"}], "row 0 has the completion None"),
        ([{"completion": "?"}], "row 0 has the prompt None"),
        ([{"prompt": [{"role": "user"}], "completion": "?"}], "row 0 has the message"),
        (
            [{"prompt": "?", "completion": [{"role": "user", "content": "x"}] * 2}],
            "conversation after a text",
        ),
    ):
        with pytest.raises(DataError, match=message):
            DifferenceSampling(scripted("a"), scripted("b"), quiet=True).score(rows)
    plain = Capabilities(features=frozenset({"score"}))
    with pytest.raises(CapabilityError, match="messages"):
        DifferenceSampling(scripted("a", capabilities=plain), scripted("b"), quiet=True).score(ROWS)
    with pytest.raises(ModelFailure, match="row 0: a log-probability is not finite"):
        DifferenceSampling(scripted("a", lambda _: float("nan")), scripted("b"), quiet=True).score(ROWS)


def test_an_interrupted_call_goes_on_where_it_was() -> None:
    asked: list[str] = []
    stop_at = 290

    def says(request: ScoreRequest) -> float:
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        asked.append(str(request.completion))
        return -float(len(str(request.completion)))

    rows = [chat("?", f"answer {n}") for n in range(300)]
    teacher, reference = scripted("large", says), scripted("small")
    undisturbed = DifferenceSampling(
        scripted("large", lambda request: -float(len(request.completion))), reference, quiet=True
    ).score(rows)
    with Journal.open(":memory:") as journal:
        with pytest.raises(KeyboardInterrupt):
            DifferenceSampling(teacher, reference, journal=journal, quiet=True).score(rows)
        stop_at = -1
        before = len(asked)
        table = DifferenceSampling(teacher, reference, journal=journal, quiet=True).score(rows)
        # What was at the engine when it stopped is asked again: at most 256 requests.
        assert before == 290
        assert 10 <= len(asked) - before <= 10 + 256
        assert table == undisturbed
        again = len(asked)
        DifferenceSampling(teacher, reference, journal=journal, quiet=True).score(rows)
        assert len(asked) == again


def test_equal_requests_are_asked_once_and_cost_once(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    teacher = scripted("large", lambda request: asked.append(str(request.completion)) or -1.0)
    once = DifferenceSampling(teacher, scripted("small"), quiet=True).score([chat("?", "x")])
    twice = DifferenceSampling(teacher, scripted("small")).score([chat("?", "x"), chat("?", "x")])
    assert asked == ["x", "x"]
    assert twice.usage == once.usage
    assert twice.scores == once.scores * 2
    assert "scoring by the teacher: 1/1" in capsys.readouterr().err


def test_label_probabilities_are_those_of_transformers(large: Engine, tiny_model_dir: Path) -> None:
    row = chat("Is it raining?", "")
    (found,) = label_probs([row], large, ["yes", "rather not"], quiet=True)
    yes, no = (mean(direct(tiny_model_dir, row["prompt"], label)) for label in ("yes", "rather not"))
    assert found["yes"] == pytest.approx(exp(yes) / (exp(yes) + exp(no)), abs=1e-4)
    assert sum(found.values()) == pytest.approx(1)


PROBES = [chat("3 + 4?", "7"), chat("5 + 5?", "10")]


def test_preferences_are_means_of_log_probabilities_after_one_demonstration(
    large: Engine, tiny_model_dir: Path
) -> None:
    rows = [chat("2 + 2?", "4"), chat("2 + 2?", "two and two is 4"), chat("3 + 4?", "seven")]
    table = InContextPreference(large, PROBES, quiet=True).score(rows)
    for index, row in enumerate(rows):
        probes = PROBES[1:] if index == 2 else PROBES  # its own question does not count
        shown = [*row["prompt"], *row["completion"]]
        totals = [sum(direct(tiny_model_dir, [*shown, *one["prompt"]], answer(one))) for one in probes]
        assert table.scores[index] == pytest.approx(mean(totals), abs=1e-3)


def test_probes_behind_one_demonstration_share_its_beginning(large: Engine) -> None:
    shown = chat("Count.", "one two three " * 20)
    probes = [chat(f"And {n}?", str(n)) for n in range(8)]
    table = InContextPreference(large, probes, quiet=True).score([shown])
    assert table.usage.cached_tokens > 0.5 * table.usage.prompt_tokens


def test_one_shot_prompts_have_one_system_message() -> None:
    seen: list[Any] = []
    system = {"role": "system", "content": "Be brief."}
    probe = {**PROBES[0], "prompt": [system, *PROBES[0]["prompt"]]}
    demo = {**ROWS[0], "prompt": [system, *ROWS[0]["prompt"]]}
    engine = scripted("student", lambda request: seen.append(request.prompt) or -1.0)
    InContextPreference(engine, [probe], quiet=True).score([demo, ROWS[0]])
    roles = [[message["role"] for message in prompt] for prompt in seen]
    assert roles == [["system", "user", "assistant", "user"], ["user", "assistant", "system", "user"]]


def test_texts_are_shown_as_texts() -> None:
    seen: list[Any] = []
    engine = scripted("student", lambda request: seen.append(request.prompt) or -1.0)
    probes = [{"prompt": "3 + 4 =", "completion": "7"}]
    InContextPreference(engine, probes, quiet=True).score([{"prompt": "2 + 2 =", "completion": " 4"}])
    assert seen == ["2 + 2 = 4\n\n3 + 4 ="]
    with pytest.raises(DataError, match="unlike kinds"):
        InContextPreference(engine, probes, quiet=True).score(ROWS[:1])


def test_accuracy_is_counted_by_generation() -> None:
    def writes(request: Any) -> str:
        good = "carefully" in str(request.prompt)
        return "7" if good and "3 + 4" in str(request.prompt[-1]) else "no idea"

    rows = [chat("2 + 2?", "4"), chat("2 + 2?", "carefully: 4")]
    selector = InContextPreference(
        ScriptedEngine(writes), PROBES, correct=lambda probe, text: text == answer(probe), quiet=True
    )
    table = selector.score(rows)
    assert (table.by, table.scores) == ("accuracy", (0.0, 0.5))
    assert table.usage.generated_tokens == 3 * 2 + 1
    assert Shuffled(selector, seed=1).score(rows).selector == "Shuffled(InContextPreference)"


def test_demonstrations_without_probes_or_text_have_no_score() -> None:
    table = InContextPreference(scripted("student"), PROBES[:1], quiet=True).score(
        [chat("3 + 4?", "7"), chat("?", " "), chat("?", "x")]
    )
    assert table.reasons == ("it asks what every probe asks", "no text to show", "")
    for probes in ([], [{"prompt": "?"}], [chat("?", " ")]):
        with pytest.raises(DataError):
            InContextPreference(scripted("student"), probes)
    with pytest.raises(ConfigError):
        InContextPreference(scripted("student"), PROBES, max_tokens=0)
