"""Trainings that cannot teach what they seem to: each is refused, and the reason is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from docendo import evals
from docendo.agents import tiny_model
from docendo.distill import (
    KL,
    TrainConfig,
    distill_on_policy,
    pairs_dataset,
    prompts_dataset,
    sft_dataset,
    store_teacher,
    train,
    train_dpo,
    train_grpo,
    train_kto,
    unpaired_dataset,
)
from docendo.distill.training import _job
from docendo.errors import AdapterError, DataError, LeakError, SilentNoOp
from docendo.records import Author, Trace

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = TrainConfig(max_steps=2, learning_rate=1e-2, per_device_train_batch_size=2, lora_r=4, dtype="float32")


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


PROMPT = [{"role": "user", "content": "2 + 2"}]
ROWS = [{"prompt": PROMPT, "completion": said("4")}, {"prompt": "3 + 2 =", "completion": "5"}]
PAIRS = [{"prompt": PROMPT, "chosen": said("4"), "rejected": said("5")}] * 2
LABELLED = [{"prompt": PROMPT, "completion": said(text), "label": text == "4"} for text in ("4", "5")]
PROMPTS = [{"prompt": PROMPT}, {"prompt": "3 + 2 ="}]

Run = Callable[..., Any]


def noise(row: Any, text: str) -> float:
    return float(sum(map(ord, text)) % 7)


def runs(folder: Path, output: Path) -> dict[str, Run]:
    """Each way to train, ready but for its settings."""
    common: dict[str, Any] = {"output": output, "quiet": True}
    short: dict[str, Any] = {**common, "max_completion_length": 3}

    def grpo(**options: Any) -> Any:
        given = {"rewards": {"noise": noise}, "num_generations": 2, **short, **options}
        return train_grpo(folder, PROMPTS, **given)

    return {
        "sft": lambda **options: train(folder, ROWS, **common, **options),
        "dpo": lambda **options: train_dpo(folder, PAIRS, **common, **options),
        "kto": lambda **options: train_kto(folder, LABELLED, **common, **options),
        "grpo": grpo,
        "on-policy": lambda **options: distill_on_policy(
            folder, PROMPTS, **{"teacher": folder, **short, **options}
        ),
    }


EVERY = pytest.mark.parametrize(
    "kind",
    ["sft", "dpo", "grpo", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("kto", "on-policy"))],
)


@pytest.fixture(scope="module")
def other_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head is as wide as the student's, but whose tokens mean something else."""
    folder = tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|other|>"])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "completion", [[{**said("4")[0], "learn": False}], [{"role": "user", "content": "4"}], said(" "), ""]
)
def test_a_mask_that_learns_nothing(completion: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": PROMPT, "completion": completion}]
    with pytest.raises(SilentNoOp, match="Row 2 of the dataset has no completion token"):
        train(tiny_model_dir, rows, output=tmp_path / "a", config=QUICK, quiet=True)


def test_a_pair_with_an_answer_of_no_tokens(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SilentNoOp, match="Row 0 of the dataset has no completion token"):
        train_dpo(
            tiny_model_dir,
            [{**PAIRS[0], "rejected": said("")}],
            output=tmp_path / "a",
            config=QUICK,
            quiet=True,
        )


@EVERY
def test_an_adapter_of_layers_that_are_not_there(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"'absent'.* match no layer"):
        runs(tiny_model_dir, tmp_path / "a")[kind](config=QUICK.replace(target_modules=("absent",)))


@EVERY
def test_an_adapter_whose_b_stays_zero(
    kind: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = _job.load_peft

    def half(*args: Any) -> Any:
        model = load(*args)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.register_hook(lambda grad: grad * 0)
        return model

    monkeypatch.setattr(_job, "load_peft", half)
    options: dict[str, Any] = {}
    if kind == "on-policy":
        options["teacher"] = tiny_model(tmp_path / "teacher", seed=1)
    with pytest.raises(SilentNoOp, match="Training changed no LoRA weight"):
        runs(tiny_model_dir, tmp_path / "a")[kind](config=QUICK, **options)
    assert not (tmp_path / "a").exists()


@EVERY
def test_a_learning_rate_of_zero(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SilentNoOp, match="no LoRA weight in 2 steps at learning rate 0"):
        runs(tiny_model_dir, tmp_path / "a")[kind](config=QUICK.replace(learning_rate=0.0))
    assert not (tmp_path / "a").exists()


def test_a_divergence_without_a_teacher(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kl has no teacher"):
        train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, objective=KL(), quiet=True)


def test_a_stored_teacher_that_has_not_seen_every_row(tiny_model_dir: Path, tmp_path: Path) -> None:
    stored = store_teacher(
        tiny_model_dir, ROWS[:1], output=tmp_path / "t", top=4, dtype="float32", quiet=True
    )
    with pytest.raises(DataError, match="the stored teacher has never seen one of the examples"):
        train(
            tiny_model_dir,
            ROWS,
            output=tmp_path / "a",
            config=QUICK,
            objective=KL(),
            teacher=stored,
            quiet=True,
        )


@pytest.mark.parametrize("kind", ["sft", "on-policy"])
def test_a_teacher_with_other_tokens(
    kind: str, tiny_model_dir: Path, other_tokens: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"objective": KL()} if kind == "sft" else {}
    with pytest.raises(DataError, match=r"has another vocabulary than the student.*ALM"):
        runs(tiny_model_dir, tmp_path / "a")[kind](config=QUICK, teacher=other_tokens, **options)


def test_pairs_of_equal_answers(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1 of the dataset has the same answer as chosen and rejected"):
        train_dpo(
            tiny_model_dir,
            [PAIRS[0], {**PAIRS[0], "rejected": "4"}],
            output=tmp_path / "a",
            config=QUICK,
            quiet=True,
        )


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_rewards_that_are_all_equal(beta: float, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SilentNoOp, match="All answers of a group had equal rewards, in each of 2 rounds"):
        runs(tiny_model_dir, tmp_path / "a")["grpo"](
            config=QUICK.replace(weight_decay=0.1), rewards={"one": lambda row, text: 1.0}, beta=beta
        )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("builder", [sft_dataset, pairs_dataset, unpaired_dataset, prompts_dataset])
def test_traces_of_test_items(builder: Any) -> None:
    items = [evals.make_item(f"What is {n} + {n}?", str(2 * n), split="train") for n in range(2)]
    held_out = evals.make_item("What is 7 + 7?", "14", split="test")
    turns = [
        Trace(
            id=f"{item.id} {text}",
            run="r",
            item=item.id,
            author=Author(agent="s", role="student"),
            messages=({"role": "user", "content": item.public.question},),
            completion=text,
            split="train",
            rewards={"verified": float(text == "right")},
        )
        for item in (*items, held_out)
        for text in ("right", "wrong")
    ]
    options: dict[str, Any] = {"student": None} if builder is sft_dataset else {}
    with pytest.raises(LeakError, match=held_out.id):
        builder(turns, items=items, exclude=[held_out], **options)


def test_rewards_of_test_items(tiny_model_dir: Path, tmp_path: Path) -> None:
    items = [evals.make_item(f"What is {n} + {n}?", str(2 * n), split="test") for n in range(2)]
    rows = [{"prompt": item.public.question, "item": item.id} for item in items]
    with pytest.raises(LeakError, match="is of the split test"):
        train_grpo(
            tiny_model_dir,
            rows,
            rewards={"verified": evals.ExactScorer()},
            items=items,
            output=tmp_path / "a",
            num_generations=2,
            config=QUICK,
            quiet=True,
        )
