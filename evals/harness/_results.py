"""Evaluation results: one record for each item, a summary, and their form on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Self

from docendo.errors import DataError, IntegrityError, StorageError
from docendo.evals.statistics._stats import wilson
from docendo.files import write_json, write_text
from docendo.hashing import digest
from docendo.records import Record, Usage

_FORMAT = 1
_ITEMS, _SUMMARY = "items.jsonl", "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord(Record):
    """The outcome of one item.

    Attributes:
        item: Item id, by which two evaluations are paired.
        question: The question as the subject saw it.
        text: What the subject answered.
        parsed: The final answer read out of it, or None if there was none.
        correct: Whether it is right; None if the item failed, which is not a wrong answer.
        failure: Why no answer came or none was scored, beginning with who is to blame: `model: ...`,
            `task: ...` or `infrastructure: ...`.
        value: The scorer's own number, in which partial credit shows.
        score_failure: What the scorer choked on; the answer counts as wrong.
        usage: Tokens of the request.
        seconds: Wall seconds of the request.
    """

    item: str
    question: str
    text: str = ""
    parsed: str | None = None
    correct: bool | None = None
    failure: str | None = None
    value: float = 0.0
    score_failure: str | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a record stored by `to_json`."""
        return cls(**{**value, "usage": Usage(**value.get("usage", {}))})


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult(Record):
    """The outcome of an evaluation.

    Attributes:
        name: Name of the evaluation, such as "before".
        task: Name of the task.
        scorer: Name of the scorer.
        records: One record for each item, in the order of the items.
        majority: Accuracy of always giving the most frequent gold answer, or None if unknown.
        chance: Accuracy of guessing among the choices, or None without choices.
        model: Fingerprint of the base model, or empty.
        adapter: SHA-256 of the adapter, or None.
        sampling: Decoding settings as JSON.
        seconds: Wall seconds of the whole evaluation.
    """

    name: str
    task: str
    scorer: str
    records: tuple[EvalRecord, ...]
    majority: float | None = None
    chance: float | None = None
    model: str = ""
    adapter: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def n(self) -> int:
        """Number of items that were answered and scored."""
        return sum(record.correct is not None for record in self.records)

    @property
    def correct(self) -> int:
        """Number of right answers."""
        return sum(record.correct is True for record in self.records)

    @property
    def failed(self) -> int:
        """Number of items without a scored answer; they count neither as right nor as wrong."""
        return len(self.records) - self.n

    @property
    def accuracy(self) -> float:
        """Share of right answers among the answered items; NaN if every item failed."""
        return self.correct / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.correct, self.n)

    @property
    def usage(self) -> Usage:
        """Tokens of all items."""
        return reduce(Usage.__add__, (record.usage for record in self.records), Usage())

    def __str__(self) -> str:
        low, high = self.interval
        line = f"{self.name or self.task}: {_percent(self.accuracy)} ({self.correct}/{self.n}"
        line += f", 95 % interval {_percent(low)} to {_percent(high)})"
        baselines = (("majority answer", self.majority), ("chance", self.chance))
        line += "".join(f", {label} {_percent(share)}" for label, share in baselines if share is not None)
        return line + (f", {self.failed} failed" if self.failed else "")

    def summary(self) -> dict[str, Any]:
        """Returns everything but the records, as JSON."""
        low, high = self.interval
        return {
            "name": self.name,
            "task": self.task,
            "scorer": self.scorer,
            "accuracy": self.accuracy if self.n else None,
            "interval": [low, high],
            "n": self.n,
            "correct": self.correct,
            "failed": self.failed,
            "score_failures": sum(record.score_failure is not None for record in self.records),
            "majority": self.majority,
            "chance": self.chance,
            "model": self.model,
            "adapter": self.adapter,
            "sampling": dict(self.sampling),
            "usage": self.usage.to_json(),
            "seconds": self.seconds,
        }

    def save(self, path: str | Path) -> Path:
        """Writes `items.jsonl` and then `summary.json` into the folder `path`, each atomically.

        Other files of the folder stay. `load` reads it back without loss.

        Raises:
            StorageError: if the folder cannot be written.
        """
        folder = Path(path)
        rows = [record.to_json() for record in self.records]
        # ASCII escapes keep lone surrogates, which model output can hold.
        write_text(folder / _ITEMS, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        write_json(folder / _SUMMARY, {**self.summary(), "format": _FORMAT, "records": digest(rows)})
        return folder

    @classmethod
    def load(cls, path: str | Path) -> EvalResult:
        """Reads a folder written by `save`.

        Raises:
            DataError: if the folder holds no result.
            IntegrityError: if the records are not those that the summary was written for.
        """
        folder = Path(path)
        summary = _read(folder, _SUMMARY)
        lines = _read(folder, _ITEMS).splitlines()
        try:
            facts = json.loads(summary)
            rows = [json.loads(line) for line in lines]
            stored = facts["records"]
            result = cls(
                **{key: facts[key] for key in _KEPT},
                records=tuple(EvalRecord.from_json(row) for row in rows),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder} does not hold an evaluation ({type(error).__name__}: {error})",
                expected=f"a {_SUMMARY} and {_ITEMS} written by docendo eval",
            ) from error
        if digest(rows) != stored:
            raise IntegrityError(
                f"{folder / _ITEMS} does not match {_SUMMARY}; evaluate again or restore the file"
            )
        return result


_KEPT = ("name", "task", "scorer", "majority", "chance", "model", "adapter", "sampling", "seconds")


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        inside = (
            sorted(child.parent.name for child in folder.glob(f"*/{_SUMMARY}")) if folder.is_dir() else []
        )
        raise DataError(
            f"{folder} holds no {name}",
            expected="a result folder written by docendo eval",
            remedy=f"did you mean {folder / inside[0]}?" if inside else None,
        ) from None
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{folder / name} is not UTF-8 at byte {error.start}; restore the file"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {folder / name}: {error.strerror or error}") from error


def _percent(share: float) -> str:
    return "no answers" if math.isnan(share) else f"{100 * share:.1f} %"
