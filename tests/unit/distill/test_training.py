"""The loss, the kernels, and `train` from data to a checked adapter. All on a tiny random model."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from docendo.agents import models, tiny_model
from docendo.distill import Adapter, Encoded, ObjectiveTrainer, TrainConfig, encode, train
from docendo.distill.training._arguments import training_arguments
from docendo.distill.training._kernels import LinearCrossEntropy, RmsNorm, SwiGlu, speed_up
from docendo.errors import AdapterError, ConfigError, DataError, IntegrityError, ModelFailure, SilentNoOp

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"{a} + {b}"}],
        "completion": [{"role": "assistant", "content": f"Answer: {a + b}"}],
        "item": f"{a}+{b}",
    }
    for a in range(2)
    for b in range(4)
]
QUICK = TrainConfig(max_steps=3, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32")


def lora_model(folder: Path, *, seed: int = 0, **options: Any) -> Any:
    """A tiny PeftModel in float32 whose LoRA branch is not zero."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(
            base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options)
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def examples_of(folder: Path) -> list[Encoded]:
    return encode(ROWS, AutoTokenizer.from_pretrained(folder))[0]


def run(folder: Path, scratch: Path, config: TrainConfig, *, fast: bool = True, **options: Any) -> Any:
    """Trains with `ObjectiveTrainer` directly; returns losses per step and the model."""
    model = lora_model(folder)
    if fast:
        assert speed_up(model) == {"lora": 14, "norm": 5, "swiglu": 2}
    arguments = training_arguments(config, config.max_steps, str(scratch))
    trainer = ObjectiveTrainer(model, arguments, train_dataset=examples_of(folder), **options)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], model, trainer


@pytest.mark.filterwarnings("ignore")
def test_training_equals_trl(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Loss of every step, and the weights afterwards, in float32 within 1e-4."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    examples = examples_of(tiny_model_dir)
    config = QUICK.replace(max_steps=4, per_device_train_batch_size=len(examples), warmup_ratio=0.0)
    rows = [
        {
            "input_ids": [*e.prompt, *e.completion],
            "completion_mask": [0] * len(e.prompt) + [1] * len(e.completion),
        }
        for e in examples
    ]
    settings = trl.SFTConfig(
        str(tmp_path),
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        per_device_train_batch_size=len(examples),
        completion_only_loss=True,
        optim="adamw_torch_fused",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
    )
    reference = trl.SFTTrainer(
        lora_model(tiny_model_dir),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    reference.train()
    expected = [entry["loss"] for entry in reference.state.log_history if "loss" in entry]
    found, model, trainer = run(tiny_model_dir, tmp_path, config)
    assert trainer.packed
    assert len(found) == 4
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[-1] < found[0]
    wanted = dict(reference.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-3, atol=1e-4)


def test_every_fast_path_trains_like_the_plain_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    plain, plain_model, _ = run(tiny_model_dir, tmp_path, QUICK, fast=False, packed=False)
    for options in ({"packed": False}, {"packed": True}, {"fast": False, "packed": True}):
        losses, model, _ = run(tiny_model_dir, tmp_path, QUICK, **options)
        assert losses == pytest.approx(plain, rel=1e-4), options
        for (name, found), (_, wanted) in zip(
            model.named_parameters(), plain_model.named_parameters(), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4, msg=f"{name} {options}")


def test_accumulated_steps_equal_one_large_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The mean runs over the tokens of the step, not over its batches, which differ in length."""
    large = run(tiny_model_dir, tmp_path, QUICK.replace(per_device_train_batch_size=8))[0]
    small = QUICK.replace(per_device_train_batch_size=3, gradient_accumulation_steps=3)
    assert run(tiny_model_dir, tmp_path, small)[0] == pytest.approx(large, rel=1e-4)


def test_loss_is_the_weighted_mean_over_completion_tokens(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = lora_model(tiny_model_dir)
    examples = [
        Encoded(prompt=(5, 6, 7), completion=(8, 9), weight=2.0),
        Encoded(prompt=(5, 6), completion=(9, 4, 4), weight=0.5),
    ]
    trainer = ObjectiveTrainer(model, training_arguments(QUICK, 1, str(tmp_path)), train_dataset=examples)
    total = weight = 0.0
    for example in examples:
        with torch.no_grad():
            logits = model(torch.tensor([[*example.prompt, *example.completion]])).logits[0].log_softmax(-1)
        for offset, token in enumerate(example.completion):
            total -= example.weight * float(logits[len(example.prompt) - 1 + offset, token])
            weight += example.weight
    for packed in (True, False):
        trainer.forward.packed = packed
        found = trainer.compute_loss(model, trainer.collate(examples)).item()
        assert found == pytest.approx(total / weight, rel=1e-5)


def test_kernels_have_the_gradients_of_the_plain_formulas() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, grad: bool = True) -> Any:
        return torch.randn(*shape, generator=generator, requires_grad=grad)

    x, weight = draw(5, 8), draw(8, grad=False)
    gate, up = draw(5, 8), draw(5, 8)
    # More rows than one chunk of logits.
    hidden, head = draw(300, 8), draw(11, 8, grad=False)
    labels, scale = torch.randint(0, 11, (300,), generator=generator), torch.rand(300, generator=generator)
    pairs = [
        (
            lambda: RmsNorm.apply(x, weight, 1e-5),
            lambda: torch.nn.functional.rms_norm(x, (8,), weight, 1e-5),
            [x],
        ),
        (lambda: SwiGlu.apply(gate, up), lambda: torch.nn.functional.silu(gate) * up, [gate, up]),
        (
            lambda: 3 * LinearCrossEntropy.apply(hidden, head, None, labels, scale),
            lambda: (
                3
                * (
                    torch.nn.functional.cross_entropy(hidden @ head.t(), labels, reduction="none") * scale
                ).sum()
            ),
            [hidden],
        ),
    ]
    for fast, plain, inputs in pairs:
        torch.testing.assert_close(fast(), plain(), rtol=1e-5, atol=1e-5)
        seed = torch.randn(plain().shape, generator=generator)
        wanted = torch.autograd.grad(plain(), inputs, seed)
        found = torch.autograd.grad(fast(), inputs, seed)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_modules_that_are_not_plain_stay_as_they_are(tiny_model_dir: Path) -> None:
    assert speed_up(lora_model(tiny_model_dir, lora_dropout=0.1))["lora"] == 0
    assert speed_up(lora_model(tiny_model_dir, use_dora=True))["lora"] == 0
    model = lora_model(tiny_model_dir)
    norm = model.get_base_model().model.norm
    norm.forward = lambda x: torch.nn.functional.rms_norm(x, (64,)) * (1 + norm.weight)
    assert speed_up(model)["norm"] == 4
    ids = torch.tensor([[5, 6, 7]])
    before = lora_model(tiny_model_dir)
    with before.disable_adapter(), model.disable_adapter():
        norm.forward = type(norm).forward.__get__(norm)
        torch.testing.assert_close(model(ids).logits, before(ids).logits, rtol=1e-5, atol=1e-5)


def test_dropout_turns_prefix_sharing_off(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = lora_model(tiny_model_dir, lora_dropout=0.5)
    trainer = ObjectiveTrainer(
        model, training_arguments(QUICK, 1, str(tmp_path)), train_dataset=examples_of(tiny_model_dir)
    )
    examples = examples_of(tiny_model_dir)
    assert trainer.collate(examples)["input_ids"].numel() == sum(map(len, examples))


def test_train_writes_an_adapter_that_peft_loads(tiny_model_dir: Path, tmp_path: Path) -> None:
    adapter = train(
        tiny_model_dir, ROWS, output=tmp_path / "sum", config=QUICK, metadata={"run": "demo"}, quiet=True
    )
    assert adapter == Adapter.open(tmp_path / "sum")
    assert adapter.name == "sum"
    assert adapter.base == models.fingerprint(tiny_model_dir)
    assert [step for step, _ in adapter.losses] == [1, 2, 3]
    assert adapter.losses[-1][1] == adapter.metrics["final_loss"] < adapter.metrics["first_loss"]
    assert adapter.metrics["packed"] == 1
    assert adapter.manifest["metadata"] == {"run": "demo"}
    assert adapter.manifest["data"]["examples"] == 8
    assert {file.name for file in adapter.path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(adapter.path))(ids).logits
    assert not torch.allclose(plain, adapted)
    # No path of this machine in what may be shared.
    shared = (adapter.path / "adapter_config.json").read_text() + (adapter.path / "README.md").read_text()
    assert str(tmp_path) not in shared
    assert str(tiny_model_dir) not in shared


def test_the_model_card_states_the_facts(tiny_model_dir: Path, tmp_path: Path) -> None:
    adapter = train(tiny_model_dir, ROWS, output=tmp_path / "sum", config=QUICK, quiet=True)
    card = (adapter.path / "README.md").read_text(encoding="utf-8")
    header = card.split("---")[1]
    assert f'base_model: "{tiny_model_dir.name}"' in header
    assert "| Training data | 8 examples of 8 items" in card
    assert f"{adapter.metrics['final_loss']:.4f} at the last" in card


def test_same_seed_same_adapter_and_global_randomness_is_left_alone(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    random.seed(1)
    torch.manual_seed(1)
    expected = (random.random(), float(torch.rand(())))
    random.seed(1)
    torch.manual_seed(1)
    first = train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, quiet=True)
    assert (random.random(), float(torch.rand(()))) == expected
    second = train(tiny_model_dir, ROWS, output=tmp_path / "b", config=QUICK, quiet=True)
    other = train(tiny_model_dir, ROWS, output=tmp_path / "c", config=QUICK.replace(seed=1), quiet=True)
    assert first.sha256 == second.sha256 != other.sha256


def test_bfloat16_base_keeps_float32_lora(tiny_model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    config = QUICK.replace(dtype="bfloat16", max_steps=10)
    adapter = train(tiny_model_dir, ROWS, output=tmp_path / "a", config=config, quiet=True)
    wide = train(tiny_model_dir, ROWS, output=tmp_path / "b", config=QUICK.replace(max_steps=10), quiet=True)
    weights = load_file(adapter.path / "adapter_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert [loss for _, loss in adapter.losses] == pytest.approx([loss for _, loss in wide.losses], rel=0.03)


def test_a_learning_rate_of_zero_is_a_silent_no_op(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SilentNoOp, match="no LoRA weight"):
        train(
            tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK.replace(learning_rate=0.0), quiet=True
        )
    assert list(tmp_path.iterdir()) == []


def test_weights_that_change_no_prediction_are_a_silent_no_op(tiny_model_dir: Path, tmp_path: Path) -> None:
    """With lora_alpha next to nothing the weights move and the predictions do not."""
    config = QUICK.replace(lora_alpha=1e-9)  # type: ignore[arg-type]
    with pytest.raises(SilentNoOp, match="no prediction"):
        train(tiny_model_dir, ROWS, output=tmp_path / "a", config=config, quiet=True)


def test_a_loss_that_is_not_finite_stops_training(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFailure, match="not finite"):
        train(
            tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK.replace(learning_rate=1e38), quiet=True
        )
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_saved_wrong_are_noticed(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PeftModel.save_pretrained

    def forgetful(self: Any, folder: Any, **options: Any) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(1.5 if parameter.requires_grad else 1)
        save(self, folder, **options)

    monkeypatch.setattr(PeftModel, "save_pretrained", forgetful)
    with pytest.raises(SilentNoOp, match="not the trained ones"):
        train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_leaves_the_older_adapter(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, quiet=True)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectiveTrainer, "compute_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model_dir, ROWS[:4], output=tmp_path / "a", config=QUICK, quiet=True)
    assert Adapter.open(tmp_path / "a") == older
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_resume_returns_the_finished_adapter_only_if_nothing_changed(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"output": tmp_path / "a", "config": QUICK, "quiet": True, "resume": True}
    first = train(tiny_model_dir, ROWS, **options)
    stamp = (first.path / "manifest.json").stat().st_mtime_ns
    assert train(tiny_model_dir, ROWS, **options) == first
    assert (first.path / "manifest.json").stat().st_mtime_ns == stamp
    assert train(tiny_model_dir, ROWS[:-1], **options).sha256 != first.sha256
    changed = train(tiny_model_dir, ROWS[:-1], **{**options, "config": QUICK.replace(seed=5)})
    assert changed.manifest["config"]["seed"] == 5


def test_a_child_continues_from_its_parent(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = QUICK.replace(warmup_ratio=0.0, per_device_train_batch_size=8)
    parent = train(
        tiny_model_dir, ROWS, output=tmp_path / "a", config=config.replace(max_steps=8), quiet=True
    )
    child = train(tiny_model_dir, ROWS, output=tmp_path / "b", config=config, parent=parent.path, quiet=True)
    assert child.manifest["parent"] == parent.sha256
    assert child.sha256 != parent.sha256
    assert child.losses[0][1] < parent.losses[-1][1] < parent.losses[0][1]
    with pytest.raises(AdapterError, match="lora_r 4"):
        train(
            tiny_model_dir,
            ROWS,
            output=tmp_path / "c",
            config=config.replace(lora_r=8),
            parent=parent.path,
            quiet=True,
        )


def test_a_parent_of_another_base_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", seed=1)
    parent = train(other, ROWS, output=tmp_path / "a", config=QUICK, quiet=True)
    with pytest.raises(AdapterError, match="trained on the base model"):
        train(tiny_model_dir, ROWS, output=tmp_path / "b", config=QUICK, parent=parent.path, quiet=True)


def test_unknown_target_modules_and_empty_data_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="match no layer"):
        train(
            tiny_model_dir,
            ROWS,
            output=tmp_path / "a",
            config=QUICK.replace(target_modules=("nose",)),
            quiet=True,
        )
    with pytest.raises(DataError, match="empty"):
        train(tiny_model_dir, [], output=tmp_path / "a", config=QUICK, quiet=True)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", lambda text: text[:-1] + bytes([text[-1] ^ 1])),
        ("adapter_config.json", lambda text: text.replace(b'"r": 4', b'"r": 5')),
        ("README.md", lambda text: text + b"!"),
        ("manifest.json", lambda text: text.replace(b'"seed": 0', b'"seed": 1')),
        ("manifest.json", lambda text: text[:-20]),
        ("manifest.json", lambda _: b"[]"),
        ("adapter_model.safetensors", None),
    ],
)
def test_damage_is_found(tiny_model_dir: Path, tmp_path: Path, name: str, damage: Any) -> None:
    adapter = train(
        tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK.replace(max_steps=1), quiet=True
    )
    file = adapter.path / name
    before = file.read_bytes()
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(before))
        assert file.read_bytes() != before
    with pytest.raises(IntegrityError, match=name):
        Adapter.open(adapter.path)
    with pytest.raises(IntegrityError, match=name):
        train(tiny_model_dir, ROWS, output=tmp_path / "b", config=QUICK, parent=adapter.path, quiet=True)


def test_a_folder_without_a_manifest_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"manifest\.json"):
        Adapter.open(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("max_steps", 0),
        ("per_device_train_batch_size", 0),
        ("warmup_ratio", 1.0),
        ("lora_r", 0),
        ("dtype", "float16"),
        ("lr_scheduler_type", "wild"),
        ("target_modules", ()),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        TrainConfig(**{field: value})


def test_settings_survive_json() -> None:
    config = TrainConfig(target_modules=("q_proj", "v_proj"))
    assert TrainConfig(**json.loads(json.dumps(config.to_json()))) == config


def test_the_base_folder_is_not_touched(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    copy = shutil.copytree(folder, tmp_path / "copy")
    train(folder, ROWS, output=tmp_path / "a", config=QUICK.replace(max_steps=1), quiet=True)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        f.name: f.read_bytes() for f in copy.iterdir()
    }


def test_a_folder_that_is_no_adapter_is_never_replaced(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years of it")
    with pytest.raises(ConfigError, match="work"):
        train(tiny_model_dir, ROWS, output=tmp_path / "work", config=QUICK, quiet=True)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years of it"
