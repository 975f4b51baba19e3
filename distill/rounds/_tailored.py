"""Learn-to-Reason: an exam, lessons about what went wrong, training on them, and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.agents import Verifier
from docendo.checks import check_count, is_number
from docendo.distill.datasets._candidates import name_of
from docendo.distill.datasets._feedback import LessonRow, feedback_dataset
from docendo.distill.rounds._arrows import ExpertArrows, base_model, require_parts
from docendo.distill.rounds._report import RoundsReport
from docendo.distill.rounds._round import Round
from docendo.distill.training._config import TrainConfig
from docendo.errors import ConfigError
from docendo.evals import Task
from docendo.graphs import tailored_lessons

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.agents import Agent
    from docendo.distill.objectives._objective import Objective
    from docendo.graphs import Grader
    from docendo.records import Trace

_TRAINING = TrainConfig()


def tailored_rounds(
    student: Agent,
    teacher: Agent,
    tasks: Task,
    *,
    folder: str | Path,
    rounds: int = 3,
    attempts: int = 4,
    temperature: float = 1.0,
    mistakes: int = 1,
    lessons: Grader | None = None,
    row: LessonRow | None = None,
    sitter: Callable[[Agent], Agent] | None = None,
    accumulate: bool = True,
    objective: Objective | None = None,
    config: TrainConfig = _TRAINING,
    model: str | Path | None = None,
    tokens: int | None = None,
    seed: int = 0,
    resume: bool = False,
    quiet: bool = False,
) -> RoundsReport:
    r"""Trains a student on a teacher's lessons about the student's own mistakes, round after round.

    Learn-to-Reason (Wang et al. 2023, arXiv 2310.13332): in each round the newest student sits an exam on the
    training items, the teacher sees its wrong attempts and writes lessons about them, lessons that are right
    become rows, and the student's adapter is trained further on them. With `CrossEntropy() + 0.5 *
    TripletHidden()` (weight and margin of the authors' code) as the objective and rows that have `positives`
    and `negatives` it reflects on its mistakes as well. Accuracy by round is that on development items.

    Args:
        student: The agent that learns; its engine needs the model's weights at hand (`Engine.load`).
        teacher: Who writes lessons; its prompt has the field `{attempt}`, and `sampling.n` lessons are
            drawn for each mistake.
        tasks: Training items for the exam, development items to measure, test items that must not be learnt.
        folder: Folder of the rounds, as for `Rounds.run`; adapters are in `round-N/adapter`.
        rounds: Number of rounds (3: this project's choice; the authors stop when development items do not
            improve any more).
        attempts: Attempts at each item (4: the authors' code).
        temperature: Of attempts.
        mistakes: Most different mistakes of an item that the teacher is shown.
        lessons: Judges lessons; by default the task's scorer, for lessons that answer the same question.
        row: Makes rows of lessons, as for `feedback_dataset`; by default they are answers to the question.
        sitter: Who sits the exam in a student's place, given the newest student: as a control, for lessons
            about the mistakes of somebody else. It has the student's role.
        accumulate: Learn from the lessons of all rounds so far.
        objective: What is minimised, as for `train`.
        config: Settings of the training of a round; its seed is replaced by that of the round.
        model: The base model to train, by default the one that the student's engine was loaded from.
        tokens: Budget, as for `Rounds.run`.
        seed: Seed of everything.
        resume: Go on with rounds that were stopped.
        quiet: Print nothing.

    Returns:
        The report.

    Raises:
        DataError: if there are no training or no development items, or no round has a right lesson.
        ConfigError: if a setting cannot be used, or the base model is not at hand.
        LeakError: if a training item has the question of a development or test item.

    Example:
        >>> from docendo import Engine, Student, Teacher, evals
        >>> task = evals.tasks("reasoning_gym:chain_sum", train=200, dev=100, test=200, max_terms=3)
        >>> with Engine.load("smollm2-135m-instruct") as engine:  # doctest: +SKIP
        ...     teacher = Teacher(engine, prompt="{question}\nWrong: {attempt}\nExplain it step by step.")
        ...     print(tailored_rounds(Student(engine), teacher, task, folder="runs/tailored"))
    """
    check_count("attempts", attempts, 1)
    if not (is_number(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature!r}", expected="more than 0")
    require_parts(tasks)
    drawn = {"n": attempts, "temperature": temperature, "seed": None}
    judge = lessons or Verifier(tasks.scorer)

    def graph(learner: Agent, round: Round) -> Any:
        sitting = learner if sitter is None else sitter(learner)
        return tailored_lessons(
            student=sitting.with_sampling(**drawn),
            teacher=teacher,
            verifier=Verifier(tasks.scorer),
            lessons=judge,
            mistakes=mistakes,
        )

    arrows = _TailoredArrows(
        student=student,
        tasks=tasks,
        folder=Path(folder).resolve(),
        samples=attempts,
        temperature=temperature,
        max_per_item=attempts,
        accumulate=accumulate,
        scheduler=None,
        fresh=None,
        graph=graph,
        config=config,
        model=base_model(student.engine, model),
        teacher=teacher,
        sitting=sitter(student).describe() if sitter is not None else None,
        row=row,
        objective=objective,
    )
    return arrows.loop().run(folder, rounds=rounds, seed=seed, tokens=tokens, resume=resume, quiet=quiet)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TailoredArrows(ExpertArrows):
    """The arrows over the arguments of `tailored_rounds`; exam and measurement are expert iteration's."""

    teacher: Agent
    sitting: Mapping[str, Any] | None
    row: LessonRow | None
    objective: Objective | None

    def identity(self) -> dict[str, Any]:
        """What the results depend on; the lessons' verifier is in the configuration of each exam's run."""
        return {
            **ExpertArrows.identity(self),
            "method": "tailored rounds",
            "teacher": self.teacher.describe(),
            "sitter": self.sitting,
            "row": name_of(self.row) if self.row is not None else None,
            "objective": self.objective.identity() if self.objective is not None else None,
        }

    def _rows(self, said: Sequence[Trace], round: Round) -> Dataset:
        """Right lessons."""
        return feedback_dataset(
            said,
            items=self.tasks.train,
            exclude=[*self.tasks.dev, *self.tasks.test],
            student=self.student,
            row=self.row,
            teacher_role=self.teacher.role,
            database=round.database,
            quiet=True,
        )

    def _training(self, round: Round) -> Mapping[str, Any]:
        """The newest adapter is trained further."""
        newest = round.latest("fit")
        parent = self.folder / newest["adapter"] if newest is not None else None
        return {"parent": parent, "objective": self.objective}
