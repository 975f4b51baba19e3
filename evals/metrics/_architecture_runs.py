"""Runs of agent architectures as rows of a regression: what is known of each before it is run on a task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from docendo.checks import is_count, is_number
from docendo.errors import DataError
from docendo.evals.metrics._coordination_report import CoordinationReport
from docendo.records import Record

# Task families, and runs for each predictor and the constant, that a fit needs.
_FAMILIES, _PER_PREDICTOR = 3, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureRun(Record):
    """One architecture on one task.

    Attributes:
        architecture: Its name, the same on every task, such as "single", "star" or "blackboard".
        family: The task's family; whole families are held out when the model is judged.
        task: Name of the task.
        score: What it reached, such as its accuracy.
        single: What the single agent reaches on the task, known beforehand; measure it on other items than
            `score`, of the dev split, say.
        agents: Number of agents.
        turn_ratio: Turns beside those of the single agent, T / T_SAS; 1 of the single agent itself.
        message_density: Messages for each turn.
        redundancy: Mean pairwise cosine of the agents' outputs; 0 for one agent.
        features: More numbers that are known of the task, the same names in every run, such as {"tools": 3}.
            "tools" enters as ln(1 + tools), as in the paper; others enter as they are.

    Example:
        >>> ArchitectureRun(
        ...     architecture="star", family="sums", task="sums/long", score=0.6, single=0.5, turn_ratio=4
        ... ).agents
        1
    """

    architecture: str
    family: str
    task: str
    score: float
    single: float
    agents: int = 1
    turn_ratio: float = 1.0
    message_density: float = 0.0
    redundancy: float = 0.0
    features: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that every number is one."""
        numbers = ("score", "single", "turn_ratio", "message_density", "redundancy")
        checks = [(name, is_number(getattr(self, name)), "a finite number") for name in numbers]
        checks += [
            (f"features[{name!r}]", is_number(v), "a finite number") for name, v in self.features.items()
        ]
        checks += [
            ("agents", is_count(self.agents) and self.agents >= 1, "1 or more"),
            ("turn_ratio", is_number(self.turn_ratio) and self.turn_ratio > 0, "more than 0"),
            ("features['tools']", self.features.get("tools", 0) > -1, "0 or more"),
        ]
        for name, good, expected in checks:
            if not good:
                raise DataError(
                    f"{name} of {self.architecture!r} on {self.task!r} is not usable", expected=expected
                )

    @classmethod
    def of(
        cls,
        report: CoordinationReport,
        *,
        architecture: str,
        family: str,
        task: str,
        single: float,
        features: Mapping[str, float] | None = None,
    ) -> Self:
        """Makes a row of a run's coordination metrics.

        Raises:
            DataError: if the report has no baseline, or no turns.
        """
        overhead, score, density = report.overhead.value, report.success.value, report.message_density.value
        if overhead is None or score is None or density is None:
            raise DataError(
                f"the report of {report.name!r} has no overhead ({report.overhead.reason})",
                expected="one with a single agent as baseline",
            )
        return cls(
            architecture=architecture,
            family=family,
            task=task,
            score=score,
            single=single,
            agents=max(1, report.agents),
            turn_ratio=1 + overhead / 100,
            message_density=density,
            redundancy=report.redundancy.value or 0.0,
            features=dict(features or {}),
        )


def predictors(features: Sequence[str]) -> tuple[str, ...]:
    """Names of the regression's predictors: the paper's, without those that the outcome itself is part of.

    Efficiency and error amplification are made of the score that is to be predicted, so they are left out.
    """
    return (
        "single",
        "log_agents",
        "log_turns",
        "message_density",
        "redundancy",
        "single*log_agents",
        "redundancy*log_agents",
        *features,
        *(f"{name}*log_turns" for name in features),
    )


def checked(runs: Iterable[ArchitectureRun], single: str) -> list[ArchitectureRun]:
    """Returns the runs in a fixed order, if a model can be fitted to them and judged.

    Raises:
        DataError: if not, saying what is missing.
    """
    runs = sorted(runs, key=lambda run: (run.family, run.task, run.architecture, run.score, run.single))
    names = {tuple(sorted(run.features)) for run in runs}
    if len(names) > 1:
        shown = " and ".join(sorted(", ".join(one) or "none" for one in names)[:2])
        raise DataError(f"the runs have different features: {shown}", expected="the same names in every run")
    families = len({run.family for run in runs})
    needed = _PER_PREDICTOR * (1 + len(predictors(*names))) if names else 0
    if families < _FAMILIES or len(runs) < needed:
        raise DataError(
            f"there are {len(runs)} runs of {families} task families",
            expected=f"at least {needed or 'some'} runs of {_FAMILIES} families or more",
            remedy="run more tasks, or give fewer features",
        )
    _check_crossed(runs, single)
    if len({run.score for run in runs if run.architecture != single}) == 1:
        raise DataError("every multi-agent run has the same score", expected="scores that differ")
    return runs


def _check_crossed(runs: Sequence[ArchitectureRun], single: str) -> None:
    """Every task has a single agent to compare with, every held-out architecture is known elsewhere."""
    tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
    homes: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        tasks[run.family, run.task].add(run.architecture)
        homes[run.architecture].add(run.family)
    lonely = [task for (_, task), there in tasks.items() if single not in there]
    if lonely:
        raise DataError(
            f"task {lonely[0]!r} has no run of the architecture {single!r}",
            expected="one for every task",
            remedy="run it, or say what the single agent is called with single=",
        )
    if len(homes) < 2:
        raise DataError(f"there is only the architecture {single!r}", expected="two or more")
    rare = [name for name, there in homes.items() if len(there) < 2]
    if rare:
        raise DataError(
            f"architecture {rare[0]!r} was run on one task family", expected="two or more, to hold one out"
        )
