"""D4: can a student learn a teacher's distribution over text through another tokenizer?

A teacher with 262,144 tokens writes answers to everyday questions; a student with 49,152 other tokens learns
from one half of them and is measured on answers to the other half: by how many bits a byte the teacher finds
its own text likelier than the student does. The texts are samples at temperature 1, so this is an estimate of
their divergence; of the likeliest texts it would not be one. The student matches likelihoods of aligned
chunks (ALM), learns the text alone, does both, or matches likelihoods of the token before.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _harness import Options
from _learning import compared, config, mean, study
from _study import Study

from docendo.agents import Engine
from docendo.distill import ALM, CrossEntropy, Objective, teacher_paths, train
from docendo.evals import EvalRecord, EvalResult, evaluate, make_item
from docendo.hashing import derive_seed
from docendo.records import Item, PublicItem, Request, SamplingParams, ScoreRequest
from docendo.scoring import Score, Scorer

TEACHER = "gemma-3-270m"
SEEDS = (0, 1, 2, 3, 4)
TOPICS = (
    *("rivers", "bread", "winter", "trains", "music", "the moon", "bees", "chess", "gardens", "bridges"),
    *("ships", "glass", "tea", "maps", "owls", "stamps", "clocks", "honey", "wool", "salt"),
    *("paper", "horses", "rain", "islands", "kites", "soap", "apples", "candles", "deserts", "violins"),
)
FORMS = (
    "Write a sentence about {}.",
    "Explain {} to a child.",
    "Tell a short fact about {}.",
    "What are people saying about {}?",
    "Describe {} in a few words.",
    "Why do people like {}?",
)


class Given(Scorer):
    """Takes the number that an answer states, and holds none to be right."""

    name = "given"

    def score(self, item: Item, text: str) -> Score:
        """The number, and no verdict on it."""
        return Score(value=0.0, correct=False, parsed=text)

    def leaks(self, item: Item, text: str) -> bool:
        """There is nothing to give away."""
        return False


def bits(record: EvalRecord) -> float:
    """What was measured of a text."""
    return float(record.parsed or "nan")


def measure(options: Options) -> Study:
    """For each seed another training; the teacher's texts are the same."""
    steps, seeds = options.size(60, 2), SEEDS[: options.size(5, 2)]
    topics, author = options.size(30, 4), options.model if options.quick else TEACHER
    with tempfile.TemporaryDirectory() as folder:
        # Of the held-out answers one to a question: two to one question are no two measurements.
        learnt, held = (written(author, TOPICS[part:topics:2], samples=2 - part) for part in (0, 1))
        rows, unseen = teacher_paths(author, learnt), teacher_paths(author, held)
        late = [dict(row, teacher_path=shifted(row["teacher_path"])) for row in rows]
        items = [make_item(f"{row['item']} {number}", "0") for number, row in enumerate(unseen)]
        held_out = dict(zip([item.id for item in items], unseen, strict=True))
        kinds: Mapping[str, tuple[Objective, Sequence[Mapping[str, Any]]]] = {
            "ALM": (ALM(), rows),
            "text alone": (CrossEntropy(), rows),
            "ALM and text": (100 * ALM() + CrossEntropy(), rows),  # 100: tau, which divides its gradient
            "ALM, chunks shifted": (ALM(), late),
        }
        with Engine.load(options.model) as engine:

            def arm(name: str) -> Any:
                objective, told = kinds[name]

                def once(seed: int) -> EvalResult:
                    with engine.paused():
                        adapter = train(
                            options.model,
                            told,
                            output=Path(folder, f"{name}-{seed}"),
                            config=config(steps, seed),
                            objective=objective,
                            quiet=True,
                        )
                    engine.load_adapter("learnt", adapter.path)
                    return gaps(engine, held_out, items, "learnt", name)

                return once

            def untrained(seed: int) -> EvalResult:
                return gaps(engine, held_out, items, None, "untrained")

            outcome = compared(
                "D4",
                {**{name: arm(name) for name in kinds}, "untrained": untrained},
                seeds=seeds,
                quick=options.quick,
                baseline="ALM",
                control="ALM, chunks shifted",
                metric=bits,
                direction="less",
            )
    return study(
        "D4",
        f"{len(seeds)} seeds. {author} wrote {len(rows)} answers to learn from and {len(unseen)} to be "
        f"measured on, of up to 40 tokens, about other things; {options.model} learns in {steps} steps.",
        outcome,
        metric="bits a byte",
        facts={},
        control=("ALM, chunks shifted", "loss"),
        sign=-1.0,
        notes=[
            "A difference is a gain where it makes the divergence smaller.",
            "A first run, whose texts were the likeliest ones and not samples, is void: untrained 0.350, "
            "ALM 0.013, text alone -0.329, ALM and text -0.200, ALM with chunks shifted 0.057.",
        ],
        detail={"bytes": round(mean([row["teacher_path"]["ends"][-1] for row in unseen]))},
    )


def written(author: str, topics: Sequence[str], *, samples: int) -> list[dict[str, Any]]:
    """The teacher's answers to questions about some things."""
    prompts = [[{"role": "user", "content": form.format(topic)}] for topic in topics for form in FORMS]
    with Engine.load(author, determinism="invariant") as engine:  # the same texts if the study is resumed
        asked = [
            engine.submit(
                Request(
                    prompt=tuple(prompt),
                    sampling=SamplingParams(
                        n=samples, temperature=1.0, max_tokens=40, seed=derive_seed("d4", index) % 2**31
                    ),
                )
            )
            for index, prompt in enumerate(prompts)
        ]
        return [
            {
                "prompt": prompt,
                "completion": [{"role": "assistant", "content": completion.text.strip()}],
                "item": prompt[0]["content"],
            }
            for prompt, future in zip(prompts, asked, strict=True)
            for completion in future.result().completions
            if completion.text.strip()
        ]


def shifted(path: Mapping[str, Any]) -> dict[str, Any]:
    """A path whose likelihoods belong to the token before."""
    return {**path, "logprobs": [*path["logprobs"][-1:], *path["logprobs"][:-1]]}


def gaps(
    engine: Engine,
    rows: Mapping[str, Mapping[str, Any]],
    items: Sequence[Any],
    adapter: str | None,
    name: str,
) -> EvalResult:
    """By how many bits a byte the teacher finds each text likelier than the student does."""

    async def gap(item: PublicItem) -> str:
        row = rows[item.id]
        found = await engine.ascore(
            ScoreRequest(
                prompt=tuple(row["prompt"]), completion=row["completion"][0]["content"], adapter=adapter
            )
        )
        path = row["teacher_path"]
        nats = sum(path["logprobs"]) - found.total
        return str(nats / math.log(2) / path["ends"][-1])

    return evaluate(gap, list(items), scorer=Given(), name=name, quiet=True)
