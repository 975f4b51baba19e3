"""Expert iteration: sample, keep what is verified, train on it, repeat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.checks import is_count, is_number
from docendo.distill.rounds._arrows import ExpertArrows, base_model, require_parts
from docendo.distill.rounds._report import RoundsReport
from docendo.distill.rounds._scheduler import Scheduler
from docendo.distill.training._config import TrainConfig
from docendo.errors import ConfigError
from docendo.evals import Task

if TYPE_CHECKING:
    from docendo.agents import Agent
    from docendo.distill.rounds._round import Round

_TRAINING = TrainConfig()


def expert_iteration(
    student: Agent,
    tasks: Task,
    *,
    folder: str | Path,
    rounds: int = 3,
    samples: int = 8,
    temperature: float = 0.8,
    max_per_item: int = 4,
    accumulate: bool = True,
    scheduler: Scheduler | None = None,
    graph: Callable[[Agent, Round], Any] | None = None,
    config: TrainConfig = _TRAINING,
    model: str | Path | None = None,
    tokens: int | None = None,
    seed: int = 0,
    resume: bool = False,
    quiet: bool = False,
) -> RoundsReport:
    """Trains a student on its own verified answers, round after round.

    In each round the newest student draws `samples` answers to training items, those that the scorer accepts
    become training rows under the student's plain prompt, and a fresh adapter on the base model is trained on
    them: expert iteration (Anthony and others 2017, arXiv 1705.08439) as in STaR (Zelikman and others 2022,
    arXiv 2203.14465, without its rationalisation) and ReST-EM (Singh and others 2023, arXiv 2312.06585); both
    restart from the base in every round. Accuracy by round is that on development items; the test items
    are left to the gate (`learn`), and the verdict belongs to the last round, not to the best.

    Args:
        student: The agent that learns; its engine needs the model's weights at hand (`Engine.load`).
        tasks: Training items to sample, development items to measure, test items that must not be learnt.
        folder: Folder of the rounds, as for `Rounds.run`; adapters are in `round-N/adapter`.
        rounds: Number of rounds.
        samples: Answers to draw for each item (8: enough to find one right answer where 1 in 4 is).
        temperature: Of these draws.
        max_per_item: Most different verified answers to learn of an item, easy ones would outweigh the others
            otherwise (ReST-EM's cut-off; 4 as in `sft_dataset`).
        accumulate: Learn from the answers of all rounds so far; False takes those of the newest student
            alone, as STaR and ReST-EM do, which wants every item asked in every round.
        scheduler: Which items are asked in a round; all of them without one. It is told how they fared.
        graph: Makes the graph that is run on a round's items, given the newest student and the round: one
            with a teacher or a tutor, such as `tutoring`. Whatever it verifies is learnt; the scheduler is
            told how turns of the student's role fared. By default the student draws `samples` answers.
        config: Settings of the training; its seed is replaced by that of the round.
        model: The base model to train, by default the one that the student's engine was loaded from.
        tokens: Budget, as for `Rounds.run`: tokens that are read and written in exams and evaluations.
        seed: Seed of everything.
        resume: Go on with rounds that were stopped.
        quiet: Print nothing.

    Returns:
        The report.

    Raises:
        DataError: if there are no training or no development items, or nothing was ever solved, so that there
            is nothing to learn from.
        ConfigError: if a setting cannot be used, or the base model is not at hand.
        LeakError: if a training item has the question of a development or test item.

    Example:
        >>> from docendo import Engine, Student, evals
        >>> task = evals.tasks("reasoning_gym:chain_sum", train=200, dev=100, test=200, max_terms=3)
        >>> with Engine.load("smollm2-135m-instruct") as engine:  # doctest: +SKIP
        ...     print(expert_iteration(Student(engine), task, folder="runs/expert", rounds=2))
    """
    if not (is_count(samples) and samples >= 1):
        raise ConfigError(f"samples is {samples!r}", expected="at least 1")
    if not (is_number(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature!r}", expected="more than 0")
    if not (is_count(max_per_item) and max_per_item >= 1):
        raise ConfigError(f"max_per_item is {max_per_item!r}", expected="at least 1")
    require_parts(tasks)
    arrows = ExpertArrows(
        student=student,
        tasks=tasks,
        folder=Path(folder).resolve(),
        samples=samples,
        temperature=temperature,
        max_per_item=max_per_item,
        accumulate=accumulate,
        scheduler=scheduler,
        fresh=scheduler.state_dict() if scheduler is not None else None,
        graph=graph,
        config=config,
        model=base_model(student.engine, model),
    )
    return arrows.loop().run(folder, rounds=rounds, seed=seed, tokens=tokens, resume=resume, quiet=quiet)
