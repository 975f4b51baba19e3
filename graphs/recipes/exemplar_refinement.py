"""Learning by teaching M3: exemplars are revised after what students get wrong with them.

A teacher writes exemplars for a task, students sit an exam with them, and their failures go back to the
teacher, who revises; the best sets survive (Ning et al. 2024, "Can LLMs Learn by Teaching for Better
Reasoning?", arXiv 2406.14629, M3). As many sets written without a look at any failure are the honest rival:
they have the same exams to be chosen by.

The world is the hidden affine rule (`_affine.py`). A task is a rule of which two pairs are told; a set is one
worked example with the rule written out, right or wrong; two students of different sizes have learnt to use
such an example. The exam asks for two other inputs whose answers are known, and a failure is shown as the
pair that it should have been. What is reported are the students' answers for the two inputs of which nothing
was told, asked or worked. Revising is learnt as well: from a wrong rule and a pair that refutes it.

The paper selects by the teacher's own score and asks for reasons first; here the students' exams select, and
a model of this size revises without giving reasons.

Claim: exemplars revised after failures teach better than the best of as many proposals, and than exemplars
revised after failures of another rule, which are no better than proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from docendo.agents import Agent, Engine, Verifier
from docendo.checks import check_count
from docendo.distill import PretrainConfig
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown
from docendo.graphs import Failure, exemplar_refinement, run
from docendo.graphs.recipes._affine import (
    ANSWER,
    LESSON,
    TEST,
    LastDigit,
    SameRule,
    World,
    answers,
    asked_in_exam,
    has_rule,
    problems,
    read,
    train_student,
    with_labels,
)
from docendo.graphs.recipes._lessons import texts, tokens
from docendo.graphs.recipes._revising import (
    PROPOSING,
    QUESTIONS,
    REVISING,
    labels_as_example,
    nothing,
    solution,
    train_reviser,
    unseen_inputs,
    with_another_rule,
    with_failure,
)
from docendo.records import Example, Item, PublicItem, Record, SamplingParams
from docendo.registry import recipe

#: Sets that are gone on with, new ones of each in a round, and rounds.
BEAM, EXPANSIONS, ROUNDS = 1, 2, 3
SETS = BEAM * (1 + ROUNDS * EXPANSIONS)

_TEACHER = PretrainConfig(
    hidden=64, layers=2, steps=2500, batch=64, learning_rate=3e-3, initializer_range=0.1
)
_STUDENT = _TEACHER.replace(steps=1000)
_SMALL = _STUDENT.replace(hidden=48)
_TINY = PretrainConfig(hidden=16, layers=1, heads=2, steps=25, batch=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemplarRefinement(Record):
    """Settings. They were chosen on worlds of seeds that are not reported.

    Attributes:
        tasks: Test tasks, at most 400.
        teacher: How the teacher is built and trained.
        student: How the larger student is built and trained.
        small: How the smaller student is built and trained.
        seed: First seed: of contexts, models and samples.
        seeds: Number of seeds.
    """

    tasks: int = 80
    teacher: PretrainConfig = _TEACHER
    student: PretrainConfig = _STUDENT
    small: PretrainConfig = _SMALL
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the size: a world has no more tasks."""
        check_count("tasks", self.tasks, 1, TEST)


@recipe(
    id="exemplar-refinement",
    title="Learning by teaching M3: exemplars revised after students' failures",
    paper="Ning et al. 2024, arXiv 2406.14629",
    claim="At equal generated tokens exemplars revised after students' failures teach unseen questions "
    "better than the best of as many proposals, and than those revised after failures of another rule.",
    config=ExemplarRefinement,
    cost="about 2 minutes a seed on one core",
    scales={"tiny": {"tasks": 3, "teacher": _TINY, "student": _TINY, "small": _TINY, "seeds": 2}},
)
@experiment(
    gain("refined", over="best of as many proposals", equal="generated tokens"),
    gain("refined", over="failures of another rule", equal="generated tokens"),
    no_gain("failures of another rule", over="best of as many proposals"),
    gain("refined", over="first proposal"),
    shown("best of as many proposals", over="first proposal"),
    shown("exam answers told, best of as many proposals", over="refined"),
    shown("exam questions as examples", over="refined"),
)
def exemplar_refining(config: ExemplarRefinement, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """Trains a teacher and two students and lets the teacher write exemplars in every way."""
    world = World.of(seed)
    taught = train_reviser(world, folder / "teacher", config.teacher.replace(seed=seed), quiet=quiet)
    learners = [
        train_student(world, folder / name, sizes.replace(seed=seed), quiet=quiet)
        for name, sizes in (("student", config.student), ("small", config.small))
    ]
    items = problems(world.test[: config.tasks], seed)
    with Engine.load(taught) as teacher, Engine.load(learners[0]) as large, Engine.load(learners[1]) as small:
        school = _School(teacher, (large, small), items, folder, seed, quiet)
        ways = {
            "refined": school.written("refined", with_failure),
            "best of as many proposals": school.written("proposed", nothing),
            "failures of another rule": school.written("astray", with_another_rule),
            "exam answers told, best of as many proposals": school.told(),
        }
        sets = {name: way.sets for name, way in ways.items()} | {"first proposal": ways["refined"].first}
        shown_to = {
            name: [item.public.question + text for item, text in zip(items, row, strict=True)]
            for name, row in sets.items()
        }
        shown_to["exam questions as examples"] = [labels_as_example(item.public) for item in items]
        values = {name: school.taught(row) for name, row in shown_to.items()}
    return Trial(
        arms={
            name: Scores(
                values=dict(zip([item.id for item in items], row, strict=True)),
                spent={"generated tokens": ways[name].tokens} if name in ways else {},
            )
            for name, row in values.items()
        },
        facts={
            f"right rule: {name}": fmean(
                has_rule(text, item.public) for text, item in zip(row, items, strict=True)
            )
            for name, row in sets.items()
        },
    )


class _Written(NamedTuple):
    """By task the chosen set and the first one; and all tokens, of teacher and students."""

    sets: list[str]
    first: list[str]
    tokens: int


class _School(NamedTuple):
    """Who teaches whom what in a trial."""

    teacher: Engine
    students: tuple[Engine, ...]
    items: Sequence[Item]
    folder: Path
    seed: int
    quiet: bool

    def written(self, name: str, show: Callable[[PublicItem, Sequence[Failure]], str]) -> _Written:
        """The graph, with what the teacher is shown of failures."""
        explaining = SamplingParams(temperature=1.0, max_tokens=LESSON)
        answering = SamplingParams(temperature=0.0, max_tokens=ANSWER)
        graph = exemplar_refinement(
            teacher=Agent(self.teacher, role="teacher", prompt=PROPOSING, sampling=explaining),
            reviser=Agent(self.teacher, role="teacher", name="reviser", prompt=REVISING, sampling=explaining),
            students=[
                Agent(engine, role="student", name=f"student {place}", sampling=answering)
                for place, engine in enumerate(self.students)
            ],
            exam=SameRule(QUESTIONS),
            verifier=Verifier(LastDigit()),
            read=lambda task, text: [Example(question=task.question, answer=text)],
            show=show,
            solution=solution,
            beam=BEAM,
            expansions=EXPANSIONS,
            rounds=ROUNDS,
            handful=1,
        )
        known = (self.folder / name).is_dir()
        with run(
            graph, self.items, name=name, folder=self.folder, seed=self.seed, resume=known, quiet=self.quiet
        ) as finished:
            said = {trace.id: trace.completion for trace in finished.traces(role="teacher")}
            states = [finished.outcomes[item.id] for item in self.items]
            used = finished.usage()
        return _Written(
            sets=[state["answer"] for state in states],
            first=[said[state["proposals"][0]] for state in states],
            tokens=sum(used[role]["generated_tokens"] for role in ("teacher", "student")),
        )

    def told(self) -> _Written:
        """As many proposals from the exam's labels, which the teacher is told, chosen by the same exam."""
        prompts = [
            [
                PROPOSING.format(question=text)
                for text in with_labels(item.public, SETS, self.seed, exam=QUESTIONS)
            ]
            for item in self.items
        ]
        proposed = answers(self.teacher, prompts, length=LESSON, seed=self.seed)
        rows = texts(proposed)
        exams = [
            [
                f"{item.public.question}{text}|?{x}"
                for text in row
                for x in asked_in_exam(item.public, QUESTIONS)
            ]
            for item, row in zip(self.items, rows, strict=True)
        ]
        said = [answers(student, exams, length=ANSWER, temperature=0.0) for student in self.students]
        sets = []
        for place, (item, row) in enumerate(zip(self.items, rows, strict=True)):
            wanted = [solution(question) for question in SameRule(QUESTIONS).questions(item.public)] * SETS
            rights = [
                sum(
                    one.text[-1:] == gold
                    for given in said
                    for one, gold in list(zip(given[place], wanted, strict=True))[start : start + QUESTIONS]
                )
                for start in range(0, SETS * QUESTIONS, QUESTIONS)
            ]
            sets.append(row[rights.index(max(rights))])
        return _Written(
            sets=sets, first=[row[0] for row in rows], tokens=tokens(proposed) + sum(map(tokens, said))
        )

    def taught(self, shown_to: Sequence[str]) -> list[float]:
        """By task the share of unseen questions that the students answer right with what they are shown."""
        asked = [
            [f"{text}|?{x}" for x in unseen_inputs(item.public)]
            for text, item in zip(shown_to, self.items, strict=True)
        ]
        said = [answers(student, asked, length=ANSWER, temperature=0.0) for student in self.students]
        return [
            fmean(
                one.text[-1:] == str(read(item.public)[0].of(x))
                for given in said
                for x, one in zip(unseen_inputs(item.public), given[place], strict=True)
            )
            for place, item in enumerate(self.items)
        ]
