"""Learning by teaching M1: choose the answer whose explanation teaches best.

A teacher samples explanations of a problem. Each is shown to a student as a worked example, the student sits
an exam of similar questions whose answers are known, and equal answers are weighted by their lessons' exam
scores (Ning et al. 2024, "Can LLMs Learn by Teaching for Better Reasoning?", arXiv 2406.14629, M1 with SUM).

The world is the hidden affine rule (`_affine.py`), with models trained from nothing for each seed: there a
teacher errs in its explanation, which is where teaching scores can help and voting cannot. The same labels
could instead be shown to the teacher: those arms are printed beside it and are not claimed to lose.

Claim: M1 answers more problems than the majority of as many generated tokens, and more than with shuffled
scores; with exams of another rule it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from docendo.agents import Agent, Engine, Verifier
from docendo.checks import check_count
from docendo.distill import PretrainConfig
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown, within
from docendo.graphs import learning_by_teaching, run, teaching_measures
from docendo.graphs.recipes._affine import (
    ANSWER,
    LESSON,
    TEST,
    LastDigit,
    SameRule,
    World,
    answers,
    asked_in_exam,
    errors,
    has_rule,
    of_another_rule,
    problems,
    read,
    train_student,
    train_teacher,
    with_labels,
)
from docendo.graphs.recipes._lessons import answer, examined, right, texts, tokens, vote
from docendo.hashing import derive_seed
from docendo.records import Completion, Item, Record, SamplingParams
from docendo.registry import recipe

#: Questions of an exam, and answers to each: with 8 explanations as many characters as 40 explanations have.
QUESTIONS, REPEATS = 3, 2


_TEACHER = PretrainConfig(hidden=96, layers=3, steps=2500, batch=96, learning_rate=2e-3)
_STUDENT = PretrainConfig(
    hidden=64, layers=2, steps=1000, batch=64, learning_rate=3e-3, initializer_range=0.1
)
_TINY = PretrainConfig(hidden=16, layers=1, heads=2, steps=25, batch=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachingScores(Record):
    """Settings. The models' sizes are those at which a teacher costs about a minute.

    Attributes:
        problems: Test problems, at most 400.
        rationales: Explanations of each problem.
        drill: Share of the teacher's training that drills applying a written rule.
        teacher: How the teacher is built and trained.
        student: How the student is built and trained.
        seed: First seed: of contexts, models and samples.
        seeds: Number of seeds.
    """

    problems: int = 400
    rationales: int = 8
    drill: float = 0.5
    teacher: PretrainConfig = _TEACHER
    student: PretrainConfig = _STUDENT
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the sizes: a world has no more problems."""
        check_count("problems", self.problems, 1, TEST)
        check_count("rationales", self.rationales, 1)


@recipe(
    id="teaching-scores",
    title="Learning by teaching M1: the explanation that teaches best is the right one",
    paper="Ning et al. 2024, arXiv 2406.14629",
    claim="At equal generated tokens the answer chosen by students' exams is right more often than the "
    "majority's, and than with shuffled scores; with exams of another rule it is not.",
    config=TeachingScores,
    cost="about 3 minutes a seed on one core",
    scales={"tiny": {"problems": 12, "teacher": _TINY, "student": _TINY, "seeds": 2}},
)
@experiment(
    gain("M1, sum", over="majority of as many tokens", equal="generated tokens"),
    gain("M1, sum", over="M1, scores shuffled", equal="generated tokens"),
    no_gain("M1, exams of another rule", over="majority"),
    within("AUROC of teaching scores", 0.75),
    within("AUROC, exams of another rule", 0.4, 0.6),
    shown("M1, max", over="M1, sum"),
    shown("teacher as its own student", over="M1, sum"),
    shown("labels shown, majority of as many tokens", over="M1, sum"),
    shown("labels shown, M1", over="labels shown, majority of as many tokens"),
)
def teaching_scores(config: TeachingScores, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Trains a teacher and a student and answers the test problems in every way."""
    world, n = World.of(seed), config.rationales
    exam_tokens = QUESTIONS * REPEATS * ANSWER
    alike = n * (LESSON + exam_tokens) // LESSON  # explanations that cost what M1 costs
    paths = (
        train_teacher(
            world, folder / "teacher", config.teacher.replace(seed=seed), config.drill, quiet=quiet
        ),
        train_student(world, folder / "student", config.student.replace(seed=seed), quiet=quiet),
    )
    items = problems(world.test[: config.problems], seed)
    asked = [item.public.question for item in items]
    told = [with_labels(item.public, alike, seed) for item in items]
    with Engine.load(paths[0]) as teacher, Engine.load(paths[1]) as student:
        taught = _taught(items, teacher, student, n, folder, seed, quiet=quiet)
        greedy = answers(teacher, [[text] for text in asked], length=LESSON, temperature=0.0)
        pool = answers(teacher, [[text] * alike for text in asked], length=LESSON, seed=seed)
        likely = [[math.exp(sum(one.logprobs)) for one in row[:n]] for row in pool]
        informed = answers(teacher, told, length=LESSON, seed=seed)
        exams = examined(student, items, texts(_first(informed, n)), repeats=REPEATS, seed=seed)
        itself, own_exams = _examined_by_itself(teacher, items, taught.lessons, seed)
        ignored = _ignored(student, items, taught, seed)
    few, few_informed = _first(pool, n), _first(informed, n)
    shuffle = np.random.default_rng(derive_seed("shuffled", seed)).permutation
    shuffled = [[float(score) for score in shuffle(row)] for row in taught.scores]
    rule = [
        [float(has_rule(text, item.public)) for text in row]
        for item, row in zip(items, taught.lessons, strict=True)
    ]
    truth = [[right(item, text) for text in row] for item, row in zip(items, taught.lessons, strict=True)]
    teach, m1 = taught.teaching, taught.teaching + taught.examining
    # What each way answers, and the tokens that were generated for it.
    taken = {
        "greedy": ([row[0] for row in texts(greedy)], tokens(greedy)),
        "majority": (vote(texts(few)), tokens(few)),
        "majority, weighted by likelihood": (vote(texts(few), likely), tokens(few)),
        "majority of as many tokens": (vote(texts(pool)), tokens(pool)),
        "M1, sum": (vote(taught.lessons, taught.scores), m1),
        "M1, max": (vote(taught.lessons, taught.scores, by="max"), m1),
        "M1, scores shuffled": (vote(taught.lessons, shuffled), m1),
        "M1, exams of another rule": (vote(taught.lessons, taught.astray), m1),
        "teacher as its own student": (vote(taught.lessons, itself), teach + own_exams),
        "labels shown, majority": (vote(texts(few_informed)), tokens(few_informed)),
        "labels shown, majority of as many tokens": (vote(texts(informed)), tokens(informed)),
        "labels shown, M1": (
            vote(texts(few_informed), exams.scores),
            tokens(few_informed) + sum(map(sum, exams.tokens)),
        ),
        "rule checked (ceiling)": (vote(taught.lessons, rule), teach),
        "any explanation (oracle)": (_any(taught.lessons, truth), teach),
    }
    flat = [(text, item.public) for item, row in zip(items, taught.lessons, strict=True) for text in row]
    wrong, slips = errors([text for text, _ in flat], [problem for _, problem in flat])
    measures = teaching_measures(taught.scores, truth)
    return Trial(
        arms={
            name: Scores(
                values={item.id: right(item, text) for item, text in zip(items, chosen, strict=True)},
                spent={"generated tokens": spent},
            )
            for name, (chosen, spent) in taken.items()
        },
        facts={
            "AUROC of teaching scores": measures.auroc,
            "Kendall's tau of teaching scores": measures.tau,
            "AUROC, exams of another rule": teaching_measures(taught.astray, truth).auroc,
            "AUROC of the teacher's likelihood": teaching_measures(
                likely,
                [[right(item, text) for text in row] for item, row in zip(items, texts(few), strict=True)],
            ).auroc,
            "explanations with a wrong rule": wrong,
            "explanations with the right rule and a wrong answer": slips,
            "exam answers that are the same without the lesson": ignored,
            "exam answers that follow a wrong rule": _followed(items, taught),
        },
    )


class _Taught(NamedTuple):
    """By problem and lesson: text, score, score of another rule's exam, exam answers; and all tokens."""

    lessons: list[list[str]]
    scores: list[list[float]]
    astray: list[list[float]]
    exams: list[list[list[list[str]]]]
    teaching: int
    examining: int


def _taught(
    items: Sequence[Item], teacher: Engine, student: Engine, n: int, folder: Path, seed: int, *, quiet: bool
) -> _Taught:
    """M1 as a graph."""
    graph = learning_by_teaching(
        teacher=Agent(
            teacher, role="teacher", sampling=SamplingParams(n=n, temperature=1.0, max_tokens=LESSON)
        ),
        students=[
            Agent(student, role="student", sampling=SamplingParams(temperature=0.7, max_tokens=ANSWER))
        ],
        exam=SameRule(),
        verifier=Verifier(LastDigit()),
        read=answer,
        repeats=REPEATS,
    )
    known = (folder / "lessons").is_dir()
    with run(graph, items, name="lessons", folder=folder, seed=seed, resume=known, quiet=quiet) as finished:
        said = {trace.id: trace.completion for trace in finished.traces(role="teacher")}
        states, used = [finished.outcomes[item.id] for item in items], finished.usage()
        exams = [[finished.board.get(post).body["answers"] for post in state["exams"]] for state in states]
    return _Taught(
        lessons=[[said[trace] for trace in state["lessons"]] for state in states],
        scores=[state["scores"] for state in states],
        astray=[
            [of_another_rule(item.public, given) for given in row]
            for item, row in zip(items, exams, strict=True)
        ],
        exams=exams,
        teaching=used["teacher"]["generated_tokens"],
        examining=used["student"]["generated_tokens"],
    )


def _examined_by_itself(
    teacher: Engine, items: Sequence[Item], lessons: Sequence[Sequence[str]], seed: int
) -> tuple[list[list[float]], int]:
    """Teaching scores where the teacher applies its own written rule, one answer a question; and tokens."""
    rows, wanted = [], []
    for item, row in zip(items, lessons, strict=True):
        context, _ = read(item.public)
        for lesson in row:
            exam = asked_in_exam(item.public)
            rows.append([f"{context.problem(x)}{lesson[:4]}" for x in exam])
            wanted.append([str(context.of(x)) for x in exam])
    said = answers(teacher, rows, length=2, temperature=0.7, seed=seed)
    found, golds = iter(texts(said)), iter(wanted)
    scores = [
        [fmean(text[-1:] == gold for text, gold in zip(next(found), next(golds), strict=True)) for _ in row]
        for row in lessons
    ]
    return scores, tokens(said)


def _ignored(student: Engine, items: Sequence[Item], taught: _Taught, seed: int) -> float:
    """The share of exam answers that the student gives without the lesson as well; chance is 1 in 7."""
    rows = [
        [f"{item.public.question}|?{x}" for x in asked_in_exam(item.public) for _ in range(REPEATS)]
        for item in items
    ]
    alone = texts(answers(student, rows, length=ANSWER, temperature=0.7, seed=seed))
    return fmean(
        answer(with_lesson) == answer(without)
        for plain, exams in zip(alone, taught.exams, strict=True)
        for exam in exams
        for without, with_lesson in zip(plain, (text for given in exam for text in given), strict=True)
    )


def _followed(items: Sequence[Item], taught: _Taught) -> float:
    """Of exam answers behind a wrong rule the share that writes this very rule."""
    found = [
        text[:2] == lesson[2:4]
        for item, lessons, exams in zip(items, taught.lessons, taught.exams, strict=True)
        for lesson, exam in zip(lessons, exams, strict=True)
        if not has_rule(lesson, item.public)
        for given in exam
        for text in given
    ]
    return fmean(found) if found else math.nan


def _any(rows: Sequence[Sequence[str]], truth: Sequence[Sequence[bool]]) -> list[str]:
    """A right text of each row, if there is one."""
    return [
        row[rights.index(True)] if any(rights) else row[0]
        for row, rights in zip(rows, map(list, truth), strict=True)
    ]


def _first(rows: Sequence[Sequence[Completion]], n: int) -> list[Sequence[Completion]]:
    return [row[:n] for row in rows]
