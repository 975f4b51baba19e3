"""Reading what a report is made of: result folders, comparison folders, run folders."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from docendo.checks import given_path
from docendo.errors import DataError, StorageError
from docendo.evals.comparison._outcome import Outcome
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult
from docendo.evals.reports._parts import Curve
from docendo.evals.reports._report import ReportData
from docendo.evals.reports._subjects import Subject
from docendo.evals.statistics import wilson

_OUTCOME, _SETTINGS, _REPORT = "outcome.json", "comparison.json", "report.json"
_ITEMS, _SUMMARY, _SEED = "items.jsonl", "summary.json", re.compile(r"seed-(-?[0-9]+)")
_BEFORE, _AFTER = "before", "after"
_FACTS = ("name", "task", "scorer", "majority", "chance", "model", "adapter", "sampling", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one folder holds.

    Attributes:
        place: The folder as it was given; empty for a result in memory.
        subjects: Its evaluations; `against` is set where the folder says what they are compared with.
        outcome: Its verdicts, if it is the folder of a comparison.
        run: What its own report shows, if it is the folder of a run.
        stages: Curves of its rounds.
    """

    place: str
    subjects: tuple[Subject, ...]
    outcome: Outcome | None = None
    run: ReportData | None = None
    stages: tuple[Curve, ...] = ()

    @property
    def folder(self) -> str:
        """The folder's own name."""
        return Path(self.place).resolve().name if self.place else ""


def read_source(
    given: EvalResult | str | Path, *, load: Callable[[Path], EvalResult] = EvalResult.load
) -> Source:
    """Reads a folder of any kind, or takes a result as it is.

    Args:
        given: A result; a folder of one, of a comparison, of a run, or of `seed-N` results.
        load: How a single result is read.

    Raises:
        DataError: if the folder holds no result, or a comparison that is not finished.
        IntegrityError: if a result was changed after it was written.
        StorageError: if a file cannot be read.
    """
    if isinstance(given, EvalResult):
        return Source(place="", subjects=(Subject(name=given.name or given.task, results=(given,)),))
    folder = given_path("a result", given)
    if (folder / _OUTCOME).exists() or (folder / _SETTINGS).exists():
        return _comparison(folder)
    if (folder / _REPORT).exists():
        return _run(folder)
    seeds = _seeds(folder)
    if seeds:
        runs = tuple(EvalResult.load(each) for each in seeds.values())
        name = folder.resolve().name
        subject = Subject(name=name, results=runs, seeds=tuple(seeds), every_sample=True)
    else:
        result = load(folder)
        subject = Subject(name=result.name or result.task, results=(result,))
    return Source(place=str(given), subjects=(subject,))


def _seeds(folder: Path) -> dict[int, Path]:
    """The results of a folder of `seed-N` folders, in the order of the seeds."""
    found = ((_SEED.fullmatch(each.parent.name), each.parent) for each in folder.glob(f"seed-*/{_SUMMARY}"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def named_apart(sources: Sequence[Source]) -> list[Source]:
    """Gives every subject a name of its own: where two are equal their folders' names are added.

    Example:
        >>> def source(place):
        ...     return Source(place=place, subjects=(Subject(name="eval", results=()),))
        >>> [one.subjects[0].name for one in named_apart([source("runs/a"), source("runs/b"), source("")])]
        ['a/eval', 'b/eval', 'eval']
    """
    flat = [(source, subject.name) for source in sources for subject in source.subjects]
    names = [name for _, name in flat]
    for full in (False, True):
        counts = Counter(names)
        names = [
            name if counts[name] == 1 else _longer(source, own, full=full)
            for name, (source, own) in zip(names, flat, strict=True)
        ]
    left = iter(_numbered(names))
    renamed = []
    for source in sources:
        new = {subject.name: next(left) for subject in source.subjects}
        subjects = tuple(
            replace(subject, name=new[subject.name], against=new.get(subject.against or ""))
            for subject in source.subjects
        )
        renamed.append(replace(source, subjects=subjects))
    return renamed


def _longer(source: Source, name: str, *, full: bool) -> str:
    place = source.place if full else source.folder
    return f"{place}/{name}" if place not in ("", name) else name


def _numbered(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    found = []
    for name in names:
        number, given = 2, name
        while name in seen:
            name, number = f"{given} ({number})", number + 1
        seen.add(name)
        found.append(name)
    return found


def _comparison(folder: Path) -> Source:
    if not (folder / _OUTCOME).exists():
        raise DataError(
            f"{folder} holds a comparison that is not finished",
            expected=f"an {_OUTCOME}",
            remedy="run it again, which goes on where it stopped",
        )
    try:
        outcome = Outcome.from_json(_json(folder / _OUTCOME))
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_a(f"{folder / _OUTCOME}", "comparison", error) from error
    subjects = tuple(
        Subject(
            name=arm.name,
            results=tuple(EvalResult.load(folder / arm.name / f"seed-{seed}") for seed in outcome.seeds),
            seeds=outcome.seeds,
            every_sample=True,
            against=None if arm.name == outcome.baseline else outcome.baseline,
            control=arm.name == outcome.control,
            spent=arm.spent,
            unit=outcome.unit,
        )
        for arm in outcome.arms
    )
    return Source(place=str(folder), subjects=subjects, outcome=outcome)


def _run(folder: Path) -> Source:
    """The folder of a recipe that measures before and after, such as that of `docendo quickstart`."""
    data, summary = _json(folder / _REPORT), _json(folder / _SUMMARY)
    lines = _text(folder / _ITEMS).splitlines()
    try:
        run = ReportData.from_json(data)
        rows = [json.loads(line) for line in lines]
        subjects = tuple(
            Subject(
                name=name,
                results=(
                    EvalResult(
                        **{fact: summary[name][fact] for fact in _FACTS},
                        records=tuple(EvalRecord.from_json(row[name]) for row in rows),
                    ),
                ),
                against=None if name == _BEFORE else _BEFORE,
            )
            for name in (_BEFORE, _AFTER)
        )
        stages = _rounds(folder, summary.get("rounds", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_a(str(folder), "run", error) from error
    return Source(place=str(folder), subjects=subjects, run=run, stages=stages)


def _rounds(folder: Path, rounds: Sequence[Any]) -> tuple[Curve, ...]:
    """The share of training items that were solved in each round, where there are several."""
    if len(rounds) < 2:
        return ()
    counts = [(int(each["solved"]), int(each["items"])) for each in rounds]
    return (
        Curve(
            name=folder.resolve().name,
            kind="training items solved",
            labels=tuple(f"round {number}" for number in range(1, len(rounds) + 1)),
            values=tuple(solved / items if items else 0.0 for solved, items in counts),
            intervals=tuple(wilson(solved, items) for solved, items in counts),
        ),
    )


def _not_a(place: str, kind: str, error: Exception) -> DataError:
    return DataError(
        f"{place} does not hold a {kind} ({type(error).__name__}: {error})",
        expected=f"what docendo wrote when the {kind} ended",
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})", remedy="restore the file or run again") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} holds no {path.name}", expected="the folder of a run that ended"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}", remedy="restore the file") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
