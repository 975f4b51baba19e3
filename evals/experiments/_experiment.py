"""Running an experiment: one trial for each seed, kept as soon as it is finished, and its findings."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from docendo.checks import check_count, check_kind, given_path, short
from docendo.errors import ConfigError, DataError, IntegrityError, ResumeError, StorageError
from docendo.evals.experiments._commit import commit
from docendo.evals.experiments._findings import SEEDS, check_trial, findings, status
from docendo.evals.experiments._rules import Difference, Rule
from docendo.evals.experiments._trial import Trial
from docendo.files import write_json
from docendo.memory import DATABASE, Database, RunStore
from docendo.progress import say
from docendo.records import Record


class TrialFunction(Protocol):
    """One seed of an experiment. What it writes into its folder it may find again when it is resumed."""

    def __call__(self, config: Any, *, seed: int, folder: Path, quiet: bool) -> Trial:
        """Runs it."""


def experiment(*rules: Rule) -> Callable[[TrialFunction], Callable[..., dict[str, Any]]]:
    """Makes a recipe's function of a function of one seed.

    The function that results runs the trials of `config.seed`, `config.seed + 1` and so on,
    `config.seeds` of them. A trial that has finished is stored, so that an interrupted experiment goes on
    behind it. The summary says for each rule what was found: a claim is shown if the 95 % interval of the
    paired difference over seeds and items excludes zero and the costs that must be equal are. All rules must
    hold for "reproduced", so their number needs no correction. Fewer than five seeds decide nothing, nor do
    five that gave the same answers.

    Args:
        rules: What must be shown, fixed before the experiment runs: `gain`, `no_gain`, `shown`, `within`.

    Raises:
        ConfigError: if one is no rule, or none is a gain: an experiment whose controls alone hold has shown
            nothing.

    Example:
        >>> import dataclasses, pathlib, tempfile
        >>> from docendo.evals import Scores, Trial, gain
        >>> from docendo.records import Record
        >>> @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
        ... class Settings(Record):
        ...     seed: int = 0
        ...     seeds: int = 2
        >>> @experiment(gain("double", over="single"))
        ... def doubling(config, *, seed, folder, quiet):
        ...     single = {str(item): item / 9 for item in range(9)}
        ...     double = {item: 2 * value + seed / 9 for item, value in single.items()}
        ...     return Trial(arms={"single": Scores(values=single), "double": Scores(values=double)})
        >>> found = doubling(Settings(), folder=pathlib.Path(tempfile.mkdtemp()), quiet=True)
        >>> found["findings"][0]["name"], found["seeds"]
        ('double over single', [0, 1])
    """
    for rule in rules:
        if not isinstance(rule, Rule):
            raise ConfigError(
                f"a rule is {short(rule)}", expected="what gain, no_gain, shown or within returns"
            )
    if not any(isinstance(rule, Difference) and rule.expected == "gain" for rule in rules):
        raise ConfigError("an experiment claims nothing", expected="a gain(...) at least")

    def decorate(function: TrialFunction) -> Callable[..., dict[str, Any]]:
        if not callable(function):
            raise ConfigError(f"the experiment is {short(function)}", expected="a function of one seed")

        @functools.wraps(function)
        def run(
            config: Any, *, folder: str | Path, resume: bool = False, quiet: bool = False
        ) -> dict[str, Any]:
            path = given_path("folder", folder)
            return _run(function, rules, config, path, resume=resume, quiet=quiet)

        del run.__wrapped__  # the signature is its own
        run.rules = rules  # type: ignore[attr-defined]  # so that a stored result can be held against them
        return run

    return decorate


def _run(
    function: TrialFunction, rules: Sequence[Rule], config: Any, folder: Path, *, resume: bool, quiet: bool
) -> dict[str, Any]:
    check_kind("config", config, Record, "the experiment's settings, a Record")
    for name, value in (("resume", resume), ("quiet", quiet)):
        check_kind(name, value, bool, "True or False")
    for name, least in (("seed", 0), ("seeds", 1)):
        check_count(name, getattr(config, name, None), least)
    settings = config.to_json()
    _make(folder)
    seeds = range(config.seed, config.seed + config.seeds)
    work = _Work(function=function, rules=rules, config=config, commit=commit(), quiet=quiet)
    with Database.open(folder / DATABASE) as database:
        runs = RunStore(database)
        _require_no_strays(folder, runs)
        work.require_own(folder)
        with runs.running(folder.name, settings, resume=resume):
            write_json(folder / "config.json", settings)
            kept: list[_Kept] = []
            for number, seed in enumerate(seeds, start=1):
                found = work.kept(seed, folder / f"seed-{seed}", kept[0].trial if kept else None, resume)
                kept.append(found)
                if not quiet:
                    means = ", ".join(f"{name} {arm.mean:.3f}" for name, arm in found.trial.arms.items())
                    say(f"seed {seed} ({number} of {len(seeds)}, {found.seconds:.0f} s): {means}")
            summary = {
                **summarise(rules, [each.trial for each in kept], seeds),
                "seconds": round(sum(each.seconds for each in kept), 1),
                "config": settings,
                "commits": sorted({each.commit for each in kept if each.commit}),
            }
            write_json(folder / "summary.json", summary)
    if not quiet:
        say(text(summary))
    return summary


class _Kept(NamedTuple):
    """A trial that has finished, its seconds, and the commit that it ran with."""

    trial: Trial
    seconds: float
    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What makes the trials."""

    function: TrialFunction
    rules: Sequence[Rule]
    config: Any
    commit: str | None
    quiet: bool

    @property
    def identity(self) -> dict[str, Any]:
        """Which experiment it is, as JSON: trials are not held against rules that came after them."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        rules: list[Any] = [rule.to_json() for rule in self.rules]
        return {"name": name, "rules": rules}

    def kept(self, seed: int, folder: Path, first: Trial | None, resume: bool) -> _Kept:
        """A trial from what is stored, if it has finished; else it is run."""
        path = folder / "trial.json"
        if resume and path.is_file():
            found = _read(path)
            check_trial(self.rules, found.trial, first)
            return found
        _make(folder)
        began = time.monotonic()
        trial = self.function(self.config, seed=seed, folder=folder, quiet=self.quiet)
        took = time.monotonic() - began
        check_trial(self.rules, trial, first)
        stored = {"trial": trial.to_json(), "seconds": took, "commit": self.commit}
        write_json(path, {"experiment": self.identity, **stored})
        return _Kept(trial, took, self.commit)

    def require_own(self, folder: Path) -> None:
        """Refuses a folder with trials of another experiment, before anything is said of its run.

        Raises:
            ResumeError: naming the trial.
        """
        for path in sorted(folder.glob("seed-*/trial.json")):
            with suppress(OSError, ValueError, AttributeError):  # what is damaged is said of when it is read
                stored = json.loads(path.read_text(encoding="utf-8"))
                if stored.get("experiment", self.identity) != self.identity:
                    raise ResumeError(
                        f"{path} is a trial of another experiment, or was made for other rules",
                        remedy="choose another folder, or remove this one",
                    )


def _read(path: Path) -> _Kept:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return _Kept(Trial.from_json(stored["trial"]), float(stored["seconds"]), stored.get("commit"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise IntegrityError(f"{path} is damaged; remove it and resume: its trial runs again") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}; choose another folder") from error


def _require_no_strays(folder: Path, runs: RunStore) -> None:
    """Refuses trials and models of which nothing says with which settings they were made."""
    strays = sorted(path.name for path in folder.glob("seed-*"))
    if strays and folder.name not in [row.run for row in runs.list()]:
        raise ResumeError(
            f"{folder} has {strays[0]}, and its database knows no run {folder.name!r}",
            expected="a folder under the name it was made with",
            remedy="give it its old name, or choose another folder",
        )


def summarise(rules: Sequence[Rule], trials: Sequence[Trial], seeds: Sequence[int]) -> dict[str, Any]:
    """What the trials show, as JSON values: arms, facts, findings and the status.

    Args:
        rules: What must be shown.
        trials: One for each seed, with the same arms and facts.
        seeds: Their seeds.
    """
    found = findings(rules, trials)
    return {
        "status": status(found) if len(seeds) >= SEEDS else "runs",
        "seeds": list(seeds),
        "arms": {name: _arm(name, trials) for name in trials[0].arms},
        "facts": {name: _series([trial.facts[name] for trial in trials]) for name in trials[0].facts},
        "findings": [finding.to_json() for finding in found],
    }


def _arm(name: str, trials: Sequence[Trial]) -> dict[str, Any]:
    each = [trial.arms[name] for trial in trials]
    units = dict.fromkeys(unit for scores in each for unit in scores.spent)
    spent = {
        unit: _rounded(math.fsum(scores.spent.get(unit, 0.0) for scores in each) / len(each))
        for unit in units
    }
    return {**_series([scores.mean for scores in each]), "items": len(each[0].values), "spent": spent}


def _series(values: Sequence[float]) -> dict[str, Any]:
    known = [value for value in values if not math.isnan(value)]
    mean = _rounded(math.fsum(known) / len(known)) if known else None
    return {"mean": mean, "by_seed": [None if math.isnan(value) else _rounded(value) for value in values]}


def _rounded(value: float) -> float:
    """Six digits: enough to check a mean, and no longer than a reader wants."""
    return float(f"{value:.6g}")


def text(summary: Mapping[str, Any]) -> str:
    """A summary as a table for the terminal.

    Example:
        >>> print(text({"status": "runs", "seeds": [0], "arms": {}, "facts": {}, "findings": []}))
        runs (1 seed)
    """
    wide = max((len(name) for part in ("arms", "facts") for name in summary[part]), default=0)
    lines = []
    for part in ("arms", "facts"):
        for name, row in summary[part].items():
            seeds = " ".join("-" if value is None else f"{value:.3f}" for value in row["by_seed"])
            mean = "-" if row["mean"] is None else f"{row['mean']:.3f}"
            spent = ", ".join(f"{value:,.0f} {unit}" for unit, value in row.get("spent", {}).items())
            lines.append(f"{name:<{wide}}  {mean:>8}  by seed {seeds}" + (f"; {spent}" if spent else ""))
    for row in summary["findings"]:
        lines.append(f"{row['role']}: {row['name']} {_difference(row)}: {row['verdict']}")
    count = len(summary["seeds"])
    return "\n".join([*lines, f"{summary['status']} ({count} seed{'s' if count != 1 else ''})"])


def _difference(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "-"
    if row["interval"] is None:
        return f"{row['value']:.3f}"
    low, high = row["interval"]
    return f"{row['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
