"""Rewards and GRPO through TRL: values, advantages, losses, tokens and resuming, on a tiny model."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from docendo import evals
from docendo.agents._engine import _text_decoder
from docendo.agents._templates import prompt_ids
from docendo.distill import (
    Adapter,
    ExactLabel,
    LengthReward,
    SampledAnswer,
    TrainConfig,
    train,
    train_grpo,
)
from docendo.distill.training import _job
from docendo.distill.training import _trl_trainers as trainers
from docendo.distill.training._grpo import _Rewarded
from docendo.distill.training._judge import Judge
from docendo.distill.training._method import Build, Materials
from docendo.distill.training._models import load_peft, seeded
from docendo.distill.training._prompts import text_of
from docendo.errors import ConfigError, DataError, LeakError, ResumeError, TaskFailure
from docendo.progress import quiet_libraries
from docendo.records import Gold

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = TrainConfig(max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32")
PROMPTS = [
    {"prompt": [{"role": "user", "content": f"{n} + 1 <|im_end|>"}], "item": f"i{n}", "answer": str(n + 1)}
    for n in range(8)
]
SETTINGS: dict[str, Any] = {
    "num_generations": 2,
    "max_completion_length": 5,
    "temperature": 1.0,
    "beta": 0.0,
    "loss": "dapo",
    "steps_per_generation": 1,
}


def noise(row: Any, text: str) -> float:
    """A reward that differs between answers of a model that has learnt nothing."""
    return float(sum(map(ord, text)) % 7)


def answer(tokens: int, text: str = "") -> SampledAnswer:
    return SampledAnswer(text=text, tokens=tokens, finished=True)


def build(folder: Path, scratch: Path, config: TrainConfig = QUICK, **changes: Any) -> tuple[Build, Any]:
    parent = changes.pop("parent", None)
    rewards = changes.pop("rewards", {"noise": noise})
    method = _Rewarded(
        rewards=rewards, weights=dict.fromkeys(rewards, 1.0), items=(), **{**SETTINGS, **changes}
    )
    older = Adapter.open(parent) if parent else None
    with quiet_libraries(), seeded(0):
        materials = Materials(
            rows=PROMPTS,
            config=config,
            model=load_peft(folder, config, older),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            source=folder,
            scratch=scratch,
            parent=older,
        )
        return method.build(materials), materials.model


# --- rewards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "right", "expected"),
    [
        ([10, 20], [1, 1], [0.5, -0.5]),
        ([10, 20], [0, 0], [0.0, -0.5]),
        ([10, 15, 20], [0, 1, 0], [0.0, 0.0, -0.5]),
        ([7, 7, 7], [1, 0, 1], [0.0, 0.0, 0.0]),
        ([10, 12.5, 20], [0.9, 1, 1], [0.0, 0.25, -0.5]),
    ],
)
def test_the_length_reward_is_that_of_the_paper(lengths: Any, right: Any, expected: list[float]) -> None:
    group = [answer(length) for length in lengths]
    found = LengthReward().of_group({}, group, {"verified": right}, progress=0.0)
    assert found == pytest.approx(expected)


def test_the_length_reward_waits_for_its_warm_up() -> None:
    reward, group = LengthReward(warmup=0.5), [answer(1), answer(2)]
    assert reward.of_group({}, group, {"verified": [1, 1]}, progress=0.4) == [0, 0]
    assert reward.of_group({}, group, {"verified": [1, 1]}, progress=0.5) == [0.5, -0.5]
    with pytest.raises(ConfigError, match="warmup is 1"):
        LengthReward(warmup=1)
    with pytest.raises(ConfigError, match="needs the reward 'verified'"):
        LengthReward().of_group({}, group, {}, progress=0.0)


def test_a_label_counts_alone() -> None:
    reward = ExactLabel()
    for text, value in (("cat", 1), ("CAT\n", 1), ("cat, dog", 0), ("a cat", 0), ("", 0)):
        assert reward({"answer": "Cat"}, text) == value
    for label in (None, "", 3):
        with pytest.raises(DataError, match="a row has the answer"):
            reward({"answer": label}, "cat")


def judge(rewards: Any, items: Any = (), rows: Any = PROMPTS) -> Judge:
    def decode(ids: Any) -> str:
        return "".join(map(chr, ids))

    return Judge(rewards, rows, items=items, decode=decode, ends=frozenset({0}), group=2)


def tasked(count: int) -> tuple[list[Any], list[Any]]:
    items = [evals.make_item(f"{n} + 1", str(n + 1), split="train") for n in range(count)]
    return items, [{"item": item.id} for item in items]


def test_scorers_give_one_for_a_right_answer_and_no_partial_credit() -> None:
    class Half(evals.ExactScorer):
        def score(self, item: Any, text: str) -> Any:
            return super().score(item, text).replace(value=0.9)

    items, rows = tasked(8)
    texts = ["Answer: 1", "Answer: 2", "Answer: 3", "3"]
    found = judge({"verified": Half(), "length": LengthReward()}, items, rows).values(
        ["0", "0", "2", "2"], [list(map(ord, text)) for text in texts], 0.0
    )
    assert found == {"verified": [1, 0, 1, 1], "length": [0, 0, -0.5, 0.5]}


def test_scorers_see_training_items_alone() -> None:
    items, rows = tasked(7)
    last = evals.make_item("7 + 1", "8", split="test")
    rows.append({"item": last.id})
    with pytest.raises(DataError, match="row 7 has the item"):
        judge({"verified": evals.ExactScorer()}, items, rows)
    with pytest.raises(LeakError, match="is of the split test"):
        judge({"verified": evals.ExactScorer()}, [*items, last], rows)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1"])
def test_rewards_that_are_no_numbers_are_refused(value: Any) -> None:
    with pytest.raises(TaskFailure, match="the reward 'r' gave"):
        judge({"r": lambda row, text: value}).values(["0", "0"], [[65], [66]], 0.0)


def test_a_reward_that_crashes_is_named() -> None:
    with pytest.raises(TaskFailure, match=r"the reward 'r' failed on an answer \(ZeroDivisionError"):
        judge({"r": lambda row, text: 1 / 0}).values(["0", "0"], [[65], [66]], 0.0)


# --- GRPO -------------------------------------------------------------------------------------------------


def sampled(built: Build, completions: list[list[int]]) -> Any:
    """What TRL makes of two groups of answers that were given it."""
    trainer: Any = built.trainer
    trainer._generate_single_turn = lambda *_, **__: (completions, None)
    rows = [{"prompt": "1"}, {"prompt": "1"}, {"prompt": "4"}, {"prompt": "4"}]
    return trainer._generate_and_score_completions(rows)


def test_prompts_and_answers_are_those_of_the_engine(tiny_model_dir: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def note(row: Any, text: str) -> float:
        seen.append(text)
        return float(len(seen))

    built, _ = build(tiny_model_dir, tmp_path, rewards={"note": note})
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    end = tokenizer.eos_token_id
    answers = [[*tokenizer(text, add_special_tokens=False).input_ids, end] for text in ("a", "bc", "ü", " d")]
    found = sampled(built, answers)
    for row, number in enumerate((1, 1, 4, 4)):
        ids = found["prompt_ids"][row][found["prompt_mask"][row].bool()].tolist()
        assert ids == prompt_ids(tokenizer, PROMPTS[number]["prompt"])
    assert seen == ["a", "bc", "ü", " d"]
    engine = _text_decoder(tokenizer, threading.Lock())
    assert [engine(ids) for ids in answers] == seen == [text_of(tokenizer)(ids) for ids in answers]


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_advantages_and_losses_are_those_of_the_papers(
    loss: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    rewards = iter([1.0, 0.0, 5.0, 2.0])
    built, model = build(
        tiny_model_dir, tmp_path, rewards={"given": lambda row, text: next(rewards)}, loss=loss
    )
    answers = [[70, 71, 72], [80], [75, 76], [90, 91, 92, 93]]
    inputs = sampled(built, answers)
    # Group by group, with the sample's standard deviation: (1 - 0.5) / sqrt(0.5), (5 - 3.5) / sqrt(4.5).
    half = math.sqrt(0.5)
    wanted = [0.5 / (half + 1e-4), -0.5 / (half + 1e-4)]
    wanted += [1.5 / (math.sqrt(4.5) + 1e-4), -1.5 / (math.sqrt(4.5) + 1e-4)]
    assert inputs["advantages"].tolist() == pytest.approx(wanted, rel=1e-5)
    trainer: Any = built.trainer
    trainer.current_gradient_accumulation_steps = 1
    # At old probabilities that differ from the current ones, so that ratios and clipping matter.
    old = torch.tensor([[0.1, -0.3, 0.0, 0.0], [0.05, 0, 0, 0], [-0.5, 0.2, 0, 0], [0.3, 0.1, -0.1, 0.4]])
    prompts = [prompt_ids(trainer.processing_class, PROMPTS[n]["prompt"]) for n in (1, 1, 4, 4)]
    logps = []
    model.eval()
    with torch.no_grad():
        for prompt, ids in zip(prompts, answers, strict=True):
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            logps.append(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0])
    padded = torch.stack([torch.nn.functional.pad(one, (0, 4 - len(one))) for one in logps])
    inputs["old_per_token_logps"] = padded - old
    model.train()
    found = trainer.compute_loss(model, inputs)
    sums = []
    for row, advantage in enumerate(wanted):
        ratio = old[row, : len(answers[row])].exp()
        sums.append(-torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
    if loss == "dapo":
        expected = torch.cat(sums).sum() / 10
    elif loss == "grpo":
        expected = torch.stack([one.mean() for one in sums]).mean()
    else:
        expected = torch.cat(sums).sum() / (4 * 5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_divergence_is_from_the_parent(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": "no"} for row in PROMPTS]
    parent = tmp_path / "sft"
    train(tiny_model_dir, rows, output=parent, config=QUICK, quiet=True)
    built, model = build(tiny_model_dir, tmp_path, beta=0.5, parent=parent)
    inputs = sampled(built, [[70, 71], [80], [75, 76], [90]])
    trainer: Any = built.trainer
    ours = trainer._get_per_token_logps_and_entropies
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    with torch.no_grad():
        now, _, _ = ours(model, ids, mask, 2)
        with model.disable_adapter():
            base, _, _ = ours(model, ids, mask, 2)
    torch.testing.assert_close(inputs["ref_per_token_logps"], now)
    assert (base - now).abs().max() > 0.1
    assert "ref" in model.peft_config
    built.close()
    assert list(model.peft_config) == ["default"]


def test_an_adapter_says_how_it_was_rewarded(tiny_model_dir: Path, tmp_path: Path) -> None:
    rewards: Any = {"noise": noise, "short": LengthReward(correct="noise")}
    options: dict[str, Any] = {
        "rewards": rewards,
        "weights": {"short": 0.5},
        "num_generations": 4,
        "max_completion_length": 5,
        "beta": 0.1,
        "config": QUICK,
        "quiet": True,
    }
    adapter = train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "a", **options)
    method = adapter.manifest["method"]
    assert method["name"] == "grpo"
    assert method["rewards"]["short"] == {
        "function": "LengthReward",
        "correct": "noise",
        "warmup": 0.0,
        "weight": 0.5,
    }
    assert {"reward", "kl", "frac_reward_zero_std", "rewards/noise/mean", "rewards/short/mean"} <= set(
        adapter.metrics
    )
    assert sorted(path.name for path in adapter.path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    same = train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "b", **options)
    other = train_grpo(
        tiny_model_dir, PROMPTS, output=tmp_path / "c", **{**options, "config": QUICK.replace(seed=1)}
    )
    assert adapter.sha256 == same.sha256 != other.sha256


@pytest.mark.parametrize("steps_per_generation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_interrupted_training_goes_on_where_it_samples_bit_for_bit(
    steps_per_generation: int, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "rewards": {"noise": noise},
        "num_generations": 2,
        "max_completion_length": 5,
        "steps_per_generation": steps_per_generation,
        "config": QUICK.replace(
            save_steps=1, save_total_limit=9, per_device_train_batch_size=2, gradient_accumulation_steps=2
        ),
        "quiet": True,
    }
    whole = train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "whole", **options)
    compute = trainers.DurableGRPO.compute_loss

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainers.DurableGRPO, "compute_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "a", **options)
    kept = [path.name for path in (tmp_path / "a.checkpoints").iterdir() if path.is_dir()]
    assert len(kept) == {1: 3, 2: 1}[steps_per_generation], kept
    resumed = train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "a", resume=True, **options)
    assert resumed.sha256 == whole.sha256
    assert resumed.losses == whole.losses


def test_what_was_measured_survives_a_kill_after_the_last_step(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps are made and nothing is trained any more: the metrics come from the checkpoint."""
    options: dict[str, Any] = {
        "rewards": {"noise": noise},
        "num_generations": 4,
        "max_completion_length": 5,
        "config": QUICK.replace(save_steps=1),
        "quiet": True,
    }

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    whole = train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(_job, "save_peft", killed)
        with pytest.raises(KeyboardInterrupt):
            train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "a", **options)
    resumed = train_grpo(tiny_model_dir, PROMPTS, output=tmp_path / "a", resume=True, **options)
    assert resumed.sha256 == whole.sha256
    apart = ("seconds", "peak_memory_gb")
    one, other = (
        {key: run.metrics[key] for key in run.metrics if key not in apart} for run in (whole, resumed)
    )
    assert one == other
    assert "rewards/noise/mean" in one


class Lenient(evals.ExactScorer):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share


def test_a_training_goes_on_with_the_same_scorer_and_answers_alone(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, rows = tasked(8)
    prompts = [{**prompt, **row} for prompt, row in zip(PROMPTS, rows, strict=True)]
    changed = [replace(item, gold=Gold("99")) for item in items]

    def trained(scorer: evals.ExactScorer, items: Any, **options: Any) -> Adapter:
        return train_grpo(
            tiny_model_dir,
            prompts,
            rewards={"noise": noise, "verified": scorer},
            items=items,
            output=tmp_path / "a",
            num_generations=4,
            max_completion_length=5,
            config=QUICK.replace(max_steps=1, save_steps=1),
            quiet=True,
            **options,
        )

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_job, "save_peft", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(Lenient(0.1), items)
    for scorer, gold, other in (
        (Lenient(0.1), changed, "another method.key"),
        (Lenient(0.2), items, r"method.rewards.verified.share \(0.1, now 0.2\)"),
        (evals.ExactScorer(ignore_case=True), items, "method.rewards.verified.ignore_case"),
    ):
        with pytest.raises(ResumeError, match=other):
            trained(scorer, gold, resume=True)
    assert trained(Lenient(0.1), reversed(items), resume=True).metrics["steps"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_generations": 1}, "num_generations is 1"),
        ({"rewards": {}}, "rewards is"),
        ({"rewards": {"a": 3}}, "the reward 'a' is 3"),
        ({"rewards": {"a": LengthReward}}, "the reward 'a' is"),
        ({"weights": {"b": 1}}, "the weight of reward 'b'"),
        ({"weights": {"noise": 0}}, "every reward has the weight 0"),
        ({"beta": -1}, "beta is -1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"loss": "ppo"}, "dapo, grpo, dr_grpo"),
        ({"max_completion_length": 0}, "max_completion_length is 0"),
    ],
)
def test_settings_out_of_range_are_one_line(options: Any, words: str, tmp_path: Path) -> None:
    given = {"rewards": {"noise": noise}, "output": tmp_path / "a", "config": QUICK, **options}
    with pytest.raises(ConfigError, match=words):
        train_grpo("none", PROMPTS, **given)


@pytest.mark.parametrize(
    ("rows", "options", "error", "words"),
    [
        (PROMPTS, {"num_generations": 3}, ConfigError, "multiple of it.*per_device_train_batch_size=3"),
        (PROMPTS[:1], {"num_generations": 2}, DataError, "there are 1 prompts, and a step takes 2"),
        ([{"text": "a"}], {}, DataError, "row 0 of the dataset has no prompt"),
        (PROMPTS, {"max_completion_length": 5000}, DataError, "none of 8 prompts leaves room"),
    ],
)
def test_prompts_that_make_no_groups_are_one_line(
    rows: Any, options: Any, error: Any, words: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    given = {"num_generations": 2, "max_completion_length": 5, "config": QUICK, "quiet": True, **options}
    with pytest.raises(error, match=words):
        train_grpo(tiny_model_dir, rows, rewards={"noise": noise}, output=tmp_path / "a", **given)
