"""An aligned teacher: it learns to write what its student learns from.

The teacher drafts several answers to each question. Each right draft is shown to the student as the one
worked example before probes, labelled questions of which nothing is learnt, and the share that the student
then answers is its preference. Of each question the best and the worst draft are a pair, DPO trains the
teacher on the pairs, the aligned teacher writes the lessons, and the student is trained on them (Liu et al.
2024, "Aligning Teacher with Student Preferences for Tailored Training Data Generation", arXiv 2406.19227;
four drafts a question, best against worst, and DPO are the paper's). Here only right drafts count, questions
are given and not written by the teacher, probes are drawn at random and not by their discrimination, and
rates and steps suit LoRA on small models.

The world is sums in four styles (`_styles.py`), of which the student calculates well in one; student
and teacher are trained from nothing. All arms train the student on as many tokens of lessons about the same
questions. Best of drafts takes of each question's drafts the preferred one and trains no teacher: it is what
the preference alone is worth where all questions have drafts.

A first run, by plain DPO, broke off at its second seed: the aligned teacher wrote nothing right any more, and
hardly anything with the first. The likelihood of what is chosen was then added on seeds from 100 and a check
of right lessons to the rules, before all reported seeds ran anew.

What was found: an aligned teacher taught better than an unaligned one, and the preferred drafts themselves,
which cost no training, better still.

Claim: lessons of the aligned teacher make the student answer more unseen sums than those of the unaligned one
and of one aligned by shuffled preferences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from docendo.agents import Agent, Engine, Verifier
from docendo.checks import check_count
from docendo.distill import (
    InContextPreference,
    PretrainConfig,
    Selector,
    Shuffled,
    TrainConfig,
    pairs_dataset,
    pretrain,
    reward_traces,
    sft_dataset,
    train,
    train_dpo,
)
from docendo.distill.recipes import _styles as world
from docendo.distill.recipes._misconceptions import items, worked
from docendo.evals import Scores, Trial, evaluate, experiment, gain, no_gain, shown, within
from docendo.graphs import demonstrate, run
from docendo.hashing import derive_seed
from docendo.records import Item, Record, SamplingParams, Trace
from docendo.registry import recipe

_MODEL = PretrainConfig(hidden=48, layers=2, steps=1000, batch=64, learning_rate=4e-3)
_DPO = TrainConfig(
    max_steps=60, per_device_train_batch_size=16, learning_rate=1e-3, dtype="float32", save_steps=0
)
_SFT = _DPO.replace(max_steps=20, per_device_train_batch_size=32, learning_rate=3e-3)
ALIGNED, UNALIGNED, BEST = "aligned teacher", "unaligned teacher", "best of drafts"
SHUFFLED, UNTRAINED = "teacher aligned by shuffled preferences", "untrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedTeacher(Record):
    """Settings. Rates and steps were chosen on worlds of seeds that are not reported.

    Attributes:
        terms: Digits of a sum.
        questions: Questions that drafts and lessons are about.
        drafts: Drafts of a question; 4 as in the paper.
        probes: Labelled questions that a preference is measured by.
        test: Test sums.
        samples: Answers to each test sum.
        beta: How strongly the unaligned teacher holds DPO.
        nll_weight: Weight of the likelihood of what is chosen; 0 in the paper. Without it DPO made small
            teachers that wrote hardly anything right any more.
        model: How student and teacher are built and trained.
        dpo: Settings of DPO.
        sft: Settings of the student's training.
        seed: First seed: of problems, models and samples.
        seeds: Number of seeds.
    """

    terms: int = 3
    questions: int = 40
    drafts: int = 4
    probes: int = 12
    test: int = 200
    samples: int = 4
    beta: float = 0.1
    nll_weight: float = 1.0
    model: PretrainConfig = _MODEL
    dpo: TrainConfig = _DPO
    sft: TrainConfig = _SFT
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes."""
        for name, least in (("terms", 2), ("questions", 1), ("drafts", 2), ("probes", 1), ("test", 1)):
            check_count(name, getattr(self, name), least)
        check_count("samples", self.samples, 1)


@recipe(
    id="aligned-teacher",
    title="ARTE: the teacher is aligned with its student's preferences",
    paper="Liu et al. 2024, arXiv 2406.19227",
    claim="With as many trained tokens lessons of a teacher aligned with its student's preferences make the "
    "student answer more unseen sums than lessons of the unaligned teacher or of one aligned by shuffled "
    "preferences; the latter two help alike.",
    config=AlignedTeacher,
    cost="about 2 minutes a seed on one core",
    needs=("package:trl",),
    scales={
        "tiny": {
            "terms": 2,
            "questions": 20,
            "probes": 8,
            "test": 8,
            "samples": 1,
            "model": _MODEL.replace(hidden=32, layers=1, heads=2, steps=400),
            "dpo": _DPO.replace(max_steps=2),
            "sft": _SFT.replace(max_steps=2),
            "seeds": 2,
        }
    },
)
@experiment(
    gain(ALIGNED, over=UNALIGNED, equal="trained tokens"),
    gain(ALIGNED, over=SHUFFLED, equal="trained tokens"),
    no_gain(SHUFFLED, over=UNALIGNED),
    within(f"lessons in the student's style: {ALIGNED}", 0.5),
    within(f"questions with a right lesson: {ALIGNED}", 0.5),
    within("drafts in the student's style: preference above the others", 0.1),
    shown(ALIGNED, over=BEST),
    shown(BEST, over=UNALIGNED),
    shown(UNALIGNED, over=UNTRAINED),
)
def aligned_teacher(config: AlignedTeacher, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Aligns a teacher in every way, teaches the student by each and asks it the test sums."""
    return _Seed(config=config, seed=seed, folder=folder, quiet=quiet).trial()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """One seed."""

    config: AlignedTeacher
    seed: int
    folder: Path
    quiet: bool

    def trial(self) -> Trial:
        """All lessons are about the same questions."""
        config = self.config
        rng = np.random.default_rng(derive_seed("styles", self.seed))
        own = int(rng.integers(len(world.STYLES)))
        test = items(rng, config.terms, config.test, "test", ())
        probes = items(rng, config.terms, config.probes, "dev", _texts(test))
        asked = items(rng, config.terms, config.questions, "train", _texts([*test, *probes]))
        hidden = set(_texts([*test, *probes, *asked]))
        student = self._pretrained("student", world.student_rows(config.terms, hidden, own))
        teacher = self._pretrained("teacher", world.teacher_rows(config.terms, hidden))
        with (
            Engine.load(student, dtype="float32") as learning,
            Engine.load(teacher, dtype="float32") as speaking,
        ):
            drafts = self._said(speaking, asked, "drafts", None)
            taste = InContextPreference(
                learning,
                [_probe(each) for each in probes],
                correct=lambda row, text: world.right(row["question"], text),
                max_tokens=config.terms,
                quiet=self.quiet,
            )
            liked = reward_traces(drafts, taste)
            rows = partial(
                sft_dataset, student=self._student(learning, None), items=asked, exclude=[*test, *probes]
            )
            lessons = {BEST: rows(_first(liked, "preference"), quiet=True)}
            for name, scored in ((UNALIGNED, None), (ALIGNED, liked), (SHUFFLED, self._mixed(liked))):
                adapter = self._aligned(teacher, speaking, name, scored, asked, [*test, *probes])
                said = drafts if adapter is None else self._said(speaking, asked, name, adapter)
                lessons[name] = rows(_first(said, "verified"), quiet=True)
            count = min(len(taught) for taught in lessons.values())
            arms = {UNTRAINED: self._scores(learning, test, None, 0)}
            for name, taught in lessons.items():
                learnt = self._taught(student, learning, name, taught.to_list()[:count])
                arms[name] = self._scores(learning, test, *learnt)
        facts = {
            f"lessons in the student's style: {name}": world.share(
                [row["completion"][0]["content"] for row in taught.to_list()[:count]], own
            )
            for name, taught in lessons.items()
        }
        facts |= {
            f"questions with a right lesson: {name}": len(taught) / len(asked)
            for name, taught in lessons.items()
        }
        return Trial(arms=arms, facts=facts | _preferred(liked, own))

    def _pretrained(self, name: str, rows: Any) -> Path:
        return pretrain(
            rows,
            alphabet=world.ALPHABET,
            output=self.folder / name,
            config=self.config.model.replace(seed=derive_seed(name, self.seed) % 2**31),
            ends=True,
            resume=True,
            quiet=self.quiet,
        )

    def _said(self, engine: Engine, asked: Sequence[Item], name: str, adapter: str | None) -> list[Trace]:
        """The teacher's right answers to all questions."""
        config, name = self.config, name.replace(" ", "-")
        drawing = SamplingParams(n=config.drafts, temperature=1.0, max_tokens=config.terms + 1)
        teacher = Agent(engine, role="teacher", prompt=world.ASK, adapter=adapter, sampling=drawing)
        graph = demonstrate(teacher=teacher, verifier=Verifier(world.AnyStyle()), keep=config.drafts)
        known = (self.folder / name).is_dir()
        with run(
            graph, asked, name=name, folder=self.folder, seed=self.seed, resume=known, quiet=self.quiet
        ) as done:
            return [trace for trace in done.traces(role="teacher") if trace.rewards["verified"] == 1]

    def _mixed(self, liked: Sequence[Trace]) -> list[Trace]:
        """The same preferences, each given to another draft of any question."""
        return reward_traces(liked, Shuffled(_Stored(liked), seed=self.seed))

    def _aligned(
        self,
        model: Path,
        engine: Engine,
        name: str,
        scored: Sequence[Trace] | None,
        asked: Sequence[Item],
        hidden: Sequence[Item],
    ) -> str | None:
        """The name of an adapter that was trained on preferences; None for the teacher as it is."""
        if scored is None:
            return None
        pairs = pairs_dataset(
            scored,
            items=asked,
            exclude=hidden,
            select="top_bottom",
            reward="preference",
            max_per_item=1,
            quiet=True,
        )
        output = self.folder / "teachers" / name.replace(" ", "-")
        with engine.paused():
            made = train_dpo(
                model,
                pairs,
                output=output,
                config=self.config.dpo.replace(seed=self.seed),
                beta=self.config.beta,
                nll_weight=self.config.nll_weight,
                resume=True,
                quiet=self.quiet,
            )
        engine.load_adapter(output.name, made.path)
        return output.name

    def _taught(
        self, model: Path, engine: Engine, name: str, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[str, float]:
        """The name of the student's adapter, and the tokens that it learnt: all rows have as many."""
        config, output = (
            self.config.sft.replace(seed=self.seed),
            self.folder / "students" / name.replace(" ", "-"),
        )
        with engine.paused():
            made = train(model, rows, output=output, config=config, resume=True, quiet=self.quiet)
        engine.load_adapter(output.name, made.path)
        data = made.manifest["data"]
        each = data["completion_tokens"] / data["examples"]
        return output.name, config.max_steps * config.per_device_train_batch_size * each

    def _scores(self, engine: Engine, test: Sequence[Item], adapter: str | None, tokens: float) -> Scores:
        found = evaluate(
            self._student(engine, adapter),
            test,
            scorer=world.AnyStyle(),
            samples=self.config.samples,
            quiet=True,
        )
        return Scores.of(found, spent={"trained tokens": tokens} if tokens else {})

    def _student(self, engine: Engine, adapter: str | None) -> Agent:
        drawing = SamplingParams(temperature=1.0, max_tokens=self.config.terms + 1, seed=self.seed)
        return Agent(engine, role="student", prompt=world.ASK, adapter=adapter, sampling=drawing)


def _first(said: Sequence[Trace], reward: str) -> list[Trace]:
    """To each question the answer of the highest reward; of equal ones the first that was drawn."""
    ranked = sorted(said, key=lambda one: (-one.rewards[reward], one.sample))
    found: dict[str, Trace] = {}
    for trace in ranked:
        found.setdefault(trace.item, trace)
    return list(found.values())


class _Stored(Selector):
    """Preferences that are known already."""

    def __init__(self, liked: Sequence[Trace]) -> None:
        self._known = [trace.rewards["preference"] for trace in liked]

    def score(self, rows: Any) -> Any:
        """The preferences, in the order in which they were given."""
        return self._table(list(rows), "preference", {"preference": self._known})


def _probe(item: Item) -> dict[str, Any]:
    """A probe; its question stands in a column of its own, since any style of its answer will do."""
    question = item.public.question
    return {
        "prompt": [{"role": "user", "content": world.ASK.format(question=question)}],
        "completion": [{"role": "assistant", "content": world.written(worked(question), 0)}],
        "question": question,
    }


def _preferred(liked: Sequence[Trace], own: int) -> dict[str, float]:
    """How much more the student prefers drafts in its own style."""
    sides: dict[bool, list[float]] = {True: [], False: []}
    for trace in liked:
        sides[world.style_of(trace.completion) == own].append(trace.rewards["preference"])
    return {
        "drafts in the student's style: preference above the others": (
            fmean(sides[True] or [0.0]) - fmean(sides[False] or [0.0])
        )
    }


def _texts(given: Sequence[Item]) -> list[str]:
    return [item.public.question for item in given]
