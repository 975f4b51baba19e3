"""DPO, IPO and KTO through TRL: tokens, references, losses and resuming, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _telemetry
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from docendo.agents import tiny_model
from docendo.distill import (
    Adapter,
    Encoded,
    TrainConfig,
    distill_on_policy,
    encode,
    train,
    train_dpo,
    train_grpo,
    train_kto,
)
from docendo.distill.training._method import Build, Materials
from docendo.distill.training._models import load_peft, seeded
from docendo.distill.training._preference_methods import Labelled, Pairs, mismatched, spread
from docendo.distill.training._trl import require_hooks
from docendo.errors import CapabilityError, ConfigError, DataError
from docendo.progress import quiet_libraries

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = TrainConfig(max_steps=4, learning_rate=1e-2, per_device_train_batch_size=3, lora_r=4, dtype="float32")


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"{a} + {b} <|im_end|>"}],
        "chosen": said(f"Answer: {a + b}"),
        "rejected": said(f"It may be {a + b + 1}, who knows."),
        "item": f"{a}+{b}",
    }
    for a in range(2)
    for b in range(3)
]
ROWS = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
][:-1]


@pytest.fixture(scope="module")
def parent(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that makes the model differ from the base."""
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
    output = tmp_path_factory.mktemp("adapters") / "sft"
    train(tiny_model_dir, rows, output=output, config=QUICK, quiet=True)
    return output


def build(
    method: Any, folder: Path, rows: Any, scratch: Path, parent: Path | None = None, config: Any = QUICK
) -> tuple[Build, Any]:
    older = Adapter.open(parent) if parent else None
    with quiet_libraries(), seeded(0):
        materials = Materials(
            rows=rows,
            config=config,
            model=load_peft(folder, config, older),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            source=folder,
            scratch=scratch,
            parent=older,
        )
        return method.build(materials), materials.model


def shake(model: Any) -> None:
    """Moves the trained weights, as training would."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def plain_model(folder: Path, adapter: Path | None) -> Any:
    """The base, or the base with an adapter, loaded without TRL or docendo."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return (PeftModel.from_pretrained(base, str(adapter)) if adapter else base).eval()


def token_logps(model: Any, one: Encoded) -> Any:
    """Log-probability of each token of an answer, without padding."""
    ids = torch.tensor([[*one.prompt, *one.completion]])
    logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    found = logits.gather(1, ids[0, 1:, None])[:, 0]
    return found[len(one.prompt) - 1 :]


def answers(folder: Path, rows: Sequence[Any], column: str) -> list[Encoded]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return encode([{"prompt": r["prompt"], "completion": r[column]} for r in rows], tokenizer)[0]


def first_batch(built: Build, size: int) -> Any:
    trainer = built.trainer
    return trainer.data_collator([trainer.train_dataset[n] for n in range(size)])


def test_pairs_are_the_tokens_that_the_engine_serves(tiny_model_dir: Path, tmp_path: Path) -> None:
    built, _ = build(Pairs(beta=0.1, loss="sigmoid", nll_weight=0.0), tiny_model_dir, PAIRS, tmp_path)
    good, bad = (answers(tiny_model_dir, PAIRS, column) for column in ("chosen", "rejected"))
    batch = first_batch(built, 2)
    eos = AutoTokenizer.from_pretrained(tiny_model_dir).eos_token_id
    for row, one in enumerate([*good[:2], *bad[:2]]):
        length = len(one.prompt) + len(one.completion)
        assert batch["input_ids"][row, :length].tolist() == [*one.prompt, *one.completion]
        assert batch["attention_mask"][row].sum() == length
        learnt = batch["input_ids"][row][batch["completion_mask"][row].bool()].tolist()
        assert learnt == list(one.completion)
        assert learnt[-1] == eos
        assert learnt.count(eos) == 1
    # What TRL would make of the same row is something else.
    theirs = type(built.trainer).__mro__[3]._prepare_dataset  # type: ignore[attr-defined]
    from datasets import Dataset

    raw = Dataset.from_list([{key: PAIRS[0][key] for key in ("prompt", "chosen", "rejected")}])
    trainer: Any = built.trainer
    row = theirs(trainer, raw, trainer.processing_class, trainer.args, "train")[0]
    assert row["chosen_ids"] != list(good[0].completion) or row["prompt_ids"] != list(good[0].prompt)


@pytest.mark.parametrize(
    ("loss", "nll_weight"), [("sigmoid", 0.0), ("ipo", 0.0), ("sigmoid", 0.5), ("ipo", 2.0)]
)
def test_the_loss_is_that_of_the_papers(
    loss: Any, nll_weight: float, tiny_model_dir: Path, parent: Path, tmp_path: Path
) -> None:
    beta = 0.3
    built, model = build(
        Pairs(beta=beta, loss=loss, nll_weight=nll_weight), tiny_model_dir, PAIRS, tmp_path, parent
    )
    shake(model)
    good, bad = (answers(tiny_model_dir, PAIRS[:3], column) for column in ("chosen", "rejected"))
    reference = plain_model(tiny_model_dir, parent)
    losses, nll, count = [], 0.0, 0
    model.eval()
    with torch.no_grad():
        for better, worse in zip(good, bad, strict=True):
            ratios = []
            for one in (better, worse):
                ours = token_logps(model, one)
                change = ours - token_logps(reference, one)
                ratios.append(change.mean() if loss == "ipo" else change.sum())
                if one is better:
                    nll, count = nll - float(ours.sum()), count + len(ours)
            margin = ratios[0] - ratios[1]
            if loss == "ipo":
                losses.append((margin - 1 / (2 * beta)) ** 2)
            else:
                losses.append(-torch.nn.functional.logsigmoid(beta * margin))
        preference = float(torch.stack(losses).mean())
        model.train()
        found = built.trainer.compute_loss(model, first_batch(built, 3))
    assert float(found) == pytest.approx(preference + nll_weight * nll / count, rel=1e-4)
    logged: Any = built.trainer
    if nll_weight:
        assert logged._metrics["train"]["nll"] == pytest.approx([nll / count], rel=1e-4)
        assert logged._metrics["train"]["preference"] == pytest.approx([preference], rel=1e-3)


def test_the_reference_after_supervised_training_is_the_parent(
    tiny_model_dir: Path, parent: Path, tmp_path: Path
) -> None:
    built, model = build(
        Pairs(beta=0.1, loss="sigmoid", nll_weight=0.0), tiny_model_dir, PAIRS, tmp_path, parent
    )
    trainer: Any = built.trainer
    batch = first_batch(built, 3)
    trainer.compute_loss(model, batch)
    assert trainer._metrics["train"]["rewards/margins"] == [0.0]
    assert trainer._metrics["train"]["rewards/chosen"] == [0.0]
    good = answers(tiny_model_dir, PAIRS[:3], "chosen")
    with torch.no_grad():
        shake(model)  # the copy must not follow what is trained
        found = trainer.compute_ref_log_probs(trainer.model, batch)[0]
        of_parent, of_base = (
            torch.stack([token_logps(plain_model(tiny_model_dir, adapter), one).sum() for one in good])
            for adapter in (parent, None)
        )
    torch.testing.assert_close(found, of_parent, rtol=1e-4, atol=1e-4)
    # With a fresh adapter on the base the reference would be this, and the margins would not start at 0.
    assert (of_base - of_parent).abs().min() > 1
    assert all("ref" not in name for name, p in model.named_parameters() if p.requires_grad)


def test_the_reference_of_a_fresh_adapter_is_the_base(tiny_model_dir: Path, tmp_path: Path) -> None:
    built, model = build(Pairs(beta=0.1, loss="sigmoid", nll_weight=0.0), tiny_model_dir, PAIRS, tmp_path)
    assert list(model.peft_config) == ["default"]
    shake(model)
    trainer: Any = built.trainer
    with torch.no_grad():
        found = trainer.compute_ref_log_probs(trainer.model, first_batch(built, 3))[1]
        bad = answers(tiny_model_dir, PAIRS[:3], "rejected")
        wanted = torch.stack([token_logps(plain_model(tiny_model_dir, None), one).sum() for one in bad])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_the_reference_is_never_published(
    kind: str, tiny_model_dir: Path, parent: Path, tmp_path: Path
) -> None:
    before = Adapter.open(parent).sha256
    function: Any = train_dpo if kind == "dpo" else train_kto
    adapter = function(
        tiny_model_dir,
        PAIRS if kind == "dpo" else ROWS,
        output=tmp_path / "a",
        config=QUICK,
        parent=parent,
        quiet=True,
    )
    assert not [path for path in (tmp_path / "a").iterdir() if path.is_dir()]
    assert not [key for key in load_file(tmp_path / "a" / "adapter_model.safetensors") if "ref" in key]
    loaded = plain_model(tiny_model_dir, tmp_path / "a")
    assert list(loaded.peft_config) == ["default"]
    assert adapter.manifest["parent"] == before == Adapter.open(parent).sha256
    assert adapter.manifest["method"]["name"] == kind
    assert adapter.manifest["method"]["beta"] == 0.1
    assert len(adapter.losses) == 4
    assert "rewards/margins" in adapter.metrics


@pytest.mark.parametrize("weights", [(None, None), (1.0, 3.0)])
def test_the_loss_of_kto_is_that_of_the_paper(
    weights: Any, tiny_model_dir: Path, parent: Path, tmp_path: Path
) -> None:
    beta = 0.5
    method = Labelled(beta=beta, desirable=weights[0], undesirable=weights[1])
    built, model = build(method, tiny_model_dir, ROWS, tmp_path, parent)
    shake(model)
    batch = first_batch(built, 3)
    dataset: Any = built.trainer.train_dataset
    # 6 good answers and 5 bad ones: the rarer kind weighs 6 / 5.
    desirable, undesirable = weights if weights[0] else (1.0, 6 / 5)
    reference = plain_model(tiny_model_dir, parent)
    model.eval()
    ratios, shifts = [], []
    with torch.no_grad():
        for row in dataset.select(range(3)):
            for ids, into in ((row["completion_ids"], ratios), (row["KL_completion_ids"], shifts)):
                one = Encoded(prompt=tuple(row["prompt_ids"]), completion=tuple(ids))
                into.append(float(token_logps(model, one).sum() - token_logps(reference, one).sum()))
        model.train()
        found = float(built.trainer.compute_loss(model, batch))
    shift = max(0.0, sum(shifts) / 3)
    losses = []
    for ratio, good in zip(ratios, batch["label"].tolist(), strict=True):
        gain = torch.tensor(beta * (ratio - shift if good else shift - ratio))
        losses.append((desirable if good else undesirable) * (1 - float(torch.sigmoid(gain))))
    assert found == pytest.approx(sum(losses) / 3, rel=1e-3)


def test_rows_of_kto_are_the_tokens_that_the_engine_serves(tiny_model_dir: Path, tmp_path: Path) -> None:
    method = Labelled(beta=0.1, desirable=None, undesirable=None)
    built, _ = build(method, tiny_model_dir, ROWS, tmp_path)
    encoded = answers(tiny_model_dir, ROWS, "completion")
    wanted = {(one.prompt, one.completion): row["label"] for one, row in zip(encoded, ROWS, strict=True)}
    dataset: Any = built.trainer.train_dataset
    found = {(tuple(r["prompt_ids"]), tuple(r["completion_ids"])): r["label"] for r in dataset}
    assert found == wanted
    for start in range(0, len(dataset), 3):
        batch = [dataset[n] for n in range(start, min(start + 3, len(dataset)))]
        assert len({tuple(row["prompt_ids"]) for row in batch}) == len(batch)
        for row in batch:
            others = [one for one in batch if one is not row]
            assert row["KL_completion_ids"] in [one["completion_ids"] for one in others]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_mismatched_answers_are_those_of_the_batch_behind_other_prompts(prompts: list[int]) -> None:
    batch = [Encoded(prompt=(p,), completion=(n,)) for n, p in enumerate(prompts)]
    spare = [Encoded(prompt=(9,), completion=(99,))]
    found = mismatched(batch, spare)
    if len(batch) == 1:
        assert found == spare
        return
    assert sorted(one.completion for one in found) == [one.completion for one in batch]
    assert all(one is not other for one, other in zip(batch, found, strict=True))
    if len(set(prompts)) == len(prompts):
        assert all(one.prompt != other.prompt for one, other in zip(batch, found, strict=True))


def test_answers_to_one_prompt_are_spread_over_the_order() -> None:
    rows = [(Encoded(prompt=(p,), completion=(n,)), True) for p in range(5) for n in range(4)]
    found = spread(rows, seed=0)
    assert sorted(one.completion + one.prompt for one, _ in found) == sorted(
        one.completion + one.prompt for one, _ in rows
    )
    assert found == spread(rows, seed=0) != spread(rows, seed=1)
    for start in range(0, 20, 5):
        assert len({one.prompt for one, _ in found[start : start + 5]}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_an_interrupted_training_goes_on_bit_for_bit(
    kind: str, tiny_model_dir: Path, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docendo.distill.training import _trl_trainers as trainers

    function: Any = train_dpo if kind == "dpo" else train_kto
    rows = PAIRS if kind == "dpo" else ROWS
    config = QUICK.replace(save_steps=1)
    options: dict[str, Any] = {"config": config, "parent": parent, "quiet": True}
    whole = function(tiny_model_dir, rows, output=tmp_path / "whole", **options)
    cls: Any = trainers.DurableDPO if kind == "dpo" else trainers.DurableKTO
    compute = cls.compute_loss

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "compute_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            function(tiny_model_dir, rows, output=tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()
    resumed = function(tiny_model_dir, rows, output=tmp_path / "a", resume=True, **options)
    assert resumed.sha256 == whole.sha256
    assert resumed.losses == whole.losses
    again = function(tiny_model_dir, rows, output=tmp_path / "a", resume=True, **options)
    assert again.manifest == resumed.manifest


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What Hugging Face's telemetry would send, with everything that silences it in tests taken away."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: None)
    queue = _telemetry._TELEMETRY_QUEUE
    yield queue
    while not queue.empty():
        queue.get_nowait()


def test_nothing_is_sent(mail: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"config": QUICK.replace(max_steps=1, warmup_ratio=0.0), "quiet": True}
    sampled: dict[str, Any] = {"max_completion_length": 3, **options}
    noise = {"noise": lambda row, text: float(sum(map(ord, text)) % 97)}
    train_dpo(tiny_model_dir, PAIRS, output=tmp_path / "a", **options)
    train_kto(tiny_model_dir, ROWS, output=tmp_path / "b", **options)
    train_grpo(tiny_model_dir, PAIRS, rewards=noise, num_generations=3, output=tmp_path / "c", **sampled)
    other = tiny_model(tmp_path / "other", seed=1)
    distill_on_policy(tiny_model_dir, PAIRS, teacher=other, output=tmp_path / "d", **sampled)
    assert mail.empty()
    # TRL's own trainers would have sent something.
    built, _ = build(Pairs(beta=0.1, loss="sigmoid", nll_weight=0.0), tiny_model_dir, PAIRS, tmp_path)
    assert mail.empty()
    trainer: Any = built.trainer
    trainer._send_telemetry()
    assert mail.get_nowait()["library_name"] == "trl"


def test_settings_follow_the_hardware_and_nothing_is_reported(tiny_model_dir: Path, tmp_path: Path) -> None:
    method = Pairs(beta=0.1, loss="sigmoid", nll_weight=0.0)
    built, _ = build(method, tiny_model_dir, PAIRS, tmp_path)
    args = built.trainer.args
    assert args.use_cpu is not torch.accelerator.is_available()
    assert args.gradient_checkpointing == args.bf16 == torch.accelerator.is_available()
    assert args.report_to in ("none", [])
    assert args.max_length is None  # long pairs are left out, not cut
    chosen = QUICK.replace(arguments={"gradient_checkpointing": True})
    built, _ = build(method, tiny_model_dir, PAIRS, tmp_path, config=chosen)
    assert built.trainer.args.gradient_checkpointing


def test_a_version_of_trl_without_what_is_replaced_is_refused() -> None:
    require_hooks(TrainConfig, "replace")
    with pytest.raises(CapabilityError, match=r"has no TrainConfig\._prepare_dataset"):
        require_hooks(TrainConfig, "_prepare_dataset")


def test_long_pairs_are_left_out_and_counted(tiny_model_dir: Path, tmp_path: Path) -> None:
    longer = {**PAIRS[0], "rejected": said("no " * 60)}
    config = QUICK.replace(max_length=100, max_steps=1)
    adapter = train_dpo(tiny_model_dir, [*PAIRS, longer], output=tmp_path / "a", config=config, quiet=True)
    assert adapter.manifest["data"]["examples"] == 6
    assert adapter.manifest["data"]["too_long"] == 1
    with pytest.raises(DataError, match="none of 6"):
        train_dpo(
            tiny_model_dir, PAIRS, output=tmp_path / "b", config=config.replace(max_length=5), quiet=True
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0}, "beta is 0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"loss": "hinge"}, "sigmoid or ipo"),
        ({"nll_weight": -1}, "nll_weight is -1"),
    ],
)
def test_settings_of_dpo_out_of_range_are_one_line(options: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        train_dpo("none", PAIRS, output=tmp_path / "a", **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": None}, "row 0 of the dataset has no 'chosen'"),
        ({"weight": 0.5}, "row 0 has the weight 0.5"),
        (
            {"chosen": [*said("a"), {"role": "user", "content": "b"}, *said("c")]},
            "turns in 'chosen' that are not learnt",
        ),
    ],
)
def test_malformed_pairs_are_one_line(change: Any, words: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        train_dpo(tiny_model_dir, [{**PAIRS[0], **change}], output=tmp_path / "a", config=QUICK, quiet=True)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (ROWS[:1], {}, "all 1 rows have the label True"),
        ([{**ROWS[0], "label": 1}], {}, "row 0 of the dataset has the label 1"),
        (ROWS, {"desirable_weight": 0}, "desirable_weight is 0"),
        (ROWS, {"config": QUICK.replace(per_device_train_batch_size=1)}, "at least 2"),
    ],
)
def test_malformed_labels_are_one_line(
    rows: Any, options: Any, words: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        train_kto(tiny_model_dir, rows, output=tmp_path / "a", **{"config": QUICK, "quiet": True, **options})


@pytest.mark.slow
def test_a_real_model_learns_to_prefer(smollm2: Path, tmp_path: Path) -> None:
    pairs = [
        {
            # A text has no system message, so it is short.
            "prompt": f"{n} + 2 =",
            "chosen": said(f"Answer: {n + 2}"),
            "rejected": said("I do not know."),
        }
        for n in range(4)
    ]
    config = TrainConfig(max_steps=5, learning_rate=3e-4, per_device_train_batch_size=2, warmup_ratio=0.0)
    adapter = train_dpo(smollm2, pairs, output=tmp_path / "a", config=config, quiet=True)
    assert adapter.losses[0][1] == pytest.approx(0.693, abs=0.01)
    assert adapter.metrics["rewards/accuracies"] == 1
    assert adapter.metrics["rewards/margins"] > 1
    assert adapter.losses[-1][1] < 0.4
