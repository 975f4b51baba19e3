"""D2: does a smaller student learn more from a trained teacher's distribution than from its text?

The teacher is the model with an adapter trained on solved sums; the student is the model without eight of its
deeper layers. Both arms learn from the same answers of the teacher, with the same rows, order and steps: one
from the text (supervised), one from the teacher's distribution at each token, stored once. In the control
the distributions belong to other tokens of the same answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import Options
from _learning import answered, compared, config, examined, mean, study, sums
from _study import Study
from transformers import AutoModelForCausalLM, AutoTokenizer

from docendo.agents import Engine, Student, models
from docendo.distill import KL, CrossEntropy, StoredTeacher, store_teacher, train
from docendo.evals import EvalResult
from docendo.hashing import derive_seed
from docendo.records import PublicItem

SEEDS = (0, 1, 2, 3, 4)
DROPPED = slice(20, 28)
"""Of 30 layers: deep ones, but not the last, are missed least (arXiv 2403.17887)."""


class Shuffled(StoredTeacher):
    """A stored teacher whose distributions belong to other tokens of the same answer."""

    def columns(self, example: Any) -> dict[str, Any]:
        """What it says, out of order."""
        found = super().columns(example)
        order = np.random.default_rng(derive_seed(list(example.completion)) % 2**32).permutation(
            len(example.completion)
        )
        return {name: np.ascontiguousarray(column[order]) for name, column in found.items()}


def measure(options: Options) -> Study:
    """For each seed another training of the student; teacher, answers and questions are the same."""
    asked, questions = options.size(400, 12), options.size(300, 8)
    steps, seeds = options.size(60, 2), SEEDS[: options.size(5, 2)]
    task = sums(train=asked, test=questions, seed=12)
    facts: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small = smaller(options.model, folder / "small")
        with Engine.load(options.model) as engine:
            student = Student(engine)
            solved = [
                {
                    "prompt": list(student.messages(PublicItem(id=example.item, question=example.question))),
                    "completion": [{"role": "assistant", "content": example.answer}],
                    "item": example.item,
                }
                for example in task.examples(asked, steps=False)
            ]
            with engine.paused():
                taught = train(
                    options.model,
                    solved,
                    output=folder / "teacher",
                    config=config(options.size(75, 2), 0),
                    quiet=True,
                )
            best = examined(engine, taught, task, "teacher")
            rows = answered(
                engine,
                task,
                task.train,
                agent=student.with_adapter("learnt"),
                samples=2,
                temperature=1.0,
                seed=0,
            )
        stored = store_teacher(
            options.model, rows, output=folder / "stored", adapter=taught.path, top=options.size(64, 4)
        )
        astray = Shuffled(**{name: getattr(stored, name) for name in stored.__dataclass_fields__})
        kinds: dict[str, dict[str, Any]] = {
            "text": {"objective": CrossEntropy()},
            "distribution": {"objective": KL(), "teacher": stored},
            "distribution, shuffled": {"objective": KL(), "teacher": astray},
        }
        with Engine.load(str(small)) as engine:

            def arm(name: str) -> Any:
                def once(seed: int) -> EvalResult:
                    with engine.paused():
                        adapter = train(
                            small,
                            rows,
                            output=folder / f"{name}-{seed}",
                            config=config(steps, seed),
                            quiet=True,
                            **kinds[name],
                        )
                    row = facts.setdefault(name, {"last loss": []})
                    row["last loss"].append(adapter.losses[-1][1])
                    return examined(engine, adapter, task, name)

                return once

            outcome = compared(
                "D2",
                {
                    **{name: arm(name) for name in kinds},
                    "untrained": lambda seed: examined(engine, None, task, "untrained"),
                },
                seeds=seeds,
                quick=options.quick,
                baseline="text",
                control="distribution, shuffled",
            )
    right = mean([float(row["rewards"]["verified"]) for row in rows])
    return study(
        "D2",
        f"{len(seeds)} seeds. The teacher ({options.model} with an adapter) answers {best.accuracy:.1%} of "
        f"{questions} sums, and drew {len(rows)} answers to {asked} others, {right:.1%} of them right; the "
        f"student without layers {DROPPED.start} to {DROPPED.stop - 1} learns from all in {steps} steps.",
        outcome,
        metric="accuracy",
        facts={arm: {key: mean(values) for key, values in row.items()} for arm, row in facts.items()},
        control=("distribution, shuffled", "loss"),
        notes=[reach({arm.name: arm.mean for arm in outcome.arms}, best.accuracy)],
        detail={"mass": stored.mass},
    )


def reach(means: Mapping[str, float], teacher: float) -> str:
    """How far the students came: near the floor no difference can be seen."""
    best = max(means["text"], means["distribution"])
    return (
        f"The students answer at most {best:.1%} after training and {means['untrained']:.1%} before it, the "
        f"teacher {teacher:.1%}: the nearer to the floor, the less of a difference can be shown."
    )


def smaller(model: str, folder: Path) -> Path:
    """The model without some of its layers, in a folder of its own."""
    source = models.resolve(model)
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    layers = list(whole.model.layers)
    del layers[DROPPED if len(layers) > DROPPED.stop else slice(-1, None)]
    whole.model.layers = torch.nn.ModuleList(layers)
    whole.config.num_hidden_layers = len(layers)
    for place, layer in enumerate(layers):
        layer.self_attn.layer_idx = place
    if getattr(whole.config, "layer_types", None):
        whole.config.layer_types = whole.config.layer_types[: len(layers)]
    whole.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder
