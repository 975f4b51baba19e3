"""What a two-phase protocol keeps: finished runs, the frozen setting and the result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

from docendo.errors import ConfigError, IntegrityError, ResumeError, StorageError
from docendo.evals.items._scorer import normalise
from docendo.evals.items._tasks import Task
from docendo.files import write_json
from docendo.hashing import digest
from docendo.records import Record

Family: TypeAlias = "str | Task"

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPhaseResult(Record):
    """The result of a two-phase protocol.

    Attributes:
        metric: Name of the score.
        maximise: Whether a higher score is better.
        config: The settings that phase 1 chose.
        config_hash: Their digest, by which phase 2 knows them.
        seeds: The seeds, in the order of the scores.
        tuned_on: Families of phase 1.
        tuned: Mean score of the settings in phase 1; it was the best of many, so it flatters.
        scores: For each family of phase 2 its score with each seed.
        score: Mean score in phase 2: the one to report.
        conventional: Best mean score of any settings on the families of phase 2; None if not looked for.
        conventional_config: Those settings.
        runs: Number of runs by phase.
        seconds: Their wall seconds, those before a crash included; no part of equality.
    """

    metric: str
    maximise: bool
    config: Mapping[str, Any]
    config_hash: str
    seeds: tuple[int, ...]
    tuned_on: tuple[str, ...]
    tuned: float
    scores: Mapping[str, tuple[float, ...]]
    score: float
    conventional: float | None = None
    conventional_config: Mapping[str, Any] | None = None
    runs: Mapping[str, int] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a result stored by `to_json`."""
        scores = {family: tuple(given) for family, given in value["scores"].items()}
        tuples = {name: tuple(value[name]) for name in ("seeds", "tuned_on")}
        return cls(**{**value, **tuples, "scores": scores})

    @property
    def optimism(self) -> float | None:
        """How much better the conventional score looks, 0 or more; None if it was not looked for."""
        if self.conventional is None:
            return None
        return (self.conventional - self.score) * (1 if self.maximise else -1)

    def __str__(self) -> str:
        wide = max(19, *(2 + len(family) for family in self.scores))
        settings = json.dumps(self.config, sort_keys=True)
        lines = [
            f"{f'two-phase {self.metric}':<{wide}}  {self.score:.3f}  settings {settings}, chosen on "
            f"{', '.join(self.tuned_on)}"
        ]
        for family, scores in self.scores.items():
            mean = sum(scores) / len(scores)
            lines.append(f"{f'  {family}':<{wide}}  {mean:.3f}  {' '.join(f'{one:.3f}' for one in scores)}")
        if self.conventional is not None and self.optimism is not None:
            other = json.dumps(self.conventional_config, sort_keys=True)
            lines.append(
                f"{'conventional':<{wide}}  {self.conventional:.3f}  settings {other}, the best on "
                f"{', '.join(self.scores)} itself"
            )
            lines.append(f"{'optimism gap':<{wide}}  {self.optimism:.3f}")
        lines.append(", ".join(f"{phase}: {count} runs" for phase, count in self.runs.items()))
        return "\n".join(lines)


class Ledger:
    """Finished runs and the frozen setting, in a file that is replaced as a whole after each run."""

    def __init__(self, path: Path | None, protocol: Mapping[str, Any]) -> None:
        """Reads what an earlier process has finished.

        Raises:
            ResumeError: if the file is of another protocol.
            IntegrityError: if it is damaged.
        """
        self._path, self._protocol = path, digest("two-phase", dict(protocol))
        self._runs: dict[str, dict[str, dict[str, float]]] = {"tune": {}, "evaluate": {}}
        self.frozen: str | None = None
        if path is not None and path.exists():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            runs, self.frozen, protocol = state["runs"], state["frozen"], state["protocol"]
            self._runs = {phase: dict(runs[phase]) for phase in self._runs}
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(f"it cannot be read: {type(error).__name__}") from error
        if state.get("format") != _FORMAT or protocol != self._protocol:
            raise ResumeError(
                f"{path} was written for other settings, families or seeds",
                remedy="use them again, or another state file",
            )

    def damaged(self, why: str) -> IntegrityError:
        """The error that says what is wrong with the file."""
        return IntegrityError(f"{self._path} is damaged ({why}); restore it or begin anew")

    def has(self, phase: str, config: str, family: str, seed: int) -> bool:
        """Whether a run has finished."""
        return _key(config, family, seed) in self._runs[phase]

    def score(self, phase: str, config: str, family: str, seed: int) -> float:
        """The score of a finished run."""
        return float(self._runs[phase][_key(config, family, seed)]["score"])

    def add(self, phase: str, config: str, family: str, seed: int, *, score: float, seconds: float) -> None:
        """Keeps a finished run."""
        self._runs[phase][_key(config, family, seed)] = {"score": score, "seconds": round(seconds, 3)}
        self._save()

    def freeze(self, config: str) -> None:
        """Keeps the winner of phase 1."""
        self.frozen = config
        self._save()

    def count(self) -> dict[str, int]:
        """Number of runs by phase; those of other settings than the frozen one on the last families apart."""
        judged = sum(key.startswith(str(self.frozen)) for key in self._runs["evaluate"])
        counts = {"phase 1": len(self._runs["tune"]), "phase 2": judged}
        others = len(self._runs["evaluate"]) - judged
        return {**counts, "conventional": others} if others else counts

    def seconds(self) -> float:
        """Wall seconds of all runs."""
        return sum(run["seconds"] for phase in self._runs.values() for run in phase.values())

    def _save(self) -> None:
        if self._path is not None:
            write_json(
                self._path,
                {
                    "format": _FORMAT,
                    "protocol": self._protocol,
                    "frozen": self.frozen,
                    "runs": self._runs,
                },
            )


def _key(config: str, family: str, seed: int) -> str:
    return f"{config}/{seed}/{family}"


def family_name(family: Family) -> str:
    """The name of a family.

    Raises:
        ConfigError: if it is neither a name nor a task.
    """
    given: object = family
    if isinstance(family, Task):
        return family.name
    if not isinstance(given, str) or not given.strip():
        raise ConfigError(f"a family is {given!r}", expected="a name or a task")
    return family


def check_disjoint(tune: Iterable[Family], evaluate: Iterable[Family]) -> None:
    """Refuses families that are the same data under two names.

    Raises:
        ConfigError: naming two families and what they share.
    """
    known = [(family_name(family), _sources(family), _questions(family)) for family in tune]
    for family in evaluate:
        name, sources, questions = family_name(family), _sources(family), _questions(family)
        for other, theirs, asked in known:
            if sources & theirs:
                raise ConfigError(
                    f"{name!r} is evaluated on and {other!r} tuned on, which are one source, "
                    f"{min(sources & theirs)!r}",
                    expected="other task families; another seed of a generator is not another one",
                )
            if questions & asked:
                raise ConfigError(
                    f"{name!r} is evaluated on and shares {len(questions & asked)} questions with {other!r}, "
                    f"such as {min(questions & asked)!r}"[:300],
                    expected="families without a common question",
                )


def _sources(family: Family) -> set[str]:
    """Names by which the data may be known, without `reasoning_gym:` and the like."""
    names = [family_name(family)]
    if isinstance(family, Task) and "source" in family.config:
        names.append(str(family.config["source"]))
    found = set()
    for name in names:
        kind, _, rest = name.strip().casefold().partition(":")
        # Of `datasets:PATH:split` the path counts: two splits are one source.
        found.add(rest.partition(":")[0] if kind == "datasets" else rest or kind)
    return found


def _questions(family: Family) -> set[str]:
    if not isinstance(family, Task):
        return set()
    return {normalise(item.public.question) for item in (*family.train, *family.dev, *family.test)}
