"""R2: A killed LoRA training resumes and ends with the adapter of one that nobody disturbed, bit for bit.

A training of 60 steps is killed with SIGKILL at random moments and at every named point (in a step; in a
save before, after and half-way through each file, sync, rename, check and removal; in the publication), up
to twice, and resumed each time. The SHA-256 of the weights and the manifest, losses included and times left
out, have to be those of the undisturbed training. Half of the trainings have dropout, half draw random
numbers while they read their data, and most kills are in the middle of an epoch.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fault_forks import Order, Points, Ready, Server, serving, visits

pytestmark = pytest.mark.slow

STEPS, SAVE, KILLS = 60, 7, 2


# --- in the process that is killed ------------------------------------------------------------------


def works(model: str) -> dict[str, Callable[[Order, Ready], object]]:
    import peft
    import trl
    from datasets import Dataset
    from fault_trainings import docendo_training

    _ = peft, trl.SFTTrainer, Dataset, docendo_training
    return {
        "docendo": lambda order, ready: learn(Path(model), order, ready),
        "transformers": lambda order, ready: learn_otherwise("transformers", Path(model), order, ready),
        "trl": lambda order, ready: learn_otherwise("trl", Path(model), order, ready),
    }


def learn(model: Path, order: Order, ready: Ready) -> None:
    from fault_trainings import docendo_training

    name_points(Points(Path(order["folder"]) / "points.log", order.get("point")))
    if order["broken"]:
        BROKEN[order["broken"]]()
    ready()
    result = docendo_training(model, Path(order["folder"]), **shape(order))
    (Path(order["folder"]) / "result.json").write_text(json.dumps(result))


def shape(order: Mapping[str, Any]) -> dict[str, Any]:
    dropout, noisy = order["variant"]
    return {"steps": STEPS, "save_steps": SAVE, "dropout": dropout, "noisy": noisy}


def name_points(points: Points) -> None:
    """Puts the named points around all that a training does and writes."""
    from docendo.distill import ObjectiveTrainer
    from docendo.distill.training import _checkpoints, _durable, _job

    points.around(ObjectiveTrainer, "training_step", "a pass of a step")
    points.around(_durable.DurableTrainer, "_save_checkpoint", "a save")
    points.around(_durable, "write_state", "a state's files")
    points.around(_durable, "write_json", "the trainer's state")
    points.around(_checkpoints, "write_manifest", "a manifest")
    points.around(_checkpoints, "read_manifest", "a check")
    points.around(_job, "save_peft", "the adapter's weights")
    points.around(_job, "write_manifest", "the adapter's manifest")
    points.around(os, "fsync", "a sync")
    points.around(os, "rename", "a rename")
    points.around(shutil, "rmtree", "a removal")
    halve(points, _checkpoints, "save_file", 1)


def halve(points: Points, owner: Any, attribute: str, argument: int) -> None:
    """A point where half of a file is there."""
    write = getattr(owner, attribute)

    def halved(*args: Any, **options: Any) -> Any:
        result, path = write(*args, **options), Path(args[argument])
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        points.at("half-way through a file")
        path.write_bytes(whole)
        return result

    setattr(owner, attribute, halved)


def manifest_first() -> None:
    """The manifest first, in the folder's place, and the newest folder by its name."""
    from docendo.distill.training import _checkpoints

    def save(self: Any, step: int, write: Any, *, seconds: float) -> None:
        path = self._path(step)
        path.mkdir(exist_ok=True)
        (path / "manifest.json").write_text(json.dumps({"seconds": seconds}))
        write(path)

    def newest(self: Any) -> Any:
        found = [_checkpoints.Checkpoint(path=self._path(n), step=n, seconds=0.0) for n in self.steps()]
        return found[0] if found else None

    _checkpoints.Checkpoints.save = save  # type: ignore[method-assign]
    _checkpoints.Checkpoints.newest = newest  # type: ignore[method-assign]


def no_seeds() -> None:
    """The generators run on from step to step."""
    from docendo.distill.training import _durable

    _durable.reseed = lambda *place: None


BROKEN = {"manifest": manifest_first, "seeds": no_seeds}


def learn_otherwise(library: str, model: Path, order: Order, ready: Ready) -> None:
    """The same on `transformers.Trainer` or TRL's `SFTTrainer`, with the points of their saves."""
    import torch
    from fault_trainings import other_training
    from peft import PeftModel
    from transformers import Trainer, TrainerState

    points = Points(Path(order["folder"]) / "points.log", order.get("point"))
    points.around(Trainer, "training_step", "a pass of a step")
    points.around(PeftModel, "save_pretrained", "the weights")
    points.around(torch, "save", "a state's file")
    points.around(TrainerState, "save_to_json", "the trainer's state")
    halve(points, torch, "save", 1)
    ready()
    result = other_training(library, model, Path(order["folder"]), **shape(order))
    (Path(order["folder"]) / "result.json").write_text(json.dumps(result))


# --- killing ----------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of the trainings that were killed."""

    runs: int = 0
    problems: list[str] = field(default_factory=list)
    moments: int = 0
    points: Counter[str] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def reached(self) -> dict[str, int]:
        return {
            "kills at random moments": self.moments,
            "kills at named points": self.points.total(),
            "different points": len(self.points),
        }


def hammer(
    server: Server,
    work: str,
    tmp_path: Path,
    *,
    runs: int,
    variants: Sequence[tuple[float, bool]],
    only: Sequence[str] = (),
    broken: str = "",
    seed: int = 0,
) -> Tally:
    """Kills and resumes so many trainings; kills at random moments and at named points take turns."""
    rng, tally = random.Random(seed), Tally(runs=runs)
    whole = []
    for number, variant in enumerate(variants):
        folder = made(tmp_path / f"whole-{number}")
        order = {"folder": str(folder), "variant": variant, "broken": broken}
        seconds = server.run(work, fine=(0,), **order).seconds
        whole.append((variant, seconds, json.loads((folder / "result.json").read_text())))
    found, _ = visits(tmp_path / "whole-0" / "points.log")
    tally.known = set(found)
    names, tried = sorted(only or found), Counter[str]()
    for number in range(runs):
        variant, seconds, expected = whole[number % len(variants)]
        folder = made(tmp_path / f"run-{number}")
        kills = rng.randint(1, KILLS)
        for attempt in range(kills + 1):
            order = {"folder": str(folder), "variant": variant, "broken": broken}
            if attempt < kills and (only or (number // len(variants) + attempt) % 3):
                name = min(names, key=lambda each: (tally.points[each], tried[each], each))
                tried[name] += 1
                order["point"] = (name, rng.randint(1, max(1, found[name] // (attempt + 1))))
            elif attempt < kills:
                order["kill_after"] = rng.uniform(0, seconds)
            ended = server.run(work, fine=(0, 1, -9), **order)
            if ended.killed and "point" in order:
                tally.points[order["point"][0]] += 1
            elif ended.killed:
                tally.moments += 1
            else:
                break
        outcome = judge(folder, expected, ended.status)
        tally.outcomes[outcome] += 1
        if outcome != "the same":
            tally.problems.append(f"training {number}, {variant}, last {order.get('point')}: {outcome}")
        shutil.rmtree(folder)
    return tally


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def judge(folder: Path, expected: Any, status: int) -> str:
    if status:
        return "cannot be resumed"
    found = json.loads((folder / "result.json").read_text())
    if isinstance(found, str):  # of another trainer: its weights
        return "the same" if found == expected else "other weights"
    if (folder / "adapter.checkpoints").exists():
        return "checkpoints are left"
    if found["weights"] != expected["weights"]:
        return "other weights"
    return "the same" if found == expected else "another manifest"


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path) -> Iterator[Server]:
    with serving(__file__, str(tiny_model_dir)) as found:
        yield found


def test_a_killed_training_ends_like_an_undisturbed_one(bar: Any, server: Server, tmp_path: Path) -> None:
    from fault_trainings import VARIANTS

    runs = bar.size(60, short=4)
    variants = VARIANTS if bar.full else VARIANTS[:1]
    tally = hammer(server, "docendo", tmp_path, runs=runs, variants=variants)
    problems, reached = tally.problems, {"kills": tally.moments + tally.points.total()}
    if bar.full:  # the short form has too few kills for all of them
        problems = problems + [f"nothing died {name}" for name in sorted(tally.known - set(tally.points))]
        reached = tally.reached
    bar.part(
        "trainings of 60 steps, with dropout, random data, both, neither",
        cases=runs,
        failed=problems,
        needed=runs,
        reached=reached,
        points=dict(sorted(tally.points.items())),
    )


@pytest.mark.parametrize(
    ("broken", "name", "only"),
    [
        (
            "manifest",
            "the manifest written first, the newest checkpoint taken by its name",
            "half-way through a file",
        ),
        ("seeds", "generators that run on from step to step", "after a save"),
    ],
)
def test_the_bar_catches(bar: Any, server: Server, tmp_path: Path, broken: str, name: str, only: str) -> None:
    from fault_trainings import VARIANTS

    runs = bar.size(5, short=1)
    tally = hammer(server, "docendo", tmp_path, runs=runs, variants=VARIANTS[:1], only=[only], broken=broken)
    bar.broken(name, cases=runs, failed=tally.problems, reached={"kills": tally.points.total()})


@pytest.mark.parametrize(
    ("library", "name"), [("transformers", "transformers' Trainer"), ("trl", "TRL's SFTTrainer")]
)
def test_anchor(bar: Any, server: Server, tmp_path: Path, library: str, name: str) -> None:
    from fault_trainings import VARIANTS

    if not bar.full:
        pytest.skip("the anchors belong to the long form")
    tally = hammer(server, library, tmp_path, runs=30, variants=VARIANTS, seed=1)
    bar.anchor(
        f"{name}, killed the same way, resumed from its newest checkpoint",
        cases=tally.runs,
        failed=tally.problems,
        note="trainings that cannot be resumed, or end with other weights",
        reached=tally.reached,
        outcomes=dict(sorted(tally.outcomes.items())),
    )
