"""What a comparison keeps of each run of an arm: its evaluation, what it spent, and on what it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.errors import DataError, ResumeError, StorageError
from docendo.evals.comparison._meter import UNITS
from docendo.evals.harness._results import EvalResult
from docendo.files import write_json
from docendo.hashing import digest

if TYPE_CHECKING:
    from docendo.agents import EngineProtocol

#: Files of a comparison's folder beside those of its arms, and of a run's folder beside its evaluation.
SETTINGS, OUTCOME, LOCK = "comparison.json", "outcome.json", "comparison.lock"
SPENT, LOG = "spent.json", "spending.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What one run spent.

    Attributes:
        total: All of it, by unit.
        before: What of it was spent before the run was interrupted, by unit; empty if it never was.
    """

    total: Mapping[str, float]
    before: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run of an arm with one seed.

    Attributes:
        arm: Name of the arm.
        seed: The seed.
        result: Its evaluation.
        spending: What it spent.
        items: Digest of the ids and questions of the items; empty if unknown.
        engines: Fingerprints of the engines whose ledgers were counted; None if unknown.
        place: The folder that it was read from, or None if it was run just now.
    """

    arm: str
    seed: int
    result: EvalResult
    spending: Spending
    items: str = ""
    engines: tuple[str, ...] | None = None
    place: Path | None = None

    def __str__(self) -> str:
        return f"{self.arm!r} with seed {self.seed}"

    def save(self, folder: Path) -> None:
        """Writes the run: `spent.json` last, so that a run with it is finished."""
        self.result.save(folder)
        stored = {**self.spending.total, "before": dict(self.spending.before)}
        write_json(folder / SPENT, {**stored, "items": self.items, "engines": list(self.engines or ())})
        (folder / LOG).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path, *, arm: str, seed: int) -> Run | None:
        """Reads a run, or returns None if the folder holds no finished one.

        Raises:
            ResumeError: if what it spent cannot be read.
            DataError: if its evaluation cannot be read.
            IntegrityError: if its evaluation was changed.
        """
        found = _stored(folder)
        if found is None:
            return None
        spending, facts = found
        engines = facts.get("engines")
        return cls(
            arm=arm,
            seed=seed,
            result=EvalResult.load(folder),
            spending=spending,
            items=str(facts.get("items", "")),
            engines=None if engines is None else tuple(engines),
            place=folder,
        )


def is_interrupted(folder: Path) -> bool:
    """Whether a folder holds the beginning of a run that was not finished."""
    return (folder / LOG).exists() and not (folder / SPENT).exists()


def spent_on(result: EvalResult) -> Spending:
    """What the evaluation itself spent, by its own account."""
    cost = result.cost
    return Spending(
        total={
            "tokens": cost.prompt_tokens + cost.generated_tokens,
            "generated tokens": cost.generated_tokens,
            "calls": len(result.records),
            "flops": cost.flops or 0.0,
            "seconds": cost.seconds,
        }
    )


def stored_spending(folder: Path) -> Spending | None:
    """What a finished run spent, or None if the folder holds none.

    Raises:
        ResumeError: if it cannot be read.
    """
    found = _stored(folder)
    return None if found is None else found[0]


def _stored(folder: Path) -> tuple[Spending, dict[str, Any]] | None:
    path = folder / SPENT
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        total = _by_unit(facts)
        before = _by_unit(facts["before"]) if facts.get("before") else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResumeError(
            f"cannot read {path} ({type(error).__name__}: {error})", remedy=f"remove {folder}"
        ) from error
    return Spending(total=total, before=before), facts


def _by_unit(facts: Mapping[str, Any]) -> dict[str, float]:
    return {unit: float(facts[unit]) for unit in UNITS}


def stored_rules(folder: Path) -> dict[str, Any] | None:
    """The arms and rules of the comparison that a folder holds, or None if it holds none.

    Raises:
        ResumeError: if they cannot be read.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {**stored, "arms": [str(name) for name in stored["arms"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(
            f"cannot read {path} ({type(error).__name__}: {error})", remedy="choose another folder"
        ) from error


def digest_of_items(result: EvalResult) -> str:
    """The digest of the items' ids and questions, whatever their order."""
    return digest(*sorted([record.item, record.question] for record in result.records))


def fingerprints(engines: Sequence[EngineProtocol]) -> tuple[str, ...]:
    """What the engines' models are known by."""
    return tuple(sorted({engine.fingerprint for engine in engines}))


def check_same_engines(run: Run, engines: Sequence[EngineProtocol]) -> None:
    """Checks that a stored run was counted at the same engines.

    Raises:
        ResumeError: if not.
    """
    now = fingerprints(engines)
    if run.engines not in (None, now):
        shown, expected = (
            ", ".join(name[:12] for name in each) or "none" for each in (run.engines or (), now)
        )
        raise ResumeError(
            f"{run.place} was run with the engines {shown}, and now they are {expected}",
            expected="the same engines for all runs of a comparison",
            remedy="use the old engines, or another folder",
        )


def check_same_items(new: Run, others: Iterable[Run]) -> None:
    """Checks that a run was evaluated on the items of the runs before it.

    Raises:
        DataError: if it was not.
        ResumeError: if it was not, and the other run was read from a folder.
    """
    other = next((run for run in others if run.items not in ("", new.items)), None)
    if other is None or not new.items:
        return
    seen = (
        f"{new} was evaluated on other items ({len(new.result.records)}) "
        f"than {other} ({len(other.result.records)})"
    )
    expected, remedy = (
        "the same ids and questions in all runs of a comparison",
        "use the same task and settings",
    )
    if other.place is None:
        raise DataError(seen, expected=expected, remedy=remedy)
    raise ResumeError(seen, expected=expected, remedy=f"{remedy}, or another folder")


def check_same_model(new: Run, others: Iterable[Run]) -> None:
    """Checks that an arm goes on with the model of its stored runs, unless they have several already.

    Raises:
        ResumeError: if it does not.
    """
    models = {run.result.model for run in others if run.place and run.arm == new.arm and run.result.model}
    if len(models) == 1 and new.result.model not in (*models, ""):
        raise ResumeError(
            f"{new} has the model {new.result.model[:12]}, and its stored runs have {models.pop()[:12]}",
            expected="the same model as before",
            remedy="use the old model, or another folder",
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a comparison's folder.

    Raises:
        StorageError: if one is in it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The lock file stays: removing one that another process has just opened would let two in.
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"another process runs the comparison in {folder}; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}; choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
