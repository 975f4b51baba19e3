"""Evaluation results: one record for each item, a summary, and their form on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from docendo.checks import given_path, is_number, short
from docendo.errors import DataError, IntegrityError, StorageError
from docendo.evals.harness._measured import Measured
from docendo.evals.harness._records import COSTS, EvalRecord
from docendo.evals.statistics import wilson
from docendo.files import write_json, write_text
from docendo.hashing import digest
from docendo.records import Record, Usage

_FORMAT = 2
_ITEMS, _COSTS, _SUMMARY = "items.jsonl", "costs.jsonl", "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalCost(Record):
    """What an evaluation cost, and what that makes for each right answer.

    Attributes:
        correct: Number of right answers.
        prompt_tokens: Tokens read, those from a stored prefix included.
        generated_tokens: Tokens written.
        seconds: Compute seconds.
        flops: Estimated floating-point operations, or None if unknown.

    Example:
        >>> EvalCost(correct=4, prompt_tokens=300, generated_tokens=100, seconds=2.0).tokens_per_correct
        100.0
    """

    correct: int
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    flops: float | None = None

    @property
    def tokens_per_correct(self) -> float | None:
        """Tokens read and written for each right answer; None if there is none."""
        return self._share(self.prompt_tokens + self.generated_tokens)

    @property
    def seconds_per_correct(self) -> float | None:
        """Compute seconds for each right answer; None if there is none."""
        return self._share(self.seconds)

    @property
    def flops_per_correct(self) -> float | None:
        """Floating-point operations for each right answer; None if there is none, or they are unknown."""
        return None if self.flops is None else self._share(self.flops)

    def _share(self, total: float) -> float | None:
        return total / self.correct if self.correct else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult(Measured, Record):
    """The outcome of an evaluation.

    Attributes:
        name: Name of the evaluation, such as "before".
        task: Name of the task.
        scorer: Name of the scorer.
        records: One record for each item, in the order of the items.
        majority: Accuracy of always giving the most frequent gold answer, or None if unknown.
        chance: Accuracy of guessing among the choices, or None without choices.
        baselines: Majority and chance of each stratum, by its name; empty if unknown.
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
    baselines: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
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

    @property
    def flops(self) -> float:
        """Estimated floating-point operations of all items; 0 if unknown."""
        return sum(record.flops for record in self.records)

    @property
    def cost(self) -> EvalCost:
        """What a right answer cost, the wrong and the failed ones included."""
        usage, seconds = self.usage, sum(record.seconds for record in self.records)
        return EvalCost(
            correct=self.correct,
            prompt_tokens=usage.prompt_tokens,
            generated_tokens=usage.generated_tokens,
            seconds=seconds,
            flops=self.flops or None,
        )

    @property
    def strata(self) -> dict[str, EvalResult]:
        """The result of each stratum by its name, in order of first appearance, with its own baselines."""
        parts: dict[str, list[EvalRecord]] = {}
        for record in self.records:
            parts.setdefault(record.stratum, []).append(record)
        found = {}
        for name, records in parts.items():
            majority, chance = self.baselines.get(name, (None, None))
            found[name] = self.replace(
                name=name,
                records=tuple(records),
                majority=majority,
                chance=chance,
                baselines={name: (majority, chance)},
            )
        return found

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
            "baselines": {name: list(each) for name, each in self.baselines.items()},
            "model": self.model,
            "adapter": self.adapter,
            "sampling": dict(self.sampling),
            "usage": self.usage.to_json(),
            "flops": self.flops,
            "seconds": self.seconds,
        }

    def save(self, path: str | Path) -> Path:
        """Writes `items.jsonl`, `costs.jsonl` and then `summary.json` into a folder, each atomically.

        What was answered is in `items.jsonl`, what it cost in `costs.jsonl`: an evaluation that was stopped
        and resumed has the same items, byte for byte, as one that was not, where the engine's answers do not
        depend on the batch (`determinism="invariant"`). Other files of the folder stay. `load` reads it
        back without loss.

        Raises:
            StorageError: if the folder cannot be written.
        """
        folder = given_path("path", path)
        rows = [record.to_json() for record in self.records]
        costs = [{"item": row["item"], **{name: row.pop(name) for name in COSTS}} for row in rows]
        write_text(folder / _ITEMS, _lines(rows))
        write_text(folder / _COSTS, _lines(costs))
        write_json(folder / _SUMMARY, {**self.summary(), "format": _FORMAT, "records": digest(rows)})
        return folder

    @classmethod
    def load(cls, path: str | Path) -> EvalResult:
        """Reads a folder written by `save`.

        Raises:
            DataError: if the folder holds no result.
            IntegrityError: if the records are not those that the summary was written for.
        """
        folder = given_path("path", path)
        summary, lines = _read(folder, _SUMMARY), _read(folder, _ITEMS).splitlines()
        try:
            facts = _facts(json.loads(summary))
            rows, stored = [json.loads(line) for line in lines], facts["records"]
            # In format 1 a row held its costs.
            spent = [{}] * len(rows) if facts["format"] == 1 else _costs(folder, rows)
            result = cls(
                **{key: facts[key] for key in _KEPT},
                # Not known of results that were stored before.
                baselines={name: tuple(each) for name, each in facts.get("baselines", {}).items()},
                records=tuple(
                    EvalRecord.from_json({**row, **cost}) for row, cost in zip(rows, spent, strict=True)
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    # ASCII escapes keep lone surrogates, which model output can hold.
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _facts(summary: Any) -> Any:
    """The summary, whose names are text and whose numbers are numbers."""
    good = {key: isinstance(summary[key], str) for key in ("name", "task", "scorer", "model")}
    good |= {key: summary[key] is None or is_number(summary[key]) for key in ("majority", "chance")}
    good["seconds"] = is_number(summary["seconds"])
    if wrong := [key for key, right in good.items() if not right]:
        raise TypeError(f"{wrong[0]} is {short(summary[wrong[0]])}")
    return summary


def _costs(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    costs = [json.loads(line) for line in _read(folder, _COSTS).splitlines()]
    if [cost["item"] for cost in costs] != [row["item"] for row in rows]:
        raise IntegrityError(f"{folder / _COSTS} does not match {_ITEMS}; evaluate again or restore the file")
    # Nothing else: no digest is of it, so it must not change what was answered.
    costs = [{name: cost[name] for name in COSTS} for cost in costs]
    for cost in costs:
        spent = (cost["seconds"], cost["flops"], *cost["usage"].values())
        if not all(is_number(each) and each >= 0 for each in spent):
            raise ValueError(f"an item cost {short(cost)}")
    return costs


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
