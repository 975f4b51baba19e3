"""Losses against TRL, hand-computed cases, autograd on whole logits, and each other. Tiny random models."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from docendo.distill import (
    DCO,
    KL,
    BalancedKL,
    CrossEntropy,
    Encoded,
    FeatureMSE,
    Labels,
    Objective,
    ObjectiveTrainer,
    StoredTeacher,
    TrainConfig,
    TripletHidden,
    encode,
    store_teacher,
    train,
)
from docendo.distill.objectives._path import coverage_factor, log1mexp
from docendo.distill.objectives._token import with_rest
from docendo.distill.training._arguments import training_arguments
from docendo.distill.training._forward import Forward, Outputs, term_loss
from docendo.distill.training._packing import labels_of
from docendo.errors import ConfigError, DataError, IntegrityError

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

VOCABULARY, COUNT = 50, 150  # more labels than fit into one slice, or one chunk
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


def labels(**columns: Any) -> Labels:
    """Random labels of ten sequences of five examples."""
    draw = torch.Generator().manual_seed(1)
    return Labels(
        ids=torch.randint(VOCABULARY, (COUNT,), generator=draw),
        weights=torch.rand(COUNT, generator=draw) + 0.1,
        sequence=torch.arange(COUNT) // 15,
        example=torch.arange(10) // 2,
        role=torch.zeros(10, dtype=torch.long),
        columns=columns,
    )


def outputs(seed: int, *, grad: bool = True) -> tuple[Outputs, Outputs]:
    """The same distributions as hidden states with a head, and as logits."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(COUNT, 8, generator=draw).requires_grad_(grad)
    weight, bias = torch.randn(VOCABULARY, 8, generator=draw), torch.randn(VOCABULARY, generator=draw)
    logits = (hidden.detach() @ weight.t() + bias).requires_grad_(grad)
    return Outputs(hidden=hidden, weight=weight, bias=bias), Outputs(logits=logits)


def model_of(folder: Path, *, seed: int = 0) -> Any:
    """A tiny PeftModel in float32 whose LoRA branch is not zero."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(
            base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def examples_of(folder: Path) -> list[Encoded]:
    return encode(ROWS, AutoTokenizer.from_pretrained(folder))[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_divergences_equal_those_of_trl(beta: float, temperature: float) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")
    (packed, padded), (teacher, _) = outputs(0), outputs(7, grad=False)
    batch = labels()
    batch = replace(batch, weights=torch.ones(COUNT))
    logits = padded.logits.detach().requires_grad_()
    expected = gkd.GKDTrainer.generalized_jsd_loss(
        logits, teacher.logits_of(slice(None)), beta=beta, temperature=temperature, reduction="sum"
    )
    (slope,) = torch.autograd.grad(expected, logits)
    term = KL(beta=beta, temperature=temperature)
    found = term_loss(term, padded, batch, teacher)
    assert float(found.detach()) == pytest.approx(float(expected.detach()) * temperature**2, rel=1e-5)
    found.backward()
    torch.testing.assert_close(padded.logits.grad, slope * temperature**2, rtol=1e-4, atol=1e-6)
    hidden = term_loss(term, packed, batch, teacher)
    hidden.backward()
    torch.testing.assert_close(packed.hidden.grad, padded.logits.grad @ packed.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("term", [CrossEntropy(), KL(beta=0.5), BalancedKL(), DCO(samples=4)])
def test_hidden_states_and_logits_give_one_loss_and_one_gradient(term: Objective) -> None:
    (packed, padded), (teacher, _), batch = outputs(0), outputs(7, grad=False), labels()
    losses = [term_loss(term, one, batch, teacher) for one in (packed, padded)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(packed.hidden.grad, padded.logits.grad @ packed.weight, rtol=1e-4, atol=1e-5)


def test_a_stored_teacher_of_the_whole_vocabulary_is_the_teacher_itself() -> None:
    (student, _), (teacher, _) = outputs(0), outputs(7, grad=False)
    best = teacher.logits_of(slice(None)).log_softmax(-1).topk(VOCABULARY)
    stored = labels(teacher_ids=best.indices, teacher_logprobs=best.values)
    for term in (KL(), KL(beta=1.0), KL(beta=0.5), BalancedKL()):
        live = float(term_loss(term, student, labels(), teacher).detach())
        assert float(term_loss(term, student, stored, None).detach()) == pytest.approx(live, rel=1e-4)


def test_a_stored_teacher_never_overstates_the_divergence() -> None:
    (student, _), (teacher, _) = outputs(0), outputs(7, grad=False)
    whole = float(term_loss(KL(), student, labels(), teacher).detach())
    before = 0.0
    for top in (1, 5, 20, VOCABULARY):
        best = teacher.logits_of(slice(None)).log_softmax(-1).topk(top)
        stored = labels(teacher_ids=best.indices, teacher_logprobs=best.values)
        found = float(term_loss(KL(), student, stored, None).detach())
        assert before <= found <= whole * 1.0001
        before = found
    assert before == pytest.approx(whole, rel=1e-4)


def test_the_rest_of_a_distribution_is_one_bin() -> None:
    top = torch.tensor([[0.5, 0.3]]).log()
    torch.testing.assert_close(with_rest(top).exp(), torch.tensor([[0.5, 0.3, 0.2]]))
    assert torch.isfinite(with_rest(torch.tensor([[0.0]]))).all()  # nothing is left


def test_a_balanced_divergence_favours_reverse_where_the_student_is_less_sure() -> None:
    sure, unsure = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    one = Labels(
        ids=torch.tensor([0]),
        weights=torch.ones(1),
        sequence=torch.tensor([0]),
        example=torch.tensor([0]),
        role=torch.tensor([0]),
    )
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)  # KL(sure || unsure)
    reverse = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)  # KL(unsure || sure)
    assert float(BalancedKL(nu=3).per_token(unsure, one, sure)) == pytest.approx(forward + 3 * reverse)
    assert float(BalancedKL(nu=3).per_token(sure, one, unsure)) == pytest.approx(3 * reverse + forward)
    turned = BalancedKL(nu=3, direction="reversed")
    assert float(turned.per_token(unsure, one, sure)) == pytest.approx(3 * forward + reverse)


def test_a_padded_vocabulary_is_cut_to_the_shorter_one() -> None:
    student, teacher = torch.randn(4, 10).log_softmax(-1), torch.randn(4, 7)
    one = labels()
    longer = torch.cat([teacher, torch.randn(4, 5)], dim=1).log_softmax(-1)
    narrow = student[:, :7].log_softmax(-1)
    torch.testing.assert_close(
        KL().per_token(student[:, :7], one, longer),
        KL().per_token(narrow, one, longer[:, :7].log_softmax(-1)),
    )


@pytest.mark.parametrize("samples", [1, 2, 8, 64, 1024])
def test_the_coverage_factor_is_the_slope_of_the_loss(samples: int) -> None:
    probabilities = torch.tensor([1e-12, 1e-8, 1e-4, 0.01, 0.3, 0.9, 1 - 1e-6], dtype=torch.float64)
    logprob = probabilities.log().requires_grad_()
    miss = 1 - logprob.exp()
    loss = -torch.log(-torch.expm1(samples * torch.log1p(-logprob.exp())))
    (slope,) = torch.autograd.grad(loss.sum(), logprob)
    assert miss.min() > 0
    torch.testing.assert_close(
        coverage_factor(logprob.detach(), samples).double(), -slope, rtol=1e-5, atol=1e-7
    )


def test_dco_with_one_sample_is_cross_entropy_of_the_answers() -> None:
    (one, _), (two, _) = outputs(0), outputs(0)
    batch = labels()
    equal = replace(batch, weights=torch.ones(COUNT))
    dco = term_loss(DCO(samples=1), one, equal, None)
    plain = term_loss(CrossEntropy(), two, equal, None)
    assert float(dco.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)
    dco.backward()
    plain.backward()
    torch.testing.assert_close(one.hidden.grad, two.hidden.grad, rtol=1e-4, atol=1e-6)


def test_log1mexp_at_both_ends() -> None:
    x = torch.tensor([1e-12, 1e-3, 0.5, 1.0, 50.0], dtype=torch.float64)
    expected = [math.log(-math.expm1(-float(value))) for value in x]
    torch.testing.assert_close(log1mexp(x), torch.tensor(expected, dtype=torch.float64))


def triplet(states: list[list[float]], role: list[int], example: list[int]) -> tuple[float, float]:
    batch = Labels(
        ids=torch.tensor([0]),
        weights=torch.ones(1),
        sequence=torch.tensor([0]),
        example=torch.tensor(example),
        role=torch.tensor(role),
    )
    term = TripletHidden(margin=1.0)
    return float(term.on_states(torch.tensor(states), batch, None)), term.count(batch)


def test_triplets_by_hand() -> None:
    same, across = [1.0, 0.0], [0.0, 1.0]
    assert triplet([same, same, across], [0, 1, -1], [0, 0, 0]) == (0.0, 1.0)
    assert triplet([same, same, same], [0, 1, -1], [0, 0, 0]) == (1.0, 1.0)
    assert triplet([same, across, same], [0, 1, -1], [0, 0, 0]) == (2.0, 1.0)
    assert triplet([same, same, across, same], [0, 1, 1, -1], [0, 0, 0, 0]) == (1.5, 1.0)
    assert triplet([same, same, across], [0, 1, 0], [0, 0, 1]) == (0.0, 0.0)  # none has both


@pytest.mark.parametrize("packed", [True, False])
def test_positives_and_negatives_are_computed_as_sequences_of_their_own(
    tiny_model_dir: Path, packed: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    example = Encoded(prompt=(5, 6, 7), completion=(8, 9), positives=((8, 4),), negatives=((4,), (4, 4, 4)))
    forward = Forward(model, packed=packed)
    batch = forward.collate([example, Encoded(prompt=(5, 6), completion=(9,))])
    found = forward(batch, ends=True)
    assert batch["role"].tolist() == [0, 1, -1, -1, 0]
    assert batch["example"].tolist() == [0, 0, 0, 0, 1]
    assert batch["labels"].tolist() == [8, 9, 9]
    for index, answer in enumerate([(8, 9), (8, 4), (4,), (4, 4, 4)]):
        own = model(torch.tensor([[5, 6, 7, *answer]]), output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(found.ends[index], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_masked_tokens_are_context_and_no_labels(tiny_model_dir: Path, packed: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    example = Encoded(
        prompt=(5,),
        completion=(6, 7, 8, 9),
        mask=(True, False, False, True),
        columns={"teacher_ids": [[1], [2], [3], [4]]},
    )
    batch = Forward(model, packed=packed).collate([example])
    assert batch["labels"].tolist() == [6, 9]
    assert batch["columns"]["teacher_ids"].tolist() == [[1], [4]]
    logits = model(torch.tensor([[5, 6, 7, 8, 9]])).logits[0].log_softmax(-1).detach()
    expected = -float(logits[0, 6] + logits[3, 9])
    loss = term_loss(CrossEntropy(), Forward(model, packed=packed)(batch), labels_of(batch), None)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_accumulated_batches_train_like_one(tiny_model_dir: Path, tmp_path: Path, packed: bool) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    objective = 0.5 * CrossEntropy() + KL(beta=0.5)
    adapters = []
    for size, passes in ((8, 1), (4, 2)):
        config = QUICK.replace(
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=passes,
            warmup_ratio=0.0,
        )
        model = model_of(tiny_model_dir)
        trainer = ObjectiveTrainer(
            model,
            training_arguments(config, 2, str(tmp_path)),
            train_dataset=examples_of(tiny_model_dir),
            objective=objective,
            teacher=teacher,
            packed=packed,
        )
        trainer.train()
        adapters.append({key: value for key, value in model.named_parameters() if value.requires_grad})
    for key, value in adapters[0].items():
        torch.testing.assert_close(value, adapters[1][key], rtol=1e-3, atol=1e-4)


def test_every_term_is_logged_on_its_own_scale_with_its_share(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = ObjectiveTrainer(
        model_of(tiny_model_dir),
        training_arguments(QUICK, 3, str(tmp_path)),
        train_dataset=examples_of(tiny_model_dir),
        objective=0.5 * CrossEntropy() + 2 * KL(),
        teacher=AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in logged:
        assert entry["loss"] == pytest.approx(0.5 * entry["cross_entropy"] + 2 * entry["kl"], rel=1e-3)
        assert entry["cross_entropy_share"] + entry["kl_share"] == pytest.approx(1.0)
        assert entry["tokens_per_second"] > 0


def test_a_term_that_does_next_to_nothing_is_warned_of(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = ObjectiveTrainer(
        model_of(tiny_model_dir),
        training_arguments(QUICK, 2, str(tmp_path)),
        train_dataset=examples_of(tiny_model_dir),
        objective=CrossEntropy() + 1e-5 * KL(),
        teacher=AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
    )
    with caplog.at_level(logging.WARNING, logger="docendo.distill"):
        trainer.train()
    assert sum("the term kl has" in line for line in caplog.messages) == 1


def test_a_stored_teacher_trains_like_the_live_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_model_dir))
    trained = train(tiny_model_dir, ROWS, output=tmp_path / "teacher", config=QUICK, quiet=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    stored = store_teacher(
        tiny_model_dir,
        ROWS,
        output=tmp_path / "stored",
        adapter=trained.path,
        top=model.config.vocab_size,
        dtype="float32",
        quiet=True,
    )
    assert stored.mass == pytest.approx(1.0)
    assert vocabulary <= stored.top
    live = train(
        tiny_model_dir,
        ROWS,
        output=tmp_path / "live",
        config=QUICK,
        objective=KL(),
        teacher=tiny_model_dir,
        teacher_adapter=trained.path,
        quiet=True,
    )
    again = train(
        tiny_model_dir,
        ROWS,
        output=tmp_path / "again",
        config=QUICK,
        objective=KL(),
        teacher=StoredTeacher.open(tmp_path / "stored"),
        quiet=True,
    )
    for (_, one), (_, two) in zip(live.losses, again.losses, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    assert live.losses[-1][1] < live.losses[0][1]
    assert live.manifest["method"]["objective"] == [
        {"name": "kl", "weight": 1.0, "beta": 0.0, "temperature": 1.0}
    ]


def test_an_interrupted_store_goes_on_where_it_stopped(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docendo.distill.training import _teachers

    monkeypatch.setattr(_teachers, "_PART", 3)
    whole = store_teacher(tiny_model_dir, ROWS, output=tmp_path / "whole", top=4, quiet=True)
    real, made = _teachers._store_part, []

    def stops(*args: Any, **options: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args)
        return real(*args, **options)

    monkeypatch.setattr(_teachers, "_store_part", stops)
    with pytest.raises(KeyboardInterrupt):
        store_teacher(tiny_model_dir, ROWS, output=tmp_path / "half", top=4, quiet=True)
    with pytest.raises(DataError, match="goes on where it was interrupted"):
        StoredTeacher.open(tmp_path / "half")
    monkeypatch.setattr(
        _teachers, "_store_part", lambda *args, **options: (made.append(args), real(*args, **options))[1]
    )
    half = store_teacher(tiny_model_dir, ROWS, output=tmp_path / "half", top=4, quiet=True)
    assert len(made) == 3  # two before, one after
    assert half.manifest["digest"] == whole.manifest["digest"]
    with pytest.raises(DataError, match="other rows or settings"):
        store_teacher(tiny_model_dir, ROWS[:4], output=tmp_path / "half", top=4, quiet=True)
    file = next((tmp_path / "half").rglob("logprobs.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"logprobs\.safetensors"):
        StoredTeacher.open(tmp_path / "half")


def test_teachers_that_do_not_fit_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kl has no teacher"):
        train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, objective=KL(), quiet=True)
    stored = store_teacher(tiny_model_dir, ROWS[:4], output=tmp_path / "stored", top=4, quiet=True)
    with pytest.raises(DataError, match="has never seen one of the examples"):
        train(
            tiny_model_dir,
            ROWS,
            output=tmp_path / "a",
            config=QUICK,
            objective=KL(),
            teacher=stored,
            quiet=True,
        )
    with pytest.raises(ConfigError, match="the teacher is stored"):
        train(
            tiny_model_dir,
            ROWS[:4],
            output=tmp_path / "a",
            config=QUICK,
            objective=KL(temperature=2),
            teacher=stored,
            quiet=True,
        )
    with pytest.raises(ConfigError, match="at most the vocabulary's"):
        store_teacher(tiny_model_dir, ROWS, output=tmp_path / "b", top=10**6, quiet=True)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_settings_out_of_range_are_refused() -> None:
    for make in (
        lambda: KL(beta=1.5),
        lambda: KL(temperature=0),
        lambda: BalancedKL(nu=0.5),
        lambda: BalancedKL(direction="up"),  # type: ignore[arg-type]
        lambda: DCO(samples=0),
        lambda: TripletHidden(margin=-1),
        lambda: -1 * CrossEntropy(),
        lambda: CrossEntropy() + CrossEntropy(),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_contrastive_row_trains(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [{**row, "positives": ["Answer: 1", "It is 1"], "negatives": ["Answer: 9"]} for row in ROWS]
    adapter = train(
        tiny_model_dir,
        rows,
        output=tmp_path / "a",
        config=QUICK.replace(max_steps=8),
        objective=CrossEntropy() + 0.5 * TripletHidden(),
        quiet=True,
    )
    assert adapter.losses[-1][1] < adapter.losses[0][1]


def test_features_by_hand() -> None:
    states = torch.tensor([[3.0, 4.0], [0.0, 2.0], [9.0, 9.0]])
    teacher = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]])
    batch = Labels(
        ids=torch.tensor([0, 0]),
        weights=torch.ones(2),
        sequence=torch.tensor([0, 1]),
        example=torch.tensor([0, 1, 1]),
        role=torch.tensor([0, 0, -1]),  # what is compared only is not learnt
    )
    # Brought to mean square 1 the second pair is (0, sqrt 2) and (sqrt 2, 0).
    assert float(FeatureMSE().on_states(states, batch, teacher)) == pytest.approx(2.0)
    assert float(FeatureMSE(normalise=False).on_states(states, batch, teacher)) == pytest.approx(4.0)
    assert FeatureMSE().count(batch) == 2


def test_features_of_a_teacher_of_another_width(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(tiny_model_dir).config
    config.hidden_size, config.intermediate_size = 2 * config.hidden_size, 2 * config.intermediate_size
    config.head_dim *= 2
    wider = tmp_path / "wider"
    AutoModelForCausalLM.from_config(config).save_pretrained(wider)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(wider)
    objective = CrossEntropy() + FeatureMSE()
    settings = QUICK.replace(max_steps=30, per_device_train_batch_size=8)
    runs = [
        train(
            tiny_model_dir,
            ROWS,
            output=tmp_path / name,
            config=settings,
            objective=objective,
            teacher=wider,
            quiet=True,
        )
        for name in ("one", "two")
    ]
    assert runs[0].losses[-1][1] < runs[0].losses[0][1]
    assert runs[0].sha256 == runs[1].sha256
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), runs[0].path)
    with pytest.raises(DataError, match="features has no teacher"):
        train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, objective=objective, quiet=True)


def test_the_manifest_keeps_every_curve(tiny_model_dir: Path, tmp_path: Path) -> None:
    adapter = train(
        tiny_model_dir,
        ROWS,
        output=tmp_path / "a",
        config=QUICK,
        objective=CrossEntropy() + 0.5 * KL(),
        teacher=tiny_model_dir,
        quiet=True,
    )
    curves = adapter.manifest["curves"]
    assert {"cross_entropy", "kl", "cross_entropy_share", "kl_share", "grad_norm"} == set(curves)
    for (_, loss), (_, own), (_, other) in zip(
        adapter.losses, curves["cross_entropy"], curves["kl"], strict=True
    ):
        assert loss == pytest.approx(own + 0.5 * other, rel=1e-3)
    assert adapter.metrics["tokens_per_second"] > 0
    assert adapter.metrics["peak_memory_gb"] > 0
