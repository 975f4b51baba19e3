"""Terms, teachers and weights that must not be ignored, or break a batch. Tiny random models."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from docendo.distill import (
    ALM,
    KL,
    BalancedKL,
    CrossEntropy,
    Encoded,
    FeatureMSE,
    Labels,
    ObjectiveTrainer,
    TrainConfig,
    TripletHidden,
    encode,
    store_teacher,
    teacher_paths,
    token_bytes,
    train,
)
from docendo.distill.training import _attention, _job, _teachers, _train
from docendo.distill.training._arguments import training_arguments
from docendo.distill.training._forward import Forward, Outputs, term_loss
from docendo.errors import ConfigError, DataError

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = TrainConfig(max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32")
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"{n} + 1"}],
        "completion": [{"role": "assistant", "content": f"Answer: {n + 1}"}],
        "item": str(n),
    }
    for n in range(4)
]
COMPARED = {"positives": ["Answer: 1"], "negatives": ["9"]}


def base_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trainer_of(folder: Path, scratch: Path, examples: list[Encoded], **options: Any) -> ObjectiveTrainer:
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return ObjectiveTrainer(
        get_peft_model(base_of(folder), settings),
        training_arguments(QUICK, 2, str(scratch)),
        train_dataset=examples,
        **options,
    )


def families(weights: list[float]) -> Labels:
    """An anchor, a positive and a negative for each weight; one label to each anchor."""
    count = len(weights)
    return Labels(
        ids=torch.zeros(count, dtype=torch.long),
        weights=torch.tensor(weights),
        sequence=torch.arange(count) * 3,
        example=torch.arange(3 * count) // 3,
        role=torch.tensor([0, 1, -1] * count),
    )


class Smoothed(CrossEntropy):
    """Cross-entropy with a constant of its own."""

    __slots__ = ()

    def per_token(self, student: Any, labels: Labels, teacher: Any) -> Any:
        return -0.5 * student.gather(1, labels.ids.unsqueeze(1)).squeeze(1)


def test_a_subclass_of_cross_entropy_is_what_it_says() -> None:
    labels = replace(families([1.0, 2.0]), ids=torch.tensor([3, 1]))
    outputs = Outputs(logits=torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    plain, own = (float(term_loss(term, outputs, labels, None)) for term in (CrossEntropy(), Smoothed()))
    assert own == pytest.approx(0.5 * plain)


def test_terms_of_states_follow_the_weights_of_the_rows() -> None:
    states = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    for term in (TripletHidden(), FeatureMSE()):
        both, first, second = (
            float(term.on_states(states, families(weights), teacher))
            for weights in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0])
        )
        assert both == pytest.approx(first + second)
        assert 0 < first < both
        mixed = families([0.5, 3.0])
        assert float(term.on_states(states, mixed, teacher)) == pytest.approx(0.5 * first + 3 * second)
        assert term.count(mixed) == 3.5


@pytest.mark.parametrize("objective", [TripletHidden(), CrossEntropy() + TripletHidden()])
def test_a_batch_with_nothing_to_compare_has_no_gradient_and_no_error(
    objective: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    rows = [{**ROWS[0], **COMPARED}, *ROWS[1:]]
    adapter = train(
        tiny_model_dir,
        rows,
        output=tmp_path / "a",
        config=QUICK.replace(per_device_train_batch_size=1, max_steps=4),
        objective=objective,
        quiet=True,
    )
    assert len(adapter.losses) == 4


def test_a_comparison_without_anything_to_compare_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [{**row, "positives": ["Answer: 1"]} for row in ROWS]
    with pytest.raises(DataError, match="no example has both positives and negatives"):
        train(
            tiny_model_dir,
            rows,
            output=tmp_path / "a",
            config=QUICK,
            objective=CrossEntropy() + TripletHidden(),
            quiet=True,
        )


def test_a_teacher_that_nobody_asks_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"output": tmp_path / "a", "config": QUICK, "quiet": True}
    with pytest.raises(ConfigError, match="there is a teacher, and cross_entropy never asks it"):
        train(tiny_model_dir, ROWS, teacher=tiny_model_dir, **common)
    stored = store_teacher(tiny_model_dir, ROWS, output=tmp_path / "stored", top=4, quiet=True)
    for teacher in (None, stored):
        with pytest.raises(ConfigError, match="there is no live teacher"):
            train(tiny_model_dir, ROWS, objective=KL(), teacher=teacher, teacher_adapter="t", **common)


def test_a_stored_teacher_with_other_tokens_is_named_as_such(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["Answer"])
    tokenizer.save_pretrained(other)
    stored = store_teacher(tiny_model_dir, ROWS, output=tmp_path / "stored", top=4, quiet=True)
    with pytest.raises(DataError, match=r"has another vocabulary than the student.*ALM"):
        train(other, ROWS, output=tmp_path / "a", config=QUICK, objective=KL(), teacher=stored, quiet=True)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_stored_tokens_beyond_the_students_head_belong_to_the_rest(beta: float) -> None:
    draw = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 8, generator=draw).log_softmax(-1)
    ids = torch.tensor([[0, 3, 7], [6, 2, 1]])  # the student has 6 tokens
    kept = torch.tensor([[0, 3], [2, 1]])
    labels = replace(
        families([1.0, 1.0]), columns={"teacher_ids": ids.int(), "teacher_logprobs": teacher.gather(1, ids)}
    )
    fewer = replace(labels, columns={"teacher_ids": kept, "teacher_logprobs": teacher.gather(1, kept)})
    found = []
    for one in (labels, fewer):
        logits = torch.randn(2, 6, generator=draw.manual_seed(1)).requires_grad_()
        loss = term_loss(KL(beta=beta), Outputs(logits=logits), one, None)
        loss.backward()
        found.append((loss.detach(), logits.grad))
    torch.testing.assert_close(found[0], found[1])


def test_a_teacher_draws_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    examples = encode(ROWS, AutoTokenizer.from_pretrained(tiny_model_dir))[0]
    teacher = base_of(tiny_model_dir).train()
    trainer = trainer_of(tiny_model_dir, tmp_path, examples, objective=KL(), teacher=teacher)
    assert trainer.teacher is not None
    assert not trainer.teacher.model.training


def test_dropout_of_attention_is_in_force_where_batches_are_packed(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=torch.float32, attention_dropout=0.5
    ).train()
    forward = Forward(model, packed=True)
    assert not forward.share
    batch = forward.collate([Encoded(prompt=(5, 6, 7), completion=(8, 9))])

    def hidden(seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return forward(batch).hidden.detach()

    assert torch.equal(hidden(0), hidden(0))
    assert not torch.allclose(hidden(0), hidden(1))


def test_examples_that_weigh_nothing_do_not_prove_that_packing_works(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [Encoded(prompt=(5, 6, n), completion=(8, 9), weight=0.0) for n in range(4)]
    model = base_of(tiny_model_dir).requires_grad_(False)
    assert Forward(model, packed=None, examples=examples).packed
    whole = _attention.attend

    def wrong(*args: Any, **options: Any) -> Any:
        out, weights = whole(*args, **options)
        return 0 * out, weights

    monkeypatch.setattr(_attention, "attend", wrong)
    try:
        assert not Forward(model, packed=None, examples=examples).packed
    finally:
        monkeypatch.undo()
        _attention.register()


def test_any_token_that_ends_a_turn_ends_the_teachers_answer(tiny_model_dir: Path, tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    shutil.copytree(tiny_model_dir, chat)
    end, other = 2, 40  # a model of chat may end its turns with a token that is not the tokenizer's
    GenerationConfig(eos_token_id=[end, other]).save_pretrained(chat)
    row = teacher_paths(chat, ROWS[:1], dtype="float32", quiet=True)[0]
    one = encode(ROWS[:1], AutoTokenizer.from_pretrained(chat))[0][0]
    with torch.no_grad():
        logits = base_of(chat)(torch.tensor([[*one.prompt, *one.completion]])).logits[0, -2].log_softmax(-1)
    path = row["teacher_path"]
    assert path["logprobs"][-1] == pytest.approx(float(logits[[end, other]].logsumexp(-1)), abs=1e-4)
    before = teacher_paths(tiny_model_dir, ROWS[:1], dtype="float32", quiet=True)[0]["teacher_path"]
    assert path["logprobs"][:-1] == pytest.approx(before["logprobs"][:-1], abs=1e-5)
    assert path["boundaries"][-2] == pytest.approx(before["boundaries"][-2] + float(logits[other].exp()))


def test_an_id_that_means_nothing_adds_nothing() -> None:
    inner = Tokenizer(models.WordLevel({"a": 0, "b": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert token_bytes(tokenizer, [0, 1, 2]) == [b"a", b"", b"b"]


def test_neither_the_order_of_rows_nor_repeated_ones_make_another_store(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"output": tmp_path / "stored", "top": 4, "quiet": True}
    stored = store_teacher(tiny_model_dir, ROWS, **common)
    again = store_teacher(tiny_model_dir, [*reversed(ROWS), ROWS[0]], **common)
    assert again.manifest["sha256"] == stored.manifest["sha256"]


def test_batches_of_nothing_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        store_teacher(tiny_model_dir, ROWS, output=tmp_path / "stored", batch_size=0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        teacher_paths(tiny_model_dir, ROWS, batch_size=0)


@pytest.mark.parametrize("column", ["positives", "negatives"])
def test_answers_that_are_only_compared_may_not_be_too_long_either(
    column: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    rows = [{**row, **COMPARED} for row in ROWS]
    rows[0] |= {column: ["9", "9" * 100]}
    adapter = train(
        tiny_model_dir,
        rows,
        output=tmp_path / "a",
        config=QUICK.replace(max_length=80),
        objective=CrossEntropy() + TripletHidden(),
        quiet=True,
    )
    assert (adapter.manifest["data"]["examples"], adapter.manifest["data"]["too_long"]) == (3, 1)


@pytest.mark.parametrize("column", ["positives", "negatives"])
@pytest.mark.parametrize(
    "answers", ["9", [[]], [[{"role": "assistant"}]], [{"content": "9"}], [None], {"9": 1}]
)
def test_answers_to_compare_that_are_none_are_one_line(
    column: str, answers: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    rows = [{**row, **COMPARED, column: answers} for row in ROWS]
    with pytest.raises(DataError, match=f"the row of item '0' has the {column} .* each a text"):
        train(tiny_model_dir, rows, output=tmp_path / "a", config=QUICK, quiet=True)


def test_a_temperature_of_a_stored_teacher_is_refused_before_anything_is_loaded(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store_teacher(tiny_model_dir, ROWS, output=tmp_path / "stored", top=4, quiet=True)
    monkeypatch.setattr(_job, "load_peft", lambda *_: pytest.fail("the model was loaded"))
    for term in (KL(temperature=2), BalancedKL(temperature=2)):
        with pytest.raises(ConfigError, match="has the temperature 2 and the teacher is stored"):
            train(
                tiny_model_dir, ROWS, output=tmp_path / "a", objective=CrossEntropy() + term, teacher=stored
            )


def test_no_weights_stay_after_a_training(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer and model refer to each other: whatever holds one of them would hold all of it."""
    kept: list[Any] = []

    def noted(load: Any) -> Any:
        def loaded(*given: Any) -> Any:
            kept.append(load(*given))
            return kept[-1]

        return loaded

    monkeypatch.setattr(_job, "load_peft", noted(_job.load_peft))
    monkeypatch.setattr(_train, "load_teacher", noted(_train.load_teacher))
    train(
        tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, objective=KL(), teacher=tiny_model_dir,
        quiet=True,
    )  # fmt: skip
    assert len(kept) == 2
    assert not any(tensor.numel() for model in kept for tensor in (*model.parameters(), *model.buffers()))


def test_a_finished_store_leaves_no_lock(tiny_model_dir: Path, tmp_path: Path) -> None:
    store_teacher(tiny_model_dir, ROWS, output=tmp_path / "stored", top=4, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]


def test_a_path_of_another_text_names_its_row(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = {"ends": [3, 4], "logprobs": [-1.0, -1.0], "boundaries": [1.0, 1.0]}
    rows = [{**row, "teacher_path": path} for row in ROWS]
    with pytest.raises(DataError, match="the row of item '0': two tokenizations of one text end at byte 10"):
        train(tiny_model_dir, rows, output=tmp_path / "a", config=QUICK, objective=ALM(), quiet=True)


def test_an_objective_of_ones_own_is_not_taken_for_ours() -> None:
    assert Smoothed().identity() != CrossEntropy().identity()
    assert CrossEntropy().identity() == [{"name": "cross_entropy", "weight": 1.0}]


def test_the_projection_of_features_is_no_part_of_the_adapter(tiny_model_dir: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"config": QUICK, "quiet": True}
    plain = train(tiny_model_dir, ROWS, output=tmp_path / "a", **common)
    objective = CrossEntropy() + FeatureMSE()
    features = train(
        tiny_model_dir, ROWS, output=tmp_path / "b", objective=objective, teacher=tiny_model_dir, **common
    )
    assert features.metrics["trainable_parameters"] == plain.metrics["trainable_parameters"]


def test_of_two_that_store_a_teacher_at_once_one_waits(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = _teachers._store_part, []

    def counted(*args: Any, **options: Any) -> Any:
        made.append(args)
        return real(*args, **options)

    monkeypatch.setattr(_teachers, "_store_part", counted)
    common: dict[str, Any] = {"output": tmp_path / "stored", "top": 4, "quiet": True}
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(store_teacher, tiny_model_dir, ROWS, **common) for _ in range(2)]
        sums = {one.result().manifest["sha256"] for one in both}
    assert len(sums) == len(made) == 1


def test_what_a_killed_process_left_is_no_part_of_a_store(tiny_model_dir: Path, tmp_path: Path) -> None:
    left, own = tmp_path / "stored" / ".part-00000.x1y2", tmp_path / "stored" / ".git"
    for folder in (left, own):
        folder.mkdir(parents=True)
    (left / "logprobs.safetensors").write_bytes(b"half")
    stored = store_teacher(tiny_model_dir, ROWS, output=tmp_path / "stored", top=4, quiet=True)
    assert not left.exists()
    assert own.exists()
    assert not [name for name in stored.manifest["files"] if name.startswith(".")]


def test_a_damaged_store_is_made_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"output": tmp_path / "stored", "top": 4, "quiet": True}
    whole = store_teacher(tiny_model_dir, ROWS, **common)
    file = next((tmp_path / "stored").rglob("logprobs.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    assert store_teacher(tiny_model_dir, ROWS, **common).manifest["sha256"] == whole.manifest["sha256"]
