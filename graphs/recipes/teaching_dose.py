"""Learning by teaching M1 by dose: the more of the errors lie in the explanation, the more it gains.

Teaching scores judge an explanation by what students make of it (Ning et al. 2024, arXiv 2406.14629, M1). So
they can tell a wrong rule from a right one, and cannot see that a right rule was carried out wrongly. This
recipe measures how M1's gain over a vote of as many tokens goes with the share of errors that are in the
rule, while the share of right answers stays the same.

How the dose is controlled: one teacher explains each problem many times, and what it writes behind the rule
is sampled hotter than the rule, so that it errs in both. From these samples pools are composed that have the
same number of right explanations and of errors, and differ only in how many errors are a wrong rule and how
many the right rule carried out wrongly. Composing uses the labels and leaves out problems that have too few
samples of a kind, and wrong rules whose answer is right by luck; so the pools are no estimate of how good the
teacher is. Choosing never uses the labels: M1 and the vote see the explanations alone.

The world is that of `teaching-scores`, with a smaller teacher.

Claim: the gain grows with the dose, and M1 gains at the full dose; with scores shuffled within each pool
neither holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

from docendo.agents import Engine
from docendo.checks import check_count
from docendo.distill import PretrainConfig
from docendo.errors import DataError
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown
from docendo.evals.reports._figure import curve_figure
from docendo.evals.reports._parts import Curve
from docendo.graphs.recipes._affine import (
    ANSWER,
    LESSON,
    TEST,
    World,
    answers,
    has_rule,
    problems,
    train_student,
    train_teacher,
)
from docendo.graphs.recipes._lessons import examined, right, vote
from docendo.hashing import derive_seed
from docendo.records import Item, Record
from docendo.registry import recipe

#: Shares of the errors that are a wrong rule.
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Right explanations and errors of a pool, and questions of an exam, each answered once.
RIGHT, ERRORS, QUESTIONS = 2, 4, 3
#: Characters of an explanation up to its rule.
RULE = 4
#: How many times as many explanations cost what a pool and its exams cost.
ALIKE = 1 + QUESTIONS * ANSWER // LESSON

Kind = Literal["right", "rule", "slip"]
M1, VOTE, SHUFFLED = "M1", "majority of as many tokens", "M1, scores shuffled"

_MODEL = PretrainConfig(hidden=64, layers=2, steps=2500, batch=64, learning_rate=3e-3, initializer_range=0.1)
_STUDENT = _MODEL.replace(steps=1000)
_TINY = PretrainConfig(hidden=16, layers=1, heads=2, steps=100, batch=32, learning_rate=1e-2)


def at(arm: str, dose: float) -> str:
    """The name of an arm at a dose."""
    return f"{arm}, {dose:.0%} wrong rules"


def slope_of(arm: str) -> str:
    """The name of an arm's slope over the doses."""
    return f"slope of {arm}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachingDose(Record):
    """Settings. They were chosen on worlds of seeds that are not reported.

    Attributes:
        problems: Test problems to explain, at most 400; those with samples enough of each kind are asked.
        draws: Explanations of each problem to compose pools of.
        temperature: At which their rules are sampled.
        carrying_out: Temperature of what is written behind the rule: hot enough for slips.
        teacher: How the teacher is built and trained.
        student: How the student is built and trained.
        seed: First seed: of contexts, models, samples and pools.
        seeds: Number of seeds.
    """

    problems: int = 250
    draws: int = 96
    temperature: float = 1.5
    carrying_out: float = 3.0
    teacher: PretrainConfig = _MODEL
    student: PretrainConfig = _STUDENT
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes: a world has no more problems."""
        check_count("problems", self.problems, 1, TEST)
        check_count("draws", self.draws, ALIKE * (RIGHT + ERRORS))


def figure(result: Mapping[str, Any]) -> str:
    """The stored result as a figure: each arm by dose, with the span of its seeds.

    Args:
        result: The stored result, or a summary.
    """
    arms = result["arms"]
    curves = []
    for name in (VOTE, M1, SHUFFLED):
        rows = [arms[at(name, dose)] for dose in DOSES]
        curves.append(
            Curve(
                name=name,
                kind="right answers",
                labels=tuple(f"{dose:.0%}" for dose in DOSES),
                values=tuple(row["mean"] for row in rows),
                intervals=tuple((min(row["by_seed"]), max(row["by_seed"])) for row in rows),
            )
        )
    return curve_figure(
        curves, title="Right answers by dose, with the span of the seeds", x_label="errors in the rule"
    )


@recipe(
    id="teaching-dose",
    title="Learning by teaching M1 gains by the share of errors that are in the explanation",
    paper="Ning et al. 2024, arXiv 2406.14629",
    claim="With the same share of right answers M1's gain over a vote of as many tokens grows with the share "
    "of errors that are a wrong rule, and is a gain where all are; with shuffled scores neither.",
    config=TeachingDose,
    cost="about 2 minutes a seed on one core",
    figure=figure,
    scales={
        "tiny": {
            "problems": 2,
            "draws": 3000,  # a teacher that guesses needs many to have samples of each kind
            "temperature": 1.0,
            "carrying_out": 1.0,
            "teacher": _TINY,
            "student": _TINY,
            "seeds": 2,
        }
    },
)
@experiment(
    gain(slope_of(M1), over=slope_of(VOTE), equal="generated tokens"),
    gain(slope_of(M1), over=slope_of(SHUFFLED), equal="generated tokens"),
    gain(at(M1, 1.0), over=at(VOTE, 1.0), equal="generated tokens"),
    no_gain(slope_of(SHUFFLED), over=slope_of(VOTE)),
    no_gain(at(SHUFFLED, 1.0), over=at(VOTE, 1.0)),
    *(shown(at(M1, dose), over=at(VOTE, dose)) for dose in DOSES[:-1]),
)
def teaching_dose(config: TeachingDose, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Trains a teacher and a student, composes pools at each dose and chooses in each."""
    world = World.of(seed)
    teacher_at = train_teacher(
        world, folder / "teacher", config.teacher.replace(seed=seed), 0.0, least=0.35, quiet=quiet
    )
    student_at = train_student(world, folder / "student", config.student.replace(seed=seed), quiet=quiet)
    items = problems(world.test[: config.problems], seed)
    with Engine.load(teacher_at) as teacher:
        said = _explained(teacher, items, config, seed)
    sorted_ = [by_kind(item, row) for item, row in zip(items, said, strict=True)]
    enough = [place for place, kinds in enumerate(sorted_) if has_enough(kinds)]
    if not enough:
        raise DataError(
            "no problem has explanations enough of each kind to compose pools of",
            expected=f"{ALIKE * RIGHT} right ones and {ALIKE * ERRORS} of each error",
            remedy="raise draws or temperature, or train the teacher longer",
        )
    chosen = [items[place] for place in enough]
    with Engine.load(student_at) as student:
        kinds = _judged(student, chosen, [sorted_[place] for place in enough], seed)
    arms: dict[str, Scores] = {}
    for dose in DOSES:
        arms |= _at_dose(chosen, kinds, dose, seed)
    every = [_kind(item, one.text) for item, row in zip(items, said, strict=True) for one in row]
    return Trial(
        arms=arms | {slope_of(arm): _slope(arm, arms) for arm in (M1, VOTE, SHUFFLED)},
        facts={
            "share of right answers in every pool": RIGHT / (RIGHT + ERRORS),
            "share of problems with samples enough": len(enough) / len(items),
            "teacher as sampled: right": fmean(kind == "right" for kind in every),
            "teacher as sampled: wrong rule": fmean(kind == "rule" for kind in every),
            "teacher as sampled: right rule carried out wrongly": fmean(kind == "slip" for kind in every),
            **{
                f"mean teaching score: {name}": fmean(
                    one.score for row in kinds for one in row[kind] if one.score is not None
                )
                for kind, name in _NAMES.items()
            },
        },
    )


_NAMES: Mapping[Kind, str] = {
    "right": "right",
    "rule": "wrong rule",
    "slip": "right rule carried out wrongly",
}


class Explanation(NamedTuple):
    """An explanation with its answer, its tokens, and, if it was taught, its score and its exam's tokens."""

    text: str
    tokens: int
    score: float | None = None
    exam: int = 0


def _explained(
    teacher: Engine, items: Sequence[Item], config: TeachingDose, seed: int
) -> list[list[Explanation]]:
    """Explanations of each problem: differences and rule, and behind them product and answer, hotter."""
    asked = [[item.public.question] * config.draws for item in items]
    rules = answers(teacher, asked, length=RULE, temperature=config.temperature, seed=seed)
    begun = [[item.public.question + one.text for one in row] for item, row in zip(items, rules, strict=True)]
    ends = answers(teacher, begun, length=LESSON - RULE, temperature=config.carrying_out, seed=seed)
    return [
        [
            Explanation(rule.text + end.text, len(rule.token_ids) + len(end.token_ids))
            for rule, end in zip(*rows, strict=True)
        ]
        for rows in zip(rules, ends, strict=True)
    ]


def _kind(item: Item, text: str) -> Kind | None:
    """What an explanation is; None for a wrong rule whose answer is right by luck."""
    if has_rule(text, item.public):
        return "right" if right(item, text) else "slip"
    return None if right(item, text) else "rule"


def by_kind(item: Item, said: Sequence[Explanation]) -> dict[Kind, list[Explanation]]:
    """A problem's explanations by what they are, in their order.

    Args:
        item: The problem.
        said: Its explanations.
    """
    found: dict[Kind, list[Explanation]] = {"right": [], "rule": [], "slip": []}
    for one in said:
        kind = _kind(item, one.text)
        if kind is not None:
            found[kind].append(one)
    return found


def has_enough(kinds: Mapping[Kind, Sequence[Explanation]]) -> bool:
    """Whether pools of every dose can be composed, and those of the vote of as many tokens."""
    return len(kinds["right"]) >= ALIKE * RIGHT and all(
        len(kinds[kind]) >= ALIKE * ERRORS for kind in ("rule", "slip")
    )


def pool(
    kinds: Mapping[Kind, Sequence[Explanation]], dose: float, times: int, rng: np.random.Generator
) -> list[Explanation]:
    """The pool of a dose, in an order drawn at random: equal groups of answers go by their order.

    Args:
        kinds: The problem's explanations by what they are.
        dose: Share of the errors that are a wrong rule.
        times: 1 for M1's pool; a vote's pool is that many times as large, and holds it.
        rng: For the order.
    """
    wrong = round(dose * ERRORS)
    counts: dict[Kind, int] = {"right": RIGHT, "rule": wrong, "slip": ERRORS - wrong}
    taken = [one for kind, count in counts.items() for one in kinds[kind][: times * count]]
    return [taken[place] for place in rng.permutation(len(taken))]


def _judged(
    student: Engine,
    items: Sequence[Item],
    kinds: Sequence[Mapping[Kind, Sequence[Explanation]]],
    seed: int,
) -> list[dict[Kind, list[Explanation]]]:
    """The explanations again, those in a pool of M1 at some dose with their teaching scores."""
    most: dict[Kind, int] = {"right": RIGHT, "rule": ERRORS, "slip": ERRORS}
    lessons = [[one.text for kind, count in most.items() for one in row[kind][:count]] for row in kinds]
    exams = examined(student, items, lessons, repeats=1, seed=seed)
    scores, costs = chain.from_iterable(exams.scores), chain.from_iterable(exams.tokens)
    return [
        {
            kind: [
                *(one._replace(score=next(scores), exam=next(costs)) for one in row[kind][:count]),
                *row[kind][count:],
            ]
            for kind, count in most.items()
        }
        for row in kinds
    ]


def _at_dose(
    items: Sequence[Item],
    kinds: Sequence[Mapping[Kind, Sequence[Explanation]]],
    dose: float,
    seed: int,
) -> dict[str, Scores]:
    """The three arms at a dose."""
    rng = np.random.default_rng(derive_seed("pools", seed, dose))
    few = [pool(row, dose, 1, rng) for row in kinds]
    many = [pool(row, dose, ALIKE, rng) for row in kinds]
    scores = [[one.score or 0.0 for one in row] for row in few]
    shuffled = [[float(score) for score in rng.permutation(row)] for row in scores]
    lessons = [[one.text for one in row] for row in few]
    cost = _tokens(few) + sum(one.exam for row in few for one in row)
    taken = {
        M1: (vote(lessons, scores), cost),
        VOTE: (vote([[one.text for one in row] for row in many]), _tokens(many)),
        SHUFFLED: (vote(lessons, shuffled), cost),
    }
    return {
        at(arm, dose): Scores(
            values={item.id: right(item, text) for item, text in zip(items, texts, strict=True)},
            spent={"generated tokens": spent},
        )
        for arm, (texts, spent) in taken.items()
    }


def _tokens(rows: Sequence[Sequence[Explanation]]) -> int:
    return sum(one.tokens for row in rows for one in row)


def _slope(arm: str, arms: Mapping[str, Scores]) -> Scores:
    """An arm's least-squares slope over the doses, item by item: what the full dose adds to none."""
    rows = [arms[at(arm, dose)] for dose in DOSES]
    values: dict[str, Any] = {
        item: slope(DOSES, [row.values[item] or 0.0 for row in rows]) for item in rows[0].values
    }
    return Scores(
        values=values, spent={"generated tokens": sum(row.spent["generated tokens"] for row in rows)}
    )


def slope(places: Sequence[float], values: Iterable[float]) -> float:
    """The least-squares slope of values over places.

    Example:
        >>> slope([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
        1.0
    """
    middle = fmean(places)
    return sum((place - middle) * value for place, value in zip(places, values, strict=True)) / sum(
        (place - middle) ** 2 for place in places
    )
