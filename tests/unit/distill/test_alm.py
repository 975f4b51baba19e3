"""Distillation across tokenizers: alignment over any text, the loss by hand, and a student that learns."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from docendo.agents import tiny_model
from docendo.distill import ALM, Labels, TrainConfig, align, byte_ends, teacher_paths, token_bytes, train
from docendo.distill.objectives._align import spells
from docendo.distill.objectives._alm import chunks_of
from docendo.errors import ConfigError, DataError

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXTS = ["Hello world, 12 + 34 = 46.", "naïve Übung – 東京 🙂", "the cat and the dog and the river"] * 3
SPECIAL = ["<s>", "</s>", "<unk>"]
QUICK = TrainConfig(max_steps=3, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32")
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"{a} + {b}"}],
        "completion": [{"role": "assistant", "content": f"Answer: {a + b}"}],
        "item": f"{a}+{b}",
    }
    for a in range(2)
    for b in range(4)
]


def byte_level(*, prefix: bool) -> Any:
    """Byte-level BPE, as of GPT-2, SmolLM2 and Llama 3."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", bos_token="<s>")


def sentence_piece(*, begins: bool) -> Any:
    """BPE with word marks and bytes for the rest, as of Llama 2 and Gemma; one may write <s> by itself."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=40,
        show_progress=False,
    )
    inner.train_from_iterator([text.replace(" ", "\u2581") for text in TEXTS], trainer)
    if begins:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four ways to cut a text."""
    folder = tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return {
        "byte level": byte_level(prefix=False),
        "byte level with a space before": byte_level(prefix=True),
        "sentence piece": sentence_piece(begins=False),
        "sentence piece with a beginning": sentence_piece(begins=True),
        "characters": AutoTokenizer.from_pretrained(folder),
    }


NAMES = ["byte level", "byte level with a space before", "sentence piece", "sentence piece with a beginning"]


@pytest.mark.parametrize("one", NAMES)
@pytest.mark.parametrize("two", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@example(text="naïve Übung 東京🙂")
@example(text="  two  spaces ")
@example(text="e\u0301\u200d\U0001f468\u200d\U0001f469")
@example(text="<s>")
def test_chunks_cover_every_token_and_end_at_the_same_byte(
    tokenizers: dict[str, Any], one: str, two: str, text: str
) -> None:
    ids = [[*tokenizers[name](text).input_ids, tokenizers[name].eos_token_id] for name in (one, two)]
    ours, theirs = (token_bytes(tokenizers[name], i) for name, i in zip((one, two), ids, strict=True))
    if "<s>" in text or b"".join(ours).strip() == b"":
        return  # a marker in the text is no text; nothing but space is no answer
    assert spells(ours, text)
    chunks = align(byte_ends(ours), byte_ends(theirs))
    assert [i for mine, _ in chunks for i in range(mine.start, mine.stop)] == list(range(len(ours)))
    assert [i for _, other in chunks for i in range(other.start, other.stop)] == list(range(len(theirs)))
    for place, (mine, other) in enumerate(chunks):
        mine_text, other_text = b"".join(ours[mine]), b"".join(theirs[other])
        if place == 0:
            mine_text, other_text = mine_text.lstrip(), other_text.lstrip()
        assert mine_text == other_text
    assert chunks[-1] == (slice(len(ours) - 1, len(ours)), slice(len(theirs) - 1, len(theirs)))


def test_tokens_may_end_inside_a_character(tokenizers: dict[str, Any]) -> None:
    for name in ("byte level", "sentence piece"):
        tokenizer = tokenizers[name]
        pieces = token_bytes(tokenizer, tokenizer("\U0001f409").input_ids)
        assert len(pieces) > 1
        assert b"".join(pieces) == "\U0001f409".encode()


def test_a_tokenizer_that_changes_the_text_is_noticed() -> None:
    inner = Tokenizer(models.WordLevel({"hello": 0, "<unk>": 1}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    lower = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert not spells(token_bytes(lower, lower("Hello").input_ids), "Hello")
    with pytest.raises(DataError, match="the same text on both sides"):
        align([2, 3], [2, 4])


def batch(chunk: list[int], teacher: list[float], sequence: list[int], weights: list[float]) -> Labels:
    return Labels(
        ids=torch.zeros(len(chunk), dtype=torch.long),
        weights=torch.tensor(weights),
        sequence=torch.tensor(sequence),
        example=torch.arange(max(sequence) + 1),
        role=torch.zeros(max(sequence) + 1, dtype=torch.long),
        columns={"alm_chunk": torch.tensor(chunk), "alm_teacher": torch.tensor(teacher)},
    )


def test_the_loss_by_hand() -> None:
    labels = batch([0, 0, 1, 0], [-2.0, -2.0, -0.5, -1.0], [0, 0, 0, 1], [1.0, 1.0, 1.0, 0.5])
    ours = torch.tensor([-1.0, -3.0, -0.5, -2.0], dtype=torch.float64)

    def one(teacher: float, student: float) -> float:
        x, y = math.exp(teacher / 2 - 1e-6), student / 2 - 1e-6
        return -(x * y + (1 - x) * math.log(1 - math.exp(y)))

    term = ALM(tau=2.0)
    expected = one(-2.0, -4.0) + one(-0.5, -0.5) + 0.5 * one(-1.0, -2.0)
    assert float(term.on_path(ours, labels)) == pytest.approx(expected, rel=1e-6)
    assert term.count(labels) == 2.5


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-30, -1e-3), min_size=1, max_size=6),
    st.sampled_from([1.0, 10.0, 100.0]),
)
def test_the_slope_is_0_where_the_student_is_the_teacher(values: list[float], tau: float) -> None:
    chunk = list(range(len(values)))
    labels = batch(chunk, values, [0] * len(values), [1.0] * len(values))
    labels = replace(labels, columns={**labels.columns, "alm_teacher": torch.tensor(values).double()})
    ours = torch.tensor(values, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(ALM(tau=tau).on_path(ours, labels), ours)
    assert float(slope.abs().max()) < 1e-6
    nearer = torch.tensor(values, dtype=torch.float64) - 1.0
    nearer.requires_grad_()
    (slope,) = torch.autograd.grad(ALM(tau=tau).on_path(nearer, labels), nearer)
    assert float(slope.max()) < 0  # pushed up, towards the teacher


def test_chunks_are_joined_until_something_new_may_begin() -> None:
    path = {"ends": [2, 4, 6, 7], "logprobs": [0, 0, 0, 0], "boundaries": [0.01, 0.9, 0.02, 1.0]}
    ours = [2, 4, 6, 7]
    assert [mine for mine, _ in chunks_of(path, ours, boundary=0.1)] == [slice(0, 2), slice(2, 4)]
    assert len(chunks_of(path, ours, boundary=None)) == 4


def test_the_path_is_the_log_likelihood_of_the_text(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    from docendo.distill import encode

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    rows = teacher_paths(tiny_model_dir, ROWS, dtype="float32", batch_size=3, quiet=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for row, one in zip(rows, encode(ROWS, tokenizer)[0], strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([[*one.prompt, *one.completion]])).logits[0].log_softmax(-1)
        start = len(one.prompt) - 1
        expected = [float(scores[start + place, token]) for place, token in enumerate(one.completion)]
        assert row["teacher_path"]["logprobs"] == pytest.approx(expected, abs=1e-4)
        assert row["teacher_path"]["ends"][-1] == len(row["completion"][0]["content"]) + 1
        assert all(0 <= mass <= 1.0001 for mass in row["teacher_path"]["boundaries"])


def test_a_teacher_without_a_template_ends_where_the_next_turn_begins(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """It never learnt to write an end token there; the engine stops it at the next turn."""
    from transformers import AutoModelForCausalLM

    from docendo.distill import encode

    shutil.copytree(tiny_model_dir, tmp_path / "base")
    plain = AutoTokenizer.from_pretrained(tmp_path / "base")
    plain.chat_template = None
    for file in (tmp_path / "base").glob("*.jinja"):
        file.unlink()
    plain.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)

    def likely(before: list[int], ids: list[int]) -> float:
        with torch.no_grad():
            scores = model(torch.tensor([[*before, *ids]])).logits[0].log_softmax(-1)
        return math.exp(sum(float(scores[len(before) - 1 + n, token]) for n, token in enumerate(ids)))

    rows = teacher_paths(tmp_path / "base", ROWS[:3], dtype="float32", batch_size=2, quiet=True)
    for row, one in zip(rows, encode(ROWS[:3], plain)[0], strict=True):
        before = [*one.prompt, *one.completion[:-1]]
        ways = [[one.completion[-1]], *(plain(text).input_ids for text in ("\nUser:", "\n\nUser:"))]
        expected = math.log(sum(likely(before, list(way)) for way in ways))
        assert row["teacher_path"]["logprobs"][-1] == pytest.approx(expected, abs=1e-4)
        assert expected > math.log(likely(before, ways[0]))


def test_a_student_whose_tokenizer_changes_the_text_is_noticed() -> None:
    """The bytes are as many, and yet it is another text."""
    inner = Tokenizer(models.WordLevel({"hello": 0, "<unk>": 1, "</s>": 2}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    lower = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    path = {"ends": [5, 6], "logprobs": [-0.1, -0.1], "boundaries": [1.0, 1.0]}
    row = {"item": "a", "completion": "Hello", "teacher_path": path}
    with pytest.raises(DataError, match="the row of item 'a': the student's tokenizer or template changes"):
        ALM().encode(row, [0, 2], lower)
    assert ALM().encode({**row, "completion": "hello"}, [0, 2], lower)["alm_chunk"].tolist() == [0, 1]


def test_rows_that_the_teachers_template_changes_are_left_out(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {**ROWS[0], "completion": [{"role": "assistant", "content": "see <|im_end|> there"}]}
    rows = teacher_paths(tiny_model_dir, [broken, *ROWS])
    assert [row["item"] for row in rows] == [row["item"] for row in ROWS]
    assert "Of 9 rows left out: 1 whose text" in capsys.readouterr().err
    with pytest.raises(DataError, match="changes the text of all 1 completions"):
        teacher_paths(tiny_model_dir, [broken], quiet=True)


def test_a_student_moves_towards_a_teacher_with_other_tokens(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [
        {**row, "teacher_path": {"ends": [6, 7, 9, 10], "logprobs": [-0.1] * 4, "boundaries": [1.0] * 4}}
        for row in ROWS
        if len(row["completion"][0]["content"]) == 9  # "Answer: 3" cut as "Answer", ":", " 3" and the end
    ]
    adapter = train(
        tiny_model_dir,
        rows,
        output=tmp_path / "a",
        config=QUICK.replace(max_steps=8),
        objective=ALM(tau=10.0),
        quiet=True,
    )
    assert adapter.losses[-1][1] < 0.8 * adapter.losses[0][1]


def test_what_cannot_be_learnt_from_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no teacher_path"):
        train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, objective=ALM(), quiet=True)
    for make in (lambda: ALM(tau=0), lambda: ALM(boundary=1.0), lambda: ALM(boundary=-0.1)):
        with pytest.raises(ConfigError):
            make()
