"""Checkpoints of trainings: what is stored, what is refused, how they are resumed. All on a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments

from docendo.distill import Adapter, TrainConfig, train
from docendo.distill.training import _durable
from docendo.distill.training._arguments import arguments
from docendo.distill.training._checkpoints import Checkpoints, differences, read_state, write_state
from docendo.distill.training._durable import DurableTrainer
from docendo.errors import ConfigError, IntegrityError, ResumeError, StorageError

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ROWS = [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(7)]
QUICK = TrainConfig(
    max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, lora_r=4, dtype="float32", save_steps=1
)


def files(folder: Path) -> Any:
    return lambda at: (at / "a.txt").write_text(f"written into {folder.name}")


# --- what is stored -----------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
states = st.recursive(
    plain | st.lists(st.floats(width=32), max_size=4).map(torch.tensor),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.view(torch.int32), other.view(torch.int32))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@settings(max_examples=60, deadline=None)
@given(states)
def test_states_come_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    folder = tmp_path_factory.mktemp("state")
    write_state(folder, "state", state)
    assert same(read_state(folder, "state"), state)


def test_a_state_holds_infinity_and_tensors_that_share_memory(tmp_path: Path) -> None:
    tensor = torch.arange(4.0)
    write_state(tmp_path, "state", {"a": tensor, "b": tensor[1:], "c": (float("inf"), [float("-inf")])})
    found = read_state(tmp_path, "state")
    assert found["b"].tolist() == [1.0, 2.0, 3.0]
    assert found["c"] == (float("inf"), [float("-inf")])


def test_a_state_refuses_what_only_pickle_could_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"state\.optimizer\.1 is a set, .* set save_steps=0"):
        write_state(tmp_path, "state", {"optimizer": [1, {2}]})


def test_a_state_of_another_form_is_an_error(tmp_path: Path) -> None:
    write_state(tmp_path, "state", {"a": 1})
    (tmp_path / "state.json").write_text('{"reduce": ["os.system", "true"]}')
    with pytest.raises(IntegrityError, match="state cannot be read"):
        read_state(tmp_path, "state")


# --- folders ------------------------------------------------------------------------------------------


def test_the_newest_are_kept_and_what_a_dead_process_left_half_is_cleared(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "x.checkpoints", {"seed": 0}, keep=2)
    kept.folder.mkdir()
    (kept.folder / ".checkpoint-9.half").mkdir()
    with kept.held():
        for step in (1, 2, 10):
            kept.save(step, files(tmp_path), seconds=step / 2)
        assert sorted(os.listdir(kept.folder)) == [".lock", "checkpoint-10", "checkpoint-2"]
        found = kept.newest()
        assert found is not None
        assert (found.step, found.seconds, (found.path / "a.txt").exists()) == (10, 5.0, True)


def test_damaged_ones_ahead_go_and_the_good_one_behind_stays(tmp_path: Path) -> None:
    said: list[str] = []
    kept = Checkpoints(tmp_path / "x", {}, keep=2, tell=said.append)
    for step in (3, 6):
        kept.save(step, files(tmp_path), seconds=0.0)
    (kept.folder / "checkpoint-6" / "a.txt").write_text("other")
    found = kept.newest()
    assert found is not None
    assert found.step == 3
    assert len(said) == 1
    assert "checkpoint-6/a.txt does not match the manifest's SHA-256; trying the one of step 3." in said[0]
    kept.save(4, files(tmp_path), seconds=0.0)
    assert kept.steps() == [4, 3]


def test_a_checkpoint_that_cannot_be_read_back_removes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path / "x", {}, keep=1)
    kept.save(1, files(tmp_path), seconds=0.0)

    def torn(folder: Path) -> Any:
        raise IntegrityError("it is torn")

    with monkeypatch.context() as patch:
        patch.setattr("docendo.distill.training._checkpoints.read_manifest", torn)
        with pytest.raises(IntegrityError):
            kept.save(2, files(tmp_path), seconds=0.0)
    assert 1 in kept.steps()


def test_an_empty_folder_is_removed_and_a_held_one_is_refused_to_others(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "x", {})
    with (
        kept.held(),
        pytest.raises(StorageError, match="another process trains into it"),
        Checkpoints(tmp_path / "x", {}).held(),
    ):
        pass
    assert not kept.folder.exists()


def test_differences_are_named_with_short_values() -> None:
    kept = {"config": {"seed": 0, "same": 1}, "data": "a" * 64}
    assert differences(kept, {"config": {"seed": 1, "same": 1}, "data": "b" * 64}) == [
        "config.seed (0, now 1)",
        "data",
    ]


# --- trainings ----------------------------------------------------------------------------------------


class Cut(Exception):
    """Ends a training where a kill would."""


def cut(monkeypatch: pytest.MonkeyPatch, *, after: int, error: BaseException) -> None:
    real = Trainer.training_step

    def training_step(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == after:
            raise error
        return real(self, *args, **options)

    monkeypatch.setattr(Trainer, "training_step", training_step)


@pytest.fixture(scope="module")
def interrupted(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output whose training was cut in step 4, with checkpoints of the steps 2 and 3."""
    output = tmp_path_factory.mktemp("interrupted") / "adapter"
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, after=3, error=Cut())
        with pytest.raises(Cut):
            train(tiny_model_dir, ROWS, output=output, config=QUICK, quiet=True)
    return output


def test_what_lies_there_is_neither_dropped_nor_mixed(tiny_model_dir: Path, interrupted: Path) -> None:
    with pytest.raises(ResumeError, match=r"adapter\.checkpoints holds step 3 .* resume=True"):
        train(tiny_model_dir, ROWS, output=interrupted, config=QUICK, quiet=True)
    other = QUICK.replace(learning_rate=1e-3)
    with pytest.raises(ResumeError, match=r"another config\.learning_rate \(0\.01, now 0\.001\)"):
        train(tiny_model_dir, ROWS, output=interrupted, config=other, resume=True, quiet=True)
    with pytest.raises(ResumeError, match="another data"):
        train(tiny_model_dir, ROWS[1:], output=interrupted, config=QUICK, resume=True, quiet=True)
    assert sorted(path.name for path in interrupted.parent.iterdir()) == ["adapter.checkpoints"]


def test_a_training_goes_on_whenever_it_saves(
    tiny_model_dir: Path, interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tiny_model_dir, ROWS, output=tmp_path / "whole", config=QUICK, quiet=True)
    rare = QUICK.replace(save_steps=0, save_total_limit=1)
    resumed = train(tiny_model_dir, ROWS, output=interrupted, config=rare, resume=True)
    assert resumed.sha256 == whole.sha256
    assert resumed.losses == whole.losses
    assert not interrupted.with_name("adapter.checkpoints").exists()
    assert "train adapter: 3/4  0 s  resumed" in capsys.readouterr().err
    again = train(tiny_model_dir, ROWS, output=interrupted, config=QUICK, resume=True, quiet=True)
    assert again.manifest == resumed.manifest


def test_a_training_whose_steps_are_all_made_is_only_published(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_model_dir, ROWS, output=tmp_path / "whole", config=QUICK, quiet=True)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("docendo.distill.training._job.save_peft", full)
        with pytest.raises(StorageError):
            train(tiny_model_dir, ROWS, output=tmp_path / "late", config=QUICK, quiet=True)
    cut(monkeypatch, after=4, error=AssertionError("a fifth step"))
    late = train(tiny_model_dir, ROWS, output=tmp_path / "late", config=QUICK, resume=True, quiet=True)
    assert (late.sha256, late.losses) == (whole.sha256, whole.losses)


def test_ctrl_c_says_how_to_go_on(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut(monkeypatch, after=2, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, quiet=True)
    assert "Interrupted after step 2 of 4. The same call with resume=True goes on from step 2." in (
        capsys.readouterr().err
    )
    assert sorted(os.listdir(tmp_path / "a.checkpoints")) == [".lock", "checkpoint-1", "checkpoint-2"]


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_durable, "write_state", full)
    adapter = train(tiny_model_dir, ROWS, output=tmp_path / "a", config=QUICK, quiet=True)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[0].startswith("No checkpoint of step 1: cannot write ")
    assert [path.name for path in tmp_path.iterdir()] == [adapter.path.name]


class Draws(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows that are drawn when they are read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return {"x": torch.rand(3), "labels": torch.tensor([float(index)])}


class Line(torch.nn.Module):
    """A regression with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line, self.dropout = torch.nn.Linear(3, 1), torch.nn.Dropout(0.5)

    def forward(self, x: Any, labels: Any) -> Any:
        return {"loss": (self.line(self.dropout(x)) - labels).square().mean()}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_any_trainer_goes_on_in_the_middle_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """With Transformers' own loader, which shuffles and reads ahead, be it in a process of its own."""

    class Plain(DurableTrainer, Trainer):
        pass

    def trainer(folder: str) -> tuple[Any, Any]:
        config = QUICK.replace(max_steps=7, arguments={"dataloader_num_workers": workers})
        options = arguments(config, 7, str(tmp_path / folder))
        made = Plain(Line(), TrainingArguments(**options), train_dataset=Draws())
        kept = Checkpoints(tmp_path / f"{folder}.checkpoints", {})
        made.keep_checkpoints(kept, steps=3, seconds=0.0)
        return made, kept

    whole, _ = trainer("whole")
    whole.go_on(None)
    with monkeypatch.context() as patch:
        cut(patch, after=6, error=Cut())
        with pytest.raises(Cut):
            trainer("cut")[0].go_on(None)
    resumed, kept = trainer("cut")
    found = kept.newest()
    assert found is not None
    assert found.step == 6
    resumed.go_on(found)
    assert torch.equal(resumed.model.line.weight, whole.model.line.weight)
    losses = [
        [entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 7


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_arguments", "message"),
    [
        ({"learning_rate": 1.0}, r"arguments\.learning_rate is set by docendo; use learning_rate"),
        ({"output_dir": "x"}, r"arguments\.output_dir is set by docendo; use train\(output"),
        ({"logging_steps": 5}, r"arguments\.logging_steps is set by docendo; leave it out"),
        ({"bf16": {1}}, r"arguments\.bf16 is \{1\}"),
        (5, "arguments is 5"),
    ],
)
def test_arguments_that_are_docendos_own_are_refused(given_arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(arguments=given_arguments)


def test_further_arguments_pass_through(tmp_path: Path) -> None:
    further = {"bf16": True, "gradient_checkpointing": True, "fsdp": "full_shard", "adam_beta2": 0.95}
    found = arguments(TrainConfig(arguments=further), 3, str(tmp_path))
    assert found.items() >= further.items()
    assert "activation_checkpointing" not in found
    with pytest.raises(ConfigError, match=r"arguments\.adam_beta is no argument .* did you mean adam_beta"):
        arguments(TrainConfig(arguments={"adam_beta": 0.9}), 3, str(tmp_path))


def test_without_an_accelerator_processors_are_used(tmp_path: Path) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    found = arguments(TrainConfig(), 3, str(tmp_path))
    assert (found["use_cpu"], found["bf16"], found["activation_checkpointing"]) == (True, False, False)


def test_when_to_save_is_no_part_of_what_a_training_is() -> None:
    other = TrainConfig(save_steps=5, save_seconds=1, save_total_limit=3, arguments={"report_to": "none"})
    assert other.identity() == TrainConfig().identity()
    assert TrainConfig(arguments={"optim": "sgd"}).identity() != TrainConfig().identity()


SCRIPT = """
import sys
from docendo.distill import TrainConfig, train

rows = [
    {"prompt": f"{a} + {b} =", "completion": f" {a + b}", "weight": 1.0 + a % 2}
    for a in range(3) for b in range(7)
]
config = TrainConfig(
    num_train_epochs=2, per_device_train_batch_size=int(sys.argv[3]), learning_rate=1e-2, lora_r=4,
    dtype="float32", save_steps=2,
)
train(sys.argv[1], rows, output=sys.argv[2], config=config)
"""


@pytest.mark.slow
def test_two_processes_train_like_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    """21 examples: 2 processes of 5 are 1 of 10, and in the last step of an epoch one has nothing to do."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = {}
    for name, command, size in (("one", [sys.executable], 10), ("two", launch, 5)):
        ended = subprocess.run(
            [*command, str(script), str(tiny_model_dir), str(tmp_path / name), str(size)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        said[name] = [line for line in ended.stderr.splitlines() if line.startswith(f"train {name}: 6/6")]
    one, two = (Adapter.open(tmp_path / name) for name in ("one", "two"))
    assert len(one.losses) == 6
    assert [loss for _, loss in two.losses] == pytest.approx([loss for _, loss in one.losses], rel=1e-5)
    assert two.metrics["delta_norm"] == pytest.approx(one.metrics["delta_norm"], rel=1e-3)
    assert len(said["one"]) == len(said["two"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "script.py", "two"]
