"""On-policy distillation through TRL: its divergence against docendo's, tokens and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from docendo.agents import tiny_model
from docendo.agents._templates import prompt_ids
from docendo.distill import KL, TrainConfig, distill_on_policy
from docendo.distill.training import _trl_trainers as trainers
from docendo.distill.training._method import Build, Materials
from docendo.distill.training._models import load_peft, seeded
from docendo.distill.training._on_policy import _OnPolicy
from docendo.errors import ConfigError, DataError
from docendo.progress import quiet_libraries

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = TrainConfig(max_steps=3, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32")
PROMPTS = [{"prompt": [{"role": "user", "content": f"{n} + 1 <|im_end|>"}]} for n in range(8)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same tokenizer."""
    return tiny_model(tmp_path_factory.mktemp("models") / "teacher", seed=1, hidden=32)


def build(
    folder: Path, teacher: Path, scratch: Path, beta: float, temperature: float = 1.0
) -> tuple[Build, Any]:
    method = _OnPolicy(
        teacher=teacher, teacher_adapter=None, beta=beta, temperature=temperature, max_completion_length=5
    )
    with quiet_libraries(), seeded(0):
        materials = Materials(
            rows=PROMPTS,
            config=QUICK,
            model=load_peft(folder, QUICK, None),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            source=folder,
            scratch=scratch,
            parent=None,
        )
        return method.build(materials), materials.model


@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_the_divergence_is_that_of_kl(
    beta: float, temperature: float, tiny_model_dir: Path, teacher: Path, tmp_path: Path
) -> None:
    built, student = build(tiny_model_dir, teacher, tmp_path, beta, temperature)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    trainer: Any = built.trainer
    inputs = trainer._generate_and_score_completions([{"prompt": str(n)} for n in range(4)])
    found = trainer.compute_loss(student, inputs).item()
    large = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    student.eval()
    losses = []
    for row in range(4):
        prompt = prompt_ids(trainer.processing_class, PROMPTS[row]["prompt"])
        assert inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist() == prompt
        answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            ours, theirs = (
                model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                for model in (student, large)
            )
        nothing: Any = None
        losses.append(KL(beta=beta, temperature=temperature).per_token(ours, nothing, theirs))
    # Docendo multiplies by the temperature's square, as Hinton does; TRL does not.
    expected = torch.cat(losses).mean().item() / temperature**2
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_padded_head_of_the_teacher_makes_no_difference(
    tiny_model_dir: Path, teacher: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(tmp_path / "padded")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "padded")
    options: dict[str, Any] = {"max_completion_length": 4, "config": QUICK, "quiet": True}
    plain, padded = (
        distill_on_policy(tiny_model_dir, PROMPTS, teacher=t, output=tmp_path / name, **options)
        for name, t in (("a", teacher), ("b", tmp_path / "padded"))
    )
    assert dict(plain.losses) == pytest.approx(dict(padded.losses))
    with pytest.raises(DataError, match="narrower than the student's"):
        distill_on_policy(tmp_path / "padded", PROMPTS, teacher=teacher, output=tmp_path / "c", **options)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_bit_for_bit(
    tiny_model_dir: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "teacher": teacher,
        "max_completion_length": 5,
        "config": QUICK.replace(save_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2),
        "quiet": True,
    }
    whole = distill_on_policy(tiny_model_dir, PROMPTS, output=tmp_path / "whole", **options)
    assert whole.manifest["method"]["name"] == "on-policy"
    assert whole.losses[-1][1] < whole.losses[0][1]
    compute = trainers.DurableOnPolicy.compute_loss

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainers.DurableOnPolicy, "compute_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            distill_on_policy(tiny_model_dir, PROMPTS, output=tmp_path / "a", **options)
    resumed = distill_on_policy(tiny_model_dir, PROMPTS, output=tmp_path / "a", resume=True, **options)
    assert resumed.sha256 == whole.sha256
    assert resumed.losses == whole.losses


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 1.5}, "beta is 1.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"max_completion_length": 0}, "max_completion_length is 0"),
    ],
)
def test_settings_out_of_range_are_one_line(options: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        distill_on_policy("none", PROMPTS, teacher="none", output=tmp_path / "a", **options)


def test_too_few_prompts_for_a_step_are_one_line(tiny_model_dir: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 3 prompts, and a step takes 4"):
        distill_on_policy(
            tiny_model_dir, PROMPTS[:3], teacher=teacher, output=tmp_path / "a", config=QUICK, quiet=True
        )
