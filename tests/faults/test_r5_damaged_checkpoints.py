"""R5: A damaged checkpoint is named and the one before is used; the training ends as if nothing had happened.

Each file of the newest of two checkpoints is deleted, halved, emptied, and flipped in one bit. Resuming
says in one line which file it is and what is wrong, goes on from the older checkpoint, and ends with the
weights and losses of the undisturbed training. If all checkpoints are damaged it says so and starts afresh.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_trainings import docendo_training, other_training

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 reads a property that transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),  # the base was made here
]

SHAPE: dict[str, Any] = {"steps": 8, "save_steps": 3, "dropout": 0.3, "noisy": True}


def damages(data: bytes, flips: int, seed: int) -> Iterator[tuple[str, bytes | None]]:
    """Yields what can become of a file; None: it is gone."""
    yield "deleted", None
    yield "halved", data[: len(data) // 2]
    yield "emptied", b""
    draws = random.Random(seed)
    for _ in range(flips):
        copy = bytearray(data)
        copy[draws.randrange(len(copy))] ^= 1 << draws.randrange(8)
        yield "flipped", bytes(copy)


def damaged(source: Path, target: Path, newest: str, flips: int) -> Iterator[tuple[str, str]]:
    """Copies a folder again and again, one file of its newest checkpoint damaged."""
    for number, file in enumerate(sorted(path for path in (source / newest).rglob("*") if path.is_file())):
        for kind, data in damages(file.read_bytes(), flips, number):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
            copy = target / file.relative_to(source)
            copy.unlink()
            if data is not None:
                copy.write_bytes(data)
            yield kind, file.name


class Cut(Exception):
    """Ends a training where a kill would."""


def cut_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    real = Trainer.training_step

    def training_step(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == step:
            raise Cut
        return real(self, *args, **options)

    monkeypatch.setattr(Trainer, "training_step", training_step)


@pytest.fixture(scope="module")
def whole(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return docendo_training(tiny_model_dir, tmp_path_factory.mktemp("whole"), **SHAPE)


@pytest.fixture(scope="module")
def interrupted(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the steps 3 and 6."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        cut_after(7, patch)
        with pytest.raises(Cut):
            docendo_training(tiny_model_dir, folder, **SHAPE)
    return folder


def test_the_checkpoint_before_is_used(
    bar: Any,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    whole: Any,
    interrupted: Path,
) -> None:
    failed, kinds, flips = [], Counter[str](), bar.size(10, short=1)
    copy = tmp_path / "copy"
    newest = "adapter.checkpoints/checkpoint-6"
    for number, (kind, name) in enumerate(damaged(interrupted, copy, newest, flips)):
        if not bar.full and number % 3:  # six files and four kinds: every kind and every file has its turn
            continue
        kinds[kind] += 1
        problem = problem_of(lambda: docendo_training(tiny_model_dir, copy, **SHAPE), whole)
        said = capsys.readouterr().err
        if not re.search(rf"Damaged checkpoint: .*{re.escape(name)} .*; trying the one of step 3\.\n", said):
            problem = problem or f"says {said!r}"
        if problem:
            failed.append(f"{name} {kind}: {problem}")
    bar.part(
        "each file of the newest checkpoint",
        cases=kinds.total(),
        failed=failed,
        needed=bar.size(78, short=8),
        reached=dict(kinds),
    )


def problem_of(resume: Callable[[], Any], whole: Any) -> str:
    try:
        found = resume()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if found == whole else "ends otherwise without a word"


def test_all_checkpoints_damaged(
    bar: Any,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    whole: Any,
    interrupted: Path,
) -> None:
    failed = []
    for name in ("manifest.json", "weights.safetensors"):
        copy = tmp_path / name
        shutil.copytree(interrupted, copy)
        for step in (3, 6):
            (copy / "adapter.checkpoints" / f"checkpoint-{step}" / name).write_bytes(b"")
        problem = problem_of(lambda at=copy: docendo_training(tiny_model_dir, at, **SHAPE), whole)
        said = capsys.readouterr().err
        if said.count("Damaged checkpoint") != 2 or "none is left: starting afresh" not in said:
            problem = problem or f"says {said!r}"
        if problem:
            failed.append(f"{name}: {problem}")
    bar.part("all checkpoints", cases=2, failed=failed)


def test_the_bar_catches_checkpoints_that_are_not_verified(
    bar: Any,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Any,
    interrupted: Path,
) -> None:
    from docendo.distill.training import _checkpoints

    read = _checkpoints.read_manifest
    monkeypatch.setattr(_checkpoints, "read_manifest", lambda path: read(path, verify=False))
    failed, cases = [], 0
    newest = "adapter.checkpoints/checkpoint-6"
    for kind, name in damaged(interrupted, tmp_path / "copy", newest, 1):
        if name != "weights.safetensors":
            continue
        cases += 1
        problem = problem_of(lambda: docendo_training(tiny_model_dir, tmp_path / "copy", **SHAPE), whole)
        if problem:
            failed.append(f"{name} {kind}: {problem}")
    bar.broken("checkpoints used without comparing their files with the manifest", cases=cases, failed=failed)


@pytest.mark.parametrize(
    ("library", "name"), [("transformers", "transformers' Trainer"), ("trl", "TRL's SFTTrainer")]
)
@pytest.mark.filterwarnings("ignore")
def test_anchor(
    bar: Any,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    name: str,
) -> None:
    if not bar.full:
        pytest.skip("the anchors belong to the long form")
    shape = {**SHAPE, "noisy": False}
    (tmp_path / "whole").mkdir()
    expected = other_training(library, tiny_model_dir, tmp_path / "whole", **shape)
    with monkeypatch.context() as patch:
        cut_after(7, patch)
        with pytest.raises(Cut):
            other_training(library, tiny_model_dir, tmp_path / "interrupted", **shape)
    outcomes, failed, copy = Counter[str](), [], tmp_path / "copy"
    for kind, file in damaged(tmp_path / "interrupted", copy, "checkpoints/checkpoint-6", 3):
        try:
            found = other_training(library, tiny_model_dir, copy, **shape)
            outcome = "the same weights" if found == expected else "other weights without a word"
        except Exception as error:
            outcome = "errors"
            failed.append(f"{file} {kind}: {type(error).__name__}")
        else:
            failed += [] if found == expected else [f"{file} {kind}: {outcome}"]
        outcomes[outcome] += 1
    bar.anchor(
        f"{name}, a file of its newest checkpoint damaged, resumed",
        cases=outcomes.total(),
        failed=failed,
        note="errors though an older checkpoint is intact, or other weights without a word",
        outcomes=dict(sorted(outcomes.items())),
    )
